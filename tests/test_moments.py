"""Losses of moments: Deep CORAL and the central moment discrepancy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moments_reference import central_moment_discrepancy, coral
from ucmkd import losses
from ucmkd.losses import cmd_align, coral_align

Loss = Callable[..., Tensor]
both = pytest.mark.parametrize("loss", [coral_align, cmd_align])
common = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.sampled_from([1, 2, 3, 5, 8, 17])
seeds = st.integers(0, 10**6)


def clouds(
    n: int = 9, m: int = 6, d: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, y = draw(n, d), 1.3 * draw(m, d) + 0.5
    a, b = draw(n).abs() + 0.1, draw(m).abs() + 0.1
    return x.to(dtype), y.to(dtype), a.to(dtype), b.to(dtype)


def test_golden_values() -> None:
    x = torch.tensor([[0.0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1], [2, 0], [0, -1], [3, 1]], dtype=torch.float64)
    assert coral_align(x, y).item() == pytest.approx(0.29210069444444436, rel=1e-13)
    assert cmd_align(x, y).item() == pytest.approx(7.647875006419842, rel=1e-13)
    gap = np.cov(x.numpy().T) - np.cov(y.numpy().T)
    assert coral_align(x, y).item() == pytest.approx((gap**2).sum() / 16, rel=1e-13)


@common
@given(seeds, sizes, sizes, st.integers(1, 5), st.booleans())
def test_definition(seed: int, n: int, m: int, d: int, weighted: bool) -> None:
    x, y, *masses = clouds(n, m, d, seed)
    a, b = masses if weighted else (None, None)
    weights = dict(student_weight=a, teacher_weight=b)
    expected = coral(x, y, a, b)
    assert coral_align(x, y, **weights).item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    for moments, bounds in ((1, None), (3, (-2.0, 3.0)), (5, None), (6, (0, 2))):
        width = 1.0 if bounds is None else bounds[1] - bounds[0]
        expected = central_moment_discrepancy(x, y, a, b, moments, width)
        value = cmd_align(x, y, moments=moments, bounds=bounds, **weights)
        assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-13)


@common
@given(seeds, sizes, sizes, st.floats(0.2, 5), st.floats(-50, 50))
def test_properties(seed: int, n: int, m: int, factor: float, shift: float) -> None:
    x, y, a, b = clouds(n, m, 3, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    zeros = torch.zeros(2, dtype=torch.float64)
    padded, longer = torch.cat([x, torch.full((2, 3), 1e15, dtype=x.dtype)]), torch.cat([a, zeros])
    orthogonal = torch.linalg.qr(torch.randn(3, 3, dtype=x.dtype))[0]
    for loss, exponent in ((coral_align, 4), (cmd_align, 0)):

        def run(x: Tensor, y: Tensor, a: Tensor, b: Tensor, loss: Loss = loss, **options) -> float:  # type: ignore[no-untyped-def]
            return loss(x, y, student_weight=a, teacher_weight=b, **options).item()

        value = run(x, y, a, b)
        near = pytest.approx(value, rel=1e-8, abs=1e-10)
        assert value >= 0
        assert run(y, x, b, a) == near
        assert run(x[order], y, a[order], b) == near
        assert run(x + shift, y + shift, 7 * a, b) == near
        assert run(padded, y, longer, b) == near
        assert run(x, x[order], a, a[order]) == pytest.approx(0, abs=1e-10)
        if loss is coral_align:
            # Rotations of both, and a shift of one, change no covariance distance.
            assert run(x @ orthogonal, (y + shift) @ orthogonal, a, b) == near
            assert run(factor * x, factor * y, a, b) / factor**exponent == near
        else:
            assert run(x, x + 0.5, a, a) == pytest.approx(0.5 * 3**0.5, rel=1e-8)
            one = run(x, y, a, b, bounds=(-1.0, 2.0))
            scaled = run(factor * x, factor * y, a, b, bounds=(0, 3 * factor))
            assert scaled == pytest.approx(one, rel=1e-8, abs=1e-10)


@both
def test_masked_points_are_no_points(loss: Loss) -> None:
    """Values and gradients are those of the cropped problem, whatever the mask hides."""
    x, y, _, _ = clouds(dtype=torch.float32)
    hidden = torch.cat([x, torch.tensor([[1e18, -1e18, 7, 0]])]).requires_grad_()
    mask = torch.tensor([1.0] * 9 + [0.0])
    cropped = x.clone().requires_grad_()
    values = loss(hidden, y, student_weight=mask), loss(cropped, y)
    torch.testing.assert_close(*values)
    gradients = torch.autograd.grad(values[0], hidden)[0], torch.autograd.grad(values[1], cropped)
    torch.testing.assert_close(gradients[0][:9], gradients[1][0])
    assert (gradients[0][9] == 0).all()


@both
def test_derivatives(loss: Loss) -> None:
    inputs = [t.requires_grad_() for t in clouds(5, 4, 3)]

    def value(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return loss(x, y, student_weight=a, teacher_weight=b, detach_teacher=False)

    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


@both
def test_derivatives_at_a_learned_mass_of_zero(loss: Loss) -> None:
    """The derivative to a mass that is 0 is the limit of those to small ones."""
    x, y, a, _ = clouds(5, 4, 2)
    found = []
    for last in (0.0, 1e-9):
        mass = torch.cat([a[:4], a.new_tensor([last])]).requires_grad_()
        found.append(torch.autograd.grad(loss(x, y, student_weight=mass), mass)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)
    assert found[0][4] != 0


@both
def test_hard_inputs_have_finite_derivatives(loss: Loss) -> None:
    spread = torch.randn(6, 3)
    collapsed = torch.ones(6, 3)
    cases = [
        (collapsed, collapsed), (collapsed, spread), (spread, collapsed), (spread, spread),
        (collapsed[:1], spread), (spread, spread[:1]), (spread[:1], spread[:1]),
        (1e-25 * spread, collapsed * 0), (1e6 * spread, -1e6 * spread),
        (spread[:, :1], collapsed[:, :1]),
    ]  # fmt: skip
    for x, y in cases:
        x = x.clone().requires_grad_()
        value = loss(x, y)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        assert torch.isfinite(value) and value >= 0
        assert torch.isfinite(gradient).all()
        if gradient.requires_grad:
            (second,) = torch.autograd.grad(gradient.sum(), x, allow_unused=True)
            assert second is None or torch.isfinite(second).all()
        if torch.equal(x, y):
            assert value == 0 and (gradient == 0).all()


def test_one_sample_with_all_the_mass() -> None:
    """An effective single sample has no covariance, but a second mass near 0 gives one."""
    x, y, _, _ = clouds(2, 6, 3)
    alone = coral_align(x, y, student_weight=torch.tensor([1.0, 0.0]))
    assert alone.item() == pytest.approx(coral_align(x[:1], y).item(), rel=1e-12)
    # Unbiased, a pair has the same covariance at any masses.
    tiny = coral_align(x, y, student_weight=torch.tensor([1.0, 1e-8], dtype=torch.float64))
    assert tiny.item() == pytest.approx(coral_align(x, y).item(), rel=1e-6)


def test_coral_is_unbiased() -> None:
    """Over all samples of two from four, the covariances average to that of the four."""
    x = torch.randn(4, 2, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(4))
    y = torch.zeros(1, 2, dtype=torch.float64)
    # Against one point (covariance 0) the loss is |C|²/16; polarise for C itself via scaling.
    direction = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    variances = torch.stack([coral_align(x[p] @ direction, y[:, :1]) for p in pairs])
    whole = coral_align(x @ direction, y[:, :1])
    assert (2 * variances.sqrt()).mean().item() == pytest.approx(2 * whole.sqrt().item(), rel=1e-12)


@both
def test_shift_in_float32(loss: Loss) -> None:
    x, y = ((torch.randn(n, 8) * 1024).round() / 1024 for n in (20, 30))
    found = []
    for shift in (0.0, 100.0):
        moved = (x + shift).requires_grad_()
        value = loss(moved, y + shift)
        found.append((value.detach(), *torch.autograd.grad(value, moved)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(loss: Loss, dtype: torch.dtype) -> None:
    x, y = torch.randn(20, 8).to(dtype).requires_grad_(), torch.randn(30, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, y)
    wide = x.detach().float().requires_grad_()
    expected = loss(wide, y.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, x)
    (wanted,) = torch.autograd.grad(expected, wide)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted.to(dtype))


@both
def test_batches_reductions_and_teacher(loss: Loss) -> None:
    x, y = torch.randn(3, 6, 2, requires_grad=True), torch.randn(3, 5, 2, requires_grad=True)
    a = torch.rand(3, 6)
    each = loss(x, y, student_weight=a, reduction="none")
    alone = torch.stack([loss(x[i], y[i], student_weight=a[i]) for i in range(3)])
    torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(x, y, student_weight=a), each.mean())
    torch.testing.assert_close(loss(x, y, student_weight=a, reduction="sum"), each.sum())
    each.sum().backward()
    assert y.grad is None and x.grad is not None
    loss(x, y, detach_teacher=False).backward()
    assert y.grad is not None


def test_modules_are_the_functions() -> None:
    x, y, a, b = clouds()
    weights = dict(student_weight=a, teacher_weight=b)
    assert losses.CoralAlign()(x, y, **weights) == coral_align(x, y, **weights)
    layer = losses.CMDAlign(moments=3, bounds=(0.0, 2.0))
    assert layer(x, y, **weights) == cmd_align(x, y, moments=3, bounds=(0.0, 2.0), **weights)
    assert "moments=3" in repr(layer) and "reduction='mean'" in repr(losses.CoralAlign())


@both
def test_compiled(loss: Loss) -> None:
    x, y, a, _ = clouds(dtype=torch.float32)
    x.requires_grad_()

    def value(x: Tensor, a: Tensor) -> Tensor:
        return loss(x, y, student_weight=a)

    compiled, expected = torch.compile(value, fullgraph=True)(x, a), value(x, a)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled, x), torch.autograd.grad(expected, x))


X, Y = torch.randn(5, 3), torch.randn(4, 3)


@both
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], Y), {}, ValueError, "student must have shape"),
        ((X, Y[:, :2]), {}, ValueError, "same width; got 3 and 2"),
        ((X, Y[:0]), {}, ValueError, "teacher must not be empty"),
        ((X.long(), Y), {}, TypeError, "student must be floating"),
        ((X, None), {}, TypeError, "teacher must be a torch.Tensor; got NoneType"),
        ((X * torch.inf, Y), {}, ValueError, "student must be finite"),
        ((X, Y), {"student_weight": -torch.ones(5)}, ValueError, "student_weight must be non-neg"),
        ((X, Y), {"teacher_weight": torch.zeros(4)}, ValueError, "teacher_weight must have a pos"),
        ((X, Y), {"teacher_weight": torch.ones(5)}, ValueError, "teacher_weight must have shape"),
        ((X, Y), {"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_arguments(loss: Loss, arguments, options, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        loss(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moments": 0}, "moments must be an integer >= 1; got 0"),
        ({"moments": 2.5}, "moments must be an integer >= 1; got 2.5"),
        ({"moments": True}, "moments must be an integer >= 1; got True"),
        ({"bounds": (1.0, 1.0)}, r"bounds must be .*a < b; got \(1.0, 1.0\)"),
        ({"bounds": (1.0, 0.0)}, "bounds must be"),
        ({"bounds": (0.0, float("inf"))}, "bounds must be"),
        ({"bounds": (0.0, float("nan"))}, "bounds must be"),
        ({"bounds": 1.0}, "bounds must be"),
        ({"bounds": ("a", "b")}, "bounds must be"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cmd_align(X, Y, **options)
