"""One configured estimator for every pair it is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ucmkd.information.canonical_estimate import LEAST, canonical
from ucmkd.information.choice import Choice, choose
from ucmkd.information.classifier import classifier_gains
from ucmkd.information.correction import ksg_shift, shifted
from ucmkd.information.estimate import MIEstimate
from ucmkd.information.gaussian import dimensions, shrinks
from ucmkd.information.held_out import HeldOut, from_terms
from ucmkd.information.intervals import (
    Rows,
    Spread,
    neighbour_rate,
    subsample_interval,
    widened,
)
from ucmkd.information.latent import latent
from ucmkd.information.methods import (
    COPULAS,
    KRASKOV,
    METHODS,
    NEIGHBOURS,
    NEURAL,
    QUICK,
    Quick,
    Settings,
    check_classes,
    check_sides,
    columns,
    knn_method,
)
from ucmkd.information.notes import notes_on_data, notes_on_shrinking, notes_on_value
from ucmkd.information.reduction import drop_copies, fit_pca, normal_scores, standard_scores
from ucmkd.information.ties import has_atom, jitter, tied_share
from ucmkd.information.training import Training
from ucmkd.information.variables import Data, Variable, as_pair, drop_constant
from ucmkd.information.variational import variational
from ucmkd.theory.gaussian import checks

MARGINS = ("auto", "standard", "normal", "raw")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Estimator:
    """A method, a reduction of dimension and all options, fixed once; call it with (x, y).

    For the arguments see :func:`ucmkd.information.mutual_information`.

    Raises:
        TypeError: An option of the wrong kind; the message names it.
        ValueError: An option outside its range; the message names it.
    """

    method: str = "auto"
    reduce: int | None = None
    k: int = 3
    margins: str = "auto"
    shrinkage: float | str = "auto"
    folds: int = 5
    training: Training = field(default_factory=Training)
    confidence: float = 0.95
    subsamples: int = 30
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.reduce is not None:
            checks.count("reduce", self.reduce, 1, accepted="None or at least 1 dimension")
        checks.count("k", self.k, 1, accepted="at least 1 neighbour")
        checks.count("folds", self.folds, 2)
        checks.count("subsamples", self.subsamples, 0, accepted="0 or at least 2")
        if self.subsamples == 1:
            raise ValueError("subsamples must be 0 or at least 2, got 1")
        checks.count("seed", self.seed, 0)
        checks.confidence(self.confidence)
        if self.margins not in MARGINS:
            raise ValueError(f"margins must be one of {', '.join(MARGINS)}, got {self.margins!r}")
        if self.shrinkage != "auto" and not (
            isinstance(self.shrinkage, int | float | np.number)
            and not isinstance(self.shrinkage, bool)
            and 0.0 <= self.shrinkage <= 1.0
        ):
            raise ValueError(f"shrinkage must be 'auto' or in [0, 1], got {self.shrinkage!r}")
        if not isinstance(self.training, Training):
            raise TypeError(f"training must be a Training, got {type(self.training).__name__}")
        if self.progress is not None and not callable(self.progress):
            raise TypeError(
                f"progress must be None or callable, got {type(self.progress).__name__}"
            )

    def __call__(self, x: Data, y: Data) -> MIEstimate:
        """The mutual information of x and y; see :func:`ucmkd.information.mutual_information`."""
        start = time.perf_counter()
        first, second = as_pair(x, y)
        prepared = self.prepare(first, second)
        if isinstance(prepared, str):
            return MIEstimate(
                0.0, 0.0, 0.0, self.confidence, "constant", "nothing varies on one side",
                (prepared,), len(first), time.perf_counter() - start,
            )  # fmt: skip
        first, second, choice, notes = prepared
        value, spread, more = self.evaluate(first, second, choice)
        notes += more + notes_on_value(choice.method, value, spread, first, second, self.k)
        low, high = (max(0.0, end) if not math.isnan(end) else end for end in spread[:2])
        return MIEstimate(
            max(0.0, value), low, high, self.confidence, choice.method, choice.reason,
            notes, len(first), time.perf_counter() - start,
        )  # fmt: skip

    def prepare(
        self, x: Variable, y: Variable
    ) -> tuple[Variable, Variable, Choice, tuple[str, ...]] | str:
        """Constant columns out, dimensions reduced, margins scaled, the method chosen.

        Where a copula may be fitted, columns of one order too; linear methods read more of a
        column and its logarithm than of either, and have both.

        Returns:
            Both sides, the choice and what to warn of; or only the latter, where a side is
            constant.
        """
        notes: tuple[str, ...] = ()
        sides = []
        for side, name in ((x, "x"), (y, "y")):
            side, dropped = drop_constant(side, name)
            if not side.width:
                return f"{name} is constant: it carries no information"
            notes += dropped
            if self.reduce is not None and not side.discrete and side.width > self.reduce:
                reduction = fit_pca(side.values, self.reduce)
                notes += (
                    f"{name}: {side.width} dimensions reduced to {reduction.directions.shape[1]} "
                    f"principal ones with {reduction.explained:.0%} of the variance",
                )
                side = reduction(side)
            sides.append(side)
        if self.method in COPULAS and not any(side.discrete for side in sides):
            for number, name in enumerate(("x", "y")):
                sides[number], dropped = drop_copies(sides[number], name)
                notes += dropped
        notes += notes_on_data(*sides)
        choice = self._choice(*sides)
        check_classes(choice.method, *sides)
        self._check_count(choice.method, *sides)
        scaled = [self._scale(side, choice.method, i) for i, side in enumerate(sides)]
        return scaled[0], scaled[1], choice, notes

    def evaluate(
        self, x: Variable, y: Variable, choice: Choice
    ) -> tuple[float, Spread, tuple[str, ...]]:
        """The value and its interval, neither limited to 0, and warnings, of prepared sides."""
        settings = self.settings(x, y, choice.method)
        if choice.method == "canonical":
            return self._canonical(x, y, choice)
        if choice.method not in QUICK:
            found = self._train(x, y, choice.method)
            return (*self._held_out(found), found.warnings)
        quick = QUICK[choice.method]
        value = quick(x, y, settings)
        spread = self._interval(quick, x, y, settings, value, choice)
        shrunk = choice.method == "gaussian" and settings.shrinkage != 0.0
        notes = notes_on_shrinking(x, y) if shrunk else ()
        if choice.reference is not None and choice.method == "ksg":
            shift, noise = ksg_shift(choice.reference, len(x), k=self.k, seed=self.seed)
            return value + shift, shifted(spread, shift, noise), notes
        return value, widened(spread, value, choice.doubt), notes

    def settings(self, x: Variable, y: Variable, method: str) -> Settings:
        """The options of the quick estimators; whether to shrink is settled by all samples."""
        shrinkage = self.shrinkage
        if method == "gaussian" and not shrinks(columns(x), columns(y), shrinkage):
            shrinkage = 0.0
        return Settings(k=self.k, shrinkage=shrinkage, seed=self.seed)

    def _interval(
        self,
        quick: Quick,
        x: Variable,
        y: Variable,
        settings: Settings,
        value: float,
        choice: Choice,
    ) -> Spread:
        if not self.subsamples:
            return Spread(math.nan, math.nan, math.nan, math.nan)
        if math.isinf(value):
            return Spread(value, value, math.inf, 0.0)

        def estimate(rows: Rows) -> float:
            return quick(x.rows(rows), y.rows(rows), settings)

        return subsample_interval(
            estimate, value, len(x), subsamples=self.subsamples, confidence=self.confidence,
            seed=self.seed, progress=self.progress,
            rate=neighbour_rate(x.width + y.width) if choice.method in NEIGHBOURS else 0.5,
        )  # fmt: skip

    def _canonical(
        self, x: Variable, y: Variable, choice: Choice
    ) -> tuple[float, Spread, tuple[str, ...]]:
        """Functions learned from all samples; the interval is theirs, they stay as learned."""
        found = choice.canonical
        if found is None or len(found.functions.own[0]) != len(x):
            found = canonical(x.values, y.values, k=self.k, seed=self.seed)
        if not self.subsamples:
            return found.value, Spread(math.nan, math.nan, math.nan, math.nan), ()
        spread = subsample_interval(
            found.evaluate, found.own, len(x), subsamples=self.subsamples,
            confidence=self.confidence, seed=self.seed, progress=self.progress,
        )  # fmt: skip
        return found.value, found.around(spread), ()

    def _train(self, x: Variable, y: Variable, method: str) -> HeldOut:
        """The methods that fit a model on some samples and value it on others."""
        if method == "classifier":
            features, label = (y, x) if x.discrete else (x, y)
            terms = classifier_gains(features.values, label.codes, folds=self.folds, seed=self.seed)
            return from_terms(terms)
        if method == "latent":
            return latent(
                x, y, k=self.k, training=self.training, seed=self.seed, progress=self.progress
            )
        return variational(
            x, y, method=method, training=self.training, seed=self.seed, progress=self.progress
        )

    def _held_out(self, found: HeldOut) -> tuple[float, Spread]:
        """The interval of an estimate on held-out samples; the models stay as trained."""
        value = found.evaluate(np.arange(found.samples))
        if not self.subsamples:
            return value, Spread(math.nan, math.nan, math.nan, math.nan)
        return value, subsample_interval(
            found.evaluate, value, found.samples, subsamples=self.subsamples,
            confidence=self.confidence, seed=self.seed,
        )  # fmt: skip

    def _choice(self, x: Variable, y: Variable) -> Choice:
        if self.method == "auto":
            self._check_count("auto", x, y)
            sides = [self._scale(side, "auto", i) for i, side in enumerate((x, y))]
            return choose(*sides, k=self.k, folds=self.folds, seed=self.seed)
        method = knn_method(x, y) if self.method == "knn" else self.method
        check_sides(method, x, y)
        return Choice(
            method, "as asked" if method == self.method else "nearest neighbours, as asked"
        )

    def _scale(self, side: Variable, method: str, number: int) -> Variable:
        """Bring the margins into the form that the method wants."""
        if side.discrete:
            return side
        margins = self.margins
        if margins == "auto":
            wide = self.method == "auto" and method != "classifier"
            margins = "normal" if wide and not has_atom(side.values) else "standard"
        if margins == "normal":
            side = Variable(normal_scores(side.values), False)
        elif margins == "standard":
            side = Variable(standard_scores(side.values), False)
        if method in (*KRASKOV, "ross", "canonical") and tied_share(side.values) > 0.0:
            return jitter(side, self.seed + number)
        return side

    def _check_count(self, method: str, x: Variable, y: Variable) -> None:
        samples = len(x)
        searches = method in (*NEIGHBOURS, *NEURAL, "auto")
        # A network is trained on half of the samples, and neighbours are sought in the other.
        least = (4 if method in NEURAL else 1) * (self.k + 2) if searches else 4
        least = max(least, LEAST) if method == "canonical" else least
        how = f" with k={self.k}" if searches else ""
        if method == "student" or (method == "gaussian" and self.shrinkage == 0.0):
            dims = x.columns + y.columns
            if samples // 2 <= dims and method == "gaussian":
                dims = dimensions(columns(x)) + dimensions(columns(y))
            least = max(least, dims + 1)
            how = f" in {dims} dimensions" + (" without shrinkage" if method == "gaussian" else "")
        if samples < least:
            raise ValueError(
                f"x and y must hold at least {least} samples for {method!r}{how}, got {samples}"
            )
        if self.subsamples and samples // 2 < least:
            raise ValueError(
                f"x and y must hold at least {2 * least} samples for an interval by subsampling, "
                f"got {samples}; subsamples=0 leaves it out"
            )

    def with_options(self, **changes: object) -> Estimator:
        """The same estimator with some options changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
