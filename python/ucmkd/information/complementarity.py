"""Which teacher will help? Candidates ranked by the complementarity criterion or another rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ucmkd.information.candidates import gather
from ucmkd.information.methods import KRASKOV
from ucmkd.information.rules import RULES, Finding, Settings
from ucmkd.information.rules.cch import AUTO, METHODS
from ucmkd.theory.gaussian import checks

Verdict = Literal["helps", "does not help", "cannot tell"]
Pairing = Literal["rows", "class"]

ONE_SIDED = (*KRASKOV, "canonical", "student", "ross", "classifier", "discrete")
"""Estimators of mutual information that take features only, or a label on one side only."""


@dataclass(frozen=True)
class Candidate:
    """What is said of one teacher.

    Attributes:
        name: Of the teacher.
        margin: Of the rule; larger is better, and where the rule decides, above zero helps.
        low: Lower end of the margin's interval; NaN without one.
        high: Upper end.
        verdict: ``"helps"`` where the whole interval is above zero, ``"does not help"`` where it
            is below; else, or where the rule only ranks, ``"cannot tell"``.
        teacher: The first part of the margin, for ``cch`` I(H_T; H_S); NaN where it has no parts.
        student: The second part, for ``cch`` I(H_S; Y).
        warnings: What a reader must know.
    """

    name: str
    margin: float
    low: float
    high: float
    verdict: Verdict
    teacher: float
    student: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherRanking:
    """Candidates, the most promising first.

    Attributes:
        candidates: One for each teacher.
        rule: Which rule was asked.
        method: The estimator of mutual information, None for rules without one.
        margin: What the margin is, in words.
        pairing: ``"rows"``, or ``"class"`` for the class-conditional surrogate.
        confidence: Of the intervals.
        samples: Rows that were compared.
        labelled: Those with a label.
        notes: What was decided on the way and a reader should know.
    """

    candidates: tuple[Candidate, ...]
    rule: str
    method: str | None
    margin: str
    pairing: Pairing
    confidence: float
    samples: int
    labelled: int
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The candidate with the largest margin."""
        return self.candidates[0]

    def __getitem__(self, name: str) -> Candidate:
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        known = ", ".join(candidate.name for candidate in self.candidates)
        raise KeyError(f"no teacher {name!r} (known: {known})")

    def __str__(self) -> str:
        width = max(len(candidate.name) for candidate in self.candidates)
        lines = [
            f"{c.name:{width}}  {c.margin:+.3f} [{c.low:+.3f}, {c.high:+.3f}]  {c.verdict}"
            for c in self.candidates
        ]
        return "\n".join(lines)


