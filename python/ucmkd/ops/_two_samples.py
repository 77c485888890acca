"""MMD of two clouds and nothing else, on the Rust backend: the call of a training loop.

The counterpart of :mod:`ucmkd.ops._two_clouds`: few questions, and a node that holds only the
points. At 32 points the general node would make the call a sixth slower.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucmkd import _backend
from ucmkd.ops import _check
from ucmkd.ops._kernel import known_kernel
from ucmkd.ops._mmd_op import Flag, Spec, _again
from ucmkd.ops._two_clouds import kept, readable
from ucmkd.ops.bandwidth import bandwidth_of
from ucmkd.reference import Kernel

#: Types of a scale, of a bandwidth without a gradient, and of the options of a kernel.
_NUMBER = frozenset((float, int))
_BANDWIDTH = _NUMBER | {str}
_OPTION = frozenset((float, int, str, tuple, type(None)))
_ESTIMATOR = {"v": 0, "u": int(Flag.UNBIASED)}
_X, _Y = int(Flag.X), int(Flag.Y)  # arithmetic of flags takes microseconds


class _Rules(NamedTuple):
    kernel: Kernel
    unbiased: int
    sigma: NDArray[np.float64]
    points: tuple[NDArray[Any], NDArray[Any]]


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rules: _Rules, x: Tensor, y: Tensor) -> Tensor:
        _, want_x, want_y = ctx.needs_input_grad
        kernel, (left, right) = rules.kernel, rules.points
        found = _backend.rust().mmd(
            left[None], right[None], None, None, rules.sigma,
            kernel.name, kernel.scales, (kernel.degree, kernel.gamma, kernel.coef),
            rules.unbiased | _X * want_x | _Y * want_y, torch.get_num_threads(),
        )  # fmt: skip
        ctx.rules, ctx.found = rules, found
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept(x, y))
        result: Tensor = torch.from_numpy(found[0].reshape(()))
        return result

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_value is None:
            return None, None, None
        _, want_x, want_y = ctx.needs_input_grad
        rules = ctx.rules
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, None, None, None)
            spec = Spec(rules.kernel, bool(rules.unbiased), "rust")
            wanted = (want_x, want_y, False, False, False)
            return (None, *_again(inputs, wanted, rules.sigma, spec, grad_value)[:2])
        _, grad_x, grad_y, *_ = ctx.found
        factor = grad_value.item()
        return (
            None,
            _scaled(grad_x, factor) if want_x else None,
            _scaled(grad_y, factor) if want_y else None,
        )


def _scaled(gradient: NDArray[Any], factor: float) -> Tensor:
    # PyTorch's product takes three times as long where it was not used a moment ago.
    result: Tensor = torch.from_numpy(_backend.rust().scaled(gradient[0], factor))
    return result


def two_samples(
    x: Any,
    y: Any,
    bandwidth: Any,
    estimator: object,
    options: tuple[Any, Any, Any, Any, Any],
    names: tuple[str, str],
    *,
    check_finite: bool,
    backend: str,
) -> Tensor | None:
    """The value, or None where it is not that simple.

    ``options`` are the name of the kernel, scales, degree, gamma and coef. Whatever is wrong with
    the points is left to the general path.
    """
    if (
        torch.compiler.is_compiling()
        or type(bandwidth) not in _BANDWIDTH
        or not isinstance(estimator, str)
        or estimator not in _ESTIMATOR
        or type(options[1]) is not tuple
        or not _NUMBER.issuperset(map(type, options[1]))
        or not _OPTION.issuperset(map(type, options))
        or not readable(x, y)
        or not _backend.chooses_rust(backend, x.device, x.dtype)
    ):
        return None
    left, right = x.detach().numpy(), y.detach().numpy()
    if check_finite:
        _check.finite(x, names[0], array=left)
        _check.finite(y, names[1], array=right)
    name, scales, degree, gamma, coef = options
    kernel = known_kernel(name, scales, x.shape[1], degree, gamma, coef)
    if kernel.has_bandwidth:
        sigma = bandwidth_of(bandwidth, x, y, None, None, "rust", x.dtype, True)
        if isinstance(sigma, Tensor):
            sigma = sigma.to(torch.float64).numpy()
    else:
        if isinstance(bandwidth, str):
            return None  # which may be the name of no rule
        sigma = np.ones(1)
    rules = _Rules(kernel, _ESTIMATOR[estimator], sigma, (left, right))
    value: Tensor = _Node.apply(rules, x, y)
    return value
