"""Large results live in memory that is used again, and never while somebody still has them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from ucmkd import _backend, ops

pytestmark = pytest.mark.skipif(not _backend.has_rust(), reason="the extension is not built")


def gradient(x: torch.Tensor, y: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    value = ops.sinkhorn(x, y, epsilon=1.0, tol=0.0, max_iter=3, backend="rust").value
    return torch.autograd.grad((factor * value).sum(), x)[0]


@pytest.mark.parametrize("shape", [(40, 32, 64), (300, 120)])
def test_a_result_that_is_kept_does_not_change(shape: tuple[int, ...]) -> None:
    batch = shape[:-2]
    kept = []
    for seed in range(6):
        torch.manual_seed(seed)
        x, y, factor = torch.randn(shape), torch.randn(shape), torch.rand(batch) + 0.5
        found = gradient(x, y, factor)
        kept.append((x, y, factor, found, found.clone()))
        if seed % 2:
            del found
            kept.pop(0)
            gc.collect()
    for x, y, factor, found, copy in kept:
        assert torch.equal(found, copy)
        assert torch.equal(found, gradient(x, y, factor))


def test_a_result_outlives_what_made_it() -> None:
    array = _backend.rust().scaled(np.ones((300, 300), np.float32), np.float32(2.0)[None])
    part = array[5:]
    del array
    gc.collect()
    other = _backend.rust().scaled(np.ones((300, 300), np.float32), np.float32(3.0)[None])
    assert (part == 2).all() and (other == 3).all()
    part += 1  # the memory is the caller's
    assert (part == 3).all() and (other == 3).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_is_a_product_by_row(dtype: type) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(7, 3, 5)).astype(dtype)
    row, one = generator.normal(size=(7, 1, 1)).astype(dtype), np.array(-2.5, dtype)
    scaled = _backend.rust().scaled
    np.testing.assert_array_equal(scaled(x, row), x * row)
    np.testing.assert_array_equal(scaled(x, one), x * one)
    assert scaled(x[:0], row[:0]).shape == (0, 3, 5)
    with pytest.raises(ValueError, match="1 number or one for each row"):
        scaled(x, row[:3])
    with pytest.raises(ValueError, match="dtype of x"):
        scaled(x, row.astype(np.float16))
