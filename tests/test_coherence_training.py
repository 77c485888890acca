"""Training with guidance: on made-up sensors, after an interruption, and on the recordings."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ucmkd import data
from ucmkd.checkpoint import CheckpointError
from ucmkd.coherence import (
    CoherenceTraining,
    OrderNet,
    Stretches,
    Towers,
    best_match,
    evaluate,
    order_logits,
    smartwatch_stretches,
    train_alone,
    train_rounds,
    train_towers,
)
from ucmkd.coherence.stretches import starts_of

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = CoherenceTraining(steps=60, rounds=2, round_steps=15, batch=16, lr=5e-3)


def made(seed: int = 0, runs: int = 40) -> Stretches:
    """Runs of 4 windows. The guide sees the time, the student only which window is which.

    Both see a random point per window, so that they can be aligned.
    """
    generator = torch.Generator().manual_seed(seed)
    n = 4 * runs
    point = torch.randn(n, 3, 1, generator=generator)
    time = torch.arange(4.0).repeat(runs)[:, None, None].expand(n, 3, 1) / 2
    noise = 0.1 * torch.randn(n, 3, 1, generator=generator)
    student = torch.cat([point, noise], dim=2)
    return Stretches(student, torch.cat([point, time], dim=2), torch.arange(0, n, 4), 4)


def nets() -> tuple[OrderNet, OrderNet, Towers]:
    torch.manual_seed(0)
    return OrderNet(6, width=16), OrderNet(6, width=16), Towers(6, 6, width=16, dim=8)


def test_starts_of_runs() -> None:
    recording = np.array(list("aaaaabbbcc"))
    assert starts_of(recording, 3, 1).tolist() == [0, 1, 2, 5]
    assert starts_of(recording, 2, 2).tolist() == [0, 2, 5, 8]
    assert starts_of(recording, 6, 1).tolist() == []


def test_sets_are_shuffled_apart_and_partners_are_of_one_time() -> None:
    some = made().draw(30, torch.Generator().manual_seed(1))
    assert some.student.shape == some.guide.shape == (30, 4, 3, 2)
    assert not torch.equal(some.student_position, some.guide_position)
    time = 2 * some.guide[:, :, 0, 1]
    assert torch.equal(time, some.guide_position.float())
    at = some.partner()
    row = torch.arange(30)[:, None]
    assert torch.equal(some.student[row, at][..., 0], some.guide[..., 0])  # the same point
    assert torch.equal(some.student_position.gather(1, at), some.guide_position)
    every = made().all()
    assert len(every.student) == 40 and torch.equal(every.student, made().all().student)


def test_guidance_reaches_a_student_that_sees_no_time() -> None:
    """Gold guidance orders all, learned guidance nearly all, none and a stranger's nothing."""
    train, test = made(), made(seed=1, runs=100)
    student, guide, towers = nets()
    train_towers(towers, train, replace(QUICK, steps=150))
    train_alone(student, "student", train, QUICK)
    train_alone(guide, "guide", train, QUICK)
    sets = test.all()
    aligned = (best_match(towers(sets.guide, sets.student)) == sets.partner()).double().mean()
    found = {}
    for guidance in ("none", "learned", "gold", "permuted"):
        pair = deepcopy(student), deepcopy(guide)
        losses = train_rounds(*pair, towers, train, QUICK, guidance=guidance)
        assert len(losses) == 60
        found[guidance] = evaluate(*pair, towers, test, QUICK, guidance=guidance)
        backwards = evaluate(*pair, towers, test, QUICK, guidance=guidance, backwards=True)
        assert backwards.tau > 0.9  # the guide stays good
    assert aligned > 0.8
    assert found["gold"].tau > 0.95 and found["gold"].exact > 0.9 and found["gold"].pairs > 0.95
    assert found["learned"].tau > 0.6
    assert abs(found["none"].tau) < 0.25 and abs(found["permuted"].tau) < 0.25


def test_rounds_take_turns_and_train_one_at_a_time() -> None:
    student, guide, towers = nets()
    before = [p.clone() for net in (student, guide, towers) for p in net.parameters()]
    modes: list[tuple[bool, bool]] = []
    guide.register_forward_hook(
        lambda *_: modes.append((student.training, guide.training))  # type: ignore[misc]
    )
    train_rounds(student, guide, towers, made(), replace(QUICK, rounds=1, round_steps=2))
    assert modes == [(True, False)] * 2 + [(False, True)] * 2
    after = [p for net in (student, guide, towers) for p in net.parameters()]
    moved = [not torch.equal(p, q) for p, q in zip(before, after, strict=True)]
    count = len(list(student.parameters()))
    assert any(moved[:count]) and any(moved[count : 2 * count]) and not any(moved[2 * count :])


def test_guidance_of_each_kind() -> None:
    """None adds nothing; gold goes to the window of the same time; the way back has its weight."""
    student, guide, towers = (net.eval() for net in nets())
    some = made().draw(8, torch.Generator().manual_seed(2))
    loud = replace(QUICK, guide_threshold=0.0, student_threshold=0.0)
    with torch.no_grad():
        own, given = student(some.student), guide(some.guide)
        logits = {
            kind: order_logits(student, guide, towers, some, loud, guidance=kind)
            for kind in ("none", "gold", "learned", "permuted")
        }
        back = order_logits(student, guide, towers, some, loud, guidance="gold", backwards=True)
    assert torch.equal(logits["none"], own)
    at = some.partner()
    for b in range(8):
        for i in range(4):
            for j in range(4):
                m, k = int(at[b, i]), int(at[b, j])
                added = given[b, i, j] * (i != j)
                torch.testing.assert_close(logits["gold"][b, m, k], own[b, m, k] + added)
                added = 0.25 * own[b, m, k] * (i != j)
                torch.testing.assert_close(back[b, i, j], given[b, i, j] + added)
    assert not torch.allclose(logits["learned"], logits["permuted"])


