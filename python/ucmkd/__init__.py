"""Distribution alignment for cross-modal knowledge distillation.

>>> import torch, ucmkd
>>> student = torch.randn(64, 32, requires_grad=True)
>>> teacher = torch.randn(48, 32)
>>> ucmkd.losses.sinkhorn_align(student, teacher).backward()
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from ucmkd import losses, ops
from ucmkd._backend import backends

try:
    __version__ = version("ucmkd")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__", "backends", "losses", "ops"]

#: Imported when first used: some need the extra ``ucmkd[train]``.
_LAZY = (
    "data",
    "demo",
    "diagnostics",
    "hashing",
    "information",
    "methods",
    "models",
    "reference",
    "sklearn",
    "statistics",
    "theory",
    "trainer",
)


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