def complementarity(
    teachers: Mapping[str, Any],
    student: Any,
    labels: Any,
    *,
    rule: str = "cch",
    method: str = "auto",
    dims: int = 5,
    pairing: Pairing = "rows",
    teacher_labels: Mapping[str, Any] | None = None,
    own: Mapping[str, tuple[Any, Any]] | None = None,
    outputs: Mapping[str, Any] | None = None,
    weight: float = 1.0,
    confidence: float = 0.95,
    subsamples: int = 30,
    seed: int = 0,
) -> TeacherRanking:
    r"""Rank candidate teachers for a student, by default with ``I(H_T; H_S) - I(H_S; Y)``.

    The Cross-modal Complementarity Hypothesis (CCH, arXiv 2510.13182): distillation from T helps
    S where the two representations share more information than the student has about the label.
    Both sides are estimated by the same estimator after the same reduction, whatever ``method``
    is. Other rules: ``gaussian`` (the exact theory's predicted gain), ``trial`` (a distillation in
    closed form), ``accuracy`` (the most accurate teacher), ``cka``, ``mmd``;
    :data:`ucmkd.information.rules.RULES` lists them.

    Args:
        teachers: Name to representations ``(n, d_T)``, any widths; row i is the student's row i.
        student: Representations ``(n, d_S)``.
        labels: ``(n,)`` integer classes, -1 where the label is not known.
        rule: The rule.
        method: Of ``cch``: ``"knn"`` (Kraskov, and Ross for the classes), ``"mixed"``,
            ``"gaussian"``, ``"latent"``, ``"mine"``, ``"nwj"``, ``"infonce"``, ``"smile"``;
            ``"auto"`` is ``"knn"``.
        dims: Principal components that both sides are reduced to, at least 1.
        pairing: ``"rows"``, or ``"class"``: samples are only matched by class, the
            *class-conditional surrogate* for unpaired data. It is not I(H_T; H_S), but what would
            be left of it if teacher and student shared nothing beyond the class; by the
            data-processing inequality it never exceeds I(H_S; Y). It ranks and decides nothing.
        teacher_labels: Name to classes of the teacher's rows, for ``pairing="class"``.
        own: Name to labelled samples ``(m, d_T)``, ``(m,)`` of the teacher alone: its accuracy and
            answers are judged by a probe trained on them, without them by one on the labelled rows.
        outputs: Name to class probabilities ``(n, C)`` of a teacher that has not been trained on
            these rows, in place of a probe.
        weight: λ > 0 of the distillation considered, ``CE + λ KD`` (``gaussian`` and ``trial``).
        confidence: Of the intervals, in (0, 1).
        subsamples: Subsets behind an interval, 0 for none, else at least 2.
        seed: Of subsets, surrogate pairs and networks.

    Returns:
        The ranking with a verdict for each teacher.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No teachers; different sample counts with ``pairing="rows"``; NaN or infinite
            values; constant representations; one class only; too few labelled samples; an unknown
            rule, method or pairing; a rule that needs pairs with ``pairing="class"``.
    """
    _check_choices(rule, method, pairing)
    settings = Settings(method, dims, confidence, subsamples, seed, weight)
    _check_numbers(settings)
    found, notes = gather(
        teachers,
        student,
        labels,
        by_class=pairing == "class",
        teacher_labels=teacher_labels,
        own=own,
        outputs=outputs,
        seed=seed,
    )
    answers = {name: RULES[rule].ask(evidence, settings) for name, evidence in found.items()}
    candidates = [
        Candidate(
            name, a.margin, a.low, a.high, verdict(a, pairing), a.teacher, a.student, a.warnings
        )
        for name, a in answers.items()
    ]
    first = next(iter(found.values()))
    return TeacherRanking(
        candidates=tuple(sorted(candidates, key=_rank)),
        rule=rule,
        method=_method_name(rule, method),
        margin=RULES[rule].margin,
        pairing=pairing,
        confidence=confidence,
        samples=len(first.labels),
        labelled=len(first.labelled),
        notes=notes,
    )


def verdict(found: Finding, pairing: Pairing = "rows") -> Verdict:
    """Where the interval of a margin lies; without an interval nothing can be told."""
    if not found.decides or math.isnan(found.low):
        return "cannot tell"
    if found.low > 0:
        return "helps"
    return "does not help" if found.high < 0 else "cannot tell"


def _rank(candidate: Candidate) -> tuple[bool, float]:
    """Largest margin first, one that is not defined (``∞ - ∞``) last."""
    return math.isnan(candidate.margin), -candidate.margin


def _method_name(rule: str, method: str) -> str | None:
    if rule != "cch":
        return None
    return AUTO if method == "auto" else method


def _check_choices(rule: str, method: str, pairing: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if method != "auto" and method not in METHODS:
        hint = ""
        if method in ONE_SIDED:
            hint = f": {method!r} can estimate one side only, and both must come from one estimator"
        raise ValueError(
            f"method must be auto or one of {', '.join(METHODS)}, got {method!r}{hint}"
        )
    if rule != "cch" and method != "auto":
        raise ValueError(f"method must be 'auto' for rule {rule!r}, which estimates no information")
    if pairing not in ("rows", "class"):
        raise ValueError(f"pairing must be 'rows' or 'class', got {pairing!r}")
    if pairing == "class" and RULES[rule].needs_pairs:
        able = ", ".join(name for name, r in RULES.items() if not r.needs_pairs)
        raise ValueError(
            f"rule {rule!r} needs paired samples; with pairing='class' use one of {able}"
        )


def _check_numbers(settings: Settings) -> None:
    for name, least in (("dims", 1), ("subsamples", 0), ("seed", 0)):
        checks.count(name, getattr(settings, name), least)
    if settings.subsamples == 1:
        raise ValueError("subsamples must be 0 or at least 2, got 1")
    checks.confidence(settings.confidence)
    checks.positive("weight", settings.weight)
