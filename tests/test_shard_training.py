"""``ucmkd distill`` on shards: the samples of a training in memory, and an exact resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchdata")
pytest.importorskip("lightning_fabric")
pytest.importorskip("sklearn")

import torch

from shards_common import numbered
from ucmkd.batches import Batches
from ucmkd.config import ConfigError, Recipe, TrainingConfig, from_mapping, to_mapping
from ucmkd.data import digits_pixels
from ucmkd.data.streaming import ShardError, open_shards, write_shards
from ucmkd.distill import distill
from ucmkd.methods import create
from ucmkd.models import MLP
from ucmkd.pools import MatchedStreamSampler, Stream
from ucmkd.preparation import prepare
from ucmkd.recipe_file import SHIPPED, load_recipe
from ucmkd.rehearsal import check_method, rehearse
from ucmkd.taught import untaught

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Some of the bundled digits for each side, in shards of 20."""
    given: dict[str, Any] = {
        "out_dir": str(folder),
        "data": {
            "teacher": {"dataset": "digits_pixels"},
            "student": {"dataset": "digits_shape", "labels_per_class": 3, "max_unlabelled": 150},
            "max_teacher": 120,
            "max_test": 60,
            "stream": {"write": True, "buffer": 30, "shard_size": 20},
        },
        "teacher": {"steps": 8, "batch_size": 16, "hidden": 16, "width": 8},
        "student": {"hidden": 16, "width": 8, "dropout": 0.2},
        "method": {"name": "joint_alignment", "options": {"max_iter": 5}},
        "training": {
            "steps": 12, "batch_size": 8, "unlabelled_batch_size": 40, "teacher_batch_size": 16,
            "eval_every": 3, "log_every": 3, "diagnose_every": 0,
        },
        "hardware": {"accelerator": "cpu"},
    }  # fmt: skip
    for key, value in changes.items():
        place = given
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return given


def recipe(folder: Path, **changes: Any) -> Recipe:
    made: Recipe = from_mapping(Recipe, settings(folder, **changes))
    return made


class Stopped(Exception):
    """The interruption of these tests."""


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    def callback(record: dict[str, Any]) -> None:
        if record["step"] >= step:
            raise Stopped

    return callback


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", ["joint_alignment", "ucmkd"])
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, method: str
) -> None:
    """``ucmkd`` matches the classes of its batches, ``joint_alignment`` has four streams."""
    monkeypatch.setattr("ucmkd.distill.write_report", lambda *_: None)  # drawing takes seconds
    options = {"max_iter": 5} if method == "joint_alignment" else {"class_matched": True}
    changes = {"method": {"name": method, "options": options}, "data.stream.workers": workers}
    whole = recipe(tmp_path / "whole", **changes)
    distill(whole)
    broken = recipe(tmp_path / "broken", **changes)
    with pytest.raises(Stopped):
        distill(broken, callbacks=[stop_at(9)])
    stored = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert 0 < stored["step"] < 9
    result = distill(broken, resume=True)
    assert not result.already_finished and result.steps == 12
    for name in ("student.safetensors", "teacher.safetensors", "metrics.json"):
        one, two = ((tmp_path / run / name).read_bytes() for run in ("whole", "broken"))
        assert one == two, name


def test_the_samples_are_those_of_a_training_in_memory(tmp_path: Path, cache: Path) -> None:
    """Pools, labels, frequencies and scale; written once, and again for other labels."""
    streamed = prepare(recipe(tmp_path).data, 0)
    memory = prepare(recipe(tmp_path, **{"data.stream.write": False}).data, 0)
    assert streamed.class_names == memory.class_names
    for side in ("teacher", "student"):
        one, two = getattr(streamed, side), getattr(memory, side)
        assert torch.equal(one.label_counts, two.label_counts)
        for pool, stream in one.streams.items():
            found = stream.whole()[0]
            assert one.samples(pool) == two.samples(pool) == len(stream) == len(found)
            wanted = getattr(two, pool)
            order = [t.double().flatten(1) @ _direction(t) for t in (found, wanted)]
            torch.testing.assert_close(
                found[order[0].argsort()], wanted[order[1].argsort()], atol=1e-4, rtol=1e-4
            )
        assert sorted(one.validation_label.tolist()) == sorted(two.validation_label.tolist())
    prior = untaught(memory).class_prior
    assert prior is not None and torch.equal(untaught(streamed).class_prior, prior)
    assert streamed.student.test is not None and streamed.teacher.test is None
    shelf = cache / "shards"
    (place,) = [path for path in shelf.iterdir() if path.is_dir()]
    stamp = (place / "teacher" / "index.json").stat().st_mtime_ns
    prepare(recipe(tmp_path, **{"data.stream.workers": 2, "data.stream.buffer": 7}).data, 0)
    assert (place / "teacher" / "index.json").stat().st_mtime_ns == stamp
    prepare(recipe(tmp_path, **{"data.student.labels_per_class": 4}).data, 0)
    assert sum(path.is_dir() for path in shelf.iterdir()) == 2


