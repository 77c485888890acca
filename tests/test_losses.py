"""The losses beyond their operators: reductions, modules, labels, golden values."""

import math

import pytest
import torch
import torch.nn.functional as F

from ucmkd import losses, ops


def test_kd_golden_values() -> None:
    student = torch.tensor([[1.0, 2, 3], [0, -1, 1]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 1, 0.5], [-1, 0, 2]], dtype=torch.float64)
    for temperature, expected in ((4.0, 0.7106712894925946), (1.0, 0.5718369283153952)):
        value = losses.kd_loss(student, teacher, temperature=temperature)
        assert value.item() == pytest.approx(expected, rel=1e-12)
    each = losses.kd_loss(student, teacher, reduction="none")
    assert each.shape == (2,) and each.mean().item() == pytest.approx(0.7106712894925946)


def test_label_align_formula_and_gradient() -> None:
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(4, (6,))
    rows = torch.arange(6)
    log_s = student.log_softmax(1)[rows, target]
    log_t = teacher.log_softmax(1)[rows, target]
    p = log_t.exp()
    for word, kappa in (
        ("detached", p.detach()),
        ("attached", p),
        ("clipped", p.detach().clamp(0.1, 0.2)),
        (2 * p, 2 * p),
    ):
        expected = (-log_s + kappa * log_t).mean()
        value = losses.label_align(student, teacher, target, kappa=word, kappa_clip=(0.1, 0.2))
        assert value.item() == pytest.approx(expected.item())
        wanted = torch.autograd.grad(expected, (student, teacher), retain_graph=True)
        found = torch.autograd.grad(value, (student, teacher), retain_graph=True)
        torch.testing.assert_close(found, wanted)
    # κ → 0 is plain cross-entropy.
    hopeless = torch.full((6, 4), 0.0, dtype=torch.float64)
    hopeless[rows, target] = -1e3
    assert losses.label_align(student, hopeless, target).item() == pytest.approx(
        F.cross_entropy(student, target).item(), abs=1e-9
    )


def test_label_align_clips_kappa() -> None:
    """κ = p_T of the true class, .8 and .2 here: by hand, with the limits hi, and (lo, hi)."""
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.8, 0.2], [0.8, 0.2]], dtype=torch.float64).log()
    target = torch.tensor([0, 1])
    for clip, kappa in ((0.5, (0.5, 0.2)), ((0.3, 0.6), (0.6, 0.3)), ((0, 9), (0.8, 0.2))):
        each = losses.label_align(
            student, teacher, target, kappa="clipped", kappa_clip=clip, reduction="none"
        )
        wanted = [math.log(2) + k * math.log(p) for k, p in zip(kappa, (0.8, 0.2), strict=True)]
        assert each.tolist() == pytest.approx(wanted)
        module = losses.LabelAlign(kappa="clipped", kappa_clip=clip, reduction="none")
        assert torch.equal(module(student, teacher, target), each)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"kappa": "held"}, ValueError, "kappa must be one of 'detached', 'attached', 'clipped'"),
        ({"kappa": torch.ones(3)}, ValueError, r"kappa must be a word or floating values \(2,\)"),
        ({"kappa": torch.ones(2, dtype=torch.int64)}, ValueError, "kappa must be a word or"),
        ({"kappa_clip": (0.5, 0.1)}, ValueError, "kappa_clip must hold 0 <= lo <= hi"),
        ({"kappa_clip": float("nan")}, ValueError, "kappa_clip must hold"),
        ({"kappa_clip": (0.1, 0.2, 0.3)}, TypeError, "kappa_clip must be a number hi or a pair"),
        ({"kappa_clip": "half"}, TypeError, "kappa_clip must be a number hi or a pair"),
        ({"kappa_clip": True}, TypeError, "kappa_clip must be a number hi or a pair"),
    ],
)
def test_label_align_names_a_wrong_kappa(given: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        losses.label_align(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]), **given)


@pytest.mark.parametrize("loss", [losses.sinkhorn_align, losses.mmd_align, losses.feature_align])
def test_batches_and_reductions(backend: str, loss) -> None:  # type: ignore[no-untyped-def]
    x, y = torch.randn(4, 9, 3), torch.randn(4, 7, 3)
    each = loss(x, y, reduction="none", backend=backend)
    alone = torch.stack([loss(x[i], y[i], backend=backend) for i in range(4)])
    torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(x, y, backend=backend), each.mean())
    torch.testing.assert_close(loss(x, y, reduction="sum", backend=backend), each.sum())


