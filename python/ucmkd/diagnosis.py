"""A look inside a training step that leaves the training as it was.

A diagnosis (``training.diagnose_every``) asks the method for :meth:`Method.diagnostics` and any
probes for more, on the batch that the step is about to use and with the same random numbers, so
that what it reports is what the step does. It costs one forward pass, one backward pass per
weighted term, and one more solve of the plan where the loss keeps none: about two steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from .batches import TrainingData
from .checkpoint import random_state, set_random_state
from .diagnostics import collect
from .methods.base import Batch, Method

#: Gradients fight when their mean cosine over the last CONFLICT_DIAGNOSES is below this.
CONFLICT_COSINE = -0.5
#: One batch says little; so many diagnoses in a row are looked at together.
CONFLICT_DIAGNOSES = 5

#: Called at every diagnosis; reports what it likes to ``ucmkd.diagnostics.report``.
Probe = Callable[[Method, TrainingData, int], None]


class GradientConflictWarning(UserWarning):
    """The alignment pulls the student against its own labels (``gradient_conflict`` in the log)."""


class ConflictWatch:
    """Watches ``gradient/cosine`` over the diagnoses of a run; warns once."""

    def __init__(self) -> None:
        self.recent: list[float] = []
        self.warned = False

    def update(self, found: dict[str, float], step: int) -> str | None:
        """Take in one diagnosis; the warning, when it is due."""
        if "gradient/cosine" not in found or self.warned:
            return None
        self.recent = [*self.recent, found["gradient/cosine"]][-CONFLICT_DIAGNOSES:]
        mean = sum(self.recent) / len(self.recent)
        if len(self.recent) < CONFLICT_DIAGNOSES or mean >= CONFLICT_COSINE:
            return None
        self.warned = True
        return (
            f"gradient_conflict: at step {step} the gradients of cross-entropy and alignment "
            f"point against each other (mean cosine {mean:.2f} over the last "
            f"{CONFLICT_DIAGNOSES} diagnoses, warned of below {CONFLICT_COSINE:g}); a smaller "
            "alignment weight, or none, may do better on the validation set"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent = [float(value) for value in state["recent"]]
        self.warned = bool(state["warned"])


def diagnose(
    method: Method,
    batch: Batch,
    step: int,
    *,
    data: TrainingData,
    probes: Sequence[Probe] = (),
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """What the step on ``batch`` looks like from inside; the training does not notice.

    Args:
        method: in training mode, before the step.
        batch: of the step that comes.
        step: its number, from 0.
        data: for the probes.
        probes: called with ``(method, data, step)`` after the method's own diagnostics.
        autocast: the precision of the training's forward pass.

    Returns:
        The finite scalars by name, means where a name was reported several times. A cosine with a
        gradient of zero is not defined, and left out.
    """
    with collect() as found, _undisturbed(method):
        with autocast():
            method.diagnostics(batch, step)
        for probe in probes:
            probe(method, data, step)
    return {name: value for name, value in found.means().items() if math.isfinite(value)}


@contextmanager
def _undisturbed(method: nn.Module) -> Iterator[None]:
    """Puts back random generators, buffers, extra states and modes: all but the parameters."""
    random = random_state()
    modes = [(module, module.training) for module in method.modules()]
    buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = [
        (module, name, tensor, None if tensor is None else tensor.detach().clone())
        for module, _ in modes
        for name, tensor in module._buffers.items()
    ]
    extra = [
        (module, copy.deepcopy(module.get_extra_state()))
        for module, _ in modes
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    try:
        yield
    finally:
        for module, name, tensor, content in buffers:
            if tensor is not None and content is not None:
                tensor.detach().copy_(content)
            module._buffers[name] = tensor
        for module, state in extra:
            module.set_extra_state(state)
        for module, mode in modes:
            module.training = mode
        set_random_state(random)
