"""Options together: pairs of reaches, masked points far away, potentials changed in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ucmkd import losses, ops


def clouds(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = (torch.randn(*shape, n, 3, generator=generator, dtype=dtype) for n in (6, 5))
    x, y = draw
    return x, y


def masked(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two clouds with a point of no mass in each, and the weights."""
    x, y = clouds(dtype=dtype)
    a, b = torch.full((6,), 0.2, dtype=dtype), torch.full((5,), 0.25, dtype=dtype)
    a[2], b[4] = 0.0, 0.0
    return x, y, a, b


@pytest.mark.parametrize("first", [None, 1.0])
@pytest.mark.parametrize("swap", [False, True])
def test_a_reach_beside_a_batch_of_reaches(backend: str, first: float | None, swap: bool) -> None:
    x, y = clouds(2)
    x.requires_grad_()
    reaches = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = dict(tol=1e-10, max_iter=3000, backend=backend, reduction="none")
    pair = (reaches, first) if swap else (first, reaches)
    value = losses.sinkhorn_align(x, y, epsilon=0.5, reach=pair, **options)
    to_x, to_reach = torch.autograd.grad(value.sum(), (x, reaches))
    for k in range(2):
        own = reaches[k].detach().requires_grad_()
        one = x[k].detach().requires_grad_()
        pair = (own, first) if swap else (first, own)
        single = losses.sinkhorn_align(one, y[k], epsilon=0.5, reach=pair, **options)
        torch.testing.assert_close(value[k], single, rtol=1e-8, atol=1e-10)
        gradients = torch.autograd.grad(single, (one, own))
        torch.testing.assert_close((to_x[k], to_reach[k]), gradients, rtol=1e-6, atol=1e-8)


def test_second_derivative_to_a_reach_that_equals_the_other(backend: str) -> None:
    x, y = clouds()

    def slope(rho: float) -> tuple[float, float]:
        reach = torch.tensor(rho, dtype=torch.float64, requires_grad=True)
        value = losses.sinkhorn_align(
            x, y, epsilon=0.5, epsilon_scale=None, reach=(1.0, reach), tol=1e-12, max_iter=9000,
            backend=backend,
        )  # fmt: skip
        (first,) = torch.autograd.grad(value, reach, create_graph=True)
        return first.item(), torch.autograd.grad(first, reach)[0].item()

    (low, _), (_, second), (high, _) = (slope(1.0 + step) for step in (-1e-4, 0.0, 1e-4))
    assert second == pytest.approx((high - low) / 2e-4, rel=1e-4)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("side", ["x", "y"])
def test_a_masked_point_changes_no_image(backend: str, far: float, side: str) -> None:
    x, y, a, b = masked(torch.float32)
    options: dict[str, Any] = dict(epsilon=0.5, backend=backend)
    expected = ops.barycentric_map(
        x[a > 0], y[b > 0], x_weight=a[a > 0], y_weight=b[b > 0], **options
    )
    x[a == 0], y[b == 0] = (far, 0.0) if side == "x" else (0.0, far)
    found = ops.barycentric_map(x, y, x_weight=a, y_weight=b, **options)
    assert found.isfinite().all()
    torch.testing.assert_close(found[a > 0], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "l1", "cosine"])
def test_a_masked_point_changes_no_extension(cost: str) -> None:
    x, y, a, _ = masked(torch.float32)
    x[a == 0] = 1e5
    known = ops.sinkhorn(x, y, x_weight=a, epsilon=0.5, cost=cost, tol=1e-6)
    found = ops.extend_potential(x, known.x_potential, y, epsilon=0.5, x_weight=a, cost=cost)
    torch.testing.assert_close(found, known.y_potential, rtol=1e-5, atol=1e-5)


