"""Class distances in the cost, and batches: both on every backend."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ucmkd import losses, ops

N, M = 6, 5
X_LABEL, Y_LABEL = torch.tensor([0, 1, 1, 0, 2, 1]), torch.tensor([3, 0, 2, 2, 1])
SOLVER = dict(tol=1e-11, max_iter=20_000)


def clouds() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(N, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(M, 3, dtype=torch.float64)
    distance = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    return x, y, distance


@pytest.mark.parametrize("reach", [None, (0.7, None), 1.3])
def test_equals_a_cost_matrix(backend: str, reach: float | tuple[float, None] | None) -> None:
    x, y, distance = clouds()
    out = ops.sinkhorn(
        x, y, epsilon=0.4, reach=reach, x_label=X_LABEL, y_label=Y_LABEL, label_cost=distance,
        backend=backend, **SOLVER,
    )  # fmt: skip
    matrix = torch.cdist(x, y).square() + distance[X_LABEL[:, None], Y_LABEL]
    expected = ops.sinkhorn_cost(matrix, epsilon=0.4, reach=reach, backend=backend, **SOLVER)
    torch.testing.assert_close(out.value, expected.value, rtol=1e-9, atol=1e-10)
    for leaf in (x, distance):
        torch.testing.assert_close(
            torch.autograd.grad(out.value, leaf, retain_graph=True),
            torch.autograd.grad(expected.value, leaf, retain_graph=True),
            rtol=1e-6, atol=1e-8,
        )  # fmt: skip


def test_derivatives_in_a_batch(backend: str) -> None:
    x = torch.randn(2, N, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, M, 2, dtype=torch.float64)
    labels = X_LABEL.repeat(2, 1), torch.stack([Y_LABEL, Y_LABEL.flip(0)])
    _, _, distance = clouds()

    def value(x: Tensor, distance: Tensor) -> Tensor:
        return ops.sinkhorn(
            x, y, epsilon=0.5, reach=2.0, x_label=labels[0], y_label=labels[1],
            label_cost=distance, backend=backend, **SOLVER,
        ).value  # fmt: skip

    assert gradcheck(value, (x, distance))


def test_the_indicator_is_the_number(backend: str) -> None:
    x, y, _ = clouds()
    label = Y_LABEL % 3
    apart = 1 - torch.eye(3, dtype=torch.float64)
    options = dict(student_label=X_LABEL, teacher_label=label, backend=backend, tol=1e-9)
    one = losses.sinkhorn_align(x, y, label_cost=0.8, **options)
    two = losses.sinkhorn_align(x, y, label_cost=0.8 * apart, **options)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_debiased_gradient(backend: str) -> None:
    x, y, _ = clouds()
    half = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)

    def value(x: Tensor, half: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, epsilon=0.5, epsilon_scale=None, student_label=X_LABEL,
            teacher_label=Y_LABEL % 3, label_cost=half + half.T, backend=backend, **SOLVER,
        )  # fmt: skip

    assert gradcheck(value, (x, half))


@pytest.mark.parametrize(
    ("distance", "labels", "message"),
    [
        (torch.rand(3, 4), (X_LABEL, Y_LABEL), "label_cost must be square with debias=True"),
        (torch.rand(4, 4), (X_LABEL, Y_LABEL), "label_cost must be symmetric with debias=True"),
        (torch.ones(2, 4), (X_LABEL, Y_LABEL), "student_label must lie in 0..1"),
        (torch.ones(4, 4), (X_LABEL, Y_LABEL - 1), "teacher_label must lie in 0..3"),
        (torch.full((4, 4), torch.inf), (X_LABEL, Y_LABEL), "label_cost must be finite"),
        (torch.ones(4, 4), (None, None), "needs student_label and teacher_label"),
    ],
)
def test_mistakes(distance: Tensor, labels: tuple[Tensor, Tensor], message: str) -> None:
    x, y = torch.randn(N, 3), torch.randn(M, 3)
    with pytest.raises(ValueError, match=message):
        losses.sinkhorn_align(
            x, y, student_label=labels[0], teacher_label=labels[1], label_cost=distance
        )


def test_compiled(backend: str) -> None:
    x, y, distance = (t.detach().float() for t in clouds())

    def value(x: Tensor, distance: Tensor) -> Tensor:
        return losses.sinkhorn_align(
            x, y, debias=False, student_label=X_LABEL, teacher_label=Y_LABEL, label_cost=distance,
            backend=backend,
        )  # fmt: skip

    torch.testing.assert_close(
        torch.compile(value, fullgraph=True)(x, distance), value(x, distance)
    )


def test_a_thousand_small_problems(backend: str) -> None:
    """Each of a batch stops on its own, and is what it is alone."""
    x = torch.randn(1024, 32, 8, requires_grad=True)
    # Some are harder than others.
    y = torch.randn(1024, 32, 8) * torch.linspace(0.5, 2.0, 1024)[:, None, None]
    options = dict(epsilon=1.5, tol=1e-3, backend=backend)
    out = ops.sinkhorn(x, y, **options)
    assert bool(out.converged.all()) and out.iterations.unique().numel() > 3
    (gradient,) = torch.autograd.grad(out.value.sum(), x)
    for k in (0, 511, 1023):
        single = x[k].detach().requires_grad_()
        alone = ops.sinkhorn(single, y[k], **options)
        assert int(alone.iterations) == int(out.iterations[k])
        torch.testing.assert_close(alone.value, out.value[k], rtol=1e-6, atol=1e-6)
        (expected,) = torch.autograd.grad(alone.value, single)
        torch.testing.assert_close(gradient[k], expected, rtol=1e-4, atol=1e-6)
