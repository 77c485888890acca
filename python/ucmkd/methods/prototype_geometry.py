"""The geometry of the classes: which prototypes are near each other, without pairs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.losses._common import full_precision, wide
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.class_means import RunningClassMeans
from ucmkd.models import Student


def prototypes(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean features ``(C, d)`` by class, 0 where there is no sample, and which classes have one.

    In float32 or better.

    Args:
        features: ``(n, d)``.
        label: Classes ``(n,)``, int64.
        num_classes: C.
    """
    features = wide(features)
    member = F.one_hot(label, num_classes).to(features.dtype)
    count = member.sum(dim=0)
    with full_precision(features):
        return member.T @ features / count.clamp_min(1)[:, None], count > 0


def prototype_geometry_loss(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    r"""Mean squared difference of the prototypes' cosine similarities.

    .. math:: \frac{1}{K(K-1)}\sum_{k \neq l} (\cos(s_k, s_l) - \cos(t_k, t_l))^2

    over the K classes present. The similarities do not depend on the two widths, so no projector
    is needed.

    Args:
        student: Prototypes ``(C, d_S)``.
        teacher: Prototypes ``(C, d_T)``; detached.
        present: Classes ``(C,)`` that count.

    Returns:
        A 0-d tensor; 0 with fewer than two classes.
    """
    s, t = (F.normalize(wide(v, student), dim=-1) for v in (student, teacher.detach()))
    both = (present[:, None] & present).to(s.dtype)
    both = both - torch.diag(both.diagonal())
    with full_precision(s):
        return (both * (s @ s.T - t @ t.T).square()).sum() / both.sum().clamp_min(1)


class PrototypeGeometry(Method):
    """``prototype_geometry``: ``CE + λ`` :func:`prototype_geometry_loss`.

    Relational distillation (Park et al., arXiv 1904.05068; similarity-preserving: Tung and Mori,
    arXiv 1907.09682) between classes instead of samples, so that no pair is needed. The student's
    prototypes are the class means of the labelled batch, the teacher's are means over all its
    samples seen so far.

    Terms: ``ce``, ``geometry``.

    Args:
        student: The model to train.
        weight: λ ≥ 0.
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight.
    """

    name: ClassVar[str] = "prototype_geometry"
    needs_teacher = True
    requires = ("teacher_feature", "teacher_label")

    def __init__(self, student: Student, *, weight: float = 1.0, **options: Any) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        self.weight = weight
        self.teacher_prototypes = RunningClassMeans(self.num_classes, self.teacher_width)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "geometry": weight}``."""
        return {"ce": 1.0, "geometry": self.weight}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "geometry"}``."""
        assert batch.teacher_feature is not None and batch.teacher_label is not None
        if self.training:
            self.teacher_prototypes.update(batch.teacher_feature, batch.teacher_label)
        features, logits = self.student.outputs(batch.student)
        own, present = prototypes(features, batch.student_label, self.num_classes)
        teacher = self.teacher_prototypes
        return {
            "ce": self.cross_entropy(logits, batch.student_label),
            "geometry": prototype_geometry_loss(own, teacher.means(), present & teacher.seen()),
        }
