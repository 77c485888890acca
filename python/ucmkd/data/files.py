"""Data sets in local files: digit images, signed digits, and anybody's own `.npz`."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.base import (
    DIGITS,
    DataNotFoundError,
    Dataset,
    IntArray,
    find_in_root,
    number_ids,
)


def mnist10k(data_root: str | Path | None = None) -> Dataset:
    """Ten thousand handwritten digits of MNIST: `(10000, 28, 28)` in [0, 1].

    Read from `mnist10k.npz` (X uint8, y) in `data_root` or `UCMKD_DATA`.

    Raises:
        DataNotFoundError: The file is not there.
        ValueError: The file is not as described.

    Source: LeCun, Cortes & Burges; the selection of github.com/cazala/mnist (MIT).
    """
    return _digit_images("mnist10k", (28, 28), data_root)


def sign32(data_root: str | Path | None = None) -> Dataset:
    """Photographs of hands that sign a digit: `(2062, 32, 32)` grey in [0, 1].

    Read from `sign32.npz` (X uint8, y) in `data_root` or `UCMKD_DATA`.

    Raises:
        DataNotFoundError: The file is not there.
        ValueError: The file is not as described.

    Source: github.com/ardamavi/Sign-Language-Digits-Dataset (Apache-2.0), resized.
    """
    return _digit_images("sign32", (32, 32), data_root)


def _digit_images(name: str, shape: tuple[int, int], data_root: str | Path | None) -> Dataset:
    path = find_in_root(name, f"{name}.npz", data_root)
    arrays = _read_npz(path)
    images, labels = arrays["X"], arrays["y"]
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"{path}: X must be uint8 (n, {shape[0]}, {shape[1]}), got {images.dtype} "
            f"{images.shape}"
        )
    scaled = images.astype(np.float32) / np.float32(255)
    return Dataset(name, scaled, labels.astype(np.int64), DIGITS, number_ids(name, len(labels)))


def load_npz(path: str | Path) -> Dataset:
    """Your own data: an `.npz` file with inputs `X` and labels `y`.

    Keys: `X` `(n, ...)` of any real number type (uint8 is divided by 255); `y` `(n,)`
    of integers or strings. Optional: `class_names` `(C,)` (then y must be integers 0 … C-1), `ids`
    `(n,)` (distinct; equal ids in two files are recognised as the same sample), `groups` `(n,)`
    (speakers, subjects: kept on one side of every split), `test` `(n,)` bool (an official test
    split). Without `ids` every row of every file is a sample of its own. Without `class_names`
    the classes are the sorted distinct values of y; `require_same_classes` tells whether two files
    agree on them.

    Raises:
        DataNotFoundError: There is no such file.
        ValueError: It is no `.npz` file, a key is missing or has the wrong shape or type, rows
            disagree, ids are repeated, `test` is all True or all False, or X has NaN or Inf.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataNotFoundError(f"no file {path}")
    arrays = _read_npz(path)
    inputs = arrays["X"]
    if inputs.ndim < 2 or not (
        np.issubdtype(inputs.dtype, np.floating) or np.issubdtype(inputs.dtype, np.integer)
    ):
        raise ValueError(
            f"{path}: X must be real numbers of shape (n, ...), got {inputs.dtype} {inputs.shape}"
        )
    rows = {key: len(array) for key, array in arrays.items() if key in _PER_SAMPLE}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{path}: rows disagree: {rows}; one row per sample is needed in each")
    labels, class_names = _classes(path, arrays["y"], arrays.get("class_names"))
    scaled = inputs.astype(np.float32)
    if inputs.dtype == np.uint8:
        scaled /= np.float32(255)
    test = arrays.get("test")
    if test is not None and test.dtype != np.bool_:
        raise ValueError(f"{path}: test must be bool, got {test.dtype}")
    if test is not None and len(test) and (test.all() or not test.any()):
        raise ValueError(
            f"{path}: test must be True for some samples and False for others, got all "
            f"{bool(test[0])}; leave it out for a split by chance"
        )
    ids, groups = arrays.get("ids"), arrays.get("groups")
    if ids is not None:
        names, times = np.unique(ids.astype(str), return_counts=True)
        if len(names) < len(ids):
            most = str(names[times.argmax()])
            raise ValueError(
                f"{path}: ids must be distinct, got {most!r} {times.max()} times; "
                "samples that belong together share a name in groups"
            )
    return Dataset(
        path.stem,
        scaled,
        labels,
        class_names,
        # Files of one name in two folders are different samples; one file by two ways is not.
        number_ids(str(path.resolve()), len(labels)) if ids is None else ids.astype(str),
        None if groups is None else groups.astype(str),
        test,
    )


