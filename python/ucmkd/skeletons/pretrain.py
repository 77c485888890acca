"""Self-supervised training of CMD: one loop, with a log and checkpoints where a folder is given."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ucmkd.checkpoint import Checkpointer, CheckpointError, make_folder
from ucmkd.config_errors import ConfigError
from ucmkd.data import InfiniteSampler
from ucmkd.identity import digest_of
from ucmkd.runlog import RunLog

from .augment import view
from .config import Pretraining
from .model import CMD, initialised
from .streams import STREAMS, check_points

Record = dict[str, Any]
STATE_KEYS = ("step", "seconds", "settings", "model", "optimizer", "sampler", "views")


def pretrain(
    points: Tensor,
    config: Pretraining | None = None,
    *,
    seed: int = 0,
    placebo: bool = False,
    folder: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[Record], None] = lambda record: None,
) -> CMD:
    """Train CMD on unlabelled trajectories.

    A run that is killed and resumed ends with the same weights, bit for bit, as one that was not.

    Args:
        points: ``(n, T, 2)`` float32, about the origin.
        config: Sizes, weights and length.
        seed: Of weights, queues, batches and views.
        placebo: A control: each stream is of other samples, permuted once by the seed, so that
            what is near in one stream says nothing about the others.
        folder: For ``log.jsonl`` and checkpoints; None writes nothing.
        resume: Continue what is in the folder; from scratch where nothing is.
        callback: Called with each record of the log: ``step``, ``lr``, ``seconds`` and ``loss``,
            means of the unweighted terms since the last.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: Points of another shape, not finite, or none.
        ConfigError: ``resume`` without a folder; a folder with a run, without ``resume``, or with
            one of other settings or points, or that cannot be written.
        CheckpointError: A damaged checkpoint.
    """
    check_points(points)
    if not len(points) or not bool(points.isfinite().all()):
        raise ValueError(f"points must be finite, and some, got {tuple(points.shape)}")
    config = config or Pretraining()
    settings = {
        **dataclasses.asdict(config),
        "seed": seed,
        "placebo": placebo,
        "points": tuple(points.shape),
        "digest": digest_of(points),
    }
    state, checkpoints = _open(folder, resume, settings)
    model = initialised(points, config, seed=seed).train()
    sampler = InfiniteSampler(len(points), config.batch_size, seed)
    views = torch.Generator().manual_seed(seed + 1)
    seen = permuted(len(points), seed) if placebo else None
    trained = [p for p in model.parameters() if p.requires_grad]
    descent = torch.optim.SGD(trained, lr=config.lr, momentum=0.9, weight_decay=1e-4)
    first, started = 0, time.perf_counter()
    if state is not None:
        first, started = state["step"], started - state["seconds"]
        model.load_state_dict(state["model"])
        descent.load_state_dict(state["optimizer"])
        sampler.load_state_dict(state["sampler"])
        views.set_state(state["views"])
    log = None if folder is None else RunLog(folder, first, tensorboard=False)
    sums: dict[str, Tensor] = {}
    since = first
    try:
        for step in range(first, config.steps):
            descent.param_groups[0]["lr"] = config.learning_rate(step)
            rows, done = next(sampler), step + 1
            if seen is None:
                pair = [view(points[rows], views) for _ in range(2)]
            else:
                pair = [view_of_each(points[seen[:, rows]], views) for _ in range(2)]
            terms = model.terms(*pair)
            descent.zero_grad()
            model.total(terms).backward()
            descent.step()
            sums = {k: sums.get(k, 0) + v.detach() for k, v in terms.items()}
            if done % config.log_every and done != config.steps:
                continue
            means = {k: (v / (done - since)).item() for k, v in sums.items()}
            sums, since, seconds = {}, done, time.perf_counter() - started
            record = {"step": done, "lr": config.learning_rate(step), "loss": means}
            for receive in (log, callback):
                if receive is not None:
                    receive({**record, "seconds": seconds})
            if checkpoints is not None:
                checkpoints.save(
                    {
                        "step": done,
                        "seconds": seconds,
                        "settings": settings,
                        "model": model.state_dict(),
                        "optimizer": descent.state_dict(),
                        "sampler": sampler.state_dict(),
                        "views": views.get_state(),
                    }
                )
    finally:
        if log is not None:
            log.close()
    return model.eval()


def permuted(count: int, seed: int) -> Tensor:
    """For each stream another order of the samples, ``(S, count)``."""
    generator = torch.Generator().manual_seed(seed + 2)
    return torch.stack([torch.randperm(count, generator=generator) for _ in STREAMS])


def view_of_each(points: Tensor, views: torch.Generator) -> Tensor:
    """One random view of the trajectories of each stream, ``(S, n, T, 2)``."""
    return view(points.flatten(0, 1), views).unflatten(0, points.shape[:2])


def _open(
    folder: str | Path | None, resume: bool, settings: dict[str, Any]
) -> tuple[Record | None, Checkpointer | None]:
    """The state to continue from, if any, and where to keep the next."""
    if folder is None:
        if resume:
            raise ConfigError("resume needs a folder, got None")
        return None, None
    make_folder(Path(folder), "folder")
    checkpoints = Checkpointer(folder)
    if not resume:
        if checkpoints.current.exists() or checkpoints.previous.exists():
            raise ConfigError(f"folder {folder} already holds a run; resume it or choose another")
        return None, checkpoints
    state = checkpoints.load(STATE_KEYS)
    if state is not None:
        stored = state["settings"]
        if not isinstance(stored, dict):
            raise CheckpointError(f"{checkpoints.current} is damaged: its settings are no mapping")
        for name, value in settings.items():
            if stored.get(name) != value:
                raise ConfigError(
                    f"folder {folder} holds a run with {name} {stored.get(name)!r}, this one has "
                    f"{value!r}; resume needs the same settings"
                )
    return state, checkpoints
