"""Values per held-out sample, for estimators that are too slow to repeat on subsets."""

from __future__ import annotations

from dataclasses import dataclass, field

from ucmkd.information.variables import Array


@dataclass(frozen=True)
class HeldOut:
    """An estimate as a mean over samples that its model has not seen.

    Attributes:
        terms: ``(n,)``; their mean is the estimate.
        warnings: What training showed, such as saturation.
    """

    terms: Array
    warnings: tuple[str, ...] = field(default=())
