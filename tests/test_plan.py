"""Plan rounding and what is computed from a plan."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ucmkd import ops, reference
from ucmkd.ops import plan as plan_module

common = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def violation(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of the marginals from the weights, per problem."""
    p, a, b = plan.double(), a.double(), b.double()
    return (p.sum(-1) - a).abs().sum(-1) + (p.sum(-2) - b).abs().sum(-1)


@common
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    batch=st.sampled_from([None, 1, 3]),
    mass=st.sampled_from([1.0, 1e-6, 300.0]),
    power=st.sampled_from([0.5, 1.0, 20.0]),
    total=st.sampled_from([0.0, 1e-12, 0.3, 1.0, 5.0]),
    masked=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rounding(
    seed: int, n: int, m: int, batch: int | None, mass: float, power: float, total: float,
    masked: bool, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Marginals to rounding, no negative entry, and near the input (Lemma 7)."""
    generator = torch.Generator().manual_seed(seed)

    def weights(k: int) -> Tensor:
        w = torch.rand(*([] if batch is None else [batch]), k, generator=generator).double() + 1e-3
        if masked and k > 1:
            w[..., -1] = 0
        return (mass * w / w.sum(-1, keepdim=True)).to(dtype)

    a, b = weights(n), weights(m)
    shape = (n, m) if batch is None else (batch, n, m)
    plan = torch.rand(shape, generator=generator).double() ** power
    plan = (total * mass * plan / plan.sum((-1, -2), keepdim=True).clamp(min=1e-300)).to(dtype)
    out = ops.round_plan(plan, a, b)
    eps = torch.finfo(dtype).eps
    assert out.shape == plan.shape and out.dtype == dtype
    assert (out >= 0).all()
    assert (violation(out, a, b) <= 8 * eps * mass).all()
    moved = (out.double() - plan.double()).abs().sum((-1, -2))
    assert (moved <= 2 * violation(plan, a, b) + 8 * eps * mass * (1 + total)).all()
    again = ops.round_plan(out, a, b)
    torch.testing.assert_close(again, out, rtol=32 * eps, atol=32 * eps * mass)


def test_rounding_by_hand() -> None:
    """Row 1 halved, then nothing to scale; what is missing goes to where it is missing."""
    plan = torch.tensor([[1.0, 0.0], [0.0, 0.25]])
    expected = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    torch.testing.assert_close(ops.round_plan(plan), expected)
    a, b = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    torch.testing.assert_close(ops.round_plan(torch.zeros(2, 2), a, b), a[:, None] * b)
    feasible = torch.tensor([[0.25, 0.0], [0.25, 0.5]])
    torch.testing.assert_close(ops.round_plan(feasible, a, b), feasible)


def test_rounding_bad_input() -> None:
    plan = torch.full((2, 3), 1 / 6)
    with pytest.raises(TypeError, match=r"plan must be a torch\.Tensor"):
        ops.round_plan([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="plan must be finite and non-negative; got entries from"):
        ops.round_plan(-plan)
    with pytest.raises(ValueError, match="plan must be finite and non-negative"):
        ops.round_plan(plan * torch.nan)
    with pytest.raises(ValueError, match="x_weight must have shape"):
        ops.round_plan(plan, torch.ones(3))
    with pytest.raises(ValueError, match="must have the same mass"):
        ops.round_plan(plan, torch.ones(2), torch.ones(3))
    points = torch.randn(3, 2)
    for reach in (1.0, (None, 2.0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="round=True needs strict marginals"):
            ops.transport_plan(points, points, epsilon=1.0, reach=reach, round=True)
    with pytest.raises(TypeError, match="round must be True or False"):
        ops.transport_plan(points, points, epsilon=1.0, round=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batched", [False, True])
def test_rounded_plan_of_a_loose_solve(backend: str, dtype: torch.dtype, batched: bool) -> None:
    x, y = torch.randn(2, 30, 3).to(dtype), torch.randn(2, 20, 3).to(dtype) + 1
    a, b = torch.rand(2, 30).to(dtype), torch.rand(2, 20).to(dtype)
    a[:, 7] = 0
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    if not batched:
        x, y, a, b = x[0], y[0], a[0], b[0]
    options: dict[str, Any] = dict(epsilon=0.1, x_weight=a, y_weight=b, tol=0.05, backend=backend)
    loose = ops.transport_plan(x, y, **options)
    exact = ops.transport_plan(x, y, round=True, **options)
    eps = torch.finfo(dtype).eps
    assert (violation(loose, a, b) > 1e-4).all()
    assert (violation(exact, a, b) <= 8 * eps).all()
    assert (exact >= 0).all() and not exact[..., 7, :].any()
    moved = (exact - loose).double().abs().sum((-1, -2))
    assert (moved <= 2 * violation(loose, a, b) + 8 * eps).all()


@pytest.mark.parametrize("cost", reference.COSTS)
@pytest.mark.parametrize("reach", [None, 0.8])
def test_plan_and_map_are_those_of_the_reference(
    backend: str, cost: str, reach: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of a few rows, with weights, labels and a shift that must not matter."""
    monkeypatch.setattr(plan_module, "_BLOCK_ENTRIES", 30)
    shift = 0.0 if cost in ("cosine", "chordal") else 100.0
    x, y = torch.randn(11, 3).double(), torch.randn(9, 3).double()
    a, b = torch.rand(11).double().softmax(0), torch.rand(9).double().softmax(0)
    k, l = torch.arange(11) % 3, torch.arange(9) % 3  # noqa: E741
    options: dict[str, Any] = dict(
        epsilon=0.5, cost=cost, x_weight=a, y_weight=b, reach=reach, x_label=k, y_label=l,
        label_cost=0.6, tol=1e-10, max_iter=3000, backend=backend,
    )  # fmt: skip
    matrix = reference.cost_matrix(x[None], y[None], cost)
    one, rho = torch.ones(1).double(), torch.tensor([reach or float("inf")]).double()
    _, plan = reference.solve_dense(
        matrix, k[:, None] != l[None], a[None], b[None], torch.zeros(1, 9).double(), 0.5 * one,
        rho, rho, 0.6 * one, symmetric=False, relative=False, tol=1e-12, max_iter=3000,
    )  # fmt: skip
    found = ops.transport_plan(x + shift, y + shift, **options)
    torch.testing.assert_close(found, plan[0], rtol=1e-6, atol=1e-9)
    image = ops.barycentric_map(x + shift, y + shift, **options)
    expected = plan[0] @ y / plan[0].sum(-1, keepdim=True)
    torch.testing.assert_close(image - shift, expected, rtol=1e-6, atol=1e-7)


def test_image_of_a_masked_point(backend: str) -> None:
    """It has no mass, and goes where its conditional plan sends it."""
    x, y = torch.randn(6, 2).double(), torch.randn(5, 2).double()
    a = torch.tensor([0.3, 0.3, 0.2, 0.2, 0.0, 0.0]).double()
    options: dict[str, Any] = dict(epsilon=0.5, tol=1e-10, max_iter=3000, backend=backend)
    image = ops.barycentric_map(x, y, x_weight=a, **options)
    light = torch.where(a > 0, a, 1e-9)
    near = ops.barycentric_map(x, y, x_weight=light / light.sum(), **options)
    torch.testing.assert_close(image, near, rtol=1e-6, atol=1e-6)
