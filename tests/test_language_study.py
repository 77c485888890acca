"""The task of language models: its text, its teachers, its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from ucmkd.config import ConfigError
from ucmkd.language import OnPolicy, Reference, Speculative
from ucmkd.tasks import Case, language
from ucmkd.tasks.language import TASK, LanguageSettings, Renamed, prepared, text_of

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = LanguageSettings(
    top_k=2, steps=2, start_steps=2, teacher_steps=30, teacher_width=16, student_width=16,
    context=12, batch=2, prompt=4, response=4,
)  # fmt: skip


def paragraphs() -> list[str]:
    """Two hundred, of letters that are all frequent."""
    names = ("".join("abcdefghij"[int(digit)] for digit in f"{k:03d}") for k in range(200))
    return [f"{name} {'abc def ghi j ' * (2 + k % 3)}." for k, name in enumerate(names)]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(language, "python_paragraphs", paragraphs)
    for cached in (text_of, prepared):
        cached.cache_clear()
    yield
    for cached in (text_of, prepared):
        cached.cache_clear()


def test_every_seed_tests_on_another_tenth() -> None:
    parts = []
    for seed in range(11):
        text = text_of(seed)
        parts.append(text.decode(text.test))
        assert text.decode(text.train[:10]) == paragraphs()[seed % 10 * 10][:10]
    assert len(set(parts)) == 10 and parts[10] == parts[0]
    held = [set(part.split("\n\n")) for part in parts[:10]]
    assert len(set.union(*held)) == sum(map(len, held)) == 200


def test_rows_of_a_seed_share_teacher_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    real, teachers = language.distil_language, []

    def watched(student, teacher, *rest):  # type: ignore[no-untyped-def]
        teachers.append(teacher)
        return real(student, teacher, *rest)

    monkeypatch.setattr(language, "distil_language", watched)
    found = {}
    for method, controls in TASK.rows.items():
        for control in (None, *controls):
            case = Case(method, QUICK, control, 1)
            TASK.prepare(case)
            found[method, control] = TASK.run(case).test()
    models = language._models(Case("start", QUICK, None, 1))
    assert prepared.cache_info().misses == 1
    # The first two are trained on the text; so is the row of cross-entropy.
    assert teachers[:3] == [None] * 3
    each = [models.teacher, models.placebo, models.untrained]
    assert len(teachers) == 12 and all(a is b for a, b in zip(teachers[3:], each * 3, strict=True))
    assert found["teacher", None]["own_divergence"] == pytest.approx(0, abs=1e-6)
    assert found["teacher", None]["perplexity"] < found["start", None]["perplexity"]
    assert found["start", None]["own"] is None and found["start", None]["tokens"] == 0
    assert {row["tokens"] for (method, _), row in found.items()
            if method not in ("start", "teacher")} == {2 * 2 * 4}  # fmt: skip
    assert found["on_policy", None]["own"] == 1.0 and found["supervised", None]["own"] == 0.0
    differing = {
        found["supervised", control]["perplexity"] for control in (None, "placebo", "untrained")
    }
    assert len(differing) == 3


def test_validation_is_of_another_part() -> None:
    outcome = TASK.run(Case("start", QUICK, None, 0))
    assert outcome.validation is not None
    score = outcome.validation()
    assert score < -1 and -score != outcome.test()["perplexity"]
    text = text_of(0)
    assert outcome.test_size == len(text.test)
    assert outcome.train_size == len(text.train) + len(text.validation)


def test_a_placebo_says_the_same_of_other_tokens() -> None:
    names = torch.tensor([2, 0, 1])
    answer = torch.tensor([[[1.0, 2.0, 3.0]]])
    found = Renamed(lambda tokens: answer, names)(torch.zeros(1, 1, dtype=torch.int64))  # type: ignore[arg-type]
    assert found.tolist() == [[[3.0, 1.0, 2.0]]]


def test_an_untrained_teacher_is_the_teachers_start() -> None:
    models = prepared(0, QUICK)
    own, other = models.untrained.state_dict(), models.teacher.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}
    assert any(not torch.equal(own[k], other[k]) for k in own) and not models.untrained.training
    assert math.isfinite(
        float(models.untrained(torch.zeros(1, 3, dtype=torch.int64)).detach().sum())
    )


def test_sources_and_settings() -> None:
    assert isinstance(QUICK.source("supervised"), Reference)
    sharp = replace(QUICK, sharp=True)
    assert sharp.source("on_policy") == OnPolicy() and QUICK.source("on_policy") != OnPolicy()
    assert sharp.source("speculative") == Speculative(top_k=2)
    assert QUICK.source("speculative").teacher_sampling == language.FULL  # type: ignore[attr-defined]
    for options, message in (
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"teacher_width": 24}, "teacher_width must be a multiple of 16"),
        ({"prompt": 60}, "context must be at least 76, a window, got 64"),
    ):
        with pytest.raises(ConfigError, match=message):
            LanguageSettings(**options)
