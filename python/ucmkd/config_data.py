"""The data section of a recipe: the two sides, their split, and what makes a scenario of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .config_errors import require


@dataclass(frozen=True)
class TeacherDataConfig:
    """What the teacher is trained on."""

    dataset: str = "digits"
    """Name of a data set of ``ucmkd.data``, the path of an ``.npz`` file with X and y, or of a
    folder of shards."""
    view: str | None = None
    """View of a multi-view data set (``rna``), or several of them joined (``rna+meth``); None for a
    data set with one modality."""
    columns: int | None = None
    """Keep this many columns of largest variance (label-free, on training rows), of joined views
    at most so many of each; None: all."""
    standardise: bool = True
    """Centre and scale every column with the statistics of this side's training rows."""

    def __post_init__(self) -> None:
        _count("columns", self.columns)


@dataclass(frozen=True)
class StudentDataConfig(TeacherDataConfig):
    """What the student is trained on."""

    labels_per_class: int | None = 10
    """Labelled samples per class; null keeps the label of every training sample."""
    long_tail: float | None = None
    """Ratio of the most to the least frequent class among the labels: with labels_per_class 50 and
    long_tail 50, class sizes fall exponentially from 50 to 1."""
    missing_classes: int | tuple[str, ...] | None = None
    """Classes without any student label, by name, or how many to draw; their samples stay in the
    unlabelled pool, in validation and in test."""
    label_noise: float = 0.0
    """Share of the labelled training samples whose label is replaced, uniformly by another class;
    validation and test labels stay right."""
    unlabelled: bool = True
    """Use the training samples without a label as an unlabelled pool."""
    max_unlabelled: int | None = None
    """At most this many unlabelled samples, every class in proportion; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        labels, tail, missing = self.labels_per_class, self.long_tail, self.missing_classes
        _count("labels_per_class", labels)
        _count("max_unlabelled", self.max_unlabelled)
        require(tail is None or tail >= 1, "long_tail", tail, "a ratio of at least 1 or null")
        require(
            tail is None or labels is not None,
            "long_tail",
            tail,
            "null unless labels_per_class says how many labels the most frequent class has",
        )
        require(0 <= self.label_noise < 1, "label_noise", self.label_noise, "in [0, 1)")
        _count_or_names("missing_classes", missing, "class")
        require(
            self.max_unlabelled is None or self.unlabelled,
            "max_unlabelled",
            self.max_unlabelled,
            "null unless unlabelled is true",
        )


@dataclass(frozen=True)
class StreamConfig:
    """Training samples that are read from shards in files, and not held in memory.

    A side whose ``dataset`` is a folder of shards (``ucmkd.data.streaming``) is streamed in any
    case, and then the other side, too.
    """

    write: bool = False
    """Write the samples of both sides to shards in the cache first, once, and stream them."""
    workers: int = 0
    """Processes that read ahead, for each pool of samples; 0: reading happens in between."""
    buffer: int = 1000
    """Samples of a pool that each reader holds and mixes."""
    shard_size: int = 500
    """Samples in a shard that is written. No more processes read a pool than it has shards."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, "workers", self.workers, "zero or more")
        _count("buffer", self.buffer)
        _count("shard_size", self.shard_size)


@dataclass(frozen=True)
class DataConfig:
    """The two sides, and how the samples are split."""

    teacher: TeacherDataConfig = field(default_factory=TeacherDataConfig)
    student: StudentDataConfig = field(default_factory=StudentDataConfig)
    pairs: int = 0
    """Unlabelled student samples also measured in the teacher's modality; -1: all of them. With
    ``shared`` they come from all training samples. Needs teacher and student to be two views of
    one data set."""
    shared: bool = False
    """Both sides train on the same samples, drawn independently, as in arXiv 2606.10504; false
    divides them. Needs two views of one data set."""
    teacher_fraction: float = 0.5
    """Share of the samples that belong to the teacher when both sides come from one data set."""
    validation: float = 0.1
    """Share of the student's samples for model selection."""
    test: float = 0.3
    """Share of the student's samples for the final test, where no official split exists."""
    test_groups: int | tuple[str, ...] | None = None
    """Groups (speakers, subjects) that are the test set, by name, or how many to draw; in place of
    ``test`` and of an official split. null: no such test."""
    max_teacher: int | None = None
    """At most this many training samples of the teacher, every class in proportion; null: all."""
    max_test: int | None = None
    """At most this many test samples, every class in proportion; null: all."""
    mismatch: Literal["mild", "moderate", "hard"] | None = None
    """How far the student's training samples are from the teacher's class frequencies and from the
    conditions of the test: see ``ucmkd.preparation.mismatch``. null: not at all."""
    correspondence: Literal["group"] | None = None
    """``group``: say of every unlabelled and every teacher sample which subject, session or the
    like it is from, and let the two sides share these in training. null: keep them apart."""
    cohort_size: int | None = None
    """Give the teacher the unlabelled samples in its own modality, too, but only as cohorts of this
    many: which samples are in one cohort is known, who is who within it is not. 1 is a pair for
    every unlabelled sample, a number above theirs says nothing. Needs two views of one data set.
    null: no such samples."""
    root: str | None = None
    """Folder with local data sets; null: the environment variable ``UCMKD_DATA``."""
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        require(self.pairs >= -1, "pairs", self.pairs, "a count, or -1 for all")
        for name in ("teacher_fraction", "validation", "test"):
            value = getattr(self, name)
            require(0 < value < 1, name, value, "between 0 and 1 (exclusive)")
        require(
            self.validation + self.test < 1,
            "validation + test",
            self.validation + self.test,
            "less than 1",
        )
        _count_or_names("test_groups", self.test_groups, "group")
        _count("cohort_size", self.cohort_size)
        require(
            self.cohort_size is None or self.correspondence is None,
            "cohort_size",
            self.cohort_size,
            "null beside correspondence = 'group', which has groups of its own",
        )
        _count("max_teacher", self.max_teacher)
        _count("max_test", self.max_test)


def _count(name: str, value: int | None) -> None:
    require(value is None or value > 0, name, value, "a positive integer or null")


def _count_or_names(name: str, value: int | tuple[str, ...] | None, kind: str) -> None:
    accepted = f"a positive count, a list of distinct {kind} names, or null"
    if isinstance(value, tuple):
        require(len(value) > 0 and len(set(value)) == len(value), name, value, accepted)
    else:
        require(value is None or value > 0, name, value, accepted)
