"""How far ahead of a peer any code on this machine could be.

An alignment in d dimensions cannot do without the matrix products of its costs and gradients. With
nothing else to do, at the peak of a matrix product, MMD takes

    8 n² d operations: the products x·x and y·y (half of each, by symmetry), x·y, and the gradients
    of the two terms that x is in, 2 n² d each,

so that a peer that takes p seconds can be beaten by a factor of at most p / (8 n² d / peak).
"""

from __future__ import annotations

import torch

from benches.contestants import mmd as contestants
from benches.machine import PEAK
from benches.problems_mmd import Discrepancy
from benches.report import Section
from benches.timing import typical

WIDTH = 128


def limits(sizes: tuple[int, ...], rounds: int) -> Section:
    """MMD at five scales and at one: the products alone, at the peak, beside the contestants."""
    a, b = torch.rand(PEAK, PEAK), torch.rand(PEAK, PEAK)
    peak = 2 * PEAK**3 / typical({"mm": lambda: torch.mm(a, b)}, min(rounds, 7), min)["mm"]
    ours, _, compiled, tensorised, *_ = contestants.CONTESTANTS
    lines = []
    for scales, peer in (((0.25, 0.5, 1.0, 2.0, 4.0), compiled), ((1.0,), tensorised)):
        for n in sizes:
            case = Discrepancy(n, scales)
            calls = {c.name: c.build(case).run for c in (ours, peer)}
            times = typical(calls, rounds)
            least = 8 * n * n * WIDTH / peak
            lines.append([
                f"{len(scales)} scale{'s' * (len(scales) > 1)}, n = m = {n}",
                f"{times[ours.name] * 1e3:.3g}",
                f"{times[peer.name] * 1e3:.3g}",
                peer.name,
                f"{times[peer.name] / times[ours.name]:.1f}",
                f"{least * 1e3:.3g}",
                f"{times[peer.name] / least:.1f}",
            ])  # fmt: skip
    return Section(
        "MMD: the matrix products alone at the peak, and the most that any code could be ahead",
        ["", "ours ms", "peer ms", "peer", "ratio", "products alone ms", "most"],
        lines,
        [f"Peak, torch.mm of {PEAK} x {PEAK} float32: {peak / 1e9:.0f} GFLOP/s."],
    )
