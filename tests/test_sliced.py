"""Energy distance on the line, and sliced."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from energy_reference import clouds, energy_distance
from ucmkd import losses, ops
from ucmkd.ops import sliced

common = settings(max_examples=60, deadline=None, derandomize=True)
sizes = st.sampled_from([1, 2, 3, 5, 8, 17])
seeds = st.integers(0, 10**6)
FLOAT64 = dict(dtype=torch.float64)
X, Y = torch.randn(5, 3), torch.randn(4, 3)


def line(seed: int, n: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Values and masses; with ``ties`` the values are small integers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator, **FLOAT64)
    weight = torch.rand(n, generator=generator, **FLOAT64) + 0.05
    return (2 * values).round() if ties else values, weight / weight.sum()


def pairwise(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The definition in torch, differentiable (the derivative of |0| is 0)."""
    a, b = a / a.sum(), b / b.sum()

    def term(p: Tensor, q: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return u @ (p[:, None] - q[None]).abs() @ v

    return 2 * term(x, y, a, b) - term(x, x, a, a) - term(y, y, b, b)


# On the line


@common
@given(seeds, sizes, sizes, st.booleans())
def test_line_is_the_definition(seed: int, n: int, m: int, ties: bool) -> None:
    (x, a), (y, b) = line(seed, n, ties), line(seed + 1, m, ties)
    inputs = [t.clone().requires_grad_() for t in (x, y, a, b)]
    value = ops.energy_distance_1d(*inputs[:2], x_weight=inputs[2], y_weight=inputs[3])
    assert value.item() == pytest.approx(energy_distance(x, y, a, b), rel=1e-12, abs=1e-13)
    expected = pairwise(*inputs)
    torch.testing.assert_close(
        torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs),
        rtol=1e-10, atol=1e-12,
    )  # fmt: skip


@common
@given(seeds, sizes, sizes, st.floats(0.1, 10), st.floats(-50, 50), st.booleans())
def test_line_invariances(
    seed: int, n: int, m: int, factor: float, shift: float, ties: bool
) -> None:
    (x, a), (y, b) = line(seed, n, ties), line(seed + 1, m, ties)
    value = ops.energy_distance_1d(x, y, x_weight=a, y_weight=b).item()
    near = pytest.approx(value, rel=1e-9, abs=1e-12)
    assert value >= 0
    assert ops.energy_distance_1d(y, x, x_weight=b, y_weight=a).item() == near
    moved = ops.energy_distance_1d(
        factor * x + shift, factor * y + shift, x_weight=a, y_weight=3 * b
    )
    assert moved.item() / factor == near
    order = torch.randperm(n)
    assert ops.energy_distance_1d(x[order], y, x_weight=a[order], y_weight=b).item() == near
    # A point in two places with half the mass each, and masked points anywhere.
    padded = torch.cat([x, x, torch.tensor([1e30, -1e9], **FLOAT64)])
    halves = torch.cat([0.5 * a, 0.5 * a, torch.zeros(2, **FLOAT64)])
    assert ops.energy_distance_1d(padded, y, x_weight=halves, y_weight=b).item() == near
    same = ops.energy_distance_1d(x, x[order], x_weight=a, y_weight=a[order])
    assert same.item() == pytest.approx(0, abs=1e-28)
    assert ops.energy_distance_1d(x, x + 0.25, x_weight=a, y_weight=a).item() > 0


def test_line_closed_forms() -> None:
    one, other = torch.tensor([3.0], **FLOAT64), torch.tensor([-4.0], **FLOAT64)
    assert ops.energy_distance_1d(one, other).item() == 14.0
    # U[0, 1] against its shift by a: 2a² - ⅔a³.
    grid = (torch.arange(20_000, **FLOAT64) + 0.5) / 20_000
    value = ops.energy_distance_1d(grid, grid + 0.3).item()
    assert value == pytest.approx(2 * 0.3**2 - 2 / 3 * 0.3**3, rel=1e-7)
    x, y = torch.randn(40, **FLOAT64), torch.randn(30, **FLOAT64) + 1
    root = stats.energy_distance(x.numpy(), y.numpy())
    assert ops.energy_distance_1d(x, y).item() == pytest.approx(root**2, rel=1e-12)


def test_line_batches() -> None:
    x, y = torch.randn(3, 7), torch.randn(3, 5)
    a = torch.rand(3, 7)
    batch = ops.energy_distance_1d(x, y, x_weight=a)
    alone = [ops.energy_distance_1d(x[i], y[i], x_weight=a[i]) for i in range(3)]
    assert batch.shape == (3,) and batch.dtype == torch.float32
    torch.testing.assert_close(batch, torch.stack(alone), rtol=1e-6, atol=0)


def test_line_keeps_its_digits() -> None:
    """No cancellation: neither for almost equal clouds nor for a small cloud far from another."""
    x = torch.randn(200)
    y = x.clone()
    y[7] += 1e-4
    expected = energy_distance(x, y)
    assert ops.energy_distance_1d(x, y).item() == pytest.approx(expected, rel=1e-5)
    # Shifted far away in float64, where the pairwise sum loses the value and this does not.
    close = torch.tensor([0.0, 1.0], **FLOAT64)
    shifted = ops.energy_distance_1d(close + 2.0**30, close.flip(0) + 2.0**30 + 2.0**-20)
    assert shifted.item() == pytest.approx(2 * 0.5**2 * 2 * 2.0**-20, rel=1e-12)


