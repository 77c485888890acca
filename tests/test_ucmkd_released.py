"""The released form of UCMKD written by hand, and every departure as an option of its own."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods_common import D_T, C, make, make_batch, make_student
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd.losses import feature_align
from ucmkd.methods import Batch, options
from ucmkd.methods.inner import InnerOptimizer
from ucmkd.methods.variants import VARIANTS
from ucmkd.models import HookedModel

EXACT = {"tol": 1e-13, "max_iter": 20000}

pytestmark = pytest.mark.usefixtures("one_thread")


def unrolled(matrix: Tensor, epsilon: float) -> Tensor:
    """<P, M> by two thousand scaling iterations, differentiated through all of them."""
    kernel = torch.exp(-matrix / epsilon)
    a, b = (torch.full((k,), 1 / k) for k in matrix.shape)
    v = torch.ones_like(b)
    for _ in range(2000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return (u[:, None] * kernel * v * matrix).sum()


def cosine(x: Tensor, z: Tensor) -> Tensor:
    return 1 - F.normalize(x, dim=1) @ F.normalize(z, dim=1).T


def released(
    student: Any, head: nn.Module, batch: Batch, *, lr: float, n1: int, n2: int, fits: bool = True
) -> list[Tensor]:
    """The authors' step: one AdamW over a copy, FA on the encoder, LA on the head alone."""
    tmp = copy.deepcopy(student)
    adamw = torch.optim.AdamW(tmp.parameters(), lr=lr, weight_decay=0.05)
    for _ in range(n1):
        adamw.zero_grad()
        x, z = tmp.encoder(batch.student), batch.teacher_feature
        if not fits:
            width = min(x.shape[1], z.shape[1])
            x, z = F.normalize(x, dim=1)[:, :width], F.normalize(z, dim=1)[:, :width]
        unrolled(cosine(x, z), 0.1).backward()
        adamw.step()
    for _ in range(n2):
        adamw.zero_grad()
        feature = tmp.encoder(batch.student).detach()
        la = F.cross_entropy(tmp.head(feature), batch.student_label, reduction="none")
        if fits:
            with torch.no_grad():
                log_t = -F.cross_entropy(head(feature), batch.student_label, reduction="none")
            la = la + log_t.exp() * log_t
        la.mean().backward()
        adamw.step()
    ce = F.cross_entropy(tmp(batch.student), batch.student_label)
    return list(torch.autograd.grad(ce, list(tmp.parameters())))


@pytest.mark.parametrize(("n1", "n2"), [(1, 1), (3, 2), (0, 2), (2, 0)])
@pytest.mark.parametrize("width", [D_T, 4, 9])
def test_released_is_the_authors_step(n1: int, n2: int, width: int) -> None:
    student, head, batch = make_student(width), nn.Linear(D_T, C), make_batch()
    method = make(
        "ucmkd", student, teacher_head=head, variant="released", inner_lr=0.02, fa_weight=0.3,
        la_weight=5.0, fa_steps=n1, la_steps=n2, **EXACT,
    )  # fmt: skip
    expected = released(student, head, batch, lr=0.02, n1=n1, n2=n2, fits=width == D_T)
    method.backward(batch, 0)
    for p, g in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-5, atol=1e-8)
    plain = make("ucmkd", student, teacher_head=head, fa_steps=n1, la_steps=n2, inner_lr=0.02)
    plain.zero_grad()
    plain.backward(batch, 0)
    gaps = [(p.grad - g).abs().max() for p, g in zip(student.parameters(), expected, strict=True)]
    assert max(gaps) > 1e-4  # and the two forms are not the same


def test_released_sets_every_departure_and_what_is_given_counts() -> None:
    assert set(VARIANTS["released"]) == set(VARIANTS["printed"])
    for name, value in VARIANTS["released"].items():
        assert value != VARIANTS["printed"][name], name
        assert name in options("ucmkd"), name
    method = make("ucmkd", variant="released")
    assert method.inner_optimizer == "adamw" and method.inner_lr == 1e-5
    assert method.inner_weight_decay == 0.05 and not method.inner_weighted
    assert method.la_detach_features and method.la_detach_teacher
    assert method.align.options["cost"] == "cosine" and method.align.options["sharp"]
    assert method.align.options["epsilon"] == 0.1 and method.align.options["epsilon_scale"] is None
    assert isinstance(method.projector, nn.Identity) and method.class_matched
    assert method.requires == ("teacher_feature", "teacher_label")
    given = make(
        "ucmkd", variant="released", inner_optimizer="sgd", inner_lr=0.03, inner_weight_decay=0.0,
        inner_weighted=True, la_detach_features=False, la_detach_teacher=False, cost="l1",
        epsilon_scale="mean", sharp=False, projector="linear", class_matched=False,
    )  # fmt: skip
    assert given.inner_optimizer == "sgd" and given.inner_lr == 0.03
    assert given.align.options["cost"] == "l1" and not given.align.options["sharp"]
    assert given.align.options["epsilon_scale"] == "mean"
    assert isinstance(given.projector, nn.Linear) and not given.class_matched
    assert given.requires == ("teacher_feature",)


