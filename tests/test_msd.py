"""MSD: masks, saliencies and weights by hand, and a method that is their sum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_common import C, D, double, make, make_batch  # noqa: F401
from ucmkd import diagnostics
from ucmkd.methods.lookahead import weight_gradient
from ucmkd.methods.modalities import alone, without
from ucmkd.methods.msd import WEIGHTINGS, modality_losses, saliency, shares
from ucmkd.models import MLP


def kl(p: Tensor, q: Tensor) -> float:
    """``Σ p log p/q`` of two rows of logits."""
    a, b = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
    return float((a * (a / b).log()).sum())


def test_masks_by_hand() -> None:
    x, parts = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), {"a": 1, "b": 2}
    assert alone(x, parts).tolist() == [[[1, 0, 0], [4, 0, 0]], [[0, 2, 3], [0, 5, 6]]]
    assert without(x, parts).tolist() == [[[0, 2, 3], [0, 5, 6]], [[1, 0, 0], [4, 0, 0]]]
    three = {"a": 1, "b": 1, "c": 1}
    assert without(x, three)[1].tolist() == [[1, 0, 3], [4, 0, 6]]
    torch.testing.assert_close(alone(x, three).sum(0), x)


def test_modality_losses_by_loops() -> None:
    s, t = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    found = modality_losses(s, t, temperature=1.5)
    for m in range(2):
        for i in range(4):
            expected = 1.5**2 * kl(t[m, i] / 1.5, s[m, i] / 1.5)
            assert found[m, i].item() == pytest.approx(expected, rel=1e-9)


def test_saliency_by_hand() -> None:
    # (1/2, 1/2) becomes (3/4, 1/4) without the first modality, and stays without the second.
    whole = torch.zeros(1, 2)
    masked = torch.tensor([[[math.log(3), 0.0]], [[5.0, 5.0]]])
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert saliency(whole, masked).flatten().tolist() == pytest.approx([expected, 0.0])


def test_shares_by_hand() -> None:
    found = shares(torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    assert found.tolist() == [[0.75, 0.5], [0.25, 0.5]]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_method_is_the_sum_of_its_terms(weighting: str) -> None:
    method = make("msd", weighting=weighting, alpha=0.3, weight=0.7, temperature=1.5)
    batch = make_batch()
    x, z = batch.paired, batch.paired_teacher_feature
    if weighting == "population":  # an earlier batch counts as well
        earlier = torch.randn(3, z.shape[1])
        method.modality_weights(earlier)
    terms = method.losses(batch)

    def teacher(rows: Tensor) -> Tensor:
        return method.teacher_head(rows)

    def cut(rows: Tensor, first: int, keep: int) -> Tensor:
        left = rows.clone()
        left[:, first:] *= keep == 0
        left[:, :first] *= keep == 1
        return left

    salient = [[kl(teacher(row), teacher(cut(row, 4, 1 - m))) for m in range(2)]
               for row in z.split(1)]  # fmt: skip
    if weighting == "population":
        salient += [[kl(teacher(row), teacher(cut(row, 4, 1 - m))) for m in range(2)]
                    for row in earlier.split(1)]  # fmt: skip
        total = [sum(row[m] for row in salient) for m in range(2)]
        salient = [total] * len(z)
    expected = kd = 0.0
    for i in range(len(z)):
        s, t = method.student(x[i : i + 1]), teacher(z[i : i + 1])
        kd += 1.5**2 * kl(t / 1.5, s / 1.5) / len(z)
        for m in range(2):
            s, t = method.student(cut(x[i : i + 1], 2, m)), teacher(cut(z[i : i + 1], 4, m))
            share = salient[i][m] / sum(salient[i]) if weighting in WEIGHTINGS[1:3] else 0.5
            expected += share * 1.5**2 * kl(t / 1.5, s / 1.5) / len(z)
    assert terms["modality"].item() == pytest.approx(expected, rel=1e-8)
    assert terms["kd"].item() == pytest.approx(kd, rel=1e-8)
    total = 0.7 * (terms["ce"] + terms["pair_ce"]) + 0.3 * terms["kd"] + 0.7 * terms["modality"]
    if weighting == "meta":
        total = total + terms["meta"]
    torch.testing.assert_close(method.total(terms, 0), total)


def test_weight_gradient_is_that_of_the_step_ahead() -> None:
    """By automatic differentiation through a gradient step that is written out."""
    student, x, y = MLP(3, num_classes=2, hidden=4, width=3), torch.randn(5, 3), torch.randn(4, 3)
    label, weights = torch.tensor([0, 1, 1, 0]), torch.tensor([0.3, 0.7], requires_grad=True)

    def parts() -> tuple[Tensor, list[Tensor]]:
        logits = student(x)
        return logits.square().mean(), [logits[:, k].exp().mean() for k in range(2)]

    base, each = parts()
    found = weight_gradient(
        student, base, each, weights.detach(),
        lambda predict: torch.nn.functional.cross_entropy(predict(y), label), step=0.2,
    )  # fmt: skip
    named = dict(student.named_parameters())
    base, each = parts()
    loss = base + weights[0] * each[0] + weights[1] * each[1]
    slopes = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    moved = {k: p - 0.2 * g for (k, p), g in zip(named.items(), slopes, strict=True)}
    logits = torch.func.functional_call(student, moved, (y,))
    held_out = -logits.log_softmax(-1)[torch.arange(4), label].mean()
    torch.testing.assert_close(found, torch.autograd.grad(held_out, weights)[0])
    assert all(p.grad is None for p in student.parameters())


def test_meta_weights_turn_to_what_helps() -> None:
    """They start equal, and go where the cross-entropy of the other half of the labels falls."""
    torch.manual_seed(1)
    method = make("msd", weighting="meta", weight=5.0, lookahead=0.5)
    batch = make_batch()
    before = method.modality_weights(batch.paired_teacher_feature)[:, 0]
    assert before.tolist() == [0.5, 0.5]
    method.backward(batch, 0)
    slope = method.preference.grad
    assert slope is not None and slope.sum().item() == pytest.approx(0, abs=1e-12)
    assert slope.abs().min() > 0
    with torch.no_grad():
        method.preference -= 0.1 * slope / slope.norm()
    after = method.modality_weights(batch.paired_teacher_feature)[:, 0]
    assert (after - before)[slope.argmin()] > 0
    assert after.sum().item() == pytest.approx(1)


def test_population_counts_in_training_alone() -> None:
    method, batch = make("msd", weighting="population"), make_batch()
    method.eval()
    method.losses(batch)
    assert not method.salient.any()
    method.train()
    method.losses(batch)
    assert (method.salient > 0).all()


def test_weights_are_reported() -> None:
    with diagnostics.collect() as found:
        make("msd").losses(make_batch())
    weights = found.means()
    assert set(weights) == {"modality_weight/a", "modality_weight/b"}
    assert sum(weights.values()) == pytest.approx(1)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"msd needs modalities.*view: rna\+meth.*vanilla_kd"):
        make("msd", modalities={"a": D})
    with pytest.raises(ValueError, match=r"same names in the same order, got .*'b'.*'c'"):
        make("msd", teacher_modalities={"a": 4, "c": 3})
    with pytest.raises(ValueError, match=r"weighting must be one of .*'meta'"):
        make("msd", weighting="metal")
    with pytest.raises(ValueError, match=r"alpha must be .*below 1, got 1"):
        make("msd", alpha=1.0)
    assert C == 3
