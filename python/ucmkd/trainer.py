"""The trainer: one readable loop for every method, from the first batch to the one test.

``fit`` needs no files. Checkpoints and logs are callables that it hands plain dictionaries to;
:mod:`ucmkd.distill` connects them to a folder. Gradients are averaged over processes by hand,
because a bilevel method fills ``.grad`` itself and a wrapper's hooks would not see it.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from .batches import Batches, TrainingData
from .checkpoint import random_state, set_random_state
from .config import OptimizerConfig, TrainingConfig
from .diagnosis import ConflictWatch, GradientConflictWarning, Probe, diagnose
from .methods.base import Method
from .methods.collapse import TrainingError
from .metrics import Metrics, classification_metrics, confusion_matrix, evaluate, predict
from .restoring import check_optimizer, check_progress, check_weights, restoring

__all__ = ["Batches", "Fitted", "Metrics", "TrainingData", "TrainingError", "evaluate", "fit"]

Record = dict[str, Any]

#: What a state holds that ``fit`` can continue from.
STATE_KEYS = ("step", "seconds", "method", "optimizer", "precision", "best", "ranks")


@dataclass
class Fitted:
    """A finished training; ``method`` holds the weights of the best validation.

    Attributes:
        method: the trained method, in evaluation mode.
        data: what it was trained on, on the training's device.
        validation: metrics at ``best_step``, or None without validation samples.
        best_step: number of optimiser steps behind the weights.
        steps: number of steps in all.
        history: the records given to the callbacks (of this process; a resumed run starts anew).
        confusion: after ``test()``, its counts (C, C), rows true and columns predicted classes.
    """

    method: Method
    data: TrainingData
    validation: Metrics | None
    best_step: int
    steps: int
    history: list[Record] = field(default_factory=list)
    confusion: tuple[tuple[int, ...], ...] | None = None
    _tested: bool = False

    def test(self) -> Metrics:
        """Metrics on the test set. It can be looked at once: everything is chosen by then.

        Raises:
            RuntimeError: called a second time.
            ValueError: the data have no test set.
        """
        if self.data.test is None or self.data.test_label is None:
            raise ValueError("the data have no test set (TrainingData.test is None)")
        if self._tested:
            raise RuntimeError(
                "test() was already called for this training: a test set that is looked at twice "
                "is a validation set. Keep the first result."
            )
        self._tested = True
        logits, label = predict(self.method, self.data.test), self.data.test_label
        self.confusion = confusion_matrix(logits, label, self.data.num_classes)
        return classification_metrics(logits, label, self.data.num_classes)


class _Meter:
    """Sums of the loss terms since the last log line, kept on the device (no waiting for it)."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Tensor]] = {"loss": {}, "weighted": {}}
        self.count = 0

    def add(self, terms: dict[str, Tensor], weights: dict[str, float]) -> None:
        self.count += 1
        for name, value in terms.items():
            for sums, factor in zip(self.sums.values(), (1.0, weights.get(name, 1.0)), strict=True):
                if name in sums:
                    sums[name].add_(value.detach(), alpha=factor)
                else:
                    sums[name] = value.detach() * factor

    def state_dict(self) -> Record:
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: Record, device: torch.device) -> None:
        self.count = int(state["count"])
        self.sums = {
            kind: {name: t.to(device).reshape(()) for name, t in state["sums"][kind].items()}
            for kind in self.sums
        }

    def means(self, step: int) -> Record:
        """The means as numbers; empties the meter."""
        means = {
            kind: {name: (total / self.count).item() for name, total in sums.items()}
            for kind, sums in self.sums.items()
        }
        for name, value in means["loss"].items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss term {name!r} became {value} at or before step {step}; a smaller "
                    "learning rate or term weight may help"
                )
        self.__init__()  # type: ignore[misc]
        return means


