"""The tasks' truths against other ways to get them; what ``auto`` makes of the tasks; the table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from benches import information as bench
from benches.information_table import tolerance
from scipy import stats

from ucmkd.information import Training, mutual_information
from ucmkd.information import tasks_maps as maps
from ucmkd.information.copula import student_term
from ucmkd.information.tasks import TASKS
from ucmkd.information.tasks_discrete import channel_information, mixture_information
from ucmkd.information.tasks_families import (
    additive_information,
    draw_normal,
    sparse_covariance,
)


@pytest.mark.parametrize(
    ("name", "nats"),
    [
        ("1v1-normal-0.75", 0.41334),
        ("multinormal-dense-5-5-0.5", 0.59281),
        ("multinormal-sparse-5-5-2-2.0", 1.02165),
        ("multinormal-sparse-25-25-2-2.0", 1.0217),
        ("1v1-independent", 0.0),
        # ε - log 2ε = .1 - log .2, and 1/(4ε) = 1/3
        ("1v1-additive-0.1", 1.70944),
        ("1v1-additive-0.75", 1 / 3),
        # log 4 + .7 log .7 + .3 log .1
        ("channel-4-0.3", 0.445846),
    ],
)
def test_truths(name: str, nats: float) -> None:
    assert TASKS[name].truth == pytest.approx(nats, abs=6e-5)


@pytest.mark.parametrize(("dof", "a", "b"), [(2.0, 1, 1), (3.0, 2, 3)])
def test_student_term_is_the_mean_log_ratio(dof: float, a: int, b: int) -> None:
    rng = np.random.default_rng(0)
    z = stats.multivariate_t(shape=np.eye(a + b), df=dof).rvs(40_000, random_state=rng)
    joint, first, second = (
        stats.multivariate_t(shape=np.eye(part.shape[1]), df=dof).logpdf(part)
        for part in (z, z[:, :a], z[:, a:])
    )
    ratio = joint - first - second
    error = ratio.std() / math.sqrt(len(ratio))
    assert student_term(dof, a, b) == pytest.approx(ratio.mean(), abs=3.5 * error)


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.75])
def test_additive_by_quadrature(noise: float) -> None:
    grid = np.linspace(-noise, 1.0 + noise, 200_001)
    inside = np.minimum(1.0, grid + noise) - np.maximum(0.0, grid - noise)
    density = np.maximum(inside, 0.0) / (2.0 * noise)
    entropy = -np.sum(density * np.log(np.maximum(density, 1e-300))) * (grid[1] - grid[0])
    assert additive_information(noise) == pytest.approx(entropy - math.log(2 * noise), abs=1e-4)


def test_mixture_against_samples() -> None:
    means, share = np.array([-1.0, 2.0]), np.array([0.3, 0.7])
    rng = np.random.default_rng(0)
    label = rng.choice(2, size=200_000, p=share)
    x = rng.standard_normal(200_000) + means[label]
    density = np.exp(-0.5 * (x[:, None] - means) ** 2) * share
    posterior = density / density.sum(axis=1, keepdims=True)
    ratio = np.log(posterior[np.arange(len(x)), label] / share[label])
    expected = pytest.approx(ratio.mean(), abs=3.5 * ratio.std() / math.sqrt(len(x)))
    assert mixture_information(means, share) == expected
    assert channel_information(2, 0.5) == pytest.approx(0.0, abs=1e-12)


def test_maps_are_invertible() -> None:
    x = np.random.default_rng(0).standard_normal((300, 3))
    turned = maps.spiral(x, speed=1 / 3, plane=(1, 2))
    assert np.linalg.norm(turned, axis=1) == pytest.approx(np.linalg.norm(x, axis=1))
    assert not np.allclose(turned, x)
    assert maps.spiral(turned, speed=-1 / 3, plane=(1, 2)) == pytest.approx(x)
    roll = maps.swiss_roll(x[:, :1]) * 21.0
    t = np.hypot(roll[:, 0], roll[:, 1])
    assert stats.norm.ppf((t / (1.5 * math.pi) - 1.0) / 2.0) == pytest.approx(x[:, 0], abs=1e-6)
    line = np.linspace(-4.0, 4.0, 2000)
    for both in (maps.cube, maps.half_cube, maps.wiggly, maps.bimodal):
        assert (np.diff(both(line)) > 0.0).all()
    far = maps.bimodal(x.reshape(-1))
    assert far.std() == pytest.approx(math.sqrt(4.25), rel=0.06)


def test_samples_have_their_shapes_and_repeat() -> None:
    for task in TASKS.values():
        x, y = task.sample(40, seed=3)
        again = task.sample(40, seed=3)
        assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])
        assert not np.array_equal(y, task.sample(40, seed=4)[1])
        for side, width in ((x, task.x_width), (y, task.y_width)):
            assert side.shape == ((40, width) if width else (40,))
            assert (side.dtype.kind == "f") == bool(width)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("1v1-cube-0.75", "gaussian"),
        ("1v1-student-1", "student"),
        ("1v1-additive-0.75", "ksg0"),
        ("1v1-additive-0.1", "ksg0"),
        ("swiss-roll-2-1-0.75", "ksg"),
        ("spiral-sparse-3-3-2-2.0", "canonical"),
        ("multinormal-sparse-25-25-2-2.0", "gaussian"),
        ("labels-5-3", "ross"),
        ("channel-4-0.3", "discrete"),
        ("1v1-erased-0.6-0.8", "mixed"),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_auto_chooses_and_comes_close(name: str, method: str) -> None:
    task = TASKS[name]
    out = mutual_information(*task.sample(2000, seed=31), subsamples=10)
    assert out.method == method, out.reason
    assert out.value == pytest.approx(task.truth, abs=tolerance(name))
    assert out.reason and out.samples == 2000 and out.seconds > 0.0


@pytest.mark.usefixtures("one_thread")
def test_auto_in_many_dimensions_that_are_not_normal() -> None:
    rng = np.random.default_rng(0)
    x, y = draw_normal(sparse_covariance(12, 12, 4, 3.0), 12, 1000, rng)
    # Even functions: no correlation is left.
    y = np.concatenate([np.abs(y[:, :4]), y[:, 4:]], axis=1)
    out = mutual_information(x, y, training=Training(width=16, steps=20), subsamples=10)
    assert out.method == "infonce" and "products of coordinates" in out.reason
    label = (np.abs(x[:, 0]) > 0.7).astype(int)
    assert mutual_information(x, label, subsamples=10).method == "classifier"


def test_table_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tasks = ["channel-4-0.3", "1v1-normal-0.75"]
    run = ["--samples", "200", "--tasks", *tasks, "--out", str(tmp_path)]
    bench.main([*run, "--methods", "discrete"])
    before = (tmp_path / "table.csv").read_text()
    bench.main([*run, "--methods", "discrete", "gaussian"])
    after = (tmp_path / "table.csv").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 3
    rows = bench.read(tmp_path / "table.csv")
    assert [row["method"] for row in rows] == ["discrete", "gaussian"]
    page = (tmp_path / "table.md").read_text()
    assert "| channel-4-0.3 | 0.446 |" in page and "## Not run (seed 1)" in page
    assert "`latent`, n = 10,000: all tasks" in page
