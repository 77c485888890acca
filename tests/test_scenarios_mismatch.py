"""The three presets: class marginals by hand, the shift of the training inputs, what stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scenarios_common import digits
from ucmkd.preparation import prepare
from ucmkd.preparation.mismatch import MISMATCHES, DomainShift, Mismatch, class_weights


def test_presets() -> None:
    assert {
        "mild": Mismatch(marginal_ratio=0.7, domain_shift=0.3, imbalance=5.0),
        "moderate": Mismatch(marginal_ratio=0.5, domain_shift=0.5, imbalance=10.0),
        "hard": Mismatch(marginal_ratio=0.3, domain_shift=0.8, imbalance=50.0),
    } == MISMATCHES


def test_class_weights_by_hand() -> None:
    """Three classes, ratio 4: the tail is 4, 2, 1 sevenths; half of it and half of a third."""
    weights = class_weights(Mismatch(0.5, 0.0, 4.0), 3, np.random.default_rng(0))
    expected = [0.5 / 3 + 0.5 * k / 7 for k in (1, 2, 4)]
    np.testing.assert_allclose(np.sort(weights), expected)
    np.testing.assert_allclose(class_weights(Mismatch(1.0, 0.0, 50.0), 4, _rng()), [0.25] * 4)
    orders = {
        tuple(class_weights(MISMATCHES["hard"], 5, np.random.default_rng(s))) for s in range(8)
    }
    assert len(orders) > 1


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_domain_shift_by_hand() -> None:
    train = np.array([[0.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    shift = DomainShift(np.array([1.0, 1.0]), np.array([1.5, 0.5]), np.array([0.25, -1.0]))
    assert shift(train).tolist() == [[-0.25, 0.0], [2.75, 0.0]]
    drawn = DomainShift.draw(0.8, train, np.random.default_rng(0))
    assert drawn.centre.tolist() == [1, 1] and drawn.offset[1] == 0  # a constant column stays
    assert (abs(drawn.gain - 1) <= 0.8).all() and (drawn.gain != 1).all()
    none = DomainShift.draw(0.0, train, np.random.default_rng(0))
    assert np.array_equal(none(train), train)


def test_domain_shift_has_the_size_of_its_level() -> None:
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(50, 4000)) * np.linspace(1, 9, 4000)).astype(np.float32)
    shift = DomainShift.draw(0.5, train, rng)
    # 4000 draws: standard errors of about 1.1 % and .9 %.
    assert abs(np.std(shift.offset / train.std(axis=0)) - 0.5) < 0.03
    assert abs(np.std(shift.gain) - 0.5 / np.sqrt(3)) < 0.02


def pool_counts(name: str, seed: int) -> np.ndarray:
    """Class counts of the unlabelled pool: all training labels known, then thinned."""
    made = prepare(digits({"labels_per_class": None}, mismatch=name), seed)
    return np.bincount(made.student.student_label, minlength=10)


@pytest.mark.parametrize(("name", "ratio"), [("mild", 1.58), ("moderate", 2.77), ("hard", 8.02)])
def test_frequencies_of_the_pool(name: str, ratio: float) -> None:
    """(r/C + (1-r) λ_first) / (r/C + (1-r) λ_last) for ten classes of equal size."""
    counts = pool_counts(name, 0)
    plain = np.bincount(prepare(digits({"labels_per_class": None}), 0).student.student_label)
    share = counts / plain
    assert share.max() == 1
    assert share.max() / share.min() == pytest.approx(ratio, rel=0.12)  # whole samples of ~55


def test_labels_per_class_says_how_many_labels() -> None:
    plain, made = prepare(digits(), 4), prepare(digits(mismatch="hard"), 4)
    assert np.bincount(made.student.student_label).tolist() == [6] * 10
    assert plain.student.unlabelled is not None and made.student.unlabelled is not None
    assert len(made.student.unlabelled) < 0.6 * len(plain.student.unlabelled)


def test_only_training_inputs_are_shifted() -> None:
    plain, made = prepare(digits(pairs=20), 4), prepare(digits(pairs=20, mismatch="hard"), 4)
    for name in ("validation", "validation_label", "test", "test_label", "student_label"):
        assert torch.equal(getattr(plain.student, name), getattr(made.student, name))
    assert torch.equal(plain.teacher.student, made.teacher.student)
    before, after = plain.student.student.double(), made.student.student.double()
    # One affine map per column explains the labelled, the paired and the unlabelled samples.
    assert made.student.unlabelled is not None and made.paired_teacher is not None
    assert made.student.paired is not None
    for column in range(64):
        if before[:, column].std() == 0:
            continue
        gain, offset = np.polyfit(before[:, column], after[:, column], 1)
        np.testing.assert_allclose(gain * before[:, column] + offset, after[:, column], atol=1e-4)
        pair = gain * made.paired_teacher[:, column] + offset  # the same samples, unshifted
        np.testing.assert_allclose(pair, made.student.paired[:, column], atol=1e-3)
    assert (before - after).abs().mean() > 0.5


def test_scaling_is_fitted_on_what_was_recorded() -> None:
    made = prepare(digits({"standardise": True}, mismatch="moderate"), 0).student
    assert made.unlabelled is not None
    train = torch.cat([made.student, made.unlabelled])
    assert train.mean(dim=0).abs().max() < 1e-5
