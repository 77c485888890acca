"""Random numbers that depend on the step alone, so that a run can be taken up anywhere."""

from __future__ import annotations

import numpy as np
import torch


def generator_of(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """Random numbers of one step, whatever was drawn before."""
    # Mixed by NumPy: PyTorch's generator on the CPU heeds only the lowest 32 bits of a seed.
    mixed = np.random.SeedSequence([seed, purpose, step]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
