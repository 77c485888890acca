"""Modality-general saliency: by hand, against drawn permutations, and which channels are kept."""

from __future__ import annotations

import itertools

import pytest
import torch

from ucmkd.saliency import general_channels, linear_saliency, permutation_saliency


def test_by_hand_over_all_permutations() -> None:
    """Three samples, all six orders of each channel, in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, generator=g) + 1.0
    weight = torch.randn(2, 4, dtype=torch.float64, generator=g)
    bias = torch.tensor([0.3, -0.2], dtype=torch.float64)
    student = torch.randn(3, 2, dtype=torch.float64, generator=g)
    raw = []
    for c in range(4):
        apart = []
        for order in itertools.permutations(range(3)):
            moved = x.clone()
            moved[:, c] = x[list(order), c]
            apart.append(float((student - moved @ weight.T - bias).square().mean()))
        raw.append(sum(apart) / 6)
    low, high = min(raw), max(raw)
    expected = torch.tensor([(value - low) / (high - low) for value in raw], dtype=torch.float64)
    found = linear_saliency(student - bias, x, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_drawn_permutations_come_near_all() -> None:
    g = torch.Generator().manual_seed(1)
    x, weight = torch.randn(200, 5, generator=g), torch.randn(3, 5, generator=g)
    student = x[:, :3] @ weight[:, :3].T
    drawn = permutation_saliency(student, x, lambda z: z @ weight.T, permutations=60, generator=g)
    torch.testing.assert_close(drawn, linear_saliency(student, x, weight), rtol=0, atol=0.06)


def test_channels_that_the_student_cannot_follow_score_low() -> None:
    """Teacher weights are equal; the student knows the first two of four channels only."""
    g = torch.Generator().manual_seed(2)
    x, weight = torch.randn(500, 4, generator=g), torch.ones(1, 4)
    saliency = linear_saliency(x[:, :2].sum(dim=1, keepdim=True), x, weight)
    # Shuffling a shared channel costs 2, one of the teacher's own nothing.
    assert saliency[:2].min() > 0.8 and saliency[2:].max() < 0.2
    assert general_channels(saliency, 0.5).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, [1, 1, 1, 1]), (0.25, [0, 1, 1, 1]), (0.75, [0, 0, 1, 0]), (0.99, [0, 0, 1, 0])],
)
def test_kept_channels(share: float, expected: list[int]) -> None:
    assert general_channels(torch.tensor([0.1, 0.5, 1.0, 0.5]), share).tolist() == expected


def test_equal_channels() -> None:
    x = torch.ones(3, 2)
    saliency = linear_saliency(torch.zeros(3, 1), x, torch.ones(1, 2))
    assert saliency.tolist() == [0.0, 0.0]
    assert general_channels(saliency, 0.5).tolist() == [1, 0]


def test_bad_input() -> None:
    x, o = torch.zeros(4, 3), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"row by row of the same samples, got \(3, 2\)"):
        linear_saliency(o[:3], x, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"weight must have shape \(2, 3\), got \(3, 2\)"):
        linear_saliency(o, x, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="must not be empty"):
        linear_saliency(o[:0], x[:0], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        permutation_saliency(o, x, lambda z: z[:, :2], permutations=0)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got 1.0"):
        general_channels(torch.zeros(3), 1.0)
