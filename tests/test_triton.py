"""The Triton kernels: numerics in the interpreter, or on a GPU.

``TRITON_INTERPRET=1`` must be set before Triton is imported, so one test runs this file once more
in a process of its own; there, and on a machine with a GPU, the numerical tests are not skipped.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from itertools import product

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ucmkd import reference
from ucmkd.kernels import matrix as mx
from ucmkd.kernels import softmin as sm
from ucmkd.kernels import tiles
from ucmkd.kernels import transport as tr
from ucmkd.ops import _triton

INTERPRETED = _triton.interpreted()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
numerical = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1"
)
COSTS = ("sqeuclidean", "euclidean", "l1")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def labels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masses(*shape: int, seed: int = 0) -> Tensor:
    weight = random(*shape, seed=seed).abs() + 0.1
    if shape[-1] > 2:
        weight[..., 1] = 0
    return weight / weight.sum(-1, keepdim=True)


def full_cost(x: Tensor, y: Tensor, cost: str, scale: float, k=None, l=None, price=None) -> Tensor:  # noqa: E741
    matrix = scale * reference.cost_matrix(x.double(), y.double(), cost)
    if k is None:
        return matrix
    return matrix + price.double()[:, None, None] * (k[:, :, None] != l[:, None, :])


def plain_softmin(matrix: Tensor, h: Tensor, epsilon: Tensor) -> Tensor:
    eps = epsilon.double()[:, None]
    return -eps * torch.logsumexp((h.double()[:, None, :] - matrix) / eps[:, :, None], -1)


def softmin(
    x: Tensor, y: Tensor, h: Tensor, epsilon: Tensor, *, cost: str = "sqeuclidean",
    scale: float = 1.0, x_label: Tensor | None = None, y_label: Tensor | None = None,
    label_cost: Tensor | None = None, distance: Tensor | None = None, same: bool = False,
    splits: int | None = None,
) -> Tensor:  # fmt: skip
    """The half-step in units of the cost; its result must not depend on what was there."""
    kappa = math.log2(math.e) / epsilon
    out = torch.full(x.shape[:2], torch.nan, device=DEVICE)
    sm.half_step(
        tiles.cloud(x, out, cost, x_label), tiles.cloud(y, kappa[:, None] * h, cost, y_label),
        tiles.Problem(cost, scale, kappa, label_cost, distance, same), torch.zeros_like(h), out,
        active=torch.ones_like(epsilon, dtype=torch.int32), damping=1 / kappa, splits=splits,
    )  # fmt: skip
    return out


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=tolerance,
        atol=tolerance * float(expected[expected.isfinite()].abs().max()),
    )


SIZES = [(1, 1, 1), (2, 17, 3), (17, 129, 64), (127, 2, 100), (129, 127, 20)]


@numerical
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("n, m, d", SIZES)
def test_softmin(cost: str, n: int, m: int, d: int) -> None:
    x, y, h = random(2, n, d), random(2, m, d, seed=1) + 0.3, random(2, m, seed=2)
    if m > 2:
        h[:, m // 2] = -torch.inf
    epsilon = torch.tensor([0.3, 2.0], device=DEVICE)
    options: dict[str, Tensor] = {}
    named = {}
    if n % 2:
        options = {"x_label": labels(2, n), "y_label": labels(2, m, seed=1), "label_cost": epsilon}
        named = {"k": options["x_label"], "l": options["y_label"], "price": epsilon}
    out = softmin(x, y, h, epsilon, cost=cost, scale=0.5, **options)
    assert out.dtype == torch.float32
    close(out, plain_softmin(full_cost(x, y, cost, 0.5, **named), h, epsilon), 2e-6)


@numerical
@pytest.mark.parametrize("cost, dtype", list(product(COSTS, (torch.bfloat16, torch.float16))))
def test_softmin_of_16_bit_points(cost: str, dtype: torch.dtype) -> None:
    """Products of the stored values are exact: the error is that of float32, not of the input."""
    x, y, h = random(1, 18, 70).to(dtype), random(1, 21, 70, seed=1).to(dtype), random(1, 21)
    epsilon = torch.tensor([3.0], device=DEVICE)
    close(
        softmin(x, y, h, epsilon, cost=cost),
        plain_softmin(full_cost(x, y, cost, 1.0), h, epsilon),
        5e-6,
    )


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_large_tiles_agree(cost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sm, "FEW_ROWS", 0)
    monkeypatch.setattr(tr, "FEW_ROWS", 0)
    x, y, h = random(1, 70, 40), random(1, 65, 40, seed=1), random(1, 65)
    epsilon = torch.tensor([2.0], device=DEVICE)
    expected = plain_softmin(full_cost(x, y, cost, 1.0), h, epsilon)
    close(softmin(x, y, h, epsilon, cost=cost), expected, 2e-6)
    check_transport(x, y, cost, labelled=False)


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_masked_rows_and_columns(cost: str) -> None:
    x, y = random(2, 3, 4), random(2, 70, 4, seed=1)
    h = torch.full((2, 70), -torch.inf, device=DEVICE)
    h[1, 68] = 0.5  # the first tile of columns is masked altogether
    epsilon = torch.tensor([1.0, 0.01], device=DEVICE)
    out = softmin(x, y, h, epsilon, cost=cost)
    assert torch.all(out[0] == torch.inf)
    close(out[1], full_cost(x, y, cost, 1.0)[1, :, 68] - 0.5, 2e-5)


@numerical
def test_distance_of_near_points() -> None:
    """|x|² + |y|² - 2x·y has no digit left here; the direct difference has."""
    x = random(1, 5, 30) * 10
    y = x + 1e-3 * random(1, 5, 30, seed=1)
    h, epsilon = torch.zeros(1, 5, device=DEVICE), torch.tensor([1e-3], device=DEVICE)
    distance = full_cost(x, y, "euclidean", 1.0)
    out = softmin(x, y, h, epsilon, cost="euclidean")
    close(out, plain_softmin(distance, h, epsilon), 1e-4)
    check_transport(x, y, "euclidean", labelled=False, epsilon=0.5)


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_a_point_is_at_distance_zero_of_itself(cost: str) -> None:
    x = random(1, 17, 33) * 30
    h, epsilon = torch.zeros(1, 17, device=DEVICE), torch.tensor([1e-3], device=DEVICE)
    out = softmin(x, x, h, epsilon, cost=cost, same=True)
    size = float(x.square().sum(-1).max()) if cost == "sqeuclidean" else 1.0  # folded norms round
    assert float(out.abs().max()) < 1e-6 * size


@numerical
@pytest.mark.parametrize("splits", [1, 2, 3])
def test_split_columns(splits: int) -> None:
    """Masked columns fill the last of three splits."""
    x, y, h = random(2, 5, 4), random(2, 190, 4, seed=1), random(2, 190)
    h[:, 120:] = -torch.inf
    epsilon = torch.tensor([0.1, 1.0], device=DEVICE)
    expected = plain_softmin(full_cost(x, y, "sqeuclidean", 1.0), h, epsilon)
    close(softmin(x, y, h, epsilon, splits=splits), expected, 2e-6)


@numerical
def test_softmin_with_class_distances() -> None:
    x, y, h = random(2, 5, 4), random(2, 7, 4, seed=1), random(2, 7)
    k, l = labels(2, 5), labels(2, 7, seed=1)  # noqa: E741
    table, price = random(3, 4, seed=2).abs(), torch.tensor([0.5, 2.0], device=DEVICE)
    matrix = full_cost(x, y, "l1", 1.0)
    matrix = matrix + price.double()[:, None, None] * table.double()[k[:, :, None], l[:, None, :]]
    out = softmin(x, y, h, price, cost="l1", x_label=k, y_label=l, label_cost=price, distance=table)
    close(out, plain_softmin(matrix, h, price), 2e-6)


@numerical
@pytest.mark.parametrize("transposed", [False, True])
def test_softmin_of_a_matrix(transposed: bool) -> None:
    matrix, kappa = random(2, 19, 261).abs(), torch.tensor([10.0, 1.0], device=DEVICE)
    kept, summed = (261, 19) if transposed else (19, 261)
    log_weight, potential, own = random(2, summed), random(2, summed, seed=1), random(2, kept)
    log_weight[:, 3] = -torch.inf
    turned = matrix.transpose(1, 2) if transposed else matrix
    score = (log_weight + potential).double()[:, None, :] - kappa[:, None, None] * turned.double()
    expected = -torch.logsumexp(score * math.log(2), -1) / math.log(2)
    active = torch.ones(2, dtype=torch.int32, device=DEVICE)
    for damping, before in ((torch.tensor([0.5, 1.0], device=DEVICE), None), (None, own)):
        out = torch.full_like(own, torch.nan)
        mx.matrix_half_step(
            matrix, log_weight, kappa, potential, out, active=active, transposed=transposed,
            damping=damping, own=before,
        )  # fmt: skip
        wanted = expected - own if damping is None else damping[:, None] * expected
        close(out, wanted, 2e-6)


@numerical
def test_a_problem_that_is_done_is_left_alone() -> None:
    x, h = random(2, 5, 4), random(2, 5)
    out = torch.full((2, 5), 7.0, device=DEVICE)
    cloud = tiles.cloud(x, h)
    kappa = torch.ones(2, device=DEVICE)
    active = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
    for splits in (1, 2):
        sm.half_step(
            cloud, cloud, tiles.Problem("sqeuclidean", 1.0, kappa), h, out, active=active,
            damping=kappa, splits=splits,
        )  # fmt: skip
        assert torch.all(out[0] == 7) and not torch.any(out[1] == 7)


def check_transport(
    x: Tensor,
    y: Tensor,
    cost: str,
    *,
    labelled: bool,
    epsilon: float = 1.5,
    tolerance: float = 1e-5,
) -> None:
    batch, n, _ = x.shape
    m = y.shape[1]
    a, b = masses(batch, n), masses(batch, m, seed=1)
    eps = torch.full((batch,), epsilon, device=DEVICE)
    k, l = labels(batch, n), labels(batch, m, seed=1)  # noqa: E741
    named = {"k": k, "l": l, "price": eps} if labelled else {}
    leaf = x.double().requires_grad_()
    matrix = full_cost(leaf, y, cost, 0.5, **named)
    h = torch.where(b > 0, eps[:, None] * b.log(), -torch.inf)
    f = plain_softmin(matrix.detach(), h, eps).float()
    g = 0.1 * random(batch, m)
    density = b[:, None, :] * torch.exp(
        (f.double()[:, :, None] + g.double()[:, None, :] - matrix.detach()) / epsilon
    )
    plan = a[:, :, None] * density
    (gradient,) = torch.autograd.grad((plan * matrix).sum(), leaf)
    kappa = math.log2(math.e) / eps
    problem = tiles.Problem(cost, 0.5, kappa, eps if labelled else None)
    rows, columns = tiles.cloud(x, a.log2(), cost, k), tiles.cloud(y, b.log2(), cost, l)
    units = kappa[:, None]
    out = tr.transport(rows, columns, problem, units * f, units * g, a, b)
    close(out.row, density.sum(-1), tolerance)
    close(out.transport, (plan * matrix).sum(-1).detach(), tolerance)
    close(out.output, gradient, tolerance)
    if labelled:
        close(out.mismatch, (plan * (k[:, :, None] != l[:, None, :])).sum(-1), tolerance)
        sent = tr.transport(rows, columns, problem, units * f, units * g, a, b, classes=3).output
        close(sent, plan @ torch.nn.functional.one_hot(l, 3).double(), tolerance)
    else:
        assert not out.mismatch.any()


@numerical
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("n, m, d", [(1, 1, 1), (2, 17, 3), (17, 35, 100), (33, 2, 64)])
def test_transport(cost: str, n: int, m: int, d: int) -> None:
    check_transport(random(2, n, d), random(2, m, d, seed=1) + 0.5, cost, labelled=bool(n % 2))


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_transport_of_16_bit_points(cost: str) -> None:
    x, y = random(1, 18, 70).bfloat16(), random(1, 21, 70, seed=1).bfloat16()
    check_transport(x, y, cost, labelled=True, epsilon=5.0, tolerance=2e-5)


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_transport_at_infinite_epsilon_is_the_mean_cost(cost: str) -> None:
    x, y = random(2, 9, 5), random(2, 70, 5, seed=1)
    a, b = masses(2, 9), masses(2, 70, seed=1)
    problem = tiles.Problem(cost, 1.0, torch.zeros(2, device=DEVICE))
    out = tr.transport(
        tiles.cloud(x, a.log2(), cost), tiles.cloud(y, b.log2(), cost), problem,
        torch.zeros_like(a), torch.zeros_like(b), a, b, gradient=False,
    )  # fmt: skip
    mean = torch.einsum("bn,bnm,bm->b", a.double(), full_cost(x, y, cost, 1.0), b.double())
    close(out.transport.sum(-1), mean, 1e-6)
    assert out.output.numel() == 0


def compare_solve(
    x: Tensor, y: Tensor | None, cost: str, *, reach: float = math.inf, **options: object
) -> None:
    batch, n, _ = x.shape
    a = masses(batch, n)
    b = a if y is None else masses(batch, y.shape[1], seed=1)

    def run(solver, dtype: torch.dtype) -> reference.Solution:
        def number(value: float) -> Tensor:
            return torch.full((batch,), value, dtype=dtype, device=DEVICE)

        return solver(
            x.to(dtype), None if y is None else y.to(dtype), a.to(dtype), b.to(dtype),
            epsilon=number(0.2), reach_x=number(reach), reach_y=number(math.inf),
            label_cost=number(0.5), cost=cost, relative=True,
            x_label=labels(batch, n), y_label=None if y is None else labels(batch, y.shape[1]),
            **options,
        )  # fmt: skip

    expected = run(reference.sinkhorn, torch.float64)
    actual = run(_triton.solve, torch.float32)
    for name, one, other in zip(expected._fields, actual, expected, strict=True):
        if name == "iterations":
            assert torch.equal(one, other)
        elif name == "residual":
            torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=1e-5)
        elif name == "converged":
            assert torch.equal(one, other)
        elif other.numel() == 0:
            assert one.numel() == 0
        else:
            close(one, other, 2e-5)


@numerical
@pytest.mark.parametrize("cost", reference.COSTS)
def test_solve(cost: str) -> None:
    x, y = random(2, 18, 5), random(2, 11, 5, seed=1) + 0.5
    compare_solve(x, y, cost, tol=0.0, max_iter=3)
    compare_solve(x, None, cost, tol=1e-3, max_iter=20, want_y=False)


@numerical
def test_solve_relaxed_from_a_warm_start() -> None:
    x, y = random(1, 9, 3), random(1, 11, 3, seed=1)
    compare_solve(x, y, "sqeuclidean", reach=1.0, tol=1e-2, max_iter=30, want_x=False)


@numerical
@pytest.mark.parametrize("cost", COSTS)
def test_a_common_shift_changes_nothing(cost: str) -> None:
    x, y = random(1, 18, 6) + 100, random(1, 11, 6, seed=1) + 100.5
    compare_solve(x, y, cost, tol=0.0, max_iter=3)


@numerical
@pytest.mark.parametrize("cost", reference.COSTS)
def test_coincident_points_and_zero_vectors(cost: str) -> None:
    x = random(1, 9, 3)
    x[:, 2] = 0
    compare_solve(x, x.clone(), cost, tol=0.0, max_iter=3)


@numerical
def test_operator_runs_on_this_backend() -> None:
    from ucmkd import ops

    x, y = random(6, 4).requires_grad_(), random(5, 4, seed=1)
    slopes = []
    values = []
    for backend in ("triton", "torch"):
        out = ops.sinkhorn(x, y, epsilon=1.0, tol=1e-3, max_iter=50, backend=backend)
        slopes += torch.autograd.grad(out.value, x)
        values.append(out.value.detach())
    close(values[0], values[1], 1e-4)
    close(slopes[0], slopes[1], 1e-3)


def test_error_of_three_tf32_products() -> None:
    """The bound that ``kernels.tiles`` states, of the arithmetic of ``tf32x3`` done in integers."""

    def cut(value: Tensor, bits: int) -> Tensor:
        return ((value.view(torch.int32) >> bits) << bits).view(torch.float32)

    def split(value: Tensor) -> tuple[Tensor, Tensor]:
        # To the nearest with 10 bits after the point, ties away from 0; the bits of a float32 are
        # those of its magnitude. The hardware does not look at the last 13 bits of a remainder.
        bits = value.view(torch.int32)
        nearest = cut((bits + (1 << 12)).view(torch.float32), 13)
        return nearest.double(), cut(value - nearest, 13).double()

    x, y = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    (x_large, x_small), (y_large, y_small) = split(x), split(y)
    found = x_large * y_large + x_large * y_small + x_small * y_large
    exact = x.double() * y.double()
    error = (found - exact).abs() / exact.abs()
    assert 2.0**-23 < float(error.max()) <= 5 * 2.0**-22
    plain = (x_large * y_large - exact).abs() / exact.abs()
    assert float(plain.max()) > 100 * float(error.max())


def test_bad_input_is_refused() -> None:
    x, h, one = random(1, 4, 16), torch.zeros(1, 4, device=DEVICE), torch.ones(1, device=DEVICE)
    with pytest.raises(ValueError, match="bfloat16 or float16; got torch"):
        softmin(x.double(), x.double(), h, one)
    with pytest.raises(ValueError, match="contiguous"):
        cloud, turned = tiles.cloud(x, h), tiles.cloud(x.transpose(1, 2), h)
        tr.transport(turned, cloud, tiles.Problem("sqeuclidean", 1.0, one), h, h, h, h)
    with pytest.raises(ValueError, match="x must be float32"):
        _triton.solve(x.double(), None, h, h, epsilon=one, reach_x=one, reach_y=one)
    with pytest.raises(ValueError, match="cost must be one of"):
        _triton.solve(x, None, h, h, epsilon=one, reach_x=one, reach_y=one, cost="l3")


def test_available_gives_a_reason() -> None:
    ok, detail = _triton.available()
    assert detail
    assert ok == (INTERPRETED or torch.cuda.is_available())


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
    assert passed and int(passed.group(1)) >= 60, done.stdout
