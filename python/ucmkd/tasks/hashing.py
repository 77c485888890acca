"""Retrieval across two views of handwritten digits by binary codes, ``task: hashing``.

Pairs of profile correlations and Fourier coefficients of UCI multiple features, without labels;
those grade alone. Of each class 70 % are the training pairs and the database, 10 % are the queries
that choose among candidates, 20 % those that count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ucmkd.config_errors import require
from ucmkd.data import Views, load, stratified_parts
from ucmkd.hashing import CMIMH, HashTraining, fit, hamming_map, pack, score_map
from ucmkd.hashing.baselines import (
    Projections,
    canonical_correlations,
    principal_components,
    random_codes,
)
from ucmkd.tasks.base import SECONDS, Case, Measure, Outcome, Shown, Task

VIEWS = ("fac", "fou")
PARTS = (0.7, 0.1, 0.2)
LONGEST = 64
"""Bits, or coordinates: the smaller of the two views has 66 features."""

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class HashingSettings:
    """What a study may set."""

    bits: int = 32
    """Length of the codes, or number of real-valued coordinates."""
    gap: float = 3.0
    """λ of :class:`ucmkd.hashing.CMIMH`."""
    steps: int = 600
    """Of its training."""

    def __post_init__(self) -> None:
        require(0 < self.bits <= LONGEST, "bits", self.bits, f"in 1..{LONGEST}")
        require(0 <= self.gap < float("inf"), "gap", self.gap, "a finite number of at least 0")
        require(self.steps > 0, "steps", self.steps, "a positive integer")


@dataclass(frozen=True)
class Pairs:
    """Both views of a seed, standardised on the training rows.

    Attributes:
        x, y: ``(n, d)``, all samples.
        labels: ``(n,)``.
        train, validation, test: Rows; the first are also the database.
    """

    x: Array
    y: Array
    labels: NDArray[np.int64]
    train: Rows
    validation: Rows
    test: Rows


def fetch() -> Views:
    """The data set."""
    return load("mfeat", views=VIEWS)  # type: ignore[return-value]


@lru_cache(maxsize=1)
def pairs(seed: int) -> Pairs:
    """The samples of a seed."""
    data = fetch()
    parts = stratified_parts(data.labels, PARTS, seed)
    found = []
    for name in VIEWS:
        view = np.asarray(data.views[name], dtype=np.float64)
        spread = view[parts[0]].std(axis=0)
        found.append((view - view[parts[0]].mean(axis=0)) / np.where(spread > 0, spread, 1.0))
    return Pairs(found[0], found[1], data.labels, *parts)


@lru_cache(maxsize=1)
def _canonical(seed: int) -> Projections:
    data = pairs(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Maximum number of iterations reached")
        return canonical_correlations(data.x[data.train], data.y[data.train], LONGEST)


def run(case: Case) -> Outcome:
    """Make codes, or coordinates; no query is in the database."""
    data = pairs(case.seed)
    graded = _coordinates(case, data) if case.method == "cca" else _codes(case, data)

    def test() -> dict[str, Any]:
        return dict(zip(("x_to_y", "y_to_x"), graded(data.test), strict=True))

    outside = len(data.train) + len(data.validation)
    return Outcome(test, outside, len(data.test), lambda: sum(graded(data.validation)) / 2)


Graded = Callable[[Rows], tuple[float, float]]
"""Mean average precision of queries, each way."""


def _coordinates(case: Case, data: Pairs) -> Graded:
    """Cosines of canonical coordinates."""
    scores = _first(_canonical(case.seed), case.settings.bits).cosine(data.x, data.y)

    def graded(queries: Rows) -> tuple[float, float]:
        labels, rows = (data.labels[queries], data.labels[data.train]), np.ix_(queries, data.train)
        return score_map(scores[rows], *labels), score_map(scores.T[rows], *labels)

    return graded


def _codes(case: Case, data: Pairs) -> Graded:
    """Distances of codes."""
    x, y = (pack(codes) for codes in _bits(case, data))

    def graded(queries: Rows) -> tuple[float, float]:
        labels = data.labels[queries], data.labels[data.train]
        one, other = (
            hamming_map(q[queries], base[data.train], *labels) for q, base in ((x, y), (y, x))
        )
        return one, other

    return graded


def _first(found: Projections, k: int) -> Projections:
    return Projections(found.x[:, :k], found.y[:, :k])


def _bits(case: Case, data: Pairs) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of all samples in both views."""
    k = case.settings.bits
    rng = np.random.default_rng((case.seed, k))
    x, y = data.x[data.train], data.y[data.train]
    if case.method == "random":
        first, second = random_codes(2 * len(data.x), k, rng).reshape(2, -1, k)
        return first, second
    if case.method in ("pca", "cca_signs"):
        pca = case.method == "pca"
        found = principal_components(x, y, k) if pca else _first(_canonical(case.seed), k)
        return found.signs(data.x, "x"), found.signs(data.y, "y")
    if case.control == "placebo":
        y = y[rng.permutation(len(y))]
    torch.manual_seed(case.seed)
    model = CMIMH(x.shape[1], y.shape[1], bits=k, gap=case.settings.gap)
    training = HashTraining(steps=case.settings.steps, seed=case.seed)
    fit(model, torch.from_numpy(x).float(), torch.from_numpy(y).float(), training)
    every = (torch.from_numpy(view).float() for view in (data.x, data.y))
    first, second = (model.codes(m, view).numpy() for m, view in zip("xy", every, strict=True))
    return first, second


TASK = Task(
    settings=HashingSettings,
    rows={"random": (), "pca": (), "cca_signs": (), "cca": (), "cmimh": ("placebo",)},
    run=run,
    fetch=fetch,
    prepare=lambda case: pairs(case.seed),
    shown=Shown(
        measures=(
            Measure("x_to_y", "fac → fou", "mAP fac → fou, %"),
            Measure("y_to_x", "fou → fac", "mAP fou → fac, %"),
            SECONDS,
        ),
        caption="Mean average precision in percent",
        columns="Labels grade, nothing else; what is equally near is averaged over its orders. "
        "Seconds: of the training.",
        unit="Percentage points",
        meaning={"placebo": "the training pairs are shuffled"},
    ),
)
