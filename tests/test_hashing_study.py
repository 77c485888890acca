"""The task of hash codes: its samples, its rows, its control."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ucmkd.config import ConfigError
from ucmkd.data import Views
from ucmkd.data.base import DIGITS
from ucmkd.tasks import Case, hashing
from ucmkd.tasks.hashing import TASK, HashingSettings, pairs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten classes in two views of the widths of fac and fou, in the place of a download."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    views = {
        name: (rng.normal(size=(10, d))[labels] + 1.5 * rng.normal(size=(600, d))).astype("f4")
        for name, d in (("fac", 216), ("fou", 76))
    }
    ids = np.array([f"made-{k}" for k in range(600)])
    data = Views("made up", views, labels.astype(np.int64), DIGITS, ids)
    monkeypatch.setattr(hashing, "load", lambda *_, **__: data)
    for cached in (pairs, hashing._canonical):
        cached.cache_clear()
    yield
    for cached in (pairs, hashing._canonical):
        cached.cache_clear()


def test_queries_are_not_in_the_database() -> None:
    data = pairs(0)
    parts = [set(rows.tolist()) for rows in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [420, 60, 120] and len(set.union(*parts)) == 600
    assert np.allclose(data.x[data.train].std(axis=0), 1, atol=1e-6)
    assert not np.allclose(data.x[data.test].mean(axis=0), 0, atol=1e-3)
    assert np.bincount(data.labels[data.test]).tolist() == [12] * 10


@pytest.mark.parametrize("method", TASK.rows)
def test_rows_find_the_class_but_for_chance_and_shuffled_pairs(method: str) -> None:
    settings = HashingSettings(bits=16, steps=40)
    outcome = TASK.run(Case(method, settings, None, 3))
    found = outcome.test()
    assert set(found) == {m.name for m in TASK.shown.tested}
    assert (outcome.train_size, outcome.test_size) == (480, 120)
    low, high = (0.0, 0.2) if method == "random" else (0.25, 1.0)
    assert all(low < value <= high for value in found.values())
    assert outcome.validation is not None
    chosen_by = outcome.validation()
    assert low < chosen_by <= high and chosen_by != sum(found.values()) / 2  # other queries
    for control in TASK.rows[method]:
        placebo = TASK.run(Case(method, settings, control, 3)).test()
        assert all(placebo[way] < found[way] - 0.1 for way in found)


def test_a_placebo_sees_the_same_samples_in_other_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(hashing, "fit", lambda model, x, y, _: seen.append((x, y)))
    for control in (None, "placebo"):
        TASK.run(Case("cmimh", HashingSettings(bits=8), control, 1))
    (x, y), (same, shuffled) = seen
    assert x.equal(same) and not y.equal(shuffled)
    assert y.sort(dim=0).values.equal(shuffled.sort(dim=0).values)


def test_settings_out_of_range_are_named() -> None:
    for options, name in (
        ({"bits": 65}, "bits must be in 1..64, got 65"), ({"bits": 0}, "bits"),
        ({"gap": -1.0}, "gap must be a finite number"), ({"steps": 0}, "steps"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            HashingSettings(**options)  # type: ignore[arg-type]
