"""The task of coherence: what its rows share, and what its control is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ucmkd.coherence import Stretches
from ucmkd.config import ConfigError
from ucmkd.tasks import Case, coherence
from ucmkd.tasks.coherence import TASK, CoherenceSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def stretches(*, seed: int) -> tuple[Stretches, Stretches]:
    """Runs of 4 windows; the guide sees the time, the student which window is which."""
    generator = torch.Generator().manual_seed(seed)

    def made(runs: int) -> Stretches:
        n = 4 * runs
        point = torch.randn(n, 3, 1, generator=generator)
        time = torch.arange(4.0).repeat(runs)[:, None, None].expand(n, 3, 1) / 2
        noise = 0.1 * torch.randn(n, 3, 1, generator=generator)
        first, second = torch.cat([point, noise], 2), torch.cat([point, time], 2)
        return Stretches(first, second, torch.arange(0, n, 4), 4)

    return made(40), made(12)


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(coherence, "smartwatch_stretches", stretches)
    for cached in (coherence.stretches, coherence.prepared):
        cached.cache_clear()
    yield
    for cached in (coherence.stretches, coherence.prepared):
        cached.cache_clear()


def test_rows_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    real = coherence.train_alone
    monkeypatch.setattr(
        coherence,
        "train_alone",
        lambda net, side, *rest: (trained.append(side), real(net, side, *rest)),
    )
    kinds: list[str] = []
    rounds = coherence.train_rounds
    monkeypatch.setattr(
        coherence, "train_rounds",
        lambda *args, guidance: (kinds.append(guidance), rounds(*args, guidance=guidance)),
    )  # fmt: skip
    found = {}
    for method, controls in TASK.rows.items():
        for control in (None, *controls):
            for number in (0, 1):
                settings = CoherenceSettings(rounds=number, steps=40, round_steps=2)
                outcome = TASK.run(Case(method, settings, control, 5))
                found[method, control, number] = outcome.test()
                assert (outcome.train_size, outcome.test_size) == (40, 48)
                assert outcome.validation is None and not TASK.validates
    assert trained == ["student", "guide"]  # once for all
    assert kinds == ["none", "learned", "permuted", "gold"]
    for measure in (*TASK.shown.tested, *TASK.shown.others):
        assert measure.name == "seconds" or all(measure.name in row for row in found.values())
    none, gold = found["none", None, 0], found["gold", None, 0]
    assert none["tau"] == none["alone_tau"] == gold["alone_tau"]  # the same network
    assert -1 <= none["tau"] <= 1 and 0 <= none["exact"] <= 1 and gold["aligned"] == none["aligned"]
    assert found["none", None, 1]["tau"] != none["tau"]


def test_settings_out_of_range_are_named() -> None:
    for name in ("rounds", "steps", "round_steps"):
        with pytest.raises(ConfigError, match=f"{name} must be an integer of at least"):
            CoherenceSettings(**{name: -1})
    assert CoherenceSettings(rounds=0).training(3).seed == 3
