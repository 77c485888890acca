"""Squared maximum mean discrepancy: the checks, and what users call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check
from ucmkd.ops._check import Number
from ucmkd.ops._classes import check_num_classes, class_masses, memberships
from ucmkd.ops._kernel import kernel_of
from ucmkd.ops._mmd_op import Spec, apply
from ucmkd.ops._plain import plain
from ucmkd.ops._two_samples import two_samples
from ucmkd.ops.bandwidth import RULES, bandwidth_of
from ucmkd.reference import Kernel, kernel_value

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
ESTIMATORS = ("v", "u", "linear")


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str = "gaussian",
    bandwidth: str | Number = "median",
    scales: Sequence[float] = SCALES,
    estimator: str = "v",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    x_class: Tensor | None = None,
    y_class: Tensor | None = None,
    num_classes: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    r"""Squared maximum mean discrepancy between two point clouds.

    .. math::
        \mathrm{MMD}^2 = a^\top K_{xx}a + b^\top K_{yy}b - 2a^\top K_{xy}b

    with one of the kernels, :math:`d=|x-y|_2`,

    ======================  ======================================================================
    ``gaussian``            :math:`\frac1S\sum_s\exp(-d^2/2(s\sigma)^2)`
    ``laplace``             :math:`\frac1S\sum_s\exp(-d/(s\sigma))`
    ``rational_quadratic``  :math:`\frac1S\sum_s(1+d^2/2s\sigma^2)^{-s}`: the scales are exponents
    ``energy``              :math:`-d`, no bandwidth: MMD² is the energy distance
                            :math:`2E|x-y|-E|x-x'|-E|y-y'|`
    ``polynomial``          :math:`(\gamma\langle x,y\rangle+c)^p`, no bandwidth; the defaults are
                            those of the kernel inception distance
    ======================  ======================================================================

    With classes it is the mean over the classes :math:`c` with a mass on both sides of
    :math:`\mathrm{MMD}^2(\alpha_c,\beta_c)`, each :math:`\alpha_c` (the weights times the
    memberships in :math:`c`) normalised to mass 1, and 0 without a common class. Every kernel
    value is computed once whatever the number of classes.

    Differentiable to the points, the weights, soft memberships and a ``bandwidth`` tensor. Memory
    is ``O((n + m)(d + K))`` with the Rust and Triton backends. Second derivatives
    (``create_graph=True``) come from the dense formula and take ``O(n m d)``. Where points coincide
    the energy and Laplace kernels have the gradient 0.

    Precision: float16 and bfloat16 points are taken as they are and computed in float32; the value
    comes in float32, the gradient is rounded once, to the input's type (at most its ``eps`` of the
    largest entry). In float32 the value is within 1e-5 of the largest of its three terms.

    Args:
        x: Points ``(n, d)`` or ``(B, n, d)``.
        y: Points ``(m, d)`` or ``(B, m, d)``.
        kernel: One of the names above.
        bandwidth: σ > 0 in units of the features: a number, or a tensor, 0-d or ``(B,)``, which
            receives a gradient. ``"median"``: the root of the median of the pooled off-diagonal
            squared distances, above 1024 pooled points of an evenly spaced subsample of 1024;
            ``"mean"``: the root of their mean, at no cost. Both are detached, count every point of
            positive weight alike, and are at least 1e-6, so that collapsed points give a finite
            gradient. Ignored by ``energy`` and ``polynomial``.
        scales: The factors of σ (for ``rational_quadratic`` the exponents) whose kernels are
            averaged.
        estimator: ``"v"`` (≥ 0 up to rounding), ``"u"`` (unbiased, may be negative), or
            ``"linear"``: the mean of :math:`k(x_1,x_2)+k(y_1,y_2)-k(x_1,y_2)-k(x_2,y_1)` over
            disjoint pairs of consecutive points, unbiased, in ``O(nd)``; it needs ``n = m ≥ 2`` and
            neither weights nor classes, and leaves out the last of an odd number of points.
        x_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``; a zero weight masks the point.
        y_weight: Masses of ``y``.
        x_class: Integer labels ``(n,)`` or ``(B, n)``, or soft memberships ``(n, K)`` or
            ``(B, n, K)``, floating and non-negative. Given for both clouds or for none.
        y_class: Labels or memberships of ``y``.
        num_classes: K, for integer labels in ``[0, K)``. Without it any integers are accepted and
            the distinct ones counted, which ``torch.compile`` cannot and a GPU waits for.
        degree: Of the polynomial kernel, an integer ≥ 1.
        gamma: Its factor :math:`\gamma` > 0, ``None`` for ``1/d``.
        coef: Its constant :math:`c` ≥ 0.
        backend: ``"auto"``, ``"triton"``, ``"rust"`` or ``"torch"``. The linear estimator is plain
            PyTorch with each of them.

    Returns:
        A 0-d tensor, or ``(B,)`` for batched points.

    Raises:
        TypeError: A tensor of the wrong kind.
        ValueError: Shapes, weights, labels, numbers or names that are not accepted.

    Source: Gretton et al. 2012, eq. 3, 5 and 14; several scales after Long et al. 2015; energy
    distance as MMD after Sejdinovic et al. 2013; polynomial after Binkowski et al. 2018.
    """
    check_num_classes(num_classes)
    if x_weight is None and y_weight is None and x_class is None and y_class is None:
        simple = two_samples(
            x, y, bandwidth, estimator, (kernel, scales, degree, gamma, coef), ("x", "y"),
            check_finite=False, backend=backend,
        )  # fmt: skip
        if simple is not None:
            return simple
    return run(
        x, y, kernel=kernel, bandwidth=bandwidth, scales=scales, estimator=estimator,
        weights=(x_weight, y_weight), classes=(x_class, y_class), num_classes=num_classes,
        degree=degree, gamma=gamma, coef=coef, backend=backend, names=("x", "y"), label="class",
    )  # fmt: skip


def run(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str,
    bandwidth: str | Number,
    scales: Sequence[float],
    estimator: str,
    weights: tuple[Tensor | None, Tensor | None],
    classes: tuple[Tensor | None, Tensor | None],
    num_classes: int | None,
    degree: int,
    gamma: float | None,
    coef: float,
    backend: str,
    names: tuple[str, str],
    label: str,
    paired: bool = False,
) -> Tensor:
    """:func:`mmd` for a caller whose arguments have other ``names``.

    ``paired``: the caller has checked the points.
    """
    if not paired:
        _check.pair(x, y, *names)
    _check.one_of(estimator, ESTIMATORS, "estimator")
    shape = kernel_of(kernel, scales, x.shape[-1], degree, gamma, coef)
    batch = x.shape[0] if x.dim() == 3 else 1
    dtype = _check.compute_dtype(x, y)
    sizes = (batch, x.shape[-2]), (batch, y.shape[-2])
    class_names = f"{names[0]}_{label}", f"{names[1]}_{label}"
    first, second = classes
    if (first is None) != (second is None):
        missing = class_names[0 if first is None else 1]
        raise ValueError(f"{missing} must be given too: the class-conditional MMD needs both")
    a = _check.weight(weights[0], sizes[0], f"{names[0]}_weight", x, dtype)
    b = _check.weight(weights[1], sizes[1], f"{names[1]}_weight", x, dtype)
    chosen = _backend.choose(backend, x.device, dtype)
    direct = plain(x, y, a, b, bandwidth, first, second)
    if isinstance(bandwidth, str):
        _check.one_of(bandwidth, RULES, "bandwidth")
    rule: str | Number = bandwidth if shape.has_bandwidth else 1.0
    if estimator == "linear":
        _check_linear(sizes, a, b, first, names, class_names)
        sigma = torch.as_tensor(bandwidth_of(rule, x, y, a, b, chosen, dtype, direct))
        return _linear(x.to(dtype), y.to(dtype), shape, sigma.to(x.device, dtype))
    # An array would be copied to the device, which waits for it.
    sigma = bandwidth_of(rule, x, y, a, b, chosen, dtype, direct and chosen != "triton")
    if first is not None and second is not None:
        pair = memberships(first, second, num_classes, sizes, class_names, x, dtype)
        a, b = class_masses(*pair, *(None if w is None else w.to(dtype) for w in (a, b)))
    return apply(x, y, a, b, sigma, Spec(shape, estimator == "u", chosen), dtype, direct)


def _check_linear(
    sizes: tuple[tuple[int, int], tuple[int, int]],
    a: Tensor | None,
    b: Tensor | None,
    first: Tensor | None,
    names: tuple[str, str],
    class_names: tuple[str, str],
) -> None:
    n, m = sizes[0][1], sizes[1][1]
    if n != m or n < 2:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same number of points, 2 or more, with "
            f"estimator='linear'; got {n} and {m}"
        )
    for weight, name in ((a, names[0]), (b, names[1])):
        if weight is not None:
            raise ValueError(f"{name}_weight must be None with estimator='linear'")
    if first is not None:
        raise ValueError(
            f"{class_names[0]} and {class_names[1]} must be None with estimator='linear'"
        )


def _linear(x: Tensor, y: Tensor, kernel: Kernel, sigma: Tensor) -> Tensor:
    """Gretton et al. 2012, eq. 14, in plain PyTorch."""
    count = x.shape[-2] // 2 * 2
    (x1, x2), (y1, y2) = ((p[..., 0:count:2, :], p[..., 1:count:2, :]) for p in (x, y))
    if x.dim() == 2:
        sigma = sigma.reshape(())
    elif sigma.dim():
        sigma = sigma.unsqueeze(-1)

    def value(p: Tensor, q: Tensor) -> Tensor:
        terms = (p - q).square() if kernel.invariant else p * q
        return kernel_value(kernel, terms.sum(-1), sigma)

    return (value(x1, x2) + value(y1, y2) - value(x1, y2) - value(x2, y1)).mean(-1)
