"""Published methods on pairs, and their unpaired forms: each against its formula in float64."""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods_common import D_T, C, double, make, make_batch  # noqa: F401 (for every test)
from ucmkd.config import ConfigError
from ucmkd.methods import METHODS, options
from ucmkd.methods.ckd import comparative_loss
from ucmkd.methods.dml import mutual_losses
from ucmkd.methods.pkdot import structure_loss
from ucmkd.methods.pkdot_classes import prototype_rows
from ucmkd.methods.refused import REFUSED
from ucmkd.methods.sp import similarity_preserving_loss
from ucmkd.recipe_file import find_recipe, load_recipe
from ucmkd.rehearsal import check_method

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


# PKDOT -----------------------------------------------------------------------------------------


def transport_by_loops(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """``OT_ε`` for ``½|x - y|²`` between uniform clouds, its dual by plain iterations."""
    cost = torch.cdist(x, y).square() / 2
    f, g = torch.zeros(len(x)), torch.zeros(len(y))
    for _ in range(3000):
        f = -epsilon * (((g - cost) / epsilon).logsumexp(1) - torch.tensor(len(y)).log())
        g = -epsilon * (((f[:, None] - cost) / epsilon).logsumexp(0) - torch.tensor(len(x)).log())
    return f.mean() + g.mean()


def divergence_by_loops(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    own = transport_by_loops(x, x, epsilon) + transport_by_loops(y, y, epsilon)
    return transport_by_loops(x, y, epsilon) - own / 2


def anchored(s: Tensor, t: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The similarity rows at the teacher's anchors, entry by entry."""
    span = range(len(s))
    a = [[(s[i] @ s[j] / s[i].norm() / s[j].norm()).item() for j in span] for i in span]
    b = [[(t[i] @ t[j] / t[i].norm() / t[j].norm()).item() for j in span] for i in span]
    low, floor = min(map(min, a)), min(map(min, b))
    rows, teacher_rows = [], []
    for i in span:
        order = sorted(span, key=lambda j: b[i][j])[:columns]
        rows.append([a[i][j] - low for j in order])
        teacher_rows.append([b[i][j] - floor for j in order])
    return torch.tensor(rows), torch.tensor(teacher_rows)


@pytest.mark.parametrize("columns", [2, 9])
def test_structure_is_the_divergence_of_the_anchored_rows(columns: int) -> None:
    s, t = torch.randn(5, 3), torch.randn(5, 6)
    expected = divergence_by_loops(*anchored(s, t, columns), epsilon=0.3**2)
    found = structure_loss(s, t, columns=columns, blur=0.3)
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)
    assert expected.item() > 0.01
    assert structure_loss(3 * t, t).item() == pytest.approx(0, abs=1e-6)


def test_pkdot_method() -> None:
    method, batch = make("pkdot", weight=2.0, columns=3, blur=0.5), make_batch()
    z = method.student.encoder(batch.paired)
    guess = method.hallucination.network(z)
    assert [m.out_features for m in method.hallucination.network if hasattr(m, "bias")] == [
        2, 1, D_T // 2, D_T,
    ]  # fmt: skip
    terms = method.losses(batch)
    expected = (guess - batch.paired_teacher_feature).square().sum() / (4 * D_T)
    torch.testing.assert_close(terms["hallucination"], expected)
    fused = z + method.hallucination.fuse(guess)
    rows = anchored(fused.detach(), batch.paired_teacher_feature, 3)
    found = divergence_by_loops(*rows, epsilon=0.25).item()
    assert terms["structure"].item() == pytest.approx(found, rel=5e-3, abs=1e-4)
    torch.testing.assert_close(method.predict(batch.paired), method.student.head(fused))
    total = terms["ce"] + 2 * terms["structure"] + terms["hallucination"] + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)
    assert (make("pkdot").weight, make("pkdot").columns, make("pkdot").blur) == (0.6, 30, 0.1)


@pytest.mark.parametrize("name", ["pkdot", "pkdot_classes"])
def test_the_hallucination_learns_by_its_own_loss_alone(name: str) -> None:
    method, batch = make(name), make_batch()
    network = list(method.hallucination.network.parameters())
    others = [*method.student.parameters(), *method.hallucination.fuse.parameters()]
    terms = method.losses(batch)
    own = torch.autograd.grad(terms["hallucination"], network, retain_graph=True)
    assert any(bool(g.any()) for g in own)
    for value, parameters in (
        (terms["hallucination"], others),
        (terms["ce"] + terms["structure"], network),
    ):
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        assert all(g is None for g in found)
    optimiser = torch.optim.Adam(method.trainable(), lr=0.01)
    first = terms["hallucination"].item()
    for step in range(30):
        optimiser.zero_grad()
        method.backward(batch, step)
        optimiser.step()
    assert method.losses(batch)["hallucination"].item() < 0.9 * first


def test_prototype_rows_by_hand() -> None:
    # Cosines of (1, 0) and (0, 2) to (1, 0), (3, 3) and (0, 1); the last class is not known.
    features = torch.tensor([[1.0, 0], [0, 2]])
    prototype = torch.tensor([[1.0, 0], [3, 3], [0, 1]])
    rows = prototype_rows(features, prototype, torch.tensor([True, True, False]))
    half = 0.5**0.5
    torch.testing.assert_close(rows, torch.tensor([[1, half, 0], [0, half, 0]]))
    nothing = prototype_rows(features, prototype, torch.zeros(3, dtype=torch.bool))
    assert not bool(nothing.any())


def test_pkdot_of_classes() -> None:
    method, batch = make("pkdot_classes", blur=0.5), make_batch()
    terms = method.losses(batch)
    z = method.student.encoder(batch.student)
    fused = method.hallucination(z)
    clouds, means = [], []
    for x, label in ((fused, batch.student_label), (batch.teacher_feature, batch.teacher_label)):
        mean = [x[label == c].mean(0) for c in range(C)]
        rows = torch.stack([torch.stack([F.cosine_similarity(r, m, dim=0) for m in mean])
                            for r in x])  # fmt: skip
        clouds.append((rows - rows.min()).detach())
        means.append(torch.stack(mean))
    found = divergence_by_loops(*clouds, epsilon=0.25).item()
    assert terms["structure"].item() == pytest.approx(found, rel=5e-3, abs=1e-4)
    target = means[1][batch.student_label]
    expected = (method.hallucination.network(z) - target).square().mean()
    torch.testing.assert_close(terms["hallucination"], expected)
    assert method.class_matched and not method.paired and not method.uses_pairs


# DML -------------------------------------------------------------------------------------------


def test_mutual_losses_by_hand() -> None:
    # p_1 = (1/2, 1/2), p_2 = (3/4, 1/4).
    first = torch.zeros(1, 2, requires_grad=True)
    second = torch.tensor([[3.0, 1.0]]).log().requires_grad_()
    a, b = mutual_losses(first, second)
    assert a.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    assert b.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-12)
    assert torch.autograd.grad(a, second, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(b, first, allow_unused=True) == (None,)


def test_dml_method() -> None:
    method, batch = make("dml", weight=0.5, hidden=5), make_batch()
    terms = method.losses(batch)
    one, two = method.peer[0], method.peer[2]

    def peer(x: Tensor) -> Tensor:
        return (x @ one.weight.T + one.bias).clamp_min(0) @ two.weight.T + two.bias

    p = method.student(batch.paired).softmax(-1)
    q = peer(batch.paired_teacher_feature).softmax(-1)
    torch.testing.assert_close(terms["mutual"], (q * (q / p).log()).sum(-1).mean())
    torch.testing.assert_close(terms["peer_mutual"], (p * (p / q).log()).sum(-1).mean())
    known = peer(batch.teacher_feature).softmax(-1)[torch.arange(6), batch.teacher_label]
    torch.testing.assert_close(terms["peer_ce"], -known.log().mean())
    total = terms["ce"] + terms["pair_ce"] + terms["peer_ce"]
    total = total + (terms["mutual"] + terms["peer_mutual"]) / 2
    torch.testing.assert_close(method.total(terms, 0), total)
    placebo = make("dml", hidden=5, placebo=True)
    placebo.load_state_dict(method.state_dict(), strict=False)
    wrong = placebo.permutation[batch.teacher_label]
    known = peer(batch.teacher_feature).softmax(-1)[torch.arange(6), wrong]
    torch.testing.assert_close(placebo.losses(batch)["peer_ce"], -known.log().mean())


# Refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["at", "fsp", "bss", "one", "cmimh"])
def test_refused_methods_say_why_and_what_could(name: str) -> None:
    assert name not in METHODS
    recipe = load_recipe(find_recipe("brca_sp"))
    recipe = replace(recipe, method=replace(recipe.method, name=name, options={}))
    for call, kind in (
        (lambda: make(name), ValueError),
        (lambda: options(name), ValueError),
        (lambda: check_method(recipe), ConfigError),
    ):
        with pytest.raises(kind, match=f"method '{name}' cannot be used here") as error:
            call()
        words = set(re.findall(r"[a-z_]+", str(error.value)))
        assert words & set(METHODS) - {"ce"}
        assert words & {"maps", "input", "codes"}
    named = re.findall(r"ucmkd\.([\w.]+)", REFUSED[name])
    assert any(path.endswith(("_loss", ".fit")) for path in named)
    for path in named:  # what the sentence recommends exists
        module, _, attribute = f"ucmkd.{path}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
