"""Shards: what is written is what is read, WebDataset's layout, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards_common import npy, numbered, small, write_tar
from ucmkd.data import Dataset
from ucmkd.data.stored import StoredArray
from ucmkd.data.streaming import (
    ShardError,
    ShardWriter,
    index_shards,
    open_shards,
    read_samples,
    write_shards,
)
from ucmkd.data.streaming.moments import RunningMoments, pooled
from ucmkd.data.streaming.order import all_samples, first_samples


def test_what_is_written_is_read(tmp_path: Path) -> None:
    inputs, labels = numbered(40)
    folder = small(tmp_path / "shards")
    train = folder.split("train")
    assert train.sizes == (7, 7, 7, 7, 7, 5) and train.labels == (14, 13, 13) and len(train) == 40
    assert folder.split("unlabelled").labels is None and folder.shape == (3,)
    samples = list(all_samples(train, folder.shape))
    numbers = [int(sample.input[0]) for sample in samples]
    assert sorted(numbers) == list(range(40)) and numbers != sorted(numbers)  # in random order
    for number, sample in zip(numbers, samples, strict=True):
        assert np.array_equal(sample.input, inputs[number]) and sample.label == labels[number]
    assert {s.label for s in all_samples(folder.split("unlabelled"), folder.shape)} == {-1}
    few = first_samples(train, folder.shape, 6)
    assert [(s.shard, s.number) for s in few] == [(shard, 0) for shard in range(6)]


def test_the_layout_is_webdatasets(tmp_path: Path) -> None:
    """A key, then `.npy` and `.cls` beside each other, plain tar; equal samples, equal files."""
    small(tmp_path / "one")
    with tarfile.open(tmp_path / "one" / "train-000005.tar", "r:") as archive:
        names = archive.getnames()
        array = np.load(io.BytesIO(archive.extractfile(names[0]).read()), allow_pickle=False)
        label = int(archive.extractfile(names[1]).read())
    assert names[:4] == ["000000035.npy", "000000035.cls", "000000036.npy", "000000036.cls"]
    assert array.shape == (3,) and array.dtype == np.float32 and label == int(array[0]) % 3
    small(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    small(tmp_path)
    files = sorted(map(str, tmp_path.glob("train-*.tar")))
    found = webdataset.WebDataset(files, shardshuffle=False).decode().to_tuple("npy", "cls")
    assert sorted((int(x[0]), y) for x, y in found) == [(k, k % 3) for k in range(40)]


def test_data_sets_and_files(tmp_path: Path) -> None:
    inputs, labels = numbered(20)
    ids = np.array([str(k) for k in range(20)])
    data = Dataset("numbers", inputs, labels, ("a", "b", "c"), ids)
    assert write_shards(tmp_path / "one", {"train": data}).class_names == ("a", "b", "c")
    np.save(tmp_path / "rows.npy", (inputs * 2).astype(np.float16))
    stored = StoredArray(np.load(tmp_path / "rows.npy", mmap_mode="r"), factor=0.5)
    folder = write_shards(tmp_path / "two", {"train": (stored, labels)}, data.class_names)
    first = next(read_samples(folder.split("train").files[0]))
    assert np.allclose(first.input, inputs[int(first.input[0])], atol=1e-2)


def test_foreign_shards_are_indexed(tmp_path: Path) -> None:
    """Integers and float64, labels as json, members of other kinds, folders in the archive."""
    rows = [[1.5, 2, 3], [4, 5, 6]]
    write_tar(
        tmp_path / "a.tar",
        [
            ("x/k1.npy", npy(np.array(rows[0]))), ("x/k1.txt", b"one"),
            ("x/k1.json", b'{"label": 1}'),
            ("x/k2.npy", npy(np.asfortranarray(rows[1], dtype=np.int16))), ("x/k2.cls", b" 0\n"),
        ],
    )  # fmt: skip
    folder = index_shards(tmp_path, {"train": ["a.tar"]}, ["no", "yes"])
    assert folder.split("train").labels == (1, 1) and folder.split("train").sizes == (2,)
    samples = list(all_samples(folder.split("train"), folder.shape))
    assert [s.input.tolist() for s in samples] == rows and [s.label for s in samples] == [1, 0]
    assert samples[1].input.dtype == np.float32
    with pytest.raises(ShardError, match=r"already has an index.json"):
        index_shards(tmp_path, {"train": ["a.tar"]}, ["no", "yes"])


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 40, 40)])
def test_moments_are_those_of_all_samples(shape: tuple[int, ...]) -> None:
    """Per value, and per channel of a large sample, also of two sets put together."""
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(30, *shape)) * 3 + 1e3).astype(np.float32)
    samples[:, 0] = 1e3 + 1
    parts = RunningMoments(shape), RunningMoments(shape)
    for k, sample in enumerate(samples):
        parts[k >= 11].add(sample)
    mean, scale = pooled([(p.count, p.mean, p.square) for p in parts])
    axes = 0 if len(shape) < 3 else (0, 2, 3)
    wanted = samples.astype(np.float64)
    expected = wanted.std(axis=axes).reshape(mean.shape)
    np.testing.assert_allclose(mean, wanted.mean(axis=axes).reshape(mean.shape), rtol=1e-10)
    np.testing.assert_allclose(scale, np.where(expected == 0, 1, expected), rtol=1e-8)
    assert mean.shape == (shape if len(shape) < 3 else (3, 1, 1)) and (expected == 0).any()


# --- what is refused ----------------------------------------------------------------------------


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"has no index.json, so it is no folder of shards"):
        open_shards(tmp_path)
    folder = small(tmp_path / "shards")
    with pytest.raises(ShardError, match=r"'trian'.*train"):
        folder.split("trian")
    with pytest.raises(ShardError, match=r"already holds shards"):
        small(tmp_path / "shards")
    (tmp_path / "shards" / "train-000003.tar").unlink()
    with pytest.raises(ShardError, match=r"lacks the shard train-000003.tar.*with 7 samples"):
        open_shards(tmp_path / "shards")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "has format 2, this version reads 1"),
        (lambda c: c.pop("shape"), "KeyError: 'shape'"),
        (lambda c: c.update(shape=[-1]), "shape cannot be"),
        (lambda c: c.update(class_names=["a", "a", "b"]), "class_names cannot be"),
        (lambda c: c["splits"]["train"]["labels"].append(1), r"splits.train.labels cannot be"),
        (lambda c: c["splits"]["train"]["mean"].pop(), "2 values"),
        (
            lambda c: c["splits"]["train"].update(shards={"../../evil.tar": 40}),
            r"splits.train.shards cannot be \['../../evil.tar'\]",
        ),
    ],
)
def test_a_damaged_index(tmp_path: Path, change, message: str) -> None:
    small(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    change(content)
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match=message):
        open_shards(tmp_path)


GOOD = npy(np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.cls", b"0")], "sample '1': no member 'npy', only cls"),
        ([("1.npy", GOOD)], "no member 'cls' or 'json', only npy"),
        ([("1.npy", GOOD), ("1.cls", b"3")], r"the label must lie in 0…2, got 3"),
        ([("1.npy", GOOD), ("1.cls", b"-1")], r"the label must lie in 0…2, got -1"),
        ([("1.npy", GOOD), ("1.cls", b"cat")], "'cls' must be a number, got b'cat'"),
        ([("1.npy", GOOD), ("1.json", b'{"label": true}')], "must lie in 0…2, got True"),
        ([("1.npy", GOOD), ("1.json", b"[" * 9000)], "'json' must be"),
        ([("1.npy", GOOD), ("1.npy", GOOD)], "two members 'npy'"),
        ([("1.npy", npy(np.zeros(4))), ("1.cls", b"0")], r"shape \(4,\), the others \(3,\)"),
        ([("1.npy", npy([1, np.nan, 2])), ("1.cls", b"0")], "has NaN or Inf"),
        ([("1.npy", npy(["a", "b", "c"])), ("1.cls", b"0")], "must be real numbers, got <U1"),
        ([("1.npy", GOOD[:-1]), ("1.cls", b"0")], "does not fit 11 bytes"),
        ([("1.npy", GOOD.replace(b"(3,)", b"(9,)")), ("1.cls", b"0")], "does not fit 12 bytes"),
        ([("1.npy", b"PK\x03\x04"), ("1.cls", b"0")], "no .npy array"),
        # Nothing is unpickled: objects in .npy, and every kind of member that would be.
        ([("1.npy", npy([{}, 1, 2])), ("1.cls", b"0")], "must be real numbers, got object"),
        ([("1.pyd", b"x")], "'1.pyd' would have to be unpickled"),
        ([("1.x.pickle", b"x")], "would have to be unpickled"),
        ([("1.npy", GOOD), ("1.PTH", b"x")], "'1.PTH' would have to be unpickled"),
        ([("../1.npy", GOOD), ("../1.cls", b"0")], "'../1.npy' leads out of the archive"),
        ([("/1.npy", GOOD), ("/1.cls", b"0")], "'/1.npy' leads out of the archive"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, members: list, message: str) -> None:
    path = write_tar(tmp_path / "s.tar", members)
    with pytest.raises(ShardError, match=message):
        list(read_samples(path, shape=(3,), classes=3))
    assert [p.name for p in tmp_path.iterdir()] == ["s.tar"]  # nothing was written


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("1.npy")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(ShardError, match="is a link, a device or sparse, no file"):
        list(read_samples(tmp_path / "s.tar"))


def test_damaged_files(tmp_path: Path) -> None:
    """Cut anywhere, other bytes in a head, compressed, no tar file at all, gone."""
    folder = small(tmp_path)
    split = folder.split("train")
    path, whole = split.files[0], split.files[0].read_bytes()

    def read() -> int:
        return len(list(all_samples(split, folder.shape)))

    assert read() == 40
    for length in range(0, 2 * 7 * 1024, 512 - 37):  # the last blocks are empty
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError, match=path.name):
            read()
    path.write_bytes(whole[:4096] + b"\xff" * 512 + whole[4608:])
    with pytest.raises(ShardError, match=r"has only 2 samples, and the index says 7"):
        read()
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(ShardError, match="cannot be read as a tar file"):
        read()
    path.write_bytes(split.files[1].read_bytes()[:-10240] + whole)
    with pytest.raises(ShardError, match=r"has more samples, and the index says 7"):
        read()
    path.unlink()
    with pytest.raises(ShardError, match="there is no shard"):
        read()


def test_changed_bytes_are_an_answer_or_a_sentence(tmp_path: Path) -> None:
    """A thousand files with a few bytes changed: samples, or a ShardError, and nothing else."""
    members = [(f"{k}.{kind}", GOOD if kind == "npy" else b"1") for k in range(3)
               for kind in ("npy", "cls")]  # fmt: skip
    path = write_tar(tmp_path / "s.tar", members)
    whole, rng = bytearray(path.read_bytes()[: 512 * 13]), np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        changed = bytearray(whole)
        for place in rng.integers(0, len(changed), size=rng.integers(1, 6)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            found = list(read_samples(path, shape=(3,), classes=3))
            assert len(found) <= 3 and all(np.isfinite(s.input).all() for s in found)
        except ShardError:
            refused += 1
    assert 300 < refused < 1000 and [p.name for p in tmp_path.iterdir()] == ["s.tar"]


def test_what_a_writer_refuses(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "one", ["a", "b"]) as writer:
        writer.add("train", [1.0, 2.0], 0)
        for sample, label, message in (
            ([1.0], 0, r"must have the shape \(2,\), got \(1,\)"),
            ([1.0, np.inf], 0, "sample 1 of 'train' has NaN or Inf"),
            ([1.0, 2.0], 2, r"label must lie in 0…1 \(class_names\), got 2"),
            ([1.0, 2.0], None, "has samples with labels; got None"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.add("train", sample, label)
        with pytest.raises(ValueError, match=r"split must be a plain name, got '../x'"):
            writer.add("../x", [1.0, 2.0], 0)
    assert len(open_shards(tmp_path / "one").split("train")) == 1
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / "two", ["a", "b"]) as writer:
        writer.add("train", [1.0, 2.0], 1 // 0)
    assert not (tmp_path / "two" / "index.json").exists()
    inputs, labels = numbered(6)
    for splits, names, message in (
        ({"train": (inputs, labels[:5])}, ["a", "b", "c"], r"6 inputs need labels of shape \(6,\)"),
        ({"train": (inputs, labels / 2)}, ["a", "b", "c"], "labels must be integers, got float64"),
        ({"train": (inputs, labels)}, None, "class_names must be given"),
        ({"train": (inputs, labels)}, ["a", "a", "b"], "class_names must be distinct"),
        ({}, ["a", "b"], "no sample was added"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shards(tmp_path / "three", splits, names)
