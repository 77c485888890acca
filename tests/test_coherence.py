"""Orders and guidance by hand, and against a literal loop over pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.coherence import (
    OrderNet,
    Towers,
    alignment_loss,
    best_match,
    exact_match,
    guided_logits,
    kendall_tau,
    most_probable_order,
    order_loss,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def ranks(rows: int, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, n, generator=generator).argsort(dim=1)


def test_tau_by_hand() -> None:
    position = torch.tensor([[0, 1, 2, 3]] * 4)
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 2, 3], [1, 2, 3, 0]])
    # 0, 6, 1 and 3 of six pairs are in the wrong order.
    assert kendall_tau(order, position).tolist() == pytest.approx([1, -1, 1 - 2 / 6, 0])
    assert exact_match(order, position).tolist() == [True, False, False, False]
    # Whatever the elements are called.
    shuffle = torch.tensor([2, 0, 3, 1])
    assert kendall_tau(order[:, shuffle], position[:, shuffle]).tolist() == pytest.approx(
        [1, -1, 1 - 2 / 6, 0]
    )


def test_tau_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    order, position = ranks(20, 7), ranks(20, 7, seed=1)
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(order, position, strict=True)]
    assert kendall_tau(order, position).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_order_is_the_best_of_all(n: int) -> None:
    given = logits(8, n, n, 2)
    found = most_probable_order(given)
    assert (found.sort(dim=1).values == torch.arange(n)).all()
    likely = given.log_softmax(-1)

    def value(b: int, rank: tuple[int, ...]) -> float:
        return sum(
            float(likely[b, i, j, 1] if rank[i] < rank[j] else likely[b, i, j, 0])
            for i in range(n) for j in range(n) if i != j
        )  # fmt: skip

    for b in range(8):
        best = max(itertools.permutations(range(n)), key=lambda rank: value(b, rank))
        assert found[b].tolist() == list(best)


def test_sure_logits_give_the_order_back() -> None:
    position = ranks(6, 9)
    before = position[:, :, None] < position[:, None]
    given = torch.stack([(~before).double(), before.double()], dim=-1)
    assert torch.equal(most_probable_order(given), position)
    given = given + 1e6 * torch.eye(9)[None, :, :, None]  # diagonals do not count
    assert torch.equal(most_probable_order(given), position)


def test_order_loss_by_hand() -> None:
    # Element 1 comes first: (0, 1) is "after", class 0; (1, 0) "before", class 1.
    given = torch.tensor([[[[9.0, 9.0], [1.0, 0.0]], [[0.0, 3.0], [9.0, 9.0]]]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert order_loss(given, torch.tensor([[1, 0]])).item() == pytest.approx(expected)


def test_order_loss_is_its_formula() -> None:
    given, position = logits(3, 4, 4, 2), ranks(3, 4)
    terms = [
        -F.log_softmax(given[b, i, j], dim=0)[int(position[b, i] < position[b, j])].item()
        for b in range(3) for i in range(4) for j in range(4) if i != j
    ]  # fmt: skip
    assert order_loss(given, position).item() == pytest.approx(sum(terms) / 36, rel=1e-12)


def test_guidance_by_hand() -> None:
    """Three guiding windows, the last two of which look like window 0."""
    given = torch.zeros(1, 3, 3, 2)
    guide = torch.zeros(1, 3, 3, 2)
    guide[0, 0, 1] = torch.tensor([2.0, 0.0])  # .88 after: added at (2, 0)
    guide[0, 0, 2] = torch.tensor([3.0, 0.0])  # .95 after: there too
    guide[0, 1, 0] = torch.tensor([0.0, 5.0])  # .99 before: not this class
    guide[0, 2, 0] = torch.tensor([1.0, 0.0])  # .73 after: not sure enough
    guide[0, 1, 2] = torch.tensor([4.0, 0.0])  # onto the diagonal
    guide[0, 1, 1] = torch.tensor([9.0, 0.0])  # from the diagonal: never
    match = torch.tensor([[2, 0, 0]])
    expected = torch.zeros(1, 3, 3, 2)
    expected[0, 2, 0] = torch.tensor([5.0, 0.0])
    expected[0, 0, 0] = torch.tensor([4.0, 0.0])
    assert torch.equal(guided_logits(given, guide, match), expected)
    assert torch.equal(guided_logits(given, guide, match, weight=0.25), expected / 4)
    found = guided_logits(given, guide, match, threshold=0.9)
    assert found[0, 2, 0].tolist() == [3.0, 0.0]
    assert not guided_logits(given, guide, match, threshold=1.0).any()
    assert not given.any()  # the given logits are left as they are


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
def test_guidance_is_its_formula(threshold: float) -> None:
    given, guide, similarity = logits(4, 5, 5, 2), logits(4, 6, 6, 2, seed=1), logits(4, 6, 5)
    match = best_match(similarity)
    expected = given.clone()
    for b in range(4):
        for i in range(6):
            for j in range(6):
                x, y = guide[b, i, j].tolist()
                if i != j and math.exp(x) / (math.exp(x) + math.exp(y)) > threshold:
                    m = max(range(5), key=lambda k: float(similarity[b, i, k]))
                    k = max(range(5), key=lambda k: float(similarity[b, j, k]))
                    expected[b, m, k] += 0.7 * torch.tensor([x, y])
    found = guided_logits(given, guide, match, threshold=threshold, weight=0.7)
    torch.testing.assert_close(found, expected)


def test_guidance_has_the_guided_gradient_only() -> None:
    given, guide = logits(2, 3, 3, 2).requires_grad_(), logits(2, 3, 3, 2, seed=1).requires_grad_()
    match = torch.tensor([[2, 0, 1], [0, 0, 1]])
    loss = order_loss(guided_logits(given, guide, match), ranks(2, 3))
    own, other = torch.autograd.grad(loss, (given, guide), allow_unused=True)
    assert own is not None and bool(own.any()) and other is None
    assert torch.autograd.gradcheck(
        lambda x: order_loss(guided_logits(x, guide, match), ranks(2, 3)), given
    )


def test_a_gold_guide_puts_an_ignorant_student_into_order() -> None:
    position, guide_position = ranks(5, 6), ranks(5, 6, seed=1)
    before = guide_position[:, :, None] < guide_position[:, None]
    guide = 4 * torch.stack([(~before).double(), before.double()], dim=-1)
    partner = position.argsort(dim=1).gather(1, guide_position)
    found = guided_logits(torch.zeros_like(guide), guide, partner)
    assert torch.equal(most_probable_order(found), position)
    # Without any correspondence the same decisions say nothing of use.
    wrong = guided_logits(torch.zeros_like(guide), guide, partner[:, [1, 2, 3, 4, 5, 0]])
    assert not exact_match(most_probable_order(wrong), position).any()


def test_alignment_loss_by_hand() -> None:
    # Guide 0 belongs to window 1 and guide 1 to window 0.
    similarity = torch.tensor([[[0.1, 0.3], [0.2, 0.0]]])
    rows = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    columns = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    found = alignment_loss(similarity, torch.tensor([[1, 0]]), temperature=0.1)
    assert found.item() == pytest.approx((rows + columns) / 2, rel=1e-6)
    # Three windows in a ring: the inverse of the partners is not themselves.
    similarity = logits(1, 3, 3, scale=0.3)
    partner, p = torch.tensor([[1, 2, 0]]), similarity[0] / 0.1
    rows = sum(-p[i].log_softmax(0)[partner[0, i]].item() for i in range(3)) / 3
    columns = sum(-p[:, partner[0, i]].log_softmax(0)[i].item() for i in range(3)) / 3
    assert alignment_loss(similarity, partner).item() == pytest.approx((rows + columns) / 2)


def test_networks_do_not_see_where_an_element_stands() -> None:
    torch.manual_seed(0)
    net, x = OrderNet(6, width=8).eval(), torch.randn(2, 4, 3, 2)
    shuffle = torch.tensor([2, 0, 3, 1])
    out = net(x)
    assert out.shape == (2, 4, 4, 2)
    torch.testing.assert_close(net(x[:, shuffle]), out[:, shuffle][:, :, shuffle])
    similarity = Towers(6, 4, width=8, dim=4)(x, torch.randn(2, 5, 2, 2))
    assert similarity.shape == (2, 4, 5) and float(similarity.detach().abs().max()) <= 1.0001


def test_bad_arguments_are_named() -> None:
    good, order = torch.zeros(2, 3, 3, 2), ranks(2, 3)
    match = torch.zeros(2, 3, dtype=torch.int64)
    for call, kind, message in (
        (lambda: order_loss([1.0], order), TypeError, "logits must be a floating torch.Tensor"),  # type: ignore[arg-type]
        (lambda: order_loss(good[..., :1], order), ValueError, r"\(B, n, n, 2\).*got \(2, 3, 3, 1"),
        (lambda: order_loss(good, order.double()), TypeError, "position must be an integer"),
        (lambda: order_loss(good, order[:, :2]), ValueError, r"shape \(2, 3\); got \(2, 2\)"),
        (lambda: order_loss(good, match), ValueError, "every rank 0…2 once"),
        (lambda: kendall_tau(order, ranks(2, 4)), ValueError, "position must have shape"),
        (lambda: most_probable_order(torch.zeros(1, 13, 13, 2)), ValueError, "at most 12.*got 13"),
        (lambda: guided_logits(good, good, match[:1]), ValueError, r"\(B, n_g\); got"),
        (lambda: guided_logits(good, good, match + 3), ValueError, "match must lie in 0…2"),
        (lambda: guided_logits(good, good, match.double()), TypeError, "match must be an integer"),
        (lambda: guided_logits(good, good, match, threshold=1.1), ValueError, "threshold"),
        (lambda: guided_logits(good, good, match, weight=-1.0), ValueError, "weight"),
        (lambda: guided_logits(good, order, match), TypeError, "guide_logits must be a floating"),
        (lambda: best_match(good), ValueError, r"similarity must have shape \(B, n_g, n\)"),
        (lambda: alignment_loss(good[..., 0], order, temperature=0), ValueError, "temperature"),
        (lambda: alignment_loss(good[..., 0], order[:1]), ValueError, "similarity and partner"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()
