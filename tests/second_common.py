"""Values with two derivatives for the tests: solved by the reference, derived by the package."""

from typing import Any

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
    tol: float = 1e-12,
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
            symmetric=False, relative=False, tol=1e-12, max_iter=3000,
        )  # fmt: skip
        ctx.save_for_backward(matrix, a, b, parameters, s.x_potential, s.y_potential)
        return s.value

    @staticmethod
    def backward(ctx, gv):  # type: ignore[no-untyped-def]
        *inputs, f, g = ctx.saved_tensors
        h = differentiable_gradients_cost(*inputs, f=f, g=g, need=ctx.needs_input_grad)
        return tuple(None if t is None else gv.view(-1, *[1] * (t.dim() - 1)) * t for t in h)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def number(v: float) -> Tensor:
    return torch.tensor(v, dtype=torch.float64, requires_grad=True)


def twice(function: Any, *inputs: Tensor, first: bool = False) -> None:
    """The second derivative, and if asked the first, against central differences.

    Random projections keep it fast.
    """
    options = dict(atol=2e-6, rtol=2e-5)
    if first:
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True, **options)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, **options)
