"""The control for anchored alignment: pairs and a class prior, but no unpaired teacher."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ucmkd.methods import checks
from ucmkd.methods.base import Batch
from ucmkd.methods.self_labelling import SelfLabelling, self_label_loss
from ucmkd.methods.vanilla_kd import pair_kd
from ucmkd.models import Student


class SelfLabellingWithPairs(SelfLabelling):
    """``self_labelling_with_pairs``: self-labelling plus distillation on the pairs.

    What joint alignment with pairs has over this is due to the unpaired teacher samples, not to
    the pairs and not to the class prior.

    Terms: ``ce``, ``self``, ``pair_kd``.

    Args:
        student: The model to train.
        pair_weight: Weight of the distillation.
        temperature: T of the distillation.
        **options: The options of :class:`ucmkd.methods.self_labelling.SelfLabelling`.

    Raises:
        ValueError: A negative weight, a temperature that is not positive.
    """

    name: ClassVar[str] = "self_labelling_with_pairs"
    paired = True
    uses_pairs = True

    def __init__(
        self,
        student: Student,
        *,
        pair_weight: float = 1.0,
        temperature: float = 2.0,
        **options: Any,
    ) -> None:
        checks.number("pair_weight", pair_weight)
        checks.number("temperature", temperature, strict=True)
        super().__init__(student, **options)
        self.pair_weight = pair_weight
        self.temperature = temperature

    def weights(self, step: int) -> dict[str, float]:
        """``self`` is ramped, ``pair_kd`` is not."""
        return {**super().weights(step), "pair_kd": self.pair_weight}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """``{"ce", "self", "pair_kd"}``."""
        assert batch.unlabelled is not None and batch.paired is not None
        assert batch.paired_teacher_logits is not None
        inputs = (batch.student, batch.unlabelled, batch.paired)
        logits = self.student(torch.cat(inputs)).split([len(x) for x in inputs])
        self.see_pool(logits[1], step)
        return {
            "ce": self.cross_entropy(logits[0], batch.student_label),
            "self": self_label_loss(logits[1], self.mass, **self.solver),
            "pair_kd": pair_kd(
                logits[2], batch.paired_teacher_logits, temperature=self.temperature
            ),
        }
