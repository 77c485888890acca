"""Which tier of the Triton kernels a solve takes: the cost matrix in memory, or computed anew.

``cached`` reads the matrix in every iteration, ``streaming`` multiplies the points again, in
O((n+m)d) memory. Small matrices stay in the second-level cache, where reading them always wins.
A larger one is read from the GPU's memory; with d coordinates that wins as soon as

.. math:: \\frac{4cd}{\\text{MMA peak}} > \\frac{8}{\\text{bandwidth}}

for an iteration's two passes, where c is 3 for float32 (three TF32 products) and 1 for 16-bit
points: :data:`MATRIX_FROM` has the d from which 20 iterations and the matrix itself take less
time in the roofline model (``benches/gpu/roofline.py``, which names its sources; not measured).
"""

from __future__ import annotations

import functools

import torch

from ucmkd import _backend

#: The cost matrices of a batch stay in the second-level cache up to so many bytes, by the major
#: compute capability (40 of the 50 MB of an H100 or H200).
CACHE_BYTES = {8: 32 << 20, 9: 40 << 20, 10: 96 << 20}
#: For a GPU that is not in the table.
CACHE_BYTES_ELSE = 32 << 20
#: The least d at which a matrix in the GPU's memory is read faster than it is computed, by the GPU
#: and the kind of points. ``l1`` has two ordinary instructions a coordinate, no MMA.
MATRIX_FROM = {
    ("A100", "float"): 64,
    ("A100", "half"): 320,
    ("A100", "l1"): 16,
    ("H100", "float"): 112,
    ("H100", "half"): 608,
    ("H100", "l1"): 32,
    ("H200", "float"): 80,
    ("H200", "half"): 432,
    ("H200", "l1"): 16,
}
#: An H200 is an H100 with more and faster memory: bytes that tell them apart.
H200_MEMORY = 120e9


@functools.cache
def gpu_of(device: torch.device) -> tuple[str, int]:
    """The row of :data:`MATRIX_FROM` that a GPU is nearest to, and the bytes of its cache.

    Compute capability 10 has about the ratio of TF32 peak to bandwidth of an H100. What is in no
    table counts as an A100.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return "A100", CACHE_BYTES_ELSE
    major, _ = torch.cuda.get_device_capability(device)
    size = CACHE_BYTES.get(major, CACHE_BYTES_ELSE)
    if major not in (9, 10):
        return "A100", size
    memory = torch.cuda.get_device_properties(device).total_memory
    return ("H200" if major == 9 and memory > H200_MEMORY else "H100"), size


def tier_of(batch: int, n: int, m: int, d: int, kind: str, device: torch.device) -> str:
    """``cached`` or ``streaming``, by the size of the cost matrices and the model.

    ``cached`` while they fit in the second-level cache, or where reading them from the GPU's
    memory beats computing them (:data:`MATRIX_FROM`); in either case only up to the budget of
    ``UCMKD_CACHE_MB`` megabytes, 512 unless it is set. With 0 everything streams.

    Args:
        batch: Number of problems.
        n: Rows of each.
        m: Columns.
        d: Coordinates of a point.
        kind: What :func:`ucmkd.kernels.tiles.kind_of` says of the points.
        device: Where they are.
    """
    gpu, cache = gpu_of(device)
    size = 4 * batch * n * m
    pays = size <= cache or d >= MATRIX_FROM[gpu, kind.split("/")[0]]
    return "cached" if pays and size <= _backend.cache_budget() else "streaming"
