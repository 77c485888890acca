"""Gains against margins: sign agreement, rank correlation, regret, crossing points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benches.teachers.problems import PROBLEMS
from ucmkd.statistics import paired_difference

SETTINGS = {
    "paired": ("paired", "ce"),
    "unpaired": ("unpaired", "ce"),
    "UCMKD": ("ucmkd", "ce"),
    "unpaired, teacher's part": ("unpaired", "self_labelling"),
}
"""What is measured: a method, and what its accuracy is compared with on the same seeds."""

LEAST = 5
"""Seeds below which a gain is not reported, as while a study is still running."""

Pair = tuple[str, str, str]
"""Problem, teacher, student."""
Scores = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""(scenario, method) to seed to row."""


@dataclass(frozen=True)
class Gain:
    """A measured gain in test accuracy, percentage points.

    Attributes:
        pair: Whose.
        mean: Over the seeds.
        low, high: 95 % interval, corrected for the samples that splits share.
        seeds: How many.
        base: Accuracy without the teacher, percent.
        teacher: The teacher's validation accuracy in its own modality, percent.
    """

    pair: Pair
    mean: float
    low: float
    high: float
    seeds: int
    base: float
    teacher: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Grade:
    """How a rule fares on some pairs.

    Attributes:
        agreement: Share of the significant gains whose sign the margin has, its mean over seeds.
        agreement_once: The same for the margin of a single seed, which is what a user has.
        significant: Number of significant gains.
        spearman: Rank correlation of margin and gain over all pairs.
        within: The mean of the rank correlations among the teachers of one student.
        regret: Gain lost by taking the rule's first teacher, or none where its margin is below
            zero, against the best choice in hindsight; percentage points, mean over students and
            seeds.
        regret_forced: The same where some teacher must be taken.
    """

    agreement: float
    agreement_once: float
    significant: int
    spearman: float
    within: float
    regret: float
    regret_forced: float


def scores(rows: Iterable[dict[str, Any]]) -> Scores:
    """Results by scenario and method; failed ones are left out."""
    found: Scores = {}
    for row in rows:
        if "accuracy" in row:
            found.setdefault((row["scenario"], row["method"]), {})[row["seed"]] = row
    return found


def gains(known: Scores, setting: str) -> dict[Pair, Gain]:
    """The gain of every pair with at least :data:`LEAST` seeds."""
    method, reference = SETTINGS[setting]
    found = {}
    for problem in PROBLEMS.values():
        for teacher, student in problem.pairs:
            taught = known.get((f"{problem.name}/{teacher}>{student}", method), {})
            alone = known.get((f"{problem.name}/{student}", reference), {})
            seeds = sorted(taught.keys() & alone.keys())
            if len(seeds) < LEAST:
                continue
            sizes = [taught[seed] for seed in seeds]
            test = paired_difference(
                [100 * taught[s]["accuracy"] for s in seeds],
                [100 * alone[s]["accuracy"] for s in seeds],
                train_size=min(row["train_size"] for row in sizes),
                test_size=max(row["test_size"] for row in sizes),
            )
            pair = (problem.name, teacher, student)
            found[pair] = Gain(
                pair, test.mean, test.low, test.high, len(seeds),
                100 * float(np.mean([alone[s]["accuracy"] for s in seeds])),
                100 * float(np.mean([row["teacher_accuracy"] for row in sizes])),
            )  # fmt: skip
    return found


def by_pair(rows: Iterable[dict[str, Any]], rule: str) -> dict[Pair, dict[int, float]]:
    """Margins of a rule: pair to seed to margin."""
    found: dict[Pair, dict[int, float]] = {}
    for row in rows:
        if row["rule"] == rule:
            pair = (row["problem"], row["teacher"], row["student"])
            found.setdefault(pair, {})[row["seed"]] = row["margin"]
    return found


