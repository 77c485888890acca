"""The kernel of a discrepancy, checked."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from numbers import Integral, Real

from ucmkd.ops import _check
from ucmkd.reference import KERNELS, Kernel


def kernel_of(
    name: str,
    scales: Sequence[float],
    width: int,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
) -> Kernel:
    """A checked kernel for points of ``width`` coordinates."""
    _check.one_of(name, KERNELS, "kernel")
    try:
        values = () if isinstance(scales, str) else tuple(float(s) for s in scales)
    except (TypeError, ValueError):
        values = ()
    if not values or not all(0 < s < math.inf for s in values):
        raise ValueError(f"scales must be one or more positive numbers; got {scales!r}")
    if isinstance(degree, bool) or not isinstance(degree, Integral) or degree < 1:
        raise ValueError(f"degree must be an integer >= 1; got {degree!r}")
    if gamma is None:
        gamma = 1 / width
    elif isinstance(gamma, bool) or not isinstance(gamma, Real) or not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be None or a finite number > 0; got {gamma!r}")
    if isinstance(coef, bool) or not isinstance(coef, Real) or not 0 <= coef < math.inf:
        raise ValueError(f"coef must be a finite number >= 0; got {coef!r}")
    return Kernel(name, values, int(degree), float(gamma), float(coef))


#: The same for options that can be hashed: a training loop comes with the same ones at every step.
known_kernel = functools.lru_cache(maxsize=128, typed=True)(kernel_of)
