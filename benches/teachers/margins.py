"""What every rule says of every pair, from what a user has before any distillation."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benches.teachers.problems import PROBLEMS, Problem
from ucmkd.config import from_mapping
from ucmkd.information.complementarity import complementarity
from ucmkd.study.jsonl import append_line, read_lines
from ucmkd.study.provenance import digest_of_package
from ucmkd.study.workers import Workers
from ucmkd.teachers.config import CandidatesConfig
from ucmkd.teachers.samples import Samples, read_candidates


@dataclass(frozen=True)
class Question:
    """A rule with its options.

    Attributes:
        rule: Its name.
        method: Estimator of information.
        dims: Dimensions that representations are reduced to.
        only: Problems on whose first seed alone it is asked; empty: all, on all seeds. For
            estimators that train networks, some seconds each.
    """

    rule: str
    method: str = "auto"
    dims: int = 5
    only: tuple[str, ...] = ()


FEW_LABELS = ("brca", "mfeat", "digits")
"""The paired problems that rules are compared on first."""


QUESTIONS: dict[str, Question] = {
    "CCH, nearest neighbours": Question("cch", "knn"),
    "CCH, nearest neighbours, 3 dims": Question("cch", "knn", dims=3),
    "CCH, mixed": Question("cch", "mixed"),
    "CCH, Gaussian": Question("cch", "gaussian"),
    "CCH, Gaussian, 10 dims": Question("cch", "gaussian", dims=10),
    "CCH, latent": Question("cch", "latent", only=("brca",)),
    "CCH, InfoNCE": Question("cch", "infonce", only=FEW_LABELS),
    "CCH, SMILE": Question("cch", "smile", only=("brca",)),
    "CCH, MINE": Question("cch", "mine", only=("brca",)),
    "CCH, NWJ": Question("cch", "nwj", only=("brca",)),
    "Gaussian gain": Question("gaussian"),
    "Gaussian gain, teacher's part": Question("gaussian_own"),
    "trial": Question("trial"),
    "accuracy": Question("accuracy"),
    "CKA": Question("cka"),
    "MMD": Question("mmd"),
}
"""What people read, to what is asked."""

UNPAIRED = ("CCH, nearest neighbours", "CCH, mixed", "CCH, Gaussian", "accuracy", "CKA", "MMD")
"""Those that the class-conditional surrogate allows."""


@dataclass(frozen=True)
class Ask:
    """One student of one problem and seed, all its teachers, some questions."""

    problem: str
    student: str
    seed: int
    questions: tuple[str, ...]


def samples_of(problem: Problem, student: str, seed: int) -> Samples:
    """As ``ucmkd teachers`` reads them; the split is that of the trainings."""
    data = {key: value for key, value in problem.data.items()}
    section = {
        "student": {**problem.sides[student], "labels_per_class": problem.labels_per_class},
        "teachers": {t: problem.sides[t] for t, s in problem.pairs if s == student},
        **data,
    }
    return read_candidates(from_mapping(CandidatesConfig, section), seed)


def work(ask: Ask) -> Iterator[dict[str, Any]]:
    """A row for each question and teacher."""
    problem = PROBLEMS[ask.problem]
    found = samples_of(problem, ask.student, ask.seed)
    for name in ask.questions:
        question = QUESTIONS[name]
        started = time.perf_counter()
        teachers, theirs = dict(found.teachers), None
        if not problem.paired:
            theirs = {t: found.own[t][1] for t in teachers}
        answer = complementarity(
            teachers,
            found.student,
            found.labels,
            rule=question.rule,
            method=question.method,
            dims=question.dims,
            pairing="rows" if problem.paired else "class",
            teacher_labels=theirs,
            own=found.own,
            subsamples=0,
            seed=ask.seed,
        )
        seconds = (time.perf_counter() - started) / len(teachers)
        for c in answer.candidates:
            values = {
                "margin": c.margin, "low": c.low, "high": c.high, "teacher_part": c.teacher,
                "student_part": c.student,
            }  # fmt: skip
            yield {
                "problem": ask.problem, "student": ask.student, "teacher": c.name,
                "seed": ask.seed, "rule": name,
                **{key: value if math.isfinite(value) else None for key, value in values.items()},
                "warnings": len(c.warnings), "seconds": round(seconds, 4),
                "code": code_of_rules(), "settings": settings_of(problem),
            }  # fmt: skip


@lru_cache(maxsize=1)
def code_of_rules() -> str:
    """A digest of the code that margins depend on."""
    return digest_of_package(
        lambda path: path.parts[0] in ("information", "theory", "preparation", "teachers")
    )


def settings_of(problem: Problem) -> str:
    """A digest of what decides a problem's samples."""
    text = json.dumps([problem.sides, problem.labels_per_class, problem.data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def missing(
    problems: list[Problem], seeds: tuple[int, ...], rows: list[dict[str, Any]], anew: bool
) -> list[Ask]:
    """What has not been answered; ``anew`` discards the answers of other code."""
    known = {
        (row["problem"], row["student"], row["seed"], row["rule"])
        for row in rows
        if row["settings"] == settings_of(PROBLEMS[row["problem"]])
        and (not anew or row["code"] == code_of_rules())
    }
    found = []
    for seed in seeds:
        for problem in problems:
            names = [
                name
                for name, question in QUESTIONS.items()
                if (problem.paired or name in UNPAIRED)
                and (not question.only or (seed == seeds[0] and problem.name in question.only))
            ]
            for student in problem.students:
                left = [n for n in names if (problem.name, student, seed, n) not in known]
                if left:
                    found.append(Ask(problem.name, student, seed, tuple(left)))
    return found


def answer(
    asks: list[Ask], path: Path, *, workers: int, advance: Callable[[int], None]
) -> list[str]:
    """Ask what is missing; rows are added to ``path``.

    Returns:
        What failed, and why.
    """
    failures = []
    with Workers[Ask](work, min(workers, len(asks))) as pool:
        for message in pool.run(asks):
            ask = asks[message.task]
            if message.value is not None:
                append_line(path, message.value)
            elif message.error is not None:
                failures.append(f"{ask.problem}, {ask.student}, seed {ask.seed}: {message.error}")
            if message.value is None:
                advance(1)
    return failures


def margins(path: Path) -> list[dict[str, Any]]:
    """All rows with a margin, the last one of each question; an infinite one is none."""
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in read_lines(path):
        key = (row["problem"], row["teacher"], row["student"], row["seed"], row["rule"])
        last[key] = row
    return [row for row in last.values() if row["margin"] is not None]