def fit(
    method: Method,
    data: TrainingData,
    training: TrainingConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    *,
    seed: int = 0,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callable[[Record], None]] = (),
    state: Record | None = None,
    save: Callable[[Record], None] | None = None,
    probes: Sequence[Probe] = (),
) -> Fitted:
    """Train ``method`` on ``data`` and keep the weights of the best validation.

    The score of a validation is accuracy + balanced accuracy; the earlier step wins a tie. The
    global random generators are seeded, so equal arguments give equal results on a CPU.

    Args:
        method: what to train (all parameters with ``requires_grad``); changed in place.
        data: the samples.
        training: number of steps, batch sizes, how often to validate and log.
        optimizer: AdamW or SGD, schedule and clipping.
        seed: of the samplers and of dropout.
        fabric: devices and precision; None is one process on the CPU in float32.
        callbacks: called with each log record: ``step`` (steps done), ``epoch``, ``lr``,
            ``seconds``, ``loss`` and ``weighted`` (means of the terms since the last record),
            ``validation`` at a validation, ``diagnostics`` at a diagnosis (of this step, by name),
            and ``warning`` (by name) once in a run.
        state: what ``save`` received: continue from there.
        save: called with the complete state after every epoch (epochs shorter than ``eval_every``
            are put together) and at the end. Its tensors are live: write or copy them at once.
        probes: called with ``(method, data, step)`` at each diagnosis
            (:mod:`ucmkd.diagnosis`); what they report to :func:`ucmkd.diagnostics.report` enters
            the record. They see the method in training mode, before the step, and no test set.

    Returns:
        The trained method with its validation metrics; ``.test()`` for the final figures.

    Raises:
        ValueError: the data lack what the method needs.
        CheckpointError: ``state`` is of another kind of run, of one with other settings of the
            optimiser, of a longer one, or of none.
        TrainingError: a loss term is NaN or infinite.

    Warns:
        GradientConflictWarning: cross-entropy and alignment pull against each other
            (:class:`ucmkd.diagnosis.ConflictWatch`); on the first process, once in a run.
    """
    training = training or TrainingConfig()
    optimizer = optimizer or OptimizerConfig()
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    _seed_everything(seed + fabric.global_rank)

    precision = fabric.strategy.precision
    dtype = torch.float64 if precision.precision == "64-true" else torch.float32
    data = data.to(fabric.device, dtype)
    method.to(device=fabric.device, dtype=dtype).train()
    batches = Batches(data, method, training, seed, fabric.global_rank, fabric.world_size)
    epoch = batches.steps_per_epoch
    steps = training.epochs * epoch if training.epochs else training.steps
    between_saves = epoch * math.ceil(training.eval_every / epoch)

    parameters = method.trainable()
    _same_on_all(fabric, parameters)
    descent = make_optimizer(parameters, optimizer, fabric.device)
    stepper = cast(_FabricOptimizer, fabric.setup_optimizers(descent))
    mixed = str(precision.precision).endswith("mixed")

    def backward(loss: Tensor) -> None:
        # The forward pass runs in low precision; a backward pass must not be autocast again.
        with torch.autocast(fabric.device.type, enabled=False) if mixed else nullcontext():
            fabric.backward(loss)

    meter, best, history = _Meter(), _Best(), list[Record]()
    conflict, between_diagnoses = ConflictWatch(), training.steps_between_diagnoses
    shown = replace(data, test=None, test_label=None) if probes else data  # test() comes once
    first, started = 0, time.perf_counter()
    scheduled = optimizer.warmup > 0 or optimizer.schedule != "constant"
    if state is not None:
        with restoring():
            own = _own_part(state, fabric)
            check_progress(state, method, steps)
            check_weights(state["method"], method)
            first, started = state["step"], started - state["seconds"]
            method.load_state_dict(state["method"])
            fresh = descent.state_dict()
            descent.load_state_dict(state["optimizer"])
            check_optimizer(descent, fresh, scheduled=scheduled)
            precision.load_state_dict(state["precision"])
            best = _Best(**state["best"])
            if own is not None:  # else its samplers begin, as those of no other process
                meter.load_state_dict(own["meter"], fabric.device)
                batches.load_state_dict(own["batches"])
                if "conflict" in own:
                    conflict.load_state_dict(own["conflict"])
                set_random_state(own["random"])

    for step in range(first, steps):
        if scheduled:
            for group in descent.param_groups:
                group["lr"] = learning_rate(step, steps, optimizer)

        descent.zero_grad(set_to_none=True)
        batch, done = batches.draw(), step + 1
        look = between_diagnoses > 0 and done % between_diagnoses == 0
        seen = (
            diagnose(method, batch, step, data=shown, probes=probes, autocast=fabric.autocast)
            if look
            else {}
        )
        with fabric.autocast():
            terms = method.backward(batch, step, backward)
        _average_gradients(fabric, parameters)
        if optimizer.clip is not None:
            fabric.clip_gradients(
                method, stepper, max_norm=optimizer.clip, error_if_nonfinite=False
            )
        stepper.step()
        meter.add(terms, method.weights(step))

        validate = done % training.eval_every == 0 or done == steps
        if validate or look or done % training.log_every == 0:
            record: Record = {
                "step": done,
                "epoch": done / epoch,
                "lr": descent.param_groups[0]["lr"],
                **meter.means(done),
            }
            if validate:
                _same_on_all(fabric, list(method.buffers()))
                record.update(best.update(method, data, done))
            if seen:
                record["diagnostics"] = seen
                if message := conflict.update(seen, done):
                    record["warning"] = {"gradient_conflict": message}
                    if fabric.is_global_zero:
                        warnings.warn(message, GradientConflictWarning, stacklevel=2)
            record["seconds"] = time.perf_counter() - started
            history.append(record)
            for callback in callbacks:
                callback(record)
        if save is not None and (done % between_saves == 0 or done == steps):
            _same_on_all(fabric, list(method.buffers()))  # those of one process are stored
            own = {
                "meter": meter.state_dict(),
                "batches": batches.state_dict(),
                "random": random_state(),
                "conflict": conflict.state_dict(),
            }
            full: Record = {
                "step": done,
                "seconds": time.perf_counter() - started,
                "method": method.state_dict(),
                "optimizer": descent.state_dict(),
                "precision": precision.state_dict(),
                "best": vars(best),
                "ranks": _from_all(fabric, own),
            }
            if fabric.is_global_zero:
                save(full)

    if best.state is not None:
        method.load_state_dict(best.state)
    method.eval()
    validation = None if best.metrics is None else Metrics.from_dict(best.metrics)
    return Fitted(method, data, validation, best.step or steps, steps, history)


