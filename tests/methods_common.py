"""What the tests of the methods share: a tiny problem with every kind of data, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ucmkd import reference
from ucmkd.methods import METHODS, Batch, Method, create
from ucmkd.models import MLP

C, D, D_T, D_PEER = 3, 5, 7, 8
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
COUNTS = torch.tensor([3, 2, 1])


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def make_student(width: int = 4) -> MLP:
    return MLP(D, num_classes=C, hidden=6, width=width)


def make_batch(width: int = D_T) -> Batch:
    """Labelled student and teacher batches with the same class counts, and everything else."""
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    return Batch(
        student=torch.randn(6, D),
        student_label=label,
        teacher_feature=torch.randn(6, width),
        teacher_logits=torch.randn(6, C),
        teacher_label=label.flip(0),
        unlabelled=torch.randn(8, D),
        unlabelled_teacher_feature=torch.randn(10, width),
        unlabelled_teacher_logits=3 * torch.randn(10, C),
        unlabelled_teacher_label=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]),
        paired=torch.randn(4, D),
        paired_teacher_feature=torch.randn(4, width),
        paired_teacher_logits=torch.randn(4, C),
        paired_label=torch.tensor([0, 1, 2, 0]),
        teacher_input=torch.randn(6, D_PEER),
    )


def teacher_of(name: str, d: int = D, d_t: int = D_T, classes: int = C) -> dict[str, Any]:
    """The teacher's head; for a method that sees inputs all of it, and two modalities a side."""
    if name not in METHODS or not METHODS[name].teacher_inputs:
        return {"teacher_head": nn.Linear(d_t, classes)}
    return {
        "teacher_head": MLP(d_t, num_classes=classes, hidden=5, width=4),
        "modalities": {"a": 2, "b": d - 2},
        "teacher_modalities": {"a": min(4, d_t - 1), "b": d_t - min(4, d_t - 1)},
    }


def make(name: str, student: MLP | None = None, **kwargs: Any) -> Method:
    given: dict[str, Any] = {
        "num_classes": C,
        **teacher_of(name),
        "teacher_width": D_T,
        "class_prior": PRIOR,
        "label_counts": COUNTS,
    }
    student = make_student() if student is None else student
    if name in METHODS and METHODS[name].needs_peer:
        given["peer"] = MLP(D_PEER, num_classes=C, hidden=6, width=student.width)
    return create(name, student, **{**given, **kwargs})


def plan_of(cost: Tensor, epsilon: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The entropic plan by the reference, to convergence."""
    infinite = torch.full((1,), torch.inf)
    _, plan = reference.solve_dense(
        cost[None],
        None,
        a[None],
        b[None],
        torch.zeros(1, len(b)),
        epsilon.reshape(1),
        infinite,
        infinite,
        torch.zeros(1),
        symmetric=False,
        relative=False,
        tol=1e-12,
        max_iter=5000,
    )
    return plan[0]


def joint_parts(method: Method, batch: Batch, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cost with graph, plan's ε, uniform row masses: the definition, entry by entry."""
    x = method.projector(method.student.encoder(batch.unlabelled))
    log_p = method.student(batch.unlabelled).log_softmax(-1)
    z = batch.unlabelled_teacher_feature
    rows = []
    for i in range(len(x)):
        distance = [(x[i] / x[i].norm() - z[j] / z[j].norm()).norm() for j in range(len(z))]
        rows.append(torch.stack(distance))
    distance = torch.stack(rows)
    label = torch.stack([torch.stack([-(q[j] * r).sum() for j in range(len(z))]) for r in log_p])
    cost = distance / distance.detach().mean() + label
    shifted = (cost - cost.min()).detach()
    return cost, 0.1 * shifted.mean(), torch.full((len(x),), 1 / len(x))
