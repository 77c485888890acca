"""The operators as PyTorch sees them: registration, autograd, torch.compile, autocast, dtypes."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ucmkd
from ucmkd import _backend, losses, ops
from ucmkd.ops._sinkhorn_op import sinkhorn_op
from ucmkd.ops._solve import Flag
from ucmkd.ops.sinkhorn_cost import sinkhorn_cost_op

COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


# opcheck: all utilities (schema, autograd registration, fake tensor, aot dispatch).


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck_sinkhorn(backend: str, dtype: torch.dtype, symmetric: bool) -> None:
    x, y = leaf(2, 5, 3, dtype=dtype), leaf(2, 4, 3, dtype=dtype)
    weight = torch.full((2, 5), 0.2, dtype=dtype, requires_grad=True)
    numbers = torch.tensor([[0.5], [2.0], [3.0], [0.7]], dtype=torch.float64)
    parameters = numbers.repeat(1, 2).requires_grad_()
    labels = torch.tensor([[0, 1, 0, 1, 1]] * 2), torch.tensor([[0, 1, 1, 0]] * 2)
    torch.library.opcheck(
        sinkhorn_op,
        (
            x, None if symmetric else y, weight, None, labels[0],
            None if symmetric else labels[1], None, None, parameters, "euclidean", 1e-4, 100,
            Flag.X | Flag.Y * (not symmetric) | Flag.ACCELERATE, backend,
        ),
    )  # fmt: skip


def test_opcheck_sinkhorn_cost(backend: str) -> None:
    matrix = torch.rand(2, 5, 4, dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([[0.5], [2.0], [3.0]], dtype=torch.float64)
    parameters = numbers.repeat(1, 2).requires_grad_()
    weight = torch.full((2, 5), 0.2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(
        sinkhorn_cost_op,
        (matrix, weight, None, None, parameters, 1e-4, 100, True, True, backend),
    )


# gradcheck in float64: points, weights, ε, ρ, label cost, through the losses too.


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, "both", "student"])
def test_gradcheck_sinkhorn(backend: str, cost: str, reach: str | None) -> None:
    x, y, a, b = leaf(6, 3), leaf(5, 3), leaf(6), leaf(5)
    k, l = torch.arange(6) % 2, torch.arange(5) % 2  # noqa: E741

    def value(
        x: Tensor, y: Tensor, a: Tensor, b: Tensor, eps: Tensor, rho: Tensor, lam: Tensor
    ) -> Tensor:
        return ops.sinkhorn(
            x, y, epsilon=eps, cost=cost, x_weight=a.softmax(0), y_weight=b.softmax(0),
            reach={None: None, "both": rho, "student": (rho, None)}[reach], x_label=k, y_label=l,
            label_cost=lam, tol=1e-13, max_iter=5000, backend=backend,
        ).value  # fmt: skip

    inputs = (x, y, a, b, number(0.5), number(1.5), number(0.7))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("reach", [None, 1.5])
def test_gradcheck_sinkhorn_align(
    backend: str, debias: bool, sharp: bool, reach: float | None
) -> None:
    def value(x: Tensor, y: Tensor, a: Tensor, eps: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=eps, epsilon_scale=None, reach=reach, debias=debias, sharp=sharp,
            student_weight=a.softmax(0), tol=1e-13, max_iter=5000, detach_teacher=False,
            backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(value, (leaf(6, 3), leaf(5, 3), leaf(6), number(0.5)))


def test_gradcheck_unequal_masses(backend: str) -> None:
    """Masses that differ: the weight gradient has the mass terms too."""

    def value(a: Tensor, b: Tensor, eps: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=eps, epsilon_scale=None, reach=0.8, student_weight=a, teacher_weight=b,
            tol=1e-13, max_iter=5000, detach_teacher=False, backend=backend,
        )  # fmt: skip

    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    a, b = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(5, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(value, (a.requires_grad_(), b.requires_grad_(), number(0.4)))


def test_gradcheck_batched(backend: str) -> None:
    def value(x: Tensor, y: Tensor) -> Tensor:
        return ops.sinkhorn(x, y, epsilon=0.6, tol=1e-13, max_iter=5000, backend=backend).value

    assert torch.autograd.gradcheck(value, (leaf(3, 4, 2), leaf(3, 5, 2)))


def test_gradcheck_cost_matrix(backend: str) -> None:
    def value(c: Tensor, a: Tensor, b: Tensor, eps: Tensor, rho: Tensor) -> Tensor:
        balanced = ops.sinkhorn_cost(
            c, epsilon=eps, x_weight=a.softmax(0), y_weight=b.softmax(0), tol=1e-13,
            max_iter=5000, backend=backend,
        )  # fmt: skip
        relaxed = ops.sinkhorn_cost(
            c, epsilon=eps, x_weight=a.exp(), reach=rho, tol=1e-13, max_iter=5000, backend=backend
        )
        return balanced.value + relaxed.value

    inputs = (leaf(6, 5), leaf(6), leaf(5), number(0.5), number(1.5))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_gradient_of_relative_epsilon(backend: str, epsilon: float) -> None:
    """The mean cost is detached: the gradient is that at the absolute ε, times the mean."""
    x, y, eps = leaf(12, 3), leaf(9, 3), number(epsilon)
    options = dict(debias=True, tol=1e-12, max_iter=5000, backend=backend)
    losses.sinkhorn_align(x, y, epsilon=eps, **options).backward()
    relative, points = eps.grad.clone(), x.grad.clone()
    mean = (torch.cdist(x, y) ** 2).mean().item()
    absolute = number(epsilon * mean)
    x.grad = None
    losses.sinkhorn_align(x, y, epsilon=absolute, epsilon_scale=None, **options).backward()
    torch.testing.assert_close(points, x.grad)
    torch.testing.assert_close(relative, mean * absolute.grad)


def test_potentials_are_detached_and_value_is_not(backend: str) -> None:
    out = ops.sinkhorn(leaf(5, 2), leaf(4, 2), epsilon=0.5, backend=backend)
    assert out.value.requires_grad
    assert not any(t.requires_grad for t in out[1:])


# torch.compile and autocast.


def training_step(backend: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def step(weight: Tensor, inputs: Tensor, teacher: Tensor) -> Tensor:
        features = torch.tanh(inputs @ weight)
        return losses.sinkhorn_align(features, teacher, backend=backend) + losses.mmd_align(
            features, teacher, backend=backend
        )

    return step


def test_compiled_step_equals_eager(backend: str) -> None:
    inputs, teacher = torch.randn(16, 8), torch.randn(12, 4)
    eager, compiled = (leaf(8, 4, dtype=torch.float32) for _ in range(2))
    compiled.data.copy_(eager.data)
    step = training_step(backend)
    value = step(eager, inputs, teacher)
    value.backward()
    again = torch.compile(step, fullgraph=True)(compiled, inputs, teacher)
    again.backward()
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_autocast_computes_in_float32(backend: str) -> None:
    layer = torch.nn.Linear(8, 4)
    inputs, teacher = torch.randn(16, 8), torch.randn(12, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = layer(inputs)
        assert features.dtype == torch.bfloat16
        value = training_step(backend)(layer.weight.T, inputs, teacher)
        direct = losses.sinkhorn_align(features, teacher, backend=backend)
    assert value.dtype == direct.dtype == torch.float32
    direct.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [losses.sinkhorn_align, losses.mmd_align, losses.feature_align])
def test_half_precision_features(
    backend: str, loss: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    x = torch.randn(17, 6).to(dtype).requires_grad_()
    y = torch.randn(12, 6).to(dtype)
    value = loss(x, y, backend=backend)
    value.backward()
    assert value.dtype == torch.float32 and x.grad.dtype == dtype
    exact = x.detach().double().requires_grad_()
    reference = loss(exact, y.double(), backend=backend)
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-4)
    # The gradient is rounded once, to the input's own type.
    bound = 2 * torch.finfo(dtype).eps * exact.grad.abs().max() + 1e-5
    assert (x.grad.double() - exact.grad).abs().max() <= bound


def test_non_contiguous_and_expanded_inputs(backend: str) -> None:
    base = torch.randn(6, 20)
    x, y = base.T[::2], torch.randn(1, 6).expand(7, 6)
    for loss in (losses.sinkhorn_align, losses.mmd_align):
        torch.testing.assert_close(
            loss(x, y, backend=backend), loss(x.clone(), y.clone(), backend=backend)
        )
    left = x.clone().requires_grad_()
    (2 * losses.sinkhorn_align(left, y, backend=backend)).backward()
    assert torch.isfinite(left.grad).all()


def test_shift_by_a_hundred(backend: str) -> None:
    x, y = torch.randn(40, 16), torch.randn(30, 16) + 0.5
    for loss in (losses.sinkhorn_align, losses.mmd_align, losses.feature_align):
        near, far = x.clone().requires_grad_(), (x + 100).requires_grad_()
        one, two = loss(near, y, backend=backend), loss(far, y + 100, backend=backend)
        one.backward()
        two.backward()
        # Adding 100 itself rounds the points to 2^-17: that much is in the input.
        assert abs(one.item() - two.item()) <= 2e-5 * max(1.0, abs(one.item()))
        assert (near.grad - far.grad).abs().max() <= 1e-3 * near.grad.abs().max() + 1e-6


def test_backends_agree() -> None:
    x, y = torch.randn(3, 33, 7), torch.randn(3, 20, 7)
    k, l = torch.randint(3, (3, 33)), torch.randint(3, (3, 20))  # noqa: E741
    for cost in COSTS:
        for reach in (None, 1.0):
            results = []
            for name in ("torch", "rust"):
                left = x.clone().requires_grad_()
                value = losses.sinkhorn_align(
                    left, y, cost=cost, reach=reach, student_label=k, teacher_label=l,
                    label_cost=0.5, tol=1e-6, reduction="none", backend=name,
                )  # fmt: skip
                value.sum().backward()
                results.append((value.detach(), left.grad))
            torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_backends_report_and_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    status = ucmkd.backends()
    assert set(status) == {"triton", "rust", "torch"}
    assert status["rust"].available and status["torch"].available
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"backend='triton' cannot run here: .*float64"):
        ops.sinkhorn(x, y, epsilon=1.0, backend="triton")
    with pytest.raises(ValueError, match="backend must be"):
        ops.sinkhorn(x, y, epsilon=1.0, backend="cuda")
    monkeypatch.setenv("UCMKD_BACKEND", "triton")
    with pytest.warns(UserWarning, match="UCMKD_BACKEND=triton is not used"):
        ops.mmd(x, y)
    monkeypatch.setenv("UCMKD_BACKEND", "fpga")
    with pytest.raises(ValueError, match="UCMKD_BACKEND must be"):
        ops.mmd(x, y)


def test_a_gpu_without_triton_says_once_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from ucmkd.ops import _triton

    reason = "the kernels need compute capability 8.0 or newer; this GPU has 7.0"
    monkeypatch.setattr(_triton, "available", lambda: (False, reason))
    monkeypatch.setattr(_backend, "_told", set())
    device = torch.device("cuda")
    with pytest.warns(UserWarning, match=r"plain PyTorch computes on cuda.*7\.0"):
        assert _backend.choose("auto", device, torch.float32) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _backend.choose("auto", device, torch.float32) == "torch"
        assert _backend.choose("auto", device, torch.float64) == "torch"
    with pytest.raises(ValueError, match=r"backend='triton' cannot run here.*7\.0"):
        _backend.choose("triton", device, torch.float32)
    assert not ucmkd.backends()["triton"].available
    assert reason in ucmkd.backends()["triton"].detail
