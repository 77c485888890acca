"""Published methods on pairs, and their unpaired forms: each against its formula in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from methods_common import C, double, make, make_batch  # noqa: F401 (a fixture for every test)
from ucmkd.methods.ckd import comparative_loss
from ucmkd.methods.sp import similarity_preserving_loss

# SP --------------------------------------------------------------------------------------------


def test_sp_by_hand() -> None:
    # Student: G = (25, 3; 3, 1), its rows of length a and b. Teacher: G = 4 I, at length one I.
    student, teacher = torch.tensor([[3.0, 4], [1, 0]]), 2 * torch.eye(2)
    a, b = (25**2 + 3**2) ** 0.5, (3**2 + 1) ** 0.5
    expected = ((25 / a - 1) ** 2 + (3 / a) ** 2 + (3 / b) ** 2 + (1 / b - 1) ** 2) / 4
    found = similarity_preserving_loss(student, teacher)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    turned = student @ torch.linalg.qr(torch.randn(2, 2)).Q * 3  # rotated and scaled: the same
    assert similarity_preserving_loss(turned, student).item() == pytest.approx(0, abs=1e-20)


def test_sp_of_dead_features_has_a_small_gradient() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    similarity_preserving_loss(student, torch.randn(3, 5)).backward()
    assert student.grad is not None and float(student.grad.abs().max()) < 10


def test_sp_method_is_its_loss() -> None:
    method, batch = make("sp", weight=7.0), make_batch()
    features = method.student.encoder(batch.paired)
    g, h = features @ features.T, batch.paired_teacher_feature @ batch.paired_teacher_feature.T
    g = [row / (row.norm() or 1) for row in g]  # of a sample without a live feature it is 0
    gaps = [g[i][j] - h[i, j] / h[i].norm() for i in range(4) for j in range(4)]
    terms = method.losses(batch)
    torch.testing.assert_close(terms["similarity"], sum(x**2 for x in gaps) / 16)
    total = terms["ce"] + 7 * terms["similarity"] + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)
    assert make("sp").weight == 3000.0


# CKD -------------------------------------------------------------------------------------------


def test_comparison_by_hand() -> None:
    # Two rows, two classes: Δs = (-2, 2), Δt = (-1, 0), the gap (-1, 2), its mean square 5/2.
    s, t = torch.tensor([[1.0, 2], [3, 0]]), torch.tensor([[0.0, 1], [1, 1]])
    assert comparative_loss(s, t).item() == pytest.approx(2.5, rel=1e-12)
    assert comparative_loss(s + torch.tensor([5.0, -1]), t).item() == pytest.approx(2.5)
    assert comparative_loss(s[:1], t[:1]).item() == 0.0


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_comparison_is_the_mean_over_all_groups(sizes: tuple[int, int]) -> None:
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    found = []
    for p in combinations(range(6), sizes[0]):
        rest = [i for i in range(6) if i not in p]
        for n in combinations(rest, sizes[1]):
            gap = (s[list(p)].mean(0) - s[list(n)].mean(0)) - (
                t[list(p)].mean(0) - t[list(n)].mean(0)
            )
            found.append(gap.square().mean())
    value = comparative_loss(s, t, positives=sizes[0], negatives=sizes[1])
    torch.testing.assert_close(value, torch.stack(found).mean())


def test_ckd_method_compares_all_pairs_of_samples() -> None:
    method, batch = make("ckd", weight=2.0, label_weight=3.0), make_batch()
    terms = method.losses(batch)
    s, t = method.student(batch.paired), batch.paired_teacher_logits
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    gaps = torch.stack([((s[i] - s[j]) - (t[i] - t[j])).square().mean() for i, j in pairs])
    torch.testing.assert_close(terms["comparison"], gaps.mean())
    s, y = method.student(batch.student), F.one_hot(batch.student_label, C)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    gaps = torch.stack([((s[i] - s[j]) - (y[i] - y[j])).square().mean() for i, j in pairs])
    torch.testing.assert_close(terms["labels"], gaps.mean())
    total = terms["ce"] + 3 * terms["labels"] + 2 * terms["comparison"] + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)


def test_ckd_of_classes_compares_all_pairs_of_classes() -> None:
    method, batch = make("ckd_classes"), make_batch()
    found = method.losses(batch)["comparison"]
    logits = method.student(batch.student)
    s = [logits[batch.student_label == c].mean(0) for c in range(C)]
    t = [batch.teacher_logits[batch.teacher_label == c].mean(0) for c in range(C)]
    pairs = [(k, m) for k in range(C) for m in range(C) if k != m]
    gaps = [((s[k] - s[m]) - (t[k] - t[m])).square().mean() for k, m in pairs]
    torch.testing.assert_close(found, torch.stack(gaps).mean())
    assert not method.paired and not method.uses_pairs
    lonely = replace(batch, student_label=torch.zeros(6, dtype=torch.long))
    assert method.losses(lonely)["comparison"].item() == 0.0
    method.eval()
    before = method.teacher_means.count.clone()
    method.losses(batch)
    assert torch.equal(method.teacher_means.count, before)
