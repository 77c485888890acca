"""The expectations over random inputs against closed forms, quadrature and literal draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from ucmkd.theory.gaussian.design import (
    design_factors,
    inverse_square_factor,
    ordinary_factor,
    share_moments,
)


def _literal(n: int, m: int, d: int, weight: float, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """k₁, k₂, a, e from inputs drawn as they are, with standard errors."""
    rng = np.random.default_rng(3)
    x, z = rng.standard_normal((draws, n, d)), rng.standard_normal((draws, m, d))
    first, second = x.transpose(0, 2, 1) @ x, z.transpose(0, 2, 1) @ z
    inverse = np.linalg.inv(first + weight * second)
    share = inverse @ first
    found = np.stack(
        [
            np.trace(share, axis1=1, axis2=2) / d,
            (share**2).sum(axis=(1, 2)) / d,
            np.trace(share @ inverse, axis1=1, axis2=2),
            weight**2 * np.trace(inverse @ second @ inverse, axis1=1, axis2=2),
        ],
        axis=1,
    )
    return found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(draws)


@pytest.mark.parametrize(
    ("n", "m", "d", "weight"),
    [(20, 30, 5, 0.3), (20, 30, 5, 4.0), (4, 30, 6, 0.5), (15, 2, 6, 0.7), (9, 9, 1, 0.2)],
)
def test_against_literal_draws(n: int, m: int, d: int, weight: float) -> None:
    mean, error = _literal(n, m, d, weight, 6000)
    assert np.abs((np.array(design_factors(n, m, d, weight)) - mean) / error).max() < 3.0


def test_one_dimension_by_quadrature() -> None:
    """There u is Beta(n/2, m/2) and 1/T² has the mean 1/(n + m - 2)."""
    n, m, weight = 6, 11, 0.3
    law = stats.beta(n / 2, m / 2)

    def mean(function: object) -> float:
        return integrate.quad(lambda u: function(u) * law.pdf(u), 0, 1)[0]  # type: ignore[operator]

    def mixed(u: float) -> float:
        return u + weight * (1 - u)

    expected = [
        mean(lambda u: u / mixed(u)),
        mean(lambda u: (u / mixed(u)) ** 2),
        mean(lambda u: u / mixed(u) ** 2) / (n + m - 2),
        mean(lambda u: weight**2 * (1 - u) / mixed(u) ** 2) / (n + m - 2),
    ]
    assert tuple(design_factors(n, m, 1, weight)) == pytest.approx(expected, rel=1e-3)


def test_equal_weights_are_exact() -> None:
    """At ω = 1: k₁ = n/N, a = (n/N) d/(N-d-1), e = (m/N) d/(N-d-1)."""
    n, m, d = 30, 70, 8
    share, _, label, pair = design_factors(n, m, d, 1.0)
    whole = ordinary_factor(n + m, d)
    assert (share, label, pair) == pytest.approx((0.3, 0.3 * whole, 0.7 * whole), rel=1e-9)


def test_ends_are_least_squares_on_one_part() -> None:
    n, m, d = 30, 70, 8
    assert design_factors(n, m, d, 0.0) == (1.0, 1.0, 8 / 21, 0.0)
    assert design_factors(n, m, d, math.inf) == (0.0, 0.0, 0.0, 8 / 61)
    near = design_factors(n, m, d, 1e-7)
    assert tuple(near) == pytest.approx((1.0, 1.0, 8 / 21, 0.0), abs=1e-5)
    far = design_factors(n, m, d, 1e7)
    assert tuple(far) == pytest.approx((0.0, 0.0, 0.0, 8 / 61), abs=1e-5)


def test_share_moments_in_one_dimension_are_those_of_a_beta() -> None:
    second = stats.beta(3.5, 6.0).moment(2)
    assert share_moments(7, 12, 1) == pytest.approx((second, second))


def test_share_moments_of_a_projection() -> None:
    """With n + m = d the Gram matrix is square: U is a projection of rank n."""
    assert share_moments(3, 4, 7) == pytest.approx((3.0, 9.0))


def test_inverse_square_in_one_dimension() -> None:
    """E 1/χ⁴ = 1/((n-2)(n-4))."""
    assert inverse_square_factor(11, 1) == pytest.approx(1 / (9 * 7))
    assert math.isinf(inverse_square_factor(4, 1))


def test_inverse_square_against_draws() -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 24, 4))
    inverse = np.linalg.inv(x.transpose(0, 2, 1) @ x)
    drawn = (inverse**2).sum(axis=(1, 2))
    error = drawn.std() / math.sqrt(len(drawn))
    assert abs(drawn.mean() - inverse_square_factor(24, 4)) < 3 * error


def test_same_numbers_every_time() -> None:
    first = design_factors(20, 30, 5, 0.37)
    design_factors.cache_clear()
    assert design_factors(20, 30, 5, 0.37) == first