def test_extension_ignores_autocast() -> None:
    x, y = clouds(dtype=torch.float32)
    known = ops.sinkhorn(x, y, epsilon=0.5)
    expected = ops.extend_potential(x, known.x_potential, y, epsilon=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.extend_potential(x, known.x_potential, y, epsilon=0.5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("what", ["epsilon", "weight", "second"])
def test_potentials_may_be_changed_in_place(backend: str, what: str) -> None:
    """A shift of the two, which means nothing, before the backward."""
    gradients = []
    for shift in (0.0, 1.0):
        x, y = clouds()
        x.requires_grad_(what == "second")
        epsilon = torch.tensor(0.5, dtype=torch.float64, requires_grad=what == "epsilon")
        weight = torch.full((6,), 1 / 6, dtype=torch.float64, requires_grad=what == "weight")
        found = ops.sinkhorn(x, y, epsilon=epsilon, x_weight=weight, tol=1e-11, backend=backend)
        found.x_potential.sub_(shift)
        found.y_potential.add_(3 * shift)
        wrt = {"epsilon": epsilon, "weight": weight, "second": x}[what]
        (g,) = torch.autograd.grad(found.value, wrt, create_graph=what == "second")
        if what == "second":
            (g,) = torch.autograd.grad(g.square().sum(), x)
        gradients.append(g)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def test_a_pair_of_learned_reaches_is_registered() -> None:
    pair = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.5))
    module = losses.SinkhornAlign(reach=pair)
    assert [name for name, _ in module.named_parameters()] == ["reach_0", "reach_1"]
    assert "reach=(1.0, 0.5)" in repr(module)
    x, y = clouds()
    value = module.double()(x, y)
    value.backward()
    assert all(reach.grad is not None and reach.dtype == torch.float64 for reach in pair)
    torch.testing.assert_close(value, losses.sinkhorn_align(x, y, reach=(1.0, 0.5)))
    half = losses.FeatureAlign(reach=(None, torch.tensor(0.5)))
    assert list(half.state_dict()) == ["reach_1"]
    torch.testing.assert_close(half(x, y), losses.feature_align(x, y, reach=(None, 0.5)))


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_gradients_far_from_the_origin(backend: str, offset: float) -> None:
    """The points round; beyond that their derivatives are those at the origin."""
    near = tuple((t + offset).double() - offset for t in clouds(dtype=torch.float32))
    for loss in (
        lambda x, y: losses.sinkhorn_align(x, y, epsilon=0.5, tol=1e-6, backend=backend),
        lambda x, y: losses.mmd_align(x, y, bandwidth=2.0, scales=(1.0,), backend=backend),
    ):
        found = []
        for shift, dtype in ((0.0, torch.float64), (offset, torch.float32)):
            x, y = ((t + shift).to(dtype) for t in near)
            x.requires_grad_()
            found.append(torch.autograd.grad(loss(x, y), x)[0].double())
        error = (found[0] - found[1]).abs().max() / found[0].abs().max()
        assert error < 1e-3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"debias": None}, TypeError, "debias must be True or False; got None"),
        ({"debias": "no"}, TypeError, "debias must be True or False; got 'no'"),
        ({"sharp": 1}, TypeError, "sharp must be True or False; got 1"),
        ({"reach": [1.0, 2.0]}, TypeError, "reach must be None, a number or a tuple of two"),
    ],
)
def test_options_of_the_wrong_kind(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        losses.sinkhorn_align(*clouds(), **options)


@pytest.mark.parametrize("classes", ["a", 2.5, True, 0])
@pytest.mark.parametrize("labels", [False, True])
def test_a_number_of_classes_is_a_number(classes: Any, labels: bool) -> None:
    x, y = clouds()
    given = (torch.arange(len(x)) % 2, torch.arange(len(y)) % 2) if labels else (None, None)
    with pytest.raises(ValueError, match="num_classes must be None or an integer >= 1"):
        ops.mmd(x, y, x_class=given[0], y_class=given[1], num_classes=classes)
    with pytest.raises(ValueError, match="scales must be one or more positive numbers; got '123'"):
        ops.mmd(x, y, scales="123")
