"""What one training step of the Sinkhorn loss leaves to the next."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops._sinkhorn_op import sinkhorn_op
from ucmkd.ops._solve import Flag, as_tensor, as_tensors
from ucmkd.ops._solve import solve as solve_one
from ucmkd.ops.bank import PointBank
from ucmkd.ops.divergence import check_clouds, mass_gap, sharp_term
from ucmkd.ops.schedule import scheduled_start
from ucmkd.ops.sinkhorn import Prepared, eager, is_plain, run
from ucmkd.ops.teachers import Teacher, Teachers, distance
from ucmkd.reference import Solution

#: The student counts as the same points, moved, while the mean squared move is below this part
#: of the mean squared distance of two of its points (1 would be points drawn anew).
SAME_POINTS = 0.2


class Iterations(NamedTuple):
    """Solver iterations of the last call, ``(B,)`` or 0 where nothing was solved."""

    cross: Tensor | int
    student: Tensor | int
    teacher: Tensor | int


class SinkhornState:
    r"""Memory of a Sinkhorn loss between calls: what need not be computed again.

    Give the same object to every call of one loss: ``sinkhorn_align(s, t, state=state)``. It
    remembers

    - for each of the last eight teacher minibatches its self-term
      :math:`\mathrm{OT}(\beta,\beta)`. It is used again only for features, weights and labels
      that are *equal entry by entry* to the copy kept here (one read of both, 10 to 20 µs for
      256 x 128, so that no change in place goes unnoticed) and the same options. At fixed
      parameters the value is the stored one, bit for bit; with ``epsilon_scale="mean"``, where ε
      drifts with the student, it is interpolated between solved points where concavity bounds
      the error by ``1e-2 tol`` (:mod:`ucmkd.ops.frozen`), or solved again from the last potential;
    - the potentials of the cross term with each teacher and of the student's self-term, as the
      start of the next solve, while the student's points have moved little since (in the mean by
      less than a fifth of what drawing them anew would);
    - with ``bank=N``, the last ``N`` student points with their potentials, from which a
      minibatch of other points gets its start, :math:`g(y)=\mathrm{softmin}` over them
      (:func:`ucmkd.ops.extend_potential`).

    No memory changes a converged result beyond ``tol``. When shapes, dtype, device or options
    change, what no longer fits is dropped silently. Features with NaN, and solves that end in
    one, are never stored. Inside ``torch.compile`` the state is neither read nor written.
    It can be pickled (for a bit-equal resume, save it with the checkpoint) and copied; use one
    object per loss and process. On a GPU each call synchronises with the host.

    Measured (n = 256, d = 128, ten classes, ``tol=1e-3``; iterations of the cross term at ε of
    0.05 and 0.01 mean costs): cold 30 and 90; teacher fixed and student drifting by 1 % of its
    spread 6 and 16. A tenth of both minibatches replaced at every step, with a bank of one
    minibatch: 16 in place of 29, and 47 in place of 125; more of the past is no better.
    Minibatches drawn independently gain nothing from a bank (their potentials
    differ by the sampling of the classes), and its softmin costs as much as several iterations:
    therefore ``bank=0`` is the default.

    Args:
        bank: Points to keep for minibatches that change in part; 0 for none.

    Attributes:
        iterations: Solver iterations of the last call: ``(cross, student, teacher)``.
    """

    def __init__(self, *, bank: int = 0) -> None:
        if isinstance(bank, bool) or not isinstance(bank, int) or bank < 0:
            raise ValueError(f"bank must be an integer >= 0; got {bank!r}")
        self._bank = PointBank(bank)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._bank.clear()
        self.iterations = Iterations(0, 0, 0)
        self._teachers = Teachers()
        self._parameters: Tensor | None = None
        self._forget_student()

    def _forget_student(self) -> None:
        self._student: Tensor | None = None
        self._apart = 0.0
        self._age = 0
        self._f_own: Tensor | None = None
        self._teachers.forget_students()

    def to(self, device: torch.device | str) -> SinkhornState:
        """Moves everything remembered to a device, and returns itself."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        self._bank.to(device)
        self._teachers.to(device)
        self._parameters, self._student = move(self._parameters), move(self._student)
        self._f_own = move(self._f_own)
        return self

    def _near(self, x: Tensor, last: Tensor | None) -> bool:
        """Whether these points are former ones, moved a little."""
        if last is None or last.shape != x.shape or last.dtype != x.dtype:
            return False
        return distance(x, last) <= self._apart

    def _remember_student(self, x: Tensor, near: bool) -> Tensor:
        # The distance of neighbours in the minibatch is that of points drawn anew.
        if not near or self._age >= 20:
            self._apart = SAME_POINTS**0.5 * distance(x[..., 1:, :], x[..., :-1, :])
            self._age = 0
        self._age += 1
        self._student = x.clone()
        return self._student


