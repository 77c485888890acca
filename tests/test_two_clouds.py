"""The short way of the CPU operator: the same numbers, the same errors as the general one."""

import pytest
import torch
from torch import Tensor

from ucmkd import _backend, losses, ops
from ucmkd.ops._two_clouds import two_clouds

pytestmark = pytest.mark.skipif(not _backend.has_rust(), reason="the compiled extension is missing")
OPTIONS = (0.3, "sqeuclidean", None, 0.0, 1e-6, 500)
RULES = dict(relative=True, debias=True, accelerate=True, check_finite=True, backend="rust")


def clouds(n: int, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(n + m)
    x, y = torch.randn(n, 5, dtype=dtype), torch.randn(m, 5, dtype=dtype) + 0.4
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 129), (127, 3)])
@pytest.mark.parametrize("reach", [None, 0.7])
def test_equals_the_general_way(n: int, m: int, dtype: torch.dtype, reach: float | None) -> None:
    x, y = clouds(n, m, dtype)
    options = dict(epsilon=0.3, reach=reach, tol=1e-6, detach_teacher=False, backend="rust")
    short = losses.sinkhorn_align(x, y, **options)
    # A tensor among the options is not simple.
    general = losses.sinkhorn_align(
        x, y, **{**options, "epsilon": torch.tensor(0.3, dtype=torch.float64)}
    )
    assert two_clouds(x, y, OPTIONS, ("x", "y"), **RULES) is not None
    error = {"rtol": 20 * torch.finfo(dtype).eps, "atol": 20 * torch.finfo(dtype).eps}
    torch.testing.assert_close(short, general, **error)
    gradients = (torch.autograd.grad(3 * value, (x, y)) for value in (short, general))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **error)


def test_differentiates_twice() -> None:
    x, y = clouds(4, 5, torch.float64)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=0.5, epsilon_scale=None, tol=1e-12, max_iter=5000,
            detach_teacher=False, backend="rust",
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y), atol=1e-4, rtol=1e-3)


def test_gradient_of_one_side_and_of_none() -> None:
    x, y = clouds(6, 7, torch.float32)
    out = ops.sinkhorn(x, y.detach(), epsilon=1.0)
    (first,) = torch.autograd.grad(out.value, x, retain_graph=True)
    (again,) = torch.autograd.grad(out.value, x)
    assert torch.equal(first, again) and first.data_ptr() != again.data_ptr()
    with torch.no_grad():
        assert not ops.sinkhorn(x, y, epsilon=1.0).value.requires_grad
    assert out.converged and out.x_potential.shape == (6,) and out.y_potential.shape == (7,)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.bfloat16(),
        lambda x: x.unsqueeze(0),
        lambda x: x.T.contiguous().T,
        lambda x: x.to_sparse(),
        lambda x: x.to_sparse_csr(),
        lambda x: x.to_mkldnn(),
        lambda x: x[:0],
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: x.to("meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_leaves_the_rest_to_the_general_way(change: object) -> None:
    x, y = (t.detach() for t in clouds(6, 7, torch.float32))
    assert two_clouds(change(x), y, OPTIONS, ("x", "y"), **RULES) is None
    assert two_clouds(y, change(x), OPTIONS, ("x", "y"), **RULES) is None


def test_other_default_device_and_negative_views() -> None:
    x, y = (t.detach() for t in clouds(6, 7, torch.float32))
    expected = losses.sinkhorn_align(x, y, epsilon=0.123)
    torch.set_default_device("meta")
    try:
        found = losses.sinkhorn_align(x, y, epsilon=0.1231)
    finally:
        torch.set_default_device(None)
    assert found.device.type == "cpu" and float(found) == pytest.approx(float(expected), rel=1e-2)
    mirrored = torch._neg_view(-x)
    torch.testing.assert_close(losses.sinkhorn_align(mirrored, y, epsilon=0.123), expected)


def test_names_what_is_not_finite() -> None:
    x, y = (t.detach() for t in clouds(6, 7, torch.float32))
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"student must be finite; .*index \(3, 1\)"):
        losses.sinkhorn_align(x, y)
    with pytest.raises(ValueError, match=r"student must be finite; .*index \(0, 3, 1\)"):
        losses.sinkhorn_align(x[None], y[None])
    with pytest.raises(ValueError, match=r"epsilon must be .*-1"):
        losses.sinkhorn_align(y, y, epsilon=-1.0)
    with pytest.raises(ValueError, match="cost must be one of"):
        losses.sinkhorn_align(y, y, cost="l3")
    with pytest.raises(ValueError, match="backend must be"):
        losses.sinkhorn_align(y, y, backend="cuda")


@pytest.mark.parametrize("threads", [1, 2])
def test_kernel_beyond_the_second_level_cache(threads: int) -> None:
    """A block of more than 512 KB is swept with the next rows called ahead: the same numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, y = (t.detach() for t in clouds(771, 530, torch.float32))
        options = dict(epsilon=0.5, tol=0.0, max_iter=30)
        found = ops.sinkhorn(x, y, backend="rust", **options)
        exact = ops.sinkhorn(x.double(), y.double(), backend="torch", **options)
    finally:
        torch.set_num_threads(before)
    assert float(found.value) == pytest.approx(float(exact.value), rel=1e-5)
    torch.testing.assert_close(found.x_potential.double(), exact.x_potential, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.y_potential.double(), exact.y_potential, rtol=1e-4, atol=1e-4)
