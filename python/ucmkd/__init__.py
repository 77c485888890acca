"""Distribution alignment for cross-modal knowledge distillation.

>>> import torch, ucmkd
>>> student = torch.randn(64, 32, requires_grad=True)
>>> teacher = torch.randn(48, 32)
>>> ucmkd.losses.sinkhorn_align(student, teacher).backward()
"""

from importlib.metadata import PackageNotFoundError, version

from ucmkd import losses, ops
from ucmkd._backend import backends

try:
    __version__ = version("ucmkd")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__", "backends", "losses", "ops"]
