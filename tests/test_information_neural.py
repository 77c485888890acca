"""The neural estimators: bounds by hand, best weights restored, validation without dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ucmkd.information import Training, critics, mutual_information
from ucmkd.information.held_out import from_terms, halves, over_halves
from ucmkd.information.tasks import TASKS
from ucmkd.information.training import fit, isolated, network_input, perceptron
from ucmkd.information.variables import Variable
from ucmkd.information.variational import objective_of, saturation

SHORT = Training(width=32, steps=100, batch=64, embedding=8)
SCORES = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_bounds_by_hand() -> None:
    # paired: 1, 2 → mean 1.5; others: 0, -1
    others = 0.5 * (1.0 + math.exp(-1.0))
    assert float(critics.donsker_varadhan(SCORES)) == pytest.approx(1.5 - math.log(others))
    assert float(critics.nwj(SCORES)) == pytest.approx(1.5 - others / math.e)
    rows = 1.0 - math.log(math.e + 1.0) + 2.0 - math.log(math.exp(-1.0) + math.exp(2.0))
    assert float(critics.infonce(SCORES)) == pytest.approx(rows / 2 + math.log(2.0))
    clipped = 0.5 * (1.0 + math.exp(-0.5))
    assert float(critics.smile(SCORES, clip=0.5)) == pytest.approx(1.5 - math.log(clipped))
    sp = [math.log1p(math.exp(v)) for v in (-1.0, -2.0, 0.0, -1.0)]
    expected = -0.5 * (sp[0] + sp[1]) - 0.5 * (sp[2] + sp[3])
    assert float(critics.jensen_shannon(SCORES)) == pytest.approx(expected)


def test_bounds_at_the_best_critic_give_the_truth() -> None:
    rho = 0.75
    x, y = (torch.from_numpy(side) for side in TASKS["1v1-normal-0.75"].sample(2000, seed=3))
    a, b = x, y.T
    ratio = -0.5 * math.log(1 - rho**2) - (rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (
        2 * (1 - rho**2)
    )
    truth = TASKS["1v1-normal-0.75"].truth
    assert float(critics.donsker_varadhan(ratio)) == pytest.approx(truth, abs=0.06)
    assert float(critics.infonce(ratio)) == pytest.approx(truth, abs=0.06)
    assert float(critics.nwj(ratio + 1.0)) == pytest.approx(truth, abs=0.06)
    assert float(critics.smile(ratio, clip=20.0)) == pytest.approx(truth, abs=0.06)


def test_moving_denominator_divides_the_gradient_by_its_average() -> None:
    scores = SCORES.clone().requires_grad_()
    surrogate = critics.MovingDenominator(rate=0.5)
    surrogate(SCORES + math.log(3.0))  # the average starts at three times this batch's mean
    surrogate(scores).backward()
    others = 0.5 * (1.0 + math.exp(-1.0))
    average = 0.5 * 3.0 * others + 0.5 * others
    expected = [[0.5, -0.5 / average], [-0.5 * math.exp(-1.0) / average, 0.5]]
    assert scores.grad is not None
    assert np.allclose(scores.grad, expected)


class _Counter(nn.Module):
    """One weight that every step lowers by its learning rate; dropout that must not be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(0.5)


def test_best_weights_come_back_and_validation_has_no_dropout() -> None:
    model, seen = _Counter(), []
    settings = Training(
        steps=100, learning_rate=0.1, weight_decay=0.0, check_every=1, patience=5, batch=2
    )

    def validate() -> Tensor:
        seen.append((model.training, model.weight.item()))
        # Best at the fifth validation, worse and worse after it.
        return torch.tensor(abs(len(seen) - 5.0))

    best = fit(
        model, lambda rows: model.weight.sum(), validate, 8, settings, torch.Generator()
    )  # fmt: skip
    assert best == 0.0 and len(seen) == 10
    assert not any(training for training, _ in seen)
    assert model.weight.item() == seen[4][1] != seen[9][1]
    assert not model.training


def test_training_leaves_the_generator_of_torch_alone() -> None:
    x, y = TASKS["1v1-normal-0.75"].sample(120, seed=0)
    brief = Training(width=8, steps=5)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for method in ("infonce", "latent"):
        mutual_information(x, y, method=method, training=brief)
    assert torch.equal(torch.rand(3), expected)


def test_training_is_on_one_thread_and_puts_back_the_number() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with isolated(0):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["mine", "nwj", "infonce", "smile", "latent"])
def test_every_method_finds_dependence_and_only_that(method: str) -> None:
    x, y = TASKS["1v1-normal-0.75"].sample(500, seed=1)
    out = mutual_information(x, y, method=method, training=SHORT)
    assert out.method == method
    assert out.value == pytest.approx(TASKS["1v1-normal-0.75"].truth, abs=0.15)
    assert out.low < out.value < out.high
    mixed = np.random.default_rng(0).permutation(500)
    assert mutual_information(x, y[mixed], method=method, training=SHORT).value < 0.08


@pytest.mark.parametrize("method", ["smile", "latent"])
def test_seeds_repeat_and_progress_ends(method: str) -> None:
    x, y = TASKS["multinormal-sparse-2-2-2-2.0"].sample(120, seed=1)
    calls: list[tuple[int, int]] = []
    brief = Training(width=16, steps=30, check_every=10, embedding=4)
    one, two = (
        mutual_information(
            x, y, method=method, training=brief, seed=3,
            progress=lambda done, most: calls.append((done, most)),
        )
        for _ in range(2)
    )  # fmt: skip
    assert (one.value, one.low, one.high) == (two.value, two.low, two.high)
    assert calls[-1] == (60, 60) and all(done <= most for done, most in calls)


@pytest.mark.parametrize("method", ["infonce", "latent"])
def test_labels(method: str) -> None:
    x, label = TASKS["labels-2-4"].sample(600, seed=1)
    out = mutual_information(x, label, method=method, training=SHORT)
    assert out.value == pytest.approx(TASKS["labels-2-4"].truth, abs=0.2)


def test_saturation_is_named_near_the_limit() -> None:
    x = np.random.default_rng(0).standard_normal((80, 4))
    out = mutual_information(x, x, method="infonce", training=SHORT)
    assert 1.0 < out.value <= math.log(40)
    assert "log 40 = 3.69" in saturation("infonce", 3.0, 40)[0] and not saturation("nwj", 2.0, 40)
    assert saturation("nwj", 7.0, 1000) and not saturation("smile", 7.0, 1000)


def test_halves_hold_out_every_row_once() -> None:
    first, second = halves(11, 0)
    assert sorted([*first, *second]) == list(range(11))
    terms = np.arange(11.0)
    evaluate = over_halves(
        (first, second), [lambda r: float(terms[first][r].mean()), lambda r: float(len(r))], 11
    )
    # One row of the first half, two of the second.
    rows = np.array([first[2], *second[:2]])
    assert evaluate(rows) == pytest.approx(0.5 * (terms[first[2]] + 2.0))
    assert from_terms(terms).evaluate(np.array([1, 3])) == 2.0


def test_network_input_and_perceptron() -> None:
    codes = Variable(np.array([[0.0], [1.0], [2.0], [1.0]]), True)
    table = network_input(codes)
    assert table.shape == (4, 3)
    assert table.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    dropped = [m for m in perceptron(3, 8, 2, dropout=0.1) if isinstance(m, nn.Dropout)]
    assert len(dropped) == 2 and objective_of("nwj", SHORT)[0] is critics.nwj
