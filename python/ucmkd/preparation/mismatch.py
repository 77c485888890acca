"""How far the student's data may be from the teacher's: three presets.

The presets of UCMKD (arXiv 2606.10504, Table 14; named in its official code) have three numbers:
a marginal ratio r, a level of domain shift s and an imbalance ρ. The paper does not define them.
There, r divides each class's samples between the modalities, ρ thins the classes of one modality
and s scales augmentations of images and noise of audio in training. Here the sides share no
samples anyway and inputs are of any kind, so this is *our reading*:

- *Class marginal.* Class k keeps the share ``w_k / max w`` of the student's training samples (its
  unlabelled pool; its labels where ``labels_per_class`` is null, since otherwise that says how many
  there are), with ``w_k = r / C + (1 - r) λ_k``, ``λ_k = ρ^(-rank_k / (C-1)) / Σ`` a long tail over
  the classes in random order. For balanced data the student's marginal is then the mixture
  ``r · uniform + (1 - r) λ``: r is the share that it has in common with the teacher's, and a class
  prior taken from the teacher is wrong for the pool.
- *Domain shift.* The student's training inputs (labelled, unlabelled and paired) were recorded by
  another device: column j of mean μ_j and standard deviation σ_j becomes
  ``μ_j + (1 + s g_j)(x_j - μ_j) + s σ_j b_j``, g_j uniform in [-1, 1] and b_j standard normal, the
  same for all samples. So what is aligned with the teacher's features is not what is tested.

Validation, test and the whole teacher side stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ..data.base import FloatArray
from ..data.stored import StoredArray


@dataclass(frozen=True)
class Mismatch:
    """One preset.

    Attributes:
        marginal_ratio: r, the share of the class marginal that student and teacher have in common.
        domain_shift: s, in standard deviations of the columns.
        imbalance: ρ, most to least frequent class of the long tail.
    """

    marginal_ratio: float
    domain_shift: float
    imbalance: float


MISMATCHES: dict[str, Mismatch] = {
    "mild": Mismatch(0.7, 0.3, 5.0),
    "moderate": Mismatch(0.5, 0.5, 10.0),
    "hard": Mismatch(0.3, 0.8, 50.0),
}


def class_weights(
    preset: Mismatch, num_classes: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """``w_k`` ``(C,)``, adding up to 1: the mixture of uniform and long tail (see the module)."""
    rank = generator.permutation(num_classes)
    tail = preset.imbalance ** (-rank / max(num_classes - 1, 1))
    return preset.marginal_ratio / num_classes + (1 - preset.marginal_ratio) * tail / tail.sum()


@dataclass(frozen=True)
class DomainShift:
    """``x ↦ centre + gain · (x - centre) + offset``, column by column.

    Attributes:
        centre, gain, offset: shape of one sample, or broadcast to it.
    """

    centre: NDArray[np.float64]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def draw(
        cls, level: float, train: FloatArray | StoredArray, generator: np.random.Generator
    ) -> DomainShift:
        """Draw gains and offsets of the level s for the training rows ``(n, ...)``.

        Rows that stay in a file are moved as such devices would: each colour of a picture, each
        frequency band of a spectrogram (one channel) as a whole.
        """
        if isinstance(train, StoredArray):
            centre, scale = train.channel_moments()
            bands = (
                train.shape[1:3] if train.shape[1] == 1 and train.ndim == 4 else train.shape[1:2]
            )
            shape = (*bands, *(1,) * (train.ndim - 1 - len(bands)))
            centre, scale = np.broadcast_to(centre, shape), np.broadcast_to(scale, shape)
        else:
            centre = train.mean(axis=0, dtype=np.float64)
            scale = train.std(axis=0, dtype=np.float64)
        gain = 1 + level * generator.uniform(-1, 1, size=centre.shape)
        offset = level * scale * generator.normal(0, 1, size=centre.shape)
        return cls(centre, gain, offset)

    @overload
    def __call__(self, inputs: FloatArray) -> FloatArray: ...
    @overload
    def __call__(self, inputs: StoredArray) -> StoredArray: ...
    def __call__(self, inputs: FloatArray | StoredArray) -> FloatArray | StoredArray:
        """The inputs ``(n, ...)`` as the other device records them."""
        if isinstance(inputs, StoredArray):
            return inputs.affine(self.gain, self.centre - self.gain * self.centre + self.offset)
        moved = self.centre + self.gain * (inputs - self.centre) + self.offset
        return moved.astype(np.float32)
