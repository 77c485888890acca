"""The certificate of a training: whose features, whose head, and on which samples.

Both sides are measured on validation samples, which neither network was trained on (the student's
weights were chosen on them, among few). The student's features have to be in the teacher's space:

- a method that aligns features there has its projector (:meth:`Method.to_teacher`), and what is
  certified is what it aligned;
- for any other, an affine map is fitted, the student's features onto the teacher's class means
  (ridge regression on the labelled training samples), and what is certified is the student behind
  this map. Any fixed map is allowed by the theorem; this one has been asked for the classes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batches import TrainingData
from .diagnostics import report
from .methods.base import Method
from .models import Student, head_module
from .stored_inputs import Inputs
from .teacher import cache_outputs
from .theory.certificate import Certificate, certificate

#: Ridge of the fitted map, relative to the mean variance of a feature.
RIDGE = 0.01
#: Most points of a plan while training, and at the end.
WATCHED_POINTS, FINAL_POINTS = 256, 2048
#: Most samples of either side while training, and that the map is fitted on at any time.
WATCHED_SAMPLES, FITTED_SAMPLES = 256, 1024
#: How far a head may be from its linear form, relative to its largest logit.
LINEAR_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TeacherSide:
    """What a certificate needs of a teacher: outputs on its validation samples, and its head.

    On the CPU, where the certificate is computed whatever the device of the training: in float64,
    which some devices do not have and others are slow in.

    Attributes:
        feature: ``(m, d)``.
        logits: ``(m, K)``.
        label: ``(m,)``.
        weight: W ``(K, d)`` of the head.
        bias: b ``(K,)``.
    """

    feature: Tensor
    logits: Tensor
    label: Tensor
    weight: Tensor
    bias: Tensor


@torch.no_grad()
def teacher_side(
    teacher: Student, own: TrainingData, device: torch.device | str = "cpu"
) -> TeacherSide | str:
    """A frozen teacher on its validation samples; a sentence where there can be no certificate.

    Args:
        teacher: In evaluation mode, on ``device``.
        own: Its own problem (:attr:`ucmkd.preparation.Prepared.teacher`).
        device: Of the teacher.
    """
    if own.validation is None or own.validation_label is None:
        return "the teacher has no validation samples"
    feature, logits = cache_outputs(teacher, own.validation.to(device))
    form = linear_form(teacher, feature, logits)
    if form is None:
        return "the teacher's head is not linear"
    tensors = (feature, logits, own.validation_label, *form)
    return TeacherSide(*(tensor.cpu() for tensor in tensors))


@torch.no_grad()
def linear_form(teacher: Student, feature: Tensor, logits: Tensor) -> tuple[Tensor, Tensor] | None:
    """W ``(K, d)`` and b ``(K,)`` of a head; None if it is not of this form.

    Args:
        teacher: In evaluation mode.
        feature: Some of its features ``(m, d)``, on which the form is checked.
        logits: Its logits on them ``(m, K)``.
    """
    head = head_module(teacher)
    if isinstance(head, nn.Linear):
        bias = head.weight.new_zeros(head.out_features) if head.bias is None else head.bias
        return head.weight.detach().clone(), bias.detach().clone()
    width = feature.shape[1]
    origin = torch.zeros(1, width).to(feature)
    axes = torch.eye(width).to(feature)
    shift = teacher.head(origin)[0]
    weight = torch.cat([teacher.head(part) - shift for part in axes.split(256)]).T
    gap = (feature @ weight.T + shift - logits).abs().max()
    if not gap <= LINEAR_TOLERANCE * (1 + logits.abs().max()):
        return None
    return weight.contiguous(), shift


@torch.no_grad()
def certify(
    method: Method,
    data: TrainingData,
    teacher: TeacherSide,
    *,
    delta: float = 0.05,
    max_points: int = FINAL_POINTS,
    max_samples: int | None = None,
) -> Certificate | str:
    """The certificate of a student in its present state; a sentence where there can be none.

    A placebo's teacher is certified with the classes that the student was told.

    Args:
        method: Left as it is; measured in evaluation mode.
        data: The student's, with the teacher's cached outputs; the validation samples are used.
        teacher: See :func:`teacher_side`.
        delta: Of the finite-sample terms.
        max_points: The most points of either side in one transport plan.
        max_samples: Of either side, evenly spaced; None: all.
    """
    if data.validation is None or data.validation_label is None:
        return "the student has no validation samples"
    rows = _spaced(len(data.validation), max_samples)
    others = _spaced(len(teacher.feature), max_samples)
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        feature, logits = _outputs(method, data.validation, rows)
        moved = method.to_teacher(feature)
        space = "the student's features through the method's projector"
        if moved is None:
            moved = _fitted(
                method, data, feature, FITTED_SAMPLES if max_samples is None else max_samples
            )
            space = "the student's features through an affine map onto the teacher's class means"
            if moved is None:
                return "the method has no projector, and the data no teacher features to fit one to"
    finally:
        for module, mode in modes:
            module.training = mode
    label, weight, bias = teacher.label[others], teacher.weight, teacher.bias
    if method.permutation is not None:  # the classes of a placebo
        permutation = method.permutation.cpu()
        order = torch.argsort(permutation)
        label, weight, bias = permutation[label], weight[order], bias[order]
    moved, logits, known = moved.cpu(), logits.cpu(), data.validation_label.cpu()[rows]
    if not bool(torch.isfinite(logits).all() & torch.isfinite(moved).all()):
        return "the student's outputs are not finite"
    return certificate(
        moved, logits, known, teacher.feature[others], None, label,
        (weight, bias), delta=delta, max_points=max_points, space=space,
    )  # fmt: skip


class CertificateProbe:
    """Reports the terms of the certificate at every diagnosis (a probe of ``fit``)."""

    def __init__(self, teacher: TeacherSide) -> None:
        self.teacher = teacher

    def __call__(self, method: Method, data: TrainingData, step: int) -> None:
        """Report ``certificate/…`` and ``certificate_transfer/…``, in nats."""
        found = certify(
            method, data, self.teacher, max_points=WATCHED_POINTS, max_samples=WATCHED_SAMPLES
        )
        if isinstance(found, Certificate):
            for name, value in found.scalars().items():
                report(name, value)


def _outputs(
    method: Method, inputs: Inputs, rows: Tensor, size: int = 1024
) -> tuple[Tensor, Tensor]:
    """Features and logits on some rows; the logits are those that the method predicts with."""
    feature, logits = [], []
    for index in rows.split(size):
        part = inputs[index.to(inputs.device)]
        feature.append(method.student.encoder(part))
        logits.append(method.predict(part))
    return torch.cat(feature), torch.cat(logits)


def _spaced(n: int, most: int | None) -> Tensor:
    """At most ``most`` of n rows, evenly spaced: samples may be stored class by class."""
    count = n if most is None else min(n, most)
    return torch.arange(count) * n // count


def _fitted(method: Method, data: TrainingData, feature: Tensor, most: int) -> Tensor | None:
    """``feature`` through the affine map that brings the labelled samples to the class means."""
    target, teacher_label = data.teacher_feature, data.teacher_label
    if target is None or teacher_label is None:
        return None
    target, teacher_label = target.cpu().double(), teacher_label.cpu()
    if method.permutation is not None:
        teacher_label = method.permutation.cpu()[teacher_label]
    rows = _spaced(len(data.student), most)
    label = data.student_label.cpu()[rows]
    own = _outputs(method, data.student, rows)[0].cpu().double()
    counts = torch.bincount(teacher_label, minlength=data.num_classes)
    sums = torch.zeros(data.num_classes, target.shape[1], dtype=torch.float64)
    sums.index_add_(0, teacher_label, target)
    known = counts[label] > 0
    if not bool(known.any()):
        return None
    wanted = (sums / counts.clamp(min=1)[:, None])[label[known]]
    own = own[known]
    centre, middle = own.mean(0), wanted.mean(0)
    own, wanted = own - centre, wanted - middle
    covariance = own.T @ own / len(own)
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean() + 1e-12)
    map_ = torch.linalg.solve(covariance, own.T @ wanted / len(own))
    return (feature.cpu().double() - centre) @ map_ + middle
