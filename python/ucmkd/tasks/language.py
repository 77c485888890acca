"""Language models that learn from a teacher's answers, ``task: language``.

Small character-level transformers on the English text that ships with Python
(:mod:`ucmkd.language`). Every seed tests on another tenth of it. Its students start from the same
one, go on with the same number of tokens, and differ in where these come from.
"""

from __future__ import annotations

import copy
import platform
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ucmkd.config_errors import require
from ucmkd.language import (
    CharacterText,
    LanguageTraining,
    OnPolicy,
    Reference,
    Sampling,
    SmallTransformer,
    Source,
    Speculative,
    Step,
    character_text,
    distil_language,
    perplexity,
    python_paragraphs,
    random_windows,
    response_cross_entropy,
    response_divergence,
    sample,
)
from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task

FULL = Sampling(temperature=1.0, top_p=1.0)
RUN = 10
"""Neighbouring paragraphs that stay together in a part of the text."""


@dataclass(frozen=True)
class LanguageSettings:
    """What a study may set."""

    top_k: int = 25
    """Of the row ``speculative``."""
    sharp: bool = False
    """Sampling as released (temperature .5 and .2, top-p .5), not from the models as they are."""
    steps: int = 120
    """Of a distillation."""
    start_steps: int = 100
    """Of the student before, on the text."""
    teacher_steps: int = 500
    teacher_width: int = 64
    """A multiple of 16, the width of a head; its layers are two, the student's one."""
    student_width: int = 32
    context: int = 64
    """Of both."""
    batch: int = 16
    prompt: int = 16
    """Characters of the text before a response."""
    response: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(value is False or value > 0, name, value, "a positive integer")
        for name in ("teacher_width", "student_width"):
            value = getattr(self, name)
            require(value % 16 == 0, name, value, "a multiple of 16")
        length = self.prompt + self.response
        require(length <= self.context, "context", self.context, f"at least {length}, a window")

    def source(self, method: str) -> Source:
        """Where the tokens of a row come from."""
        if method == "on_policy":
            return OnPolicy() if self.sharp else OnPolicy(sampling=FULL)
        if method == "speculative":
            found = Speculative(top_k=self.top_k)
            full = replace(found, student_sampling=FULL, teacher_sampling=FULL)
            return found if self.sharp else full
        return Reference()


@dataclass(frozen=True)
class Models:
    """Of a seed: the text, the teacher, the student that all start from, and two controls."""

    text: CharacterText
    start: nn.Module
    teacher: nn.Module
    untrained: nn.Module
    placebo: nn.Module


class Renamed(nn.Module):
    """Answers of a model with the tokens' names permuted: the placebo.

    Args:
        model: Tokens ``(B, L)`` to logits ``(B, L, V)``.
        names: A permutation of the V tokens.
    """

    def __init__(self, model: nn.Module, names: Tensor) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, L, V)``, column k the model's column ``names[k]``."""
        answer: Tensor = self.model(tokens)[..., self.names]
        return answer


@lru_cache(maxsize=1)
def text_of(seed: int) -> CharacterText:
    """The seed decides which paragraphs are tested."""
    given = python_paragraphs()
    first = seed % 10 * RUN
    return character_text(given[first:] + given[:first], run=RUN)


@lru_cache(maxsize=1)
def prepared(seed: int, settings: LanguageSettings) -> Models:
    """Teacher and first student, both trained on the text."""
    text, s = text_of(seed), settings
    made: list[nn.Module] = []
    for width, layers, steps, lr in (
        (s.student_width, 1, s.start_steps, 1e-2),
        (s.teacher_width, 2, s.teacher_steps, 4e-3),
    ):
        torch.manual_seed(1000 * seed + layers)
        model = SmallTransformer(
            len(text.symbols), width=width, layers=layers, heads=width // 16, context=s.context
        )
        untrained = copy.deepcopy(model).eval()  # in the end the teacher's
        batches = random_windows(
            text.train, prompt=1, response=s.context - 1, batch=32, seed=10 * seed + layers
        )
        training = LanguageTraining(steps=steps, lr=lr, seed=seed)
        distil_language(model, None, batches, Reference(), training)
        made.append(model)
    start, teacher = made
    names = torch.randperm(len(text.symbols), generator=torch.Generator().manual_seed(seed))
    return Models(text, start, teacher, untrained, Renamed(teacher, names))


