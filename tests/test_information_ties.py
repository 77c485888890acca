"""Values that come from a grid: rounded, of 8 bits, one-hot."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ucmkd.information import Training, complementarity, mutual_information

RNG = np.random.default_rng(0)
N = 1000
QUICK = Training(steps=50)


def test_features_of_eight_bits_beside_a_label() -> None:
    label = RNG.integers(0, 3, N)
    pixel = np.round(np.clip(128 + 20 * RNG.standard_normal(N) + 15 * label, 0, 255))
    table = mutual_information(pixel.astype(int), label, method="discrete").value
    for method in ("auto", "ross"):
        out = mutual_information(pixel, label, method=method, subsamples=0)
        assert out.method == "ross"
        assert out.value == pytest.approx(table, abs=0.06)


@pytest.mark.parametrize("decimals", [2, 1])
@pytest.mark.parametrize("width", [1, 2, 9])
def test_rounded_features_say_nothing_of_an_independent_label(decimals: int, width: int) -> None:
    x = np.round(RNG.standard_normal((N, width)), decimals)
    out = mutual_information(x, RNG.integers(0, 2, N), method="ross", subsamples=0)
    assert out.value < 0.05


def test_verdict_of_a_rounded_student() -> None:
    student = RNG.standard_normal((N, 1))
    label = (student[:, 0] + RNG.standard_normal(N) > 0).astype(int)
    teacher = student + 0.5 * RNG.standard_normal((N, 1))
    plain = complementarity({"t": teacher}, student, label).best
    rounded = complementarity({"t": teacher}, np.round(student, 1), label).best
    assert plain.verdict == rounded.verdict == "helps"
    assert rounded.student == pytest.approx(plain.student, abs=0.06)


@pytest.mark.parametrize("step", [0.05, 0.01])
def test_rounding_does_not_hide_a_copula(step: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * N, 1))
    y = 0.8 * x + 0.6 * rng.standard_normal((2 * N, 1))
    out = mutual_information(step * np.round(x / step), step * np.round(y / step))
    assert out.method == "gaussian"
    assert out.value == pytest.approx(-0.5 * math.log(0.36), abs=0.1)
    assert out.high < 0.65


def test_latents_of_classes_given_as_columns() -> None:
    first, second = RNG.integers(0, 4, (2, 400))
    x, y = np.eye(4)[first], np.eye(4)[second]

    def latent(a: np.ndarray, b: np.ndarray) -> float:
        return mutual_information(a, b, method="latent", training=QUICK, subsamples=0).value

    assert latent(x, y) < 0.15
    assert latent(x, second) < 0.15
    assert latent(x, x) == pytest.approx(math.log(4), abs=0.15)
    assert latent(x, first) == pytest.approx(math.log(4), abs=0.15)
