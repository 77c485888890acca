"""How far ahead of a peer any code on this machine could be.

An alignment in d dimensions cannot do without the matrix products of its costs and gradients. With
nothing else to do, at the peak of a matrix product, MMD takes

    8 n² d operations: the products x·x and y·y (half of each, by symmetry), x·y, and the gradients
    of the two terms that x is in, 2 n² d each,

so that a peer that takes p seconds can be beaten by a factor of at most p / (8 n² d / peak). Next
to it stands what is left once the call is paid for (an empty operator with its backward) and one
exponential for each pair (2 n² of them, at the speed of ``torch.exp``, in its cache), five scales
being powers of one.
"""

from __future__ import annotations

import torch

from benches import overhead
from benches.contestants import mmd as contestants
from benches.machine import PEAK, peak
from benches.problems_mmd import Discrepancy
from benches.report import Section
from benches.timing import typical

WIDTH = 128
#: Exponentials at a time (256 KiB).
EXPONENTIALS = 2**16


def limits(sizes: tuple[int, ...], rounds: int) -> Section:
    """MMD at five scales and at one: the products alone, at the peak, beside the contestants."""
    most, whose = peak(rounds)
    numbers = -torch.rand(EXPONENTIALS)
    out = torch.empty_like(numbers)
    x = torch.zeros(overhead.POINTS, WIDTH, requires_grad=True)
    parts = {
        "call": lambda: torch.autograd.grad(overhead.empty(x, x)[0], x),
        "exp": lambda: torch.exp(numbers, out=out),
    }
    least = typical(parts, max(rounds, 11), min)
    ours, _, compiled, tensorised, *_ = contestants.CONTESTANTS
    lines = []
    for scales, peer in (((0.25, 0.5, 1.0, 2.0, 4.0), compiled), ((1.0,), tensorised)):
        for n in sizes:
            case = Discrepancy(n, scales)
            calls = {c.name: c.build(case).run for c in (ours, peer)}
            times = typical(calls, rounds)
            products = 8 * n * n * WIDTH / most
            with_rest = products + least["call"] + 2 * n * n * least["exp"] / EXPONENTIALS
            lines.append([
                f"{len(scales)} scale{'s' * (len(scales) > 1)}, n = m = {n}",
                f"{times[ours.name] * 1e3:.3g}",
                f"{times[peer.name] * 1e3:.3g}",
                peer.name,
                f"{times[peer.name] / times[ours.name]:.1f}",
                f"{products * 1e3:.3g}",
                f"{times[peer.name] / products:.1f}",
                f"{with_rest * 1e3:.3g}",
                f"{times[peer.name] / with_rest:.1f}",
            ])  # fmt: skip
    return Section(
        "MMD: the matrix products alone at the peak, and the most that any code could be ahead",
        ["", "ours ms", "peer ms", "peer", "ratio", "products alone ms", "most",
         "with exponentials and call ms", "most"],
        lines,
        [
            f"Peak: {most / 1e9:.0f} GFLOP/s, {whose} of {PEAK} x {PEAK} float32.",
            f"An empty call takes {least['call'] * 1e6:.0f} µs, an exponential "
            f"{least['exp'] / EXPONENTIALS * 1e9:.3f} ns.",
        ],
    )  # fmt: skip
