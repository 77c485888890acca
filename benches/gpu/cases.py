"""The cases of the GPU benchmark, with what is aimed at, in the order of their importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benches.gpu import peers
from benches.gpu.contestants import (
    BY_HAND,
    COMPILED,
    MMD_BY_HAND,
    MMD_COMPILED,
    OUR_MMD,
    OURS,
    in_a_graph,
)
from benches.gpu.problems import Shape, discrepancy, transport
from benches.timing import Contestant

#: Largest relative errors of value and gradient: an L1 violation of 1e-3 leaves about 2e-3 in the
#: gradient, whoever solves.
BOUNDS = {"sinkhorn": (1e-4, 5e-3), "mmd": (1e-4, 1e-4)}


@dataclass(frozen=True)
class Case:
    """One line of the summary.

    Attributes:
        key: Unique; names the case in the JSON file.
        operator: ``"sinkhorn"`` or ``"mmd"``.
        shape: Of the problem.
        contestants: Ours first.
        target: How many times our time the fastest accurate contestant should take.
        against: The same for contestants whose names begin so.
        share: The share of the roofline that is aimed at.
    """

    key: str
    operator: str
    shape: Shape
    contestants: tuple[Contestant, ...]
    target: float | None = None
    against: dict[str, float] = field(default_factory=dict)
    share: float | None = None

    @property
    def title(self) -> str:
        """For people."""
        what = {"sinkhorn": "Sinkhorn to an L1 residual of 1e-3", "mmd": "MMD, five scales"}
        shape = self.shape
        return f"{what[self.operator]}, B = {shape.batch}, n = m = {shape.n}, d = {shape.d}"

    def problem(self, device: torch.device) -> Any:
        """The data and the float64 solution."""
        make: Callable[..., Any] = transport if self.operator == "sinkhorn" else discrepancy
        return make(self.shape, device)


def _sinkhorn(batch: int, n: int, d: int, target: float | None, share: float | None) -> Case:
    shape = Shape(batch, n, d)
    chosen: list[Contestant] = [OURS, in_a_graph(f"{OURS.name}, CUDA graph", OURS)]
    alone = batch == 1 and n >= 1024
    if n <= 32768:
        chosen += peers.FLASH if alone else peers.FLASH[:2]
        chosen.append(BY_HAND)
    # Compiling takes long: where many small problems of the same kind stand in the table, for some.
    if n <= 32768 and d <= 128 and (n >= 4096 or (n > 64 and batch != 8)):
        chosen.append(COMPILED)
    if n <= 1024:
        chosen.append(in_a_graph(f"{BY_HAND.name}, CUDA graph", BY_HAND))
    if shape.entries <= 2**26:
        chosen += [peers.GEOMLOSS, *peers.POT]
    if n in (4096, 8192):
        chosen.append(peers.ONLINE)
    against = {"flash-sinkhorn": 10.0} if batch == 32 else {}
    return Case(
        f"sinkhorn/{batch}x{n}/{d}", "sinkhorn", shape, tuple(chosen), target, against, share
    )


def _mmd(n: int, d: int) -> Case:
    against = {"torch by hand, torch.compile": 4.0, "torch by hand": 10.0}
    chosen = (OUR_MMD, in_a_graph(f"{OUR_MMD.name}, CUDA graph", OUR_MMD), MMD_BY_HAND,
              MMD_COMPILED)  # fmt: skip
    return Case(f"mmd/{n}/{d}", "mmd", Shape(1, n, d), chosen, None, against, 0.5)


def every() -> list[Case]:
    """All cases; a run that ends early has done the first of them."""
    small = [
        _sinkhorn(batch, n, d, 3.0, None)
        for d in (128, 512)
        for batch in (1, 8, 32)
        for n in (64, 256, 1024)
    ]
    large = [_sinkhorn(1, n, d, 1.3, 0.5) for n in (8192, 32768) for d in (64, 128)]
    middle = [_sinkhorn(1, 4096, 128, 2.0, None), _sinkhorn(1, 65536, 64, None, None)]
    return [*small[:9], *middle, _mmd(1024, 128), _mmd(8192, 128), *large, *small[9:]]


def tiny() -> list[Case]:
    """The same plumbing in seconds, for the dry run: no graphs, and no peer that needs a GPU."""

    def on_any_device(contestants: Sequence[Contestant]) -> tuple[Contestant, ...]:
        return tuple(
            c
            for c in contestants
            if "CUDA graph" not in c.name and "compile" not in c.name and c != peers.ONLINE
        )

    cases = [_sinkhorn(2, 8, 4, 3.0, None), _sinkhorn(1, 16, 3, 1.3, 0.5), _mmd(8, 4)]
    # A large ε, because the interpreter takes its time for an iteration.
    return [
        replace(c, shape=replace(c.shape, epsilon=1.0), contestants=on_any_device(c.contestants))
        for c in cases
    ]
