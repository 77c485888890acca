"""Study files: the dataclasses of their keys, read as strictly as a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ucmkd.config import ConfigError, nearest
from ucmkd.config_errors import require_file_name
from ucmkd.study.controls import Control
from ucmkd.tasks import TASKS

Choose = Literal["explored", "per_run"]
Section = dict[str, Any]

SECTIONS = ("data", "teacher", "student", "optimizer", "training", "hardware", "method")
"""The sections of a recipe that a study may set."""
SETTINGS = "settings"
"""The section that a study with a task may set instead."""


@dataclass(frozen=True)
class SeedsConfig:
    """Which splits choose a configuration and which ones count; no seed may do both."""

    explore: list[int] = field(default_factory=list)
    """Seeds on which every candidate of a method runs."""
    fresh: list[int] = field(default_factory=list)
    """Seeds of the results."""

    def __post_init__(self) -> None:
        for name in ("explore", "fresh"):
            seeds: list[int] = getattr(self, name)
            if any(not 0 <= s < 2**32 for s in seeds) or len(set(seeds)) < len(seeds):
                raise ConfigError(
                    f"{name} must be different integers from 0 up, below 2**32, got {seeds}"
                )
        if not self.fresh:
            raise ConfigError("fresh must hold at least one seed, got []")
        both = sorted(set(self.explore) & set(self.fresh))
        if both:
            raise ConfigError(f"fresh must hold no exploratory seed, got {both} in both lists")


@dataclass(frozen=True)
class CurveConfig:
    """A row that is one point of a curve."""

    group: str = ""
    """The curve."""
    x: float = 0.0
    """Where on it, for example the number of pairs."""


@dataclass(frozen=True)
class MethodEntry:
    """One row of the study: a method, its sections of the recipe and its candidates."""

    method: Section = field(default_factory=dict)
    data: Section = field(default_factory=dict)
    teacher: Section = field(default_factory=dict)
    student: Section = field(default_factory=dict)
    optimizer: Section = field(default_factory=dict)
    training: Section = field(default_factory=dict)
    hardware: Section = field(default_factory=dict)
    settings: Section = field(default_factory=dict)
    """Of the study's task."""
    candidates: list[Section] = field(default_factory=list)
    """Dotted overrides of the recipe, for example ``optimizer.weight_decay: 0.1``."""
    choose: Choose = "explored"
    """``explored``: the candidate with the best mean validation score on the exploratory seeds is
    used for all fresh ones. ``per_run``: each run trains all and keeps the best by its own."""
    controls: list[Control] = field(default_factory=list)
    curve: CurveConfig | None = None
    scenarios: list[str] | None = None
    """The scenarios with this row; null: all."""
    label: str | None = None
    """What people read; null: the row's key."""

    def __post_init__(self) -> None:
        if not isinstance(self.method.get("name"), str):
            raise ConfigError(f"method.name must name a method, got {self.method.get('name')!r}")
        if len(set(self.controls)) < len(self.controls):
            raise ConfigError(f"controls must differ, got {self.controls}")
        if self.choose == "per_run" and len(self.candidates) < 2:
            raise ConfigError(
                f"candidates must be at least two with choose: per_run, got {self.candidates}"
            )

    @property
    def sections(self) -> Section:
        """What the row sets, as sections of a recipe."""
        return {name: getattr(self, name) for name in SECTIONS}

    @property
    def options(self) -> list[Section]:
        """The candidates; one that changes nothing where none are given."""
        return self.candidates or [{}]

    @property
    def explored(self) -> bool:
        """Whether exploratory runs must choose."""
        return self.choose == "explored" and len(self.candidates) > 1


@dataclass(frozen=True)
class StudyConfig:
    """Methods × scenarios × seeds."""

    name: str = "study"
    task: str | None = None
    """The kind of job, one of :data:`ucmkd.tasks.TASKS`; null: classifiers, each by a recipe."""
    seeds: SeedsConfig = field(default_factory=lambda: SeedsConfig(fresh=[0, 1, 2, 3, 4]))
    defaults: Section = field(default_factory=dict)
    """Sections of a recipe for every scenario and method."""
    scenarios: dict[str, Section] = field(default_factory=dict)
    """Name to sections of a recipe, over the defaults."""
    methods: dict[str, MethodEntry] = field(default_factory=dict)
    references: list[str] = field(default_factory=list)
    """Rows from which all others' differences are taken."""
    curve_label: str = "number of pairs"
    """What the curves' x is."""

    def __post_init__(self) -> None:
        require_file_name("name", self.name)
        for name in ("scenarios", "methods"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must hold at least one entry, got none")
        self._check_names("references", self.references, self.methods)
        for key, entry in self.methods.items():
            if entry.scenarios is not None:
                self._check_names(f"methods.{key}.scenarios", entry.scenarios, self.scenarios)
            if entry.explored and not self.seeds.explore:
                raise ConfigError(
                    f"seeds.explore must hold a seed, since methods.{key} has candidates; got []"
                )
        if self.task is not None and self.task not in TASKS:
            known = ", ".join(TASKS)
            raise ConfigError(
                f"unknown task {self.task!r}{nearest(self.task, TASKS)} (known: {known})"
            )
        accepted = SECTIONS if self.task is None else (SETTINGS,)
        _check_sections("defaults", self.defaults, accepted)
        for key, sections in self.scenarios.items():
            _check_sections(f"scenarios.{key}", sections, accepted)

    @staticmethod
    def _check_names(place: str, names: list[str], known: dict[str, Any]) -> None:
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{place}: unknown {name!r}{nearest(name, known)} (known: {', '.join(known)})"
                )

    def methods_of(self, scenario: str) -> dict[str, MethodEntry]:
        """The rows of a scenario."""
        return {
            key: entry
            for key, entry in self.methods.items()
            if entry.scenarios is None or scenario in entry.scenarios
        }


def _check_sections(place: str, sections: Section, accepted: tuple[str, ...]) -> None:
    for name, section in sections.items():
        if name not in accepted:
            hint = nearest(name, accepted)
            raise ConfigError(
                f"{place}: unknown section {name!r}{hint} (accepted: {', '.join(accepted)})"
            )
        if not isinstance(section, dict):
            raise ConfigError(f"{place}.{name} must be a mapping, got {section!r}")
    if set(sections.get("method", {})) - {"options"}:
        raise ConfigError(
            f"{place}.method may only hold options for every method; name and placebo belong "
            "under methods"
        )