def test_released_with_everything_given_is_printed() -> None:
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    grads = []
    for given in ({}, {"variant": "released", **VARIANTS["printed"]}):
        method = make("ucmkd", student, teacher_head=head, **given)
        method.zero_grad()
        method.backward(batch, 0)
        grads.append([p.grad.clone() for p in method.trainable()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_label_alignment_detached_reaches_the_head_alone() -> None:
    """∇LA of the released form is ∇CE of the head, with an encoder that gets nothing."""
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    for detach in (True, False):
        method = make(
            "ucmkd", student, teacher_head=head, variant="joint", la_detach_features=detach,
            la_detach_teacher=detach,
        )  # fmt: skip
        la = method.losses(batch)["la"]
        found = torch.autograd.grad(la, list(student.parameters()), allow_unused=True)
        ce = F.cross_entropy(student(batch.student), batch.student_label)
        wanted = torch.autograd.grad(ce, list(student.parameters()))
        torch.testing.assert_close(found[-2:], wanted[-2:])  # the head's weight and bias
        assert all((g is None) == detach for g in found[:-2])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_inner_optimizer_is_torchs(kind: str) -> None:
    """Five steps; a weight that has a gradient only in some of them, as torch skips it."""
    start = {"a": torch.randn(3, 2), "b": torch.randn(2)}
    theirs = {k: nn.Parameter(v.clone()) for k, v in start.items()}
    choose = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind]
    torchs = choose(theirs.values(), lr=0.05, weight_decay=0.1)
    ours = InnerOptimizer(kind, lr=0.05, weight_decay=0.1)
    current = {k: v.requires_grad_() for k, v in start.items()}
    for i in range(5):
        gradients = {"a": torch.randn(3, 2)} | ({"b": torch.randn(2)} if i % 2 else {})
        for name, p in theirs.items():
            p.grad = gradients.get(name)
        torchs.step()
        current = ours.step(current, gradients)
        torch.testing.assert_close(current, dict(theirs))
        assert all(w.is_leaf and w.requires_grad for w in current.values())


def test_class_matched_batches_are_asked_for() -> None:
    method, batch = make("ucmkd", make_student(D_T), class_matched=True), make_batch()
    with pytest.raises(ValueError, match="ucmkd needs teacher_label in the batch"):
        method.backward(replace(batch, teacher_label=None), 0)


def test_inner_weights() -> None:
    """Without them λ does nothing in the inner steps; with them it scales η."""
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()

    def gradient(**given: Any) -> Tensor:
        method = make("ucmkd", student, teacher_head=head, inner_lr=0.02, **given)
        method.zero_grad()
        method.backward(batch, 0)
        return student.head.weight.grad.clone()

    plain = gradient(la_weight=1.0, fa_weight=1.0)
    assert torch.equal(gradient(la_weight=0.2, fa_weight=3.0, inner_weighted=False), plain)
    scaled = gradient(la_weight=2.0, fa_weight=2.0)
    assert not torch.allclose(scaled, plain)
    twice = make("ucmkd", student, teacher_head=head, inner_lr=0.04)
    twice.zero_grad()
    twice.backward(batch, 0)
    torch.testing.assert_close(student.head.weight.grad, scaled)


def test_truncation_is_the_released_one() -> None:
    """Normalised over all columns first, then cut, and LA is cross-entropy."""
    student, batch = make_student(4), make_batch()
    method = make("ucmkd", student, projector="truncate", variant="joint")
    terms = method.losses(batch)
    x, z = student.encoder(batch.student), batch.teacher_feature
    x, z = x / x.norm(dim=1, keepdim=True), (z / z.norm(dim=1, keepdim=True))[:, :4]
    torch.testing.assert_close(terms["fa"], feature_align(x, z, max_iter=100))
    ce = F.cross_entropy(student(batch.student), batch.student_label)
    torch.testing.assert_close(terms["la"], ce)
    equal = make("ucmkd", make_student(D_T), projector="truncate", variant="joint")
    plain = make("ucmkd", equal.student, teacher_head=equal.teacher_head, variant="joint")
    for name, value in equal.losses(batch).items():
        torch.testing.assert_close(value, plain.losses(batch)[name])


@pytest.mark.parametrize("outer", ["first_order", "second_order"])
@pytest.mark.parametrize("variant", ["printed", "released"])
def test_a_hooked_student_is_the_split_one(variant: str, outer: str) -> None:
    """A model cut at a named layer: its head alone is a pass of its own."""
    split, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    whole = copy.deepcopy(nn.Sequential(split.encoder, split.head))
    hooked = HookedModel(whole, "0", batch.student)
    given = dict(variant=variant, outer=outer, sharp=False, inner_lr=0.02, teacher_head=head)
    grads = []
    for student in (split, hooked):
        method = make("ucmkd", student, **given)
        terms = method.backward(batch, 0)
        assert list(terms) == ["ce", "fa", "la"]
        grads.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(*grads)
