"""What the tests of the scenarios share: small data on disk whose rows tell who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ucmkd.config import DataConfig, from_mapping


def write(path: Path, labels: np.ndarray, offset: int = 0, **more: np.ndarray) -> str:
    """A file whose first column is the row's number plus ``offset``, the second its label."""
    count = len(labels)
    codes = np.unique(labels, return_inverse=True)[1]
    inputs = np.stack([np.arange(count) + offset, codes, np.zeros(count)], axis=1).astype(float)
    np.savez(path, X=inputs, y=labels, **more)
    return str(path)


def config(
    teacher: str, student: str, side: dict[str, Any] | None = None, **more: Any
) -> DataConfig:
    """Unscaled inputs, five labels per class."""
    plain = {"standardise": False}
    return from_mapping(
        DataConfig,
        {
            "teacher": {"dataset": teacher, **plain},
            "student": {"dataset": student, "labels_per_class": 5, **plain, **(side or {})},
            **more,
        },
    )


def digits(side: dict[str, Any] | None = None, **more: Any) -> DataConfig:
    """scikit-learn's digits, pixels to pixels, unscaled."""
    plain = {"dataset": "digits", "view": "pixels", "standardise": False}
    student = {**plain, "labels_per_class": 6, **(side or {})}
    return from_mapping(DataConfig, {"teacher": plain, "student": student, **more})
