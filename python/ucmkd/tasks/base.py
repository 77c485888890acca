"""What a study needs to know of a kind of job: its settings, its rows, what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Measure:
    """A number that every run of a task gives, and how it is shown.

    Attributes:
        name: Its key in the rows of the results; ``error`` there is a failure.
        short: Head of a column.
        title: Axis of a figure, with the unit.
        scale: What is shown is this times what is stored: 100 for percent.
        form: Of a number, as for ``format``.
        lower: Whether less is better.
        tested: Whether it has intervals and is compared; else only its mean is shown.
    """

    name: str
    short: str
    title: str = ""
    scale: float = 100.0
    form: str = ".1f"
    lower: bool = False
    tested: bool = True


@dataclass(frozen=True)
class Shown:
    """What the tables of a task say.

    Attributes:
        measures: In the order of the columns.
        caption: What the scores are.
        columns: Sentences on the columns beside them.
        unit: Of the differences.
        meaning: What each control is.
        samples: What the sizes of training and test count.
    """

    measures: tuple[Measure, ...]
    caption: str
    columns: str
    unit: str
    meaning: Mapping[str, str]
    samples: str = "samples"

    @property
    def tested(self) -> tuple[Measure, ...]:
        """Measures with intervals and tests."""
        return tuple(measure for measure in self.measures if measure.tested)

    @property
    def others(self) -> tuple[Measure, ...]:
        """Measures of which the mean is shown."""
        return tuple(measure for measure in self.measures if not measure.tested)


@dataclass(frozen=True)
class Case:
    """What one training is.

    Attributes:
        method: A row of the task.
        settings: Of the task's own class.
        control: What its teacher is replaced by; None: nothing.
        seed: Of the split and of everything random.
    """

    method: str
    settings: Any
    control: str | None
    seed: int


class Outcome(NamedTuple):
    """A training that is over.

    Attributes:
        test: Called at most once: the task's measures, and other plain values to be kept.
        train_size: Samples outside the test set.
        test_size: Samples in it.
        validation: Called where candidates are compared, larger is better; None: it has none.
    """

    test: Callable[[], dict[str, Any]]
    train_size: int
    test_size: int
    validation: Callable[[], float] | None = None


@dataclass(frozen=True)
class Task:
    """A kind of job that a study can be made of.

    Attributes:
        settings: Frozen dataclass of what a study may set, section ``settings``.
        rows: Names that ``method.name`` may have, each with the controls that it can have.
        run: Trains once. What several cases of one seed share is kept in the module's caches.
        fetch: Called once before the work, in the main process: data that must be downloaded.
        shown: What the tables say.
        prepare: Called with each case before its time is taken: what it shares with others.
        validates: Whether rows can have candidates.
        whole_seeds: Whether the scenarios of a seed share so much that one worker takes them all.
    """

    settings: type[Any]
    rows: Mapping[str, tuple[str, ...]]
    run: Callable[[Case], Outcome]
    fetch: Callable[[], object]
    shown: Shown
    prepare: Callable[[Case], object] = id
    validates: bool = True
    whole_seeds: bool = False


SECONDS = Measure("seconds", "seconds", scale=1.0, tested=False)
"""Of a training; every row of every task has it."""
