"""Inner steps that collapse a student are noticed, named, and told from sound ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ucmkd.config import TrainingConfig
from ucmkd.methods import create
from ucmkd.methods.collapse import (
    CollapseWarning,
    CollapseWatch,
    RunningRange,
    Seen,
    spread,
)
from ucmkd.models import MLP
from ucmkd.trainer import TrainingData, TrainingError, fit


def look(loop: str, width: float, loss: float) -> Seen:
    return Seen(loop, torch.tensor(width), torch.tensor(loss))


def steps(fa: float = 1.0, la: float = 1.0, ce: float = 1.0, w: float = 1.0) -> list[Seen]:
    return [look("FA", 1.0, fa), look("LA", w, la), look("CE", w, ce)]


def test_spread_by_hand() -> None:
    features = torch.tensor([[1.0, 10.0], [3.0, 10.0]])
    assert spread(features).item() == pytest.approx((1 / 2) ** 0.5)
    assert spread(torch.full((5, 3), 7.0)).item() == 0.0
    assert spread(features.bfloat16()).dtype == torch.float32


def test_running_range_by_hand() -> None:
    for nats, limit in ((False, 4.0), (True, 4.0)):
        constant = RunningRange(nats=nats)
        assert constant.limit() == float("inf")
        for _ in range(20):
            constant.add(2.0)
        assert constant.limit() == pytest.approx(limit)  # its mean and its own size again
    # A loss near 0 may rise by 1 nat; one in units of a cost may not.
    for nats, limit in ((False, 0.2), (True, 1.1)):
        small = RunningRange(nats=nats)
        for _ in range(20):
            small.add(0.1)
        assert small.limit() == pytest.approx(limit)
    # FA follows what it has become, a label loss its lowest mean.
    for nats in (False, True):
        rising = RunningRange(nats=nats)
        for value in [1.0] * 20 + [3.0] * 400:
            rising.add(value)
        assert rising.mean == pytest.approx(3.0, abs=1e-6)
        assert rising.limit() == pytest.approx(2.0 if nats else 6.0, abs=1e-4)
    # The deviation: the first value has none, then |x - mean| with weight 1/2.
    two = RunningRange(nats=True)
    two.add(0.0)
    two.add(4.0)
    assert (two.mean, two.deviation) == (2.0, 2.0)


@pytest.mark.parametrize("width", [0.49, 2.01])
def test_spread_out_of_range_is_named_once(width: float) -> None:
    watch = CollapseWatch(0.3)
    bound = "below 0.5" if width < 1 else "above 2"
    message = (
        rf"step 7, after the inner FA steps: the feature spread went from 1 to {width}, {bound}"
    )
    with pytest.warns(CollapseWarning, match=message + r".*smaller inner_lr \(it is 0.3\)"):
        watch.look(7, steps(w=width))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(8, steps(w=width))
    with pytest.warns(CollapseWarning, match="after the inner LA steps: the feature spread"):
        CollapseWatch(0.3).look(0, [look("LA", 1.0, 1.0), look("CE", 0.1, 1.0)])


def test_loss_out_of_range_is_named() -> None:
    for given, message in (
        ({"la": 2.5}, "after the inner FA steps: the LA loss went from about 0.94 to 2.5"),
        ({"ce": 2.5}, "after the inner LA steps: the CE loss went from about 0.95 to 2.5"),
        ({"fa": 4.5}, "before the inner steps: the FA loss went from about 0.955 to 4.5"),
    ):
        watch = CollapseWatch(0.3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(20):
                watch.look(step, steps())
            watch.look(20, steps(fa=0.1, la=-0.2, ce=0.0, w=0.6))  # to fall is no collapse
        with pytest.warns(CollapseWarning, match=message):
            watch.look(21, steps(**given))


def test_without_inner_steps_nothing_is_judged() -> None:
    CollapseWatch(0.1).look(0, [look("CE", float("nan"), float("nan"))])


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        (steps(w=float("nan")), "step 4: .* spread became nan after the inner FA steps"),
        (steps(la=float("inf")), "the LA loss became inf after the inner FA steps"),
        (
            steps(ce=float("nan")),
            "CE loss became nan after the inner LA .*smaller inner_lr",
        ),
        (steps(fa=float("nan")), "the FA loss is nan before any inner step"),
    ],
)
def test_not_finite_is_an_error(looks: list[Seen], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        CollapseWatch(0.1).look(4, looks)


# Real students -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Iterator[tuple[TrainingData, MLP]]:
    """Upper halves of digits are the teacher's modality, lower halves the student's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small models, which two threads only slow down
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    teacher = MLP(32, num_classes=10)
    own = TrainingData(10, x[:800, :32], y[:800])
    fit(create("ce", teacher, num_classes=10), own, TrainingConfig(steps=200))
    teacher.eval().requires_grad_(False)
    feature, logits = teacher.outputs(x[:800, :32])
    data = TrainingData(
        10, x[800:900, 32:], y[800:900], test=x[900:, 32:], test_label=y[900:],
        teacher_feature=feature, teacher_logits=logits, teacher_label=y[:800],
    )  # fmt: skip
    yield data, teacher
    torch.set_num_threads(before)


