r"""A roofline model of the kernels: the time below which no pass of its kind can go.

A pass over n x m pairs of points in d coordinates needs, on a GPU whose peaks are below,

.. math::
    t = \max\Big(\frac{\text{bytes}}{\text{bandwidth}},\ \frac{\text{MMA flops}}{\text{peak}},\
        \frac{\text{exponentials}}{\text{peak}},\ \frac{\text{fp32}}{\text{peak}},\
        \text{launches}\cdot t_0\Big),

and the term that is largest is its bound. With s bytes a coordinate (4 or 2) and the factor c = 3
of float32 (``tf32x3``: three TF32 products for one) or 1 of bf16:

=================  ==================================  ===================  ================  =====
pass               bytes                               MMA flops            exponentials      fp32
=================  ==================================  ===================  ================  =====
streaming softmin  s(n+m)d + 4(n + 2m) + 4n            2c nmd               nm                4nm
streaming, one     two of them                         4c nmd               2nm               8nm
iteration
one-pass sweep     as above once, + 16nm/128           2c nmd               2nm               7nm
cached, one        4nm, twice (rows, then columns),    0                    2nm               8nm
iteration          from L2 where it fits
cost matrix        s(n+m)d + 4(n+m), writes 4nm        2c nmd               0                 2nm
gradient to x      s(n+m)d + 16(n+m) + 4nd             4c nmd               nm                3nm
MMD, value and     s(n+m)d + 4(n+m) + 4nd              2c dp + 2c d(n²+nm)  p = n²/2+nm+m²/2  18p
gradient to x
whole problem      s(n+m)d + 4(n+m) + 4nd a problem    6c nmd a term        2nm an iteration  8nm
(k terms, i        (the points of all terms are the                         and term, nm for
iterations)        same)                                                    the gradient
=================  ==================================  ===================  ================  =====

The column fp32 counts instructions on the ordinary units for the squared distance: of a softmin a
multiply-add, a maximum, a subtraction and an addition; of MMD with five scales the distance, eight
squarings (one exponential serves all scales), four sums, four weights and the value.
An alternating iteration needs two passes, since the columns want the new rows; a one-pass sweep
(both sides from the old potentials) computes each product once, keeps a maximum and a sum a column
and block of 128 rows, written and read again, and takes more iterations. Each point is counted
once, as if L2 held what several programs read. A whole problem is one
program for each term and problem on one core: with P programs on K cores it takes ceil(P/K)
rounds, each at the rate of one core. Index arithmetic, the splitting of float32 for TF32, and the
online rescaling (one exponential a tile and row) are left out.

Peaks, dense, from NVIDIA's data sheets "A100 Tensor Core GPU" (80 GB SXM: 2,039 GB/s, TF32 156,
BF16 312 TFLOPS), "H100 Tensor Core GPU" (SXM: 3.35 TB/s, TF32 989 and BF16 1,979 TFLOPS with
sparsity, half of it dense) and "H200 Tensor Core GPU" (SXM: 4.8 TB/s, the rest as H100).
Exponentials: 16 a clock and multiprocessor (CUDA C++ Programming Guide, arithmetic throughput, for
8.0 and 9.0) times multiprocessors times boost clock (108 at 1.41 GHz; 132 at 1.98 GHz, the clock
that gives the data sheet's 67 TFLOPS of float32); fp32 instructions: 64 (A100) or 128 of them a
clock and multiprocessor, from the same table. L2: 40 and 50 MB, read at 5,120 bytes a clock
(NVIDIA A100 whitepaper; for Hopper, whose papers name no number, the same is assumed). A launch is
assumed to take 2.5 microseconds, as in a CUDA graph. Neither assumption is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

LAUNCH = 2.5e-6
#: Rows of a block of partial column sums in a one-pass sweep.
PARTIAL = 128
#: MMA products for one of the input type.
FACTOR = {"float32": 3, "bfloat16": 1}
BYTES = {"float32": 4, "bfloat16": 2}


class Peaks(NamedTuple):
    """A GPU: bytes, flops, exponentials and fp32 instructions per second, bytes of L2, cores."""

    name: str
    bandwidth: float
    l2_bandwidth: float
    l2: float
    flops: dict[str, float]
    exponentials: float
    fp32: float
    cores: int


def _peaks(
    name: str,
    bandwidth: float,
    tf32: float,
    bf16: float,
    l2: float,
    cores: int,
    clock: float,
    lanes: int,
) -> Peaks:
    return Peaks(
        name, bandwidth, 5120 * clock, l2, {"float32": tf32, "bfloat16": bf16},
        16.0 * cores * clock, lanes * cores * clock, cores,
    )  # fmt: skip


GPUS = {
    peaks.name: peaks
    for peaks in (
        _peaks("A100", 2.039e12, 156e12, 312e12, 40e6, 108, 1.41e9, 64),
        _peaks("H100", 3.35e12, 494.7e12, 989.4e12, 50e6, 132, 1.98e9, 128),
        _peaks("H200", 4.8e12, 494.7e12, 989.4e12, 50e6, 132, 1.98e9, 128),
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
    fp32: float = 0.0
    launches: float = 0.0
    cores: int | None = None

    def __add__(self, other: Work) -> Work:
        return Work(
            self.bytes + other.bytes,
            self.l2 + other.l2,
            self.flops + other.flops,
            self.exponentials + other.exponentials,
            self.fp32 + other.fp32,
            self.launches + other.launches,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            times * self.bytes,
            times * self.l2,
            times * self.flops,
            times * self.exponentials,
            times * self.fp32,
            times * self.launches,
        )


class Bound(NamedTuple):
    """Seconds, and what takes them: ``memory``, ``L2``, ``MMA``, ``ex2``, ``fp32``, ``launch``."""

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
        "fp32": work.fp32 / (share * gpu.fp32),
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
        4 * n * m,
        1,
    )


def streaming(n: int, m: int, d: int, dtype: str) -> Work:
    """One iteration: a pass for the rows and one for the columns."""
    return softmin(n, m, d, dtype) + softmin(m, n, d, dtype)


def one_pass(n: int, m: int, d: int, dtype: str) -> Work:
    """Both half-updates from one sweep over the tiles, columns by partial sums."""
    once = softmin(n, m, d, dtype)
    return Work(
        once.bytes + 16 * n * m / PARTIAL,
        0,
        once.flops,
        2 * once.exponentials,
        7 * n * m,
        2,
    )


def cost_matrix(n: int, m: int, d: int, dtype: str) -> Work:
    """The costs computed once and written in float32."""
    read = BYTES[dtype] * (n + m) * d + 4 * (n + m)
    return Work(read + 4 * n * m, 0, 2 * FACTOR[dtype] * n * m * d, 0, 2 * n * m, 1)


def cached(n: int, m: int, gpu: Peaks, batch: int = 1) -> Work:
    """One iteration over float32 costs in memory; ``batch`` matrices share the cache."""
    entries = 4.0 * n * m
    fits = batch * entries <= gpu.l2
    vectors = 12.0 * (n + m)
    far, near = (0.0, 2 * entries) if fits else (2 * entries, 0.0)
    return Work(vectors + far, near, 0, 2.0 * n * m, 8.0 * n * m, 2)


def gradient(n: int, m: int, d: int, dtype: str) -> Work:
    """The gradient to x: costs anew, and the plan times the points."""
    return Work(
        BYTES[dtype] * (n + m) * d + 16 * (n + m) + 4 * n * d,
        0,
        4 * FACTOR[dtype] * n * m * d,
        n * m,
        3 * n * m,
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
        18 * pairs,
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
        full * cells * (8 * iterations + 3),
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
    bounds = [bound(replace(w, launches=launches), gpu, dtype) for w, launches in pairs]
    if max(n, m) <= 256:
        bounds.append(bound(whole(n, m, d, dtype, iterations, gpu, batch), gpu, dtype))
    return min(bounds)
