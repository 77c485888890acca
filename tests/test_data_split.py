"""Splits: disjoint, stratified, deterministic; statistics fitted on training rows only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucmkd.data import (
    Standardiser,
    assert_disjoint,
    few_labels,
    long_tail,
    long_tail_counts,
    stratified_parts,
    top_variance,
    unpaired_split,
)

LABELS = np.repeat(np.arange(5), [34, 130, 46, 419, 140])  # the sizes of TCGA-BRCA


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(8, 60), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_stratified_parts_partition_every_class_in_proportion(sizes, weights, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    shares = np.array(weights) / sum(weights)
    try:
        parts = stratified_parts(labels, shares.tolist(), seed)
    except ValueError:
        assert (shares * min(sizes)).min() < 1  # only a tiny part can come out empty
        return
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for share, part in zip(shares, parts, strict=True):
        assert (np.diff(part) > 0).all()
        counts = np.bincount(labels[part], minlength=len(sizes))
        assert (np.abs(counts - share * np.array(sizes)) <= 1).all()


def test_stratified_parts_errors():
    for fractions in ([0.5, 0.4], [1.5, -0.5], [], [0.0, 1.0]):
        with pytest.raises(ValueError, match="fractions"):
            stratified_parts(LABELS, fractions, 0)
    with pytest.raises(ValueError, match="empty"):
        stratified_parts([0, 0], [0.99, 0.01], 0)
    for labels in ([], [[0, 1]], [0.5]):
        with pytest.raises(ValueError, match="labels"):
            stratified_parts(labels, [1.0], 0)


def test_unpaired_split():
    split = unpaired_split(LABELS, 3, teacher_fraction=0.4, validation=0.2, test=0.3)
    parts = split.__dict__.values()
    assert np.array_equal(np.sort(np.concatenate(list(parts))), np.arange(len(LABELS)))
    teacher = np.concatenate([split.teacher_train, split.teacher_validation])
    assert abs(len(teacher) - 0.4 * len(LABELS)) <= 5
    assert abs(len(split.test) - 0.3 * 0.6 * len(LABELS)) <= 5
    for part in parts:
        assert set(LABELS[part]) == set(range(5))
    labelled = few_labels(LABELS, 10, 0, pool=split.student_train)
    rest = split.unlabelled(labelled)
    assert_disjoint(labelled=labelled, rest=rest, teacher=teacher, test=split.test)
    assert len(labelled) + len(rest) == len(split.student_train)


def test_unpaired_split_is_a_function_of_the_seed():
    first, again, other = (unpaired_split(LABELS, seed) for seed in (0, 0, 1))
    for name in first.__dict__:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.test, other.test)


def test_unpaired_split_errors():
    for name in ("teacher_fraction", "teacher_validation", "validation", "test"):
        with pytest.raises(ValueError, match=name):
            unpaired_split(LABELS, 0, **{name: 1.0})
    with pytest.raises(ValueError, match=r"validation \+ test"):
        unpaired_split(LABELS, 0, validation=0.5, test=0.5)
    ids = np.arange(len(LABELS))
    ids[1] = ids[0]
    with pytest.raises(ValueError, match="ids must be distinct"):
        unpaired_split(LABELS, 0, ids=ids)


def test_assert_disjoint_names_the_overlap():
    assert_disjoint(a=[1, 2], b=[3], c=[])
    with pytest.raises(ValueError, match="teacher and test share 1 samples, for example p3"):
        assert_disjoint(teacher=["p1", "p3"], student=["p2"], test=["p3"])


def test_few_labels():
    pool = np.arange(0, len(LABELS), 2)
    chosen = few_labels(LABELS, 10, 7, pool=pool)
    assert np.bincount(LABELS[chosen]).tolist() == [10] * 5
    assert set(chosen) <= set(pool) and len(set(chosen)) == 50
    assert np.array_equal(chosen, few_labels(LABELS, 10, 7, pool=pool))
    assert not np.array_equal(chosen, few_labels(LABELS, 10, 8, pool=pool))
    generator = np.random.default_rng(7)
    assert np.array_equal(chosen, few_labels(LABELS, 10, generator, pool=pool))
    assert not np.array_equal(chosen, few_labels(LABELS, 10, generator, pool=pool))
    with pytest.raises(ValueError, match="class 0 has only 17"):
        few_labels(LABELS, 20, 0, pool=pool)
    fewer = few_labels(LABELS, 20, 0, pool=pool, allow_fewer=True)
    assert np.bincount(LABELS[fewer]).tolist() == [17, 20, 20, 20, 20]
    for bad in ([], [0, 0], [-1], [len(LABELS)], [0.5]):
        with pytest.raises(ValueError, match="pool"):
            few_labels(LABELS, 1, 0, pool=bad)
    with pytest.raises(ValueError, match="per_class"):
        few_labels(LABELS, 0, 0)


def test_long_tail():
    assert long_tail_counts(10, 50, 1).tolist() == [50, 32, 21, 14, 9, 6, 4, 2, 2, 1]
    assert long_tail_counts(1, 7, 2).tolist() == [7]
    assert long_tail_counts(3, 4, 4).tolist() == [4, 4, 4]
    labels = np.repeat(np.arange(10), 60)
    chosen = long_tail(labels, 0)
    assert len(chosen) == 141 == len(set(chosen))
    counts = np.bincount(labels[chosen], minlength=10)
    assert sorted(counts.tolist()) == sorted([50, 32, 21, 14, 9, 6, 4, 2, 2, 1])
    fixed = long_tail(labels, 0, order=range(10), pool=np.arange(5, 600))
    assert np.bincount(labels[fixed]).tolist() == [50, 32, 21, 14, 9, 6, 4, 2, 2, 1]
    heads = {int(np.bincount(labels[long_tail(labels, seed)]).argmax()) for seed in range(20)}
    assert len(heads) > 3
    with pytest.raises(ValueError, match="the long tail needs 50"):
        long_tail(np.arange(100) % 10, 0)
    with pytest.raises(ValueError, match="order"):
        long_tail(labels, 0, order=range(9))
    for head, tail in ((1, 2), (5, 0)):
        with pytest.raises(ValueError, match="head and tail"):
            long_tail_counts(3, head, tail)


def test_top_variance():
    train = np.array([[0, 0, 0, 5], [0, 9, 1, 5], [0, -9, 2, 5]], dtype=np.float32)
    assert top_variance(train, 1).tolist() == [1]
    assert top_variance(train, 2).tolist() == [1, 2]
    assert top_variance(train, 3).tolist() == [0, 1, 2]  # of equal columns the first
    for k in (0, 5):
        with pytest.raises(ValueError, match="k must lie"):
            top_variance(train, k)
    with pytest.raises(ValueError, match="train"):
        top_variance(train[:1], 1)


def test_standardiser():
    rng = np.random.default_rng(0)
    train = rng.normal([1e4, -3, 0], [10, 0.1, 1], (200, 3)).astype(np.float32)
    fit = Standardiser.fit(train)
    z = fit(train)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(fit.inverse(z), train, rtol=1e-6, atol=1e-6)
    # New rows do not move the statistics.
    np.testing.assert_allclose(
        fit(train[:2] + 5), (train[:2] + 5 - fit.mean) / fit.scale, rtol=1e-5
    )
    again = Standardiser.from_state_dict(fit.state_dict())
    assert np.array_equal(again(train), z)


def test_standardiser_on_constant_columns_images_and_bad_input():
    # 0.1 is not exact in float32 sums: a constant column must not become amplified rounding.
    train = np.stack([np.full(99, 0.1), np.zeros(99), np.arange(99.0)], axis=1).astype(np.float32)
    fit = Standardiser.fit(train)
    assert fit.scale[:2].tolist() == [1, 1]
    assert np.abs(fit(train)[:, :2]).max() < 1e-6
    assert np.isfinite(fit(train + 1)).all()
    images = np.random.default_rng(0).random((10, 4, 4))
    assert Standardiser.fit(images)(images).shape == (10, 4, 4)
    assert np.array_equal(Standardiser.fit(images[:1])(images[:1]), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="inputs must be"):
        fit(train[:, :2])
    for bad in (np.zeros(3), np.zeros((0, 3)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="train must be"):
            Standardiser.fit(bad)
