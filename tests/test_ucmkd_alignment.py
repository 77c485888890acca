"""UCMKD's feature alignment with every cost, by MMD, and between pairs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods_common import D_T, C, make, make_batch, make_student, plan_of
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd.losses import feature_align, label_align
from ucmkd.methods.alignment import make_alignment, truncate

pytestmark = pytest.mark.usefixtures("one_thread")


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


COSTS = {
    "l1": lambda x, z: (x - z).abs().sum(),
    "euclidean": lambda x, z: (x - z).square().sum().sqrt(),
    "sqeuclidean": lambda x, z: (x - z).square().sum(),
    "cosine": lambda x, z: 1 - unit(x) @ unit(z),
    "chordal": lambda x, z: (unit(x) - unit(z)).norm(),
}


@pytest.mark.parametrize("scale", ["mean", None])
@pytest.mark.parametrize("cost", COSTS)
def test_costs_entry_by_entry(cost: str, scale: str | None) -> None:
    """OT = <P, M> + ε KL(P | ab), and <P, M> alone when sharp."""
    batch = make_batch()
    given = dict(cost=cost, epsilon_scale=scale, epsilon=0.3, tol=1e-12, max_iter=10000)
    method = make("ucmkd", make_student(D_T), **given)
    x, z = method.student.encoder(batch.student).detach(), batch.teacher_feature
    matrix = torch.stack([torch.stack([COSTS[cost](a, b) for b in z]) for a in x])
    epsilon = torch.tensor(0.3) * (matrix.mean() if scale else 1.0)
    a = torch.full((6,), 1 / 6)
    plan = plan_of(matrix, epsilon, a, a)
    transport = (plan * matrix).sum()
    divergence = (plan * (plan * 36).log() - plan + 1 / 36).sum()
    fa = method.losses(batch)["fa"]
    torch.testing.assert_close(fa, transport + epsilon * divergence, rtol=1e-7, atol=1e-9)
    sharp = make("ucmkd", method.student, sharp=True, **given)
    torch.testing.assert_close(sharp.losses(batch)["fa"], transport, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bandwidth", ["median", "mean", 1.5])
def test_mmd_by_its_definition(bandwidth: str | float) -> None:
    batch = make_batch()
    method = make("ucmkd", make_student(D_T), alignment="mmd", bandwidth=bandwidth)
    x, z = method.student.encoder(batch.student).detach(), batch.teacher_feature
    pooled = torch.pdist(torch.cat((x, z))).square()
    middle = pooled.sort().values
    sigma2 = {"median": (middle[32] + middle[33]) / 2, "mean": pooled.mean(), 1.5: 1.5**2}[
        bandwidth
    ]

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        d2 = (u[:, None] - v[None]).square().sum(-1)
        return sum((-d2 / (2 * sigma2 * s**2)).exp() for s in (0.25, 0.5, 1.0, 2.0, 4.0)) / 5

    wanted = kernel(x, x).mean() + kernel(z, z).mean() - 2 * kernel(x, z).mean()
    torch.testing.assert_close(method.losses(batch)["fa"], wanted)


@pytest.mark.parametrize(
    "given",
    [
        {"epsilon_scale": "mean"},
        {"epsilon_scale": None},
        {"alignment": "mmd"},
        {"alignment": "mmd", "bandwidth": "mean"},
        {"alignment": "mmd", "bandwidth": 2.0},
    ],
    ids=str,
)
def test_origin_changes_neither_value_nor_gradient(given: dict) -> None:
    """The scale that follows the origin is the scale that the losses find themselves."""
    plain = dict(alignment="sinkhorn", bandwidth="median", sharp=False, cost="euclidean",
                 epsilon=0.1, epsilon_scale="mean", tol=1e-12, max_iter=5000)  # fmt: skip
    align = make_alignment(**{**plain, **given})
    x, z = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    own, other = align(x, z), align(x, z, origin=x.detach())
    torch.testing.assert_close(other, own)
    torch.testing.assert_close(torch.autograd.grad(other, x), torch.autograd.grad(own, x))


def test_coincident_clouds_have_a_finite_second_order_step() -> None:
    student, batch = make_student(D_T), make_batch()
    with torch.no_grad():
        student.encoder[-3].weight.zero_()  # all features are equal
        student.encoder[-3].bias.fill_(1.0)
    batch = replace(batch, teacher_feature=torch.ones(6, D_T))
    for alignment in ("sinkhorn", "mmd"):
        method = make("ucmkd", student, outer="second_order", alignment=alignment)
        method.backward(batch, 0)
        assert all(bool(p.grad.isfinite().all()) for p in student.parameters())
        method.zero_grad()


def test_truncate_by_hand() -> None:
    x, z = truncate(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 3.0, 6.0]]))
    torch.testing.assert_close(x, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(z, torch.tensor([[2 / 7, 3 / 7]]))
    same = torch.randn(2, 3)
    assert truncate(same, same)[0] is same


# Pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_paired_terms(labelled: bool) -> None:
    """FA between the rows of the pairs; CE and LA on everything that has a label."""
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    if not labelled:
        batch = replace(batch, paired_label=None)
    method = make("ucmkd", student, teacher_head=head, variant="joint", paired=True)
    terms = method.losses(batch)
    inputs, label = batch.student, batch.student_label
    if labelled:
        inputs = torch.cat((inputs, batch.paired))
        label = torch.cat((label, batch.paired_label))
    z, logits = student.outputs(inputs)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, label))
    torch.testing.assert_close(terms["la"], label_align(logits, head(z), label))
    pair = student.encoder(batch.paired)
    fa = feature_align(pair, batch.paired_teacher_feature, max_iter=100)
    torch.testing.assert_close(terms["fa"], fa)
    bilevel = make("ucmkd", student, teacher_head=head, paired=True).backward(batch, 0)
    torch.testing.assert_close(bilevel["fa"], terms["fa"])
    assert method.uses_pairs and not method.paired  # used where the batch has them


def test_paired_step_is_the_unpaired_one_on_those_rows() -> None:
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    only = replace(
        batch, student=batch.paired[:0], student_label=batch.paired_label[:0]
    )  # fmt: skip
    swapped = replace(
        batch,
        student=batch.paired,
        student_label=batch.paired_label,
        teacher_feature=batch.paired_teacher_feature,
        teacher_logits=batch.paired_teacher_logits,
        teacher_label=batch.paired_label,
        teacher_input=None,
    )
    grads = []
    for paired, given in ((True, only), (False, swapped)):
        method = make("ucmkd", student, teacher_head=head, paired=paired, inner_lr=0.05)
        method.zero_grad()
        method.backward(given, 0)
        grads.append([p.grad.clone() for p in student.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("variant", ["printed", "joint"])
def test_without_pairs_it_warns_once_and_is_unpaired(variant: str) -> None:
    student, head, batch = make_student(D_T), nn.Linear(D_T, C), make_batch()
    batch = replace(batch, paired=None, paired_teacher_feature=None)
    method = make("ucmkd", student, teacher_head=head, paired=True, variant=variant)
    with pytest.warns(UserWarning, match="paired=True, but the batch has no pairs"):
        terms = method.backward(batch, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.backward(batch, 1)
    plain = make("ucmkd", student, teacher_head=head, variant=variant).backward(batch, 0)
    torch.testing.assert_close(terms, plain)
