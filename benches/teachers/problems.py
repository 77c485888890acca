"""The problems: a data set, its views, and which view teaches which."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from ucmkd.data.degraded import BLUR, NOISE
from ucmkd.data.tabular import BRCA_VIEWS, MFEAT_VIEWS
from ucmkd.study.config import MethodEntry, SeedsConfig, StudyConfig
from ucmkd.study.plan import Run, fresh

Side = dict[str, Any]
"""The section ``data.teacher`` of a recipe, without what only students have."""

EXPLORATORY = (0, 1, 2)
"""Seeds on which rules were thought out; no result of them is shown."""
SEEDS = tuple(range(100, 110))
"""Seeds of the results."""

DEFAULTS: dict[str, Any] = {
    "teacher": {"dropout": 0.5, "steps": 150, "lr": 0.002, "weight_decay": 0.1},
    "student": {"dropout": 0.5},
    "optimizer": {"lr": 0.002, "weight_decay": 1.0},
    "training": {"steps": 150, "eval_every": 30, "log_every": 30, "diagnose_every": 0},
    "method": {"options": {"label_smoothing": 0.1}},
}

OPTIONS: dict[str, dict[str, Any]] = {
    name: {"ramp_steps": 75} for name in ("joint_alignment", "self_labelling")
}
"""Options of methods that go with so short a training."""

ALONE = {"ce": "ce", "self_labelling": "self_labelling"}
"""Rows without a teacher: one training per student."""
TAUGHT = {"paired": "vanilla_kd", "unpaired": "joint_alignment", "ucmkd": "ucmkd"}
"""Rows with one: distillation through all pairs; without any; UCMKD as printed."""


@dataclass(frozen=True)
class Problem:
    """One data set, or several with the same classes.

    Attributes:
        name: Of the problem.
        title: What people read.
        sides: Name of a candidate to its data section.
        pairs: (teacher, student), ordered.
        labels_per_class: Labels that the student has.
        data: The rest of the data section.
        paired: Whether the views are of the same samples.
        settings: Rows of :data:`TAUGHT` that are trained.
        levels: Candidate to its place on a curve, (curve, x).
    """

    name: str
    title: str
    sides: dict[str, Side]
    pairs: tuple[tuple[str, str], ...]
    labels_per_class: int
    data: dict[str, Any] = field(default_factory=dict)
    paired: bool = True
    settings: tuple[str, ...] = ("paired", "unpaired", "ucmkd")
    levels: dict[str, tuple[str, float]] = field(default_factory=dict)

    def section(self, teacher: str, student: str) -> dict[str, Any]:
        """The data section of a recipe."""
        own = {**self.sides[student], "labels_per_class": self.labels_per_class}
        return {"teacher": self.sides[teacher], "student": own, **self.data}

    @property
    def students(self) -> list[str]:
        """Everyone who learns from someone."""
        return list(dict.fromkeys(student for _, student in self.pairs))

    def study(self, seeds: tuple[int, ...]) -> StudyConfig:
        """Every training, as scenarios × methods × seeds."""
        first = {student: teacher for teacher, student in reversed(self.pairs)}
        alone = {f"{self.name}/{s}": {"data": self.section(t, s)} for s, t in first.items()}
        taught = {
            f"{self.name}/{t}>{s}": {"data": self.section(t, s)} for t, s in self.pairs
        }  # fmt: skip
        methods = {
            key: MethodEntry(
                method={"name": name, "options": OPTIONS.get(name, {})}, scenarios=list(alone)
            )
            for key, name in ALONE.items()
            if key == "ce" or "unpaired" in self.settings
        }
        for key in self.settings:
            pairs = {"pairs": -1} if key == "paired" else {}
            name = TAUGHT[key]
            method = {"name": name, "options": OPTIONS.get(name, {})}
            methods[key] = MethodEntry(method=method, data=pairs, scenarios=list(taught))
        return StudyConfig(
            name=self.name,
            seeds=SeedsConfig(fresh=list(seeds)),
            defaults=DEFAULTS,
            scenarios={**alone, **taught},
            methods=methods,
        )

    def runs(self, seeds: tuple[int, ...], methods: tuple[str, ...] = ()) -> list[Run]:
        """The trainings by seed, those without a teacher first."""
        study = self.study(seeds)
        found = [
            run
            for scenario in study.scenarios
            for method in study.methods_of(scenario)
            if not methods or method in methods
            for run in fresh(study, scenario, method, {})
        ]
        return sorted(found, key=lambda run: seeds.index(run.seed))


def _omics(view: str) -> Side:
    wide = {} if view == "mirna" else {"columns": 1000}
    return {"dataset": "brca", "view": view, **wide}


def _levels() -> dict[str, tuple[str, float]]:
    blurred = {"pixels": ("blur", 0.0)} | {view: ("blur", x) for view, x in BLUR.items()}
    return blurred | {view: ("noise", x) for view, x in NOISE.items()}


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            name="brca",
            title="breast cancer subtypes (TCGA-BRCA)",
            sides={view: _omics(view) for view in BRCA_VIEWS},
            pairs=tuple(permutations(BRCA_VIEWS, 2)),
            labels_per_class=10,
            data={"teacher_fraction": 0.4, "test": 0.35},
        ),
        Problem(
            name="mfeat",
            title="numerals described in six ways (UCI multiple features)",
            sides={view: {"dataset": "mfeat", "view": view} for view in MFEAT_VIEWS},
            pairs=tuple(permutations(MFEAT_VIEWS, 2)),
            labels_per_class=5,
            data={"teacher_fraction": 0.4},
        ),
        Problem(
            name="digits",
            title="digits: blurred and noisy images teach shape numbers",
            sides={
                view: {"dataset": "digits_degraded", "view": view} for view in (*_levels(), "shape")
            },
            pairs=tuple((view, "shape") for view in _levels()),
            labels_per_class=5,
            data={"teacher_fraction": 0.4},
            levels=_levels(),
        ),
        Problem(
            name="mfeat_many",
            title="the same numerals, forty labels for each",
            sides={view: {"dataset": "mfeat", "view": view} for view in MFEAT_VIEWS},
            pairs=tuple(permutations(MFEAT_VIEWS, 2)),
            labels_per_class=40,
            data={"teacher_fraction": 0.4},
            settings=("paired",),
        ),
        Problem(
            name="digits_many",
            title="the same digits, thirty labels for each",
            sides={
                view: {"dataset": "digits_degraded", "view": view} for view in (*_levels(), "shape")
            },
            pairs=tuple((view, "shape") for view in _levels()),
            labels_per_class=30,
            data={"teacher_fraction": 0.4},
            levels=_levels(),
            settings=("paired",),
        ),
        Problem(
            name="speech",
            title="spoken digits: images of other people's digits teach speech",
            sides={
                name: {"dataset": name} for name in ("mnist10k", "sign32", "digits_pixels")
            } | {"spoken_digits": {"dataset": "spoken_digits"}},
            pairs=tuple(
                (name, "spoken_digits") for name in ("mnist10k", "sign32", "digits_pixels")
            ),
            labels_per_class=5,
            data={"max_teacher": 2000},
            paired=False,
            settings=("unpaired", "ucmkd"),
        ),
    )
}  # fmt: skip
