"""The energy distance as a loss, full and sliced."""

import math

import pytest
import torch
from torch import Tensor

from energy_reference import clouds, energy_distance
from ucmkd import losses

FLOAT64 = dict(dtype=torch.float64)

FORMS = [
    pytest.param(dict(projections=6, generator=0), id="sliced"),
    pytest.param({}, id="full"),
]


@pytest.mark.parametrize(("n", "m", "d"), [(9, 6, 4), (1, 5, 3), (6, 1, 1), (1, 1, 2)])
def test_full_is_the_definition(backend: str, n: int, m: int, d: int) -> None:
    x, y, a, b = clouds(n, m, d)
    value = losses.energy_align(x, y, student_weight=a, teacher_weight=b, backend=backend)
    assert value.item() == pytest.approx(energy_distance(x, y, a, b), rel=1e-10)


def test_full_golden_value(backend: str) -> None:
    x = torch.tensor([[0.0, 0], [1, 0], [0, 2]], **FLOAT64)
    y = torch.tensor([[1.0, 1], [2, 0], [0, -1], [3, 1]], **FLOAT64)
    value = losses.energy_align(x, y, backend=backend)
    assert value.item() == pytest.approx(1.161780228882498, rel=1e-12)


def test_full_and_sliced_agree_on_the_line() -> None:
    x, y, a, b = clouds(d=1)
    weights = dict(student_weight=a, teacher_weight=b)
    one = losses.energy_align(x, y, projections=1, **weights)
    assert losses.energy_align(x, y, **weights).item() == pytest.approx(one.item(), rel=1e-10)


