"""CMD: a MoCo for each stream, and what each learns of the others' neighbourhoods."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Pretraining
from .losses import info_nce, mutual_loss
from .moco import Queues, follow, follower
from .streams import STREAMS, streams


class StreamEncoder(nn.Module):
    """A perceptron: standardise, in – hidden – width, ReLU after both; then linearly to d.

    Args:
        example: The stream of some samples ``(n, ...)``, whose mean and scale are kept.
        hidden: Units of the first layer.
        width: Units of the second: the features that are evaluated.
        dim: d, of queries and keys.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, example: Tensor, *, hidden: int, width: int, dim: int) -> None:
        super().__init__()
        values = example.flatten(1)
        self.register_buffer("mean", values.mean(0))
        self.register_buffer("scale", values.std(0).clamp_min(1e-6))
        self.layers = nn.Sequential(
            nn.Linear(values.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU()
        )
        self.projection = nn.Linear(width, dim)

    def features(self, stream: Tensor) -> Tensor:
        """``(n, width)``.

        Args:
            stream: ``(n, ...)``, of the example's shape but for n.
        """
        out: Tensor = self.layers((stream.flatten(1) - self.mean) / self.scale)
        return out

    def forward(self, stream: Tensor) -> Tensor:
        """Unit vectors ``(n, d)``.

        Args:
            stream: As in :meth:`features`.
        """
        return F.normalize(self.projection(self.features(stream)), dim=-1)


class CMD(nn.Module):
    r"""``Σ_u InfoNCE_u + λ Σ_{u ≠ v} KL(neighbours of u in u ‖ the same in v)``.

    Queries q are of one view of the samples, keys k of another, by encoders that follow with
    momentum; both losses are of cosines to queues of earlier keys (:mod:`.losses`).

    Departures from the released code: the encoders are perceptrons with fixed standardisation
    where it has bidirectional GRUs with batch normalisation of their input; the three queues share
    one place to write to, so that they cannot lose their alignment.

    Args:
        points: Some trajectories ``(n, T, 2)``, for the shapes and scales of the streams.
        config: Sizes, temperatures and λ (``mutual``); at λ = 0 the streams learn alone, and the
            mutual term is not computed.
        generator: Random numbers for the queues; None: torch's own.

    Raises:
        ValueError: Points of another shape.
    """

    def __init__(
        self,
        points: Tensor,
        config: Pretraining | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = c = config or Pretraining()
        self.query = nn.ModuleDict(
            {
                name: StreamEncoder(stream, hidden=c.hidden, width=c.width, dim=c.dim)
                for name, stream in streams(points).items()
            }
        )
        self.key = follower(self.query)
        self.queues = Queues(len(STREAMS), c.queue, c.dim, generator)

    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """The unweighted losses of two views of the same samples.

        One step: the key encoders follow first, the keys enter the queues last.

        Args:
            first: ``(n, T, 2)``; or ``(S, n, T, 2)``, the samples of each stream by themselves.
            second: Another view of these, of the same shape.

        Returns:
            ``nce_joint``, ``nce_motion``, ``nce_bone`` and, unless λ is 0, ``mutual``.

        Raises:
            ValueError: Views of another shape, or of two shapes.
        """
        if first.shape != second.shape or (first.ndim == 4 and len(first) != len(STREAMS)):
            raise ValueError(
                f"first and second must both be (n, T, 2) or ({len(STREAMS)}, n, T, 2), got "
                f"{tuple(first.shape)} and {tuple(second.shape)}"
            )
        config = self.config
        follow(self.key, self.query, config.momentum)
        query = _encode(self.query, first)
        with torch.no_grad():
            key = _encode(cast(nn.ModuleDict, self.key), second)
            teacher = self.queues.similarity(key)
        positive, negative = (query * key).sum(-1), self.queues.similarity(query)
        found = {
            f"nce_{name}": info_nce(positive[u], negative[u], temperature=config.temperature)
            for u, name in enumerate(STREAMS)
        }
        if config.mutual:
            found["mutual"] = mutual_loss(
                negative,
                teacher,
                neighbours=config.neighbours,
                temperature=config.student_temperature,
                teacher_temperature=config.teacher_temperature,
            )
        self.queues.push(key)
        return found

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum.

        Args:
            terms: Of :meth:`terms`.
        """
        weighted = [self.config.mutual * v if k == "mutual" else v for k, v in terms.items()]
        return torch.stack(weighted).sum()

    @torch.no_grad()
    def features(self, points: Tensor) -> dict[str, Tensor]:
        """Of each stream, ``(n, width)``, before the projection.

        Args:
            points: ``(n, T, 2)``.

        Raises:
            ValueError: Another shape.
        """
        return {
            name: cast(StreamEncoder, self.query[name]).features(stream)
            for name, stream in streams(points).items()
        }


def initialised(points: Tensor, config: Pretraining | None = None, *, seed: int) -> CMD:
    """A model before its training; torch's global random generator stays as it was.

    Args:
        points: Some trajectories ``(n, T, 2)``.
        config: As :class:`CMD` takes it.
        seed: Of weights and queues.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CMD(points, config)


def _encode(encoders: nn.ModuleDict, points: Tensor) -> Tensor:
    """Unit vectors ``(S, n, d)`` of ``(n, T, 2)``, or of one ``(n, T, 2)`` for each stream."""
    if points.ndim == 4:
        found = {name: streams(own)[name] for name, own in zip(STREAMS, points, strict=True)}
    else:
        found = streams(points)
    return torch.stack([encoders[name](stream) for name, stream in found.items()])
