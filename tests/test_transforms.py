"""The losses inside ``torch.func``: each against calls one by one outside of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, jacrev, vjp, vmap

from ucmkd import losses

pytestmark = pytest.mark.usefixtures("one_thread")
ALIGNMENTS = ["sinkhorn_align", "feature_align", "mmd_align", "energy_align", "coral_align"]
Loss = Callable[..., Tensor]


def loss_of(name: str, backend: str) -> Loss:
    """With a residual at which starts of a solve do not show."""
    options: dict[str, Any] = {} if name == "coral_align" else {"backend": backend}
    if name in ("sinkhorn_align", "feature_align"):
        options["tol"] = 1e-6
    return lambda x, y, **more: getattr(losses, name)(x, y, **options, **more)


def clouds(*batch: int, n: int = 14, m: int = 11) -> tuple[Tensor, Tensor]:
    return torch.randn(*batch, n, 4), torch.randn(*batch, m, 4) + 0.5


def outside(loss: Loss, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient by ``backward``."""
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_grad(backend: str, name: str) -> None:
    loss = loss_of(name, backend)
    x, y = clouds()
    value, slope = outside(loss, x, y)
    found, number = grad_and_value(loss)(x, y)
    close(number, value)
    close(found, slope)
    _, pull = vjp(lambda x: loss(x, y), x)
    close(pull(torch.tensor(2.5))[0], 2.5 * slope)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_vmap(backend: str, name: str) -> None:
    """Both sides mapped, one of them, and a batched problem mapped over another dimension."""
    loss = loss_of(name, backend)
    x, y = clouds(3)
    each = [outside(loss, *pair) for pair in zip(x, y, strict=True)]
    values, slopes = (torch.stack(parts) for parts in zip(*each, strict=True))
    close(vmap(loss)(x, y), values)
    close(vmap(grad(loss))(x, y), slopes)
    close(grad(lambda x: vmap(loss)(x, y).sum())(x), slopes)
    close(vmap(loss, (None, 0))(x[0], y), torch.stack([loss(x[0], t) for t in y]))
    close(vmap(loss, (1, 1))(x.movedim(0, 1), y.movedim(0, 1)), values)
    batched, others = clouds(2, 3)
    flat = loss(batched.flatten(0, 1), others.flatten(0, 1), reduction="none").unflatten(0, (2, 3))
    close(vmap(lambda x, y: loss(x, y, reduction="none"))(batched, others), flat)
    twice = vmap(vmap(loss))
    close(twice(batched, others), flat)


@pytest.mark.parametrize("name", ["sinkhorn_align", "mmd_align"])
def test_jacrev(backend: str, name: str) -> None:
    """Values of a batch depend on their own points alone."""
    loss = loss_of(name, backend)
    x, y = clouds(3)
    found = jacrev(lambda x: loss(x, y, reduction="none"))(x)
    for i in range(3):
        close(found[i, i], outside(loss, x[i], y[i])[1])
        assert not found[i, torch.arange(3) != i].any()