def warm_divergence(
    p: Prepared,
    state: SinkhornState,
    *,
    cost: str,
    relative: bool,
    debias: bool,
    sharp: bool,
    tol: float,
    max_iter: int,
    backend: str,
    finite: tuple[str, str] | None = None,
    ratio: float | None = None,
) -> Tensor:
    """``ops.divergence.divergence`` with a memory; ``ratio`` is that of an ε-schedule."""
    bare = not sharp and is_plain(p)
    if finite is not None and (ratio is not None or not bare or len(state._bank)):
        check_clouds(p, finite)
        finite = None
    chosen = _backend.choose(backend, p.device, p.dtype)
    common: dict[str, Any] = dict(cost=cost, tol=tol, max_iter=max_iter, backend=chosen)
    x, y = p.given
    key = (y.shape, y.dtype, cost, relative, sharp, tol, max_iter, chosen, y.device)
    given = (y, p.y_weight, p.y_label, p.distance)
    teacher = state._teachers.find(key, given, p.parameters.tolist())
    x = x.detach()
    near = state._near(x, state._student)
    start = p.start
    if (teacher.student is state._student and near) or state._near(x, teacher.student):
        start = teacher.potential
    elif len(state._bank) and state._parameters is not None and p.distance is None:
        eps, _, rho, lam = state._parameters
        if eps.shape[0] == p.x.shape[0] and eps.device == x.device:
            start = state._bank.potential(p.y.detach(), p.y_label, eps, rho, lam, cost)
    extra: Tensor | int = 0
    if start is None and ratio is not None:
        start, extra = scheduled_start(p, ratio=ratio, relative=relative, **common)
    p, own_start = p._replace(start=start), state._f_own if near else None
    arguments = (p, teacher, own_start, relative, debias, common)
    try:
        if bare:
            value, cross, own = _eager(*arguments, finite)
        else:
            value, cross, own = _composed(*arguments, sharp)
            value = value[0] if p.single else value
    except BaseException:
        state._teachers.forget(teacher)
        raise
    if debias and not sharp and not p.balanced:
        value = value + mass_gap(p, _absolute(p, cross, relative)[0])
    state.iterations = Iterations(
        as_tensor(cross.iterations) + extra, 0 if own is None else as_tensor(own.iterations),
        teacher.term.iterations if debias else 0,
    )  # fmt: skip
    if _finite(value):
        teacher.student = state._remember_student(x, near)
        teacher.potential = as_tensor(cross.y_potential).detach()
        state._f_own = None if own is None else as_tensor(own.x_potential).detach()
        if state._bank.capacity:
            state._parameters = _absolute(p, cross, relative).detach()
            state._bank.add(p.x.detach(), as_tensor(cross.x_potential), p.x_weight, p.x_label)
    else:
        state._forget_student()
    return value


def _absolute(p: Prepared, cross: Solution, relative: bool) -> Tensor:
    """ε, the reaches and λ in units of the cost, ``(4, B)``."""
    return p.parameters * as_tensor(cross.scale) if relative else p.parameters


def _eager(
    p: Prepared,
    teacher: Teacher,
    own_start: Tensor | None,
    relative: bool,
    debias: bool,
    common: dict[str, Any],
    finite: tuple[str, str] | None,
) -> tuple[Tensor, Solution, Solution | None]:
    """All terms as one node; value and the solutions (arrays, where the backend has them) of the
    cross term and of the student's."""

    def known(parameters: Tensor, scale: Tensor) -> Tensor:
        return _teacher_term(p, teacher, parameters, scale, relative, False, common)

    frozen = debias and not _learned(p)
    value, job = eager(
        p, relative=relative, debias=debias, own_start=own_start, known=known if frozen else None,
        finite=finite, **common,
    )  # fmt: skip
    return value, job.solution(0), job.solution(1) if debias else None


