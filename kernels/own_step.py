r"""The end of an iteration on a self-term :math:`\mathrm{OT}(\alpha,\alpha)`.

In the units of :mod:`ucmkd.kernels.step`, for the change :math:`\delta_i` that would solve the
rows, the averaged update of the loop of :mod:`ucmkd.reference` (Knight, Ruiz, Ucar 2014):

.. math::
    \text{residual} = \sum_i a_i\,|2^{-\delta_i} - 2^{-q\phi_i}| \Big/ \sum_i a_i,\qquad
    \phi'_i = \frac12\Big(\phi_i + \frac{\phi_i+\delta_i}{1+q}\Big).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ucmkd.kernels.compilation import Compilation
from ucmkd.kernels.step import MOST, TABLE, State, launch_of
from ucmkd.kernels.tiles import signature


@triton.jit(do_not_specialize=["n"])
def symmetric_step_kernel(
    f_ptr, change_ptr, a_ptr, ratio_ptr, active_ptr, iterations_ptr, residual_ptr, mass_ptr,
    n, tol,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: all of one self-term, whose update is the mean of old and new potential."""
    batch = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + batch) == 0:
        return
    ratio = tl.load(ratio_ptr + batch)
    tau = 1.0 / (1.0 + ratio)
    lanes = tl.arange(0, BLOCK)
    error = tl.zeros([BLOCK], tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + lanes
        a = tl.load(a_ptr + batch * n + i, mask=i < n, other=0.0)
        f = tl.load(f_ptr + batch * n + i, mask=i < n, other=0.0)
        change = tl.load(change_ptr + batch * n + i, mask=i < n, other=0.0)
        row = tl.where(a > 0, a * tl.exp2(-change), 0.0)
        wanted = tl.where(a > 0, a * tl.exp2(tl.minimum(-ratio * f, MOST)), 0.0)
        error += tl.abs(row - wanted)
        weight += a
        mass += row
    residual = tl.sum(error, 0) / tl.sum(weight, 0)
    done = residual <= tol
    tl.store(residual_ptr + batch, residual)
    tl.store(mass_ptr + batch, tl.sum(mass, 0))
    tl.store(iterations_ptr + batch, tl.load(iterations_ptr + batch) + 1)
    tl.store(active_ptr + batch, (residual > tol).to(tl.int32))  # a NaN also ends here
    for start in range(0, n, BLOCK):
        i = start + lanes
        a = tl.load(a_ptr + batch * n + i, mask=i < n, other=0.0)
        f = tl.load(f_ptr + batch * n + i, mask=i < n, other=0.0)
        change = tl.load(change_ptr + batch * n + i, mask=i < n, other=0.0)
        # The potential whose residual was measured is the one returned, but for masked points:
        # theirs is the softmin itself, and nothing depends on it.
        whole = tau * (f + change)
        kept = tl.where(done, f, (f + whole) / 2)
        tl.store(f_ptr + batch * n + i, tl.where(a > 0, kept, whole), mask=i < n)


def symmetric_step(state: State, a: Tensor, ratio: Tensor, *, tol: float) -> None:
    """The same for a self-term, whose potential is ``state.g``; ``a`` are its weights."""
    batch, n = a.shape
    launch = launch_of(n)
    symmetric_step_kernel[(batch,)](
        state.g, state.change, a, ratio, state.active, state.iterations, state.residual,
        state.mass, n, tol, BLOCK=launch.block, num_warps=launch.warps,
    )  # fmt: skip


def compilations() -> Iterator[Compilation]:
    """Every tabled configuration, those of ``step``."""
    for launch in TABLE.values():
        yield Compilation(
            f"own_step/{launch.block}", symmetric_step_kernel,
            signature(symmetric_step_kernel), {"BLOCK": launch.block}, launch.warps, 3, False, True,
        )  # fmt: skip
