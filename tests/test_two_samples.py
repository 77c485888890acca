"""The short way of the MMD on the CPU: the same numbers, the same errors as the general one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ucmkd import _backend, losses, ops
from ucmkd.ops._two_samples import two_samples

pytestmark = pytest.mark.skipif(not _backend.has_rust(), reason="the compiled extension is missing")
FIVE = (0.25, 0.5, 1.0, 2.0, 4.0)


def clouds(n: int, m: int, dtype: torch.dtype, d: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(n + m)
    x, y = torch.randn(n, d, dtype=dtype), torch.randn(m, d, dtype=dtype) + 0.4
    return x.requires_grad_(), y.requires_grad_()


def short(x: object, y: object, bandwidth: object = 0.7, kernel: str = "gaussian") -> Tensor | None:
    return two_samples(
        x, y, bandwidth, "v", (kernel, FIVE, 3, None, 1.0), ("x", "y"), check_finite=True,
        backend="rust",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (2, 129, 5), (127, 3, 33), (300, 260, 16)])
@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "energy", "polynomial"])
@pytest.mark.parametrize("bandwidth", ["mean", 2.5])
def test_equals_the_reference(
    n: int, m: int, d: int, dtype: torch.dtype, estimator: str, kernel: str, bandwidth: str | float
) -> None:
    x, y = clouds(n, m, dtype, d)
    options = dict(kernel=kernel, estimator=estimator, bandwidth=bandwidth, detach_teacher=False)
    found = losses.mmd_align(x, y, backend="rust", **options)
    exact = losses.mmd_align(x.double(), y.double(), backend="torch", **options)
    size = float(losses.mmd_align(x.double(), -y.double(), backend="torch", **options).abs()) + 1
    eps = torch.finfo(dtype).eps
    assert float(found) == pytest.approx(float(exact), abs=1000 * eps * size)
    gradients = (torch.autograd.grad(3 * value, (x, y)) for value in (found, exact))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e4 * eps, atol=2000 * eps * size)


@pytest.mark.parametrize("kernel", ["gaussian", "rational_quadratic"])
def test_differentiates_twice(kernel: str) -> None:
    x, y = clouds(4, 5, torch.float64)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return losses.mmd_align(x, y, bandwidth=1.3, kernel=kernel, detach_teacher=False)

    assert short(x, y) is not None
    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_gradient_of_one_side_and_of_none() -> None:
    x, y = clouds(6, 7, torch.float32)
    value = ops.mmd(x, y.detach())
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (again,) = torch.autograd.grad(value, x)
    assert torch.equal(first, again) and first.data_ptr() != again.data_ptr()
    (other,) = torch.autograd.grad(ops.mmd(x.detach(), y), y)
    assert other.shape == y.shape
    with torch.no_grad():
        assert not ops.mmd(x, y).requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.bfloat16(),
        lambda x: x.unsqueeze(0),
        lambda x: x.T.contiguous().T,
        lambda x: x[:0],
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: x.to("meta"),
    ],
)
def test_leaves_the_rest_to_the_general_way(change: Callable[[Tensor], object]) -> None:
    x, y = (t.detach() for t in clouds(6, 7, torch.float32))
    assert short(change(x), y) is None
    assert short(y, change(x)) is None
    assert short(x, y, bandwidth=torch.tensor(1.0)) is None
    assert short(x, y, bandwidth=True) is None
    assert short(x, y, bandwidth="medan", kernel="energy") is None


def test_errors_are_those_of_the_general_way() -> None:
    x, y = (t.detach() for t in clouds(6, 7, torch.float32))
    for options, message in (
        (dict(kernel="gauss"), "kernel must be one of"),
        (dict(scales=(1.0, -2.0)), "scales must be one or more positive numbers"),
        (dict(scales=(1.0, [2.0])), "scales must be one or more positive numbers"),
        (dict(scales=()), "scales must be one or more positive numbers"),
        (dict(bandwidth="medan"), "bandwidth must be one of"),
        (dict(bandwidth=-1.0), "bandwidth must be"),
        (dict(bandwidth=float("nan")), "bandwidth must be"),
        (dict(estimator="w"), "estimator must be one of"),
        (dict(reduction="most"), "reduction must be one of"),
        (dict(backend="tritn"), "backend must be"),
        (dict(kernel="polynomial", degree=0), "degree must be an integer >= 1"),
        (dict(kernel="polynomial", gamma=0.0), "gamma must be"),
        (dict(kernel="polynomial", coef=-1.0), "coef must be"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.mmd_align(x, y, **options)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"student must be finite; .*index \(3, 1\)"):
        losses.mmd_align(x, y)
    with pytest.raises(ValueError, match=r"teacher must be finite; .*index \(3, 1\)"):
        losses.mmd_align(y, x)
    with pytest.raises(ValueError, match="student must be finite"):  # looked at first
        losses.mmd_align(x, y, kernel="gauss")
    assert torch.isnan(losses.mmd_align(x, y, check_finite=False))
