"""Losses on feature maps, by hand and against loops over every entry in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ucmkd.losses import AttentionLoss, FSPLoss, attention_loss, fsp_loss


def maps(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_attention_by_hand() -> None:
    # q: (3² + 4², 0) and (0, 5²); at length one (1, 0) and (0, 1); the mean square gap is 1.
    student = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 5.0]]]])
    assert attention_loss(student, teacher).item() == pytest.approx(1.0)
    assert attention_loss(student, 2 * student).item() == pytest.approx(0.0, abs=1e-12)


def test_attention_is_its_formula() -> None:
    s, t = maps(3, 4, 2, 5), maps(3, 7, 2, 5, seed=1)

    def attention(a: Tensor, i: int) -> list[float]:
        q = [sum(a[i, c, x, y].item() ** 2 for c in range(a.shape[1]))
             for x in range(2) for y in range(5)]  # fmt: skip
        length = math.sqrt(sum(v**2 for v in q))
        return [v / length for v in q]

    gaps = [(u - v) ** 2 for i in range(3)
            for u, v in zip(attention(s, i), attention(t, i), strict=True)]  # fmt: skip
    assert attention_loss(s, t).item() == pytest.approx(sum(gaps) / 30, rel=1e-12)
    assert AttentionLoss()(s, t).item() == attention_loss(s, t).item()


def test_attention_of_dead_maps_has_a_finite_gradient() -> None:
    s = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_loss(s, maps(2, 3, 2, 2)).backward()
    assert s.grad is not None and not bool(s.grad.any())


def test_flow_by_hand() -> None:
    # Two places: G = (1·1 + 2·3) / 2 = 3.5 for the student, 0 for the teacher; the square 12.25.
    first, second = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    nothing = torch.zeros(1, 1, 1, 2)
    assert fsp_loss(first, second, nothing, second).item() == pytest.approx(12.25)
    # The larger map is pooled to the smaller's size: its maxima are 2 and 3.
    wide = torch.tensor([[[[1.0, 2.0, 3.0, 0.0]]]])
    assert fsp_loss(wide, second, nothing, second).item() == pytest.approx(((2 + 9) / 2) ** 2)


def test_flow_is_its_formula() -> None:
    a, b = maps(2, 3, 4, 2), maps(2, 5, 4, 2, seed=1)
    p, q = maps(2, 3, 3, 3, seed=2), maps(2, 5, 3, 3, seed=3)  # other places than the student's

    def flow(x: Tensor, y: Tensor, i: int, c: int, d: int) -> float:
        h, w = x.shape[2:]
        products = [x[i, c, u, v] * y[i, d, u, v] for u in range(h) for v in range(w)]
        return sum(v.item() for v in products) / (h * w)

    expected = sum(
        (flow(a, b, i, c, d) - flow(p, q, i, c, d)) ** 2
        for i in range(2) for c in range(3) for d in range(5)
    ) / 2  # fmt: skip
    assert fsp_loss(a, b, p, q).item() == pytest.approx(expected, rel=1e-12)
    assert FSPLoss()(a, b, p, q).item() == fsp_loss(a, b, p, q).item()


def test_gradients_types_and_the_teacher() -> None:
    s, t = maps(2, 3, 2, 2).requires_grad_(), maps(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, t), s)
    assert torch.autograd.gradcheck(lambda x: fsp_loss(x, x**3, t, t), s)
    for value in (attention_loss(s, t), fsp_loss(s, s, t, t)):
        assert torch.autograd.grad(value, t, allow_unused=True) == (None,)
    attached = attention_loss(s, t, detach_teacher=False)
    assert bool(torch.autograd.grad(attached, t)[0].any())
    low = attention_loss(s.detach().bfloat16(), t.detach().bfloat16())
    assert low.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 2, 2), ValueError, "student must be feature maps"),
        (torch.zeros(2, 3, 2, 2), [1.0], TypeError, "teacher must be a floating"),
        (torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 2), ValueError, r"\(2, 2\) and \(4, 2\)"),
        (torch.zeros(2, 3, 2, 2), torch.zeros(3, 3, 2, 2), ValueError, "student 2, teacher 3"),
        (torch.full((1, 1, 1, 1), math.nan), torch.zeros(1, 1, 1, 1), ValueError, "student must"),
    ],
)
def test_bad_maps_are_named(
    student: Tensor, teacher: Tensor, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        attention_loss(student, teacher)


def test_flow_needs_the_same_channels() -> None:
    x, y = torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3)
    with pytest.raises(ValueError, match=r"channels in both layers; got \(2, 4\) and \(2, 2\)"):
        fsp_loss(x, y, x, x)
    with pytest.raises(ValueError, match="teacher_second must be feature maps"):
        fsp_loss(x, y, x, torch.zeros(1, 4))
