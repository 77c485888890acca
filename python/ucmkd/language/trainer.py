"""Distillation of language models: draw tokens, compare with the teacher on them, step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ucmkd.checkpoint import Checkpointer, random_state, set_random_state
from ucmkd.identity import refuse_other
from ucmkd.language import _check
from ucmkd.language.losses import DIVERGENCES, response_cross_entropy, response_divergence
from ucmkd.language.sampling import LanguageModel
from ucmkd.language.sources import Source
from ucmkd.language.windows import Batches, TextBatch, identity_of
from ucmkd.ops import _check as check
from ucmkd.step_random import generator_of


@dataclass(frozen=True)
class LanguageTraining:
    """How to train.

    Attributes:
        steps: Of AdamW.
        lr: The first learning rate; it falls linearly to 0. The default is the paper's, for
            pretrained models of billions of weights; small ones that start from nothing take
            1e-3 and more.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        divergence: ``"forward"``, ``"reverse"`` or ``"jsd"``, see :func:`.token_divergence`.
        mixture: β of ``"jsd"``.
        temperature: Of both models in the divergence.
        seed: Of what is sampled.
        save_every: Steps between checkpoints; the last step is always one.

    Raises:
        TypeError: Not a number.
        ValueError: A number out of range, an unknown divergence.
    """

    steps: int = 200
    lr: float = 1e-5
    weight_decay: float = 0.0
    clip: float = 1.0
    divergence: str = "forward"
    mixture: float = 0.5
    temperature: float = 1.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "save_every"):
            _check.integer(getattr(self, name), name, 1)
        _check.integer(self.seed, "seed", 0)
        check.one_of(self.divergence, DIVERGENCES, "divergence")
        for name in ("lr", "weight_decay", "clip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number; got {type(value).__name__}")
            if not (value > 0 or (name == "weight_decay" and value == 0)) or math.isinf(value):
                raise ValueError(f"{name} must be positive and finite; got {value}")


class Step(NamedTuple):
    """One step of a training.

    Attributes:
        loss: In nats per token.
        tokens: Trained on so far.
        own: Share of this step's tokens that the student wrote.
        student_passes: Calls of the student while sampling.
        teacher_passes: Calls of the teacher while sampling.
    """

    loss: float
    tokens: int
    own: float
    student_passes: int
    teacher_passes: int


def distil_language(
    student: nn.Module,
    teacher: LanguageModel | None,
    batches: Batches,
    source: Source,
    training: LanguageTraining,
    *,
    folder: str | Path | None = None,
    on_step: Callable[[int, Step], None] | None = None,
) -> list[Step]:
    r"""Train ``student`` in place, on the tokens of ``source``.

    The loss is the mean divergence from the teacher over the response tokens; without a teacher,
    the cross-entropy of the tokens themselves. The student samples in eval mode and without a
    graph; its loss has one.

    Args:
        student: A module, tokens ``(B, L)`` to logits ``(B, L, V)``.
        teacher: The same as any callable, frozen and in eval mode (a module is put into it);
            None for cross-entropy.
        batches: The batch of a step; it is moved to where the student is.
        source: :class:`.Reference`, :class:`.OnPolicy`, :class:`.Speculative` or another.
        training: Numbers.
        folder: Of checkpoints. A run that is there is taken up, and ends with the bits of one that
            was never interrupted; None: none.
        on_step: Called after every step with its number, from 1.

    Returns:
        Every step, those of before an interruption too.

    Raises:
        TypeError: ``student`` is no module.
        ValueError: A teacher missing for a source that asks it; see the source and the loss.
        CheckpointError: Damaged, of other data, or of a training with other numbers.
    """
    if not isinstance(student, nn.Module):
        raise TypeError(f"student must be a torch.nn.Module; got {type(student).__name__}")
    if isinstance(teacher, nn.Module):
        teacher.eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=training.lr, weight_decay=training.weight_decay
    )
    device = next(student.parameters()).device
    checkpointer, identity, steps = None, dict[str, str](), list[Step]()
    if folder is not None:
        checkpointer = Checkpointer(folder)
        setting = repr((asdict(training), source, teacher is None))
        identity = {"data": identity_of(batches), "setting": setting}
        steps = _resume(checkpointer, identity, student, optimizer)
    for number in range(len(steps), training.steps):
        batch = TextBatch(*(part.to(device) for part in batches(number)))
        student.eval()
        drawn = source(
            batch, student, teacher or _no_teacher, generator_of(training.seed, number, purpose=1)
        )
        student.train()
        logits = student(drawn.tokens)
        if teacher is None:
            loss = response_cross_entropy(logits, drawn.tokens, drawn.response)
        else:
            with torch.no_grad():
                answer = teacher(drawn.tokens)
            loss = response_divergence(
                logits, answer, drawn.response, divergence=training.divergence,
                mixture=training.mixture, temperature=training.temperature,
            )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), training.clip, error_if_nonfinite=True)
        for group in optimizer.param_groups:
            group["lr"] = training.lr * (1 - number / training.steps)
        optimizer.step()
        seen = (steps[-1].tokens if steps else 0) + int(drawn.response[:, 1:].sum())
        steps.append(Step(loss.item(), seen, drawn.own, drawn.student_passes, drawn.teacher_passes))
        last = len(steps) == training.steps
        if checkpointer is not None and (len(steps) % training.save_every == 0 or last):
            checkpointer.save(
                {
                    **identity,
                    "student": student.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": random_state(),
                    "steps": [list(step) for step in steps],
                }
            )
        if on_step is not None:
            on_step(len(steps), steps[-1])
    student.eval()
    return steps


def _no_teacher(tokens: torch.Tensor) -> torch.Tensor:
    raise ValueError("teacher must be given to a source that asks it; got None")


def _resume(
    checkpointer: Checkpointer,
    identity: dict[str, str],
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> list[Step]:
    state = checkpointer.load((*identity, "student", "optimizer", "random", "steps"))
    if state is None:
        return []
    refuse_other(state, identity, checkpointer.folder)
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state["random"])
    return [Step(*step) for step in state["steps"]]
