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

from ucmkd import losses, ops, reference
from ucmkd.kernels import plan as pk
from ucmkd.kernels import tiles
from ucmkd.ops import _adjoint, _implicit, _streaming, _streaming_adjoint, _triton
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
    ("sqeuclidean", 1, 1, 1, 0), ("sqeuclidean", 17, 65, 20, 0), ("sqeuclidean", 33, 5, 64, 1),
    ("euclidean", 2, 17, 3, 0), ("euclidean", 18, 66, 40, 2), ("l1", 19, 67, 5, 1),
    ("l1", 5, 3, 33, 0),
]  # fmt: skip


@numerical
@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize("cost, n, m, d, labels", SHAPES)
def test_application(cost: str, n: int, m: int, d: int, labels: int, width: int) -> None:
    """Both directions, plain and conditional."""
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
        case = Case(cost, 35, 37, 40, 1, dtype)
        for values in (random(2, 37, 33), random(2, 37)):
            found = pk.apply(
                case.rows, case.columns, case.problem, case.g, values, f=case.f, b=case.b
            ).output
            expected = case.plan @ values.double().reshape(2, 37, -1)
            close(case.a[..., None] * found.reshape(2, 35, -1), expected, 2e-5)


@numerical
@pytest.mark.parametrize("rank", [1, 40])
@pytest.mark.parametrize("few", [8192, 0])
def test_weighted_application(rank: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pk, "FEW_ROWS", few)
    case, n, m = Case("sqeuclidean", 35, 67, 20, 1), 35, 67
    left, right = random(2, n, rank, seed=9), random(2, m, rank, seed=10)
    alpha, beta, values = random(2, n, seed=11), random(2, m, seed=12), random(2, m, 70, seed=13)
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


MAPS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2,), {}),
    ((), {"cost": "euclidean", "reach": 1.0}),
    ((), {"cost": "cosine", "x_weight": True}),
    ((2,), {"cost": "l1", "y_weight": True, "label_cost": 0.5}),
    ((), {"cost": "chordal", "label_cost": "table"}),
]  # fmt: skip


