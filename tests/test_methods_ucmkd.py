"""UCMKD against Algorithm 1 written by hand, and against the plain sum."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods_common import (
    D_T,
    C,
    D,
    make,
    make_batch,
    make_student,
)
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd.losses import feature_align, label_align
from ucmkd.methods import Batch, create
from ucmkd.models import SplitModel


def algorithm_1(
    student: Any, projector: nn.Module, head: nn.Module, batch: Batch, *,
    eta: float, l1: float, l2: float, n1: int, n2: int,
) -> tuple[list[Tensor], list[Tensor], Any]:  # fmt: skip
    """Algorithm 1 with module copies; also the mean inner gradients of the projector."""
    tmp = copy.deepcopy(student)
    own = list(projector.parameters())
    total = [torch.zeros_like(p) for p in own]

    def move(loss: Tensor, parameters: list[Tensor], share: float) -> None:
        grads = torch.autograd.grad(loss, [*parameters, *own], allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters, grads, strict=False):
                p -= eta * g
            for t, g in zip(total, grads[len(parameters) :], strict=True):
                t += share * g

    for _ in range(n1):
        z = projector(tmp.encoder(batch.student))
        fa = feature_align(z, batch.teacher_feature, cost="euclidean", epsilon=0.1, max_iter=100)
        move(l1 * fa, list(tmp.encoder.parameters()), 1 / max(n1, 1))
    for _ in range(n2):
        z = tmp.encoder(batch.student)
        log_s = tmp.head(z).log_softmax(-1)[range(6), batch.student_label]
        log_t = head(projector(z)).log_softmax(-1)[range(6), batch.student_label]
        la = (-log_s + log_t.exp().detach() * log_t).mean()
        move(l2 * la, list(tmp.parameters()), 1 / max(n2, 1))
    ce = F.cross_entropy(tmp(batch.student), batch.student_label)
    return list(torch.autograd.grad(ce, list(tmp.parameters()))), total, tmp


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (2, 2), (0, 2), (2, 0), (0, 0)])
@pytest.mark.parametrize("width", [4, D_T])
def test_bilevel_is_algorithm_1(n1: int, n2: int, width: int) -> None:
    student, head, batch = make_student(width), nn.Linear(D_T, C), make_batch()
    method = make(
        "ucmkd", student, teacher_head=head, inner_lr=0.05, fa_weight=0.7, la_weight=1.3,
        fa_steps=n1, la_steps=n2,
    )  # fmt: skip
    assert isinstance(method.projector, nn.Linear) == (width != D_T)
    before = copy.deepcopy(student.state_dict())
    expected, own, _ = algorithm_1(
        student, method.projector, head, batch, eta=0.05, l1=0.7, l2=1.3, n1=n1, n2=n2
    )
    method.backward(batch, 0)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    for p, g in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=1e-9)
    for p, g in zip(method.projector.parameters(), own, strict=True):
        if n1 + n2:
            torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=1e-9)
        else:
            assert p.grad is None
    method.backward(batch, 1)  # gradients accumulate, as with Tensor.backward
    for p, g in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * g, rtol=1e-6, atol=1e-9)


def test_bilevel_differs_from_cross_entropy_and_from_the_sum() -> None:
    student, batch = make_student(), make_batch()
    method = make("ucmkd", student, inner_lr=0.05)
    method.backward(batch, 0)
    bilevel = [p.grad.clone() for p in student.parameters()]
    for other in (make("ce", student), make("ucmkd", student, variant="joint")):
        other.zero_grad()
        other.backward(batch, 0)
        gaps = [
            float((p.grad - g).abs().max())
            for p, g in zip(student.parameters(), bilevel, strict=True)
        ]
        assert max(gaps) > 1e-4


def test_bilevel_with_batch_norm_and_dropout() -> None:
    """Running statistics see every pass of the copy, and one seed gives one gradient."""
    encoder = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4))
    student = SplitModel(encoder, nn.Linear(6, C))
    head, batch = nn.Linear(D_T, C), make_batch()
    method = create(
        "ucmkd", student, num_classes=C, teacher_head=head, teacher_width=D_T,
        inner_lr=0.05, fa_steps=2, la_steps=2,
    )  # fmt: skip
    torch.manual_seed(5)
    expected, _, tmp = algorithm_1(
        student, method.projector, head, batch, eta=0.05, l1=1.0, l2=1.0, n1=2, n2=2
    )
    torch.manual_seed(5)
    method.backward(batch, 0)
    for p, g in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=1e-9)
    assert int(encoder[1].num_batches_tracked) == 5
    torch.testing.assert_close(encoder[1].running_var, tmp.encoder[1].running_var)


def test_bilevel_skips_frozen_parameters_and_takes_a_custom_backward() -> None:
    student, batch = make_student(), make_batch()
    student.encoder[1].weight.requires_grad_(False)
    method = make("ucmkd", student)
    seen: list[Tensor] = []

    def scaled(loss: Tensor) -> None:
        seen.append(loss)
        (8 * loss).backward()

    method.backward(batch, 0, scaled)
    assert len(seen) == 1 and student.encoder[1].weight.grad is None
    eight = [p.grad.clone() for p in method.trainable()]
    method.zero_grad()
    method.backward(batch, 0)
    for p, g in zip(method.trainable(), eight, strict=True):
        torch.testing.assert_close(8 * p.grad, g)


def test_plain_ucmkd_is_the_sum() -> None:
    student, head, batch = make_student(), nn.Linear(D_T, C), make_batch()
    method = make(
        "ucmkd", student, teacher_head=head, variant="joint", fa_weight=0.7, la_weight=1.3
    )
    terms = method.backward(batch, 0)
    gradient = [p.grad.clone() for p in method.trainable()]
    method.zero_grad()
    features, logits = student.outputs(batch.student)
    z = method.projector(features)
    ce = F.cross_entropy(logits, batch.student_label)
    fa = feature_align(z, batch.teacher_feature, max_iter=100)
    la = label_align(logits, head(z), batch.student_label)
    (ce + 0.7 * fa + 1.3 * la).backward()
    for p, g in zip(method.trainable(), gradient, strict=True):
        torch.testing.assert_close(p.grad, g)
    for name, value in (("ce", ce), ("fa", fa), ("la", la)):
        torch.testing.assert_close(terms[name], value.detach())


def test_large_inner_lr_warns() -> None:
    with pytest.warns(UserWarning, match="collapse"):
        make("ucmkd", inner_lr=0.1)
    make("ucmkd", inner_lr=0.1, variant="joint")  # no inner steps: nothing to warn of