_PER_SAMPLE = ("X", "y", "ids", "groups", "test")


def read_archive(path: Path, wanted: Collection[str] | None = None) -> dict[str, NDArray | None]:
    """The named arrays of an `.npz` file, of numbers, booleans or strings.

    Args:
        path: The file.
        wanted: Names to read; the others stand for None. None: all.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no `.npz` file or a single array, or a member of it is damaged, of Python
            objects, or no array.
    """
    with path.open("rb") as stream:
        try:
            content = np.load(stream, allow_pickle=False)
            single = not isinstance(content, np.lib.npyio.NpzFile)
            arrays: dict[str, NDArray | None] = {
                key: content[key] if wanted is None or key in wanted else None
                for key in (() if single else sorted(content.files))
            }
        except Exception as error:  # a damaged header can end in any: it is parsed as Python text
            raise ValueError(_unreadable(path, error)) from error
    if single:
        raise ValueError(f"{path} holds one array, not a .npz archive of named arrays")
    for key, value in arrays.items():
        if value is None:
            continue
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{path}: {key} is no array as numpy.savez writes it, but raw bytes")
        if value.dtype.kind == "U" and value.size and _code_points(value).max() > 0x10FFFF:
            raise ValueError(f"{path}: {key} holds texts that are no Unicode; the file is damaged")
    return arrays


def _unreadable(path: Path, error: Exception) -> str:
    if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
        return (
            f"{path}: arrays of Python objects are not read (they could run code); store "
            "numbers, booleans or strings"
        )
    if not zipfile.is_zipfile(path):
        return (
            f"{path} is not an .npz file (an archive as numpy.savez writes it), or it is cut short"
        )
    return f"{path} cannot be read as an .npz file: {type(error).__name__}: {error}"


def _read_npz(path: Path) -> dict[str, NDArray]:
    wanted = (*_PER_SAMPLE, "class_names")
    found = read_archive(path, wanted)
    if not {"X", "y"} <= found.keys():
        raise ValueError(f"{path} must hold X (inputs) and y (labels); it holds {list(found)}")
    arrays = {key: value for key in wanted if (value := found.get(key)) is not None}
    for key in arrays.keys() - {"X"}:
        if arrays[key].ndim != 1:
            raise ValueError(f"{path}: {key} must have one dimension, got {arrays[key].shape}")
    return arrays


def _code_points(texts: NDArray) -> NDArray[np.uint32]:
    return np.ascontiguousarray(texts).astype(texts.dtype.newbyteorder("=")).view(np.uint32)


def _classes(
    path: Path, values: NDArray, names: NDArray | None
) -> tuple[IntArray, tuple[str, ...]]:
    integers = np.issubdtype(values.dtype, np.integer)
    if not integers and values.dtype.kind != "U":
        raise ValueError(f"{path}: y must be integers or strings, got {values.dtype}")
    if names is None:
        distinct, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int64), tuple(str(value) for value in distinct)
    if not integers:
        raise ValueError(f"{path}: with class_names, y must be integers, got {values.dtype}")
    return values.astype(np.int64), tuple(str(name) for name in names)


def save_npz(path: str | Path, dataset: Dataset) -> None:
    """Write a data set in the form that `load_npz` reads."""
    arrays: dict[str, Any] = {
        "X": dataset.inputs,
        "y": dataset.labels,
        "class_names": np.array(dataset.class_names),
        "ids": dataset.ids,
    }
    if dataset.groups is not None:
        arrays["groups"] = dataset.groups
    if dataset.test is not None:
        arrays["test"] = dataset.test
    np.savez_compressed(Path(path).expanduser(), **arrays)
