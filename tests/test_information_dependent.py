"""Columns of one side that determine each other: copies, other units, ``1 - p``, sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ucmkd.information import Estimator, complementarity, mutual_information
from ucmkd.information.gaussian import dimensions, gaussian
from ucmkd.information.intervals import subsample_interval

N = 400


def pair(seed: int, heavy: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, 2))
    y = x @ rng.standard_normal((2, 2)) + rng.standard_normal((N, 2))
    scale = np.sqrt(2.0 / rng.chisquare(2, N))[:, None] if heavy else 1.0
    return x * scale, y * scale


@pytest.mark.parametrize("method", ["auto", "student"])
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("copy", [lambda x: x, lambda x: -3.0 * x + 1.0, np.exp])
def test_columns_of_one_order_change_nothing_where_copulas_are_fitted(method, heavy, copy) -> None:  # type: ignore[no-untyped-def]
    x, y = pair(0, heavy)
    wide = np.concatenate([x, copy(x[:, :1])], axis=1)
    plain = mutual_information(x, y, method=method, subsamples=4)
    out = mutual_information(wide, y, method=method, subsamples=4)
    assert (out.value, out.low, out.high, out.method) == (
        plain.value, plain.low, plain.high, plain.method,
    )  # fmt: skip
    assert "x: 1 of 3 columns order the samples as another one does" in out.warnings[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_probabilities(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    logit = torch.from_numpy(rng.standard_normal(N)).to(dtype)
    p = torch.softmax(torch.stack([3.0 * logit, -4.0 * logit], dim=1), dim=1)
    y = logit.numpy() + rng.standard_normal(N)
    out = mutual_information(p, y, subsamples=4)
    assert any("1 of 2 columns order the samples" in note for note in out.warnings)
    assert out.value == pytest.approx(mutual_information(logit, y, subsamples=0).value, abs=0.01)


def test_linear_methods_keep_a_monotone_copy() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((N, 1))
    y = np.exp(x) + 0.1 * rng.standard_normal((N, 1))
    both = np.concatenate([x, np.exp(x)], axis=1)
    alone, out = (mutual_information(side, y, method="gaussian") for side in (x, both))
    assert out.value > alone.value + 0.5 and not out.warnings


def test_columns_that_only_resemble_each_other_stay() -> None:
    x, y = pair(3)
    classes = np.eye(3)[np.random.default_rng(3).integers(0, 3, N)][:, :2]
    for side in (np.c_[x, x[:, :1] + 1e-2 * y[:, :1]], classes):
        prepared = Estimator("auto").prepare(*_variables(side, y))
        assert prepared[0].width == side.shape[1]


def _variables(x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    from ucmkd.information.variables import as_pair

    return as_pair(x, y)


def test_gaussian_is_unbiased_whatever_the_rank() -> None:
    rng = np.random.default_rng(6)
    classes, found = 10, []
    for _ in range(200):
        x = np.eye(classes)[rng.integers(0, classes, 60)]
        found.append(gaussian(x, rng.standard_normal((60, 10)), shrinkage=0.0))
    assert abs(np.mean(found)) < 4.0 * np.std(found) / math.sqrt(200)
    a = rng.standard_normal((200, 1))
    b = 0.5 * a + math.sqrt(0.75) * rng.standard_normal((200, 1))
    plain = mutual_information(a, b, method="gaussian")
    for copies in (2, 20, 60):
        x, y = np.repeat(a, copies, axis=1), np.repeat(b, copies, axis=1)
        out = mutual_information(x, y, method="gaussian")
        assert out.value == pytest.approx(plain.value, abs=1e-9) and not out.warnings
        assert (out.low, out.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert dimensions(rng.standard_normal((20, 30))) == 30
    assert dimensions(np.repeat(a, 3, axis=1)) == 1


def test_student_with_hardly_any_value_that_varies() -> None:
    rng = np.random.default_rng(4)
    x = np.zeros((300, 2))
    x[:4] = rng.standard_normal((4, 2))
    out = mutual_information(x, x[:, :1] + rng.standard_normal((300, 1)), method="student")
    assert 0.0 <= out.low <= out.high < 0.5


def test_student_where_columns_determine_each_other() -> None:
    x = pair(5)[0]
    classes = np.eye(3)[np.random.default_rng(5).integers(0, 3, N)]
    with pytest.raises(ValueError, match="y must have normal scores that are linearly independent"):
        mutual_information(x, classes, method="student")
    assert mutual_information(x, 2.0 * x, method="student").value == math.inf


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["auto", "gaussian"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_copy_tells_without_end(method: str, width: int) -> None:
    x = np.random.default_rng(6).standard_normal((N, width))
    out = mutual_information(x, x @ np.diag(np.arange(1.0, width + 1.0)), method=method)
    assert out.value == out.low == out.high == math.inf
    assert any("infinite" in warning for warning in out.warnings)


def test_a_copy_of_the_student_as_teacher_helps() -> None:
    rng = np.random.default_rng(7)
    student = rng.standard_normal((N, 3))
    teachers = {"copy": student @ rng.standard_normal((3, 3)), "noise": rng.standard_normal((N, 3))}
    label = (student[:, 0] > 0).astype(int)
    table = complementarity(teachers, student, label, method="gaussian")
    assert [(c.name, c.verdict) for c in table.candidates] == [
        ("copy", "helps"),
        ("noise", "does not help"),
    ]


def test_an_estimate_that_is_infinite_on_some_subsets() -> None:
    """One sample keeps y from being x: the subsets without it are exact."""
    x = np.random.default_rng(8).standard_normal((N, 1))
    y = x.copy()
    y[0] += 1.0
    out = mutual_information(x, y, method="gaussian")
    assert 2.0 < out.low <= out.value < out.high == math.inf


def test_a_difference_of_infinite_estimates_is_unknown() -> None:
    spread = subsample_interval(lambda _: math.nan, 1.0, 10, subsamples=4, confidence=0.95, seed=0)
    assert (spread.low, spread.high) == (-math.inf, math.inf)
