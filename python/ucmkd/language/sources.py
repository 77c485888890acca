"""The tokens that a student trains on: the text's, its own, or its own as the teacher leaves them.

On the first, divergence from the teacher is supervised distillation; on the second, on-policy
distillation; on the third, speculative distillation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.language.sampling import LanguageModel, Sampling
from ucmkd.language.speculative import STUDENT, TEACHER, sample, speculative_sample
from ucmkd.language.windows import TextBatch


class Drawn(NamedTuple):
    """What a step trains on.

    Attributes:
        tokens: ``(B, L)`` int64.
        response: ``(B, L)`` bool, True for the tokens that count.
        own: Share of the counted tokens that the student wrote.
        student_passes: Calls of the student to get them.
        teacher_passes: Calls of the teacher.
    """

    tokens: Tensor
    response: Tensor
    own: float
    student_passes: int = 0
    teacher_passes: int = 0


Source = Callable[[TextBatch, LanguageModel, LanguageModel, torch.Generator], Drawn]
"""Called with a batch, student, teacher and the random numbers of the step."""


@dataclass(frozen=True)
class Reference:
    """The text's own responses."""

    def __call__(
        self,
        batch: TextBatch,
        student: LanguageModel,
        teacher: LanguageModel,
        generator: torch.Generator,
    ) -> Drawn:
        """The batch as it is."""
        return Drawn(batch.tokens, batch.response, 0.0)


@dataclass(frozen=True)
class OnPolicy:
    """Responses that the student writes to the batch's prompts.

    Args:
        length: Of a response; None for the widest of the batch's.
        sampling: Of the student.
        end: See :func:`.sample`.
        pad: See :func:`.sample`.

    Source: Agarwal et al., "On-policy distillation of language models", ICLR 2024.
    """

    length: int | None = None
    sampling: Sampling = STUDENT
    end: int | None = None
    pad: int = 0

    def __call__(
        self,
        batch: TextBatch,
        student: LanguageModel,
        teacher: LanguageModel,
        generator: torch.Generator,
    ) -> Drawn:
        """Prompts of the batch with new responses."""
        prompts, length = _prompts(batch, self.length)
        found = sample(
            student, prompts, length=length, prompt_lengths=batch.prompt_lengths,
            sampling=self.sampling, end=self.end, pad=self.pad, generator=generator,
        )  # fmt: skip
        return Drawn(found.tokens, found.response, 1.0, found.student_passes)


@dataclass(frozen=True)
class Speculative:
    """Responses that the student drafts and the teacher corrects.

    Args:
        length: Of a response; None for the widest of the batch's.
        top_k: A draft outside the teacher's K most probable tokens is replaced.
        block: Tokens drafted before the teacher is asked.
        student_sampling: Of the drafts.
        teacher_sampling: Of the replacements.
        end: See :func:`.speculative_sample`.
        pad: See :func:`.speculative_sample`.

    Source: Xu et al., ICLR 2025 (arXiv 2410.11325); defaults of the released code.
    """

    length: int | None = None
    top_k: int = 25
    block: int = 5
    student_sampling: Sampling = STUDENT
    teacher_sampling: Sampling = TEACHER
    end: int | None = None
    pad: int = 0

    def __call__(
        self,
        batch: TextBatch,
        student: LanguageModel,
        teacher: LanguageModel,
        generator: torch.Generator,
    ) -> Drawn:
        """Prompts of the batch with new responses."""
        prompts, length = _prompts(batch, self.length)
        found = speculative_sample(
            student, teacher, prompts, length=length, prompt_lengths=batch.prompt_lengths,
            top_k=self.top_k, block=self.block, student_sampling=self.student_sampling,
            teacher_sampling=self.teacher_sampling, end=self.end, pad=self.pad,
            generator=generator,
        )  # fmt: skip
        own = float(found.accepted.sum() / found.response.sum())
        return Drawn(found.tokens, found.response, own, found.student_passes, found.teacher_passes)


def _prompts(batch: TextBatch, length: int | None) -> tuple[Tensor, int]:
    width = int(batch.prompt_lengths.max())
    return batch.tokens[:, :width], int(batch.response.sum(1).max()) if length is None else length
