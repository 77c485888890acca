"""One estimate of mutual information, called alike for both sides of a comparison."""

from __future__ import annotations

from ucmkd.information.api import mutual_information
from ucmkd.information.estimate import MIEstimate
from ucmkd.information.rules.evidence import Array, Codes, Settings

TRAINED = ("latent", "mine", "nwj", "infonce", "smile")
"""Estimators that train a network: no subsets, their own intervals are combined."""


def estimate(
    x: Array, y: Array | Codes, method: str, settings: Settings, *, interval: bool
) -> MIEstimate:
    """I(X; Y) in nats of reduced rows; ``interval`` asks for the estimator's own."""
    return mutual_information(
        x,
        y,
        method=method,
        subsamples=settings.subsamples if interval else 0,
        confidence=settings.confidence,
        seed=settings.seed,
    )
