"""From a recipe's data section to tensors: classes, split, labels, pool, columns, scaling, pairs.

Each step is a file: :mod:`.sides` reads, :mod:`.classes` matches the classes by name, :mod:`.parts`
splits, :mod:`.labels` chooses what is labelled, :mod:`.mismatch` moves the student away from the
teacher, :mod:`.transform` scales; :func:`prepare` is all of them in a row.
"""

from .prepared import Prepared, prepare
from .transform import InputTransform

__all__ = ["InputTransform", "Prepared", "prepare"]
