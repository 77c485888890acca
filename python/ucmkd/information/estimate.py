"""What an estimator of mutual information answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MIEstimate:
    """An estimate of the mutual information I(X; Y), in nats.

    Attributes:
        value: The estimate. Mutual information is never negative: a negative one is given as 0.
        low: Lower end of the interval, at least 0. NaN without an interval (``subsamples=0``).
        high: Upper end.
        confidence: Of the interval, in (0, 1).
        method: The estimator that gave the value, never ``"auto"``; ``"constant"`` where one side
            does not vary.
        reason: Why this estimator, and what was done to the data before it.
        warnings: What a reader of the value must know, such as saturation; empty if nothing.
        samples: Number of pairs n.
        seconds: Wall-clock time of the whole call.
    """

    value: float
    low: float
    high: float
    confidence: float
    method: str
    reason: str
    warnings: tuple[str, ...]
    samples: int
    seconds: float

    def covers(self, truth: float) -> bool:
        """Whether the interval contains ``truth``."""
        return self.low <= truth <= self.high

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} nats [{self.low:.3f}, {self.high:.3f}] "
            f"({self.method}, n = {self.samples})"
        )
