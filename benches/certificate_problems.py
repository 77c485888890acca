"""Problems of the certificate's grid: recipes of the package, and synthetic modalities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ucmkd.batches import TrainingData
from ucmkd.preparation import Prepared, prepare
from ucmkd.preparation.transform import InputTransform
from ucmkd.recipe_file import find_recipe, load_recipe


@dataclass(frozen=True)
class Synthetic:
    """Two modalities of one latent class structure: each sees it through its own random map.

    ``x = tanh(A (c_y + noise · ε)) + .3 ε'``, c_y the K class centres in ``latent`` dimensions, A
    of the modality; teacher and student share neither A nor a sample. ``tilt`` makes the student's
    class frequencies geometric, the last 1/(1+tilt) of the first.
    """

    num_classes: int
    noise: float
    latent: int = 6
    width: int = 24
    tilt: float = 0.0
    teacher_samples: int = 400
    student_samples: int = 120
    validation: int = 120
    test: int = 2000

    def prepare(self, seed: int) -> Prepared:
        """Both sides; the seed decides everything."""
        generator = torch.Generator().manual_seed(7919 * seed + self.num_classes)
        centre = 2 * torch.randn(self.num_classes, self.latent, generator=generator)
        even = torch.ones(self.num_classes)
        steps = torch.arange(self.num_classes) / max(1, self.num_classes - 1)
        tilted = (1 + self.tilt) ** -steps

        def side(frequency: Tensor, sizes: dict[str, int]) -> TrainingData:
            scale = self.latent**-0.5
            map_ = scale * torch.randn(self.latent, self.width, generator=generator)
            parts: dict[str, Tensor] = {}
            for name, size in sizes.items():
                label = torch.multinomial(frequency, size, replacement=True, generator=generator)
                spread = torch.randn(size, self.latent, generator=generator)
                clean = torch.tanh((centre[label] + self.noise * spread) @ map_)
                noise = torch.randn(size, self.width, generator=generator)
                parts[name] = clean + 0.3 * noise
                if name != "unlabelled":
                    parts[f"{name}_label"] = label
            return TrainingData(self.num_classes, **parts)  # type: ignore[arg-type]

        own = {"student": self.teacher_samples, "validation": self.validation}
        sizes = {"student": self.student_samples, "validation": self.validation, "test": self.test,
                 "unlabelled": 300}  # fmt: skip
        return Prepared(
            teacher=side(even, own),
            student=side(tilted, sizes),
            paired_teacher=None,
            transform=InputTransform(None, None),
            class_names=tuple(map(str, range(self.num_classes))),
        )


SYNTHETIC = {
    "synthetic: 2 classes": Synthetic(2, 1.0),
    "synthetic: 5 classes": Synthetic(5, 1.0),
    "synthetic: 5 classes, noisy": Synthetic(5, 2.5),
    "synthetic: 5 classes, other frequencies": Synthetic(5, 1.0, tilt=4.0),
    "synthetic: 20 classes": Synthetic(20, 1.0, validation=300),
}

#: Recipes that the package ships, by their names.
REAL = (
    "digits_offline",
    "mfeat_disjoint",
    "brca_unpaired",
    "digits_pen_few",
    "digits_pen_longtail",
)

PROBLEMS = (*SYNTHETIC, *REAL)


def prepared(problem: str, seed: int) -> Prepared:
    """The data of a problem."""
    if problem in SYNTHETIC:
        return SYNTHETIC[problem].prepare(seed)
    return prepare(load_recipe(find_recipe(problem)).data, seed)