@pytest.mark.parametrize("options", FORMS)
def test_invariances(options: dict) -> None:
    x, y, a, b = clouds(8, 5, 3)

    def loss(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> float:
        return losses.energy_align(x, y, student_weight=a, teacher_weight=b, **options).item()

    value = loss(x, y, a, b)
    near = pytest.approx(value, rel=1e-9)
    order = torch.randperm(8)
    assert value > 0
    assert loss(x[order], y, a[order], b) == near
    assert loss(y, x, b, a) == near
    assert loss(x + 7, y + 7, 5 * a, b) == near
    assert loss(3 * x, 3 * y, a, b) / 3 == near
    assert loss(x, x[order], a, a[order]) == pytest.approx(0, abs=1e-12)
    zeros = torch.zeros(2, **FLOAT64)
    padded = torch.cat([x, torch.full((2, 3), 40.0, **FLOAT64)])
    assert loss(padded, y, torch.cat([a, zeros]), b) == near


@pytest.mark.parametrize("options", FORMS)
def test_shift_in_float32(options: dict) -> None:
    # The inputs of both problems are the same numbers up to the shift (multiples of 2^-10).
    x, y = ((torch.randn(n, 8) * 1024).round() / 1024 for n in (20, 30))
    found = []
    for shift in (0.0, 100.0):
        moved = (x + shift).requires_grad_()
        value = losses.energy_align(moved, y + shift, **options)
        found.append((value.detach(), *torch.autograd.grad(value, moved)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", FORMS)
def test_hard_inputs_have_finite_gradients(options: dict) -> None:
    spread = torch.randn(6, 3)
    collapsed = torch.ones(6, 3)
    cases = [
        (collapsed, collapsed), (collapsed, spread), (spread, collapsed), (spread, spread),
        (collapsed[:1], spread), (spread, spread[:1]), (spread[:1], spread[:1]),
        (1e-20 * spread, collapsed * 0), (1e6 * spread, -1e6 * spread),
        (spread[:, :1], collapsed[:, :1]),
    ]  # fmt: skip
    for x, y in cases:
        x = x.clone().requires_grad_()
        value = losses.energy_align(x, y, **options)
        (gradient,) = torch.autograd.grad(value, x)
        assert torch.isfinite(value) and value >= -1e-6
        assert torch.isfinite(gradient).all()
        if torch.equal(x, y):
            assert abs(value.item()) < 1e-6 and gradient.abs().max() < 1e-6
        if (x == x[0]).all():  # coincident points move together
            torch.testing.assert_close(gradient, gradient[:1].expand_as(gradient))


def test_sliced_derivatives() -> None:
    x, y, a, b = clouds(5, 4, 3)
    directions = torch.randn(3, 3, **FLOAT64)
    inputs = [t.requires_grad_() for t in (x, y, a, b, directions)]

    def loss(x: Tensor, y: Tensor, a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
        return losses.energy_align(
            x, y, student_weight=a, teacher_weight=b, directions=directions, detach_teacher=False
        )

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(options: dict, dtype: torch.dtype) -> None:
    x, y = torch.randn(20, 8).to(dtype).requires_grad_(), torch.randn(30, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.energy_align(x, y, **options)
    wide = x.detach().float().requires_grad_()
    expected = losses.energy_align(wide, y.float(), **options)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, x)
    (wanted,) = torch.autograd.grad(expected, wide)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted.to(dtype))


@pytest.mark.parametrize("options", FORMS)
def test_batches_reductions_and_teacher(options: dict) -> None:
    x, y = torch.randn(3, 6, 2, requires_grad=True), torch.randn(3, 5, 2, requires_grad=True)
    each = losses.energy_align(x, y, reduction="none", **options)
    alone = torch.stack([losses.energy_align(x[i], y[i], **options) for i in range(3)])
    torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.energy_align(x, y, **options), each.mean())
    torch.testing.assert_close(losses.energy_align(x, y, reduction="sum", **options), each.sum())
    each.sum().backward()
    assert y.grad is None and x.grad is not None
    losses.energy_align(x, y, detach_teacher=False, **options).backward()
    assert y.grad is not None


def test_module_is_the_function() -> None:
    x, y, a, _ = clouds(dtype=torch.float32)
    directions = torch.randn(7, 4)
    layer = losses.EnergyAlign(directions=directions)
    value = losses.energy_align(x, y, directions=directions, student_weight=a)
    torch.testing.assert_close(layer(x, y, student_weight=a), value)
    assert "directions=Tensor(7, 4)" in repr(layer)
    assert [name for name, _ in layer.named_buffers()] == ["directions"]
    seeded = losses.EnergyAlign(projections=5, generator=2)
    assert seeded(x, y) == losses.energy_align(x, y, projections=5, generator=2)
    assert "projections=5" in repr(seeded)


@pytest.mark.parametrize("options", [*FORMS, pytest.param(dict(projections=6), id="unseeded")])
def test_compiled(options: dict) -> None:
    x, y = torch.randn(10, 4, requires_grad=True), torch.randn(8, 4)
    a = torch.rand(10)

    def loss(x: Tensor, a: Tensor) -> Tensor:
        return losses.energy_align(x, y, student_weight=a, **options)

    compiled = torch.compile(loss, fullgraph=True)(x, a)
    (gradient,) = torch.autograd.grad(compiled, x)
    assert torch.isfinite(gradient).all() and compiled > 0
    if options != dict(projections=6):  # those directions are new at every call
        expected = loss(x, a)
        torch.testing.assert_close(compiled, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])


X, Y = torch.randn(5, 3), torch.randn(4, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"projections": 0}, ValueError, "projections must be an integer >= 1; got 0"),
        ({"projections": 2.0}, ValueError, "projections must be an integer >= 1; got 2.0"),
        ({"projections": 2, "directions": X}, ValueError, "projections must be None when dir"),
        ({"directions": [[1.0]]}, TypeError, "directions must be a floating .* got list"),
        ({"directions": X.long()}, TypeError, "directions must be a floating .* torch.int64"),
        ({"directions": X[0]}, ValueError, r"directions must have shape \(L, 3\).*got \(3,\)"),
        ({"directions": X[:0]}, ValueError, r"directions must have shape .*got \(0, 3\)"),
        ({"directions": 0 * X}, ValueError, "rows of positive finite length"),
        ({"directions": X * math.nan}, ValueError, "rows of positive finite length"),
        ({"projections": 2, "generator": "a"}, TypeError, "generator must be None, an int"),
        ({"generator": 1}, ValueError, "generator=1 needs projections"),
        ({"projections": 2, "backend": "rust"}, ValueError, "backend of the sliced distance"),
        ({"projections": 2, "student_weight": -torch.ones(5)}, ValueError, "student_weight must"),
        ({"projections": 2, "teacher_weight": torch.ones(5)}, ValueError, "teacher_weight must"),
        ({"student_weight": torch.ones(4)}, ValueError, "student_weight must have shape"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        losses.energy_align(X, Y, **options)
