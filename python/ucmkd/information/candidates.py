"""The arguments of a comparison of teachers, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ucmkd.information.rules.evidence import Array, Codes, Evidence

LEAST = 12
"""Labelled rows below which nothing is estimated."""


def gather(
    teachers: Mapping[str, Any],
    student: Any,
    labels: Any,
    *,
    by_class: bool,
    teacher_labels: Mapping[str, Any] | None,
    own: Mapping[str, tuple[Any, Any]] | None,
    outputs: Mapping[str, Any] | None,
    seed: int,
) -> tuple[dict[str, Evidence], tuple[str, ...]]:
    """Each teacher with the student's rows, standardised, and notes on what was left out.

    Arguments and errors are those of :func:`ucmkd.information.complementarity`.
    """
    if not isinstance(teachers, Mapping):
        raise TypeError(
            f"teachers must map names to representations, got {type(teachers).__name__}"
        )
    if not teachers:
        raise ValueError("teachers must name at least one teacher, got none")
    for name, given in (("teacher_labels", teacher_labels), ("own", own), ("outputs", outputs)):
        _known(name, given, teachers)
    target = _student(student, labels)
    kept = [f"student: {target.constant}"] if target.constant else []
    found: dict[str, Evidence] = {}
    memory: dict[Any, Any] = {}
    for name, given in teachers.items():
        place = f"teachers[{name!r}]"
        rows = _features(given, place)
        if by_class:
            theirs = _teacher_labels(name, teacher_labels, len(rows), target)
            evidence = _by_class(rows, theirs, target, seed)
        else:
            _same_rows(place, len(rows), len(target.rows), teacher_labels)
            evidence = Evidence(rows, target.rows, target.labels, target.classes, memory=memory)
        mine = None if own is None else own.get(name)
        answers = None if outputs is None else outputs.get(name)
        found[name], note = _standardised(evidence, _own(name, mine, rows, target), place)
        kept += [note] if note else []
        if answers is not None:
            found[name] = _with_outputs(found[name], answers, name, by_class, target)
    return found, tuple(kept)


@dataclass(frozen=True)
class _Target:
    rows: Array
    labels: Codes
    classes: int
    names: NDArray[Any]
    constant: str


def _student(student: Any, labels: Any) -> _Target:
    rows = _features(student, "student")
    codes = _integers(labels, "labels")
    if len(codes) != len(rows):
        raise ValueError(f"labels must have one entry per row of student, got {len(codes)} for "
                         f"{len(rows)} rows")  # fmt: skip
    known = codes >= 0
    if (codes < -1).any():
        raise ValueError(f"labels must be classes 0, 1, … or -1 for unknown, got {codes.min()}")
    names = np.unique(codes[known])
    if len(names) < 2:
        raise ValueError(
            f"labels must hold at least 2 classes, got {len(names)} ({names.tolist()}): with one "
            "class there is nothing to learn"
        )
    if known.sum() < max(LEAST, 2 * len(names)):
        raise ValueError(
            f"labels must be known for at least {max(LEAST, 2 * len(names))} rows (two per class), "
            f"got {int(known.sum())}"
        )
    coded = np.where(known, np.searchsorted(names, codes), -1).astype(np.int64)
    rows, constant = _scaled(rows, rows, "student")
    return _Target(rows, coded, len(names), names, constant)


def _standardised(
    evidence: Evidence, own: tuple[Array, Codes] | None, place: str
) -> tuple[Evidence, str]:
    base = evidence.teacher if own is None else own[0]
    teacher, note = _scaled(evidence.teacher, base, place)
    mine = None if own is None else (_scaled(own[0], base, place)[0], own[1])
    changed = Evidence(
        teacher, evidence.student, evidence.labels, evidence.classes, mine,
        by_class=evidence.by_class, memory=evidence.memory,
    )  # fmt: skip
    return changed, f"{place}: {note}" if note else ""


def _scaled(rows: Array, base: Array, place: str) -> tuple[Array, str]:
    """Columns of mean 0 and variance 1 over ``base``; constant ones are left out, and said so."""
    mean, deviation = base.mean(axis=0), base.std(axis=0)
    varies = deviation > 1e-7 * np.abs(base).max(axis=0)
    if not varies.any():
        raise ValueError(f"{place} must vary, got {rows.shape[1]} constant columns")
    missing = int((~varies).sum())
    note = f"{missing} of {rows.shape[1]} columns are constant and were left out" if missing else ""
    return np.asarray((rows[:, varies] - mean[varies]) / deviation[varies]), note


def _same_rows(
    place: str, given: int, wanted: int, teacher_labels: Mapping[str, Any] | None
) -> None:
    if given != wanted:
        how = "pairing='class'" + ("" if teacher_labels else " and teacher_labels")
        raise ValueError(
            f"{place} must hold the student's samples in the student's order, got {given} rows "
            f"for {wanted}: I(H_T; H_S) is not defined by unpaired samples. With {how} the "
            "class-conditional surrogate ranks them all the same (it cannot say that a teacher "
            "helps); rule='accuracy' needs no pairs either way"
        )


def _teacher_labels(
    name: str, given: Mapping[str, Any] | None, count: int, target: _Target
) -> Codes:
    if given is None or name not in given:
        raise ValueError(f"pairing='class' needs teacher_labels[{name!r}], the classes of its rows")
    codes = _integers(given[name], f"teacher_labels[{name!r}]")
    if len(codes) != count:
        raise ValueError(
            f"teacher_labels[{name!r}] must have one entry per row, got {len(codes)} for {count}"
        )
    missing = np.setdiff1d(target.names, codes)
    if len(missing):
        raise ValueError(
            f"teacher_labels[{name!r}] must hold every class of the student, lacks "
            f"{missing.tolist()}"
        )
    place = np.searchsorted(target.names, codes).clip(max=len(target.names) - 1)
    return np.where(target.names[place] == codes, place, -1).astype(np.int64)


def _by_class(rows: Array, labels: Codes, target: _Target, seed: int) -> Evidence:
    """Every labelled student row with a teacher row of its class, as few twice as possible."""
    draw = np.random.default_rng(seed)
    mine = np.flatnonzero(target.labels >= 0)
    partner = np.empty(len(mine), dtype=np.int64)
    for label in range(target.classes):
        places = np.flatnonzero(target.labels[mine] == label)
        members = draw.permutation(np.flatnonzero(labels == label))
        partner[places] = np.resize(members, len(places))
    return Evidence(
        rows[partner], target.rows[mine], target.labels[mine], target.classes,
        by_class=True,
    )  # fmt: skip


def _own(
    name: str, given: tuple[Any, Any] | None, rows: Array, target: _Target
) -> tuple[Array, Codes] | None:
    if given is None:
        return None
    if not isinstance(given, tuple | list) or len(given) != 2:
        what = f"{len(given)} entries" if isinstance(given, tuple | list) else type(given).__name__
        raise TypeError(f"own[{name!r}] must be a pair (features, labels), got {what}")
    features = _features(given[0], f"own[{name!r}][0]")
    labels = _integers(given[1], f"own[{name!r}][1]")
    if features.shape[1] != rows.shape[1] or len(features) != len(labels):
        raise ValueError(
            f"own[{name!r}] must be features (m, {rows.shape[1]}) and labels (m,), got "
            f"{features.shape} and {labels.shape}"
        )
    place = np.searchsorted(target.names, labels).clip(max=len(target.names) - 1)
    shared = target.names[place] == labels
    if shared.sum() < LEAST:
        raise ValueError(
            f"own[{name!r}] must hold at least {LEAST} samples of the student's classes, got "
            f"{int(shared.sum())}"
        )
    return features[shared], place[shared].astype(np.int64)


def _with_outputs(
    evidence: Evidence, given: Any, name: str, by_class: bool, target: _Target
) -> Evidence:
    place = f"outputs[{name!r}]"
    if by_class:
        raise ValueError(f"{place} must be left out with pairing='class'")
    found = _features(given, place)
    wanted = int(target.names.max()) + 1
    if len(found) != len(evidence.labels) or found.shape[1] < wanted:
        raise ValueError(
            f"{place} must be class probabilities ({len(evidence.labels)}, {wanted} or more), got "
            f"{found.shape}"
        )
    if (found < 0).any() or not np.allclose(found.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(f"{place} must be probabilities, rows of which add up to 1 (not logits)")
    return Evidence(
        evidence.teacher, evidence.student, evidence.labels, evidence.classes, evidence.own,
        found[:, target.names], memory=evidence.memory,
    )  # fmt: skip


def _features(given: Any, place: str) -> Array:
    if isinstance(given, Tensor):
        array = given.detach().cpu().double().numpy()
    elif isinstance(given, np.ndarray):
        array = given
    else:
        raise TypeError(f"{place} must be a tensor or an array, got {type(given).__name__}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{place} must hold real numbers, got {array.dtype}")
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"{place} must have shape (n, d), not empty, got {array.shape}")
    values = np.asarray(array, dtype=np.float64).reshape(len(array), -1)
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.flatnonzero(bad.any(axis=1))
        raise ValueError(
            f"{place} must be finite, got {int(bad.sum())} missing, NaN or infinite values in "
            f"{len(rows)} rows, the first in row {rows[0]}"
        )
    return values


def _integers(given: Any, place: str) -> Codes:
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"{place} must be integers (n,), got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _known(name: str, given: Mapping[str, Any] | None, teachers: Mapping[str, Any]) -> None:
    for key in given or ():
        if key not in teachers:
            raise ValueError(
                f"{name} has an entry {key!r} that is no teacher ({', '.join(teachers)})"
            )
