"""Hash codes: bounds against loops in float64, packing and ranking against the naive ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ucmkd.hashing import CMIMH, hamming, hamming_map, pack, rank, score_map
from ucmkd.hashing import bounds as losses
from ucmkd.hashing import codes as packed
from ucmkd.hashing.retrieval import expected_average_precision

RNG = np.random.default_rng


# Codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("bits", [1, 7, 16, 32, 63, 64, 65, 130])
def test_distances_are_the_naive_ones(
    bits: int, table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if table:  # as with NumPy 1
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    monkeypatch.setattr(packed, "BLOCK", 50)  # several blocks
    rng = RNG(bits)
    a, b = rng.random((9, bits)) < 0.5, rng.random((23, bits)) < 0.4
    naive = np.array([[sum(p != q for p, q in zip(u, v, strict=True)) for v in b] for u in a])
    found = hamming(pack(a), pack(b))
    assert found.dtype == np.uint16 and np.array_equal(found, naive)
    order = [sorted(range(23), key=lambda j, row=row: (row[j], j)) for row in naive]
    assert np.array_equal(rank(pack(a), pack(b)), order)
    assert np.array_equal(rank(pack(a), pack(b), top=4), np.array(order)[:, :4])


def test_both_counts_agree_on_every_kind_of_word() -> None:
    words = RNG(0).integers(0, 2**64, size=(3, 50), dtype=np.uint64)
    words[0, :3] = 0, 2**64 - 1, 2**63
    expected = [[bin(int(w)).count("1") for w in row] for row in words]
    assert packed.count_by_table(words).tolist() == expected
    assert packed.popcount()(words).tolist() == expected


def test_packing() -> None:
    assert pack(np.ones((2, 64), dtype=bool)).tolist() == [[2**64 - 1]] * 2
    assert pack([[0, 1] + [0] * 70]).shape == (1, 2)
    assert hamming(pack([[1, 0, 1]]), pack([[1, 1, 0]])).tolist() == [[2]]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: pack(np.zeros(3)), ValueError, r"bits must have shape \(n, k\)"),
        (lambda: pack(np.zeros((3, 0))), ValueError, r"got \(3, 0\)"),
        (lambda: pack([[0.5, 1.0]]), ValueError, "0 and 1 only"),
        (lambda: hamming(np.zeros((2, 1)), pack([[1]])), TypeError, "queries must be packed"),
        (lambda: hamming(pack([[1]]), pack(np.ones((1, 65)))), ValueError, "got 1 and 2 words"),
        (lambda: rank(pack([[1]]), pack([[1]]), top=2), ValueError, r"top must lie in 1\.\.1"),
    ],
)
def test_bad_codes(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# Retrieval --------------------------------------------------------------------------------------


def average_precision(relevant: list[bool]) -> float:
    right = [sum(relevant[: k + 1]) / (k + 1) for k in range(len(relevant)) if relevant[k]]
    return sum(right) / len(right)


def test_ties_are_averaged_over_every_order() -> None:
    groups = [[True, False], [], [True, True, False], [False]]
    orders = itertools.product(*(itertools.permutations(g) for g in groups))
    expected = np.mean([average_precision([x for g in order for x in g]) for order in orders])
    count = np.array([[len(g) for g in groups]])
    hits = np.array([[sum(g) for g in groups]])
    assert expected_average_precision(count, hits)[0] == pytest.approx(expected, rel=1e-12)
    nothing = expected_average_precision(np.array([[3, 1]]), np.array([[0, 0]]))
    assert math.isnan(nothing[0])


def test_maps_by_hand_and_of_each_other() -> None:
    scores, labels = [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], [0, 1]
    # Hits at 1 and 3: (1 + 2/3)/2; the second query's one hit comes second: 1/2.
    assert score_map(scores, labels, [0, 1, 0]) == pytest.approx((5 / 6 + 1 / 2) / 2)
    rng = RNG(4)
    a, b = rng.random((12, 16)) < 0.5, rng.random((40, 16)) < 0.5
    own, other = rng.integers(0, 3, 12), rng.integers(0, 3, 40)
    # With a little of the order the ties are broken at random: the mean over many is the same.
    distance = hamming(pack(a), pack(b)).astype(float)
    found = [score_map(-distance - 0.5 * rng.random((12, 40)), own, other) for _ in range(300)]
    error = np.std(found) / math.sqrt(300)
    assert abs(np.mean(found) - hamming_map(pack(a), pack(b), own, other)) < 4 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_map([[math.nan]], [0], [0]), "scores must be finite"),
        (lambda: score_map([[1.0, 2.0]], [0], [0]), r"database_labels must have shape \(2,\)"),
        (lambda: score_map([[1.0]], [0], [1]), "no item of any query's class"),
        (lambda: hamming_map(pack([[1]]), pack([[1]]), [0, 1], [0]), "query_labels must have"),
    ],
)
def test_bad_retrievals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# CMIMH ------------------------------------------------------------------------------------------


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def test_bounds_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    l = torch.randn(5, 3, generator=generator, dtype=torch.float64)  # noqa: E741
    b = (torch.rand(5, 3, generator=generator) < 0.5).double()
    q = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def likelihood(bits: torch.Tensor, logits: torch.Tensor) -> float:
        p = [sigmoid(v) for v in logits.tolist()]
        return math.prod(u if bit else 1 - u for bit, u in zip(bits.tolist(), p, strict=True))

    table = [[math.log(likelihood(b[i], l[j])) for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(losses.log_likelihood(b, l).numpy(), table, rtol=1e-10)
    mixture = [sum(math.exp(v) for v in row) / 5 for row in table]
    entropy = -sum(math.log(v) for v in mixture) / 5
    assert losses.code_entropy(b, l).item() == pytest.approx(entropy, rel=1e-12)
    own = 0.0
    for v in l.flatten().tolist():
        p = sigmoid(v)
        own -= p * math.log(p) + (1 - p) * math.log(1 - p)
    assert losses.conditional_entropy(l).item() == pytest.approx(own / 5, rel=1e-12)
    told = sum(math.log(likelihood(b[i], q[i])) for i in range(5)) / 5
    assert losses.prediction(b, q).item() == pytest.approx(told, rel=1e-12)
    gap = sum((sigmoid(u) - sigmoid(v)) ** 2
              for u, v in zip(l.flatten().tolist(), q.flatten().tolist(), strict=True))  # fmt: skip
    assert losses.modality_gap(l, q).item() == pytest.approx(gap / 5, rel=1e-12)


def test_bounds_where_the_information_is_known() -> None:
    """Two certain bits that name one of four inputs: log 4 nats, all of it predictable."""
    b = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double().repeat(8, 1)
    sure = 60 * b - 30
    assert losses.code_entropy(b, sure).item() == pytest.approx(math.log(4), abs=1e-9)
    assert losses.conditional_entropy(sure).item() == pytest.approx(0, abs=1e-9)
    assert losses.prediction(b, sure).item() == pytest.approx(0, abs=1e-9)
    # A bit that repeats another adds nothing; one by chance adds entropy, but no information.
    twice = torch.cat((b, b[:, :1]), 1)
    assert losses.code_entropy(twice, 60 * twice - 30).item() == pytest.approx(math.log(4))
    coin, logits = torch.cat((b, b[:, :1]), 1), torch.cat((sure, torch.zeros(32, 1)), 1)
    known = losses.code_entropy(coin, logits) - losses.conditional_entropy(logits)
    assert known.item() == pytest.approx(math.log(4))


def test_drawn_bits_carry_the_gradient_of_the_probability() -> None:
    logits = torch.tensor([[0.0, 3.0, -3.0]]).repeat(20000, 1).requires_grad_()
    bits = losses.straight_through(logits, torch.Generator().manual_seed(1))
    assert set(bits.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(bits.mean(0).detach(), [0.5, sigmoid(3), sigmoid(-3)], atol=0.01)
    bits.sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, p * (1 - p))


def test_loss_is_the_weighted_sum() -> None:
    model = CMIMH(4, 3, bits=5, hidden=6, cross=0.5, gap=2.0)
    x, y = torch.randn(8, 4), torch.randn(8, 3)

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(2)

    terms = model.terms(x, y, drawn())
    assert set(terms) == {"information", "cross", "gap"}
    total = terms["information"] + 0.5 * terms["cross"] + 2 * terms["gap"]
    torch.testing.assert_close(model.loss(x, y, drawn()), total)
    # Written out from the parts.
    generator = drawn()
    logits = [model.encoders[m](v) for m, v in (("x", x), ("y", y))]
    bits = [losses.straight_through(v, generator) for v in logits]
    own = [losses.code_entropy(b, v) - losses.conditional_entropy(v)
           for b, v in zip(bits, logits, strict=True)]  # fmt: skip
    torch.testing.assert_close(terms["information"], -(own[0] + own[1]))
    told = []
    for b, q in (
        (bits[1], model.predictors["y"](bits[0])), (bits[0], model.predictors["x"](bits[1]))
    ):  # fmt: skip
        # Literally: the log of each code's share in its column of likelihoods.
        p = torch.exp(torch.stack([
            torch.stack([(v * t.sigmoid().log() + (1 - v) * (-t).sigmoid().log()).sum() for t in q])
            for v in b
        ]))  # fmt: skip
        told.append((p.diagonal() / p.mean(1)).log().mean())
    torch.testing.assert_close(terms["cross"], -(told[0] + told[1]) / 2)
    assert -terms["cross"] <= math.log(8)
    assert model.codes("y", y).tolist() == (logits[1] > 0).tolist()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bits": 0}, ValueError, "bits must be an integer of at least 1, got 0"),
        ({"hidden": 2.5}, TypeError, "hidden must be an integer"),
        ({"gap": -1.0}, ValueError, "gap must be a finite number of at least 0"),
    ],
)
def test_bad_models(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CMIMH(4, 3, **options)
    model = CMIMH(4, 3)
    with pytest.raises(ValueError, match="got 2 and 3 rows"):
        model.terms(torch.zeros(2, 4), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="modality must be one of 'x', 'y', got 'z'"):
        model.codes("z", torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (
            torch.zeros(4, 7),
            torch.zeros(4, 6),
            ValueError,
            r"x must have shape \(n, 5\), got",
        ),
        (torch.zeros(4, 5), torch.zeros(6), ValueError, r"y must have shape \(n, 6\), got \(6,\)"),
        (torch.zeros(0, 5), torch.zeros(0, 6), ValueError, r"x must have shape .* got \(0, 5\)"),
        (torch.zeros(4, 5), torch.zeros(3, 6), ValueError, "x and y must be pairs, got 4 and 3"),
        (
            torch.zeros(4, 5).long(),
            torch.zeros(4, 6),
            TypeError,
            "x must be a floating tensor, got",
        ),
        ([[0.0] * 5], torch.zeros(1, 6), TypeError, "x must be a floating tensor, got list"),
    ],
)
def test_inputs_of_other_shapes_are_named(
    x: Tensor, y: Tensor, error: type[Exception], message: str
) -> None:
    model = CMIMH(5, 6, bits=4, hidden=3)
    for call in (model.terms, model.loss):
        with pytest.raises(error, match=message):
            call(x, y)
    with pytest.raises(ValueError, match=r"y must have shape \(n, 6\), got \(2, 5\)"):
        model.codes("y", torch.zeros(2, 5))
    with pytest.raises(ValueError, match="modality must be one of 'x', 'y', got 'z'"):
        model.codes("z", torch.zeros(2, 5))
