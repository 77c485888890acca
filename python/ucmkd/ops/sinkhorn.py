"""Sinkhorn between point clouds: the checks, and what users call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check, _transforms
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._pack import pack
from ucmkd.ops._plain import plain, transformed
from ucmkd.ops._scale import cast
from ucmkd.ops._sinkhorn_op import sinkhorn_op
from ucmkd.ops._solve import Flag, narrow
from ucmkd.ops._sum import Sum, total
from ucmkd.ops._two_clouds import SIMPLE, checked, two_clouds


class SinkhornOutput(NamedTuple):
    """What a solve reports; tensors without the batch dimension for a single problem.

    ``value`` is differentiable; the potentials are detached (a warm start, a plan, a picture).
    ``residual`` is the L1 violation of the y-marginal relative to its mass, when the x-marginal
    holds exactly; ``converged`` says whether it reached ``tol``.
    """

    value: Tensor
    x_potential: Tensor
    y_potential: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor


class Prepared(NamedTuple):
    """Checked inputs of one problem, in the type of the computation; all but ``given`` batched."""

    given: tuple[Tensor, Tensor]  # x and y, without a batch dimension in a single problem
    x_weight: Tensor | None
    y_weight: Tensor | None
    x_label: Tensor | None
    y_label: Tensor | None
    distance: Tensor | None
    start: Tensor | None
    parameters: Tensor
    even: bool  # both sides have the same reach
    balanced: bool  # no weights, or both marginals strict: the masses agree
    single: bool
    narrow: int  # the flag of the 16-bit type in which both clouds came, or 0

    @property
    def x(self) -> Tensor:
        """``(B, n, d)``."""
        return self.given[0].unsqueeze(0) if self.single else self.given[0]

    @property
    def y(self) -> Tensor:
        """``(B, m, d)``."""
        return self.given[1].unsqueeze(0) if self.single else self.given[1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the computation."""
        return self.given[0].dtype

    @property
    def device(self) -> torch.device:
        """Where it takes place."""
        return self.given[0].device


def prepare(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Number,
    cost: str,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    reach: Reach,
    x_label: Tensor | None,
    y_label: Tensor | None,
    label_cost: Number,
    x_potential: Tensor | None,
    y_potential: Tensor | None,
    tol: float,
    max_iter: int,
    names: tuple[str, str],
) -> Prepared:
    """Checks every argument before any work; ``names``: what the caller calls ``x``, ``y``."""
    x_name, y_name = names
    _check.pair(x, y, x_name, y_name)
    bare = x_weight is y_weight is x_label is y_label is x_potential is y_potential is None
    if bare and x.dim() == 2 and x.device.type == "cpu" and plain(x, y):
        options = (epsilon, cost, reach, label_cost, tol, max_iter)
        if SIMPLE.issuperset(map(type, options)):
            dtype = _check.compute_dtype(x, y)
            return _prepare_bare(x, y, dtype, *checked(*options, names, dtype))
    _check.one_of(cost, reference.COSTS, "cost")
    _check.stopping(tol, max_iter)
    single = x.dim() == 2
    batch, n, m = 1 if single else x.shape[0], x.shape[-2], y.shape[-2]
    dtype = _check.compute_dtype(x, y)
    a = _check.weight(x_weight, (batch, n), f"{x_name}_weight", x, dtype)
    b = _check.weight(y_weight, (batch, m), f"{y_name}_weight", x, dtype)
    k = _check.label(x_label, (batch, n), f"{x_name}_label", x)
    l = _check.label(y_label, (batch, m), f"{y_name}_label", x)  # noqa: E741
    if (k is None) != (l is None):
        missing = f"{x_name}_label" if k is None else f"{y_name}_label"
        raise ValueError(f"{missing} must be given too: the label cost needs both sides' labels")
    lam, distance = _check.label_cost(label_cost, k, l, x, batch, names, dtype)
    eps = _check.number(epsilon, "epsilon", x, batch, minimum=0.0, strict=True, dtype=dtype)
    rho = _check.reaches(reach, x, batch, dtype)
    _check.equal_mass(reach, a, b, f"{x_name}_weight", f"{y_name}_weight")
    _check.potential(x_potential, (batch, n), "x_potential", x, dtype)
    start = _check.potential(y_potential, (batch, m), "y_potential", x, dtype)
    given = (x.to(dtype), y.to(dtype))
    return Prepared(
        given,
        None if a is None else cast(a, dtype),
        None if b is None else cast(b, dtype),
        k,
        l,
        None if distance is None else distance.to(dtype),
        start,
        pack([eps, *rho, lam], x, batch),
        _same(*rho),
        (a is None and b is None) or all(not isinstance(r, Tensor) and r == math.inf for r in rho),
        single,
        narrow(x, y),
    )


def _same(first: Number, second: Number) -> bool:
    """Two numbers that are equal, or one tensor: of two tensors, only their data could tell."""
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return first is second
    return first == second


