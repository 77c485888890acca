"""What can be found wrong with a recipe before anything is trained."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .batches import TrainingData
from .config import ConfigError, Recipe
from .focus import check_focus
from .methods import METHODS, Method, create
from .methods import options as method_options
from .methods.refused import refusal
from .models import Student, head_module
from .preparation import Prepared
from .preparation.streamed import is_folder
from .recipe_file import nearest
from .teacher import build_model, build_teacher, load_weights, one_line
from .teacher_inputs import shown


def check_method(recipe: Recipe) -> None:
    """Refuse an unknown method or option before anything is loaded.

    Raises:
        ConfigError: names the nearest known name and all accepted ones; a method that lives on
            pairs without ``data.pairs``, on unlabelled samples without ``data.student.unlabelled``;
            a published method that cannot be used, with the reason.
    """
    name = recipe.method.name
    if name not in METHODS:
        if (reason := refusal(name)) is not None:
            raise ConfigError(f"method.name: {reason}")
        known = ", ".join(METHODS)
        raise ConfigError(f"unknown method.name {name!r}{nearest(name, METHODS)} (known: {known})")
    # `placebo` has its own field, so that it is not an option of the one or the other method.
    known_options = [option for option in method_options(name) if option != "placebo"]
    for option in recipe.method.options:
        if option not in known_options:
            raise ConfigError(
                f"unknown option {option!r} in method.options of {name!r}"
                f"{nearest(option, known_options)} (accepted: {', '.join(known_options)})"
            )
    if uses_teacher(recipe):
        check_focus(recipe)
    kind, side = METHODS[name], recipe.data.student
    if kind.needs_peer:
        _check_peer(recipe)
    if kind.paired and recipe.data.pairs == 0:
        raise ConfigError(
            f"method {name!r} needs pairs: data.pairs must be a count, or -1 for all, got 0"
        )
    divided = side.labels_per_class is not None or is_folder(side.dataset)
    if kind.needs_unlabelled and not (side.unlabelled and divided):
        raise ConfigError(
            f"method {name!r} needs unlabelled samples: data.student.unlabelled must be true and "
            "data.student.labels_per_class a number, "
            f"got {side.unlabelled} and {side.labels_per_class}"
        )


def uses_teacher(recipe: Recipe) -> bool:
    """Whether the method needs a trained teacher (and not its class frequencies alone)."""
    kind = METHODS[recipe.method.name]
    return kind.needs_teacher or kind.needs_head or kind.paired


def uses_peer(recipe: Recipe) -> bool:
    """Whether the method trains a model in the teacher's modality itself."""
    return METHODS[recipe.method.name].needs_peer


def _check_peer(recipe: Recipe) -> None:
    teacher = recipe.teacher
    for key, given, accepted in (
        ("kind", teacher.kind, "trained"),
        ("weights", teacher.weights, None),
        ("focus", teacher.focus, 0.0),
    ):
        if given != accepted:
            raise ConfigError(
                f"method {recipe.method.name!r} has no teacher, it trains the teacher's model "
                f"itself: teacher.{key} must be {accepted!r}, got {given!r}; a control that it "
                "has is method.placebo"
            )


def rehearse(recipe: Recipe, prepared: Prepared) -> None:
    """Build everything once and throw it away, so that mistakes cost no teacher's training.

    Raises:
        ConfigError: a model that cannot be built or does not fit, weights that cannot be read, or
            an option of the method that is wrong.
    """
    own, data = (
        prepared.teacher,
        replace(
            prepared.student,
            teacher_label=prepared.teacher.student_label,
            teacher_input=prepared.teacher.student,
        ),
    )
    torch.manual_seed(recipe.seed)
    teacher: Student | None = None
    if uses_teacher(recipe):
        check_focus(recipe, prepared)
        teacher = build_teacher(recipe.teacher, own, seed=recipe.seed)
        _try_model(teacher, own, "teacher")
        if recipe.teacher.weights is not None:
            load_weights(teacher, Path(recipe.teacher.weights))
        teacher = shown(recipe, teacher, own)
    if uses_peer(recipe):
        peer = build_model(recipe.teacher, own.student, data.num_classes, place="teacher")
        _try_model(peer, own, "teacher")
    student = build_model(recipe.student, data.student, data.num_classes, place="student")
    _try_model(student, data, "student")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the method is made in earnest
        method = make_method(recipe, student, teacher, data)
    if method.whole_teacher and own.streams:
        raise ConfigError(
            f"method {recipe.method.name!r}: method.options.bank must be false where samples are "
            "streamed: a bank is all of the teacher's samples in memory"
        )
    if method.needs_unlabelled and data.unlabelled is None:
        raise ConfigError(
            f"method {recipe.method.name!r} needs unlabelled samples, and none are left beside "
            f"data.student.labels_per_class = {recipe.data.student.labels_per_class}"
        )
    if method.paired and data.paired is None:
        raise ConfigError(
            f"method {recipe.method.name!r} needs pairs, and data.pairs = {recipe.data.pairs} "
            "finds none: no training sample of the student is without a label"
        )


@torch.no_grad()
def _try_model(model: Student, data: TrainingData, place: str) -> None:
    """One pass of two samples through a model of the user's."""
    model.eval()
    try:
        feature, logits = model.outputs(data.student[:2])
        shapes = tuple(feature.shape), tuple(logits.shape)
    except Exception as error:
        raise ConfigError(
            f"{place}: the model fails on inputs of shape (n, "
            f"{', '.join(map(str, data.student.shape[1:]))}): {one_line(error)}"
        ) from error
    rows = min(2, len(data.student))
    if shapes != ((rows, model.width), (rows, data.num_classes)):
        raise ConfigError(
            f"{place}: the model must return features (n, {model.width}) and logits "
            f"(n, {data.num_classes}) for n = {rows} samples, got {shapes[0]} and {shapes[1]}"
        )


def make_method(
    recipe: Recipe, student: Student, teacher: Student | None, data: TrainingData
) -> Method:
    """The recipe's method; what is wrong with its options is a :class:`ConfigError`."""
    peer: Student | None = None
    if uses_peer(recipe) and data.teacher_input is not None:
        peer = build_model(recipe.teacher, data.teacher_input, data.num_classes, place="teacher")
    parts: dict[str, Any] = {}
    if METHODS[recipe.method.name].teacher_inputs:
        parts = {"modalities": data.modalities, "teacher_modalities": data.teacher_modalities}
    if teacher is not None and METHODS[recipe.method.name].needs_stages:
        parts |= {"teacher_stages": teacher.stage_shapes}
    try:
        return create(
            recipe.method.name,
            student,
            num_classes=data.num_classes,
            teacher_head=None if teacher is None else head_module(teacher),
            teacher_width=None if teacher is None else teacher.width,
            class_prior=data.class_prior,
            label_counts=data.label_counts,
            peer=peer,
            placebo=recipe.method.placebo,
            **parts,
            **recipe.method.options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {recipe.method.name!r}: {error}") from error
