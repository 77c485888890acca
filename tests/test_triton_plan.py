"""The plan applied by the Triton kernels, and second derivatives made from it.

Numerics in the interpreter, or on a GPU; see ``test_triton.py`` for how they are run.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ucmkd import ops, reference
from ucmkd.kernels import plan as pk
from ucmkd.kernels import tiles
from ucmkd.ops import _triton
from ucmkd.ops.bank import extend_potential

INTERPRETED = _triton.interpreted()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
numerical = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1"
)
COSTS = ("sqeuclidean", "euclidean", "l1")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def classes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masses(*shape: int, seed: int = 0) -> Tensor:
    """Random masses, one of them 0 where there are three."""
    weight = random(*shape, seed=seed).abs() + 0.1
    if shape[-1] > 2:
        weight[..., 1] = 0
    return weight / weight.sum(-1, keepdim=True)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    size = float(expected.abs().max())
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance, atol=tolerance * size
    )


class Case:
    """A batch of two problems near their solutions, with the dense plan in float64."""

    def __init__(
        self, cost: str, n: int, m: int, d: int, labels: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        x, y = random(2, n, d).to(dtype), (random(2, m, d, seed=1) + 0.3).to(dtype)
        self.a, self.b = masses(2, n, seed=2), masses(2, m, seed=3)
        size = float(reference.cost_matrix(x.double(), y.double(), cost).mean())
        epsilon = torch.tensor([0.5, 2.0], device=DEVICE) * 0.5 * size
        k, l = classes(2, n, seed=4), classes(2, m, seed=5)  # noqa: E741
        price = epsilon if labels else None
        table = random(3, 3, seed=6).abs() if labels == 2 else None
        matrix = 0.5 * reference.cost_matrix(x.double(), y.double(), cost)
        if labels:
            apart = (k[:, :, None] != l[:, None, :]).double()
            if table is not None:
                apart = table.double()[k[:, :, None], l[:, None, :]]
            matrix = matrix + epsilon.double()[:, None, None] * apart
        kappa = math.log2(math.e) / epsilon
        self.problem = tiles.Problem(cost, 0.5, kappa, price, table)
        self.rows = tiles.cloud(x, self.a.log2(), cost, k)
        self.columns = tiles.cloud(y, self.b.log2(), cost, l)
        g = 0.1 * epsilon[:, None] * random(2, m, seed=7)
        eps = epsilon.double()[:, None, None]
        score = (g.double()[:, None, :] - matrix) / eps + self.b.double().log()[:, None, :]
        f = (-eps[..., 0] * torch.logsumexp(score, -1)).float()
        self.f, self.g = kappa[:, None] * f, kappa[:, None] * g
        self.plan = self.a.double()[..., None] * torch.exp(score + f.double()[..., None] / eps)


SHAPES = [
    ("sqeuclidean", 1, 1, 1, 0), ("sqeuclidean", 17, 129, 20, 0), ("sqeuclidean", 33, 5, 64, 1),
    ("euclidean", 2, 17, 3, 0), ("euclidean", 35, 66, 40, 2), ("l1", 19, 67, 5, 1),
    ("l1", 5, 3, 33, 0),
]  # fmt: skip


@numerical
@pytest.mark.parametrize("width", [1, 3, 64, 70])
@pytest.mark.parametrize("cost, n, m, d, labels", SHAPES)
def test_application(cost: str, n: int, m: int, d: int, labels: int, width: int) -> None:
    """Both directions, plain and conditional."""
    if width == 70 and n < 30:
        pytest.skip("two blocks of columns: one shape is enough")
    case = Case(cost, n, m, d, labels)
    plan, f, g = case.plan, case.f, case.g
    sides: list[Any] = [
        (case.rows, case.columns, case.problem, f, g, case.a, case.b),
        (case.columns, case.rows, case.problem.swapped(), g, f, case.b, case.a),
    ]
    for rows, columns, problem, own, other, a, b in sides:
        values = random(2, b.shape[1], width, seed=8)
        if width == 1:
            values = values[..., 0]
        wide = values.double().reshape(2, -1, width)
        found = pk.apply(rows, columns, problem, other, values, f=own, b=b)
        got = a[..., None] * found.output.reshape(2, -1, width)
        close(got, plan @ wide, 2e-5)
        if width > 1:
            close(a * found.total, plan.sum(-1), 2e-5)
        mean = pk.apply(rows, columns, problem, other, values).output.reshape(2, -1, width)
        share = plan / torch.where(a > 0, plan.sum(-1), 1.0)[..., None]
        close(torch.where((a > 0)[..., None], mean, 0), share @ wide, 2e-5)
        plan = plan.transpose(1, 2)


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_application_of_large_tiles_and_16_bit_points(
    cost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pk, "FEW_ROWS", 0)
    for dtype in (torch.float32, torch.bfloat16):
        case = Case(cost, 70, 65, 40, 1, dtype)
        for values in (random(2, 65, 33), random(2, 65)):
            found = pk.apply(
                case.rows, case.columns, case.problem, case.g, values, f=case.f, b=case.b
            ).output
            expected = case.plan @ values.double().reshape(2, 65, -1)
            close(case.a[..., None] * found.reshape(2, 70, -1), expected, 2e-5)


@numerical
@pytest.mark.parametrize("rank", [1, 40])
@pytest.mark.parametrize("few", [8192, 0])
def test_weighted_application(rank: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pk, "FEW_ROWS", few)
    case, n, m = Case("sqeuclidean", 35, 67, 20, 1), 35, 67
    left, right = random(2, n, rank, seed=9), random(2, m, rank, seed=10)
    alpha, beta, values = random(2, n, seed=11), random(2, m, seed=12), random(2, m, 20, seed=13)
    found = pk.apply(
        case.rows, case.columns, case.problem, case.g, values, f=case.f, b=case.b,
        weight=pk.Weight(left, right, alpha, beta),
    )  # fmt: skip
    pair = left.double() @ right.double().transpose(1, 2)
    plan = case.plan * (pair + alpha.double()[..., None] + beta.double()[:, None])
    close(case.a[..., None] * found.output, plan @ values.double(), 2e-5)
    close(case.a * found.total, plan.sum(-1), 2e-5)


@numerical
def test_masked_columns_and_problems_at_rest() -> None:
    """No column with mass gives 0, not NaN; a problem with flag 0 is not computed."""
    case = Case("sqeuclidean", 5, 70, 4)
    case.b[0] = 0
    columns = case.columns._replace(log_weight=case.b.log2())
    values = random(2, 70, 3)
    for options in ({"f": case.f, "b": case.b}, {}):
        out = pk.apply(case.rows, columns, case.problem, case.g, values, **options).output
        assert not out[0].any() and bool(out[1].all())
        active = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
        alone = pk.apply(
            case.rows, columns, case.problem, case.g, values, active=active, **options
        ).output
        assert torch.equal(alone[1], out[1])
    with pytest.raises(ValueError, match="b must be given"):
        pk.apply(case.rows, columns, case.problem, case.g, values, f=case.f)
    weight = pk.Weight(values, values, case.f, case.g)
    with pytest.raises(ValueError, match="weight needs f"):
        pk.apply(case.rows, columns, case.problem, case.g, values, weight=weight)


MAPS: list[dict[str, Any]] = [
    {}, {"cost": "euclidean", "reach": 1.0}, {"cost": "cosine", "x_weight": True},
    {"cost": "l1", "y_weight": True, "label_cost": 0.5}, {"cost": "chordal", "label_cost": "table"},
]  # fmt: skip


@numerical
@pytest.mark.parametrize("options", MAPS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_barycentric_map(options: dict[str, Any], batch: tuple[int, ...]) -> None:
    n, m = 19, 35
    x, y = random(*batch, n, 5) + 50, random(*batch, m, 5, seed=1) + 50.2
    options = {"cost": "sqeuclidean", **options}
    scale = float(reference.cost_matrix(x.double(), y.double(), options["cost"]).mean())
    for name, size in (("x_weight", n), ("y_weight", m)):
        if name in options:
            options[name] = masses(*batch, size, seed=3)
    if "label_cost" in options:
        options["x_label"], options["y_label"] = classes(*batch, n), classes(*batch, m, seed=1)
        table = random(3, 3, seed=2).abs()
        options["label_cost"] = scale * (table if options["label_cost"] == "table" else 0.5)
    found = [
        ops.barycentric_map(x, y, epsilon=0.2 * scale, tol=1e-4, backend=backend, **options)
        for backend in ("triton", "torch")
    ]
    centre = y.mean(-2, keepdim=True)
    close(found[0] - centre, found[1] - centre, 2e-3)


@numerical
def test_barycentric_map_of_16_bit_points() -> None:
    x, y = random(19, 20).bfloat16(), random(30, 20, seed=1).bfloat16()
    found = ops.barycentric_map(x, y, epsilon=5.0, tol=1e-5, backend="triton")
    close(found, ops.barycentric_map(x.float(), y.float(), epsilon=5.0, backend="torch"), 1e-4)


@numerical
@pytest.mark.parametrize("cost", reference.COSTS)
def test_extended_potential(cost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCMKD_BACKEND", "triton")
    x, y, f = random(2, 19, 5), random(2, 7, 5, seed=1), random(2, 19, seed=2)
    options: dict[str, Any] = dict(epsilon=0.7, cost=cost, reach=2.0)
    if cost in ("l1", "cosine"):
        options |= dict(x_label=classes(2, 19), y_label=classes(2, 7, seed=1), label_cost=0.5)
        options["x_weight"] = masses(2, 19)
    found = extend_potential(x, f, y, **options)
    wide = {k: v.double() if k == "x_weight" else v for k, v in options.items()}
    monkeypatch.setenv("UCMKD_BACKEND", "torch")
    close(found, extend_potential(x.double(), f.double(), y.double(), **wide), 1e-5)


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_numerics_in_the_interpreter() -> None:
    """Runs the numerical tests of this file in a process with TRITON_INTERPRET=1."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", __file__],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= 45, done.stdout
