r"""Second derivatives without a matrix in memory, for the squared distance on the Triton kernels.

The gradient of :math:`\mathrm{OT}_\varepsilon` to the points, :math:`\nabla_i = 2s\sum_j P_{ij}
(x_i-y_j)`, paired with directions :math:`t, t'` for the two clouds, is

.. math::
    G = \sum_{ij} P_{ij} D_{ij},\qquad D_{ij} = 2s\,\langle t_i - t'_j,\; x_i - y_j\rangle,

and the Hessian's product with :math:`(t,t')` is the derivative of :math:`G`, where the potentials
move with the points as in :mod:`ucmkd.ops._implicit`: with the right sides
:math:`\sum_j P_{ij}D_{ij}/\varepsilon` and :math:`\sum_i P_{ij}D_{ij}/\varepsilon` of the adjoint
system and its solution :math:`(u,v)`,

.. math::
    \frac{\partial G}{\partial x_i} = 2s\sum_j P_{ij}(t_i-t'_j) + 2s\sum_j Q_{ij}(x_i-y_j),\qquad
    Q_{ij} = P_{ij}\,(u_i+v_j-D_{ij}/\varepsilon).

All sums are applications of the plan to a few columns (:mod:`ucmkd.kernels.plan`): the right sides
to :math:`[y, t', \langle t',y\rangle]`, the system to one column in each iteration of conjugate
gradients (:mod:`ucmkd.ops._streaming_adjoint`), and the last sum has a weight of rank 2d + 2.
Memory is O((n + m) d). Sums are float32: the result has the accuracy of a float32 plan times the
condition of the system, where the dense path in float64 only has the error of the potentials.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _streaming_adjoint as systems
from ucmkd.ops import _triton_points as points
from ucmkd.ops._adjoint import adjoint_potentials
from ucmkd.ops._implicit import Gradients, _alias
from ucmkd.ops._once import twice
from ucmkd.ops._pairwise import _unit
from ucmkd.ops._plain import tracked
from ucmkd.ops._triton import LOG2E
from ucmkd.ops._triton_points import kernels

#: Size of one float64 matrix ``(B, n, m)`` up to which second derivatives on the Triton backend
#: are dense all the same; ``UCMKD_CACHE_MB`` lowers it.
DENSE_BYTES = 64 << 20
COSTS = ("sqeuclidean", "cosine")


def streams(x: Tensor, y: Tensor | None, cost: str, need: tuple[bool, ...]) -> bool:
    """Whether the second derivative is streamed: derivatives to points alone, for large problems.

    Derivatives to weights, parameters and class distances, and the other costs, are dense. While
    a CUDA graph is recorded the size does not matter: the dense solver waits for the device.
    """
    if cost not in COSTS or any(need[2:]):
        return False
    size = 8 * x.shape[0] * x.shape[1] * (x if y is None else y).shape[1]
    if size > min(DENSE_BYTES, _backend.cache_budget()):
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _times(mass: Tensor, value: Tensor) -> Tensor:
    """Mass times what is relative to it; a point without mass gives 0, whatever it has."""
    mass = mass.reshape(*mass.shape, *[1] * (value.dim() - mass.dim()))
    return torch.where(mass > 0, mass * value, 0.0)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(-1)


class _Work:
    """The plan of a batch of problems by its potentials, and what is computed from it."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        a: Tensor,
        b: Tensor,
        parameters: Tensor,
        distance: Tensor | None,
        labels: tuple[Tensor | None, Tensor | None],
        f: Tensor,
        g: Tensor,
        cost: str,
    ) -> None:
        self.symmetric = y is None
        labelled = labels[0] is not None and (self.symmetric or labels[1] is not None)
        ready = points.ready(x, y, a, b, cost, labels if labelled else (None, None))
        self.clouds, self.a32, self.b32 = (ready.first, ready.second), ready.a, ready.b
        self.epsilon, self.reach_x, self.reach_y, price = parameters.double()
        if self.symmetric:
            self.reach_y = self.reach_x
        kappa = LOG2E / self.epsilon
        self.problem = kernels("tiles").Problem(
            ready.cost, ready.factor, kappa.float(), price.float() if labelled else None,
            distance.float().contiguous() if labelled and distance is not None else None,
            self.symmetric,
        )  # fmt: skip
        self.f, self.g = f.double(), (f if self.symmetric else g).double()
        units = kappa.unsqueeze(-1)
        self.scaled_f, self.scaled_g = (units * self.f).float(), (units * self.g).float()
        self.a, self.b = ready.a.double(), ready.b.double()
        self.slope = 2 * ready.factor
        width = x.shape[-1]
        self.x, self.y = (cloud.points[..., :width].double() for cloud in self.clouds)

    # Sums over the columns, relative to the weights of the rows, and the other way round.

    def rows(self, values: Tensor, weight: Any = None, active: Tensor | None = None) -> Any:
        return kernels("plan").apply(
            *self.clouds, self.problem, self.scaled_g, values.float(), f=self.scaled_f,
            b=self.b32, weight=weight, active=active,
        )  # fmt: skip

    def columns(self, values: Tensor, weight: Any = None, active: Tensor | None = None) -> Any:
        return kernels("plan").apply(
            *self.clouds[::-1], self.problem.swapped(), self.scaled_f, values.float(),
            f=self.scaled_g, b=self.a32, weight=weight, active=active,
        )  # fmt: skip

    # A System.

    def right(self, v: Tensor, active: Tensor | None = None) -> Tensor:
        return _times(self.a, self.rows(v, active=active).output.double())

    def left(self, u: Tensor, active: Tensor | None = None) -> Tensor:
        return _times(self.b, self.columns(u, active=active).output.double())

    def marginals(self) -> tuple[Tensor, Tensor]:
        # By the sums of the iteration, so that constants are in the kernel to the last digit.
        row = self.right(torch.ones_like(self.b))
        return row, row if self.symmetric else self.left(torch.ones_like(self.a))

    def solve_symmetric(self, stiff: Tensor, right: Tensor) -> Tensor:
        return systems.solve_symmetric(self.right, stiff, right)

    def solve_two_sided(
        self, stiff_x: Tensor, stiff_y: Tensor, right_x: Tensor, right_y: Tensor, kernel: Tensor
    ) -> tuple[Tensor, Tensor]:
        return systems.solve_two_sided(
            self.right, self.left, stiff_x, stiff_y, right_x, right_y, kernel
        )

    # Gradients and their derivatives.

    @functools.cached_property
    def row_sums(self) -> tuple[Tensor, Tensor]:
        total, output = self.rows(self.y)
        return total.double(), output.double()

    @functools.cached_property
    def column_sums(self) -> tuple[Tensor, Tensor]:
        if self.symmetric:
            return self.row_sums
        total, output = self.columns(self.x)
        return total.double(), output.double()

    def gradient_x(self) -> Tensor:
        total, carried = self.row_sums
        both = 2 if self.symmetric else 1
        return both * self.slope * _times(self.a, total.unsqueeze(-1) * self.x - carried)

    def gradient_y(self) -> Tensor:
        total, carried = self.column_sums
        return self.slope * _times(self.b, total.unsqueeze(-1) * self.y - carried)

    def product(
        self, to_x: Tensor | None, to_y: Tensor | None, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The Hessian times ``(to_x, to_y)``, where it is needed; None is 0."""
        if self.symmetric:
            to_y = to_x
        nothing = torch.zeros_like(self.x[..., 0]), torch.zeros_like(self.y[..., 0])
        # Sums of D with the plan; those of t and t' with it are needed again.
        change_x, change_y = nothing
        along_x, along_y = nothing  # <t, x> and <t', y>
        moved_x, moved_y = torch.zeros_like(self.x), torch.zeros_like(self.y)
        if to_y is not None:
            along_y = _dot(to_y, self.y)
            output = self.rows(torch.cat([to_y, along_y.unsqueeze(-1)], -1)).output.double()
            moved_x = output[..., :-1]
            change_x = output[..., -1] - _dot(self.x, moved_x)
            if not self.symmetric:
                total, carried = self.column_sums
                change_y = along_y * total - _dot(to_y, carried)
        if to_x is not None:
            along_x = _dot(to_x, self.x)
            total, carried = self.row_sums
            change_x = change_x + along_x * total - _dot(to_x, carried)
            if not self.symmetric:
                output = self.columns(torch.cat([to_x, along_x.unsqueeze(-1)], -1)).output.double()
                moved_y = output[..., :-1]
                change_y = change_y + output[..., -1] - _dot(self.y, moved_y)
        slope = (self.slope / self.epsilon).unsqueeze(-1)
        to_f = slope * _times(self.a, change_x)
        to_g = to_f if self.symmetric else slope * _times(self.b, change_y)
        u, v, _ = adjoint_potentials(
            self, self.a, self.b, self.epsilon, self.reach_x, self.reach_y, self.f, self.g,
            to_f, to_g, symmetric=self.symmetric,
        )  # fmt: skip
        parts_x, parts_y = [], []
        if to_x is not None:
            parts_x.append(slope.unsqueeze(-1) * to_x)
            parts_y.append(self.y)
        if to_y is not None:
            parts_x.append(slope.unsqueeze(-1) * self.x)
            parts_y.append(to_y)
        weight = kernels("plan").Weight(
            torch.cat(parts_x, -1).float(), torch.cat(parts_y, -1).float(),
            (u - slope * along_x).float(), (v - slope * along_y).float(),
        )  # fmt: skip
        product_x = product_y = None
        if need[0]:
            product_x = self._end(self.rows, weight, self.x, self.y, to_x, moved_x, self.row_sums)
            product_x = _times(self.a, product_x) * (2 if self.symmetric else 1)
        if need[1] and not self.symmetric:
            turned = kernels("plan").Weight(weight.right, weight.left, weight.beta, weight.alpha)
            product_y = self._end(
                self.columns, turned, self.y, self.x, to_y, moved_y, self.column_sums
            )
            product_y = _times(self.b, product_y)
        return product_x, product_y

    def _end(
        self,
        side: Any,
        weight: Any,
        own: Tensor,
        other: Tensor,
        direction: Tensor | None,
        moved: Tensor,
        sums: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The product's rows of one side, relative to its weights."""
        total, output = side(other, weight)
        change = total.double().unsqueeze(-1) * own - output.double() - moved
        if direction is not None:
            change = change + sums[0].unsqueeze(-1) * direction
        return self.slope * change


class _Gradients(torch.autograd.Function):
    """The gradients to both clouds, as functions of the clouds that ``work`` was made from."""

    @staticmethod
    def forward(ctx: Any, work: _Work, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.work = work
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tracked(x, y))
        wanted = ctx.needs_input_grad[2] and not work.symmetric
        return work.gradient_x(), work.gradient_y() if wanted else x.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(gradient is None for gradient in gradients):
            return None, None, None
        with torch.no_grad(), torch.cuda.device_of(ctx.work.x):
            found = ctx.work.product(*gradients, ctx.needs_input_grad[1:])
        sources = [t for t in (*ctx.saved_tensors, *gradients) if t is not None]
        return (None, *(None if p is None else twice(p, *sources) for p in found))


def streaming_gradients(
    x: Tensor,
    y: Tensor | None,
    a: Tensor,
    b: Tensor,
    parameters: Tensor,
    distance: Tensor | None,
    *,
    x_label: Tensor | None,
    y_label: Tensor | None,
    f: Tensor,
    g: Tensor,
    cost: str,
    need: tuple[bool, bool, bool, bool, bool, bool],
) -> Gradients:
    """:func:`ucmkd.ops._implicit.differentiable_gradients` to the points, where :func:`streams`
    says so; those of ``need`` that are no points must be False."""
    with torch.no_grad(), torch.cuda.device_of(x):
        work = _Work(x, y, a, b, parameters, distance, (x_label, y_label), f, g, cost)
    given = [_alias(x, need[0])] if y is None else [_alias(x, need[0]), _alias(y, need[1])]
    # The points as the cost sees them; a common shift has no derivative.
    seen = [_unit(p.double()) if cost == "cosine" else p.double() for p in given]
    with torch.cuda.device_of(x):
        found = _Gradients.apply(work, seen[0], None if y is None else seen[1])
    result: list[Tensor | None] = [None] * 6
    for i, (point, image, gradient) in enumerate(zip(given, seen, found, strict=False)):
        if need[i]:
            (result[i],) = torch.autograd.grad(image, point, gradient, create_graph=True)
    return tuple(result)
