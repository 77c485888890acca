"""CMD on trajectories: streams, views, losses, queues, the whole step, resuming, evaluation."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ucmkd.checkpoint import CheckpointError
from ucmkd.config_errors import ConfigError
from ucmkd.skeletons import (
    CMD,
    STREAMS,
    Pretraining,
    info_nce,
    linear_evaluation,
    mutual_loss,
    neighbour_kl,
    pretrain,
    streams,
)
from ucmkd.skeletons.augment import interpolate, view
from ucmkd.skeletons.moco import Queues, follow, follower
from ucmkd.skeletons.model import initialised
from ucmkd.skeletons.pretrain import permuted
from ucmkd.tasks import Case
from ucmkd.tasks import skeletons as task
from ucmkd.tasks.skeletons import TASK, SkeletonSettings

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Pretraining(
    steps=8, batch_size=6, hidden=10, width=8, dim=5, queue=16, neighbours=7, log_every=2
)


def trajectories(n: int = 20, count: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, count, 2, generator=generator).cumsum(1) / 2


def units(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values / values.norm(dim=-1, keepdim=True)


# Streams and views -----------------------------------------------------------------------------


def test_streams_by_hand() -> None:
    points = torch.tensor([[[0.0, 0], [3, 4], [3, 4], [3, 2]]])
    found = streams(points)
    assert tuple(found) == STREAMS and torch.equal(found["joint"], points)
    assert found["motion"][0].tolist() == [[3, 4], [0, 0], [0, -2]]
    bone = torch.tensor([[5, 0.6, 0.8], [0, 0, 0], [2, 0, -1]])
    torch.testing.assert_close(found["bone"][0], bone)


def test_interpolation_by_hand() -> None:
    points = torch.tensor([[[0.0, 0], [2, 4], [2, 8]]])
    found = interpolate(points, torch.tensor([[0.0, 0.5, 1.25, 2.0]]))
    assert found[0].tolist() == [[0, 0], [1, 2], [2, 5], [2, 8]]


def test_views_are_random_and_follow_from_the_generator() -> None:
    points = trajectories(40)
    first, second = (view(points, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert first.shape == points.shape and not torch.equal(first, second)
    assert torch.equal(first, view(points, torch.Generator().manual_seed(1)))
    still = view(points, torch.Generator().manual_seed(1), least=1.0, shear=0.0, noise=0.0)
    torch.testing.assert_close(still, points)


def test_half_are_sheared_and_half_have_points_moved() -> None:
    points = trajectories(400) + 3.0
    found = view(points, torch.Generator().manual_seed(0), least=1.0, moved=2, noise=0.5)
    changed = ((found - points).abs() > 1e-5).any(-1).sum(1)
    assert set(changed.tolist()) <= {2, 6} and 150 < int((changed == 2).sum()) < 250
    sheared = changed == 6
    slope = (found - points)[sheared] / points[sheared].flip(-1)
    torch.testing.assert_close(slope, slope[:, :1].expand_as(slope), rtol=1e-2, atol=1e-3)
    assert 0.25 < float(slope.abs().max()) <= 0.3 + 1e-3


# Losses ----------------------------------------------------------------------------------------


def test_info_nce_by_hand() -> None:
    positive, negative = torch.tensor([0.5, 0.0]), torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    t = 0.5
    rows = [
        -math.log(math.e / (math.e + 1 + math.e)),
        -math.log(1 / (1 + math.exp(2) + 1)),
    ]
    found = info_nce(positive, negative, temperature=t)
    assert found.item() == pytest.approx(sum(rows) / 2, rel=1e-6)


def kl_by_loops(s: Tensor, t: Tensor, neighbours: int, cold: float, warm: float) -> float:
    """The definition, sample by sample, in Python's floats."""
    total = 0.0
    for mine, theirs in zip(s.tolist(), t.tolist(), strict=True):
        kept = sorted(range(len(theirs)), key=lambda j: -theirs[j])[:neighbours]
        p = [math.exp(theirs[j] / cold) for j in kept]
        q = [math.exp(mine[j] / warm) for j in kept]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(s)


