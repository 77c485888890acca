"""Baselines with a teacher: each against its formula, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor

from methods_common import D_T, C, double, make, make_batch  # noqa: F401
from ucmkd import losses
from ucmkd.methods.c2kd import kendall_tau, non_target_kl
from ucmkd.methods.class_soft_labels import class_soft_label_loss
from ucmkd.methods.placebo import permute_columns
from ucmkd.methods.prototype_geometry import prototype_geometry_loss, prototypes

STUDENT_LOGITS = [[1.0, 2, 3], [0, -1, 1]]
TEACHER_LOGITS = [[2.0, 1, 0.5], [-1, 0, 2]]


# Losses ----------------------------------------------------------------------------------------


def test_dkd_golden_value_and_definition() -> None:
    s, t = torch.tensor(STUDENT_LOGITS), torch.tensor(TEACHER_LOGITS)
    target = torch.tensor([2, 0])
    # Of the mdistiller code at α = 1, β = 8, T = 4.
    assert losses.dkd_loss(s, t, target).item() == pytest.approx(2.520926666815854, rel=1e-12)

    def softmax(row: list[float]) -> list[float]:
        total = sum(math.exp(v / 3) for v in row)
        return [math.exp(v / 3) / total for v in row]

    total = 0.0
    for a, b, y in zip(STUDENT_LOGITS, TEACHER_LOGITS, (2, 0), strict=True):
        p, q = softmax(b), softmax(a)
        tckd = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        nckd = 0.0
        for c in range(3):
            if c != y:
                u, v = p[c] / (1 - p[y]), q[c] / (1 - q[y])
                nckd += u * math.log(u / v)
        total += 9 * (0.5 * tckd + 2 * nckd) / 2
    found = losses.dkd_loss(s, t, target, alpha=0.5, beta=2.0, temperature=3.0)
    assert found.item() == pytest.approx(total, rel=1e-12)


def test_dkd_decouples_hinton_and_stays_finite() -> None:
    s, t, y = torch.randn(6, 5), torch.randn(6, 5), torch.randint(5, (6,))
    one = losses.dkd_loss(s, t, y, alpha=1, beta=0, temperature=2, reduction="none")
    other = losses.dkd_loss(s, t, y, alpha=0, beta=1, temperature=2, reduction="none")
    rest = 1 - (t / 2).softmax(-1)[torch.arange(6), y]
    torch.testing.assert_close(
        one + rest * other, losses.kd_loss(s, t, temperature=2, reduction="none")
    )
    sure = (1e4 * torch.eye(3)).requires_grad_()
    value = losses.dkd_loss(sure, -sure, torch.arange(3))
    (gradient,) = torch.autograd.grad(value, sure)
    assert bool(value.isfinite()) and bool(gradient.isfinite().all())
    two = losses.dkd_loss(s[:, :2], t[:, :2], y % 2, alpha=0, beta=1)
    torch.testing.assert_close(two, torch.zeros(()))


def test_rkd_golden_values_and_definition() -> None:
    s = torch.tensor([[0.0, 1], [1, 0], [2, 1]])
    t = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 1, 1]])
    # Of the RepDistiller code.
    distance = losses.rkd_loss(s, t, distance_weight=1, angle_weight=0)
    angle = losses.rkd_loss(s, t, distance_weight=0, angle_weight=1)
    assert distance.item() == pytest.approx(0.024467420505057888, rel=1e-7)
    assert angle.item() == pytest.approx(0.033502032777395094, rel=1e-7)
    torch.testing.assert_close(losses.rkd_loss(s, t), 25 * distance + 50 * angle)

    s, t = 3 * torch.randn(5, 2), torch.randn(5, 4)

    def huber(x: float) -> float:
        return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5

    def lengths(x: Tensor) -> list[list[float]]:
        raw = [[(x[i] - x[j]).norm().item() for j in range(5)] for i in range(5)]
        mean = sum(map(sum, raw)) / 20
        return [[v / mean for v in row] for row in raw]

    def cosine(x: Tensor, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        u, v = x[j] - x[i], x[k] - x[i]
        return (u @ v / u.norm() / v.norm()).item()

    r, span = lengths(s), range(5)
    q = lengths(t)
    expected = sum(huber(r[i][j] - q[i][j]) for i in span for j in span) / 25
    found = losses.rkd_loss(s, t, distance_weight=1, angle_weight=0)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    triples = [(i, j, k) for i in span for j in span for k in span]
    expected = sum(huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triples) / 125
    found = losses.rkd_loss(s, t, distance_weight=0, angle_weight=1)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_rkd_of_coinciding_points_and_its_invariances() -> None:
    t = torch.randn(4, 3)
    for s in (torch.zeros(4, 2), torch.ones(4, 2), torch.tensor([[0.0, 1]] * 2 + [[1.0, 0]] * 2)):
        s.requires_grad_()
        value = losses.rkd_loss(s, t)
        value.backward()
        assert bool(value.isfinite()) and s.grad is not None
        assert float(s.grad.abs().max()) < 1e3
    assert losses.rkd_loss(torch.randn(1, 2), t[:1]).item() == 0.0
    turned = t @ torch.linalg.qr(torch.randn(3, 3)).Q * 5 + 2  # a similarity: nothing to learn
    torch.testing.assert_close(losses.rkd_loss(turned, t), torch.zeros(()), atol=1e-12, rtol=0)


def test_gradients_and_modules() -> None:
    s, t = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    y = torch.tensor([0, 2, 1, 1])
    cases = [
        (losses.DKDLoss, losses.dkd_loss, dict(beta=2.0), (y,)),
        (losses.RKDLoss, losses.rkd_loss, dict(angle_weight=5.0), ()),
    ]
    for module, function, options, more in cases:
        torch.testing.assert_close(module(**options)(s, t, *more), function(s, t, *more, **options))
        assert torch.autograd.gradcheck(lambda x, f=function, m=more: f(x, t, *m), s)
        (gradient,) = torch.autograd.grad(function(s, t, *more), t, allow_unused=True)
        assert gradient is None  # the teacher's side is detached
        low = function(s.to(torch.bfloat16), t.to(torch.bfloat16), *more)
        assert low.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), {}, ValueError, "one shape"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {"temperature": 0}, ValueError, "temperature"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {"alpha": "1"}, TypeError, "alpha"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {"beta": -1}, ValueError, "beta"),
        ((torch.zeros(2, 1), torch.zeros(2, 1)), {}, ValueError, "two classes"),
        ((torch.zeros(2, 3), torch.full((2, 3), math.nan)), {}, ValueError, "teacher_logits"),
        ((torch.zeros(3, 3), torch.zeros(3, 3)), {}, ValueError, "target must have shape"),
    ],
)
def test_dkd_names_bad_arguments(
    arguments: tuple, options: dict, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        losses.dkd_loss(*arguments, torch.tensor([0, 0]), **options)


def test_losses_name_bad_arguments() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\)"):
        losses.dkd_loss(x, x, torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="target must be an integer"):
        losses.dkd_loss(x, x, torch.zeros(2))
    for arguments, options, message in (
        ((x, x[:1]), {}, "same samples; got 2 and 1 rows"),
        ((x, x[None]), {}, "teacher must have shape"),
        ((x, x), {"angle_weight": -1.0}, "angle_weight"),
        ((x * math.inf, x), {}, "student must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.rkd_loss(*arguments, **options)
    with pytest.raises(TypeError, match="distance_weight"):
        losses.rkd_loss(x, x, distance_weight=None)  # type: ignore[arg-type]


# Methods on pairs ------------------------------------------------------------------------------


def test_vanilla_kd_with_alpha() -> None:
    method, batch = make("vanilla_kd", alpha=0.9, temperature=4.0), make_batch()
    terms = method.losses(batch)
    kd = losses.kd_loss(method.student(batch.paired), batch.paired_teacher_logits, temperature=4.0)
    expected = 0.1 * terms["ce"] + 0.9 * kd + 0.1 * terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), expected)
    for option in ({"alpha": 1.5}, {"alpha": -0.1}, {"alpha": 0.5, "weight": 2.0}):
        with pytest.raises(ValueError, match="alpha"):
            make("vanilla_kd", **option)


def test_fitnet_formula() -> None:
    method, batch = make("fitnet", weight=3.0), make_batch()
    z = method.student.encoder(batch.paired) @ method.projector.weight.T + method.projector.bias
    expected = sum(
        (z[i, k] - batch.paired_teacher_feature[i, k]) ** 2 for i in range(4) for k in range(D_T)
    ) / (4 * D_T)
    terms = method.losses(batch)
    torch.testing.assert_close(terms["hint"], expected)
    total = terms["ce"] + 3 * expected + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)
    unlabelled = method.losses(replace(batch, paired_label=None))
    assert set(unlabelled) == {"ce", "hint"}


def test_rkd_and_dkd_methods_are_their_losses() -> None:
    batch = make_batch()
    method = make("rkd")
    terms = method.losses(batch)
    feature = method.student.encoder(batch.paired)
    whole = losses.rkd_loss(feature, batch.paired_teacher_feature)
    torch.testing.assert_close(25 * terms["distance"] + 50 * terms["angle"], whole)
    weights = method.weights(0)
    assert (weights["distance"], weights["angle"]) == (25.0, 50.0)

    method = make("dkd", alpha=2.0, beta=3.0, temperature=1.5, ramp_steps=10, weight=2.0)
    logits, teacher = method.student(batch.paired), batch.paired_teacher_logits
    options = {"alpha": 2.0, "beta": 3.0, "temperature": 1.5}
    for label, target in ((batch.paired_label, batch.paired_label), (None, teacher.argmax(1))):
        found = method.losses(replace(batch, paired_label=label))["dkd"]
        torch.testing.assert_close(found, losses.dkd_loss(logits, teacher, target, **options))
    assert [method.weights(s)["dkd"] for s in (0, 5, 20)] == [0.0, 1.0, 2.0]


def test_norm_formula() -> None:
    method, batch = make("norm", representations=3), make_batch()
    assert method.transform.expand.out_features == 3 * D_T
    z = method.student.encoder(batch.paired)
    wide = method.transform.expand(z)
    expected = torch.zeros(())
    for k in range(3):
        gap = wide[:, k * D_T : (k + 1) * D_T] - batch.paired_teacher_feature
        expected = expected + gap.square().mean()
    terms = method.losses(batch)
    torch.testing.assert_close(terms["norm"], expected)
    logits = method.student.head(z + method.transform.contract(wide))
    torch.testing.assert_close(method.predict(batch.paired), logits)
    torch.testing.assert_close(terms["pair_ce"], F.cross_entropy(logits, batch.paired_label))


def test_kendall_tau_is_scipys() -> None:
    x, y = torch.randn(40, 7), torch.randn(40, 7)
    x[:20], y[10:30] = x[:20].round(), y[10:30].round()  # with ties
    expected = [kendalltau(a.numpy(), b.numpy()).statistic for a, b in zip(x, y, strict=True)]
    # Where a row ties all classes SciPy says NaN; here 0: such a pair is not selected.
    wanted = torch.tensor(expected).nan_to_num(0.0)
    torch.testing.assert_close(kendall_tau(x, y), wanted)
    assert wanted.min() < 0 < wanted.max()
    assert kendall_tau(torch.zeros(1, 4), y[:1, :4]).tolist() == [0.0]
    torch.testing.assert_close(kendall_tau(y, 2 * y + 1), torch.ones(40))


def test_c2kd_formula() -> None:
    batch, method = make_batch(), make("c2kd")
    chosen = 0
    for threshold in (-1.0, 0.0, 0.9):
        method.threshold = threshold
        z = method.student.encoder(batch.paired)
        s, t = method.student(batch.paired), batch.paired_teacher_logits
        ps, pt = method.student_proxy(z), method.teacher_proxy(batch.paired_teacher_feature)

        def kl(p: Tensor, q: Tensor) -> Tensor:
            p, q = p.detach().softmax(-1), q.softmax(-1)
            return (p * (p / q).log()).sum(-1)

        cross = torch.zeros(())
        for i, y in enumerate(batch.paired_label.tolist()):
            tau = kendalltau(ps[i].detach().numpy(), pt[i].detach().numpy()).statistic
            others = [c for c in range(C) if c != y]
            if tau > threshold:
                chosen += 1
                a, b = ps[i, others], pt[i, others]
                cross = cross + (kl(b, a) + kl(a, b)) / 4
        terms = method.losses(batch)
        torch.testing.assert_close(terms["self"], (kl(s, ps) + kl(ps, s)).mean())
        torch.testing.assert_close(terms["teacher"], kl(t, pt).mean())
        torch.testing.assert_close(terms["cross"], cross)
        wanted = [*method.student.parameters(), *method.teacher_proxy.parameters()]
        if cross.requires_grad:
            torch.testing.assert_close(
                torch.autograd.grad(terms["cross"], wanted, allow_unused=True),
                torch.autograd.grad(cross, wanted, allow_unused=True),
            )
    assert 0 < chosen < 12
    sure = 1e4 * torch.eye(3)
    assert bool(non_target_kl(sure, -sure, torch.arange(3)).isfinite().all())
    with pytest.raises(ValueError, match="threshold"):
        make("c2kd", threshold=1.0)


# Methods on classes ----------------------------------------------------------------------------


def test_class_soft_labels_gather_the_teachers_means() -> None:
    method, batch = make("class_soft_labels", temperature=3.0, weight=0.5), make_batch()
    first = method.losses(batch)
    q = torch.stack(
        [(batch.teacher_logits[batch.teacher_label == c] / 3).softmax(-1).mean(0) for c in range(C)]
    )
    p = (method.student(batch.student) / 3).softmax(-1)
    rows = q[batch.student_label]
    torch.testing.assert_close(first["soft"], 9 * (rows * (rows / p).log()).sum(-1).mean())
    torch.testing.assert_close(method.total(first, 0), first["ce"] + 0.5 * first["soft"])
    # A second, different batch: the mean over both.
    other = replace(
        batch, teacher_logits=torch.randn(6, C), teacher_label=torch.tensor([0, 0, 0, 0, 0, 0])
    )
    method.losses(other)
    both = torch.cat((batch.teacher_logits[batch.teacher_label == 0], other.teacher_logits))
    torch.testing.assert_close(method.soft_label.means()[0], (both / 3).softmax(-1).mean(0))
    torch.testing.assert_close(method.soft_label.means()[1:], q[1:])
    method.eval()
    method.losses(batch)  # in eval mode nothing is gathered
    assert method.soft_label.count.tolist() == [9, 2, 1]


def test_class_soft_labels_leave_out_unknown_classes() -> None:
    logits, y = torch.randn(4, C, requires_grad=True), torch.tensor([0, 1, 1, 2])
    q = torch.rand(C, C).softmax(-1)
    known = torch.tensor([True, False, True])
    found = class_soft_label_loss(logits, y, q, known=known)
    expected = class_soft_label_loss(logits[[0, 3]], y[[0, 3]], q)
    torch.testing.assert_close(found, expected)
    nothing = class_soft_label_loss(logits, y, torch.zeros(C, C), known=~torch.ones(C).bool())
    assert nothing.item() == 0.0
    method, batch = make("class_soft_labels"), make_batch()
    only = replace(batch, teacher_label=torch.zeros(6, dtype=torch.long))
    assert bool(method.losses(only)["soft"].isfinite())


def test_class_soft_labels_placebo_keeps_the_class() -> None:
    method, batch = make("class_soft_labels", placebo=True), make_batch()
    sure = replace(batch, teacher_logits=5 * F.one_hot(batch.teacher_label, C).double())
    method.losses(sure)
    assert method.soft_label.means().argmax(-1).tolist() == [0, 1, 2]
    plain = make("class_soft_labels")
    plain.losses(batch)
    wrong = make("class_soft_labels", placebo=True)
    wrong.losses(batch)
    p = wrong.permutation
    moved = permute_columns(plain.soft_label.means(), p)[torch.argsort(p)]
    torch.testing.assert_close(wrong.soft_label.means(), moved)


def test_prototype_geometry_by_hand() -> None:
    student = torch.tensor([[1.0, 0], [0, 2], [3, 3]])  # cosines 0, √½, √½
    teacher = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])  # cosines 1, 0, 0
    everything = torch.ones(3, dtype=torch.bool)
    found = prototype_geometry_loss(student, teacher, everything)
    assert found.item() == pytest.approx((1 + 0.5 + 0.5) / 3, rel=1e-12)
    without_first = torch.tensor([False, True, True])
    found = prototype_geometry_loss(student, teacher, without_first)
    assert found.item() == pytest.approx(0.5, rel=1e-12)
    one = torch.tensor([False, True, False])
    assert prototype_geometry_loss(student, teacher, one).item() == 0.0
    mean, present = prototypes(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    assert mean.flatten().tolist() == [2.0, 0.0, 5.0] and present.tolist() == [True, False, True]


def test_prototype_geometry_method() -> None:
    method, batch = make("prototype_geometry"), make_batch()
    found = method.losses(batch)["geometry"]
    z = method.student.encoder(batch.student)
    s, t = [], []
    for c in range(C):
        s.append(z[batch.student_label == c].mean(0))
        t.append(batch.teacher_feature[batch.teacher_label == c].mean(0))
    pairs = [(0, 1), (0, 2), (1, 2)]
    gaps = [
        F.cosine_similarity(s[k], s[m], dim=0) - F.cosine_similarity(t[k], t[m], dim=0)
        for k, m in pairs
    ]
    torch.testing.assert_close(found, torch.stack(gaps).square().mean())
    lonely = replace(batch, student_label=torch.zeros(6, dtype=torch.long))
    assert method.losses(lonely)["geometry"].item() == 0.0


def test_class_mmd_is_the_mean_over_the_classes() -> None:
    batch = make_batch()
    method = make("class_mmd", weight=0.3, kernel="energy")
    x = method.projector(method.student.encoder(batch.student))
    expected = torch.zeros(())
    for c in range(C):
        a, b = x[batch.student_label == c], batch.teacher_feature[batch.teacher_label == c]
        within = torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
        expected = expected + (2 * torch.cdist(a, b).mean() - within) / C
    terms = method.losses(batch)
    found = losses.mmd_align(
        x, batch.teacher_feature, kernel="energy", student_label=batch.student_label,
        teacher_label=batch.teacher_label,
    )  # fmt: skip
    torch.testing.assert_close(terms["mmd"], found)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(method.total(terms, 0), terms["ce"] + 0.3 * terms["mmd"])
    for kernel in ("gaussian", "laplace", "rational_quadratic", "polynomial"):
        assert bool(make("class_mmd", kernel=kernel).losses(batch)["mmd"].isfinite())
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        make("class_mmd", kernel="gausian")
