"""Training of hash functions: it learns, resumes bit by bit, and needs the pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ucmkd.checkpoint import CheckpointError
from ucmkd.hashing import CMIMH, HashTraining, fit, hamming_map, pack, score_map
from ucmkd.hashing.baselines import canonical_correlations, principal_components, random_codes

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = HashTraining(steps=12, batch_size=32, save_every=4)


def views(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """Four classes, seen in two ways that share nothing but the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    centres = np.random.default_rng(9).normal(size=(2, 4, 6))
    found = [c[labels] + 0.4 * rng.normal(size=(n, 6)) for c in centres]
    x, y = (torch.tensor(v - v.mean(0), dtype=torch.float32) for v in found)
    return x, y, labels


def model(**options: int) -> CMIMH:
    torch.manual_seed(5)
    return CMIMH(6, 6, **{"bits": 8, "hidden": 16, **options})


def across(net: CMIMH, x: Tensor, y: Tensor, labels: np.ndarray) -> float:
    return hamming_map(pack(net.codes("x", x)), pack(net.codes("y", y)), labels, labels)


def test_learns_what_the_modalities_share() -> None:
    x, y, labels = views()
    training = HashTraining(steps=200, batch_size=128, lr=3e-3)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    found = across(fit(model(), x, y, training), x, y, labels)
    placebo = across(fit(model(), x, shuffled, training), x, y, labels)
    assert found > 0.85 and placebo < 0.6


def test_goes_on_bit_by_bit(tmp_path: Path) -> None:
    x, y, _ = views(100)
    whole = fit(model(), x, y, SHORT)

    class Kill(Exception):
        pass

    def kill(step: int, _: float) -> None:
        if step == 7:
            raise Kill

    with pytest.raises(Kill):
        fit(model(), x, y, SHORT, folder=tmp_path, progress=kill)
    steps: list[int] = []
    again = fit(model(), x, y, SHORT, folder=tmp_path, progress=lambda step, _: steps.append(step))
    assert steps == list(range(5, 13))  # the last checkpoint was after the fourth
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    fit(model(), x, y, SHORT, folder=tmp_path, progress=lambda *_: pytest.fail("it was done"))


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    x, y, _ = views(100)
    fit(model(), x, y, SHORT, folder=tmp_path)
    for change in (
        lambda: fit(model(), y, x, SHORT, folder=tmp_path),
        lambda: fit(model(bits=9), x, y, SHORT, folder=tmp_path),
        lambda: fit(model(), x, y, HashTraining(steps=12, batch_size=16), folder=tmp_path),
    ):
        with pytest.raises(CheckpointError, match="of other data, another model or other options"):
            change()
    with pytest.raises(CheckpointError, match="is 12 steps old, steps is 10"):
        fit(model(), x, y, HashTraining(steps=10, batch_size=32, save_every=4), folder=tmp_path)
    # More steps go on from it.
    steps: list[int] = []
    longer = HashTraining(steps=14, batch_size=32, save_every=4)
    again = fit(model(), x, y, longer, folder=tmp_path, progress=lambda s, _: steps.append(s))
    assert steps == [13, 14]
    whole = fit(model(), x, y, longer)
    assert torch.equal(again.encoders["x"][0].weight, whole.encoders["x"][0].weight)


def test_projections_are_comparable() -> None:
    x, y, labels = (np.asarray(v, dtype=float) for v in views())
    joint = principal_components(x, y, 3)
    covariance = np.cov((x @ joint.x).T)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-8)
    # The same plane as y's components, and no rotation of it is nearer to x's.
    alone = np.linalg.svd(y - y.mean(0), full_matrices=False)[2][:3].T
    assert np.allclose(joint.y @ joint.y.T, alone @ alone.T, atol=1e-6)
    near = np.linalg.norm(x @ joint.x - y @ joint.y)
    rng = np.random.default_rng(1)
    for _ in range(200):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        assert np.linalg.norm(x @ joint.x - y @ joint.y @ rotation) >= near - 1e-9
    both = pack(joint.signs(x, "x")), pack(joint.signs(y, "y"))
    chance = pack(random_codes(400, 8, np.random.default_rng(0)))
    assert hamming_map(chance, chance[::-1].copy(), labels, labels) == pytest.approx(0.25, abs=0.02)
    assert hamming_map(*both, labels, labels) > 0.5
    canonical = canonical_correlations(x, y, 3)
    projected = x @ canonical.x, y @ canonical.y
    first = np.corrcoef(projected[0][:, 0], projected[1][:, 0])[0, 1]
    assert first > 0.9
    assert score_map(canonical.cosine(x, y), labels, labels) > 0.8


def test_mistakes() -> None:
    x, y, _ = views(40)
    for bad, kind, message in (
        (x.numpy(), TypeError, "x must be a floating tensor, got ndarray"),
        (x[:, :5], ValueError, r"x must have shape \(n, 6\), got \(40, 5\)"),
        (x[:30], ValueError, "x and y must be pairs, got 30 and 40 rows"),
        (x / 0, ValueError, "x must be finite"),
    ):
        with pytest.raises(kind, match=message):
            fit(model(), bad, y, SHORT)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 2, got 1"):
        HashTraining(batch_size=1)
    with pytest.raises(ValueError, match="lr must be a finite number above 0"):
        HashTraining(lr=0.0)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.6, got 7"):
        canonical_correlations(x, y, 7)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.6, got 13"):
        principal_components(x, y, 13)
    with pytest.raises(ValueError, match="must be pairs"):
        principal_components(x, y[:30], 2)
