"""The trainer behind scikit-learn's interface: plain arrays in, a classifier out.

>>> from ucmkd.sklearn import UCMKDClassifier
>>> model = UCMKDClassifier(random_state=0)
>>> model.fit(X, y, X_teacher=X_t, y_teacher=y_t, X_unlabelled=X_u)   # doctest: +SKIP
>>> model.predict(X_new)                                              # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .batches import TrainingData
from .checkpoint import random_state as generators
from .checkpoint import set_random_state
from .config import OptimizerConfig, TeacherConfig, TrainingConfig
from .methods import METHODS, Method, checks, create
from .methods import options as options_of
from .methods.refused import refusal
from .models import MLP, Student
from .sklearn_input import class_labels, moments, same_columns, tensor, together
from .teacher import cache_outputs, freeze, train_teacher
from .trainer import fit as train

__all__ = ["UCMKDClassifier"]

#: What ``method="auto"`` takes: with a pool, with labelled samples alone, with pairs.
_UNPAIRED, _LABELLED, _PAIRED = "joint_alignment", "label_aware", "vanilla_kd"


class UCMKDClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that may learn from a teacher of another modality.

    The student is a two-layer perceptron (:class:`ucmkd.models.MLP`) on standardised columns. A
    teacher of the same kind is trained first on ``X_teacher``, which may have any number of
    columns and of rows: nothing pairs it with ``X``. Then the student is trained with a method of
    :data:`ucmkd.methods.METHODS`. Without teacher arguments it is plain cross-entropy.

    Args:
        method: A name in ``METHODS``, or ``"auto"``: ``vanilla_kd`` with pairs, else
            ``joint_alignment`` with a teacher and unlabelled samples, else ``label_aware`` with a
            teacher, else ``ce``. ``amid`` and ``msd`` are refused: they need to know which columns
            are of which of several modalities, and a table is one. ``discom_kd`` trains a model of
            the other modality along in the place of a teacher.
        method_options: Options of the method (:func:`ucmkd.methods.options`) but ``placebo``.
        placebo: Permute the teacher's classes: what remains of a gain is not its knowledge.
        hidden: Units of the first layer, of student and teacher.
        width: Units of the second layer: the features.
        dropout: Of the student, in [0, 1).
        steps: Optimiser steps of the student.
        teacher_steps: Optimiser steps of the teacher.
        batch_size: Samples per step of each pool.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW, for the student.
        validation_fraction: Share of ``X`` set aside to choose the step, in [0, 1); 0 keeps the
            last step.
        random_state: Seed, ``RandomState`` or None. The global generators are left as they were.

    Attributes:
        classes_: Sorted labels ``(C,)`` of student and teacher together.
        n_features_in_: Columns of ``X``.
        method_: Name of the method that was used.
        model_: The trained student, in float64 (so that a sample's answer does not depend on the
            others in its batch).
        teacher_: The trained teacher, or None (also for ``discom_kd``).
        mean_, scale_: Of the student's columns ``(d,)``, over ``X`` and ``X_unlabelled``.
        history_: Records of the student's training.
    """

    def __init__(
        self,
        method: str = "auto",
        *,
        method_options: Mapping[str, Any] | None = None,
        placebo: bool = False,
        hidden: int = 128,
        width: int = 64,
        dropout: float = 0.0,
        steps: int = 500,
        teacher_steps: int = 400,
        batch_size: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.method_options = method_options
        self.placebo = placebo
        self.hidden = hidden
        self.width = width
        self.dropout = dropout
        self.steps = steps
        self.teacher_steps = teacher_steps
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        X_teacher: ArrayLike | None = None,
        y_teacher: ArrayLike | None = None,
        X_unlabelled: ArrayLike | None = None,
        X_paired: ArrayLike | None = None,
        X_teacher_paired: ArrayLike | None = None,
    ) -> UCMKDClassifier:
        """Train the teacher, if one is given, and the student.

        Args:
            X: The student's labelled samples ``(n, d)``.
            y: Their classes ``(n,)``, of any kind that scikit-learn accepts.
            X_teacher: Samples ``(m, e)`` of the teacher's modality, in no relation to ``X``.
            y_teacher: Their classes ``(m,)``. Classes that ``y`` lacks can be predicted, too.
            X_unlabelled: Samples ``(u, d)`` of the student without labels.
            X_paired: Samples ``(p, d)`` of the student that were measured in both modalities.
            X_teacher_paired: The same samples in the teacher's ``(p, e)``, row by row.

        Returns:
            The classifier itself.

        Raises:
            ValueError: Arrays that scikit-learn refuses, fewer than two classes, arguments that
                come together and do not, a parameter out of range, an unknown method or option,
                a method that cannot be used here, or data that the method needs and were not
                given. All of it before anything is trained.
            TypeError: A parameter or an option of the wrong type.
        """
        self._check_parameters()
        together(X_teacher=X_teacher, y_teacher=y_teacher)
        together(X_paired=X_paired, X_teacher_paired=X_teacher_paired)
        if X_paired is not None and X_teacher is None:
            raise ValueError("X_paired needs X_teacher and y_teacher, to train the teacher on")
        own, y = validate_data(self, X, y, dtype=np.float64)
        pool = same_columns("X_unlabelled", X_unlabelled, own)
        paired = same_columns("X_paired", X_paired, own)
        sides = [class_labels("y", y)]
        theirs: NDArray[np.float64] | None = None
        if X_teacher is not None:
            theirs = known = np.asarray(
                check_array(X_teacher, dtype=np.float64, input_name="X_teacher")
            )
            sides.append(class_labels("y_teacher", y_teacher))
            if len(sides[1]) != len(known):
                raise ValueError(
                    f"y_teacher must have one label per row of X_teacher, got {len(sides[1])} "
                    f"for {len(known)} rows"
                )
        classes = np.unique(np.concatenate(sides))
        if len(np.unique(sides[0])) < 2:
            raise ValueError("y must have at least 2 classes; got 1 class")
        codes = [np.searchsorted(classes, side) for side in sides]
        matched = None
        if X_teacher_paired is not None and theirs is not None:
            matched = same_columns("X_teacher_paired", X_teacher_paired, theirs, of="X_teacher")
            if paired is not None and matched is not None and len(matched) != len(paired):
                raise ValueError(
                    "X_paired and X_teacher_paired must have the same number of rows, got "
                    f"{len(paired)} and {len(matched)}"
                )
        self.classes_ = classes
        self.method_ = self._chosen(theirs, pool, paired)
        self._check_options()
        seen = [part for part in (own, pool, paired) if part is not None]
        self.mean_, self.scale_ = moments(np.concatenate(seen))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _generators_kept():
            self._train(own, codes, theirs, pool, paired, matched, seed)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities ``(n, C)`` in the order of ``classes_``."""
        check_is_fitted(self, "model_")
        inputs = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.no_grad():
            logits: Tensor = self.model_(torch.from_numpy((inputs - self.mean_) / self.scale_))
        return np.asarray(logits.softmax(dim=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels ``(n,)``."""
        probability = self.predict_proba(X)
        return np.asarray(self.classes_[probability.argmax(axis=1)])

    def _check_parameters(self) -> None:
        for name in ("hidden", "width", "steps", "teacher_steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("dropout", "validation_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
                raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
        checks.number("lr", self.lr, strict=True)
        checks.number("weight_decay", self.weight_decay)
        checks.flag("placebo", self.placebo)
        if self.method != "auto":
            self._check_method()
        if not isinstance(self.method_options, Mapping | None):
            raise TypeError(
                "method_options must be a mapping of names to values or None, got "
                f"{self.method_options!r}"
            )

    def _check_method(self) -> None:
        if self.method not in METHODS:
            if isinstance(self.method, str) and (reason := refusal(self.method)) is not None:
                raise ValueError(reason)
            raise ValueError(
                f"method must be 'auto' or one of {', '.join(METHODS)}, got {self.method!r}"
            )
        if METHODS[self.method].teacher_inputs:
            raise ValueError(
                f"method {self.method!r} cannot be used here: it needs to know which columns of "
                "X_teacher are of which of several modalities; a recipe has them "
                "(ucmkd.distill.distill)"
            )

    def _check_options(self) -> None:
        accepted = [name for name in options_of(self.method_) if name != "placebo"]
        for name in self.method_options or {}:
            if name == "placebo":
                raise ValueError(
                    "placebo is an argument of UCMKDClassifier, not one of method_options"
                )
            if name not in accepted:
                raise ValueError(
                    f"method_options must hold options of {self.method_!r} "
                    f"({', '.join(accepted)}), got {name!r}{checks.near_name(name, accepted)}"
                )

    def _chosen(self, teacher: Any, pool: Any, paired: Any) -> str:
        if self.method != "auto":
            kind = METHODS[self.method]
            from_teacher = kind.needs_teacher or kind.needs_head or kind.needs_prior
            if teacher is None and (from_teacher or kind.needs_peer or kind.paired):
                raise ValueError(f"method {self.method!r} needs X_teacher and y_teacher")
            return self.method
        if paired is not None:
            return _PAIRED
        if teacher is None:
            return "ce"
        return _LABELLED if pool is None else _UNPAIRED

    def _train(
        self,
        own: NDArray[np.float64],
        codes: list[NDArray[np.int64]],
        theirs: NDArray[np.float64] | None,
        pool: NDArray[np.float64] | None,
        paired: NDArray[np.float64] | None,
        matched: NDArray[np.float64] | None,
        seed: int,
    ) -> None:
        fabric = Fabric(accelerator="cpu", devices=1)
        num_classes = len(self.classes_)

        def scaled(part: NDArray[np.float64] | None) -> Tensor | None:
            return None if part is None else tensor((part - self.mean_) / self.scale_)

        given: dict[str, Any] = {"unlabelled": scaled(pool), "paired": scaled(paired)}
        student, label = tensor((own - self.mean_) / self.scale_), torch.from_numpy(codes[0])
        if self.validation_fraction > 0:
            kept, aside = train_test_split(
                np.arange(len(label)),
                test_size=self.validation_fraction,
                stratify=codes[0],
                random_state=seed,
            )
            given |= {"validation": student[aside], "validation_label": label[aside]}
            student, label = student[kept], label[kept]
        if theirs is not None:
            given["teacher_label"] = torch.from_numpy(codes[1])
            mean, scale = moments(theirs)
            given["teacher_input"] = tensor((theirs - mean) / scale)
        data = TrainingData(num_classes, student, label, **given)
        self._check_data(data)
        self.teacher_: Student | None = None
        if theirs is not None and not METHODS[self.method_].needs_peer:
            inputs = given["teacher_input"]
            self.teacher_ = teacher = self._taught(inputs, codes[1], seed, fabric)
            given["teacher_feature"], given["teacher_logits"] = cache_outputs(teacher, inputs)
            if matched is not None:
                outputs = cache_outputs(teacher, tensor((matched - mean) / scale))
                given["paired_teacher_feature"], given["paired_teacher_logits"] = outputs
            data = replace(data, **given)
        method = self._method(data, self.teacher_, seed)
        training = TrainingConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            teacher_batch_size=self.batch_size,
            unlabelled_batch_size=self.batch_size,
            pair_batch_size=self.batch_size,
            diagnose_every=0,
        )
        optimizer = OptimizerConfig(lr=self.lr, weight_decay=self.weight_decay)
        fitted = train(method, data, training, optimizer, seed=seed, fabric=fabric)
        self.history_ = fitted.history
        self.model_ = fitted.method.deployed().double().eval()

    def _method(self, data: TrainingData, teacher: Student | None, seed: int) -> Method:
        torch.manual_seed(seed)
        student, peer = self._model(data.student.shape[1], self.dropout), None
        if METHODS[self.method_].needs_peer and data.teacher_input is not None:
            peer = self._model(data.teacher_input.shape[1], TeacherConfig.dropout)
        return create(
            self.method_,
            student,
            num_classes=data.num_classes,
            teacher_head=None if teacher is None else teacher.head,
            teacher_width=None if teacher is None else self.width,
            class_prior=data.class_prior,
            label_counts=data.label_counts,
            peer=peer,
            placebo=self.placebo,
            **(self.method_options or {}),
        )

    def _check_data(self, data: TrainingData) -> None:
        """Make the method once, with a teacher that has learned nothing: what fails, fails here."""
        teacher = None
        if data.teacher_input is not None:
            teacher = self._model(data.teacher_input.shape[1], TeacherConfig.dropout)
        try:
            method = self._method(data, teacher, seed=0)
        except ValueError as error:
            if teacher is None and "class_prior" in str(error):
                raise ValueError(
                    f"method {self.method_!r} needs X_teacher and y_teacher: {error}"
                ) from None
            raise
        lacking = {"X_unlabelled": method.needs_unlabelled and data.unlabelled is None}
        lacking["X_paired and X_teacher_paired"] = method.paired and data.paired is None
        names = " and ".join(name for name, missing in lacking.items() if missing)
        if names:
            raise ValueError(f"method {self.method_!r} needs {names}")

    def _model(self, columns: int, dropout: float) -> MLP:
        sizes = {"hidden": self.hidden, "width": self.width, "num_classes": len(self.classes_)}
        return MLP(columns, dropout=dropout, **sizes)

    def _taught(
        self, inputs: Tensor, label: NDArray[np.int64], seed: int, fabric: Fabric
    ) -> Student:
        torch.manual_seed(seed)
        teacher = self._model(inputs.shape[1], TeacherConfig.dropout)
        data = TrainingData(len(self.classes_), inputs, torch.from_numpy(label))
        config = TeacherConfig(steps=self.teacher_steps, batch_size=self.batch_size, lr=self.lr)
        train_teacher(teacher, data, config, seed=seed, fabric=fabric)
        freeze(teacher)
        return teacher


@contextmanager
def _generators_kept() -> Iterator[None]:
    """The global random generators afterwards are what they were before."""
    before = generators()
    try:
        yield
    finally:
        set_random_state(before)
