"""A small folder of shards whose every sample can be told from the others."""

import io
import tarfile
from pathlib import Path

import numpy as np

from ucmkd.data.streaming import ShardFolder, write_shards


def numbered(n: int, width: int = 3, classes: int = 3, seed: int = 0) -> tuple:
    """Inputs ``(n, width)`` with the row number in front, labels ``(n,)`` of every class."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, width)).astype(np.float32)
    inputs[:, 0] = np.arange(n)
    return inputs, np.arange(n) % classes


def small(folder: Path, n: int = 40, per_shard: int = 7, **options: int) -> ShardFolder:
    """Forty samples in six shards, the last with five, and a few without labels."""
    inputs, labels = numbered(n, **options)
    splits = {"train": (inputs, labels), "unlabelled": (inputs[:9] + 100, None)}
    return write_shards(folder, splits, ("a", "b", "c"), samples_per_shard=per_shard)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar file with these members."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def npy(array: object) -> bytes:
    """An array as ``numpy.save`` writes it."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()
