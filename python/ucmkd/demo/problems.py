"""The data of the demo: which samples teach, which learn, which choose and which test.

Three problems on fetched data, and three of the same structure on scikit-learn's bundled digits
for machines without a network. Everything is fitted inside a split: columns are chosen and
standardised on the training rows of their own side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ucmkd.data import (
    Dataset,
    Standardiser,
    brca,
    digits,
    digits_pixels,
    digits_shape,
    few_labels,
    long_tail,
    optdigits,
    penbased,
    stratified_parts,
    top_variance,
    unpaired_split,
)
from ucmkd.data.base import FloatArray, IntArray, require_same_classes
from ucmkd.data.fetch import Progress


@dataclass(frozen=True)
class Problem:
    """A teacher's modality and a student's, and how the student's labels are scarce.

    Attributes:
        key: Short name, part of the key of every stored result.
        title: What is learned from what, for people.
        teacher: The teacher's modality.
        student: The student's modality, with the same classes.
        shared: Row i is the same sample in both; else the two have no sample in common.
        labels_per_class: Labelled student samples per class; None for the long tail 50 … 1.
        columns: Teacher columns kept, by variance on its training rows; None for all.
        sizes: Largest numbers of unlabelled, test and teacher samples; None for no limit.
    """

    key: str
    title: str
    teacher: Dataset
    student: Dataset
    shared: bool
    labels_per_class: int | None
    columns: int | None = None
    sizes: tuple[int, int, int] | None = None

    def settings(self) -> dict[str, object]:
        """What identifies the problem in a stored result."""
        return {
            "problem": self.key,
            "labels_per_class": self.labels_per_class,
            "columns": self.columns,
            "sizes": self.sizes,
        }


@dataclass(frozen=True)
class Split:
    """One split of a problem, standardised; plain arrays, so that it travels between processes.

    Attributes:
        problem: Key of the problem.
        number: Which split; seeds everything that is drawn.
        num_classes: C.
        teacher: Inputs and labels the teacher is trained on.
        teacher_validation: Inputs and labels that choose the teacher.
        teacher_test: Inputs and labels that only measure the teacher.
        labelled: Student inputs and labels.
        unlabelled: Student inputs and labels; the labels are hidden from every method but the
            reference that is trained on all of them.
        paired: The teacher's inputs for the same samples as ``unlabelled``; None where the
            modalities share no sample.
        validation: Student inputs and labels that choose the model.
        test: Student inputs and labels, used once.
        train_size: Samples outside the test set, for the corrected t-test.
    """

    problem: str
    number: int
    num_classes: int
    teacher: tuple[FloatArray, IntArray]
    teacher_validation: tuple[FloatArray, IntArray]
    teacher_test: tuple[FloatArray, IntArray]
    labelled: tuple[FloatArray, IntArray]
    unlabelled: tuple[FloatArray, IntArray]
    paired: FloatArray | None
    validation: tuple[FloatArray, IntArray]
    test: tuple[FloatArray, IntArray]
    train_size: int

    @property
    def test_size(self) -> int:
        """Number of test samples."""
        return len(self.test[1])


def make_split(problem: Problem, number: int) -> Split:
    """Split ``number`` of a problem; the same number is the same split on every machine."""
    rng = np.random.default_rng([number, 2606])
    teacher_index, student_index = (
        _shared_rows(problem, rng) if problem.shared else _separate_rows(problem, rng)
    )
    train, validation, test = student_index
    labels = problem.student.labels
    if problem.labels_per_class is None:
        labelled = long_tail(labels, rng, pool=train)
    else:
        labelled = few_labels(labels, problem.labels_per_class, rng, pool=train, allow_fewer=True)
    unlabelled = np.setdiff1d(train, labelled)

    teacher_inputs, student_inputs = problem.teacher.flat(), problem.student.flat()
    if problem.columns is not None:
        kept = top_variance(teacher_inputs[teacher_index[0]], problem.columns)
        teacher_inputs = teacher_inputs[:, kept]
    to_teacher = Standardiser.fit(teacher_inputs[teacher_index[0]])
    to_student = Standardiser.fit(student_inputs[train])

    def of_teacher(index: IntArray) -> tuple[FloatArray, IntArray]:
        return to_teacher(teacher_inputs[index]), problem.teacher.labels[index]

    def of_student(index: IntArray) -> tuple[FloatArray, IntArray]:
        return to_student(student_inputs[index]), labels[index]

    outside = len(train) + len(validation)
    if problem.shared:
        outside += len(teacher_index[0]) + len(teacher_index[1])
    return Split(
        problem=problem.key,
        number=number,
        num_classes=problem.student.num_classes,
        teacher=of_teacher(teacher_index[0]),
        teacher_validation=of_teacher(teacher_index[1]),
        teacher_test=of_teacher(test if problem.shared else teacher_index[2]),
        labelled=of_student(labelled),
        unlabelled=of_student(unlabelled),
        paired=of_teacher(unlabelled)[0] if problem.shared else None,
        validation=of_student(validation),
        test=of_student(test),
        train_size=outside,
    )


def _shared_rows(
    problem: Problem, rng: np.random.Generator
) -> tuple[tuple[IntArray, ...], tuple[IntArray, ...]]:
    """Different samples on both sides, drawn from one set of samples."""
    rows = unpaired_split(
        problem.student.labels, rng, teacher_fraction=0.37, validation=0.15, test=0.3,
        ids=problem.student.ids,
    )  # fmt: skip
    return (
        (rows.teacher_train, rows.teacher_validation),
        (rows.student_train, rows.student_validation, rows.test),
    )


def _separate_rows(
    problem: Problem, rng: np.random.Generator
) -> tuple[tuple[IntArray, ...], tuple[IntArray, ...]]:
    """Two sets without a common sample, each cut down to the problem's sizes."""
    limits = problem.sizes or (2**62, 2**62, 2**62)
    teacher = stratified_parts(problem.teacher.labels, (0.7, 0.1, 0.2), rng)
    train, validation, test = stratified_parts(problem.student.labels, (0.6, 0.1, 0.3), rng)
    # The labelled samples (at most 141, a long tail) come on top of the unlabelled ones.
    train = _at_most(train, limits[0] + 141, rng)
    validation = _at_most(validation, max(50, len(train) // 10), rng)
    return (
        (_at_most(teacher[0], limits[2], rng), *teacher[1:]),
        (train, validation, _at_most(test, limits[1], rng)),
    )


def _at_most(rows: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    return rows if len(rows) <= count else np.sort(rng.permutation(rows)[:count])


def _brca(progress: Progress | None) -> Problem:
    views = brca(views=("rna", "mirna"), progress=progress)
    return Problem(
        key="brca",
        title="TCGA-BRCA: RNA teacher, microRNA student, other patients",
        teacher=views.view("rna"),
        student=views.view("mirna"),
        shared=True,
        labels_per_class=10,
        columns=1000,
    )


def _pen(progress: Progress | None) -> Problem:
    return Problem(
        key="pen",
        title="UCI digits: image teacher, pen-trajectory student, other writers",
        teacher=optdigits(progress=progress),
        student=penbased(progress=progress),
        shared=False,
        labels_per_class=None,
        sizes=(2000, 1000, 2000),
    )


def _digits(progress: Progress | None) -> Problem:
    views = digits()
    return Problem(
        key="digits",
        title="bundled digits: pixel teacher, shape-feature student, other images",
        teacher=views.view("pixels"),
        student=views.view("shape"),
        shared=True,
        labels_per_class=5,
    )


def _digits_tail(progress: Progress | None) -> Problem:
    return Problem(
        key="digits-tail",
        title="bundled digits: pixel teacher, shape-feature student, other images",
        teacher=digits_pixels(),
        student=digits_shape(),
        shared=False,
        labels_per_class=None,
    )


PROBLEMS: dict[str, Callable[[Progress | None], Problem]] = {
    "brca": _brca,
    "pen": _pen,
    "digits": _digits,
    "digits-tail": _digits_tail,
}
BUNDLED = {"brca": "digits", "pen": "digits-tail"}
"""What stands in for a problem whose data cannot be fetched."""


def load_problem(key: str, progress: Progress | None = None) -> Problem:
    """Fetch (if needed) and read the data of a problem.

    Raises:
        FetchError: The data are neither cached nor to be had.
    """
    problem = PROBLEMS[key](progress)
    require_same_classes(problem.teacher, problem.student)
    return problem
