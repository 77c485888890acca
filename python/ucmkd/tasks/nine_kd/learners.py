"""The eleven ways to train the student: cross-entropy, label smoothing, nine methods.

Each is a function of the problem, the teacher and a factor of its published weight that returns a
:class:`Learner`: a loss and the network that is deployed. All minimise cross-entropy plus their
own term; what several need is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucmkd.losses import attention_loss, bss_loss, fsp_loss, kd_loss, one_loss, rkd_loss
from ucmkd.losses.boundary import base_samples, boundary_samples, draw_targets
from ucmkd.methods.dml import mutual_losses
from ucmkd.methods.fitnet import hint_loss
from ucmkd.methods.sp import similarity_preserving_loss
from ucmkd.models_cnn import SmallCNN, Stages
from ucmkd.models_one import gated_cnn
from ucmkd.tasks.nine_kd.problem import Problem, Taught, make_student


@dataclass(frozen=True)
class Learner:
    """What is trained, how, and what remains of it.

    Attributes:
        loss: Of training rows and of the progress in [0, 1).
        trained: The modules whose parameters are trained.
        deployed: The student.
        source: What it learned from, where that is trained along with it; None: the teacher.
    """

    loss: Callable[[Tensor, float], Tensor]
    trained: list[nn.Module]
    deployed: nn.Module
    source: nn.Module | None = None


Term = Callable[[Stages, Stages], Tensor]
Make = Callable[[Problem, Taught, float], Learner]


def smoothed(problem: Problem, taught: Taught, smoothing: float) -> Learner:
    """Cross-entropy with label smoothing; 0 is plain cross-entropy."""
    student = make_student()

    def loss(rows: Tensor, _: float) -> Tensor:
        logits = student(problem.images[rows])
        return F.cross_entropy(logits, problem.labels[rows], label_smoothing=smoothing)

    return Learner(loss, [student], student)


def with_term(
    problem: Problem, taught: Taught, weight: float, term: Term, own: tuple[nn.Module, ...] = ()
) -> Learner:
    """Cross-entropy plus ``weight`` times a term of both networks' stages."""
    student = make_student()

    def loss(rows: Tensor, _: float) -> Tensor:
        found = student.through(problem.images[rows])
        said = _rows(taught.said, rows)
        return F.cross_entropy(found.logits, problem.labels[rows]) + weight * term(found, said)

    return Learner(loss, [student, *own], student)


def fitnet(problem: Problem, taught: Taught, weight: float) -> Learner:
    """The hint is the second stage, the regressor a 1×1 convolution."""
    # Made from the global generator, the regressor must not change the student's first weights.
    with torch.random.fork_rng(devices=[]):
        channels = make_student().channels[-1]
        regressor = nn.Conv2d(channels, channels, 1)

    def term(s: Stages, t: Stages) -> Tensor:
        return hint_loss(regressor(s.maps[-1]), t.maps[-1])

    return with_term(problem, taught, weight, term, (regressor,))


def attention(s: Stages, t: Stages) -> Tensor:
    """The sum over the stages."""
    return torch.stack([attention_loss(a, b) for a, b in zip(s.maps, t.maps, strict=True)]).sum()


def boundary(problem: Problem, taught: Taught, factor: float) -> Learner:
    """BSS: weights 4 → 1 of KD and 2 → 0 of the boundary samples, both over T² = 9, T = 3."""
    student, generator = make_student(), torch.Generator().manual_seed(torch.initial_seed())

    def at_boundary(student: SmallCNN, logits: Tensor, rows: Tensor) -> Tensor:
        said, images, labels = taught.said.logits[rows], problem.images[rows], problem.labels[rows]
        base = base_samples(logits, said, labels, ATTACKED)
        if not len(base):
            return logits.new_zeros(())
        found = boundary_samples(
            taught.net, images[base], draw_targets(said[base], generator),
            step=STEP, low=0.0, high=1.0,
        )  # fmt: skip
        return bss_loss(student(found.inputs), found.logits, crossed=found.crossed)

    def loss(rows: Tensor, progress: float) -> Tensor:
        logits = student(problem.images[rows])
        kd, edge = factor * (4 - 3 * progress) / 9, factor * max(2 - 8 / 3 * progress, 0) / 9
        total = F.cross_entropy(logits, problem.labels[rows])
        total = total + kd * kd_loss(logits, taught.said.logits[rows], temperature=3.0)
        return total + edge * at_boundary(student, logits, rows) if edge else total

    return Learner(loss, [student], student)


#: BSS: samples of a batch that are moved, and η for images in 0 … 1.
ATTACKED, STEP = 16, 0.1


def mutual(problem: Problem, taught: Taught, weight: float) -> Learner:
    """DML: two students of one architecture, updated at once; the first is deployed."""
    student, peer = make_student(), make_student()

    def loss(rows: Tensor, _: float) -> Tensor:
        images, labels = problem.images[rows], problem.labels[rows]
        first, second = student(images), peer(images)
        own = F.cross_entropy(first, labels) + F.cross_entropy(second, labels)
        return own + weight * torch.stack(mutual_losses(first, second)).sum()

    return Learner(loss, [student, peer], student, peer)


class Mixture(nn.Module):
    """The ensemble of a gated network as a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net.mixture(inputs)  # type: ignore[operator]


def ensemble(problem: Problem, taught: Taught, weight: float) -> Learner:
    """ONE: the student's first stage with three last stages and a gate; one branch is deployed."""
    net = gated_cnn(make_student)

    def loss(rows: Tensor, _: float) -> Tensor:
        branches, gate = net(problem.images[rows])
        return one_loss(branches, gate, problem.labels[rows], weight=weight)

    return Learner(loss, [net], net.branch(0), Mixture(net))


def _rows(stages: Stages, rows: Tensor) -> Stages:
    maps = tuple(each[rows] for each in stages.maps)
    return Stages(maps, stages.features[rows], stages.logits[rows])


def _term(term: Term) -> Make:
    return lambda problem, taught, weight: with_term(problem, taught, weight, term)


#: Where names of classes matter, and where features are compared.
NAMES, FEATURES = ("placebo", "untrained"), ("untrained",)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: As printed.
        make: See :data:`Make`.
        weight: Published weight, in the units of our losses.
        controls: What the teacher can be replaced by; none without a teacher.
    """

    title: str
    make: Make
    weight: float
    controls: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.controls)


#: The published weights belong to networks with batch normalisation, whose maps are smaller than
#: those here: what compares maps needs small factors.
METHODS = {
    "ce": Method("cross-entropy", smoothed, 0.0),
    "smoothing": Method("label smoothing (no teacher)", smoothed, 0.1),
    "hinton": Method("Hinton", _term(lambda s, t: kd_loss(s.logits, t.logits)), 9.0, NAMES),
    "bss": Method("BSS", boundary, 1.0, NAMES),
    "fitnet": Method("FitNet", fitnet, 100.0, FEATURES),
    "fsp": Method("FSP", _term(lambda s, t: fsp_loss(*s.maps, *t.maps)), 50.0, FEATURES),
    "at": Method("AT", _term(attention), 1000.0, FEATURES),
    "rkd": Method("RKD", _term(lambda s, t: rkd_loss(s.features, t.features)), 1.0, FEATURES),
    "sp": Method(
        "SP", _term(lambda s, t: similarity_preserving_loss(s.maps[-1], t.maps[-1])), 3000.0,
        FEATURES,
    ),
    "dml": Method("DML", mutual, 1.0),
    "one": Method("ONE", ensemble, 1.0),
}  # fmt: skip
