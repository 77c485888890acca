"""Random numbers of the preparation: one stream for the split, one for each option."""

from __future__ import annotations

import numpy as np

# Positions are part of the seeds: append only.
_OPTIONS = (
    "test_groups",
    "missing_classes",
    "label_noise",
    "max_teacher",
    "max_test",
    "max_unlabelled",
    "marginal",
    "shift",
)


def option_generator(seed: int, option: str) -> np.random.Generator:
    """The generator of one option.

    Options draw from streams of their own, so that switching one on changes nothing else: the
    same samples are labelled with and without label noise, and two methods, or two settings, can
    be compared split by split.
    """
    return np.random.default_rng([seed, 1 + _OPTIONS.index(option)])
