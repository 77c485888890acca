"""Second derivatives of entropic transport: against finite differences and unrolled iterations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ucmkd import reference
from ucmkd.ops._implicit import differentiable_gradients, differentiable_gradients_cost

COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]
INF = float("inf")
Pair = tuple[Any, Any]


class _Value(torch.autograd.Function):
    """OT of a batch at float64 potentials; ``y=None`` is the self-term."""

    @staticmethod
    def forward(ctx, x, y, a, b, parameters, distance, k, l, cost, solver):  # type: ignore[no-untyped-def]  # noqa: E741
        other, b, l = (x, a, k) if y is None else (y, b, l)  # noqa: E741
        eps, rho_x, rho_y, lam = parameters
        matrix = reference.cost_matrix(x, other, cost)
        if k is not None:
            apart = (
                (k[:, :, None] != l[:, None]).double()
                if distance is None
                else distance[k[:, :, None], l[:, None]]
            )
            matrix = matrix + lam[:, None, None] * apart
        s, _ = reference.solve_dense(
            matrix, None, a, b, torch.zeros_like(b), eps, rho_x, rho_x if y is None else rho_y, lam,
            symmetric=y is None, relative=False, **solver,
        )  # fmt: skip
        ctx.save_for_backward(x, y, a, b, parameters, distance, s.x_potential, s.y_potential)
        ctx.rest = k, l, cost
        return s.value

    @staticmethod
    def backward(ctx, gv):  # type: ignore[no-untyped-def]
        *inputs, f, g = ctx.saved_tensors
        k, l, cost = ctx.rest  # noqa: E741
        if not torch.is_grad_enabled():
            inputs = [None if t is None else t.detach() for t in inputs]
        with torch.enable_grad():
            h = list(
                differentiable_gradients(
                    *inputs, x_label=k, y_label=l, f=f, g=g, cost=cost,
                    need=ctx.needs_input_grad[:6],
                )
            )  # fmt: skip
        for i in range(4):
            h[i] = None if h[i] is None else gv.view(-1, *[1] * (h[i].dim() - 1)) * h[i]
        h[4] = None if h[4] is None else gv * h[4]
        h[5] = None if h[5] is None else torch.einsum("b,bkl->kl", gv, h[5])
        return *h, None, None, None, None


def value(
    x: Tensor,
    y: Tensor | None,
    *,
    epsilon: Any = 0.5,
    cost: str = "sqeuclidean",
    x_weight: Tensor | None = None,
    y_weight: Tensor | None = None,
    reach: Any = None,
    x_label: Tensor | None = None,
    y_label: Tensor | None = None,
    label_cost: Any = 0.0,
    distance: Tensor | None = None,
    tol: float = 1e-13,
    max_iter: int = 3000,
) -> Tensor:
    """OT of one problem or of a batch, as the public operator is called."""
    single = x.dim() == 2

    def batched(t: Tensor | None) -> Tensor | None:
        return t.unsqueeze(0) if t is not None and single else t

    def mass(points: Tensor, weight: Tensor | None) -> Tensor:
        n = points.shape[-2]
        return points.new_full(points.shape[:-1], 1 / n) if weight is None else weight

    count = 1 if single else x.shape[0]
    first, second = reach if isinstance(reach, tuple) else (reach, reach)
    rows = [epsilon, INF if first is None else first, INF if second is None else second, label_cost]
    parameters = torch.stack([torch.as_tensor(r, dtype=torch.float64).expand(count) for r in rows])
    a = batched(mass(x, x_weight))
    b = a if y is None else batched(mass(y, y_weight))
    out = _Value.apply(
        batched(x), batched(y), a, b, parameters, distance, batched(x_label), batched(y_label),
        cost, dict(tol=tol, max_iter=max_iter),
    )  # fmt: skip
    return out[0] if single else out


def divergence(x: Tensor, y: Tensor, *, reach: Any = None, **options: Any) -> Tensor:
    """The debiased value, with the mass term."""
    a, b = options.pop("x_weight", None), options.pop("y_weight", None)
    k, l = options.pop("x_label", None), options.pop("y_label", None)  # noqa: E741
    first, second = reach if isinstance(reach, tuple) else (reach, reach)
    cross = value(x, y, x_weight=a, y_weight=b, reach=reach, x_label=k, y_label=l, **options)
    own_x = value(x, None, x_weight=a, reach=(first, first), x_label=k, **options)
    own_y = value(y, None, x_weight=b, reach=(second, second), x_label=l, **options)
    gap = (1 if a is None else a.sum(-1)) - (1 if b is None else b.sum(-1))
    return cross - own_x / 2 - own_y / 2 + options.get("epsilon", 0.5) / 2 * gap**2


def cost_value(c: Tensor, a: Tensor, b: Tensor, eps: Tensor, rho: Pair) -> Tensor:
    """OT for a given cost matrix."""
    parameters = torch.stack([torch.as_tensor(r, dtype=torch.float64).view(1) for r in (eps, *rho)])
    return _CostValue.apply(c[None], a[None], b[None], parameters)[0]


class _CostValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix, a, b, parameters):  # type: ignore[no-untyped-def]
        s, _ = reference.solve_dense(
            matrix, None, a, b, torch.zeros_like(b), *parameters, parameters[0] * 0,
            symmetric=False, relative=False, tol=1e-13, max_iter=3000,
        )  # fmt: skip
        ctx.save_for_backward(matrix, a, b, parameters, s.x_potential, s.y_potential)
        return s.value

    @staticmethod
    def backward(ctx, gv):  # type: ignore[no-untyped-def]
        *inputs, f, g = ctx.saved_tensors
        h = differentiable_gradients_cost(*inputs, f=f, g=g, need=ctx.needs_input_grad)
        return tuple(None if t is None else gv.view(-1, *[1] * (t.dim() - 1)) * t for t in h)


# --- helpers


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def number(v: float) -> Tensor:
    return torch.tensor(v, dtype=torch.float64, requires_grad=True)


def twice(function: Any, *inputs: Tensor, first: bool = True) -> None:
    """Both derivatives against central differences; random projections keep it fast."""
    options = dict(atol=2e-6, rtol=2e-5)
    if first:
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True, **options)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, **options)


# --- against central differences


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, "both", "student", "teacher"])
def test_every_input(cost: str, reach: str | None) -> None:
    k, l = torch.arange(5) % 2, torch.arange(4) % 2  # noqa: E741

    def function(x, y, a, b, eps, rho, lam):  # type: ignore[no-untyped-def]
        reaches = {None: None, "both": rho, "student": (rho, None), "teacher": (None, rho)}
        return value(
            x, y, epsilon=eps, cost=cost, x_weight=a.softmax(0), y_weight=b.softmax(0),
            reach=reaches[reach], x_label=k, y_label=l, label_cost=lam,
        )  # fmt: skip

    inputs = (leaf(5, 3), leaf(4, 3), leaf(5), leaf(4), number(0.5), number(1.5), number(0.7))
    twice(function, *inputs)


@pytest.mark.parametrize("reach", [None, 1.5])
def test_exhaustively(reach: float | None) -> None:
    """Every entry of the Hessian, not projections."""

    def function(x, y, a, eps):  # type: ignore[no-untyped-def]
        return value(x, y, epsilon=eps, x_weight=a.softmax(0), reach=reach)

    assert torch.autograd.gradgradcheck(function, (leaf(4, 2), leaf(3, 2), leaf(4), number(0.4)))


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, 0.8, (2.0, 0.5)])
def test_divergence(cost: str, reach: Any) -> None:
    k, l = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def function(x, y, a, b, eps, lam):  # type: ignore[no-untyped-def]
        return divergence(
            x, y, epsilon=eps, cost=cost, x_weight=a.softmax(0), y_weight=b.softmax(0),
            reach=reach, x_label=k, y_label=l, label_cost=lam,
        )  # fmt: skip

    twice(function, leaf(5, 3), leaf(4, 3), leaf(5), leaf(4), number(0.5), number(0.4))


def test_self_term_and_its_reach() -> None:
    def function(x, a, eps, rho):  # type: ignore[no-untyped-def]
        return value(x, None, epsilon=eps, x_weight=a.exp(), reach=rho)

    twice(function, leaf(5, 2), leaf(5), number(0.3), number(0.9))


def test_unequal_masses() -> None:
    def function(x, a, b, eps, rho):  # type: ignore[no-untyped-def]
        return divergence(x, y, epsilon=eps, x_weight=a.exp(), y_weight=3 * b.exp(), reach=rho)

    y = torch.randn(4, 2, dtype=torch.float64)
    twice(function, leaf(5, 2), leaf(5), leaf(4), number(0.4), number(1.1))


def test_equal_masses_other_than_one() -> None:
    def function(x, y, a, b, mass):  # type: ignore[no-untyped-def]
        return value(x, y, x_weight=mass * a.softmax(0), y_weight=mass * b.softmax(0))

    twice(function, leaf(5, 2), leaf(4, 2), leaf(5), leaf(4), number(2.5))


@pytest.mark.parametrize("reach", [None, 0.7])
def test_class_distances(reach: float | None) -> None:
    k, l = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([1, 0, 2, 2])  # noqa: E741

    def function(x, y, distance, lam):  # type: ignore[no-untyped-def]
        return value(
            x, y, reach=reach, x_label=k, y_label=l, label_cost=lam, distance=distance.exp()
        )

    def own(x, d):  # type: ignore[no-untyped-def]
        symmetric = (d @ d.T).square()
        return value(x, None, reach=reach, x_label=k, label_cost=0.3, distance=symmetric)

    twice(function, leaf(5, 2), leaf(4, 2), leaf(2, 3), number(0.5))
    twice(own, leaf(5, 2), leaf(2, 2))


def test_batch_of_two_is_two_problems() -> None:
    def function(x, y, a, distance, eps):  # type: ignore[no-untyped-def]
        out = value(
            x, y, x_weight=a.softmax(-1), epsilon=eps, x_label=k, y_label=l, label_cost=1.0,
            distance=distance,
        )  # fmt: skip
        return out * torch.tensor([1.0, -3.0], dtype=torch.float64)

    k, l = torch.tensor([[0, 1, 1, 0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])  # noqa: E741
    eps = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    twice(function, leaf(2, 4, 2), leaf(2, 3, 2), leaf(2, 4), leaf(2, 2), eps)


@pytest.mark.parametrize("reach", [(INF, INF), (0.8, INF), (1.2, 0.7)])
def test_cost_matrix(reach: Pair) -> None:
    def function(c, a, b, eps, rho):  # type: ignore[no-untyped-def]
        reaches = tuple(rho * r if r < INF else r for r in reach)
        return cost_value(c, a.softmax(0), b.softmax(0), eps, reaches)

    twice(function, leaf(5, 4), leaf(5), leaf(4), number(0.5), number(1.0))


# --- against unrolled iterations, and against the first derivatives of the operator


def unrolled(x: Tensor, y: Tensor, a: Tensor, b: Tensor, eps: float, reach: float) -> Tensor:
    """OT by 400 iterations in the graph, independent of the implicit function theorem."""
    matrix = ((x[:, None] - y[None]) ** 2).sum(-1)
    tau = 1.0 if reach == INF else reach / (reach + eps)
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(400):
        f = -tau * eps * torch.logsumexp((g - matrix) / eps + b.log(), 1)
        g = -tau * eps * torch.logsumexp((f[:, None] - matrix) / eps + a.log()[:, None], 0)
    plan = a[:, None] * b * torch.exp((f[:, None] + g - matrix) / eps)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log() - p + q).sum()

    primal = (plan * matrix).sum() + eps * kl(plan, a[:, None] * b)
    if reach < INF:
        primal = primal + reach * (kl(plan.sum(1), a) + kl(plan.sum(0), b))
    return primal


@pytest.mark.parametrize("reach", [None, 1.5])
def test_hessian_is_that_of_unrolled_iterations(reach: float | None) -> None:
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    a, b = torch.rand(5).double().softmax(0), torch.rand(4).double().softmax(0)

    def ours(x: Tensor) -> Tensor:
        return value(x, y, x_weight=a, y_weight=b, epsilon=0.8, reach=reach)

    def theirs(x: Tensor) -> Tensor:
        return unrolled(x, y, a, b, 0.8, INF if reach is None else reach)

    hessian = torch.autograd.functional.hessian(ours, x)
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(theirs, x), rtol=1e-8, atol=1e-9
    )
    flat = hessian.reshape(10, 10)
    torch.testing.assert_close(flat, flat.T, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reach", [None, (1.5, 0.6)])
@pytest.mark.parametrize("cost", COSTS)
def test_first_derivatives_are_those_of_the_operator(cost: str, reach: Any) -> None:
    from ucmkd import ops

    x, y, eps = leaf(6, 3), leaf(5, 3), number(0.4)
    a, b = torch.rand(6).double().softmax(0), torch.rand(5).double().softmax(0)
    a.requires_grad_(), b.requires_grad_()
    k, l = torch.arange(6) % 3, torch.arange(5) % 3  # noqa: E741
    options = dict(epsilon=eps, cost=cost, reach=reach, x_label=k, y_label=l, label_cost=0.3)
    options |= dict(x_weight=a, y_weight=b, tol=1e-13, max_iter=3000)
    ours = torch.autograd.grad(value(x, y, **options), (x, y, a, b, eps))
    theirs = torch.autograd.grad(
        ops.sinkhorn(x, y, backend="torch", **options).value, (x, y, a, b, eps)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


# --- hard inputs


def hessian_vector(function: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first = torch.autograd.grad(function(*inputs), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(3)
    total = sum((g * torch.randn(g.shape, generator=generator).to(g)).sum() for g in first)
    return torch.autograd.grad(total, inputs)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("reach", [None, 0.9])
def test_masked_points_are_as_left_out(cost: str, reach: float | None) -> None:
    x, y, a = leaf(6, 2), leaf(5, 2), torch.rand(6).double()
    a[4:] = 0
    a, b = a / a.sum(), torch.tensor([0.3, 0.3, 0.4, 0, 0]).double()

    def full(x: Tensor, y: Tensor) -> Tensor:
        return divergence(x, y, x_weight=a, y_weight=b, cost=cost, reach=reach)

    def cropped(x: Tensor, y: Tensor) -> Tensor:
        return divergence(x[:4], y[:3], x_weight=a[:4], y_weight=b[:3], cost=cost, reach=reach)

    first, second = hessian_vector(full, (x, y)), hessian_vector(cropped, (x, y))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-10)


def test_weight_of_a_masked_point() -> None:
    """The Hessian at weight 0 is the limit of that at small weights."""
    x, y = torch.randn(4, 2).double(), torch.randn(3, 2).double()

    def hessian(small: float) -> Tensor:
        a = torch.tensor([0.5, 0.3, 0.2, small], dtype=torch.float64)
        return torch.autograd.functional.hessian(lambda w: value(x, y, x_weight=w, reach=0.8), a)

    torch.testing.assert_close(hessian(0.0), hessian(1e-9), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cost", COSTS)
def test_degenerate_clouds_are_finite(cost: str) -> None:
    zero, ones = torch.zeros(4, 2).double(), torch.ones(3, 2).double()
    for x, y in ((zero, zero[:3]), (ones[:2], ones), (zero[:1], ones[:1]), (ones, ones)):
        for reach in (None, 1.0):
            pair = (x.clone().requires_grad_(), y.clone().requires_grad_())
            out = hessian_vector(lambda x, y: divergence(x, y, cost=cost, reach=reach), pair)  # noqa: B023
            assert all(torch.isfinite(t).all() for t in out)


@pytest.mark.parametrize("epsilon", [1e-3, 0.02, 0.3])
@pytest.mark.parametrize("reach", [None, 1.0])
def test_not_converged_is_finite(epsilon: float, reach: float | None) -> None:
    for max_iter in (1, 3, 30):
        out = hessian_vector(
            lambda x, y: divergence(
                x, y, epsilon=epsilon, reach=reach, tol=1e-3, max_iter=max_iter  # noqa: B023
            ),
            (leaf(12, 2), leaf(9, 2)),
        )  # fmt: skip
        assert all(torch.isfinite(t).all() for t in out)


def test_far_from_the_origin_and_float32() -> None:
    x, y = torch.randn(8, 3).double(), torch.randn(7, 3).double()

    def apply(shift: float, dtype: torch.dtype) -> Tensor:
        inputs = tuple((t + shift).to(dtype).requires_grad_() for t in (x, y))
        out = hessian_vector(lambda x, y: divergence(x.double(), y.double(), epsilon=1.0), inputs)[
            0
        ]
        assert out.dtype == dtype
        return out.double()

    exact = apply(0.0, torch.float64)
    torch.testing.assert_close(apply(1e4, torch.float64), exact, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(apply(0.0, torch.float32), exact, rtol=1e-4, atol=1e-5)


def test_a_third_derivative_raises() -> None:
    x, y = leaf(4, 2), torch.randn(3, 2).double()
    (first,) = torch.autograd.grad(value(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(second.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        second.sum().backward()


def test_inputs_that_depend_on_each_other() -> None:
    """``y`` a function of ``x``, the same tensor twice: only explicit uses count as explicit."""

    def function(x):  # type: ignore[no-untyped-def]
        return value(x, x.sin()[:4], x_weight=x[:, 0].softmax(0), epsilon=1.0) + value(
            x, x, epsilon=1.0
        )

    twice(function, leaf(5, 2))
