"""The processes of a training: those that torchrun has started, or as many as the recipe asks for.

``torchrun --nproc-per-node 4 -m ucmkd distill RECIPE`` (with ``--nnodes`` on several machines, that
share the run's folder) trains one student: every process draws its own batches of the recipe's
size, the gradients are averaged, and the first process writes the log, the checkpoints and the
result. The number of processes is not part of the recipe: a run may be resumed with another one.

A process that ends takes the others with it: they notice at the next exchange of gradients, or, if
it still runs but does not answer, after ``UCMKD_TIMEOUT`` seconds (600 by default).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from .config import ConfigError, HardwareConfig

#: What the messages of gloo and NCCL have in common when the other side is gone.
_GONE = ("gloo", "connection closed", "connection reset", "timed out", "timeout", "broken pipe")


class ProcessLostError(RuntimeError):
    """Another process of the training has ended, or does not answer."""


def timeout() -> timedelta:
    """How long a process waits for another one.

    Raises:
        ConfigError: ``UCMKD_TIMEOUT`` is not a positive number of seconds.
    """
    text = os.environ.get("UCMKD_TIMEOUT", "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"UCMKD_TIMEOUT must be a positive number of seconds, got {text!r}")
    return timedelta(seconds=seconds)


def started() -> tuple[int, int] | None:
    """Processes on this machine and machines, where torchrun has started them.

    Raises:
        ConfigError: the machines have different numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    world, here = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    machines = int(os.environ.get("GROUP_WORLD_SIZE", world // here))
    if here * machines != world:
        raise ConfigError(
            f"torchrun has started {world} processes on {machines} machines, {here} of them on "
            "this one; every machine must have as many (--nproc-per-node)"
        )
    return here, machines


def is_first() -> bool:
    """Whether this process speaks for all; without several of them it does."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def make_fabric(hardware: HardwareConfig) -> Fabric:
    """Fabric as the recipe says, with all processes met.

    Raises:
        ConfigError: the machine has no such accelerator or fewer devices, or the recipe asks for
            another number of devices than torchrun has started processes.
    """
    devices, machines = hardware.devices, 1
    found = started()
    if found is not None:
        devices, machines = found
        if hardware.devices not in (1, devices):
            raise ConfigError(
                f"hardware.devices is {hardware.devices}, and torchrun has started {devices} "
                "processes on this machine; leave it at 1, or start as many"
            )
    several: dict[str, Any] = {}
    if devices * machines > 1:
        several = dict(strategy=DDPStrategy(timeout=timeout()), num_nodes=machines)
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=devices,
            precision=hardware.precision,
            **several,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"hardware (accelerator {hardware.accelerator!r}, devices {devices}, "
            f"precision {hardware.precision!r}) is not available: {error}"
        ) from error
    except Exception as error:  # Fabric has its own exception for a missing accelerator
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ConfigError(f"hardware.accelerator {hardware.accelerator!r}: {error}") from error
    fabric.launch()
    return fabric


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Says what happened where another process is gone.

    Raises:
        ProcessLostError: in place of what the communication library raises then.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not _gone(error):
            raise
        raise ProcessLostError(
            f"process {fabric.global_rank} of {fabric.world_size} stops: another process of this "
            f"training has ended, or did not answer for {timeout().total_seconds():g} s "
            "(UCMKD_TIMEOUT); the same command with --resume goes on from the last checkpoint"
        ) from error


def _gone(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _GONE)
