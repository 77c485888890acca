"""What a checkpoint was trained on, and that nothing else is gone on with."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from ucmkd.checkpoint import CheckpointError


def digest_of(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of the tensors' types, shapes and bytes, wherever they lie.

    Args:
        *tensors: In an order that counts.
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def refuse_other(state: dict[str, Any], identity: dict[str, str], folder: object) -> None:
    """See that a checkpoint is of this training, on these data.

    Args:
        state: The checkpoint.
        identity: ``data`` and ``setting``, as the checkpoint has them.
        folder: Where it lies, for the message.

    Raises:
        CheckpointError: It is not; says what it is of and what is asked for.
    """
    for name, kind in (("data", "other data"), ("setting", "another training")):
        if state[name] != identity[name]:
            raise CheckpointError(
                f"checkpoint in {folder} is of {kind} ({state[name]}), not of this "
                f"({identity[name]}); choose another folder or delete that one"
            )
