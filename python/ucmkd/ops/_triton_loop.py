"""The Sinkhorn loop on the device, over the half-steps of a tier.

Everything that an iteration decides stays in the GPU's memory (:mod:`ucmkd.kernels.step`): the
host launches iterations and never waits. A problem that is done stands still, so that it does not
matter how many launches follow.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ucmkd.ops._triton_points import kernels

#: Iterations between two looks at the flags, none of which the host waits for.
LOOK_EVERY = 4


class Tier(Protocol):
    """The half-steps of a batch of problems; potentials in units of ε/log2(e).

    Every one leaves the problems alone whose flag in ``active`` is 0.
    """

    def iterate(self, f: Tensor, g: Tensor, change: Tensor, active: Tensor) -> None:
        """``f`` from ``g``, and the ``change`` that would solve the columns given ``f``."""

    def own_change(self, f: Tensor, change: Tensor, active: Tensor) -> None:
        """The change of a self-term's potential."""

    def rows(self, g: Tensor, out: Tensor, active: Tensor) -> None:
        """The rows' damped potential."""

    def columns(self, f: Tensor, out: Tensor, active: Tensor) -> None:
        """The columns' damped potential."""


class Streaming:
    """Costs are computed anew in each half-step; memory O(n + m) beside the points."""

    def __init__(
        self,
        clouds: tuple[Any, Any],
        problem: Any,
        damping: tuple[Tensor, Tensor],
        processors: int,
        splits: int | None = None,
    ) -> None:
        self.first, self.second = clouds
        self.problem, self.swapped = problem, problem.swapped()
        self.damping = damping
        self.common: dict[str, Any] = {"processors": processors, "splits": splits}
        self.half_step = kernels("softmin").half_step

    def iterate(self, f: Tensor, g: Tensor, change: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.rows(g, f, active)
        self.half_step(
            self.second, self.first, self.swapped, f, change, own=g, active=active, **self.common
        )

    def own_change(self, f: Tensor, change: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(
            self.first, self.first, self.problem, f, change, own=f, active=active, **self.common
        )

    def rows(self, g: Tensor, out: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(
            self.first, self.second, self.problem, g, out, damping=self.damping[0], active=active,
            **self.common,
        )  # fmt: skip

    def columns(self, f: Tensor, out: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(
            self.second, self.first, self.swapped, f, out, damping=self.damping[1], active=active,
            **self.common,
        )  # fmt: skip


class Cached:
    """The cost matrix is in memory, and an iteration reads it once."""

    def __init__(
        self,
        cost: Tensor,
        log_weights: tuple[Tensor, Tensor],
        kappa: Tensor,
        damping: tuple[Tensor, Tensor],
        processors: int,
    ) -> None:
        self.cost, self.kappa, self.damping = cost, kappa, damping
        self.log_a, self.log_b = log_weights
        self.cached, self.half_step = kernels("cached"), kernels("matrix").matrix_half_step
        batch, n, m = cost.shape
        self.sweep = self.cached.plan_sweep(batch, n, m, processors)
        self.partial: Tensor | None = None

    def iterate(self, f: Tensor, g: Tensor, change: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        if self.partial is None:
            batch, _, m = self.cost.shape
            shape = (batch, self.sweep.groups, m)
            size = 4 * batch * self.sweep.groups * m
            with room_for("the column sums", size, "UCMKD_CACHE_MB=0 does without them"):
                self.partial = torch.empty(shape, dtype=torch.float32, device=g.device)
        self.cached.iterate(
            self.cost, g, self.log_a, self.log_b, self.kappa, self.damping[0], f, change,
            active=active, partial=self.partial, sweep=self.sweep,
        )  # fmt: skip

    def own_change(self, f: Tensor, change: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(self.cost, self.log_b, self.kappa, f, change, own=f, active=active)

    def rows(self, g: Tensor, out: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(
            self.cost, self.log_b, self.kappa, g, out, damping=self.damping[0], active=active
        )

    def columns(self, f: Tensor, out: Tensor, active: Tensor) -> None:
        """See :class:`Tier`."""
        self.half_step(
            self.cost, self.log_a, self.kappa, f, out, damping=self.damping[1], active=active,
            transposed=True,
        )  # fmt: skip


@contextmanager
def room_for(what: str, size: int, advice: str) -> Iterator[None]:
    """Says in an out-of-memory error what was too large (``size`` bytes), and what may help."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"{what} of {size / 2**20:.0f} MiB does not fit in the GPU's memory; {advice}"
        ) from error


def look(active: Tensor) -> Callable[[], bool | None]:
    """Starts a copy of the flags to the host; the result says whether any is set.

    It says None while the copy is under way, and never waits for it.
    """
    flags = torch.empty(active.shape, dtype=active.dtype, pin_memory=True)
    flags.copy_(active, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return lambda: bool(flags.any()) if event.query() else None


def repeat(iteration: Callable[[int], None], active: Tensor, most: int) -> None:
    """Launches iterations ``0, 1, …`` until all flags are known to be 0, or ``most`` of them.

    On a GPU the flags come back by copies that nobody waits for; while a CUDA graph is being
    recorded there are none, and ``most`` iterations are launched.
    """
    if not active.is_cuda:
        for k in range(most):
            iteration(k)
            if not bool(active.any()):
                return
        return
    recording = torch.cuda.is_current_stream_capturing()
    looks: collections.deque[Callable[[], bool | None]] = collections.deque()
    for k in range(most):
        iteration(k)
        if k % LOOK_EVERY == LOOK_EVERY - 1 and not recording:
            looks.append(look(active))
            while looks and (some := looks[0]()) is not None:
                if not some:
                    return
                looks.popleft()


class End(NamedTuple):
    """What the loop leaves; potentials in units of ε/log2(e)."""

    f: Tensor
    g: Tensor
    mass: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor


def _usable(g0: Tensor, b: Tensor, strict: Tensor) -> Tensor:
    """:func:`ucmkd.reference.loop.usable_start` in the units of the loop."""
    mean = (b * g0).sum(-1, keepdim=True) / b.sum(-1, keepdim=True)
    start = torch.where(strict.unsqueeze(-1), g0 - mean, g0)
    far = (start.abs() * (b > 0)).amax(-1) / 1.4426950408889634
    good = far * torch.finfo(torch.float32).eps < 0.01
    return torch.where(good.unsqueeze(-1), start, torch.zeros_like(start))


def two_sided(
    tier: Tier,
    a: Tensor,
    b: Tensor,
    ratio_x: Tensor,
    ratio_y: Tensor,
    g0: Tensor | None,
    *,
    tol: float,
    max_iter: int,
    accelerate: bool,
) -> End:
    """The loop of :func:`ucmkd.reference.loop.sinkhorn_loop`, with the same fixed point.

    ``a (B, n)`` and ``b (B, m)`` are the weights, ``ratio_x`` and ``ratio_y`` ε/ρ ``(B,)``, and
    ``g0`` the start, in units of ε/log2(e).
    """
    step = kernels("step")
    strict = ratio_x + ratio_y == 0
    begin = torch.zeros_like(b) if g0 is None else _usable(g0, b, strict)
    batch, m = b.shape
    with room_for(
        "the history of the acceleration", 40 * batch * m, "accelerate=False does without it"
    ):
        s = step.start(begin, a.shape[1], a.sum(-1), accelerate=accelerate)
    log_a = a.log2()

    def iteration(k: int) -> None:
        tier.iterate(s.f, s.g, s.change, s.active)
        step.step(s, log_a, b, ratio_x, ratio_y, tol=tol, last=k + 2 >= max_iter)

    repeat(iteration, s.active, max_iter)
    f, g = s.f + s.shift.unsqueeze(-1), s.end
    # Balanced: f and g are known up to a constant; share it equally.
    gauge = ((b * g).sum(-1) / b.sum(-1) - (a * f).sum(-1) / a.sum(-1)) / 2
    gauge = torch.where(strict, gauge, torch.zeros_like(gauge)).unsqueeze(-1)
    f, g = f + gauge, g - gauge
    # Nothing depends on the potential of a masked point: it gets that of the other side's end.
    masked = ((a == 0).any(-1) | (b == 0).any(-1)).to(torch.int32)
    tier.rows(g, s.f, masked)
    f = torch.where(a > 0, f, s.f)
    tier.columns(f, s.end, masked)
    g = torch.where(b > 0, g, s.end)
    return End(f, g, s.mass, s.iterations, s.residual, (s.residual <= tol))


def symmetric(
    tier: Tier,
    a: Tensor,
    ratio: Tensor,
    f0: Tensor | None,
    *,
    tol: float,
    max_iter: int,
) -> End:
    """The self-term, as :func:`ucmkd.reference.loop.symmetric_loop`."""
    begin = torch.zeros_like(a) if f0 is None else f0
    s = kernels("step").start(begin, 0, a.sum(-1), accelerate=False)

    def iteration(_: int) -> None:
        tier.own_change(s.g, s.change, s.active)
        kernels("own_step").symmetric_step(s, a, ratio, tol=tol)

    repeat(iteration, s.active, max_iter)
    return End(s.g, s.g, s.mass, s.iterations, s.residual, s.residual <= tol)
