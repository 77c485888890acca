r"""What a sharded solve sends, exactly; and a model, not a measurement, of how long it takes.

Per iteration of the cross term a rank sends its blocks around the ring twice and takes part in two
all-reduces of the columns (:func:`ucmkd.distributed.sharded_sinkhorn_align`). With :math:`\beta`
bytes a second, latency :math:`\alpha` and :math:`\tau` seconds for an entry of the cost matrix the
model of an iteration is

.. math:: 2\,[(W-1)\max(t_c, t_s) + t_c] + 2\,t_r + t_0,\qquad
    t_c = \tfrac{nm}{W^2}\tau,\quad t_s = \alpha + \tfrac{m}{W}\tfrac{ds}{\beta},\quad
    t_r = 2\tfrac{W-1}{W}\tfrac{ms}{\beta} + 2\alpha\log_2 W,\quad t_0 = 2\alpha\log_2 W:

a block is worked on while the next one comes. What the model leaves out: differences between
ranks, contention in the network, the launch of kernels.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Problem(NamedTuple):
    """Two clouds of ``n`` and ``m`` points in ``d`` dimensions, over ``world`` ranks.

    ``number`` is the size of a number in bytes; the rows are spread evenly.
    """

    n: int
    m: int
    d: int
    world: int
    number: int = 4


class Traffic(NamedTuple):
    """Bytes that each rank sends in an iteration of the cross term, and messages it waits for.

    ``points`` go around the ring, ``columns`` are the all-reduces by a ring, ``messages`` counts
    the steps that follow each other.
    """

    points: float
    columns: float
    messages: int

    @property
    def bytes(self) -> float:
        """All together."""
        return self.points + self.columns


def traffic(p: Problem, *, keep_costs: bool = False) -> Traffic:
    """Of an iteration of the cross term; with ``keep_costs`` after the first turn."""
    share = (p.world - 1) / p.world
    points = 0.0 if keep_costs else 2 * share * p.m * p.d * p.number
    reduces = 2 * 2 * share * p.m * p.number
    steps = 0 if keep_costs else 2 * (p.world - 1)
    return Traffic(points, reduces, steps + 3 * 2 * math.ceil(math.log2(p.world)))


def memory(p: Problem, *, keep_costs: bool = False) -> float:
    """Bytes that a rank holds: its rows, two passing blocks, masses and potentials, costs."""
    rows = (p.n + 3 * p.m) / p.world * p.d
    return p.number * (rows + 4 * (p.n + p.m) + keep_costs * p.n * p.m / p.world)


class Machine(NamedTuple):
    """What the model needs of a machine; every figure is an assumption to replace by your own.

    Attributes:
        latency: α, seconds.
        bandwidth: β, bytes per second that a rank can send while it receives as many.
        flops: Floating-point operations per second in the products of points.
        memory: Bytes per second of the device memory.
        passes: Bytes read and written for an entry of the cost between product and reduction.
    """

    latency: float
    bandwidth: float
    flops: float
    memory: float
    passes: float = 48.0

    def entry(self, d: int) -> float:
        """τ, seconds for an entry of the cost."""
        return 2 * d / self.flops + self.passes / self.memory


#: Eight GPUs of the H100 kind in a box (NVLink 4, 450 GB/s each way by its data sheet).
IN_A_BOX = Machine(latency=5e-6, bandwidth=4.5e11, flops=5e13, memory=3.0e12)
#: Many such boxes, a 400 Gbit/s link for each GPU: the slowest link of the ring counts.
BETWEEN_BOXES = Machine(latency=1.5e-5, bandwidth=5e10, flops=5e13, memory=3.0e12)


def seconds(p: Problem, machine: Machine, *, keep_costs: bool = False) -> float:
    """The model's time of an iteration of the cross term."""
    tau, logarithm = machine.entry(p.d), math.ceil(math.log2(p.world))
    work = p.n * p.m / p.world**2 * tau
    send = machine.latency + p.m / p.world * p.d * p.number / machine.bandwidth
    turn = p.world * work if keep_costs else (p.world - 1) * max(work, send) + work
    reduce = (
        2 * (p.world - 1) / p.world * p.m * p.number / machine.bandwidth
        + 2 * machine.latency * logarithm
    )
    return 2 * turn + 2 * reduce + 2 * machine.latency * logarithm


def efficiency(p: Problem, machine: Machine) -> float:
    """The model's speed-up over one rank, divided by the number of ranks."""
    alone = seconds(p._replace(world=1), machine)
    return alone / (p.world * seconds(p, machine))
