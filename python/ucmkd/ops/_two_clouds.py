"""Two clouds and nothing else, on the Rust backend: the call of a training loop.

At 64 points the solve takes a third of the time of the call. This path asks the few questions
whose answers make all others unnecessary, and its autograd node holds only the points.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd import _backend, reference
from ucmkd.ops import _check, _deferred
from ucmkd.ops._check import Number, Reach
from ucmkd.ops._pack import pack
from ucmkd.ops._plain import plain, tracked
from ucmkd.ops._sum import Sum

#: Types of options that are the same for every problem, and have no gradient.
SIMPLE = frozenset((float, int, str, type(None)))
_SOLVED = (torch.float32, torch.float64)


class Rules(NamedTuple):
    """How a problem is solved; ``finite``: names of x and y in the error of a NaN, or None."""

    numbers: NDArray[np.float64]
    cost: str
    relative: bool
    debias: bool
    tol: float
    max_iter: int
    accelerate: bool
    finite: tuple[str, str] | None


class TwoClouds:
    """One call: its rules, and what the Rust call has left for the backward."""

    __slots__ = ("rules", "solved")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.solved: Any = None

    def run(self, x: Tensor, y: Tensor, want_x: bool, want_y: bool) -> Tensor:
        """The value, 0-d."""
        numbers, cost, relative, debias, tol, max_iter, accelerate, finite = self.rules
        self.solved = _backend.rust().divergence(
            x.detach().numpy(), (y.detach() if y.requires_grad else y).numpy(), None, None, None,
            None, None, None, None, None, numbers, cost, relative, tol, max_iter, want_x, want_y,
            False, accelerate, debias, debias, finite is not None, _backend.cache_budget(),
            torch.get_num_threads(),
        )  # fmt: skip
        if self.solved is None:
            for points, name in zip((x, y), finite or (), strict=True):
                _check.finite(points, name)
        value: Tensor = torch.from_numpy(self.solved.value)
        return value

    def report(self) -> tuple[Tensor, ...]:
        """Potentials, iterations, residual and convergence of the cross term."""
        return tuple(map(torch.from_numpy, self.solved.report()))

    def general(self) -> Sum:
        """The same as a sum of solves, which can be differentiated twice."""
        rules = self.rules
        job = Sum(
            (None, None), (None, None, None), cost=rules.cost, relative=rules.relative,
            tol=rules.tol, max_iter=rules.max_iter, accelerate=rules.accelerate,
            debias=rules.debias, even=True, single=True, narrow=0, finite=None, known=None,
            backend="rust",
        )  # fmt: skip
        job.adopt(self.solved, rules.numbers)
        return job


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: TwoClouds, x: Tensor, y: Tensor) -> Tensor:
        _, want_x, want_y = ctx.needs_input_grad
        value = call.run(x, y, want_x, want_y)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept(x, y))
        return value

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_value is None:
            return None, None, None
        call, (_, want_x, want_y) = ctx.call, ctx.needs_input_grad
        if torch.is_grad_enabled():
            x, y = ctx.saved_tensors
            numbers = torch.from_numpy(call.rules.numbers)
            need = (want_x, want_y, False, False, False, False)
            inputs = (x, y, None, None, numbers, None)
            return (None, *call.general().twice(inputs, need, grad_value)[:2])
        # PyTorch's product takes three times as long where it was not used a moment ago.
        times, factor = call.solved.gradient_times, grad_value.item()
        return (
            None,
            torch.from_numpy(times(0, factor)) if want_x else None,
            torch.from_numpy(times(1, factor)) if want_y else None,
        )


def kept(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    """The points as autograd can keep them."""
    return tracked(x, y) if x.is_inference() or y.is_inference() else (x, y)


def _array(points: Tensor) -> bool:
    """Whether NumPy can read the memory as it is."""
    if not points.is_cpu or points.layout is not torch.strided or points.is_neg():
        return False
    return points.is_contiguous()


def readable(x: Any, y: Any) -> bool:
    """Two plain clouds ``(n, d)`` and ``(m, d)`` of one type that the Rust kernels read as is."""
    if not plain(x, y) or not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    dtype, shape, other = x.dtype, x.shape, y.shape
    return (
        dtype in _SOLVED
        and y.dtype is dtype
        and len(shape) == len(other) == 2
        and shape[1] == other[1]
        and 0 not in shape
        and 0 not in other
        and _array(x)
        and _array(y)
    )


def two_clouds(
    x: Any,
    y: Any,
    options: tuple[Number, str, Reach, Number | Tensor, float, int],
    names: tuple[str, str],
    *,
    relative: bool,
    debias: bool,
    accelerate: bool,
    check_finite: bool,
    backend: str,
) -> tuple[Tensor, TwoClouds] | None:
    """The value and the call behind it; None where it is not that simple.

    ``options`` are ε, cost, reach, label cost, tolerance and iterations, which are checked here;
    whatever is wrong with the points is left to the general path.
    """
    if torch.compiler.is_compiling() or not SIMPLE.issuperset(map(type, options)):
        return None
    if not readable(x, y):
        return None
    dtype: torch.dtype = x.dtype
    # Nothing more to ask of a backend that is named; the general path says what it lacks.
    if not _backend.chooses_rust(backend, x.device, dtype):
        return None
    _deferred.poll()
    flags = (relative, debias, accelerate, check_finite)
    call = TwoClouds(_rules(*options, names, dtype, *flags))
    return _Node.apply(call, x, y), call


@functools.lru_cache(maxsize=128, typed=True)
def _rules(
    epsilon: float,
    cost: str,
    reach: float | None,
    label_cost: float,
    tol: float,
    max_iter: int,
    names: tuple[str, str],
    dtype: torch.dtype,
    relative: bool,
    debias: bool,
    accelerate: bool,
    check_finite: bool,
) -> Rules:
    """A training loop comes with the same options at every step."""
    numbers, _ = checked(epsilon, cost, reach, label_cost, tol, max_iter, names, dtype)
    finite = names if check_finite else None
    return Rules(numbers, cost, relative, debias, float(tol), max_iter, accelerate, finite)


@functools.lru_cache(maxsize=128, typed=True)
def checked(
    epsilon: float,
    cost: str,
    reach: float | None,
    label_cost: float,
    tol: float,
    max_iter: int,
    names: tuple[str, str],
    dtype: torch.dtype,
) -> tuple[NDArray[np.float64], bool]:
    """The parameters of checked options, and whether both marginals are strict.

    A training loop comes with the same options at every step.
    """
    like = torch.empty(0, dtype=dtype, device="cpu")
    _check.one_of(cost, reference.COSTS, "cost")
    _check.stopping(tol, max_iter)
    lam, _ = _check.label_cost(label_cost, None, None, like, 1, names)
    eps = _check.number(epsilon, "epsilon", like, 1, minimum=0.0, strict=True)
    rho = _check.reaches(reach, like, 1)
    array: NDArray[np.float64] = pack([eps, *rho, lam], like, 1).numpy()
    return array, reach is None
