"""MMD of two clouds and nothing else, on the Rust backend: the call of a training loop.

The counterpart of :mod:`ucmkd.ops._two_clouds`: few questions, and a node that holds only the
points.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check
from ucmkd.ops._mmd_op import Flag, Spec, _again
from ucmkd.ops._plain import tracked
from ucmkd.ops._two_clouds import readable, scaled
from ucmkd.ops.bandwidth import bandwidth_of
from ucmkd.reference import Kernel

#: Types of a bandwidth without a gradient, and of the options of a kernel.
_BANDWIDTH = frozenset((float, int, str))
_OPTION = frozenset((float, int, str, tuple, type(None)))
_ESTIMATOR = {"v": 0, "u": int(Flag.UNBIASED)}


class _Rules(NamedTuple):
    kernel: Kernel
    unbiased: int
    sigma: NDArray[np.float64]
    finite: tuple[str, str] | None  # names of the points in the error of a NaN


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rules: _Rules, x: Tensor, y: Tensor) -> Tensor:
        _, want_x, want_y = ctx.needs_input_grad
        kernel, rust = rules.kernel, _backend.rust()
        left, right = x.detach().numpy(), y.detach().numpy()
        if rules.finite is not None and not (rust.is_finite(left) and rust.is_finite(right)):
            for points, name in zip((x, y), rules.finite, strict=True):
                _check.finite(points, name)
        found = rust.mmd(
            left[None], right[None], None, None, rules.sigma,
            kernel.name, kernel.scales, (kernel.degree, kernel.gamma, kernel.coef),
            rules.unbiased | 2 * want_x | 4 * want_y, torch.get_num_threads(),
        )  # fmt: skip
        ctx.rules, ctx.found = rules, found
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tracked(x, y))
        result: Tensor = torch.from_numpy(found[0].reshape(()))
        return result

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_value is None:
            return None, None, None
        _, want_x, want_y = ctx.needs_input_grad
        rules = ctx.rules
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, None, None, None)
            spec = Spec(rules.kernel, bool(rules.unbiased), "rust")
            wanted = (want_x, want_y, False, False, False)
            return (None, *_again(inputs, wanted, rules.sigma, spec, grad_value)[:2])
        _, grad_x, grad_y, *_ = ctx.found
        factor = grad_value.numpy()
        return (
            None,
            scaled(grad_x[0], factor) if want_x else None,
            scaled(grad_y[0], factor) if want_y else None,
        )


@functools.lru_cache(maxsize=128, typed=True)
def _kernel(
    name: str,
    scales: tuple[float, ...],
    width: int,
    degree: int,
    gamma: float | None,
    coef: float,
) -> Kernel:
    """A checked kernel: a training loop comes with the same options at every step."""
    from ucmkd.ops.mmd import kernel_of  # which builds on this module

    return kernel_of(name, scales, width, degree, gamma, coef)


def two_samples(
    x: Any,
    y: Any,
    bandwidth: Any,
    estimator: object,
    options: tuple[Any, Any, Any, Any, Any],
    names: tuple[str, str],
    *,
    check_finite: bool,
    backend: str,
) -> Tensor | None:
    """The value, or None where it is not that simple.

    ``options`` are the name of the kernel, scales, degree, gamma and coef. Whatever is wrong with
    the points is left to the general path.
    """
    if (
        torch.compiler.is_compiling()
        or type(bandwidth) not in _BANDWIDTH
        or not isinstance(estimator, str)
        or estimator not in _ESTIMATOR
        or type(options[1]) is not tuple
        or not _OPTION.issuperset(map(type, options))
        or not readable(x, y)
        or not _backend.has_rust()
        or (backend != "rust" and _backend.choose(backend, x.device, x.dtype) != "rust")
    ):
        return None
    name, scales, degree, gamma, coef = options
    kernel = _kernel(name, scales, x.shape[1], degree, gamma, coef)
    if kernel.has_bandwidth:
        sigma = bandwidth_of(bandwidth, x, y, None, None, "rust", x.dtype, True)
        if isinstance(sigma, Tensor):
            sigma = sigma.to(torch.float64).numpy()
    else:
        if isinstance(bandwidth, str):
            return None  # which may be the name of no rule
        sigma = np.ones(1)
    rules = _Rules(kernel, _ESTIMATOR[estimator], sigma, names if check_finite else None)
    value: Tensor = _Node.apply(rules, x, y)
    return value