def _composed(
    p: Prepared,
    teacher: Teacher,
    own_start: Tensor | None,
    relative: bool,
    debias: bool,
    common: dict[str, Any],
    sharp: bool,
) -> tuple[Tensor, Solution, Solution | None]:
    """The same, each term one call of the operator."""
    cost, dtype = common["cost"], p.dtype
    cross = run(p, relative=relative, **common)
    parameters = p.parameters * cross.scale if relative else p.parameters
    value = sharp_term(p, (0, 1), cross, parameters, cost) if sharp else cross.value
    if not debias:
        return value.to(dtype), cross, None
    own = _self_term(p, 0, parameters, own_start, **common)
    value = value - (sharp_term(p, (0, 0), own, parameters, cost) if sharp else own.value) / 2
    value = value - _teacher_term(p, teacher, parameters, cross.scale, relative, sharp, common) / 2
    return value.to(dtype), cross, own


def _learned(p: Prepared) -> bool:
    """Whether the teacher's self-term needs a gradient."""
    inputs = (p.y, p.y_weight, p.parameters, p.distance)
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def _finite(value: Tensor) -> bool:
    value = value.detach()
    if value.numel() == 1:  # no operator call
        return math.isfinite(value.item())
    return bool(torch.isfinite(value).all())


def _self_term(
    p: Prepared,
    side: int,
    parameters: Tensor,
    start: Tensor | None,
    *,
    cost: str,
    tol: float,
    max_iter: int,
    backend: str,
) -> Solution:
    """OT(α, α) (``side=0``) or OT(β, β) (1) at absolute parameters, from a start."""
    points, weight, label = (p.y, p.y_weight, p.y_label) if side else (p.x, p.x_weight, p.x_label)
    if side:
        parameters = parameters[[0, 2, 2, 3]]
    grad = torch.is_grad_enabled()
    learned = p.distance is not None and p.distance.requires_grad
    flags = (
        Flag.X * (grad and points.requires_grad)
        | Flag.DISTANCE * (grad and learned)
        | Flag.ACCELERATE
    )
    return Solution(
        *sinkhorn_op(
            points, None, weight, None, label, None, p.distance, start, parameters, cost,
            float(tol), int(max_iter), flags, backend,
        )
    )  # fmt: skip


def _teacher_term(
    p: Prepared,
    teacher: Teacher,
    parameters: Tensor,
    scale: Tensor,
    relative: bool,
    sharp: bool,
    common: dict[str, Any],
) -> Tensor:
    """The teacher's self-term: from the memory, unless a gradient is asked of it."""
    if _learned(p):
        own = _self_term(p, 1, parameters, teacher.term.potential, **common)
        return sharp_term(p, (1, 1), own, parameters, common["cost"]) if sharp else own.value

    def solve(at: Tensor, start: Tensor | None, tol: float) -> tuple[Solution, Tensor]:
        with torch.no_grad():
            absolute = p.parameters * at
            if not sharp and is_plain(p):  # no derivative, no dispatcher
                numbers = absolute if p.even else absolute[[0, 2, 2, 3]]
                own = solve_one(
                    p.y, None, p.y_weight, None, p.y_label, None, p.distance, start, numbers,
                    common["cost"], float(tol), int(common["max_iter"]), Flag.ACCELERATE,
                    common["backend"],
                )  # fmt: skip
                own = as_tensors(own)
                return own, own.value
            own = _self_term(p, 1, absolute, start, **{**common, "tol": tol})
            if sharp:
                return own, sharp_term(p, (1, 1), own, absolute, common["cost"])
        return own, own.value

    value = teacher.term.value(
        scale, teacher.numbers[3][0], tol=float(common["tol"]),
        interpolate=relative and not sharp, solve=solve,
    )  # fmt: skip
    return value.double()
