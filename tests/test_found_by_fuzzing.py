"""Calls with ordinary arguments that the fuzzer found to give NaN; each ended wrongly once."""

import pytest
import torch

from ucmkd import losses, ops

MASK = torch.tensor([0.3, 0.2, 0.0, 0.0, 0.1, 0.2, 0.2, 0.0])


@pytest.mark.xfail(strict=True, reason="0·∞ at a masked point whose density overflows")
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


@pytest.mark.xfail(strict=True, reason="the zero of no common class is made of the features")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_common_class_is_float32_too(backend: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(5, 2).to(dtype), torch.randn(4, 2).to(dtype)
    value = losses.mmd_align(
        x, y, student_label=torch.zeros(5).long(), teacher_label=torch.ones(4).long(),
        backend=backend,
    )  # fmt: skip
    assert value.dtype == torch.float32 and value.item() == 0


@pytest.mark.xfail(strict=True, reason="0/0 where the mass of a row underflows")
def test_barycentric_map_where_transport_does_not_pay(backend: str) -> None:
    """The image is a mean of the conditional plan, which is defined however small the mass is."""
    x, y = torch.randn(8, 3), torch.randn(6, 3) + 5
    image = ops.barycentric_map(x, y, epsilon=0.01, reach=0.01, backend=backend)
    assert torch.isfinite(image).all()
    assert (image >= y.min(0).values - 1e-4).all() and (image <= y.max(0).values + 1e-4).all()


@pytest.mark.xfail(strict=True, reason="checked before they are rounded to float32")
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
