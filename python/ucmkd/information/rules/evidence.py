"""What a rule is given about one teacher and the student, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"
Codes: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class Settings:
    """What all rules are told.

    Attributes:
        method: Estimator of mutual information, for the rules that need one.
        dims: Dimensions that both sides are reduced to.
        confidence: Of intervals, in (0, 1).
        subsamples: Subsets behind an interval; 0: no intervals.
        seed: Of everything random.
        weight: λ of the distillation that is considered, relative to cross-entropy.
    """

    method: str = "auto"
    dims: int = 5
    confidence: float = 0.95
    subsamples: int = 30
    seed: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Evidence:
    """The samples behind one candidate; row i of teacher and student is one sample.

    Attributes:
        teacher: ``(n, d_T)`` standardised representations H_T.
        student: ``(n, d_S)`` standardised representations H_S.
        labels: ``(n,)`` classes ``0 … C-1``, -1 where the label is not known.
        classes: C.
        own: Labelled samples ``(m, d_T)``, ``(m,)`` of the teacher alone, or None.
        outputs: The teacher's class probabilities ``(n, C)``, by a model that has not been
            trained on these rows, or None: a probe is fitted.
        by_class: Whether rows were only paired by class.
        memory: What is the same for all candidates may be kept here.
    """

    teacher: Array
    student: Array
    labels: Codes
    classes: int
    own: tuple[Array, Codes] | None = None
    outputs: Array | None = None
    by_class: bool = False
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def row_weight(self) -> Array:
        """Weights ``(n_l,)`` of the labelled rows, mean 1.

        Labels are often asked for by class, ten of each, while accuracy counts classes as they
        come. How they come is seen in the teacher's own samples; without any, rows count alike.
        """
        labels = self.labels[self.labelled]
        if self.own is None:
            return np.ones(len(labels))
        wanted = np.bincount(self.own[1], minlength=self.classes) + 0.5
        weight = wanted[labels] / np.bincount(labels, minlength=self.classes)[labels]
        return np.asarray(weight / weight.mean())

    @property
    def labelled(self) -> NDArray[np.intp]:
        """Rows with a label."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def unlabelled(self) -> NDArray[np.intp]:
        """Rows without."""
        return np.flatnonzero(self.labels < 0)


@dataclass(frozen=True)
class Finding:
    """What a rule says about one teacher.

    Attributes:
        margin: Above zero: distillation helps, says the rule; larger is better.
        low: Lower end of the margin's interval, NaN without one.
        high: Upper end.
        teacher: The teacher's side of the margin, NaN where there are no sides.
        student: The student's side.
        decides: Whether zero means anything; else the margin only ranks.
        warnings: What a reader must know.
    """

    margin: float
    low: float = math.nan
    high: float = math.nan
    teacher: float = math.nan
    student: float = math.nan
    decides: bool = True
    warnings: tuple[str, ...] = ()


def with_half_the_labels(rows: NDArray[np.intp], labels: Codes) -> NDArray[np.intp]:
    """A subset of half the rows, changed so that it has half of the labelled ones.

    A handful of labels among many rows would leave some subsets with hardly any.

    Args:
        rows: ``(m,)`` drawn by chance, sorted.
        labels: ``(n,)``, -1 for unknown.
    """
    drawn = np.zeros(len(labels), dtype=bool)
    drawn[rows] = True
    kept = []
    for part in (np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)):
        order = np.concatenate([part[drawn[part]], part[~drawn[part]]])
        kept.append(order[: -(-len(part) // 2)])
    return np.sort(np.concatenate(kept))


def mean_with_interval(
    values: Array, confidence: float, weight: Array | None = None
) -> tuple[float, float, float]:
    """Weighted mean of independent per-sample values and its normal interval; NaN ends for one.

    The standard error is ``√(Σ w²(v - v̄)²) / Σ w``, times ``√(n/(n-1))``.
    """
    from scipy.special import ndtri

    n = len(values)
    weight = np.ones(n) if weight is None else weight
    mean = float((weight * values).sum() / weight.sum())
    if n < 2:
        return mean, math.nan, math.nan
    square = float(np.square(weight * (values - mean)).sum()) * n / (n - 1)
    reach = float(ndtri(0.5 * (1.0 + confidence))) * math.sqrt(square) / float(weight.sum())
    return mean, mean - reach, mean + reach