@pytest.mark.parametrize("neighbours", [1, 4, 9])
def test_neighbour_kl_is_its_definition(neighbours: int) -> None:
    s, t = units(5, 9), units(5, 9, seed=1).requires_grad_()
    s.requires_grad_()
    found = neighbour_kl(s, t, neighbours=neighbours)
    assert found.item() == pytest.approx(kl_by_loops(s, t, neighbours, 0.05, 0.1), abs=1e-12)
    assert torch.autograd.grad(found, t, allow_unused=True, retain_graph=True) == (None,)
    (slope,) = torch.autograd.grad(found, s)
    assert bool(slope.any()) == (neighbours > 1)  # of one neighbour there is nothing to say
    same = neighbour_kl(2 * t, t, neighbours=neighbours)  # twice the temperature, twice the cosine
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_mutual_loss_is_both_ways_between_all() -> None:
    s, t = units(3, 4, 8), units(3, 4, 8, seed=1)
    expected = sum(
        kl_by_loops(s[v], t[u], 5, 0.04, 0.2) for u in range(3) for v in range(3) if u != v
    )
    found = mutual_loss(s, t, neighbours=5, temperature=0.2, teacher_temperature=0.04)
    assert found.item() == pytest.approx(expected, rel=1e-10)


# Queues and momentum ---------------------------------------------------------------------------


def test_queues_are_first_in_first_out_and_aligned() -> None:
    queues = Queues(2, 5, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(queues.keys.norm(dim=-1), torch.ones(2, 5))
    before = queues.keys.clone()
    batches = [torch.full((2, n, 3), float(10 * n)) for n in (3, 4)]
    for batch in batches:
        batch[1] += 1  # the second stream's
        batch += torch.arange(batch.shape[1])[None, :, None] / 10
    queues.push(batches[0])
    assert torch.equal(queues.keys[:, 3:], before[:, 3:])
    queues.push(batches[1])  # columns 3, 4, 0, 1: the oldest first
    kept = queues.keys[:, :, 0]
    torch.testing.assert_close(kept[0], torch.tensor([40.2, 40.3, 30.2, 40.0, 40.1]))
    torch.testing.assert_close(kept[1], kept[0] + 1)
    assert int(queues.place) == 2
    vectors = units(2, 4, 3).float()
    found = queues.similarity(vectors)
    torch.testing.assert_close(found[1, 2, 4], vectors[1, 2] @ queues.keys[1, 4])


def test_follower_moves_slowly_and_without_gradient() -> None:
    fast = torch.nn.Linear(1, 1)
    slow = follower(fast)
    assert not any(p.requires_grad for p in slow.parameters())
    with torch.no_grad():
        fast.weight.fill_(2.0)
        slow.weight.fill_(1.0)
    for expected in (1.1, 1.19):  # .9 · 1 + .1 · 2, then .9 · 1.1 + .2
        follow(slow, fast, 0.9)
        assert slow.weight.item() == pytest.approx(expected)
    assert fast.weight.item() == 2.0


def test_a_step_is_its_formula() -> None:
    """Two views through the weights by hand; keys after the momentum, queues as before the step."""
    model = initialised(trajectories(), SMALL, seed=3).double()
    first, second = trajectories(6, seed=1).double(), trajectories(6, seed=2).double()
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(0.1 * torch.randn_like(p))
    queues = model.queues.keys.clone()
    slow = {k: v.clone() for k, v in model.key.named_parameters()}
    fast = dict(model.query.named_parameters())

    def encode(parameters: dict[str, Tensor], name: str, stream: Tensor) -> Tensor:
        x = stream.flatten(1)
        x = (x - model.query[name].mean) / model.query[name].scale
        for layer in ("layers.0", "layers.2"):
            weight, bias = (parameters[f"{name}.{layer}.{part}"] for part in ("weight", "bias"))
            x = (x @ weight.T + bias).clamp_min(0)
        weight, bias = (parameters[f"{name}.projection.{part}"] for part in ("weight", "bias"))
        x = x @ weight.T + bias
        return x / x.norm(dim=1, keepdim=True)

    slow = {k: 0.99 * v + 0.01 * fast[k] for k, v in slow.items()}
    query = {name: encode(fast, name, s) for name, s in streams(first).items()}
    key = {name: encode(slow, name, s) for name, s in streams(second).items()}
    found = model.terms(first, second)
    cosine, target = [], []
    for u, name in enumerate(STREAMS):
        cosine.append(query[name] @ queues[u].T)
        target.append(key[name] @ queues[u].T)
        rows = [
            -math.log(a / (a + b))
            for a, b in zip(
                ((query[name] * key[name]).sum(1) / 0.07).exp().tolist(),
                (cosine[-1] / 0.07).exp().sum(1).tolist(),
                strict=True,
            )
        ]
        assert found[f"nce_{name}"].item() == pytest.approx(sum(rows) / 6, rel=1e-9)
    expected = sum(
        kl_by_loops(cosine[v], target[u], 7, 0.05, 0.1)
        for u in range(3) for v in range(3) if u != v
    )  # fmt: skip
    assert found["mutual"].item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(model.queues.keys[:, :6], torch.stack([*key.values()]))
    assert torch.equal(model.queues.keys[:, 6:], queues[:, 6:])
    total = model.total(found)
    torch.testing.assert_close(total, sum(found.values()))
    total.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.query.parameters())
    assert all(p.grad is None for p in model.key.parameters())


