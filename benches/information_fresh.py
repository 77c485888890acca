"""``auto`` on tasks that no rule was made on: ``python -m benches.information_fresh``.

Distributions whose mutual information is known, with other maps, dimensions and parameters than
those of :data:`ucmkd.information.tasks.TASKS`: twists of other speeds in other planes, shears and
bends that are no twist, rings, signs, bounded noise. Beside ``auto`` the two estimators that it
replaced or might: KSG of the normal scores, and nonlinear canonical functions everywhere.
Writes ``benches/results/information/fresh.md``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ucmkd.information import Estimator, MIEstimate
from ucmkd.information import tasks_families as family
from ucmkd.information import tasks_maps as maps
from ucmkd.information.tasks import Draw, Map, Task
from ucmkd.information.tasks_families import Pair
from ucmkd.information.variables import Array

RESULTS = Path(__file__).parent / "results" / "information" / "fresh.md"
METHODS = {
    "auto": Estimator("auto"),
    "ksg": Estimator("ksg", margins="normal", subsamples=0),
    "canonical": Estimator("canonical", subsamples=0),
}


def normal(name: str, x_width: int, strength: float, x_map: Map, y_map: Map) -> Task:
    """Two pairs of correlated normal coordinates among independent ones, each side mapped."""
    covariance = family.sparse_covariance(x_width, x_width, 2, strength)

    def draw(samples: int, rng: np.random.Generator) -> Pair:
        x, y = family.draw_normal(covariance, x_width, samples, rng)
        return x_map(x), y_map(y)

    truth = family.normal_information(covariance, x_width)
    return Task(name, truth, x_width, x_width, draw)


def twist(speed: float, first: int, second: int) -> Map:
    """The spiral of the tasks in another plane at another speed."""
    return lambda values: maps.spiral(values, speed=speed, plane=(first, second))


def shear(values: Array) -> Array:
    """Every coordinate moved by a wave of the next: invertible, and no twist."""
    bent = values.copy()
    for i in range(values.shape[1] - 1):
        bent[:, i] += 1.2 * np.sin(1.5 * values[:, i + 1])
    return bent


def mixed_cubes(values: Array) -> Array:
    """Cubes, turned by a fixed rotation: heavy tails along no coordinate."""
    width = values.shape[1]
    turn = np.linalg.qr(np.random.default_rng(width).standard_normal((width, width)))[0]
    return np.asarray(maps.half_cube(values) @ turn)


def ring(samples: int, rng: np.random.Generator) -> Pair:
    """Two angles that differ by uniform noise in ±0.5, as points on noisy rings."""
    angle = rng.uniform(0.0, 2.0 * math.pi, samples)
    other = angle + rng.uniform(-0.5, 0.5, samples)
    sides = []
    for phi in (angle, other):
        radius = 1.0 + 0.1 * rng.standard_normal(samples)
        sides.append(np.stack([radius * np.cos(phi), radius * np.sin(phi)], axis=1))
    return sides[0], sides[1]


def signs(samples: int, rng: np.random.Generator) -> Pair:
    """``exp`` of one of two correlated normals with a random sign, beside noise, and the other."""
    x, y = family.draw_normal(family.dense_covariance(1, 1, 0.8), 1, samples, rng)
    sign = rng.choice([-1.0, 1.0], (samples, 1))
    return np.concatenate([sign * np.exp(0.7 * x), rng.standard_normal((samples, 1))], axis=1), y


def bounded(noise: float, width: int) -> Task:
    """Independent coordinates of uniform numbers and their sums with bounded noise."""

    def draw(samples: int, rng: np.random.Generator) -> Pair:
        pairs = [family.draw_additive(noise, samples, rng) for _ in range(width)]
        return np.concatenate([p[0] for p in pairs], 1), np.concatenate([p[1] for p in pairs], 1)

    truth = width * family.additive_information(noise)
    return Task(f"bounded-{width}-{width}-{noise:g}", truth, width, width, draw)


def rolls(samples: int, rng: np.random.Generator) -> Pair:
    """Both of two correlated normals rolled up in a plane of their own."""
    x, y = family.draw_normal(family.dense_covariance(1, 1, 0.85), 1, samples, rng)
    return maps.swiss_roll(x), maps.swiss_roll(y)


def made(name: str, truth: float, x_width: int, y_width: int, draw: Draw) -> Task:
    return Task(name, truth, x_width, y_width, draw)


def tasks() -> Iterator[Task]:
    """Every fresh task."""
    yield normal("twist-2-2, slow", 2, 2.0, twist(0.15, 0, 1), twist(-0.2, 0, 1))
    yield normal("twist-3-3, other planes", 3, 1.5, twist(0.25, 0, 2), twist(0.4, 0, 1))
    yield normal("twist-3-3, fast", 3, 2.0, twist(0.6, 0, 1), twist(0.6, 1, 2))
    yield normal("twist-4-4", 4, 1.5, twist(-0.25, 0, 3), twist(0.3, 0, 1))
    yield normal("twist-5-5, weak", 5, 1.0, twist(0.25, 0, 1), twist(0.25, 1, 2))
    yield normal("shear-2-2", 2, 2.0, shear, shear)
    yield normal("shear-3-3", 3, 1.5, shear, shear)
    yield normal("shear-5-5", 5, 1.5, shear, shear)
    yield normal("mixed-cubes-3-3", 3, 1.5, mixed_cubes, mixed_cubes)
    yield made("rolls-2-2", -0.5 * math.log(1.0 - 0.85**2), 2, 2, rolls)
    yield made("ring-2-2", math.log(2.0 * math.pi), 2, 2, ring)
    yield made("signs-2-1", -0.5 * math.log(1.0 - 0.8**2), 2, 1, signs)
    for noise, width in ((0.05, 1), (0.2, 1), (1.5, 1), (0.3, 2)):
        yield bounded(noise, width)


def aim(task: Task) -> float:
    """Nats of error that the dimensions allow, as for the tasks of the table."""
    return 0.05 if max(task.x_width, task.y_width) <= 2 else 0.10


def run(samples: int, seeds: list[int]) -> str:
    """The page: every task, each method's mean value and error."""
    lines = [
        "| task | truth | auto chose | auto | interval covers | within | KSG | canonical | aim |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    near = covered = count = 0
    for task in tasks():
        found: dict[str, list[MIEstimate]] = {name: [] for name in METHODS}
        for seed in seeds:
            x, y = task.sample(samples, seed=seed)
            for name, estimator in METHODS.items():
                if name == "canonical" and task.x_width + task.y_width == 2:
                    continue
                found[name].append(estimator.with_options(seed=seed)(x, y))
            print(f"\r\x1b[K{task.name}  seed {seed}", end="", file=sys.stderr, flush=True)
        auto = found["auto"]
        within = sum(abs(e.value - task.truth) <= aim(task) for e in auto)
        covers = sum(e.covers(task.truth) for e in auto)
        near, covered, count = near + within, covered + covers, count + len(auto)
        cells = [_mean(found[name], task.truth) for name in METHODS]
        chosen = "/".join(dict.fromkeys(e.method for e in auto))
        lines.append(
            f"| {task.name} | {task.truth:.3f} | {chosen} | {cells[0]} | {covers}/{len(auto)} | "
            f"{within}/{len(auto)} | {cells[1]} | {cells[2]} | {aim(task):g} |"
        )
    print(file=sys.stderr)
    return "\n\n".join(
        [
            "# Tasks that no rule was made on",
            f"Made by `python -m benches.information_fresh --seeds {' '.join(map(str, seeds))}`: "
            f"n = {samples:,}, nats; mean value and its error. `auto` is within the aim in {near} "
            f"of {count} estimates, its 95 % interval covers the truth in {covered}. KSG and "
            "canonical: the same samples by that estimator alone.",
            "\n".join(lines),
        ]
    )


def _mean(found: list[MIEstimate], truth: float) -> str:
    if not found:
        return "–"
    value = float(np.mean([e.value for e in found]))
    return f"{value:.3f} ({value - truth:+.3f})"


def main(words: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.information_fresh", description=__doc__
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    options.out.write_text(run(options.samples, options.seeds) + "\n")


if __name__ == "__main__":
    main()
