"""Tasks with a known mutual information, to judge estimators by: :data:`TASKS`.

Our own generators of the kinds that Czyż, Grabowski, Vogt, Beerenwinkel and Marx 2023, "Beyond
Normal: On the Evaluation of Mutual Information Estimators" (arXiv 2306.11078), proposed: normal
and Student pairs, uniform noise, invertible maps of them, and beside those labels and mixtures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucmkd.information import tasks_discrete as mixed
from ucmkd.information import tasks_families as family
from ucmkd.information import tasks_maps as maps
from ucmkd.information.copula import student_term
from ucmkd.information.tasks_families import Pair
from ucmkd.information.variables import Array

Sample = tuple[NDArray[Any], NDArray[Any]]
Draw = Callable[[int, np.random.Generator], Sample]
Map = Callable[[Array], Array]


@dataclass(frozen=True)
class Task:
    """A joint distribution with its mutual information.

    Attributes:
        name: Kind, dimensions and parameters.
        truth: I(X; Y) in nats.
        x_width: Dimensions of x; 0 where it is a class.
        y_width: Dimensions of y; 0 where it is a class.
        draw: From n and a generator to ``(n, d_x)`` and ``(n, d_y)``, classes as ``(n,)``.
    """

    name: str
    truth: float
    x_width: int
    y_width: int
    draw: Draw

    def sample(self, samples: int, *, seed: int) -> Sample:
        """``samples`` pairs; the same ones for the same seed."""
        return self.draw(samples, np.random.default_rng([seed, *self.name.encode()]))


def _identity(values: Array) -> Array:
    return values


def _normal(
    name: str, covariance: Array, width: int, x_map: Map = _identity, y_map: Map = _identity,
    x_width: int | None = None,
) -> Task:  # fmt: skip
    def draw(samples: int, rng: np.random.Generator) -> Pair:
        x, y = family.draw_normal(covariance, width, samples, rng)
        return x_map(x), y_map(y)

    truth = family.normal_information(covariance, width)
    return Task(name, truth, x_width or width, len(covariance) - width, draw)


def _student(name: str, covariance: Array, width: int, dof: float, both: Map = _identity) -> Task:
    def draw(samples: int, rng: np.random.Generator) -> Pair:
        x, y = family.draw_student(covariance, width, dof, samples, rng)
        return both(x), both(y)

    other = len(covariance) - width
    truth = family.normal_information(covariance, width) + student_term(dof, width, other)
    return Task(name, truth, width, other, draw)


def _additive(noise: float) -> Task:
    def draw(samples: int, rng: np.random.Generator) -> Pair:
        return family.draw_additive(noise, samples, rng)

    return Task(f"1v1-additive-{noise:g}", family.additive_information(noise), 1, 1, draw)


def _labels(name: str, means: list[float], share: list[float], width: int) -> Task:
    m, p = np.asarray(means), np.asarray(share)

    def draw(samples: int, rng: np.random.Generator) -> Sample:
        return mixed.draw_mixture(m, p, width, samples, rng)

    return Task(name, mixed.mixture_information(m, p), width, 0, draw)


def _channel(classes: int, error: float) -> Task:
    def draw(samples: int, rng: np.random.Generator) -> Sample:
        return mixed.draw_channel(classes, error, samples, rng)

    truth = mixed.channel_information(classes, error)
    return Task(f"channel-{classes}-{error:g}", truth, 0, 0, draw)


def _erased(keep: float, correlation: float) -> Task:
    def draw(samples: int, rng: np.random.Generator) -> Pair:
        return mixed.draw_erased(keep, correlation, samples, rng)

    truth = mixed.erased_information(keep, correlation)
    return Task(f"1v1-erased-{keep:g}-{correlation:g}", truth, 1, 1, draw)


def _spiral(width: int) -> Task:
    def turn_x(values: Array) -> Array:
        return maps.spiral(values, speed=1.0 / 3.0, plane=(0, 1))

    def turn_y(values: Array) -> Array:
        return maps.spiral(values, speed=1.0 / 3.0, plane=(1, 2))

    covariance = family.sparse_covariance(width, width, 2, 2.0)
    return _normal(f"spiral-sparse-{width}-{width}-2-2.0", covariance, width, turn_x, turn_y)


def _all() -> list[Task]:
    pair = family.dense_covariance(1, 1, 0.75)
    tasks = [
        _normal("1v1-normal-0.75", pair, 1),
        _normal("1v1-independent", family.dense_covariance(1, 1, 0.0), 1),
        _normal("1v1-bimodal-0.75", pair, 1, maps.bimodal, maps.bimodal),
        _normal("1v1-cube-0.75", pair, 1, _identity, maps.cube),
        _normal("1v1-half-cube-0.75", pair, 1, maps.half_cube, maps.half_cube),
        _normal("1v1-wiggly-0.75", pair, 1, maps.wiggly, maps.wiggly),
        _normal("swiss-roll-2-1-0.75", pair, 1, maps.swiss_roll, _identity, x_width=2),
        _additive(0.1),
        _additive(0.75),
        _student("1v1-student-1", family.dense_covariance(1, 1, 0.0), 1, 1.0),
        _student("1v1-asinh-student-1", family.dense_covariance(1, 1, 0.0), 1, 1.0, np.arcsinh),
    ]
    for width in (2, 3, 5, 25):
        covariance = family.dense_covariance(width, width, 0.5)
        tasks.append(_normal(f"multinormal-dense-{width}-{width}-0.5", covariance, width))
        covariance = family.sparse_covariance(width, width, 2, 2.0)
        tasks.append(_normal(f"multinormal-sparse-{width}-{width}-2-2.0", covariance, width))
    for width, dof in ((2, 1.0), (2, 2.0), (3, 2.0), (3, 3.0), (5, 2.0), (5, 3.0)):
        covariance = family.dense_covariance(width, width, 0.0)
        tasks.append(_student(f"student-identity-{width}-{width}-{dof:g}", covariance, width, dof))
    for width, dof in ((2, 1.0), (3, 2.0), (5, 2.0)):
        covariance = family.dense_covariance(width, width, 0.0)
        name = f"asinh-student-{width}-{width}-{dof:g}"
        tasks.append(_student(name, covariance, width, dof, np.arcsinh))
    for width in (2, 5):
        covariance = family.sparse_covariance(width, width, 2, 2.0)
        tasks.append(_student(f"student-sparse-{width}-{width}-3", covariance, width, 3.0))
        name = f"cube-sparse-{width}-{width}-2-2.0"
        tasks.append(_normal(name, covariance, width, _identity, maps.cube))
    tasks += [_spiral(3), _spiral(5)]
    covariance = family.sparse_covariance(25, 25, 2, 2.0)
    name = "half-cube-sparse-25-25-2-2.0"
    tasks.append(_normal(name, covariance, 25, maps.half_cube, maps.half_cube))
    tasks += [
        _labels("labels-1-2", [-1.0, 1.0], [0.5, 0.5], 1),
        _labels("labels-2-4", [-3.0, -1.0, 1.0, 3.0], [0.4, 0.3, 0.2, 0.1], 2),
        _labels("labels-5-3", [-2.5, 0.0, 2.5], [0.4, 0.3, 0.3], 5),
        _channel(4, 0.3),
        _erased(0.6, 0.8),
    ]
    return tasks


#: Every task by its name.
TASKS: dict[str, Task] = {task.name: task for task in _all()}
