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


def mean_with_interval(differences: Array, confidence: float) -> tuple[float, float, float]:
    """Mean of independent per-sample differences with its normal interval; NaN ends for one."""
    from scipy.special import ndtri

    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, math.nan, math.nan
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    reach = float(ndtri(0.5 * (1.0 + confidence))) * error
    return mean, mean - reach, mean + reach