def _prepare_bare(
    x: Tensor, y: Tensor, dtype: torch.dtype, array: NDArray[np.float64], strict: bool
) -> Prepared:
    """Points without weights, labels or a start: nothing else depends on the data."""
    given = (x if x.dtype is dtype else x.to(dtype), y if y.dtype is dtype else y.to(dtype))
    return Prepared(
        given, None, None, None, None, None, None,
        # A tensor of its own: one made in inference mode would be of no use afterwards.
        torch.from_numpy(array), True, True, True, narrow(x, y),
    )  # fmt: skip


def run(
    p: Prepared,
    *,
    cost: str,
    relative: bool,
    tol: float,
    max_iter: int,
    backend: str,
    accelerate: bool = True,
) -> reference.Solution:
    """Runs the operator on checked inputs, through the dispatcher."""
    grad, (x, y) = torch.is_grad_enabled(), p.given
    flags = (
        Flag.RELATIVE * relative
        | Flag.X * (grad and x.requires_grad)
        | Flag.Y * (grad and y.requires_grad)
        | Flag.DISTANCE * (grad and p.distance is not None and p.distance.requires_grad)
        | Flag.ACCELERATE * accelerate
        | p.narrow
    )
    return _dispatched(
        p.x, p.y, p.x_weight, p.y_weight, p.x_label, p.y_label, p.distance, p.start,
        p.parameters, cost, float(tol), int(max_iter), flags=int(flags), backend=backend,
    )  # fmt: skip


def _dispatched(*args: Any, flags: int, backend: str) -> reference.Solution:
    """The operator, or what stands for it inside ``torch.func``."""
    if transformed():
        return _transforms.sinkhorn(*args, flags=flags, backend=backend)
    return reference.Solution(*sinkhorn_op(*args, flags, backend))


def run_self(
    x: Tensor,
    weight: Tensor | None,
    label: Tensor | None,
    distance: Tensor | None,
    parameters: Tensor,
    *,
    cost: str,
    tol: float,
    max_iter: int,
    backend: str,
    accelerate: bool = True,
    narrow: int = 0,
) -> reference.Solution:
    """The self-term OT(α, α) at absolute ``parameters (4, B)``, of which ρ_y is not read.

    ``narrow`` is that of the :class:`Prepared` points.
    """
    grad = torch.is_grad_enabled()
    flags = (
        Flag.X * (grad and x.requires_grad)
        | Flag.DISTANCE * (grad and distance is not None and distance.requires_grad)
        | Flag.ACCELERATE * accelerate
        | narrow
    )
    return _dispatched(
        x, None, weight, None, label, None, distance, None, parameters, cost, float(tol),
        int(max_iter), flags=int(flags), backend=backend,
    )  # fmt: skip


def is_plain(p: Prepared) -> bool:
    """Whether these inputs can do without the dispatcher."""
    return plain(*p.given, p.x_weight, p.y_weight, p.parameters, p.distance)


def eager(
    p: Prepared,
    *,
    cost: str,
    relative: bool,
    debias: bool,
    tol: float,
    max_iter: int,
    backend: str,
    accelerate: bool = True,
    finite: tuple[str, str] | None = None,
    own_start: Tensor | None = None,
    known: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Sum]:
    """The value of plain inputs, 0-d for a single problem, and the solutions behind it.

    ``finite`` are the names of x and y in the error that a NaN or infinity in them raises (None:
    no check). ``own_start`` is the start of the self-term of x, ``known`` the value of that of y.
    """
    job = Sum(
        (p.x_label, p.y_label), (p.start, own_start, None), cost=cost, relative=relative,
        tol=float(tol), max_iter=int(max_iter), accelerate=accelerate, debias=debias,
        even=p.even, single=p.single, narrow=p.narrow, finite=finite,
        known=known, backend=backend,
    )  # fmt: skip
    return total(job, *p.given, p.x_weight, p.y_weight, p.parameters, p.distance), job


