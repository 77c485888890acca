"""Properties that hold for every input, tried on many (hypothesis)."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ucmkd import losses, ops

COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]
common = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes = st.sampled_from([1, 2, 3, 5, 8, 17, 33])
seeds = st.integers(0, 10**6)


def cloud(seed: int, n: int, d: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + shift


def weights(seed: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    w = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    return w / w.sum()


def approx(value: Tensor, rel: float = 1e-6) -> object:
    return pytest.approx(value.item(), rel=rel, abs=1e-8)


@common
@given(seeds, sizes, sizes, st.integers(1, 5), st.sampled_from(COSTS), st.sampled_from([None, 0.7]))
def test_swapping_the_sides(
    backend: str, seed: int, n: int, m: int, d: int, cost: str, reach: float | None
) -> None:
    x, y, a, b = cloud(seed, n, d), cloud(seed + 7, m, d, 0.5), weights(seed, n), weights(seed, m)
    options = dict(epsilon=0.4, cost=cost, reach=reach, tol=1e-9, max_iter=1000, backend=backend)
    one = ops.sinkhorn(x, y, x_weight=a, y_weight=b, **options)
    two = ops.sinkhorn(y, x, x_weight=b, y_weight=a, **options)
    assert one.value.item() == approx(two.value)
    torch.testing.assert_close(one.x_potential, two.y_potential, rtol=1e-5, atol=1e-6)


@common
@given(seeds, sizes, sizes, st.sampled_from(COSTS), st.sampled_from([None, 0.7]))
def test_permutation_and_divergence_is_not_negative(
    backend: str, seed: int, n: int, m: int, cost: str, reach: float | None
) -> None:
    x, y, a = cloud(seed, n, 3), cloud(seed + 7, m, 3), weights(seed, n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    options = dict(
        epsilon=0.3, epsilon_scale=None, cost=cost, reach=reach, tol=1e-9, max_iter=1000,
        backend=backend,
    )  # fmt: skip
    one = losses.sinkhorn_align(x, y, student_weight=a, **options)
    two = losses.sinkhorn_align(x[order], y, student_weight=a[order], **options)
    assert one.item() == approx(two, 1e-7)
    assert one.item() >= -1e-8


@common
@given(seeds, sizes, sizes, st.sampled_from(["v", "u"]), st.sampled_from([(1.0,), (0.25, 1, 4)]))
def test_mmd_symmetry_translation_and_sign(
    backend: str, seed: int, n: int, m: int, estimator: str, scales: tuple[float, ...]
) -> None:
    x, y, a = cloud(seed, n, 4), cloud(seed + 7, m, 4, 0.3), weights(seed, n)
    options = dict(bandwidth=1.1, scales=scales, estimator=estimator, backend=backend)
    one = ops.mmd(x, y, x_weight=a, **options)
    assert one.item() == approx(ops.mmd(y, x, y_weight=a, **options))
    assert one.item() == approx(ops.mmd(x + 3.0, y + 3.0, x_weight=a, **options))
    if estimator == "v":
        assert one.item() >= -1e-12


@settings(common, max_examples=25)
@given(seeds, st.sampled_from([1, 2, 5, 17, 64, 127, 129]), st.sampled_from([1, 3, 64, 130]))
def test_rust_equals_torch_in_both_types(seed: int, n: int, m: int) -> None:
    x, y, a = cloud(seed, n, 6), cloud(seed + 3, m, 6, 0.4), weights(seed, n)
    for dtype, bound in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        options = dict(epsilon=2.0, tol=1e-10 if dtype == torch.float64 else 1e-6)
        results = []
        for name in ("torch", "rust"):
            left = x.detach().to(dtype, copy=True).requires_grad_()
            out = ops.sinkhorn(left, y.to(dtype), x_weight=a.to(dtype), backend=name, **options)
            mmd = ops.mmd(left, y.to(dtype), bandwidth=2.0, x_weight=a.to(dtype), backend=name)
            (out.value + mmd).backward()
            results.append((out.value.detach(), mmd.detach(), left.grad))
        torch.testing.assert_close(*results, rtol=bound, atol=bound * 0.1)


@common
@given(seeds, sizes, sizes)
def test_value_grows_with_epsilon(backend: str, seed: int, n: int, m: int) -> None:
    x, y = cloud(seed, n, 2), cloud(seed + 5, m, 2)
    values = [
        ops.sinkhorn(x, y, epsilon=e, tol=1e-6, max_iter=500, backend=backend).value.item()
        for e in (0.4, 0.8, 2.0)
    ]
    # An unconverged dual value lies below the optimum by less than the residual's square.
    assert values[0] <= values[1] + 1e-6 <= values[2] + 2e-6


@common
@given(seeds, sizes, sizes, st.floats(0.0, 5.0))
def test_label_cost_is_part_of_the_cost(
    backend: str, seed: int, n: int, m: int, price: float
) -> None:
    x, y = cloud(seed, n, 2), cloud(seed + 5, m, 2)
    generator = torch.Generator().manual_seed(seed)
    k = torch.randint(3, (n,), generator=generator)
    l = torch.randint(3, (m,), generator=generator)  # noqa: E741
    options = dict(epsilon=0.6, tol=1e-9, max_iter=1000, backend=backend)
    one = ops.sinkhorn(x, y, x_label=k, y_label=l, label_cost=price, **options).value
    matrix = torch.cdist(x, y) ** 2 + price * (k[:, None] != l[None])
    assert one.item() == approx(ops.sinkhorn_cost(matrix, **options).value)