# Before every step torch asks the driver for GPUs, to learn whether a CUDA graph is being captured:
# a tenth of a small step, and no matter of a CPU. The first name is of older versions.
_CAPTURE_CHECKS = ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check")


def _no_check() -> None:
    pass


def make_optimizer(
    parameters: Sequence[Tensor], config: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW or SGD as configured; the fused form on a CPU, several times faster there."""
    fused = device.type == "cpu" or None
    found: torch.optim.Optimizer
    if config.kind == "sgd":
        found = torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    else:
        found = torch.optim.AdamW(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    if device.type == "cpu":
        for check in _CAPTURE_CHECKS:
            if hasattr(found, check):
                setattr(found, check, _no_check)
    return found


def learning_rate(step: int, steps: int, optimizer: OptimizerConfig) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up times the schedule.

    ``cosine`` is ``lr (1 + cos(pi step / steps)) / 2``.
    """
    rate = optimizer.lr
    if optimizer.warmup:
        rate *= min(1.0, (step + 1) / optimizer.warmup)
    if optimizer.schedule == "cosine":
        rate *= 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return rate


@dataclass
class _Best:
    """The best validation so far, with a copy of the weights behind it."""

    step: int = 0
    score: float = -math.inf
    metrics: dict[str, Any] | None = None
    state: dict[str, Tensor] | None = None

    def update(self, method: Method, data: TrainingData, step: int) -> Record:
        """Validate; the part of the log record that says what came out."""
        if data.validation is None or data.validation_label is None:
            return {}
        metrics = evaluate(method, data.validation, data.validation_label, data.num_classes)
        if metrics.score > self.score:
            self.step, self.score, self.metrics = step, metrics.score, metrics.to_dict()
            self.state = {name: t.detach().clone() for name, t in method.state_dict().items()}
        return {"validation": metrics.to_dict()}


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _own_part(state: Record, fabric: Fabric) -> Record | None:
    """What this process left; None for one that the stored run did not have."""
    ranks = state["ranks"]
    return ranks[fabric.global_rank] if fabric.global_rank < len(ranks) else None


def _same_on_all(fabric: Fabric, tensors: Sequence[Tensor]) -> None:
    if fabric.world_size > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, src=0)


def _average_gradients(fabric: Fabric, parameters: Sequence[Tensor]) -> None:
    if fabric.world_size > 1:
        # Without a gradient on any process the optimiser leaves a parameter alone.
        used = torch.tensor([p.grad is not None for p in parameters], device=fabric.device)
        used = used.to(torch.int32)
        torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= fabric.world_size


def _from_all(fabric: Fabric, own: Record) -> list[Record]:
    if fabric.world_size == 1:
        return [own]
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, own)
    return parts
