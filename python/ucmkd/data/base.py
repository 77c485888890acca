"""What an adapter returns: samples of one modality, or several views of the same samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucmkd.data._names import unknown_name
from ucmkd.data.stored import StoredArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class DataNotFoundError(FileNotFoundError):
    """A data set is not on this machine; the message says where it was sought and how to get it."""


@dataclass(frozen=True)
class Dataset:
    """Labelled samples of one modality.

    Attributes:
        name: What the samples are.
        inputs: `(n, ...)` float32, finite; images and spectrograms keep their shape. A
            `StoredArray` where they are too big for memory.
        labels: `(n,)` int64 in `0 … num_classes - 1`.
        class_names: One name per class.
        ids: `(n,)` names of the samples: equal ids mean the same person, image or recording.
        groups: `(n,)` names of speakers, subjects or the like; None where there are none.
        test: `(n,)` bool, True for the samples of an official test split; None without one.
        validation: The same for an official validation split.
        modalities: Of joined views (`Views.join`), how many columns of the inputs belong to each,
            in their order; None for one modality.
    """

    name: str
    inputs: FloatArray | StoredArray
    labels: IntArray
    class_names: tuple[str, ...]
    ids: NDArray[np.str_]
    groups: NDArray[np.str_] | None = None
    test: NDArray[np.bool_] | None = None
    validation: NDArray[np.bool_] | None = None
    modalities: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        _check_rows(self.name, {"inputs": self.inputs}, self.labels, self.class_names, self.ids)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def flat(self) -> FloatArray:
        """The inputs as `(n, d)`."""
        return np.asarray(self.inputs).reshape(len(self), -1)


@dataclass(frozen=True)
class Views:
    """Several modalities measured on the same samples, row by row.

    Attributes:
        name: What the samples are.
        views: For each modality `(n, ...)` float32, finite, or a `StoredArray`; row i is the same
            sample everywhere.
        labels: `(n,)` int64 in `0 … num_classes - 1`.
        class_names: One name per class.
        ids: `(n,)` names of the samples.
        columns: Names of the columns of a view, where the source has them.
        groups, test, validation: As in `Dataset`.
    """

    name: str
    views: Mapping[str, FloatArray | StoredArray]
    labels: IntArray
    class_names: tuple[str, ...]
    ids: NDArray[np.str_]
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: NDArray[np.str_] | None = None
    test: NDArray[np.bool_] | None = None
    validation: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        _check_rows(self.name, self.views, self.labels, self.class_names, self.ids)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def view(self, name: str) -> Dataset:
        """One modality alone, with the same labels, ids, groups and official splits.

        Raises:
            ValueError: There is no such view.
        """
        if name not in self.views:
            raise unknown_name(f"view of {self.name}", name, self.views)
        title = f"{self.name}/{name}"
        return Dataset(
            title,
            self.views[name],
            self.labels,
            self.class_names,
            self.ids,
            self.groups,
            self.test,
            self.validation,
        )

    def join(self, names: Sequence[str]) -> Dataset:
        """Several modalities as one, flattened and beside each other: "rna+meth".

        Raises:
            ValueError: There is no such view, one is named twice, or lies in a file.
        """
        parts: dict[str, FloatArray] = {}
        for name in names:
            one = self.view(name)
            if name in parts:
                raise ValueError(f"views of {self.name} to join must differ, got {list(names)}")
            if isinstance(one.inputs, StoredArray):
                raise ValueError(
                    f"view {name!r} of {self.name} is too big for memory and cannot be joined with "
                    "others; name one view"
                )
            parts[name] = one.flat()
        return replace(
            self.view(names[0]),
            name=f"{self.name}/{'+'.join(names)}",
            inputs=np.concatenate(list(parts.values()), axis=1),
            modalities={name: part.shape[1] for name, part in parts.items()},
        )


def _check_rows(
    name: str,
    arrays: Mapping[str, FloatArray | StoredArray],
    labels: IntArray,
    class_names: tuple[str, ...],
    ids: NDArray[np.str_],
) -> None:
    rows = {key: len(array) for key, array in arrays.items()} | {"ids": len(ids)}
    wrong = {key: count for key, count in rows.items() if count != len(labels)}
    if wrong:
        raise ValueError(f"{name}: {len(labels)} labels, but rows are {wrong}; they must agree")
    if len(labels) == 0:
        raise ValueError(f"{name}: no samples")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(
            f"{name}: labels must lie in 0…{len(class_names) - 1} (one per class name), "
            f"got {labels.min()}…{labels.max()}"
        )
    for key, array in arrays.items():
        if isinstance(array, StoredArray):
            continue  # whoever wrote the file has looked; reading it all takes minutes
        finite = np.isfinite(array)
        if not finite.all():
            bad = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
            raise ValueError(
                f"{name}: {key} has NaN or Inf in {len(bad)} of {len(array)} rows, "
                f"the first is row {bad[0]}"
            )


def require_same_classes(teacher: Dataset | Views, student: Dataset | Views) -> None:
    """Refuse a teacher and a student whose class k are different things.

    Raises:
        ValueError: The class names differ, in themselves or in their order.
    """
    if teacher.class_names != student.class_names:
        raise ValueError(
            f"teacher and student must have the same classes in the same order; {teacher.name} has "
            f"{teacher.class_names}, {student.name} has {student.class_names}"
        )


def choose_views(name: str, wanted: Iterable[str] | None, known: tuple[str, ...]) -> list[str]:
    """The views to read: all of them for None.

    Raises:
        ValueError: A wanted view does not exist, or the list is empty.
    """
    if wanted is None:
        return list(known)
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    if not chosen:
        raise ValueError(f"views of {name} must name at least one of {', '.join(known)}")
    for view in chosen:
        if view not in known:
            raise unknown_name(f"view of {name}", view, known)
    return chosen


def number_ids(prefix: str, count: int) -> NDArray[np.str_]:
    """Ids "prefix-0" … for samples whose source gives them no names."""
    return np.array([f"{prefix}-{index}" for index in range(count)])


DIGITS: tuple[str, ...] = tuple("0123456789")


def data_root(given: str | Path | None) -> Path | None:
    """The user's folder of data: the argument, else `UCMKD_DATA`, else None."""
    chosen = given if given is not None else os.environ.get("UCMKD_DATA")
    return Path(chosen).expanduser() if chosen else None


def find_in_root(what: str, relative: str, given: str | Path | None) -> Path:
    """A file or folder below the user's data folder.

    Raises:
        DataNotFoundError: No folder was named, or it does not hold `relative`.
    """
    root = data_root(given)
    if root is None:
        raise DataNotFoundError(
            f"{what} is not fetched automatically: put {relative} into a folder and name the "
            "folder with data_root= or the environment variable UCMKD_DATA (neither is set)"
        )
    path = root / relative
    if not path.exists():
        source = "data_root" if given is not None else "UCMKD_DATA"
        raise DataNotFoundError(
            f"{what}: no {relative} in {root} (from {source}); put it there or name another "
            "folder with data_root= or UCMKD_DATA"
        )
    return path
