"""Whether a call may go straight to the implementation, past PyTorch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)

_mode: Callable[[], object] | None
_transform: Callable[[], object] | None
_stack: Callable[[], Any] | None
try:
    from torch._C._functorch import TransformType
    from torch._C._functorch import get_interpreter_stack as _stack
    from torch._C._functorch import peek_interpreter_stack as _transform
    from torch.utils._python_dispatch import _get_current_dispatch_mode as _mode
except ImportError:  # another release of PyTorch: the registered operator always works
    _mode = _transform = _stack = None


def plain(*tensors: object) -> bool:
    """Plain tensors, outside ``torch.compile``, ``torch.func`` and dispatch modes.

    A registered operator costs several times what a call of an ``autograd.Function`` costs; only
    tracing and the transforms need it.
    """
    if torch.compiler.is_compiling() or _mode is None or _transform is None:
        return False
    for tensor in tensors:
        if isinstance(tensor, Tensor) and type(tensor) not in _PLAIN:
            return False
    return _mode() is None and _transform() is None


def transformed() -> bool:
    """Inside a transform of ``torch.func``, outside ``torch.compile``."""
    if torch.compiler.is_compiling() or _transform is None:
        return False
    return _transform() is not None


def mapped() -> bool:
    """Under ``vmap``, where no value of a tensor can be read."""
    if not transformed() or _stack is None:
        return False
    levels = _stack() or ()
    return any(level.key() == TransformType.Vmap for level in levels)


def tracked(*tensors: Any) -> tuple[Any, ...]:
    """The tensors as autograd can keep them: copies of those made under ``inference_mode``.

    A frozen teacher is often run there; autograd itself refuses such tensors in a graph.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return tensors
    return tuple(
        tensor.clone() if tensor is not None and tensor.is_inference() else tensor
        for tensor in tensors
    )