def sinkhorn(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: Number,
    cost: str = "sqeuclidean",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Reach = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Number = 0.0,
    x_potential: Tensor | None = None,
    y_potential: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    accelerate: bool = True,
    epsilon_schedule: float | None = None,
    backend: str = "auto",
) -> SinkhornOutput:
    r"""Entropic optimal transport between two point clouds.

    .. math::
        \mathrm{OT}_\varepsilon = \min_P \langle P, C\rangle
        + \varepsilon\,\mathrm{KL}(P|a\otimes b)
        + \rho_x \mathrm{KL}(P1|a) + \rho_y \mathrm{KL}(P^\top 1|b), \qquad
        C_{ij} = c(x_i, y_j) + \lambda\,[k_i \neq l_j] \quad\text{or}\quad c(x_i, y_j) + D_{k_il_j}

    with the full cost (no ½) and ε in its units. The value is differentiable to the points, the
    weights, ``epsilon``, ``reach`` and ``label_cost`` by the envelope theorem, and a second time
    by implicit differentiation (``create_graph=True``), which holds n × m matrices in float64. On
    the Triton backend the second derivatives to points alone, for the costs ``sqeuclidean`` and
    ``cosine``, are streamed in float32 where such a matrix would have more than 64 MiB: in
    O((n + m) d) memory, and NaN in a problem whose linear system did not converge, which ε far
    below the cost may cause.

    Float32 problems whose ε is below about 1e-5 mean costs (clouds far apart, mostly) are solved in
    float64 on the CPU: the potentials are as large as the costs, and a float32 does not hold them
    to a fraction of ε. The results are float32 all the same, and so the potentials have no plan:
    :func:`ucmkd.ops.transport_plan` does. A derivative to a weight or a parameter that is too large
    for the type of it, as to the weight of a masked point that would take in what the other side
    must get rid of, :math:`\rho e^{-f/\rho}`, is the largest number of float32 or float64.

    Args:
        x: Points ``(n, d)`` or ``(B, n, d)``.
        y: Points ``(m, d)`` or ``(B, m, d)``.
        epsilon: Regularisation ε > 0, absolute; a number or a 0-d tensor.
        cost: ``"sqeuclidean"``, ``"euclidean"``, ``"cosine"``, ``"l1"`` or ``"chordal"``
            (:func:`ucmkd.reference.cost_matrix`).
        x_weight: Masses ``(n,)`` or ``(B, n)``, default ``1/n``. A zero weight masks the point.
        y_weight: Masses of ``y``.
        reach: ρ, the price of leaving a marginal: a number, a pair ``(ρ_x, ρ_y)``, or None for a
            strict marginal (also inside the pair).
        x_label: Integer labels ``(n,)`` or ``(B, n)``.
        y_label: Labels of ``y``.
        label_cost: λ ≥ 0, added to the cost where the labels differ; or a class-distance matrix
            D ``(K, L)``, whose entry of the two labels (which must lie in ``0..K-1`` and
            ``0..L-1``) is added.
        x_potential: Warm start; checked, but not needed: the first half-step computes it from
            ``y_potential``.
        y_potential: Warm start; one so large that it would drown the cost in rounding error is
            not used.
        tol: Stop when the residual (see :class:`SinkhornOutput`) is at most this.
        max_iter: Most iterations; a solve that ran out says ``converged=False``.
        accelerate: Anderson acceleration, where the backend has it (it changes the number of
            iterations, not the solution).
        epsilon_schedule: Ratio in (0, 1): solve first at larger ε, from the mean cost downwards
            by this ratio, each solve the start of the next (``iterations`` counts them all). It
            pays below about 0.005 mean costs (:mod:`ucmkd.ops.schedule`). Not used inside
            ``torch.compile``.
        backend: ``"auto"``, ``"triton"``, ``"rust"`` or ``"torch"``.

    Returns:
        A :class:`SinkhornOutput`. Balanced potentials are defined up to a constant; the one
        returned has :math:`\langle a,f\rangle/m_a=\langle b,g\rangle/m_b`.

    Raises:
        TypeError: A tensor of the wrong kind.
        ValueError: Shapes, weights, masses (which must agree where ``reach`` is None), ε, or
            names that are not accepted.

    Source: Cuturi 2013; Sejourne, Feydy, Vialard, Trouve, Peyre 2019 (arXiv 1910.12958).
    """
    if (
        x_weight is y_weight is x_label is y_label is x_potential is y_potential is None
        and epsilon_schedule is None
    ):
        simple = two_clouds(
            x, y, (epsilon, cost, reach, label_cost, tol, max_iter), ("x", "y"), relative=False,
            debias=False, accelerate=accelerate, check_finite=False, backend=backend,
        )  # fmt: skip
        if simple is not None:
            value, call = simple
            return SinkhornOutput(value, *call.report())
    p = prepare(
        x, y, epsilon=epsilon, cost=cost, x_weight=x_weight, y_weight=y_weight, reach=reach,
        x_label=x_label, y_label=y_label, label_cost=label_cost, x_potential=x_potential,
        y_potential=y_potential, tol=tol, max_iter=max_iter, names=("x", "y"),
    )  # fmt: skip
    chosen = _backend.choose(backend, p.device, p.dtype)
    options: dict[str, Any] = dict(
        cost=cost, relative=False, tol=tol, max_iter=max_iter, backend=chosen, accelerate=accelerate
    )
    staged: Tensor | None = None
    if epsilon_schedule is not None:
        from ucmkd.ops.schedule import scheduled_start  # which runs this operator

        start, staged = scheduled_start(p, ratio=epsilon_schedule, **options)
        p = p._replace(start=start)
    if is_plain(p):
        value, job = eager(p, debias=False, **options)
        reported = job.report()
        if reported is not None:
            f, g, iterations, residual, converged = reported
            if staged is not None:
                iterations = iterations + (staged[0] if p.single else staged)
            return SinkhornOutput(value, f, g, iterations, residual, converged)
        solution = job.solution(0)
    else:
        solution = run(p, **options)
        value = solution.value.to(p.dtype)
        value = value[0] if p.single else value
    iterations = solution.iterations if staged is None else solution.iterations + staged
    rest = (
        # Copies: the backward reads its own, whatever the caller does to these in place.
        solution.x_potential.clone(), solution.y_potential.clone(), iterations,
        solution.residual.to(p.dtype), solution.converged,
    )  # fmt: skip
    return SinkhornOutput(value, *(t[0] for t in rest) if p.single else rest)