def test_modules_are_the_functions(backend: str) -> None:
    x, y = torch.randn(9, 3), torch.randn(7, 3)
    k, l = torch.randint(3, (9,)), torch.randint(3, (7,))  # noqa: E741
    cases = [
        (losses.SinkhornAlign, losses.sinkhorn_align, dict(epsilon=0.2, reach=1.0)),
        (losses.FeatureAlign, losses.feature_align, dict(label_cost=10.0)),
        (losses.FeatureAlign, losses.feature_align, dict(epsilon_scale=None)),
        (losses.MMDAlign, losses.mmd_align, dict(estimator="u")),
    ]
    for module, function, options in cases:
        with_labels = {} if options.get("estimator") else dict(student_label=k, teacher_label=l)
        layer = module(backend=backend, **options)
        torch.testing.assert_close(
            layer(x, y, **with_labels), function(x, y, backend=backend, **options, **with_labels)
        )
        assert next(iter(options)) in repr(layer)
    logits = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(
        losses.KDLoss(temperature=2.0)(*logits), losses.kd_loss(*logits, temperature=2.0)
    )
    target = torch.randint(3, (5,))
    torch.testing.assert_close(
        losses.LabelAlign()(*logits, target), losses.label_align(*logits, target)
    )


def test_a_learned_epsilon_is_a_parameter(backend: str) -> None:
    layer = losses.SinkhornAlign(epsilon=torch.nn.Parameter(torch.tensor(0.1)), backend=backend)
    assert [name for name, _ in layer.named_parameters()] == ["epsilon"]
    layer(torch.randn(8, 2), torch.randn(6, 2)).backward()
    assert layer.epsilon.grad is not None and torch.isfinite(layer.epsilon.grad)


def test_teacher_is_detached_unless_asked(backend: str) -> None:
    for loss in (losses.sinkhorn_align, losses.mmd_align):
        x, y = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
        loss(x, y, backend=backend).backward()
        assert y.grad is None and x.grad is not None
        loss(x, y, detach_teacher=False, backend=backend).backward()
        assert y.grad is not None


def test_label_aware_plan_keeps_classes_together(backend: str) -> None:
    x, y = torch.randn(30, 4), torch.randn(30, 4)
    k = torch.arange(30) % 3
    free = ops.transport_plan(x, y, epsilon=0.5, backend=backend)
    tied = ops.transport_plan(
        x, y, epsilon=0.5, x_label=k, y_label=k, label_cost=100.0, backend=backend
    )
    across = (k[:, None] != k[None]).float()
    assert (free * across).sum() > 0.3
    assert (tied * across).sum() < 1e-6


def test_relative_units_cover_reach_and_labels(backend: str) -> None:
    """With epsilon_scale='mean' everything is in units of the mean cost."""
    x, y = torch.randn(20, 4), torch.randn(16, 4)
    k, l = torch.randint(3, (20,)), torch.randint(3, (16,))  # noqa: E741
    options = dict(
        reach=2.0, label_cost=1.0, student_label=k, teacher_label=l, tol=1e-6, backend=backend
    )
    one = losses.sinkhorn_align(x, y, **options)
    ten = losses.sinkhorn_align(10 * x, 10 * y, **options)
    assert ten.item() == pytest.approx(100 * one.item(), rel=1e-3)


def test_class_conditional_mmd(backend: str) -> None:
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(18, 3, dtype=torch.float64)
    k, l = torch.arange(20) % 4, torch.arange(18) % 3 + 1  # noqa: E741
    value = losses.mmd_align(x, y, bandwidth=1.0, student_label=k, teacher_label=l, backend=backend)
    each = [ops.mmd(x[k == c], y[l == c], bandwidth=1.0, backend=backend) for c in (1, 2, 3)]
    assert value.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-9)
    apart = losses.mmd_align(
        x.requires_grad_(), y, student_label=k * 0, teacher_label=l, backend=backend
    )
    apart.backward()
    assert apart.item() == 0 and not x.grad.any()
