"""Configurations of ``ucmkd teachers``, read as strictly as a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ucmkd.config import ConfigError, from_mapping, nearest
from ucmkd.config_data import StudentDataConfig, TeacherDataConfig
from ucmkd.config_errors import require, require_file_name
from ucmkd.recipe_file import read_yaml

Rule = Literal["trial", "cch", "gaussian", "gaussian_own", "accuracy", "cka", "mmd", "snr"]

SHIPPED = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class CandidatesConfig:
    """A student and its candidate teachers, as in the data section of a recipe."""

    student: StudentDataConfig = field(default_factory=StudentDataConfig)
    teachers: dict[str, TeacherDataConfig] = field(default_factory=dict)
    """Name to data set and view."""
    teacher_fraction: float = 0.5
    """Share of a common data set that belongs to the teacher; the rest is the student's."""
    validation: float = 0.1
    """Share of the student's samples that is set aside, as it will be in the training."""
    test: float = 0.3
    """The same for the final test. Neither is looked at here."""
    max_teacher: int | None = None
    """At most this many samples of a teacher, every class in proportion; null: all."""
    root: str | None = None
    """Folder with local data sets; null: the environment variable ``UCMKD_DATA``."""

    def __post_init__(self) -> None:
        require(len(self.teachers) > 0, "teachers", self.teachers, "at least one named teacher")
        seen: dict[tuple[str, str | None], str] = {}
        for name, side in self.teachers.items():
            key = (side.dataset, side.view)
            if key == (self.student.dataset, self.student.view):
                raise ConfigError(
                    f"teachers.{name} must be another modality than the student's, got "
                    f"dataset {side.dataset!r}, view {side.view!r} for both"
                )
            if key in seen:
                raise ConfigError(
                    f"teachers.{name} must differ from teachers.{seen[key]}, got dataset "
                    f"{side.dataset!r}, view {side.view!r} for both"
                )
            seen[key] = name


@dataclass(frozen=True)
class ArraysConfig:
    """One ``.npz`` file with an array per modality, row i the same sample in all of them."""

    file: str = "views.npz"
    labels: str = "y"
    """Name of the array of integer classes, -1 where the label is not known."""
    student: str = "student"
    """Name of the student's array (n, ...)."""
    teachers: list[str] | None = None
    """Names of the teachers' arrays; null: all others."""

    def __post_init__(self) -> None:
        names = self.teachers
        require(names is None or len(names) > 0, "teachers", names, "names of arrays, or null")
        require(
            names is None or len(set(names)) == len(names),
            "teachers", names, "names that occur once each",
        )  # fmt: skip
        require(
            names is None or self.student not in names,
            "teachers", names, f"without {self.student!r}, which is the student",
        )  # fmt: skip


@dataclass(frozen=True)
class TeachersConfig:
    """Which teacher will help? Exactly one of ``data`` and ``arrays`` says where samples are."""

    name: str = "teachers"
    seed: int = 0
    """Of the split, as in a recipe, and of intervals."""
    data: CandidatesConfig | None = None
    arrays: ArraysConfig | None = None
    rule: Rule = "trial"
    """trial: a distillation in closed form; cch: the complementarity criterion; gaussian: the
    exact theory's predicted gain, gaussian_own its part beyond a constant teacher's; accuracy: the
    most accurate teacher; cka, mmd: similarity of the representations."""
    method: str = "auto"
    """Estimator of mutual information, for rule cch."""
    dims: int = 5
    """Principal components of both sides, for rules cch and mmd."""
    pairing: Literal["rows", "class"] = "rows"
    """class: match samples by class only, where there are no pairs (rules cch, cka, mmd)."""
    weight: float = 1.0
    """Weight of distillation against cross-entropy, for rules trial and gaussian."""
    confidence: float = 0.95
    subsamples: int = 30
    """Subsets behind an interval."""

    def __post_init__(self) -> None:
        if (self.data is None) == (self.arrays is None):
            raise ConfigError("exactly one of data and arrays must be given, got "
                              + ("neither" if self.data is None else "both"))  # fmt: skip
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        require_file_name("name", self.name)
        require(self.dims > 0, "dims", self.dims, "a positive integer")
        require(self.weight > 0, "weight", self.weight, "positive")
        require(0 < self.confidence < 1, "confidence", self.confidence, "in (0, 1)")
        require(self.subsamples > 1, "subsamples", self.subsamples, "at least 2")


def shipped_comparisons() -> list[str]:
    """Names of the configurations inside the package, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_comparison(name: str) -> Path:
    """The file of a configuration given by path or by the name of a shipped one.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped_comparisons()
    if name in known:
        return SHIPPED / f"{name}.yaml"
    raise ConfigError(
        f"configuration {name!r} is neither a file nor a shipped one{nearest(name, known)} "
        f"(shipped: {', '.join(known)})"
    )


def load_comparison(path: str | Path) -> TeachersConfig:
    """Read and check a configuration.

    Raises:
        ConfigError: unreadable file or YAML, unknown or doubled key (a teacher's name given
            twice), wrong type, value out of range. The message starts with the file's name.
    """
    return read_yaml(path, lambda mapping: from_mapping(TeachersConfig, mapping))
