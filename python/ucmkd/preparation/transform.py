"""What happens to raw inputs of one side: choice of columns, then standardisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config_data import TeacherDataConfig
from ..config_errors import ConfigError
from ..data import Standardiser, top_variance
from ..data.base import FloatArray
from ..data.stored import StoredArray
from ..stored_inputs import Inputs, StoredInputs


@dataclass(frozen=True)
class InputTransform:
    """The fitted choice of columns and standardisation of one side."""

    columns: NDArray[np.int64] | None
    standardiser: Standardiser | None
    modalities: Mapping[str, int] | None = None
    """Of joined views, how many of the chosen columns belong to each; else None."""

    @classmethod
    def fit(
        cls,
        config: TeacherDataConfig,
        train: FloatArray | StoredArray,
        place: str,
        modalities: Mapping[str, int] | None = None,
    ) -> InputTransform:
        """Fit on the training rows of this side, without their labels.

        Rows that stay in a file get one mean and one scale per channel. Of joined views
        (``modalities``: columns of each) at most ``config.columns`` of each are chosen.
        """
        columns = None
        if isinstance(train, StoredArray):
            if config.columns is not None:
                raise ConfigError(
                    f"{place}.columns must be null for {config.dataset!r}, whose inputs are images "
                    f"or spectrograms, got {config.columns}"
                )
            return cls(None, _per_channel(train) if config.standardise else None)
        if modalities is not None:
            columns, modalities = _of_each(train, modalities, config.columns)
            train = train[:, columns]
        elif config.columns is not None:
            train = train.reshape(len(train), -1)
            if config.columns > train.shape[1]:
                raise ConfigError(
                    f"{place}.columns must be at most {train.shape[1]}, what {config.dataset!r} "
                    f"has, got {config.columns}"
                )
            columns = top_variance(train, config.columns)
            train = train[:, columns]
        standardiser = Standardiser.fit(train) if config.standardise else None
        return cls(columns, standardiser, modalities)

    def __call__(self, inputs: FloatArray | StoredArray) -> Inputs:
        if isinstance(inputs, StoredArray):
            if self.standardiser is None:
                return StoredInputs(inputs)
            return StoredInputs(inputs, self.standardiser.mean, self.standardiser.scale)
        if self.columns is not None:
            inputs = inputs.reshape(len(inputs), -1)[:, self.columns]
        if self.standardiser is not None:
            inputs = self.standardiser(inputs)
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

    def tensors(self) -> dict[str, Tensor]:
        """The fitted numbers, to be stored beside the student's weights."""
        found: dict[str, Tensor] = {}
        if self.columns is not None:
            found["columns"] = torch.from_numpy(self.columns)
        if self.standardiser is not None:
            for name, value in self.standardiser.state_dict().items():
                found[name] = torch.from_numpy(np.ascontiguousarray(value))
        return found


def _of_each(
    train: FloatArray, modalities: Mapping[str, int], limit: int | None
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """The columns of largest variance of each modality, and how many these are."""
    chosen, widths, first = [], dict[str, int](), 0
    for name, width in modalities.items():
        widths[name] = width if limit is None else min(limit, width)
        chosen.append(first + top_variance(train[:, first : first + width], widths[name]))
        first += width
    return np.concatenate(chosen), widths


def _per_channel(train: StoredArray) -> Standardiser:
    mean, scale = (np.broadcast_to(part, train.shape[1:]) for part in train.channel_moments())
    return Standardiser(mean, np.where(scale > 0, scale, 1.0))
