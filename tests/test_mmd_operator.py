"""MMD as PyTorch sees it: derivatives, registration, precision, masks."""

import importlib

import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops
from ucmkd.ops._mmd_op import Flag, mmd_op
from ucmkd.ops.bandwidth import median_bandwidth_op

KERNELS = ["gaussian", "laplace", "energy", "rational_quadratic", "polynomial"]
F64 = torch.float64


def leaf(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def positive(*shape: int) -> Tensor:
    return (torch.rand(*shape, dtype=F64) + 0.1).requires_grad_()


def sigma() -> Tensor:
    return torch.tensor(1.3, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("classes", [None, 3])
def test_opcheck(backend: str, classes: int | None) -> None:
    shape = () if classes is None else (classes,)
    weight = torch.full((2, 5, *shape), 0.2, dtype=F64, requires_grad=True)
    other = None if classes is None else torch.full((2, 4, *shape), 0.25, dtype=F64)
    width = torch.full((2,), 1.3, dtype=F64, requires_grad=True)
    flags = Flag.UNBIASED | Flag.X | Flag.Y | Flag.MASSES | Flag.BANDWIDTH
    arguments = ("laplace", [0.5, 1.0], [3.0, 1.0, 1.0], int(flags), backend)
    torch.library.opcheck(mmd_op, (leaf(2, 5, 3), leaf(2, 4, 3), weight, other, width, *arguments))
    torch.library.opcheck(
        median_bandwidth_op, (torch.randn(2, 5, 3), torch.randn(2, 4, 3), None, None, backend)
    )


@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("scales", [(1.0,), (0.25, 0.5, 1.0, 2.0, 4.0), (0.7, 1.0, 3.1)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck(backend: str, kernel: str, estimator: str, scales: tuple[float, ...]) -> None:
    if kernel in ("energy", "polynomial") and len(scales) > 1:
        scales = (1.0,)

    def value(x: Tensor, y: Tensor, a: Tensor, b: Tensor, width: Tensor) -> Tensor:
        return ops.mmd(
            x, y, kernel=kernel, bandwidth=width, scales=scales, estimator=estimator, x_weight=a,
            y_weight=b, backend=backend,
        )  # fmt: skip

    inputs = (leaf(6, 3), leaf(5, 3), positive(6), positive(5), sigma())
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradgradcheck(backend: str, kernel: str, estimator: str) -> None:
    def value(x: Tensor, y: Tensor, a: Tensor, width: Tensor) -> Tensor:
        return ops.mmd(
            x, y, kernel=kernel, bandwidth=width, scales=(0.5, 1.0), estimator=estimator,
            x_weight=a, backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradgradcheck(value, (leaf(4, 2), leaf(3, 2), positive(4), sigma()))


@pytest.mark.parametrize("estimator", ["v", "u"])
def test_gradcheck_of_soft_labels(backend: str, estimator: str) -> None:
    def value(x: Tensor, y: Tensor, logits: Tensor, width: Tensor) -> Tensor:
        return ops.mmd(
            x, y, bandwidth=width, scales=(0.5, 1.0), estimator=estimator, backend=backend,
            x_class=logits.softmax(-1), y_class=torch.tensor([0, 1, 1]),
        )  # fmt: skip

    inputs = (leaf(4, 2), leaf(3, 2), leaf(4, 2), sigma())
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


def test_second_derivative_of_one_cloud_in_both_places(backend: str) -> None:
    """The tensor stands in two places: its second derivative is that of the sum of both."""
    x, step = leaf(5, 2), torch.randn(5, 2, dtype=F64)

    def value(x: Tensor) -> Tensor:
        return ops.mmd(x, x + step, bandwidth=1.2, backend=backend) + ops.mmd(
            x, x.flip(0), kernel="laplace", bandwidth=0.9, estimator="u", backend=backend
        )

    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradgradcheck(value, (x,))


def test_gradient_penalty_in_single_precision(backend: str) -> None:
    x, y = leaf(9, 3, dtype=torch.float32), torch.randn(8, 3)
    value = losses.mmd_align(x, y, backend=backend)
    plain = torch.autograd.grad(value, x, retain_graph=True)[0]
    first = torch.autograd.grad(value, x, create_graph=True)[0]
    torch.testing.assert_close(first, plain, rtol=1e-4, atol=1e-6)
    first.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


def test_backward_twice_and_scaled(backend: str) -> None:
    x, y = leaf(6, 3), torch.randn(5, 3, dtype=F64)
    value = ops.mmd(x, y, bandwidth=1.0, backend=backend)
    value.backward(retain_graph=True)
    once = x.grad.clone()
    (3 * value).backward()
    torch.testing.assert_close(x.grad, 4 * once)


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_weights_are_masks(backend: str, kernel: str) -> None:
    x, y = torch.randn(9, 3), torch.randn(7, 3)
    garbage = torch.full((2, 3), 1e30)
    for estimator in ("v", "u"):
        options = dict(kernel=kernel, bandwidth=1.3, estimator=estimator)
        short = x.clone().requires_grad_()
        one = ops.mmd(short, y, backend=backend, **options)
        one.backward()
        padding = garbage if backend == "rust" else torch.randn(2, 3)
        long = torch.cat([x, padding]).requires_grad_()
        weight = torch.cat([torch.full((9,), 1 / 9), torch.zeros(2)])
        two = ops.mmd(long, y, x_weight=weight, backend=backend, **options)
        two.backward()
        scale = abs(one.item()) + 1
        assert abs(one.item() - two.item()) <= 2e-6 * scale
        torch.testing.assert_close(long.grad[:9], short.grad, rtol=1e-4, atol=2e-6)
        assert not long.grad[9:].any()


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "energy", "rational_quadratic"])
def test_shift_by_a_hundred(backend: str, kernel: str) -> None:
    # On a grid of 1/256, so that the shift itself rounds nothing.
    x, y = ((torch.randn(n, 16) * 256).round() / 256 for n in (60, 50))
    near, far = x.clone().requires_grad_(), (x + 100).requires_grad_()
    one = losses.mmd_align(near, y, kernel=kernel, backend=backend)
    two = losses.mmd_align(far, y + 100, kernel=kernel, backend=backend)
    one.backward()
    two.backward()
    assert abs(one.item() - two.item()) <= 1e-5 * max(1.0, abs(one.item()))
    assert (near.grad - far.grad).abs().max() <= 1e-3 * near.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision(backend: str, kernel: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(17, 6).to(dtype).requires_grad_(), torch.randn(12, 6).to(dtype)
    value = ops.mmd(x, y, kernel=kernel, backend=backend)
    value.backward()
    assert value.dtype == torch.float32 and x.grad.dtype == dtype
    exact = x.detach().double().requires_grad_()
    reference = ops.mmd(exact, y.double(), kernel=kernel, backend=backend)
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-4, abs=1e-5)
    bound = torch.finfo(dtype).eps * exact.grad.abs().max() + 1e-5
    assert (x.grad.double() - exact.grad).abs().max() <= bound


def test_compiled_classes_equal_eager(backend: str) -> None:
    x, y = torch.randn(16, 4), torch.randn(12, 4)
    k, l = torch.randint(3, (16,)), torch.randint(3, (12,))  # noqa: E741
    width = torch.tensor(1.4)

    def step(x: Tensor, width: Tensor) -> Tensor:
        return losses.mmd_align(
            x, y, kernel="laplace", bandwidth=width, student_label=k, teacher_label=l,
            num_classes=3, backend=backend,
        )  # fmt: skip

    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        left, learned = x.clone().requires_grad_(), width.clone().requires_grad_()
        value = function(left, learned)
        value.backward()
        results.append((value.detach(), left.grad, learned.grad))
    torch.testing.assert_close(results[0], results[1])


def test_the_registered_operator_equals_the_direct_path(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, weight = torch.randn(3, 8, 2), torch.randn(3, 6, 2), torch.rand(3, 8) + 0.1
    results = []
    for direct in (True, False):
        if not direct:
            module = importlib.import_module("ucmkd.ops.mmd")  # hidden by the function
            monkeypatch.setattr(module, "plain", lambda *_: False)
        for rule in ("median", "mean", torch.tensor(1.1, requires_grad=True)):
            left, mass = x.clone().requires_grad_(), weight.clone().requires_grad_()
            value = ops.mmd(left, y, x_weight=mass, bandwidth=rule, backend=backend)
            (second,) = torch.autograd.grad(value.sum(), left, create_graph=True)
            value.sum().backward()
            results.append((value.detach(), left.grad, mass.grad, second.detach()))
    for one, two in zip(results[:3], results[3:], strict=True):
        torch.testing.assert_close(one, two)


def test_memory_is_linear(backend: str) -> None:
    """4,096 points against as many: the square would be 64 MiB for each matrix."""
    if backend == "torch":
        pytest.skip("the reference is dense")
    import resource

    x, y = torch.randn(4096, 16, requires_grad=True), torch.randn(4096, 16)
    ops.mmd(x[:64], y[:64], bandwidth=4.0, backend=backend).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ops.mmd(x, y, bandwidth=4.0, backend=backend).backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024