def _models(case: Case) -> Models:
    """What is of the distillation alone must not train the teacher again."""
    own = dict(top_k=1, sharp=False, steps=1, batch=1, prompt=1, response=1)
    return prepared(case.seed, replace(case.settings, **own))


def run(case: Case) -> Outcome:
    """Distil, but for the two rows that are there before."""
    settings: LanguageSettings = case.settings
    models = _models(case)
    text, student = models.text, copy.deepcopy(models.start)
    steps: list[Step] = []
    if case.method not in ("start", "teacher"):
        batches = random_windows(
            text.train, prompt=settings.prompt, response=settings.response,
            batch=settings.batch, seed=case.seed,
        )  # fmt: skip
        teacher = None if case.method == "cross_entropy" else getattr(
            models, case.control or "teacher"
        )  # fmt: skip
        training = LanguageTraining(steps=settings.steps, lr=5e-3, seed=case.seed)
        steps = distil_language(student, teacher, batches, settings.source(case.method), training)
    model = models.teacher if case.method == "teacher" else student

    def test() -> dict[str, Any]:
        divergence, surprise = own_text(model, models, settings)

        def mean(name: str) -> float | None:
            return sum(getattr(s, name) for s in steps) / len(steps) if steps else None

        return {
            "perplexity": perplexity(model, text.test, context=settings.context),
            "own_divergence": divergence,
            "own_surprise": surprise,
            **{name: mean(name) for name in ("own", "teacher_passes", "student_passes")},
            "tokens": steps[-1].tokens if steps else 0,
            "python": platform.python_version(),  # which decides the text
        }

    return Outcome(
        test, len(text.train) + len(text.validation), len(text.test),
        lambda: -perplexity(model, text.validation, context=settings.context),
    )  # fmt: skip


@torch.no_grad()
def own_text(model: nn.Module, models: Models, settings: LanguageSettings) -> tuple[float, float]:
    """On what a model writes after prompts of the test part: KL(teacher ‖ model), and the teacher's
    nats per character."""
    prompts = random_windows(
        models.text.test, prompt=settings.prompt, response=settings.response, batch=256, seed=99
    )(0)
    written = sample(
        model, prompts.tokens[:, : settings.prompt], length=settings.response, sampling=FULL,
        generator=torch.Generator().manual_seed(99),
    )  # fmt: skip
    answer = models.teacher(written.tokens)
    divergence = response_divergence(model(written.tokens), answer, written.response)
    surprise = response_cross_entropy(answer, written.tokens, written.response)
    return float(divergence), float(surprise)


_CONTROLS = ("placebo", "untrained")

TASK = Task(
    settings=LanguageSettings,
    rows={
        "start": (), "teacher": (), "cross_entropy": (), "supervised": _CONTROLS,
        "on_policy": _CONTROLS, "speculative": _CONTROLS,
    },
    run=run,
    fetch=python_paragraphs,
    prepare=_models,
    shown=Shown(
        measures=(
            Measure("perplexity", "perplexity", "test perplexity", 1.0, ".2f", lower=True),
            Measure("own_divergence", "KL", "KL(teacher ‖ student), nats", 1.0, ".3f", lower=True),
            Measure("own_surprise", "surprise", scale=1.0, form=".2f", tested=False),
            Measure("own", "own %", form=".0f", tested=False),
            Measure("teacher_passes", "its calls", scale=1.0, tested=False),
            Measure("student_passes", "own calls", scale=1.0, tested=False),
            SECONDS,
        ),
        caption="Perplexity per character on the test part, and KL(teacher ‖ student) in nats on "
        "what the student itself writes there (less is better)",
        columns="Surprise: the teacher's nats per character of that. Own: share of the training "
        "tokens that the student wrote. Calls: of the teacher and of the student while sampling, "
        "per step. Seconds: of the distillation.",
        unit="In perplexity and in nats, less is better",
        meaning={
            "placebo": "the names of the tokens in the teacher's answers are permuted",
            "untrained": "the teacher has its random initial weights",
        },
        samples="characters",
    ),
)  # fmt: skip
