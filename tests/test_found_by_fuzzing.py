"""Calls that the fuzzer found to end wrongly."""

from typing import Any

import numpy as np
import pytest
import torch

from ucmkd import _backend, losses, ops

MASK = torch.tensor([0.3, 0.2, 0.0, 0.0, 0.1, 0.2, 0.2, 0.0])


@pytest.mark.parametrize("call", ["points", "matrix", "plan", "plan of a matrix"])
def test_masked_points_stay_out_of_it(backend: str, call: str) -> None:
    """Zero weight, zero mass and zero gradient, however far the potentials are from optimal."""
    x, y = torch.randn(8, 2), torch.randn(33, 2)
    options = dict(epsilon=0.003, x_weight=MASK, max_iter=1, backend=backend)
    matrix = torch.randn(8, 33)
    if call == "points":
        x.requires_grad_()
        ops.sinkhorn(x, y, **options).value.backward()
        rows = x.grad
    elif call == "matrix":
        matrix.requires_grad_()
        ops.sinkhorn_cost(matrix, **options).value.backward()
        rows = matrix.grad
    elif call == "plan":
        rows = ops.transport_plan(x, y, **options)
    else:
        rows = ops.transport_plan_cost(matrix, **options)
    assert torch.isfinite(rows).all() and not rows[MASK == 0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_common_class_is_float32_too(backend: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(5, 2).to(dtype), torch.randn(4, 2).to(dtype)
    value = losses.mmd_align(
        x, y, student_label=torch.zeros(5).long(), teacher_label=torch.ones(4).long(),
        backend=backend,
    )  # fmt: skip
    assert value.dtype == torch.float32 and value.item() == 0


def test_barycentric_map_where_transport_does_not_pay(backend: str) -> None:
    """The image is a mean of the conditional plan, which is defined however small the mass is."""
    x, y = torch.randn(8, 3), torch.randn(6, 3) + 5
    image = ops.barycentric_map(x, y, epsilon=0.01, reach=0.01, backend=backend)
    assert torch.isfinite(image).all()
    assert (image >= y.min(0).values - 1e-4).all() and (image <= y.max(0).values + 1e-4).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(epsilon=1e-300),
        dict(epsilon=0.5, reach=1e-300),
        dict(epsilon=0.5, reach=1.0, y_weight=torch.full((4,), 1e-310, dtype=torch.float64)),
    ],
    ids=["epsilon", "reach", "weight"],
)
def test_numbers_that_are_zero_in_float32(backend: str, options: dict) -> None:
    """Finite, or an error that names the argument; not NaN."""
    x, y = torch.randn(5, 2), torch.randn(4, 2)
    try:
        value = ops.sinkhorn(x, y, backend=backend, **options).value
    except ValueError as error:
        assert str(error).startswith(tuple(name for name in options))
    else:
        assert torch.isfinite(value)


@pytest.mark.parametrize("name", ["x", "y_weight", "cost_matrix"])
def test_sparse_tensors_are_refused(name: str) -> None:
    x, y = torch.rand(5, 2), torch.rand(4, 2)
    with pytest.raises(TypeError, match=f"{name} must be dense"):
        if name == "x":
            ops.sinkhorn(x.to_sparse(), y, epsilon=0.5)
        elif name == "y_weight":
            ops.sinkhorn(x, y, epsilon=0.5, y_weight=torch.full((4,), 0.25).to_sparse())
        else:
            ops.sinkhorn_cost(x.to_sparse(), epsilon=0.5)


