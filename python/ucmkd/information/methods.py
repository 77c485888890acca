"""The estimators by name: which sides they take and how they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ucmkd.information.copula import fit_student
from ucmkd.information.discrete import discrete
from ucmkd.information.extrapolation import ksg_line
from ucmkd.information.gaussian import gaussian
from ucmkd.information.ksg import ksg1, ksg2
from ucmkd.information.mixed import every_class_once, gao, ross
from ucmkd.information.reduction import drop_copies
from ucmkd.information.variables import Array, Variable, drop_constant, one_hot

#: Distance between classes as seen by :func:`gao`: farther than any standardised feature.
APART = 1e6


@dataclass(frozen=True)
class Settings:
    """What the quick estimators can be told.

    Attributes:
        k: Neighbours.
        shrinkage: Of ``gaussian``; see :func:`ucmkd.information.gaussian.gaussian`.
        seed: Of everything random.
    """

    k: int = 3
    shrinkage: float | str = "auto"
    seed: int = 0


Quick = Callable[[Variable, Variable, Settings], float]


def columns(side: Variable, scale: float = 1.0) -> Array:
    """Columns ``(n, d)`` of either kind: classes as indicators, ``scale`` high."""
    return scale * one_hot(side.codes) if side.discrete else side.values


def _still(*sides: Variable) -> bool:
    """Whether one side has a single distinct row, as a subset without the rare class has."""
    return any(bool((side.values == side.values[0]).all()) for side in sides)


def _gaussian(x: Variable, y: Variable, settings: Settings) -> float:
    if _still(x, y):
        return 0.0
    a, b = columns(x), columns(y)
    return gaussian(a, b, shrinkage=settings.shrinkage, seed=settings.seed)


def _ksg1(x: Variable, y: Variable, settings: Settings) -> float:
    return ksg1(x.values, y.values, k=settings.k)


def _ksg2(x: Variable, y: Variable, settings: Settings) -> float:
    return ksg2(x.values, y.values, k=settings.k)


def _ksg0(x: Variable, y: Variable, settings: Settings) -> float:
    return ksg_line(x.values, y.values, k=settings.k)


def _ross(x: Variable, y: Variable, settings: Settings) -> float:
    if x.discrete:
        x, y = y, x
    if every_class_once(y.codes):
        return 0.0  # a subset: of all samples the estimator has made sure
    return ross(x.values, y.codes, k=settings.k)


def _mixed(x: Variable, y: Variable, settings: Settings) -> float:
    if _still(x, y):
        return 0.0
    return gao(columns(x, APART), columns(y, APART), k=settings.k)


def _discrete(x: Variable, y: Variable, settings: Settings) -> float:
    return discrete(x.codes, y.codes)


def _student(x: Variable, y: Variable, settings: Settings) -> float:
    a, b = (_ordered_apart(side) for side in (x, y))
    return fit_student(a.values, b.values).information if a.width and b.width else 0.0


def _ordered_apart(side: Variable) -> Variable:
    """Columns that vary and do so differently in this subset, as they do in all samples."""
    return drop_copies(drop_constant(side, "")[0], "")[0]


#: Estimators that are quick enough to be repeated on every subsample.
QUICK: dict[str, Quick] = {
    "gaussian": _gaussian,
    "student": _student,
    "ksg": _ksg1,
    "ksg1": _ksg1,
    "ksg2": _ksg2,
    "ksg0": _ksg0,
    "ross": _ross,
    "mixed": _mixed,
    "discrete": _discrete,
}
#: Every name that ``method`` may have.
METHODS = (
    "auto", "knn", *QUICK, "canonical", "classifier", "latent", "mine", "nwj", "infonce", "smile",
)  # fmt: skip
#: How many discrete sides a method takes; those not named take any.
DISCRETE_SIDES = {
    "ksg": 0,
    "ksg1": 0,
    "ksg2": 0,
    "ksg0": 0,
    "canonical": 0,
    "student": 0,
    "ross": 1,
    "classifier": 1,
    "discrete": 2,
}
#: Methods that train networks.
NEURAL = ("latent", "mine", "nwj", "infonce", "smile")
#: Kraskov's estimators.
KRASKOV = ("ksg", "ksg1", "ksg2", "ksg0")
#: Methods that may fit a copula to the samples.
COPULAS = ("auto", "student")
#: Methods that look for k neighbours.
NEIGHBOURS = (*KRASKOV, "ross", "mixed")


def check_sides(method: str, x: Variable, y: Variable) -> None:
    """That ``method`` can take these kinds of variables.

    Raises:
        ValueError: It cannot; the message names one that can.
    """
    wanted, given = DISCRETE_SIDES.get(method), int(x.discrete) + int(y.discrete)
    if wanted is None or wanted == given:
        return
    needs = ("two continuous sides", "one continuous and one discrete side", "two discrete sides")
    fits = ("ksg", "ross", "discrete")[given]
    raise ValueError(f"method {method!r} needs {needs[wanted]}, got {needs[given]}: use {fits!r}")


def check_classes(method: str, x: Variable, y: Variable) -> None:
    """That nearest neighbours within a class have a class to be sought in.

    Raises:
        ValueError: Every class has a single sample.
    """
    if method not in ("ross", "latent"):
        return
    for side, name in ((x, "x"), (y, "y")):
        if side.discrete and every_class_once(side.codes):
            raise ValueError(
                f"{name} must have a class with at least 2 samples, got every class once"
            )


def knn_method(x: Variable, y: Variable) -> str:
    """The nearest-neighbour estimator for these kinds: ksg, ross, or discrete's plug-in."""
    return ("ksg", "ross", "discrete")[int(x.discrete) + int(y.discrete)]
