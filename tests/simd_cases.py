"""Cases that every SIMD level must get right; run as a script, it solves them at its level.

``python simd_cases.py OUT`` writes the results of the Rust backend to the file ``OUT``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ucmkd import _rust, ops, reference

#: Around the vector widths and the block sizes: one, two, odd, one less and one more.
SIZES = [(1, 1), (1, 17), (2, 129), (17, 2), (127, 129), (129, 127)]
WIDTHS = (1, 5, 17, 64)
DTYPES = (torch.float32, torch.float64)


def points(n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + 10 * m + d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = 0.7 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.5
    # Both types get the same points: those of float32.
    return x.float().double(), y.float().double()


def masses(n: int, m: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    a, b = (torch.rand(k, generator=generator, dtype=torch.float64) + 0.1 for k in (n, m))
    return a / a.sum(), b / b.sum()


def solve(name: str, backend: str, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """One case: value, potentials and gradients, as float64."""
    kind, n, m, d, cost, variant = name.split("/")
    x, y = points(int(n), int(m), int(d))
    a, b = masses(int(n), int(m))
    mean = float(reference.cost_matrix(x[None], y[None], cost or "sqeuclidean").mean())
    x, y = (t.to(dtype).requires_grad_() for t in (x, y))
    options = dict(x_weight=a.to(dtype), y_weight=b.to(dtype), backend=backend)
    if kind == "mmd":
        scales = {"five": (0.25, 0.5, 1.0, 2.0, 4.0), "one": (1.0,), "other": (0.3, 1.0, 2.7)}
        value = ops.mmd(
            x, y, bandwidth=mean**0.5, scales=scales[variant[:-2]], estimator=variant[-1],
            **options,
        )  # fmt: skip
        found = {}
    else:
        if variant == "unbalanced":
            options |= dict(reach=(mean, 0.4 * mean), y_weight=1.7 * b.to(dtype))
        if variant == "labels":
            options |= dict(
                x_label=torch.arange(int(n)) % 3, y_label=torch.arange(int(m)) % 2,
                label_cost=mean,
            )  # fmt: skip
        tol, steps = (1e-5, 2000) if dtype == torch.float32 else (1e-11, 20_000)
        out = ops.sinkhorn(x, y, epsilon=0.5 * mean, cost=cost, tol=tol, max_iter=steps, **options)
        value = out.value
        found = {"f": out.x_potential, "g": out.y_potential, "converged": out.converged}
    value.backward()
    found |= {"value": value, "x": x.grad, "y": y.grad}
    return {key: t.detach().double() for key, t in found.items()}


def names() -> Iterator[str]:
    for i, (n, m) in enumerate(SIZES):
        for j, cost in enumerate(reference.COSTS):
            for k, variant in enumerate(("balanced", "unbalanced", "labels")):
                # Each width meets each cost and variant at some size.
                yield f"sinkhorn/{n}/{m}/{WIDTHS[(i + j + k) % 4]}/{cost}/{variant}"
        for k, variant in enumerate(("five-v", "five-u", "one-v", "other-u")):
            for d in (WIDTHS[(i + k) % 4], WIDTHS[(i + k + 2) % 4]):
                yield f"mmd/{n}/{m}/{d}//{variant}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {
        f"{name} {dtype}": solve(name, "rust", dtype) for name in names() for dtype in DTYPES
    }
    torch.save({"level": _rust.simd_level(), "results": results}, sys.argv[1])
