r"""A roofline model of the kernels: the time below which no implementation of a pass can go.

A pass over n x m pairs of points in d coordinates needs, on a GPU whose peaks are below,

.. math::
    t = \max\Big(\frac{\text{bytes}}{\text{bandwidth}},\ \frac{\text{MMA flops}}{\text{peak}},\
        \frac{\text{exponentials}}{\text{peak}},\ \text{launches}\cdot t_0\Big),

and the term that is largest is its bound. With s bytes a coordinate (4 or 2) and the factor c = 3
of float32 (``tf32x3``: three TF32 products for one) or 1 of bf16:

=================  ==================================  ==================  ======================
pass               bytes                               MMA flops           exponentials
=================  ==================================  ==================  ======================
streaming softmin  s(n+m)d + 4(n + 2m) + 4n            2c nmd              nm
streaming, one     two of them                         4c nmd              2nm
iteration
cached, one        4nm, twice (rows, then columns),    0                   2nm
iteration          from L2 where it fits
cost matrix        s(n+m)d + 4(n+m), writes 4nm        2c nmd              0
gradient to x      s(n+m)d + 16(n+m) + 4nd             4c nmd              nm
MMD, value and     s(n+m)d + 4(n+m) + 4nd              2c d(n²/2+nm+m²/2)  n²/2+nm+m²/2
gradient to x                                          + 2c d(n²+nm)
whole problem      s(n+m)d + 4(n+m) a problem,         2c nmd a term for   2nm an iteration and a
(k terms, i        + 4nd                               the costs, 4c nmd   term, and nm for the
iterations)                                            for a gradient      gradient
=================  ==================================  ==================  ======================

Each point is counted once, as if L2 held what several programs read. A whole problem is one
program for each term and problem on one core: with P programs on K cores it takes ceil(P/K)
rounds, each at the rate of one core. Five MMD scales take one exponential, the others are its
squares. Arithmetic on the ordinary float32 units and the online rescaling (one exponential a tile
and row) are left out: they lie below the exponentials' time on these GPUs.

Peaks, dense, from NVIDIA's data sheets "A100 Tensor Core GPU" (80 GB SXM: 2,039 GB/s, TF32 156,
BF16 312 TFLOPS), "H100 Tensor Core GPU" (SXM: 3.35 TB/s, TF32 989 and BF16 1,979 TFLOPS with
sparsity, half of it dense) and "H200 Tensor Core GPU" (SXM: 4.8 TB/s, the rest as H100).
Exponentials: 16 a clock and multiprocessor (CUDA C++ Programming Guide, arithmetic throughput, for
8.0 and 9.0) times multiprocessors times boost clock (108 at 1.41 GHz; 132 at 1.98 GHz, the clock
that gives the data sheet's 67 TFLOPS of float32). L2: 40 and 50 MB, read at 5,120 bytes a clock
(NVIDIA A100 whitepaper; for Hopper, whose papers name no number, the same is assumed). A launch is
assumed to take 2.5 microseconds, as in a CUDA graph. Neither assumption is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LAUNCH = 2.5e-6
#: MMA products for one of the input type.
FACTOR = {"float32": 3, "bfloat16": 1}
BYTES = {"float32": 4, "bfloat16": 2}


class Peaks(NamedTuple):
    """A GPU: bytes, flops and exponentials per second, bytes of L2, cores."""

    name: str
    bandwidth: float
    l2_bandwidth: float
    l2: float
    flops: dict[str, float]
    exponentials: float
    cores: int


def _peaks(
    name: str, bandwidth: float, tf32: float, bf16: float, l2: float, cores: int, clock: float
) -> Peaks:
    return Peaks(
        name, bandwidth, 5120 * clock, l2, {"float32": tf32, "bfloat16": bf16},
        16.0 * cores * clock, cores,
    )  # fmt: skip


GPUS = {
    peaks.name: peaks
    for peaks in (
        _peaks("A100", 2.039e12, 156e12, 312e12, 40e6, 108, 1.41e9),
        _peaks("H100", 3.35e12, 494.7e12, 989.4e12, 50e6, 132, 1.98e9),
        _peaks("H200", 4.8e12, 494.7e12, 989.4e12, 50e6, 132, 1.98e9),
    )
}


@dataclass(frozen=True)
class Work:
    """What a pass has to do.

    ``l2`` are bytes that come from L2; ``cores`` is how many cores it can use at most (None: all),
    which sums and multiples do not keep.
    """

    bytes: float = 0.0
    l2: float = 0.0
    flops: float = 0.0
    exponentials: float = 0.0
    launches: float = 0.0
    cores: int | None = None

    def __add__(self, other: Work) -> Work:
        return Work(
            self.bytes + other.bytes,
            self.l2 + other.l2,
            self.flops + other.flops,
            self.exponentials + other.exponentials,
            self.launches + other.launches,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            times * self.bytes,
            times * self.l2,
            times * self.flops,
            times * self.exponentials,
            times * self.launches,
        )


class Bound(NamedTuple):
    """Seconds, and what takes them: ``memory``, ``L2``, ``MMA``, ``ex2`` or ``launch``."""

    seconds: float
    by: str


def bound(work: Work, gpu: Peaks, dtype: str) -> Bound:
    """The largest of the terms."""
    share = 1.0 if work.cores is None else min(1.0, work.cores / gpu.cores)
    terms = {
        "memory": work.bytes / gpu.bandwidth,
        "L2": work.l2 / gpu.l2_bandwidth,
        "MMA": work.flops / (share * gpu.flops[dtype]),
        "ex2": work.exponentials / (share * gpu.exponentials),
        "launch": work.launches * LAUNCH,
    }
    name = max(terms, key=lambda term: terms[term])
    return Bound(terms[name], name)


def softmin(n: int, m: int, d: int, dtype: str) -> Work:
    """One streaming pass."""
    return Work(
        BYTES[dtype] * (n + m) * d + 4 * (n + 2 * m) + 4 * n,
        0,
        2 * FACTOR[dtype] * n * m * d,
        n * m,
        1,
    )


def streaming(n: int, m: int, d: int, dtype: str) -> Work:
    """One iteration: a pass for the rows and one for the columns."""
    return softmin(n, m, d, dtype) + softmin(m, n, d, dtype)


def cost_matrix(n: int, m: int, d: int, dtype: str) -> Work:
    """The costs computed once and written in float32."""
    read = BYTES[dtype] * (n + m) * d + 4 * (n + m)
    return Work(read + 4 * n * m, 0, 2 * FACTOR[dtype] * n * m * d, 0, 1)


def cached(n: int, m: int, gpu: Peaks, batch: int = 1) -> Work:
    """One iteration over float32 costs in memory; ``batch`` matrices share the cache."""
    entries = 4.0 * n * m
    fits = batch * entries <= gpu.l2
    vectors = 12.0 * (n + m)
    return Work(
        vectors + (0 if fits else 2 * entries), 2 * entries if fits else 0, 0, 2.0 * n * m, 2
    )


def gradient(n: int, m: int, d: int, dtype: str) -> Work:
    """The gradient to x: costs anew, and the plan times the points."""
    return Work(
        BYTES[dtype] * (n + m) * d + 16 * (n + m) + 4 * n * d,
        0,
        4 * FACTOR[dtype] * n * m * d,
        n * m,
        1,
    )


def mmd(n: int, m: int, d: int, dtype: str) -> Work:
    """Value and gradient to x; symmetric blocks once, and one exponential for every scale."""
    pairs = n * n / 2 + n * m + m * m / 2
    return Work(
        BYTES[dtype] * (n + m) * d + 4 * (n + m) + 4 * n * d,
        0,
        2 * FACTOR[dtype] * d * (pairs + n * n + n * m),
        pairs,
        1,
    )


def whole(
    n: int, m: int, d: int, dtype: str, iterations: float, gpu: Peaks,
    batch: int = 1, terms: int = 1,
) -> Work:  # fmt: skip
    """A batch of whole problems in one launch, one program for each problem and term.

    The last round of programs may leave cores idle, and every round runs at one core's rate: the
    work is rounded up to full rounds.
    """
    total = batch * terms
    rounds = -(-total // gpu.cores)
    full = min(total, gpu.cores) * rounds
    cells = n * m
    return Work(
        batch * (BYTES[dtype] * (n + m) * d + 4 * (n + m) + 4 * n * d),
        0,
        full * 6 * FACTOR[dtype] * cells * d,
        full * cells * (2 * iterations + 1),
        1,
        cores=min(total, gpu.cores),
    )


def solve(
    n: int, m: int, d: int, dtype: str, iterations: float, gpu: Peaks, batch: int = 1
) -> Bound:
    """Forward and backward of a batch of solves by the best of the three tiers."""
    streamed = streaming(n, m, d, dtype) * (iterations * batch)
    last = gradient(n, m, d, dtype) * batch
    stored = cost_matrix(n, m, d, dtype) * batch + cached(n, m, gpu, batch) * (iterations * batch)
    # A launch serves the batch.
    pairs = ((streamed + last, 2 * iterations + 1), (stored + last, 2 * iterations + 2))
    bounds = [
        bound(Work(w.bytes, w.l2, w.flops, w.exponentials, launches), gpu, dtype)
        for w, launches in pairs
    ]
    if max(n, m) <= 256:
        bounds.append(bound(whole(n, m, d, dtype, iterations, gpu, batch), gpu, dtype))
    return min(bounds)