@pytest.mark.parametrize("distance", ["x", 0.5, [[0.0]], np.zeros(3, np.float32)])
def test_a_class_distance_that_is_no_matrix(distance: object) -> None:
    """The extension names the argument, too, rather than that it lacks an attribute."""
    x, one, k = np.zeros((1, 3, 2), np.float32), np.ones(1), np.zeros((1, 3), np.int64)
    with pytest.raises(ValueError, match="distance must be None or a C-contiguous"):
        _backend.rust().softmin(
            x, x, x[..., 0].copy(), None, k, k, distance, one, one, "sqeuclidean", 1
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_range_is_that_of_the_computation(backend: str, dtype: torch.dtype) -> None:
    """What float64 can hold is refused for float32 only: with one side in float64 it is used."""
    x, y = torch.randn(5, 2), torch.randn(4, 2, dtype=dtype)
    weight = torch.full((4,), 1e-60, dtype=torch.float64)
    for options in (dict(epsilon=1e60), dict(epsilon=1.0, reach=1.0, y_weight=weight)):
        if dtype == torch.float32:
            with pytest.raises(ValueError, match=f"{list(options)[-1]} must .* in torch.float32"):
                ops.sinkhorn(x, y, backend=backend, **options)
        else:
            assert torch.isfinite(ops.sinkhorn(x, y, backend=backend, **options).value)


@pytest.mark.parametrize("reach", [None, 0.1, (None, 2.0)])
@pytest.mark.parametrize("max_iter", [1, 3])
def test_potential_of_a_masked_point_is_that_of_the_others(
    backend: str, reach: Any, max_iter: int
) -> None:
    """However early the solve stops, with a bounded density and a gradient to its weight."""
    x, y = torch.randn(8, 2).double(), torch.randn(6, 2).double()
    a, b = MASK.double().requires_grad_(), torch.tensor([0, 0.3, 0.2, 0, 0.1, 0.4]).double()
    out = ops.sinkhorn(
        x, y, epsilon=0.003, reach=reach, x_weight=a, y_weight=b, max_iter=max_iter,
        backend=backend,
    )  # fmt: skip
    pair = reach if isinstance(reach, tuple) else (reach, reach)
    tau = [1.0 if r is None else r / (r + 0.003) for r in pair]
    score = (out.y_potential - torch.cdist(x, y) ** 2) / 0.003 + b.log()
    expected = -tau[0] * 0.003 * torch.logsumexp(score, 1)
    torch.testing.assert_close(out.x_potential[a == 0], expected[a == 0], rtol=1e-9, atol=1e-9)
    score = (out.x_potential[:, None] - torch.cdist(x, y) ** 2) / 0.003 + a.detach().log()[:, None]
    expected = -tau[1] * 0.003 * torch.logsumexp(score, 0)
    torch.testing.assert_close(out.y_potential[b == 0], expected[b == 0], rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(out.value, a)
    f, rho = out.x_potential, 1.0 if pair[0] is None else pair[0]
    wanted, density = f, torch.ones_like(f)
    if pair[0] is not None:
        wanted, density = -rho * torch.expm1(-f / rho), torch.exp(-f / rho)
    wanted = wanted - 0.003 * (density - b.sum())
    torch.testing.assert_close(gradient[a == 0], wanted[a == 0], rtol=1e-6, atol=1e-9)


def pulled_towards(reach: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A masked point beside a strict one that another point has to serve over a distance of 5."""
    x, y = torch.tensor([[0.0], [5.0]], dtype=dtype), torch.tensor([[0.0]], dtype=dtype)
    weight = torch.tensor([0.0, 1.0]).requires_grad_()
    return x, y, weight, dict(epsilon=0.05, reach=reach, tol=1e-9, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", ["points", "swapped", "matrix", "batch", "debiased"])
def test_gradient_to_the_weight_of_a_masked_point_is_finite(
    backend: str, call: str, dtype: torch.dtype
) -> None:
    """Truly ρ exp(25 τ/ρ) and more: its largest number where the weights' type has no such."""
    x, y, weight, options = pulled_towards((0.1, None), dtype, backend=backend)
    if call == "points":
        value = ops.sinkhorn(x, y, x_weight=weight, **options).value
    elif call == "swapped":
        options["reach"] = options["reach"][::-1]
        value = ops.sinkhorn(y, x, y_weight=weight, **options).value
    elif call == "matrix":
        value = ops.sinkhorn_cost((x - y.T) ** 2, x_weight=weight, **options).value
    elif call == "batch":  # which share the weight
        x, y = x.expand(3, 2, 1), y.expand(3, 1, 1)
        value = ops.sinkhorn(x, y, x_weight=weight, **options).value.sum()
    else:
        options["epsilon_scale"] = None
        value = losses.sinkhorn_align(x, y, student_weight=weight, **options)
    value.backward()
    gradient = weight.grad
    assert gradient is not None and gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all() and gradient[0] < -1e38 and abs(gradient[1]) < 1e3


def test_gradient_to_the_weight_of_a_masked_point_in_float64(backend: str) -> None:
    x, y, weight, options = pulled_towards((0.1, None), torch.float64, backend=backend)
    weight = weight.detach().double().requires_grad_()
    ops.sinkhorn(x, y, x_weight=weight, **options).value.backward()
    potential = -(0.1 / 0.15) * 25.0  # that of the strict point is 25
    density = np.exp(-potential / 0.1)
    assert weight.grad is not None
    assert weight.grad[0].item() == pytest.approx(-0.1 * (density - 1) - 0.05 * density, rel=1e-6)


@pytest.mark.parametrize("incoming", [3e4, float("inf"), float("nan")])
def test_what_comes_into_a_saturated_gradient_is_not_hidden(backend: str, incoming: float) -> None:
    """A gradient scaler looks for infinities."""
    x, y, weight, options = pulled_towards((0.1, None), backend=backend)
    value = ops.sinkhorn(x, y, x_weight=weight, **options).value
    value.backward(torch.tensor(incoming))
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all()) == np.isfinite(incoming)


def test_gradients_to_parameters_with_a_masked_point(backend: str) -> None:
    """Zero weight times infinite density is no NaN."""
    x, y, weight, options = pulled_towards(None, backend=backend)
    epsilon, reach = (torch.tensor(v, requires_grad=True) for v in (0.05, 0.02))
    options |= dict(epsilon=epsilon, reach=(reach, None), x_weight=weight)
    out = ops.sinkhorn(x, y, **options)
    out.value.backward()
    # Strict, one point each that has mass: P = 1, no entropy, no mass is created.
    assert epsilon.grad is not None and abs(epsilon.grad) < 1e-3
    assert reach.grad is not None and abs(reach.grad) < 1e-3


def test_sharp_gradient_where_some_masses_are_subnormal(backend: str) -> None:
    """One of the columns gets a mass of about 1e-310: its inverse is infinite."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    y = torch.tensor([[1.0], [2.862], [2.868], [2.874], [4.0]], dtype=torch.float64)
    y.requires_grad_()
    value = losses.sinkhorn_align(
        x, y, epsilon=0.01, epsilon_scale=None, reach=(5.0, 0.0001), sharp=True, debias=False,
        detach_teacher=False, backend=backend,
    )  # fmt: skip
    value.backward()
    plan = ops.transport_plan(x, y.detach(), epsilon=0.01, reach=(5.0, 0.0001), backend=backend)
    assert ((plan > 0) & (plan < 1e-308)).any() and plan.sum() > 1e-3
    assert y.grad is not None and torch.isfinite(y.grad).all() and y.grad[0].abs() > 1e-3


@pytest.mark.parametrize(
    ("cost", "far", "epsilon"),
    [("sqeuclidean", 2e3, 0.2), ("sqeuclidean", 1e4, 0.5), ("euclidean", 1e4, 0.01),
     ("l1", 1e4, 0.01)],
)  # fmt: skip
@pytest.mark.parametrize("reach", [None, (None, 300.0), (100.0, None)])
def test_costs_that_drown_epsilon_in_float32(
    backend: str, cost: str, far: float, epsilon: float, reach: Any
) -> None:
    """A cost of 4e6 has a rounding of 0.25: the plan, and what follows from it, is float64's."""
    x, y = torch.randn(7, 3) + far, torch.randn(5, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        p, q = (t.detach().to(dtype).requires_grad_() for t in (x, y))
        options = dict(epsilon=epsilon, cost=cost, reach=reach, max_iter=50, backend=backend)
        out = ops.sinkhorn(p, q, **options)
        out.value.backward()
        plan = ops.transport_plan(p, q, **options)
        image = ops.barycentric_map(p, q, **options)
        options |= dict(epsilon_scale=None, sharp=True, debias=False, detach_teacher=False)
        r = p.detach().requires_grad_()
        sharp = losses.sinkhorn_align(r, q, **options)
        sharp.backward()
        results = (out.value, plan, image, sharp, p.grad, r.grad)
        assert all(t is not None and t.dtype == dtype for t in results)
        found.append([t.detach().double() for t in results if t is not None])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * two.abs().max().item())


def test_a_matrix_that_drowns_epsilon_in_float32(backend: str) -> None:
    matrix = (torch.randn(6, 4) + 3000.0).requires_grad_()
    out = ops.sinkhorn_cost(matrix, epsilon=0.001, max_iter=5000, backend=backend)
    out.value.backward()
    assert matrix.grad is not None
    torch.testing.assert_close(matrix.grad.sum(0), torch.full((4,), 1 / 4), rtol=1e-5, atol=0)
    torch.testing.assert_close(matrix.grad.sum(1), torch.full((6,), 1 / 6), rtol=1e-4, atol=0)


def test_second_derivative_where_costs_drown_epsilon(backend: str) -> None:
    x, y, v = torch.randn(6, 3) + 2e3, torch.randn(5, 3), torch.randn(6, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        p = x.to(dtype).requires_grad_()
        value = ops.sinkhorn(p, y.to(dtype), epsilon=0.5, max_iter=2000, backend=backend).value
        (gradient,) = torch.autograd.grad(value, p, create_graph=True)
        (second,) = torch.autograd.grad((gradient * v.to(dtype)).sum(), p)
        found.append((gradient.detach().double(), second.double()))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * two.abs().max().item())


def test_tensors_without_data_are_named() -> None:
    points, weight = torch.empty(3, 2, device="meta"), torch.empty(3, device="meta")
    with pytest.raises(ValueError, match="y must hold data; got a tensor on the meta device"):
        ops.sinkhorn(points, points, epsilon=1.0)
    with pytest.raises(ValueError, match="x_weight must hold data; got a tensor on the meta"):
        ops.transport_plan_cost(points, x_weight=weight, epsilon=1.0)
