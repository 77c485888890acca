"""Processes of a test (forked, spawned for NCCL) that meet by a file, and what they return."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")
TIMEOUT = timedelta(seconds=120)


def _rank(
    rank: int, body: Callable[..., Any], world: int, folder: str, backend: str, args: tuple
) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world,
        timeout=TIMEOUT,
    )  # fmt: skip
    torch.save(body(rank, world, *args), f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(
    folder: Path, world: int, body: Callable[..., Any], *args: Any, backend: str = "gloo"
) -> list[Any]:
    """``body(rank, world, *args)`` in each of ``world`` processes; its results by rank."""
    arguments = (body, world, str(folder), backend, args)
    mp.start_processes(
        _rank, arguments, nprocs=world, start_method="fork" if backend == "gloo" else "spawn"
    )
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(world)]