def test_the_shipped_recipe_is_another_one_in_shards() -> None:
    few, streamed = (
        to_mapping(load_recipe(SHIPPED / f"digits_pen_{name}.yaml")) for name in ("few", "streamed")
    )
    assert streamed["data"].pop("stream")["write"] and not few["data"].pop("stream")["write"]
    assert few | {"name": "digits_pen_streamed"} == streamed


def _direction(tensor: torch.Tensor) -> torch.Tensor:
    width = tensor[0].numel()
    return torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher's and a student's folder with ten classes that can be told apart."""
    rng = np.random.default_rng(0)
    names = tuple("0123456789")

    def drawn(n: int, width: int) -> tuple:
        labels = np.arange(n) % 10
        centre = 4 * np.random.default_rng(width).normal(size=(10, width))
        return (rng.normal(size=(n, width)) + centre[labels]).astype(np.float32), labels

    write_shards(
        tmp_path / "teacher", {"train": drawn(200, 6), "validation": drawn(50, 6)}, names,
        samples_per_shard=40,
    )  # fmt: skip
    write_shards(
        tmp_path / "student",
        {
            "train": drawn(50, 8), "unlabelled": (drawn(300, 8)[0], None),
            "validation": drawn(50, 8), "test": drawn(100, 8),
        },
        names,
        samples_per_shard=40,
    )  # fmt: skip
    return tmp_path / "teacher", tmp_path / "student"


def of_folders(tmp_path: Path, **changes: Any) -> Recipe:
    teacher, student = folders(tmp_path) if not (tmp_path / "student").exists() else (
        tmp_path / "teacher", tmp_path / "student"
    )  # fmt: skip
    data = {
        "teacher": {"dataset": str(teacher)},
        "student": {"dataset": str(student), "labels_per_class": None},
    }
    return recipe(tmp_path / "run", data=data, **changes)


def test_folders_of_ones_own(tmp_path: Path) -> None:
    """Sixty steps on them are better than chance by far; the report has the sizes of the pools."""
    found = distill(of_folders(tmp_path, **{"training.steps": 60, "optimizer": {"lr": 0.03}}))
    assert found.test.count == 100 and found.test.accuracy > 0.5
    assert found.teacher is not None and found.teacher.count == 50
    page = (tmp_path / "run" / "report.html").read_text()
    assert "300 unlabelled in 8 shards" in page
    records = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert records[0]["epoch"] == 3 / 8  # 300 / 40 steps a pass of the larger pool


def test_one_side_in_shards_and_one_not(tmp_path: Path) -> None:
    """The other side is written; its classes take the order of the shards."""
    folders(tmp_path)
    data = {
        "teacher": {"dataset": str(tmp_path / "teacher")},
        "student": {"dataset": "digits_shape", "labels_per_class": 3},
    }
    made = prepare(recipe(tmp_path / "run", data=data).data, 0)
    assert made.student.samples("student") == 30 and made.teacher.samples("student") == 200
    assert made.student.samples("unlabelled") > 400
    data = {
        "teacher": {"dataset": "digits_pixels"},
        "student": {"dataset": str(tmp_path / "student"), "labels_per_class": None},
    }
    made = prepare(recipe(tmp_path / "run", data=data).data, 0)
    assert made.student.samples("test") == 100
    assert made.teacher.samples("student") + len(made.teacher.validation) == len(digits_pixels())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.pairs", 3, "data.pairs must be 0 where samples are streamed"),
        ("data.cohort_size", 2, "data.cohort_size must be null where"),
        ("data.mismatch", "mild", "data.mismatch must be null where"),
        ("data.teacher.columns", 3, "data.teacher.columns must be null where"),
        ("data.max_teacher", 3, "data.max_teacher must be null for the folder of shards"),
        ("data.test_groups", 1, "data.test_groups must be null for the folder"),
        ("data.student.labels_per_class", 3, "data.student.labels_per_class must be null for"),
        ("data.student.label_noise", 0.1, r"data.student.label_noise must be 0.0 for the folder"),
        ("data.teacher.dataset", "no/where", "no/where has no index.json"),
    ],
)
def test_keys_that_streams_do_not_have(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    mapping = to_mapping(of_folders(tmp_path))
    *path, last = key.split(".")
    place = mapping
    for part in path:
        place = place[part]
    place[last] = value
    with pytest.raises((ConfigError, ShardError), match=message):
        prepare(from_mapping(Recipe, mapping).data, 0)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    mapping = to_mapping(of_folders(tmp_path))
    inputs, labels = numbered(12)
    digits = tuple("0123456789")
    write_shards(tmp_path / "abc", {"train": (inputs, labels)}, ("a", "b", "c"))
    write_shards(tmp_path / "none", {"train": (inputs, None)}, digits)
    write_shards(tmp_path / "only", {"train": (inputs, labels)}, digits)
    for role, name, message in (
        ("teacher", "abc", "must have the same classes in the same order"),
        ("teacher", "none", "split 'train' has no labels"),
        ("student", "only", "needs a split 'validation'; it has train"),
    ):
        side = {**mapping["data"][role], "dataset": str(tmp_path / name)}
        data = {**mapping["data"], role: side}
        with pytest.raises(ConfigError, match=message):
            prepare(from_mapping(Recipe, {**mapping, "data": data}).data, 0)


def test_what_a_method_needs(tmp_path: Path) -> None:
    """Unlabelled samples are there although labels_per_class is null; a bank is refused."""
    chosen = of_folders(tmp_path)
    check_method(chosen)
    made = prepare(chosen.data, 0)
    rehearse(chosen, made)
    banked = of_folders(
        tmp_path, **{"method": {"name": "joint_alignment", "options": {"bank": True}}}
    )
    with pytest.raises(ConfigError, match=r"method.options.bank must be false where samples are"):
        rehearse(banked, made)
    method = create(
        "joint_alignment", MLP(8, num_classes=10), num_classes=10, teacher_width=8, bank=True,
        class_prior=torch.ones(10), teacher_head=torch.nn.Linear(8, 10),
    )  # fmt: skip
    data = untaught(made, inputs=True)
    rows = len(data.teacher_label)
    data = replace(data, teacher_feature=torch.zeros(rows, 8), teacher_logits=torch.zeros(rows, 10))
    with pytest.raises(ValueError, match="needs all of the teacher's samples in each step"):
        Batches(data, method, TrainingConfig(), 0)


# --- draws with the classes of the student's batch ----------------------------------------------


def stream(tmp_path: Path, labels: list[int], **options: Any) -> Stream:
    inputs, _ = numbered(len(labels))
    folder = write_shards(
        tmp_path / f"{len(labels)}", {"train": (inputs, np.array(labels))}, ("a", "b", "c"),
        samples_per_shard=8,
    )  # fmt: skip
    return Stream(folder, "train", **{"buffer": 12, **options})


def test_matched_draws(tmp_path: Path) -> None:
    """Row i has the class asked for; every sample is drawn; the queues hold the buffer."""
    labels = [0] * 30 + [1] * 9 + [2]
    sampler = MatchedStreamSampler(stream(tmp_path, labels), 6, 0, 0, 1)
    seen: set[int] = set()
    wanted = torch.tensor([0, 2, 1, 0, 0, 1])
    for _ in range(30):
        rows = sampler.draw(wanted)
        assert torch.equal(rows["label"], wanted)
        drawn = rows["input"][:, 0].int().tolist()
        assert [labels[k] for k in drawn] == wanted.tolist()
        seen.update(drawn)
        assert all(len(queue) <= 4 for queue in sampler._queues)  # 12 over 3 classes
    assert len(seen) > 35


def test_matched_draws_go_on_exactly(tmp_path: Path) -> None:
    one = MatchedStreamSampler(stream(tmp_path, [0, 1, 2, 0, 0] * 8), 5, 0, 0, 1)
    wanted = torch.tensor([0, 1, 1, 2])
    for _ in range(5):
        one.draw(wanted)
    torch.save(one.state_dict(), tmp_path / "state")
    assert sum(len(queue) for queue in one._queues) > 0
    two = MatchedStreamSampler(one.stream, 5, 0, 0, 1)
    two.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(12):
        first, second = one.draw(wanted), two.draw(wanted)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_class_that_the_stream_lacks(tmp_path: Path) -> None:
    chosen = stream(tmp_path, [0, 2] * 10)
    with pytest.warns(UserWarning, match="no samples of class b to match with"):
        sampler = MatchedStreamSampler(chosen, 4, 0, 0, 1)
    drawn = torch.cat([sampler.draw(torch.tensor([1, 0, 1]))["label"] for _ in range(20)])
    assert (drawn[1::3] == 0).all() and set(drawn.tolist()) == {0, 2}


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    """A class that is counted and nowhere to be found ends in a sentence, not in a search."""
    chosen = stream(tmp_path, [0, 2] * 10)
    path = chosen.folder.path / "index.json"
    content = json.loads(path.read_text())
    content["splits"]["train"]["labels"] = [10, 1, 9]
    path.write_text(json.dumps(content))
    sampler = MatchedStreamSampler(Stream(open_shards(path.parent), "train"), 4, 0, 0, 1)
    with pytest.raises(ShardError, match=r"classes \[1\] were not all found in \d+ samples"):
        sampler.draw(torch.tensor([1]))


def test_the_teacher_answers_when_it_is_drawn(tmp_path: Path) -> None:
    teacher = MLP(3, num_classes=3, hidden=5, width=4).eval()
    chosen = stream(tmp_path, [0, 1, 2] * 8, teacher=teacher)
    rows = MatchedStreamSampler(chosen.to("cpu", torch.float64), 6, 0, 0, 1).draw(
        torch.tensor([2, 0])
    )
    feature, logits = teacher.outputs(rows["input"].float())
    assert torch.equal(rows["feature"], feature.double()) and not rows["feature"].requires_grad
    assert torch.equal(rows["logits"], logits.double()) and rows["input"].dtype == torch.float64
