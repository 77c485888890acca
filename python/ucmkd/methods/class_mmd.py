"""Feature alignment class by class, by maximum mean discrepancy, without pairs."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ucmkd.losses import mmd_align
from ucmkd.methods import checks
from ucmkd.methods.base import Batch, Method
from ucmkd.methods.parts import make_projector
from ucmkd.models import Student
from ucmkd.reference import KERNELS


class ClassMMD(Method):
    r"""``class_mmd``: ``CE + λ MMD²`` of the features, averaged over the classes.

    .. math:: \frac1K\sum_k \mathrm{MMD}^2(\alpha_k, \beta_k)

    α_k and β_k the (projected) student features and the teacher features of class k, over the K
    classes that both batches have (:func:`ucmkd.losses.mmd_align` with labels on both sides).
    After the subdomain alignment of Zhu et al. 2021 (arXiv 2106.09388), here with true labels on
    both sides and between two modalities. The two batches stay independent: each class is
    normalised to mass one, so their class counts need not match.

    Terms: ``ce``, ``mmd``.

    Args:
        student: The model to train.
        weight: λ ≥ 0; small, since a large one hurts as with plain feature alignment.
        kernel: ``"gaussian"``, ``"laplace"``, ``"energy"``, ``"rational_quadratic"`` or
            ``"polynomial"``; the bandwidth is the median of the pooled distances, where there is
            one.
        projector: ``"auto"``, ``"linear"`` or ``"identity"``
            (:func:`ucmkd.methods.parts.make_projector`).
        **options: The options of :class:`ucmkd.methods.Method`.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A negative weight, or an unknown kernel or projector.
    """

    name: ClassVar[str] = "class_mmd"
    needs_teacher = True
    requires = ("teacher_feature", "teacher_label")

    def __init__(
        self,
        student: Student,
        *,
        weight: float = 0.1,
        kernel: str = "gaussian",
        projector: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(student, **options)
        checks.number("weight", weight)
        checks.choice("kernel", kernel, KERNELS)
        self.weight = weight
        self.kernel = kernel
        self.projector = make_projector(student.width, self.teacher_width, projector)

    def weights(self, step: int) -> dict[str, float]:
        """``{"ce": 1, "mmd": weight}``."""
        return {"ce": 1.0, "mmd": self.weight}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "mmd"}``."""
        assert batch.teacher_feature is not None and batch.teacher_label is not None
        features, logits = self.student.outputs(batch.student)
        return {
            "ce": self.cross_entropy(logits, batch.student_label),
            "mmd": mmd_align(
                self.projector(features),
                batch.teacher_feature,
                kernel=self.kernel,
                student_label=batch.student_label,
                teacher_label=batch.teacher_label,
                num_classes=self.num_classes,
            ),
        }