def grade(
    measured: dict[Pair, Gain], margin: dict[Pair, dict[int, float]], *, decides: bool
) -> Grade | None:
    """Grade a rule on the pairs that have both; None without any.

    Args:
        measured: Gains.
        margin: Of the rule.
        decides: Whether its zero means anything; else agreement is NaN and some teacher is taken.
    """
    pairs = [pair for pair in measured if pair in margin]
    if not pairs:
        return None
    mean = {pair: float(np.mean(list(margin[pair].values()))) for pair in pairs}
    certain = [pair for pair in pairs if measured[pair].significant]
    agreement = once = math.nan
    if certain and decides:
        sign = {pair: math.copysign(1, measured[pair].mean) for pair in certain}
        agreement = float(np.mean([sign[p] * mean[p] > 0 for p in certain]))
        once = float(
            np.mean([np.mean([sign[p] * m > 0 for m in margin[p].values()]) for p in certain])
        )
    within = []
    for student in dict.fromkeys((p[0], p[2]) for p in pairs):
        own = [p for p in pairs if (p[0], p[2]) == student]
        if len(own) > 2:
            within.append(_spearman([mean[p] for p in own], [measured[p].mean for p in own]))
    return Grade(
        agreement, once, len(certain),
        _spearman([mean[p] for p in pairs], [measured[p].mean for p in pairs]),
        float(np.mean(within)) if within else math.nan,
        _regret(measured, margin, pairs, may_decline=decides),
        _regret(measured, margin, pairs, may_decline=False),
    )  # fmt: skip


@dataclass(frozen=True)
class Verdicts:
    """How far a rule's verdicts can be believed: one for each pair and seed.

    Attributes:
        helps: Share of the verdicts that say so.
        helps_right: Share of these whose pair has a positive mean gain; NaN without any.
        against: Share of the verdicts "does not help".
        against_right: Share of these whose pair has a negative or no mean gain.
    """

    helps: float
    helps_right: float
    against: float
    against_right: float


def verdicts(
    measured: dict[Pair, Gain], rows: Iterable[dict[str, Any]], rule: str
) -> Verdicts | None:
    """Verdicts of a rule that gives an interval; None where there is none."""
    said: list[tuple[bool, bool, float]] = []
    for row in rows:
        pair = (row["problem"], row["teacher"], row["student"])
        if row["rule"] == rule and row.get("low") is not None and pair in measured:
            said.append((row["low"] > 0, row["high"] < 0, measured[pair].mean))
    if not said:
        return None
    helps = [gain > 0 for yes, _, gain in said if yes]
    against = [gain <= 0 for _, no, gain in said if no]
    return Verdicts(
        len(helps) / len(said),
        float(np.mean(helps)) if helps else math.nan,
        len(against) / len(said),
        float(np.mean(against)) if against else math.nan,
    )


def _spearman(first: list[float], second: list[float]) -> float:
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)


def _regret(
    measured: dict[Pair, Gain],
    margin: dict[Pair, dict[int, float]],
    pairs: list[Pair],
    *,
    may_decline: bool,
) -> float:
    lost = []
    for student in dict.fromkeys((p[0], p[2]) for p in pairs):
        own = [p for p in pairs if (p[0], p[2]) == student]
        if len(own) < 2:
            continue
        best = max(0.0, *(measured[p].mean for p in own))
        for seed in set.intersection(*(set(margin[p]) for p in own)):
            chosen = max(own, key=lambda p: margin[p][seed])
            declined = may_decline and margin[chosen][seed] <= 0
            lost.append(best - (0.0 if declined else measured[chosen].mean))
    return float(np.mean(lost)) if lost else math.nan


def part(measured: dict[Pair, Gain], names: Iterable[str]) -> dict[Pair, Gain]:
    """The gains of some problems."""
    wanted = set(names)
    return {pair: gain for pair, gain in measured.items() if pair[0] in wanted}


def crossing(x: list[float], y: list[float]) -> float:
    """Where a curve first falls through zero, linearly between points; NaN where it does not."""
    for (x0, y0), (x1, y1) in zip(
        zip(x, y, strict=True), list(zip(x, y, strict=True))[1:], strict=False
    ):
        if y0 > 0 >= y1:
            return x0 + (x1 - x0) * y0 / (y0 - y1)
    return math.nan


def curve(name: str, group: str) -> list[tuple[float, str, str]]:
    """Places, teachers and students of a problem's curve, in order."""
    problem = PROBLEMS[name]
    found = [
        (problem.levels[t][1], t, s)
        for t, s in problem.pairs
        if t in problem.levels and (problem.levels[t][0] == group or problem.levels[t][1] == 0.0)
    ]
    return sorted(found)