def train(digits: tuple[TrainingData, MLP], count: int, **given: object) -> float:
    data, teacher = digits
    torch.manual_seed(1)
    method = create(
        "ucmkd", MLP(32, num_classes=10), num_classes=10, teacher_head=teacher, teacher_width=64,
        **given,
    )  # fmt: skip
    return fit(method, data, TrainingConfig(steps=count)).test().accuracy


@pytest.mark.parametrize("given", [{}, {"variant": "released"}, {"alignment": "mmd"}], ids=str)
def test_a_sound_student_is_left_in_peace(digits: tuple[TrainingData, MLP], given: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        assert train(digits, 150, **given) > 0.5


@pytest.mark.filterwarnings("ignore:inner_lr")
def test_a_collapsing_student_is_noticed(digits: tuple[TrainingData, MLP]) -> None:
    """inner_lr = 5 leaves it at chance, and the first step already says so."""
    with pytest.warns(CollapseWarning, match=r"step 0, after the inner FA steps: the feature spre"):
        assert train(digits, 150, inner_lr=5.0) < 0.2


@pytest.mark.filterwarnings("ignore:inner_lr")
def test_a_student_that_ceases_to_learn_is_noticed(digits: tuple[TrainingData, MLP]) -> None:
    """No single step is large here: the inner steps do the learning, the student unlearns it."""
    with pytest.warns(CollapseWarning, match=r"step \d\d+, .* went from"):
        assert train(digits, 250, inner_lr=1.0, cost="cosine") < 0.5


@pytest.mark.filterwarnings("ignore:inner_lr")
def test_overflow_is_an_error_that_names_the_loop(digits: tuple[TrainingData, MLP]) -> None:
    with pytest.raises(TrainingError, match=r"step 0: .* became (nan|inf) after the inner FA step"):
        train(digits, 5, inner_lr=1e30)


def test_what_is_not_finite_before_is_told_apart(digits: tuple[TrainingData, MLP]) -> None:
    data, teacher = digits
    broken = replace(data, teacher_feature=data.teacher_feature * float("nan"))
    with pytest.raises(TrainingError, match="FA loss is nan before any inner step"):
        train((broken, teacher), 5)
    broken = replace(data, student=data.student * float("inf"))
    with pytest.raises(TrainingError, match="feature spread is nan before any inner step"):
        train((broken, teacher), 5)


def test_large_inner_lr_is_said_at_once() -> None:
    with pytest.warns(CollapseWarning, match="inner_lr=0.5"):
        create("ucmkd", MLP(4, num_classes=3), num_classes=3, teacher_head=nn.Linear(64, 3),
               inner_lr=0.5)  # fmt: skip
