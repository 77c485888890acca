r"""Sinkhorn between point clouds: ``ucmkd.ops.sinkhorn`` and the operator ``ucmkd::sinkhorn``.

The operator solves the batch *and* emits the envelope gradient to the points in the same call,
while the kernel is still at hand; its backward only multiplies. The dual value, at the returned
potentials, has the derivatives (:mod:`ucmkd.reference` has the notation)

.. math::
    \partial_{x_i} = \sum_j P_{ij}\,\partial_{x_i} c(x_i,y_j),\quad
    \partial_{a_i} = \varphi_x(f_i) - \varepsilon (r_i - m_b),\quad
    \partial_\varepsilon = \mathrm{KL}(P|a\otimes b),\quad
    \partial_{\rho_x} = \mathrm{KL}(a e^{-f/\rho_x}|a),\quad
    \partial_\lambda = \sum_{ij} P_{ij}[k_i\neq l_j].
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._once import once
from ucmkd.ops._scale import scale as scale_by


class Flag(IntFlag):
    """Options of the operator, in one integer: each argument costs time at every call."""

    RELATIVE = 1  # ε, ρ and the label cost are in units of the mean feature cost
    X = 2  # emit the gradient to x
    Y = 4  # emit the gradient to y
    ACCELERATE = 8


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


def _numpy(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().contiguous().numpy()


@torch.library.custom_op("ucmkd::sinkhorn", mutates_args=())
def sinkhorn_op(
    x: Tensor,
    y: Tensor | None,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    x_label: Tensor | None,
    y_label: Tensor | None,
    start: Tensor | None,
    parameters: Tensor,
    cost: str,
    tol: float,
    max_iter: int,
    flags: int,
    backend: str,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    """The solve; ``y=None`` is the symmetric self-term. Fields as in ``reference.Solution``.

    ``start`` is the y-potential to begin from (the only one of a self-term); ``parameters``
    holds ε, ρ_x, ρ_y and the label cost in its rows ``(4, B)``; ``flags`` are :class:`Flag`.
    """
    relative, want_x, want_y = (bool(flags & f) for f in (Flag.RELATIVE, Flag.X, Flag.Y))
    if backend == "rust":
        start_numpy = _numpy(start)
        out = _backend.rust().sinkhorn(
            _numpy(x),
            _numpy(y),
            _numpy(x_weight),
            _numpy(y_weight),
            _numpy(x_label),
            _numpy(y_label),
            start_numpy if y is None else None,
            None if y is None else start_numpy,
            *_numpy(parameters),
            cost,
            relative,
            tol,
            max_iter,
            want_x,
            want_y,
            bool(flags & Flag.ACCELERATE),
            torch.get_num_threads(),
        )
        tensors = [torch.from_numpy(array) for array in out]
        for i in (0, 4, 6, 9, 10):  # per-problem numbers come in float64
            tensors[i] = tensors[i].to(x.dtype)
        return tuple(tensors)  # type: ignore[return-value]
    batch, n, _ = x.shape
    other = x if y is None else y
    m = other.shape[1]
    a = x.new_full((batch, n), 1 / n) if x_weight is None else x_weight
    b = x.new_full((batch, m), 1 / m) if y_weight is None else y_weight
    if y is None:
        b = a
    if start is not None:
        start = torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0)
    epsilon, reach_x, reach_y, label_cost = parameters.to(x.dtype)
    keywords: dict[str, Any] = dict(
        epsilon=epsilon,
        cost=cost,
        reach_x=reach_x,
        reach_y=reach_y,
        x_label=x_label,
        y_label=y_label,
        label_cost=label_cost,
        g0=start,
        relative=relative,
        tol=tol,
        max_iter=max_iter,
        want_x=want_x,
        want_y=want_y,
    )
    with torch.no_grad():
        if backend == "triton":
            from ucmkd.ops import _triton

            return tuple(_triton.solve(x, y, a, b, **keywords))  # type: ignore[return-value]
        return tuple(reference.sinkhorn(x, y, a, b, **keywords))  # type: ignore[return-value]


@sinkhorn_op.register_fake
def _(  # type: ignore[no-untyped-def]
    x, y, x_weight, y_weight, x_label, y_label, start, parameters, cost, tol, max_iter, flags,
    backend,
):  # fmt: skip
    want_x, want_y = bool(flags & Flag.X), bool(flags & Flag.Y)
    batch, n = x.shape[0], x.shape[1]
    m = n if y is None else y.shape[1]

    def problem(dtype: torch.dtype = x.dtype) -> Tensor:
        return x.new_empty((batch,), dtype=dtype)

    return (
        problem(),
        x.new_empty((batch, n)),
        x.new_empty((batch, m)),
        problem(torch.int64),
        problem(),
        problem(torch.bool),
        problem(),
        x.new_empty((batch, n)),
        x.new_empty((batch, m)),
        problem(),
        problem(),
        torch.empty_like(x, memory_format=torch.contiguous_format) if want_x else x.new_empty(0),
        torch.empty_like(y, memory_format=torch.contiguous_format)
        if want_y and y is not None
        else x.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, y, a, b, _, _, _, parameters = inputs[:8]
    _, f, g, _, _, _, scale, row, column, transport, mismatch, gx, gy = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.symmetric = y is None
    ctx.save_for_backward(f, g, scale, row, column, transport, mismatch, gx, gy, a, b, parameters)


def _reach_gradient(weight: Tensor, potential: Tensor, reach: Tensor) -> Tensor:
    """KL(a e^{-f/ρ} | a), the derivative of the dual in ρ; 0 for a strict marginal."""
    strict = torch.isinf(reach)
    ratio = potential / torch.where(strict, 1.0, reach).unsqueeze(-1)
    terms = -torch.expm1(-ratio) - ratio * torch.exp(-ratio)
    return torch.where(strict, 0.0, (weight * terms).sum(-1))


def _backward(ctx: Any, grad_value: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    none: list[Tensor | None] = [None] * 13
    if grad_value is None:
        return tuple(none)
    f, g, scale, row, column, transport, mismatch, gx, gy, a, b, parameters = ctx.saved_tensors
    need = ctx.needs_input_grad
    if need[0]:
        if gx.numel() == 0:
            raise RuntimeError("ucmkd::sinkhorn was run without Flag.X, and x needs a gradient")
        none[0] = scale_by(gx, grad_value)
    if need[1]:
        if gy.numel() == 0:
            raise RuntimeError("ucmkd::sinkhorn was run without Flag.Y, and y needs a gradient")
        none[1] = scale_by(gy, grad_value)
    if not (need[2] or need[3] or need[7]):
        return tuple(g if g is None else once(g) for g in none)
    gv = grad_value.double()
    f, g, row, column, scale = (t.double() for t in (f, g, row, column, scale))
    a_ = torch.full_like(f, 1 / f.shape[-1]) if a is None else a.double()
    b_ = a_ if ctx.symmetric else (torch.full_like(g, 1 / g.shape[-1]) if b is None else b.double())
    eps, rho_x, rho_y, _ = parameters * scale
    if ctx.symmetric:
        rho_y = rho_x
    mass_a, mass_b = a_.sum(-1, keepdim=True), b_.sum(-1, keepdim=True)
    if need[2] and a is not None:
        grad = reference.dual_term(f, rho_x) - eps.unsqueeze(-1) * (row - mass_b)
        grad = 2 * grad if ctx.symmetric else grad
        none[2] = (gv.unsqueeze(-1) * grad).to(a.dtype)
    if need[3] and b is not None and not ctx.symmetric:
        grad = reference.dual_term(g, rho_y) - eps.unsqueeze(-1) * (column - mass_a)
        none[3] = (gv.unsqueeze(-1) * grad).to(b.dtype)
    if need[7]:
        rows, columns = a_ * row, b_ * column
        entropy = ((rows * f).sum(-1) + (columns * g).sum(-1) - transport.double()) / eps
        entropy = entropy - rows.sum(-1) + (mass_a * mass_b).squeeze(-1)
        reach = [_reach_gradient(a_, f, rho_x), _reach_gradient(b_, g, rho_y)]
        if ctx.symmetric:  # only ρ_x is read
            reach = [reach[0] + reach[1], torch.zeros_like(reach[1])]
        none[7] = gv * scale * torch.stack([entropy, *reach, mismatch.double()])
    return tuple(g if g is None else once(g) for g in none)


sinkhorn_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    sinkhorn_op.register_autocast(_device, torch.float32)


class Prepared(NamedTuple):
    """Checked inputs of one problem, batched and in the type of the computation."""

    x: Tensor
    y: Tensor
    x_weight: Tensor | None
    y_weight: Tensor | None
    x_label: Tensor | None
    y_label: Tensor | None
    start: Tensor | None
    parameters: Tensor
    single: bool


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
    _check.one_of(cost, reference.COSTS, "cost")
    _check.stopping(tol, max_iter)
    single = x.dim() == 2
    if single:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    batch, n, _ = x.shape
    m = y.shape[1]
    dtype = _check.compute_dtype(x, y)
    a = _check.weight(x_weight, (batch, n), f"{x_name}_weight", x)
    b = _check.weight(y_weight, (batch, m), f"{y_name}_weight", x)
    k = _check.label(x_label, (batch, n), f"{x_name}_label", x)
    l = _check.label(y_label, (batch, m), f"{y_name}_label", x)  # noqa: E741
    if (k is None) != (l is None):
        missing = f"{x_name}_label" if k is None else f"{y_name}_label"
        raise ValueError(f"{missing} must be given too: the label cost needs both sides' labels")
    lam = _check.number(label_cost, "label_cost", x, batch, minimum=0.0, strict=False)
    if k is None and not (isinstance(label_cost, (int, float)) and label_cost == 0):
        raise ValueError(
            f"label_cost={label_cost} needs {x_name}_label and {y_name}_label; got neither"
        )
    eps = _check.number(epsilon, "epsilon", x, batch, minimum=0.0, strict=True)
    rho = _check.reaches(reach, x, batch)
    _check.equal_mass(reach, a, b, f"{x_name}_weight", f"{y_name}_weight")
    _check.potential(x_potential, (batch, n), "x_potential", x, dtype)
    start = _check.potential(y_potential, (batch, m), "y_potential", x, dtype)
    return Prepared(
        x.to(dtype),
        y.to(dtype),
        None if a is None else a.to(dtype),
        None if b is None else b.to(dtype),
        k,
        l,
        start,
        _check.pack([eps, *rho, lam], x, batch),
        single,
    )


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
    """Runs the operator on checked inputs."""
    grad = torch.is_grad_enabled()
    flags = (
        Flag.RELATIVE * relative
        | Flag.X * (grad and p.x.requires_grad)
        | Flag.Y * (grad and p.y.requires_grad)
        | Flag.ACCELERATE * accelerate
    )
    return reference.Solution(
        *sinkhorn_op(
            p.x, p.y, p.x_weight, p.y_weight, p.x_label, p.y_label, p.start, p.parameters, cost,
            float(tol), int(max_iter), int(flags), backend,
        )
    )  # fmt: skip


def run_self(
    x: Tensor,
    weight: Tensor | None,
    label: Tensor | None,
    parameters: Tensor,
    *,
    cost: str,
    tol: float,
    max_iter: int,
    backend: str,
    accelerate: bool = True,
) -> reference.Solution:
    """The self-term OT(α, α) at absolute ``parameters (4, B)``, of which ρ_y is not read."""
    want = torch.is_grad_enabled() and x.requires_grad
    flags = int(Flag.X * want | Flag.ACCELERATE * accelerate)
    return reference.Solution(
        *sinkhorn_op(
            x, None, weight, None, label, None, None, parameters, cost, float(tol), int(max_iter),
            flags, backend,
        )
    )  # fmt: skip


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
    backend: str = "auto",
) -> SinkhornOutput:
    r"""Entropic optimal transport between two point clouds.

    .. math::
        \mathrm{OT}_\varepsilon = \min_P \langle P, C\rangle
        + \varepsilon\,\mathrm{KL}(P|a\otimes b)
        + \rho_x \mathrm{KL}(P1|a) + \rho_y \mathrm{KL}(P^\top 1|b), \qquad
        C_{ij} = c(x_i, y_j) + \lambda\,[k_i \neq l_j]

    with the full cost (no ½) and ε in its units. The value is differentiable to the points, the
    weights, ``epsilon``, ``reach`` and ``label_cost`` (envelope theorem; once, not twice).

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
        label_cost: λ ≥ 0, added to the cost where the labels differ.
        x_potential: Warm start; checked, but not needed: the first half-step computes it from
            ``y_potential``.
        y_potential: Warm start; one so large that it would drown the cost in rounding error is
            not used.
        tol: Stop when the residual (see :class:`SinkhornOutput`) is at most this.
        max_iter: Most iterations; a solve that ran out says ``converged=False``.
        accelerate: Anderson acceleration, where the backend has it (it changes the number of
            iterations, not the solution).
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
    p = prepare(
        x, y, epsilon=epsilon, cost=cost, x_weight=x_weight, y_weight=y_weight, reach=reach,
        x_label=x_label, y_label=y_label, label_cost=label_cost, x_potential=x_potential,
        y_potential=y_potential, tol=tol, max_iter=max_iter, names=("x", "y"),
    )  # fmt: skip
    chosen = _backend.choose(backend, p.x.device, p.x.dtype)
    s = run(
        p, cost=cost, relative=False, tol=tol, max_iter=max_iter, backend=chosen,
        accelerate=accelerate,
    )  # fmt: skip
    output = SinkhornOutput(*s[:6])
    return SinkhornOutput(*(t.squeeze(0) for t in output)) if p.single else output