@numerical
@pytest.mark.parametrize("batch, options", MAPS)
def test_barycentric_map(batch: tuple[int, ...], options: dict[str, Any]) -> None:
    n, m = 17, 19
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


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Streams second derivatives of any size; grows by one with each term."""
    monkeypatch.setattr(_streaming, "DENSE_BYTES", 0)
    terms: list[int] = []
    derive = _streaming.streaming_gradients

    def spy(*arguments: Any, **options: Any) -> Any:
        terms.append(1)
        return derive(*arguments, **options)

    monkeypatch.setattr(_streaming, "streaming_gradients", spy)
    return terms


def hessian_product(
    backend: str, batch: int, debias: bool, sides: str, options: dict[str, Any]
) -> list[Tensor]:
    """Gradients and the Hessian times a direction.

    The reference is in float64, by the dense solver; it is as exact as its potentials.
    """
    dtype = torch.float32 if backend == "triton" else torch.float64
    n, m, d = 9, 12, 3
    options = dict(options)
    for name, size in (("student_weight", n), ("teacher_weight", m)):
        if options.pop(name, None):
            options[name] = masses(batch, size, seed=size).to(dtype)
    if "label_cost" in options:
        options["student_label"], options["teacher_label"] = (
            classes(batch, n),
            classes(batch, m, seed=1),
        )
        if options["label_cost"] == "table":
            table = random(3, 3, seed=2).to(dtype)
            options["label_cost"] = (table + table.T).abs()
    points = random(batch, n, d).to(dtype) + 3, random(batch, m, d, seed=1).to(dtype) + 3.3
    for name, cloud in zip("xy", points, strict=True):
        cloud.requires_grad_(name in sides)
    value = losses.sinkhorn_align(
        *points, debias=debias, detach_teacher=False, tol=1e-6 if backend == "triton" else 1e-9,
        max_iter=2000, backend=backend, **options,
    )  # fmt: skip
    moved = [cloud for cloud in points if cloud.requires_grad]
    gradients = torch.autograd.grad(value, moved, create_graph=True)
    paired = [(g * random(*g.shape, seed=7 + k).to(dtype)).sum() for k, g in enumerate(gradients)]
    products = torch.autograd.grad(torch.stack(paired).sum(), moved)
    return [t.detach() for t in (*gradients, *products)]


PRODUCTS: list[tuple[int, bool, str, dict[str, Any]]] = [
    (2, False, "xy", {"epsilon": 0.2}),
    (1, True, "xy", {"epsilon": 0.5, "student_weight": True, "teacher_weight": True}),
    (1, True, "x", {"epsilon": 0.4, "reach": (0.5, 1.0)}),
    (1, False, "x", {"epsilon": 0.3, "reach": (None, 1.0), "student_weight": True}),
    (1, False, "y", {"epsilon": 0.4, "label_cost": 0.5}),
    (1, True, "x", {"epsilon": 0.5, "reach": 2.0, "label_cost": "table"}),
    (1, True, "xy", {"epsilon": 0.5, "cost": "cosine", "label_cost": 0.5}),
]


@numerical
@pytest.mark.parametrize("batch, debias, sides, options", PRODUCTS)
def test_hessian_products(
    streamed: list[int], batch: int, debias: bool, sides: str, options: dict[str, Any]
) -> None:
    found = hessian_product("triton", batch, debias, sides, options)
    assert len(streamed) == 1 + debias * len(sides)
    for one, other in zip(
        found, hessian_product("torch", batch, debias, sides, options), strict=True
    ):
        close(one, other, 3e-5)


@numerical
def test_what_is_dense(streamed: list[int]) -> None:
    """Other costs, and derivatives to weights and parameters: as exact, in O(nm) memory."""
    x, y = random(5, 3), random(6, 3, seed=1)
    epsilon = torch.tensor(0.9, device=DEVICE, requires_grad=True)
    for cost, given in (("l1", 0.9), ("sqeuclidean", epsilon)):
        mixed = []
        for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
            leaf = x.to(dtype).requires_grad_()
            out = ops.sinkhorn(leaf, y.to(dtype), epsilon=given, cost=cost, backend=backend)
            (gradient,) = torch.autograd.grad(out.value, leaf, create_graph=True)
            mixed += torch.autograd.grad(gradient.square().sum(), leaf)
        close(mixed[0], mixed[1], 1e-4)
    assert not streamed
    assert not _streaming.streams(x[None], y[None], "sqeuclidean", (True, True, True, False))


@numerical
def test_large_problems_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    need = (True, False, False, False, False, False)
    x = torch.empty(1, 2896, 2, device=DEVICE)
    assert not _streaming.streams(x, None, "sqeuclidean", need)  # 64 MiB
    assert _streaming.streams(x.expand(2, -1, -1), None, "sqeuclidean", need)
    monkeypatch.setenv("UCMKD_CACHE_MB", "1")
    assert _streaming.streams(x, None, "cosine", need)
    assert not _streaming.streams(x, None, "chordal", need)


@numerical
def test_a_third_derivative_raises(streamed: list[int]) -> None:
    x = random(4, 2).requires_grad_()
    value = ops.sinkhorn(x, random(5, 2, seed=1), epsilon=1.0, backend="triton").value
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    (product,) = torch.autograd.grad(gradient.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        product.sum().backward()
    assert streamed


@numerical
def test_adjoint_systems_and_their_true_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the dense solver; what has not converged is NaN, in its own problem alone."""
    n, m = 15, 19
    x, y = random(2, n, 3), random(2, m, 3, seed=1)
    a, b = masses(2, n, seed=2), masses(2, m, seed=3)
    epsilon = torch.tensor([30.0, 1.0], device=DEVICE)
    infinite = torch.full_like(epsilon, math.inf)
    solved = _triton.solve(
        x, y, a, b, epsilon=epsilon, reach_x=infinite, reach_y=infinite, max_iter=3000
    )
    parameters = torch.stack([epsilon, infinite, infinite, torch.zeros_like(epsilon)])
    f, g = solved.x_potential, solved.y_potential
    work = _streaming._Work(x, y, a, b, parameters, None, (None, None), f, g, "sqeuclidean")
    matrix = reference.cost_matrix(x.double(), y.double())
    _, density = _implicit.density(
        matrix, a.double(), b.double(), epsilon.double(), f.double(), g.double()
    )
    plan = a.double()[..., None] * density * b.double()[:, None]
    kernel = torch.ones(2, dtype=torch.bool, device=DEVICE)
    right_x = plan @ random(2, m, 1, seed=4).double()
    right_y = plan.transpose(1, 2) @ random(2, n, 1, seed=5).double()
    right_x -= plan.sum(-1, True) * right_x.sum(1, True) / plan.sum((1, 2), True)
    right_y -= plan.sum(-2)[..., None] * right_y.sum(1, True) / plan.sum((1, 2), True)
    sides = (right_x.squeeze(-1), right_y.squeeze(-1))

    row, column = work.marginals()
    close(row, plan.sum(-1), 1e-5)
    close(column, plan.sum(-2), 1e-5)
    u, v = work.solve_two_sided(row, column, *sides, kernel)
    left_x = sides[0] - row * u - (plan @ v[..., None]).squeeze(-1)
    left_y = sides[1] - column * v - (u[:, None] @ plan).squeeze(-2)
    for left, right in zip((left_x, left_y), sides, strict=True):
        assert float(left.abs().max()) < 1e-4 * float(right.abs().max())
    exact = _adjoint.solve_two_sided(plan, plan.sum(-1), plan.sum(-2), *sides, kernel)
    pairs = [p[..., None] + q[:, None] for p, q in ((u, v), exact)]  # without the constant
    close(pairs[0] * (plan > 0), pairs[1] * (plan > 0), 1e-3)

    monkeypatch.setattr(_streaming_adjoint, "MOST_ITERATIONS", 1)
    u, v = work.solve_two_sided(row, column, *sides, kernel)
    assert bool(u[0].isfinite().all()) and bool(v[0].isfinite().all())
    assert bool(u[1][a[1] > 0].isnan().all()) and bool(v[1][b[1] > 0].isnan().all())


@numerical
@pytest.mark.parametrize("debias", [False, True])
def test_gradients_beside_the_points(debias: bool) -> None:
    """Of terms that one launch solves together, whose ε is in units of the cross term's cost."""
    found = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "torch")):
        weight = masses(7, seed=2).to(dtype).requires_grad_()
        epsilon = torch.tensor(0.3, dtype=dtype, device=DEVICE, requires_grad=True)
        value = losses.sinkhorn_align(
            3 * random(7, 3).to(dtype), 3 * random(6, 3, seed=1).to(dtype), epsilon=epsilon,
            student_weight=weight, debias=debias, tol=1e-6, max_iter=1000, backend=backend,
        )  # fmt: skip
        found.append(torch.autograd.grad(value, (weight, epsilon)))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-4)


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
    assert passed and int(passed.group(1)) >= 50, done.stdout