def test_line_memory_is_linear() -> None:
    """200,000 points on each side: a matrix of pairs would be 320 GB."""
    x = torch.randn(200_000, requires_grad=True)
    value = ops.energy_distance_1d(x, torch.randn(200_000) + 1)
    value.backward()
    # D² of N(0, 1) and N(1, 1).
    cross = 2 / math.sqrt(math.pi) * math.exp(-0.25) + math.erf(0.5)
    assert value.item() == pytest.approx(2 * cross - 4 / math.sqrt(math.pi), rel=0.03)
    assert x.grad is not None and x.grad.sum().item() == pytest.approx(-2 * math.erf(0.5), rel=0.03)


# Sliced


def sliced_reference(x: Tensor, y: Tensor, directions: Tensor, a: Tensor, b: Tensor) -> float:
    d = x.shape[-1]
    constant = math.gamma(d / 2) / math.sqrt(math.pi) / math.gamma((d + 1) / 2)
    each = [energy_distance(x @ u / u.norm(), y @ u / u.norm(), a, b) for u in directions]
    return sum(each) / len(each) / constant


@pytest.mark.parametrize(("n", "m", "d"), [(9, 6, 4), (1, 5, 3), (6, 1, 1), (1, 1, 2)])
def test_sliced_is_the_definition(n: int, m: int, d: int) -> None:
    x, y, a, b = clouds(n, m, d)
    directions = torch.randn(5, d, **FLOAT64)
    expected = sliced_reference(x, y, directions, a, b)
    value = ops.sliced_energy(x, y, directions=directions, x_weight=a, y_weight=b)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    bound = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
    for dtype, relative in bound.items():
        low = ops.sliced_energy(x.to(dtype), y.to(dtype), directions=directions.to(dtype),
                                x_weight=a.to(dtype), y_weight=b.to(dtype))  # fmt: skip
        assert low.dtype == torch.float32
        assert low.item() == pytest.approx(expected, rel=relative)


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_sliced_expectation_is_the_full_distance(d: int) -> None:
    x, y, a, b = clouds(8, 7, d)
    expected = energy_distance(x, y, a, b)
    each = torch.stack(
        [
            ops.sliced_energy(x, y, projections=500, generator=seed, x_weight=a, y_weight=b)
            for seed in range(40)
        ]
    )
    error = each.std().item() / math.sqrt(len(each))
    # A bias of some percent would show: the standard error is far below that.
    assert error < 0.01 * expected
    assert abs(each.mean().item() - expected) < 4 * error + 1e-12 * expected


def test_slicing_constant() -> None:
    values = [sliced.slicing_constant(d) for d in (1, 2, 3)]
    assert values == pytest.approx([1, 2 / math.pi, 1 / 2], rel=1e-13)
    wide = 10**6  # where the gamma function itself overflows
    assert sliced.slicing_constant(wide) == pytest.approx(math.sqrt(2 / math.pi / wide), rel=1e-5)


def test_generators() -> None:
    x, y, _, _ = clouds(dtype=torch.float32)
    seeded = [ops.sliced_energy(x, y, projections=8, generator=3) for _ in range(2)]
    assert seeded[0] == seeded[1] != ops.sliced_energy(x, y, projections=8, generator=4)
    # A seed means the same directions in every precision.
    double = ops.sliced_energy(x.double(), y.double(), projections=8, generator=3)
    assert seeded[0].item() == pytest.approx(double.item(), rel=1e-5)
    objects = [
        ops.sliced_energy(x, y, projections=8, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert objects[0] == objects[1]
    state = torch.get_rng_state()
    ops.sliced_energy(x, y, projections=8, generator=3)
    assert torch.equal(state, torch.get_rng_state())
    first, second = (ops.sliced_energy(x, y, projections=8) for _ in range(2))
    assert first != second
    torch.manual_seed(1)
    again = ops.sliced_energy(x, y, projections=8)
    torch.manual_seed(1)
    assert ops.sliced_energy(x, y, projections=8) == again


def test_sliced_far_clouds_keep_their_order() -> None:
    """A float32 cloud of size 1 at a distance of 10^7: values and gradients as if in float64."""
    x = torch.randn(20, 3).requires_grad_()
    y = torch.randn(15, 3) + 1e7
    directions = torch.randn(6, 3)
    value = losses.energy_align(x, y, directions=directions)
    (gradient,) = torch.autograd.grad(value, x)
    wide = x.detach().double().requires_grad_()
    expected = losses.energy_align(wide, y.double(), directions=directions.double())
    (wanted,) = torch.autograd.grad(expected, wide)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([1.0], Y[0], TypeError, "x must be a torch.Tensor; got list"),
        (X[None], Y[0], ValueError, r"x must have shape \(n,\) or \(B, n\).*got \(1, 5, 3\)"),
        (X[0], Y, ValueError, r"x and y must be \(n,\) and \(m,\).*got \(3,\) and \(4, 3\)"),
        (X, Y, ValueError, r"x and y must be .*got \(5, 3\) and \(4, 3\)"),
        (X[0], Y[0].long(), TypeError, "y must be floating; got torch.int64"),
        (X[0], Y[0, :0], ValueError, r"y must have .*not be empty; got \(0,\)"),
        (X[0], Y[0].to("meta"), ValueError, "x and y must be on one device"),
    ],
)
def test_bad_values(x: Tensor, y: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.energy_distance_1d(x, y)


def test_directions_operator() -> None:
    torch.library.opcheck(sliced.directions_op, (X, 4, 1))
