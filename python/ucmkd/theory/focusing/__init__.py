"""The modality focusing hypothesis on Gaussian data: when distillation across modalities helps.

:mod:`.data` draws two modalities with a known share of decisive features in common, :mod:`.linear`
fits teachers and students, :mod:`.study` is one seed of the study, :mod:`.summary` its table and
picture (``python -m ucmkd.theory.focusing`` makes them).
"""

from .data import nested, overlapping
from .study import General, Shared, focus, increase_shared

__all__ = ["General", "Shared", "focus", "increase_shared", "nested", "overlapping"]
