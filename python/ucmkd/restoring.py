"""Loading the state of a training: what a file without damage may still hold, checked by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError
from .metrics import Metrics


@contextmanager
def restoring() -> Iterator[None]:
    """Around the loading of a state: whatever it ends in becomes a :class:`CheckpointError`.

    A file without damage may still hold a state of another model, of other data, or of no training
    at all; every part then fails in its own way.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint does not fit this training ({type(error).__name__}: {text[:300]}); "
            "resume with the data, model and method that it was made with, or delete it"
        ) from error


def check_weights(weights: Any, method: nn.Module) -> None:
    """See that ``weights`` are those of ``method``, by names, shapes and types.

    What a method names in ``late_buffers`` may be there or not on either side, and as long as it
    likes.

    Raises:
        ValueError: They are not.
    """
    own = method.state_dict()
    late = set(getattr(method, "late_buffers", ()))
    if not isinstance(weights, Mapping) or weights.keys() - late != own.keys() - late:
        raise ValueError("weights of other names")
    for name in late & weights.keys():
        found = weights[name]
        if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() != 1:
            raise ValueError(f"{name} is no vector of numbers")
    for name, tensor in own.items():
        if name in late:
            continue
        found = weights[name]
        if not isinstance(found, Tensor) or found.is_complex() != tensor.is_complex():
            raise ValueError(f"{name} is no tensor of {tensor.dtype}")
        if found.shape != tensor.shape or found.layout != tensor.layout:
            raise ValueError(f"{name} {tuple(found.shape)} instead of {tuple(tensor.shape)}")


def check_progress(state: Mapping[str, Any], method: nn.Module, steps: int | None = None) -> None:
    """See that step, seconds and the best validation are what a training keeps.

    Args:
        state: What it kept.
        method: What it trains.
        steps: How long it is; None: not known yet.

    Raises:
        ValueError: One of them is not, or the step lies beyond ``steps``.
        KeyError, TypeError: The best validation has no metrics.
    """
    best, ranks = state["best"], state["ranks"]
    if not isinstance(ranks, list) or not ranks:
        raise ValueError(f"the parts of the processes are {type(ranks).__name__}")
    for name, value in (("step", state["step"]), ("best step", best["step"])):
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}")
    if steps is not None and state["step"] > steps:
        raise ValueError(f"step is {state['step']}, beyond the {steps} of the training")
    if best["step"] > state["step"]:
        raise ValueError(f"best step is {best['step']}, after step {state['step']}")
    for name, value in (("seconds", state["seconds"]), ("best score", best["score"])):
        if not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{name} is {value!r}")
    if (best["state"] is None) != (best["metrics"] is None):
        raise ValueError("weights without a validation, or a validation without weights")
    if best["state"] is not None:
        check_weights(best["state"], method)
        Metrics.from_dict(best["metrics"])


def check_optimizer(
    optimizer: torch.optim.Optimizer, fresh: Mapping[str, Any], *, scheduled: bool
) -> None:
    """See that a loaded optimiser fits its parameters: a fused step reads memory by their shapes.

    Args:
        optimizer: After loading.
        fresh: Its ``state_dict()`` before.
        scheduled: Whether each step sets its learning rate; else the loaded one would stay, and
            must be the configured one, as the other settings must.

    Raises:
        ValueError: a setting of another kind or value, a moment of another shape or type, or too
            few.
    """
    free = {"params", "lr"} if scheduled else {"params"}
    for group, before in zip(optimizer.param_groups, fresh["param_groups"], strict=True):
        for name, value in before.items():
            found = group.get(name)
            if name != "params" and not _alike(found, value):
                raise ValueError(f"the optimiser's {name} is {found!r}, not like {value!r}")
            if name not in free and not _equal(found, value):
                raise ValueError(f"the optimiser's {name} is {found!r}, and {value!r} is set")
        moments = [optimizer.state.get(parameter, {}).keys() for parameter in group["params"]]
        if len({frozenset(names) for names in moments if names}) > 1:
            raise ValueError("the optimiser's moments differ between the parameters")
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                _check_moment(name, value, parameter)
    if isinstance(optimizer, torch.optim.Adam):
        for values in optimizer.state.values():
            if values and values.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise ValueError(f"the optimiser's moments are {', '.join(map(str, values))}")


def _alike(found: Any, value: Any) -> bool:
    if isinstance(value, tuple | list):
        return (
            isinstance(found, tuple | list)
            and len(found) == len(value)
            and all(map(_alike, found, value))
        )
    if isinstance(value, float):
        return isinstance(found, float | int) and math.isfinite(found) and found >= 0
    return type(found) is type(value)


def _equal(found: Any, value: Any) -> bool:
    """Equal settings; those of several numbers may be a list or a tuple."""
    return bool(list(found) == list(value) if isinstance(value, tuple | list) else found == value)


def _check_moment(name: str, value: Any, parameter: Tensor) -> None:
    if value is None and name == "momentum_buffer":
        return
    shape = () if name == "step" else tuple(parameter.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        raise ValueError(f"the optimiser's {name} does not fit a {tuple(parameter.shape)} tensor")
    if not value.is_floating_point() or value.layout != torch.strided:
        raise ValueError(f"the optimiser's {name} is {value.dtype}, {value.layout}")
