"""Every line of the table: a seed, a length, a way to compare the two views."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ucmkd.data import load, stratified_parts
from ucmkd.hashing import CMIMH, HashTraining, fit, hamming_map, pack, score_map
from ucmkd.hashing.baselines import (
    Projections,
    canonical_correlations,
    principal_components,
    random_codes,
)

VIEWS = ("fac", "fou")
SEEDS, BITS = (0, 1, 2, 3, 4), (16, 32, 64)
#: The weight of the gap was chosen on seed 100; the others show what it does, at 32 bits.
GAP, GAPS = 3.0, (0.0, 0.3, 1.0, 10.0, 30.0)
STEPS = 600

METHODS = {
    "random": "codes by chance",
    "pca": "signs of PCA",
    "cca_signs": "signs of CCA",
    "placebo": "CMIMH, permuted pairs",
    "cmimh": "CMIMH",
    "cca": "CCA, real-valued",
}
KEY = ("method", "bits", "gap", "seed", "steps")
COLUMNS = (*KEY, "x_to_y", "y_to_x", "train_size", "test_size", "seconds")
Row = dict[str, str]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Both views of a seed, standardised on the training rows.

    Attributes:
        x, y: ``(n, d)``, all samples.
        labels: ``(n,)``, for grading only.
        train: Rows for training, which are also the database.
        test: Rows of the queries.
    """

    x: Array
    y: Array
    labels: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One line.

    Attributes:
        method: A key of ``METHODS``.
        bits: Length of the codes, or number of real-valued coordinates.
        gap: λ; 0 where there is none.
        seed: Of the split and of everything random.
        steps: Of the training; 0 where there is none.
    """

    method: str
    bits: int
    gap: float
    seed: int
    steps: int

    @property
    def key(self) -> tuple[str, ...]:
        return (self.method, str(self.bits), f"{self.gap:g}", str(self.seed), str(self.steps))


def grid(seeds: Iterable[int] = SEEDS, steps: int = STEPS) -> list[Run]:
    """All methods and lengths, and the weights of the gap at 32 bits."""
    runs = []
    for seed in seeds:
        for name in METHODS:
            learns = name in ("cmimh", "placebo")
            runs += [Run(name, k, GAP * learns, seed, steps * learns) for k in BITS]
        runs += [Run("cmimh", 32, gap, seed, steps) for gap in GAPS]
    return runs


@lru_cache(maxsize=1)
def pairs(seed: int) -> Pairs:
    """80 % of each class for training and as the database, 20 % as queries."""
    data = load("mfeat", views=VIEWS)
    train, test = stratified_parts(data.labels, (0.8, 0.2), seed)
    found = []
    for name in VIEWS:
        view = np.asarray(data.views[name], dtype=np.float64)  # type: ignore[union-attr]
        spread = view[train].std(axis=0)
        found.append((view - view[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0))
    return Pairs(found[0], found[1], data.labels, train, test)


@lru_cache(maxsize=1)
def _canonical(seed: int) -> Projections:
    data = pairs(seed)
    return canonical_correlations(data.x[data.train], data.y[data.train], max(BITS))


def measure(run: Run) -> Row:
    """Mean average precision both ways, percent; no query is in the database."""
    data, start = pairs(run.seed), time.monotonic()
    labels = data.labels[data.test], data.labels[data.train]
    if run.method == "cca":
        found = _first(_canonical(run.seed), run.bits)
        scores, rows = found.cosine(data.x, data.y), np.ix_(data.test, data.train)
        both = [score_map(s[rows], *labels) for s in (scores, scores.T)]
    else:
        x, y = (pack(codes) for codes in _codes(run, data))
        both = [hamming_map(q[data.test], d[data.train], *labels) for q, d in ((x, y), (y, x))]
    scores_text = {"x_to_y": f"{100 * both[0]:.3f}", "y_to_x": f"{100 * both[1]:.3f}"}
    sizes = {"train_size": str(len(data.train)), "test_size": str(len(data.test))}
    key = dict(zip(KEY, run.key, strict=True))
    return {**key, **scores_text, **sizes, "seconds": f"{time.monotonic() - start:.2f}"}


def _first(found: Projections, k: int) -> Projections:
    return Projections(found.x[:, :k], found.y[:, :k])


def _codes(run: Run, data: Pairs) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bits of all samples in both views."""
    rng = np.random.default_rng((run.seed, run.bits))
    x, y = data.x[data.train], data.y[data.train]
    if run.method == "random":
        first, second = random_codes(2 * len(data.x), run.bits, rng).reshape(2, -1, run.bits)
        return first, second
    if run.method in ("pca", "cca_signs"):
        pca = run.method == "pca"
        found = principal_components(x, y, run.bits) if pca else _canonical(run.seed)
        found = _first(found, run.bits)
        return found.signs(data.x, "x"), found.signs(data.y, "y")
    if run.method == "placebo":
        y = y[rng.permutation(len(y))]
    torch.manual_seed(run.seed)
    model = CMIMH(x.shape[1], y.shape[1], bits=run.bits, gap=run.gap)
    training = HashTraining(steps=run.steps, seed=run.seed)
    fit(model, torch.from_numpy(x).float(), torch.from_numpy(y).float(), training)
    every = (torch.from_numpy(view).float() for view in (data.x, data.y))
    first, second = (model.codes(m, view).numpy() for m, view in zip("xy", every, strict=True))
    return first, second


def read(path: Path) -> list[Row]:
    """The lines so far; one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("seconds")]


def execute(runs: Sequence[Run], path: Path) -> list[Row]:
    """Measure what the table lacks, which grows line by line; returns it all."""
    done = read(path)
    known = {tuple(row[name] for name in KEY) for row in done}
    left = [run for run in runs if run.key not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(done)
        stream.flush()
        began, live = time.monotonic(), sys.stdout.isatty()
        for number, run in enumerate(left):
            rest = (time.monotonic() - began) / max(number, 1) * (len(left) - number)
            text = f"{number + 1}/{len(left)}  {' | '.join(run.key)}  {rest:.0f} s left"
            print(f"\r\033[K{text}" if live else text, end="" if live else "\n", flush=True)
            table.writerow(measure(run))
            stream.flush()
    return read(path)