class Stop(Exception):
    pass


@pytest.mark.parametrize("what", ["towers", "alone", "rounds"])
def test_resumed_is_bit_equal(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = replace(QUICK, steps=11, rounds=2, round_steps=3, save_every=4)
    source = made()

    def run(folder: Path, stop: int | None = None) -> tuple[list[float], bytes]:
        student, guide, towers = nets()
        torch.manual_seed(4)  # of the dropout
        draws = 0

        def draw(self: Stretches, size: int, generator: torch.Generator):  # type: ignore[no-untyped-def]
            nonlocal draws
            draws += 1
            if draws == stop:
                raise Stop
            chosen = self.starts[torch.randint(len(self.starts), (size,), generator=generator)]
            return self.shuffled(chosen, generator)

        monkeypatch.setattr(Stretches, "draw", draw)
        try:
            if what == "towers":
                losses = train_towers(towers, source, training, folder=folder)
            elif what == "alone":
                losses = train_alone(student, "student", source, training, folder=folder)
            else:
                losses = train_rounds(student, guide, towers, source, training, folder=folder)
        except Stop:
            return [], b""
        every = [p for net in (student, guide, towers) for p in net.parameters()]
        return losses, b"".join(p.detach().numpy().tobytes() for p in every)

    whole = run(tmp_path / "whole")
    for stop in (6, 2, 5):  # the first leaves step 4, the last step 8
        run(tmp_path / "parts", stop)
    assert run(tmp_path / "parts") == whole and len(whole[0]) in (11, 12)
    training = replace(training, lr=1e-4)
    with pytest.raises(CheckpointError, match="is of another training"):
        run(tmp_path / "parts")


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (made(runs=39), "39 stretches of 4 of 156 windows, digest"),
        (replace(made(), starts=made().starts[:-1]), "39 stretches of 4 of 160 windows"),
        (replace(made(), guide=made().guide + 1e-6), "40 stretches of 4 of 160 windows"),
    ],
)
def test_a_resume_on_other_data_is_refused(other: Stretches, shown: str, tmp_path: Path) -> None:
    training = replace(QUICK, steps=2)
    train_towers(nets()[2], made(), training, folder=tmp_path)
    with pytest.raises(CheckpointError) as caught:
        train_towers(nets()[2], other, training, folder=tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"checkpoint in {tmp_path} is of other data (40 stretches of 4 of 160"
    )
    assert f"not of this ({shown}" in message and "choose another folder" in message
    assert len(train_towers(nets()[2], made(), training, folder=tmp_path)) == 2  # as it was


def test_bad_arguments_are_named() -> None:
    student, guide, towers = nets()
    with pytest.raises(ValueError, match="guidance must be one of 'none', 'learned'"):
        train_rounds(student, guide, towers, made(), QUICK, guidance="clip")
    with pytest.raises(ValueError, match="side must be one of 'student', 'guide'; got 'teacher'"):
        train_alone(student, "teacher", made(), QUICK)
    for options, kind in (
        ({"steps": 0}, ValueError), ({"steps": 1.5}, TypeError), ({"seed": "1"}, TypeError),
        ({"lr": 0.0}, ValueError), ({"lr": math.inf}, ValueError), ({"lr": "x"}, TypeError),
        ({"guide_threshold": 1.5}, ValueError), ({"student_weight": -1.0}, ValueError),
        ({"student_weight": math.nan}, ValueError), ({"batch": True}, TypeError),
    ):  # fmt: skip
        ((name, value),) = options.items()
        with pytest.raises(kind, match=f"^{name} must .*{value}"):
            CoherenceTraining(**options)  # type: ignore[arg-type]
    for options, name in (({"student": "ecg"}, "student"), ({"count": 1}, "count"),
                          ({"test_subjects": 10}, "test_subjects")):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            smartwatch_stretches(seed=0, **options)  # type: ignore[arg-type]


def test_real_stretches_share_no_person() -> None:
    if not data.is_cached("seglearn"):
        pytest.skip("seglearn is not in the cache")
    train, test = smartwatch_stretches(seed=0, seconds=0.5, count=4)
    assert train.student.shape[1:] == train.guide.shape[1:] == (3, 25)
    covered = [set((s.starts[:, None] + torch.arange(4)).flatten().tolist()) for s in (train, test)]
    assert not covered[0] & covered[1] and len(covered[1]) == 4 * len(test.starts)
    mean = train.student[sorted(covered[0])].mean(dim=(0, 2))
    assert float(mean.abs().max()) < 0.02  # but for the few windows that begin no stretch
    views = data.smartwatch(views=["accel_raw"], seconds=0.5)
    assert views.groups is not None
    people = [set(views.groups[sorted(some)].tolist()) for some in covered]
    assert len(people[0]) == 7 and len(people[1]) == 3 and not people[0] & people[1]
