"""Data that do not fit into memory: shards in tar files, read as streams.

The files are laid out as WebDataset's are, a ``.npy`` and a ``.cls`` for each sample: its tools
read them, and its data can be used. An ``index.json`` beside them has what a training must know
before it reads any (samples, classes, their frequencies, mean and scale). Reading is of the package
itself, on the standard library: nothing is unpickled, no command is run, no file is written. The
processes that read ahead, and their states, are torchdata's (the extra ``stream``).

>>> from ucmkd.data import streaming
>>> folder = streaming.write_shards("shards", {"train": (inputs, labels)}, names)  # doctest: +SKIP
>>> batches = streaming.ShardBatches(folder, "train", 64, seed=0, workers=2)       # doctest: +SKIP
>>> next(batches)["input"].shape                                                   # doctest: +SKIP
torch.Size([64, 16])
"""

from ucmkd.data.streaming.index import ShardError, ShardFolder, Split, open_shards
from ucmkd.data.streaming.loader import ShardBatches
from ucmkd.data.streaming.order import ShuffledSamples
from ucmkd.data.streaming.samples import Sample, read_samples
from ucmkd.data.streaming.writer import ShardWriter, index_shards, write_shards

__all__ = [
    "Sample",
    "ShardBatches",
    "ShardError",
    "ShardFolder",
    "ShardWriter",
    "ShuffledSamples",
    "Split",
    "index_shards",
    "open_shards",
    "read_samples",
    "write_shards",
]