def test_streams_alone_have_no_mutual_term() -> None:
    model = initialised(trajectories(), replace(SMALL, mutual=0.0), seed=0)
    assert set(model.terms(trajectories(4), trajectories(4))) == {f"nce_{s}" for s in STREAMS}
    half = initialised(trajectories(), replace(SMALL, mutual=0.5), seed=0)
    terms = half.terms(trajectories(4), trajectories(4))
    plain = sum(v for k, v in terms.items() if k != "mutual") + 0.5 * terms["mutual"]
    torch.testing.assert_close(half.total(terms), plain)


# Training --------------------------------------------------------------------------------------


def timeless(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


@pytest.mark.parametrize("mutual", [0.0, 1.0])
def test_a_killed_run_resumes_bit_for_bit(mutual: float, tmp_path: Path) -> None:
    config, points = replace(SMALL, mutual=mutual), trajectories()
    torch.manual_seed(5)
    global_state = torch.get_rng_state()
    straight = pretrain(points, config, seed=2, folder=tmp_path / "straight")
    assert torch.equal(torch.get_rng_state(), global_state)  # nobody else's numbers are touched

    class Killed(Exception):
        pass

    def kill(record: dict[str, Any]) -> None:
        if record["step"] == 6:  # in the log, but before its checkpoint: continued from step 4
            raise Killed

    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        pretrain(points, config, seed=2, folder=folder, callback=kill)
    torch.manual_seed(99)
    resumed = pretrain(points, config, seed=2, folder=folder, resume=True)
    expected = straight.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert timeless(folder / "log.jsonl") == timeless(tmp_path / "straight" / "log.jsonl")
    again = pretrain(points, config, seed=2, folder=folder, resume=True)  # nothing is left to do
    assert all(torch.equal(v, expected[k]) for k, v in again.state_dict().items())
    other = pretrain(points, config, seed=3).state_dict()
    assert not torch.equal(other["query.joint.projection.weight"],
                           expected["query.joint.projection.weight"])  # fmt: skip


def test_training_makes_views_of_one_sample_alike() -> None:
    records: list[dict[str, Any]] = []
    config = Pretraining(
        steps=400, batch_size=32, hidden=32, width=16, dim=16, queue=128, neighbours=64
    )
    points, generator = trajectories(200), torch.Generator().manual_seed(7)
    model = pretrain(points[:150], config, callback=records.append)
    assert [r["step"] for r in records] == [100, 200, 300, 400]
    assert [r["lr"] for r in records] == pytest.approx([0.05, 0.05, 0.05, 0.005])
    first, second = (streams(view(points[150:], generator)) for _ in range(2))

    @torch.no_grad()
    def found(encoders: torch.nn.ModuleDict, name: str) -> float:
        """The contrast of fifty new samples with each other; log 50 knows nothing."""
        cosine = encoders[name](first[name]) @ encoders[name](second[name]).T
        others = cosine[~torch.eye(50, dtype=torch.bool)].reshape(50, 49)
        return info_nce(cosine.diagonal(), others).item()

    untrained = initialised(points[:150], config, seed=0).query
    for name in STREAMS:
        assert found(model.query, name) < found(untrained, name) - 0.2


# Evaluation ------------------------------------------------------------------------------------


def test_linear_evaluation_adds_log_probabilities() -> None:
    rng = np.random.default_rng(0)
    label, test_label = torch.arange(60) % 3, torch.arange(45) % 3

    def drawn(y: Tensor, gap: float) -> Tensor:
        noise = torch.from_numpy(rng.standard_normal((len(y), 4)))
        return noise + gap * torch.eye(3, 4, dtype=torch.float64)[y]

    gaps = {"good": 6.0, "weak": 1.0, "none": 0.0}
    train = {name: drawn(label, gap) for name, gap in gaps.items()}
    test = {name: drawn(test_label, gap) for name, gap in gaps.items()}
    found = linear_evaluation(train, label, test, test_label)
    assert found["good"] == 1.0 and found["none"] < found["weak"] < 1.0
    assert set(found) == {*gaps, "ensemble"} and found["ensemble"] > 0.9
    alone = linear_evaluation({"a": train["weak"]}, label, {"a": test["weak"]}, test_label)
    assert alone["ensemble"] == alone["a"] == found["weak"]


def test_features_are_before_the_projection() -> None:
    model, points = initialised(trajectories(), SMALL, seed=0), trajectories(4)
    found = model.features(points)
    assert {name: tuple(v.shape) for name, v in found.items()} == dict.fromkeys(STREAMS, (4, 8))
    head = model.query["bone"].projection
    out = torch.nn.functional.normalize(head(found["bone"]), dim=-1)
    torch.testing.assert_close(out, model.query["bone"](streams(points)["bone"]))


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"queue": 2.5}, "queue must be a positive integer, got 2.5"),
        ({"lr": math.nan}, "lr must be a positive number, got nan"),
        ({"lr": "x"}, "lr must be a positive number, got 'x'"),
        ({"lr": True}, "lr must be a positive number, got True"),
        ({"temperature": None}, "temperature must be a positive number, got None"),
        ({"momentum": "x"}, r"momentum must be in \[0, 1\], got 'x'"),
        ({"neighbours": 3.5}, r"neighbours must be in 1..1024.* got 3.5"),
        ({"mutual": -1.0}, "mutual must be a number of at least 0, got -1"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
        ({"neighbours": 2000}, r"neighbours must be in 1..1024, the length of the queue, got 2000"),
        ({"batch_size": 4096}, "batch_size must be at most the queue, 1024, got 4096"),
    ],
)
def test_bad_settings_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pretraining(**option)