def test_weights_labels_and_numbers_of_sinkhorn(backend: str) -> None:
    """Gradients to masses, ε, ρ and label cost; mapped over each of them."""
    loss = loss_of("sinkhorn_align", backend)
    x, y = clouds()
    k, other = torch.arange(14) % 3, torch.arange(11) % 3
    mass, numbers = torch.rand(14) + 0.5, torch.tensor([0.3, 1.5, 0.4])

    def value(mass: Tensor, numbers: Tensor, k: Tensor) -> Tensor:
        return loss(
            x, y, student_weight=mass / mass.sum(), student_label=k, teacher_label=other,
            epsilon=numbers[0], reach=numbers[1], label_cost=numbers[2],
        )  # fmt: skip

    def expected(mass: Tensor, numbers: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        leaves = [mass.clone().requires_grad_(), numbers.clone().requires_grad_()]
        return torch.autograd.grad(value(*leaves, k), leaves)

    for found, wanted in zip(grad(value, (0, 1))(mass, numbers, k), expected(mass, numbers, k)):  # noqa: B905
        close(found, wanted)
    masses, rows = torch.rand(2, 14) + 0.5, numbers * torch.tensor([[1.0], [1.3]])
    labels = torch.stack([k, k.flip(0)])
    mapped = vmap(grad(value, (0, 1)))(masses, rows, labels)
    for i in range(2):
        for found, wanted in zip(mapped, expected(masses[i], rows[i], labels[i]), strict=True):
            close(found[i], wanted)
    over_labels = vmap(value, (None, None, 0))(mass, numbers, labels)
    close(over_labels, torch.stack([value(mass, numbers, row) for row in labels]))


def test_weights_classes_and_bandwidth_of_mmd(backend: str) -> None:
    loss = loss_of("mmd_align", backend)
    x, y = clouds()
    k, other = torch.arange(14) % 3, torch.arange(11) % 3

    def value(mass: Tensor, sigma: Tensor) -> Tensor:
        return loss(
            x, y, student_weight=mass, bandwidth=sigma, student_label=k, teacher_label=other,
            num_classes=3,
        )  # fmt: skip

    masses, widths = torch.rand(2, 14) + 0.5, torch.tensor([1.5, 2.0])
    found = vmap(grad(value, (0, 1)))(masses, widths)
    for i in range(2):
        leaves = [masses[i].clone().requires_grad_(), widths[i].clone().requires_grad_()]
        for a, b in zip(found, torch.autograd.grad(value(*leaves), leaves), strict=True):
            close(a[i], b)
    with pytest.raises(ValueError, match=r"num_classes must be given .* torch\.func\.vmap"):
        vmap(lambda x: loss(x, y, student_label=k, teacher_label=other))(torch.stack([x, x]))


def test_ensemble_of_models(backend: str) -> None:
    """The usual use: parameters of several students, mapped."""
    layer = torch.nn.Linear(6, 4)
    inputs, (_, y) = torch.randn(14, 6), clouds()
    stacked = {n: torch.randn(3, *p.shape) for n, p in layer.named_parameters()}

    def value(parameters: dict[str, Tensor]) -> Tensor:
        features = functional_call(layer, parameters, (inputs,))
        return losses.sinkhorn_align(features, y, tol=1e-6, backend=backend)

    found = vmap(grad(value))(stacked)
    for i in range(3):
        alone = {n: p[i].clone().requires_grad_() for n, p in stacked.items()}
        wanted = torch.autograd.grad(value(alone), list(alone.values()))
        for name, expected in zip(alone, wanted, strict=True):
            close(found[name][i], expected)


def test_what_is_not_there_is_refused(backend: str) -> None:
    """A second derivative would be wrong in silence; the sharp value has none here."""
    x, y = clouds()
    for name in ("sinkhorn_align", "mmd_align"):
        loss = loss_of(name, backend)
        with pytest.raises(NotImplementedError, match="create_graph=True"):
            grad(lambda x, loss=loss: grad(loss)(x, y).square().sum())(x)  # type: ignore[misc]
    k, l, distance = torch.arange(6) % 3, torch.arange(5) % 3, 1 - torch.eye(3)  # noqa: E741
    options = dict(student_label=k, teacher_label=l, debias=False, backend=backend)
    p, q = torch.randn(6, 2), torch.randn(5, 2)

    def steepness(d: Tensor) -> Tensor:
        slope = torch.func.grad(lambda z: losses.sinkhorn_align(z, q, label_cost=d, **options))(p)
        return slope.square().sum()

    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.func.grad(steepness)(distance)
    with pytest.raises(NotImplementedError, match="sharp=True"):
        grad(lambda x: losses.sinkhorn_align(x, y, sharp=True, backend=backend))(x)
    state = losses.SinkhornState()
    grad(lambda x: losses.sinkhorn_align(x, y, state=state, backend=backend))(x)
    assert state.iterations == (0, 0, 0)  # nothing of the transform is kept beyond it


def test_bad_input_is_named_inside_a_transform(backend: str) -> None:
    x, y = clouds()
    x[3, 1] = torch.nan
    for name in ALIGNMENTS:
        with pytest.raises(ValueError, match="student must be finite"):
            grad(loss_of(name, backend))(x, y)
        with pytest.raises(ValueError, match="same width"):
            vmap(loss_of(name, backend))(torch.randn(2, 5, 3), torch.randn(2, 5, 4))
