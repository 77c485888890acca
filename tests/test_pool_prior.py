"""The pool's class frequencies, estimated, wrong and right."""

import pytest
import torch
import torch.nn.functional as F

from ucmkd.batches import TrainingData
from ucmkd.config import OptimizerConfig, TrainingConfig
from ucmkd.methods import create
from ucmkd.methods.pool_prior import PoolPrior, estimated
from ucmkd.models import MLP
from ucmkd.priors import estimate_prior_em
from ucmkd.trainer import fit

TRUTH = torch.tensor([0.7, 0.2, 0.1])
CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])


def samples(count: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.repeat_interleave(torch.arange(3), torch.tensor(count))
    generator = torch.Generator().manual_seed(seed)
    noise = 1.3 * torch.randn(len(label), 2, generator=generator)
    return CENTRES[label] + noise, label


def problem() -> TrainingData:
    student, student_label = samples([30, 30, 30], 0)
    teacher, teacher_label = samples([100, 100, 100], 1)  # balanced: its frequencies are wrong
    unlabelled, _ = samples([280, 80, 40], 2)
    test, test_label = samples([700, 200, 100], 3)
    return TrainingData(
        num_classes=3,
        student=student,
        student_label=student_label,
        test=test,
        test_label=test_label,
        teacher_feature=teacher,
        teacher_logits=6 * F.one_hot(teacher_label, 3).float(),
        teacher_label=teacher_label,
        unlabelled=unlabelled,
    )


def trained(name: str, prior: object, steps: int = 300, seed: int = 0) -> object:
    data = problem()
    torch.manual_seed(seed)
    method = create(
        name, MLP(2, num_classes=3, hidden=16, width=8), num_classes=3, teacher_width=2,
        class_prior=data.class_prior, label_counts=data.label_counts, prior=prior,
        estimate_steps=100, ramp_steps=50, label_smoothing=0.0,
    )  # fmt: skip
    training = TrainingConfig(steps=steps, eval_every=steps, log_every=steps)
    return fit(method, data, training, OptimizerConfig(lr=3e-3), seed=seed)


@pytest.mark.parametrize("name", ["self_labelling", "joint_alignment"])
def test_the_estimate_beats_a_wrong_prior(name: str) -> None:
    found = trained(name, "estimated")
    assert float((found.method.mass - TRUTH).abs().sum()) < 0.15  # type: ignore[attr-defined]
    right = trained(name, TRUTH.tolist()).test().accuracy  # type: ignore[attr-defined]
    wrong = trained(name, "teacher").test().accuracy  # type: ignore[attr-defined]
    reversed_ = trained(name, [0.1, 0.2, 0.7]).test().accuracy  # type: ignore[attr-defined]
    accuracy = found.test().accuracy  # type: ignore[attr-defined]
    assert accuracy > wrong + 0.03 > reversed_ + 0.06
    assert abs(accuracy - right) < 0.03


def test_estimated_once_and_kept() -> None:
    pool = PoolPrior(torch.tensor([10, 10, 10]), 0.0, memory=32)
    logits = torch.randn(48, 3)
    mass = torch.full((3,), 1 / 3)
    for step in range(3):
        part = logits[16 * step : 16 * step + 16]
        mass = estimated(pool, part, mass, step, 3)
        assert (step == 2) == bool((mass != 1 / 3).any())
    expected = estimate_prior_em(logits[16:], torch.full((3,), 1 / 3))  # the last 32
    torch.testing.assert_close(mass.double(), expected, rtol=1e-5, atol=1e-6)
    again = estimated(pool, torch.randn(16, 3), mass, 3, 3)
    assert again is mass and int(pool.seen) == 48
    smooth = PoolPrior(torch.tensor([8, 2, 0]), 0.1).label_prior
    torch.testing.assert_close(smooth, 0.9 * torch.tensor([8.0, 2, 1]) / 11 + 0.1 / 3)


def test_weights_wait_for_the_estimate() -> None:
    student = MLP(2, num_classes=3)
    method = create(
        "joint_alignment", student, num_classes=3, label_counts=torch.tensor([1, 1, 1]),
        prior="estimated", estimate_steps=10, ramp_steps=4,
    )  # fmt: skip
    weights = [method.weights(step)["joint"] for step in (0, 9, 10, 12, 14, 99)]
    assert weights == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="needs label_counts"):
        create("self_labelling", student, num_classes=3, prior="estimated")