def test_bad_points_are_named(tmp_path: Path) -> None:
    for points, message in (
        (torch.zeros(3, 4), r"points must have shape \(n, T, 2\).* got \(3, 4\)"),
        (torch.zeros(3, 1, 2), r"got \(3, 1, 2\)"),
        (torch.zeros(3, 4, 2, dtype=torch.int64), "floating point, got torch.int64"),
    ):
        for call in (streams, lambda x: pretrain(x, SMALL), lambda x: CMD(x)):
            with pytest.raises(ValueError, match=message):
                call(points)
    for points in (trajectories().index_fill(0, torch.tensor([3]), math.nan), torch.zeros(0, 4, 2)):
        with pytest.raises(ValueError, match="points must be finite, and some"):
            pretrain(points, SMALL, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_bad_arguments_are_named() -> None:
    generator, points = torch.Generator(), trajectories()
    for option, message in (
        ({"least": 0.0}, r"least must lie in \(0, 1\], got 0"),
        ({"shear": -1.0}, "shear must be a number of at least 0, got -1"),
        ({"noise": math.inf}, "noise must be"),
        ({"moved": 7}, r"moved must lie in 0\.\.6"),
    ):
        with pytest.raises(ValueError, match=message):
            view(points, generator, **option)
    with pytest.raises(ValueError, match=r"queues aligned by index, got \(2, 3\) and \(2, 4\)"):
        neighbour_kl(torch.zeros(2, 3), torch.zeros(2, 4), neighbours=1)
    with pytest.raises(ValueError, match=r"neighbours must lie in 1\.\.3, .* got 4"):
        neighbour_kl(torch.zeros(2, 3), torch.zeros(2, 3), neighbours=4)
    queues = Queues(2, 4, 3)
    with pytest.raises(ValueError, match=r"keys must be \(2, n, 3\), got \(3, 1, 3\)"):
        queues.push(torch.zeros(3, 1, 3))
    with pytest.raises(ValueError, match="a queue of 4 keys cannot take 5 at once"):
        queues.push(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Queues(2, 0, 3)
    x, y = {"a": torch.zeros(4, 2)}, torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="the same streams, at least one"):
        linear_evaluation(x, y, {"b": x["a"]}, y)
    with pytest.raises(ValueError, match="test_features must have 3 rows"):
        linear_evaluation(x, y, x, y[:3])
    with pytest.raises(ValueError, match="at least two classes"):
        linear_evaluation(x, y * 0, x, y)


def test_folders_of_other_runs_are_refused(tmp_path: Path) -> None:
    points = trajectories()
    pretrain(points, SMALL, folder=tmp_path)
    with pytest.raises(ConfigError, match="already holds a run; resume it"):
        pretrain(points, SMALL, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"with mutual 1\.0, this one has 0\.0"):
        pretrain(points, replace(SMALL, mutual=0.0), folder=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="with seed 0, this one has 1"):
        pretrain(points, SMALL, seed=1, folder=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="resume needs a folder"):
        pretrain(points, SMALL, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="damaged"):
        pretrain(points, SMALL, folder=tmp_path, resume=True)


# The placebo -----------------------------------------------------------------------------------


def test_each_stream_of_a_placebo_is_of_other_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = permuted(20, 3)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(20).expand(3, 20))
    assert torch.equal(orders, permuted(20, 3)) and not torch.equal(orders, permuted(20, 4))
    same = [(orders[a] == orders[b]).sum() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert max(same) < 6
    seen: list[Tensor] = []
    real = CMD.terms

    def terms(self: CMD, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        seen.append(first)
        return real(self, first, second)

    monkeypatch.setattr(CMD, "terms", terms)
    module = sys.modules["ucmkd.skeletons.pretrain"]  # the package has a function of that name
    monkeypatch.setattr(module, "view", lambda points, _: points)
    points, one = trajectories(), replace(SMALL, steps=1)
    for placebo in (False, True):
        pretrain(points, one, seed=3, placebo=placebo)
    plain, shuffled = seen
    rows = torch.tensor([[torch.equal(p, q) for q in points] for p in plain]).int().argmax(1)
    assert torch.equal(shuffled, torch.stack([points[order[rows]] for order in orders]))


def test_terms_of_streams_by_themselves() -> None:
    """The same samples in all streams: nothing changes; others: only the mutual term sees it."""
    first, second = trajectories(6, seed=1), trajectories(6, seed=2)
    alike = initialised(first, SMALL, seed=0).terms(first, second)
    repeated = [x.expand(3, *x.shape) for x in (first, second)]
    for name, value in initialised(first, SMALL, seed=0).terms(*repeated).items():
        torch.testing.assert_close(value, alike[name])
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    apart = [torch.stack((x, x[order], x)) for x in (first, second)]
    found = initialised(first, SMALL, seed=0).terms(*apart)
    for name in STREAMS:
        torch.testing.assert_close(found[f"nce_{name}"], alike[f"nce_{name}"])
    assert not torch.allclose(found["mutual"], alike["mutual"], rtol=1e-4)
    with pytest.raises(ValueError, match=r"first and second must both be \(n, T, 2\) or \(3, n"):
        initialised(first, SMALL, seed=0).terms(repeated[0][:2], repeated[1][:2])
    with pytest.raises(ValueError, match=r"got \(6, 6, 2\) and \(3, 6, 6, 2\)"):
        initialised(first, SMALL, seed=0).terms(first, repeated[1])


# The task --------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tensor]:
    """Trajectories of three classes, each about a path of its own; their classes."""
    label = torch.arange(60) % 3
    path = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(9))
    points = path[label] + 0.3 * trajectories(60)
    monkeypatch.setattr(task, "pen_trajectories", lambda: (points, label))
    monkeypatch.setattr(task, "Pretraining", lambda: SMALL)
    task.features.cache_clear()
    yield label
    task.features.cache_clear()


def test_rows_of_a_seed_share_trainings_and_labels(
    written: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[Tensor, Tensor]] = []
    trained: list[tuple[float, bool]] = []
    evaluate, train = task.linear_evaluation, task.pretrain

    def evaluated(features: Any, labels: Tensor, *test: Any) -> dict[str, float]:
        fitted.append((labels, test[1]))
        return evaluate(features, labels, *test)

    def pretrained(points: Tensor, config: Pretraining, **options: Any) -> CMD:
        trained.append((config.mutual, options["placebo"]))
        return train(points, config, **options)

    monkeypatch.setattr(task, "linear_evaluation", evaluated)
    monkeypatch.setattr(task, "pretrain", pretrained)
    for labels in (3, 6):
        for method, controls in TASK.rows.items():
            for control in (None, *controls):
                settings = SkeletonSettings(labels=labels, steps=2, mutual=0.5)
                outcome = TASK.run(Case(method, settings, control, 4))
                found = outcome.test()
                assert set(found) == {m.name for m in TASK.shown.tested}
                assert all(0 <= value <= 1 for value in found.values())
                assert (outcome.train_size, outcome.test_size) == (42, 18)
    assert trained == [(0.0, False), (0.5, False), (0.5, True)]  # once for both numbers of labels
    assert [len(given) for given, _ in fitted] == [9] * 5 + [18] * 5
    for given, held in fitted:
        assert torch.bincount(given).tolist() == [len(given) // 3] * 3
        assert torch.equal(held, fitted[0][1])
    with pytest.raises(ConfigError, match=r"labels must be at most \d+, the rarest class, got 40"):
        TASK.run(Case("inputs", SkeletonSettings(labels=40), None, 4))


def test_settings_of_the_task_out_of_range_are_named() -> None:
    for name in ("labels", "steps", "mutual"):
        with pytest.raises(ConfigError, match=f"{name} must be a positive"):
            SkeletonSettings(**{name: 0})
