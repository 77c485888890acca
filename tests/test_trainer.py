"""The training loop on small synthetic data: learning, selection, resuming, errors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from sklearn.metrics import balanced_accuracy_score, recall_score

from methods_common import teacher_of
from ucmkd.batches import Batches
from ucmkd.checkpoint import Checkpointer, CheckpointError
from ucmkd.config import OptimizerConfig, TrainingConfig
from ucmkd.methods import METHODS, create
from ucmkd.metrics import Metrics, classification_metrics
from ucmkd.models import MLP
from ucmkd.trainer import TrainingData, TrainingError, fit, learning_rate

CLASSES, INPUTS, WIDTH, PEER_INPUTS = 3, 6, 4, 7
SHORT = TrainingConfig(
    steps=12,
    batch_size=12,
    teacher_batch_size=10,
    unlabelled_batch_size=8,
    pair_batch_size=4,
    eval_every=3,
    log_every=5,
)


def clusters(n: int, seed: int, width: int = INPUTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Three well separated classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % CLASSES
    centre = 4 * torch.eye(CLASSES, width)
    return centre[label] + torch.randn(n, width, generator=generator), label


@pytest.fixture
def data() -> TrainingData:
    student, student_label = clusters(30, 0)
    validation, validation_label = clusters(31, 1)
    test, test_label = clusters(32, 2)
    feature, teacher_label = clusters(40, 3, WIDTH)
    paired, paired_label = clusters(9, 5)
    logits = 3.0 * torch.nn.functional.one_hot(teacher_label, CLASSES)
    return TrainingData(
        num_classes=CLASSES,
        student=student,
        student_label=student_label,
        validation=validation,
        validation_label=validation_label,
        test=test,
        test_label=test_label,
        teacher_feature=feature,
        teacher_logits=logits,
        teacher_label=teacher_label,
        unlabelled=clusters(25, 4)[0],
        paired=paired,
        paired_teacher_feature=clusters(9, 6, WIDTH)[0],
        paired_teacher_logits=2.0 * torch.nn.functional.one_hot(paired_label, CLASSES),
        teacher_input=clusters(40, 7, PEER_INPUTS)[0],
    )


def make(name: str, data: TrainingData, dropout: float = 0.2, **options: object):
    torch.manual_seed(7)
    student = MLP(INPUTS, num_classes=CLASSES, hidden=8, width=WIDTH, dropout=dropout)
    peer = MLP(PEER_INPUTS, num_classes=CLASSES, hidden=8, width=WIDTH, dropout=dropout)
    return create(
        name, student, num_classes=CLASSES, class_prior=data.class_prior, peer=peer,
        label_counts=data.label_counts, **teacher_of(name, INPUTS, WIDTH, CLASSES), **options,
    )  # fmt: skip


def test_fit_learns_and_reports(data: TrainingData) -> None:
    records: list[dict] = []
    method = make("ce", data, dropout=0.0)
    fitted = fit(
        method,
        data,
        replace(SHORT, steps=150, eval_every=10, log_every=25),
        OptimizerConfig(lr=1e-2),
        callbacks=[records.append],
    )
    assert fitted.validation is not None and fitted.validation.accuracy > 0.9
    assert fitted.test().accuracy > 0.9
    assert records == fitted.history
    assert [r["step"] for r in records] == sorted({*range(10, 151, 10), *range(25, 151, 25)})
    assert records[-1]["loss"]["ce"] < records[0]["loss"]["ce"]
    assert records[-1]["epoch"] == pytest.approx(150 / math.ceil(30 / 12))
    assert not fitted.method.training


def test_best_validation_is_restored(data: TrainingData) -> None:
    """A learning rate that wrecks the model late must not wreck what is returned."""
    validations = []
    fitted = fit(
        make("ce", data),
        data,
        replace(SHORT, steps=60),
        OptimizerConfig(lr=0.5, clip=None),
        callbacks=[lambda record: validations.append(record.get("validation"))],
    )
    scores = [v["accuracy"] + v["balanced_accuracy"] for v in validations if v]
    assert fitted.validation is not None
    assert fitted.validation.score == pytest.approx(max(scores))
    assert fitted.best_step == 3 * (scores.index(max(scores)) + 1)
    again = classification_metrics(
        fitted.method.predict(fitted.data.validation), fitted.data.validation_label, CLASSES
    )
    assert again == fitted.validation


def test_test_set_is_looked_at_once(data: TrainingData) -> None:
    fitted = fit(make("ce", data), data, SHORT)
    fitted.test()
    with pytest.raises(RuntimeError, match="twice"):
        fitted.test()
    without = fit(make("ce", data), replace(data, test=None, test_label=None), SHORT)
    with pytest.raises(ValueError, match="no test set"):
        without.test()


def test_weighted_terms_are_logged(data: TrainingData) -> None:
    fitted = fit(make("feature_kd", data, weight=0.25), data, replace(SHORT, log_every=1))
    for record in fitted.history:
        assert record["loss"].keys() == record["weighted"].keys() == {"ce", "fa"}
        assert record["weighted"]["ce"] == pytest.approx(record["loss"]["ce"])
        assert record["weighted"]["fa"] == pytest.approx(0.25 * record["loss"]["fa"], rel=1e-6)


#: What a method keeps beside its weights depends on options, too.
KEEPING = [
    ("joint_alignment", {"bank": True}),
    ("joint_alignment", {"prior": "estimated", "estimate_steps": 8}),
    ("self_labelling_with_pairs", {"prior": "estimated", "estimate_steps": 8}),
    ("ucmkd", {"variant": "joint"}),
]


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in sorted(METHODS)), *KEEPING])
def test_every_method_resumes_exactly(
    name: str, options: dict, data: TrainingData, tmp_path
) -> None:
    """Saved after 6 of 12 steps and continued in new objects: every number is the same."""
    straight = fit(make(name, data, **options), data, SHORT, seed=3)

    class Stop(Exception):
        pass

    checkpoints = Checkpointer(tmp_path)

    def save_and_stop(state: dict) -> None:
        checkpoints.save(state)
        raise Stop

    with pytest.raises(Stop):
        fit(make(name, data, **options), data, SHORT, seed=3, save=save_and_stop)
    state = checkpoints.load()
    assert state is not None and 0 < state["step"] < SHORT.steps
    torch.manual_seed(999)  # whatever the new process did before
    resumed = fit(make(name, data, **options), data, SHORT, seed=3, state=state)

    assert resumed.validation == straight.validation
    assert resumed.best_step == straight.best_step
    expected = straight.method.state_dict()
    for key, value in resumed.method.state_dict().items():
        assert torch.equal(value, expected[key]), key

    def timeless(records: list[dict]) -> list[dict]:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records]

    tail = [r for r in straight.history if r["step"] > state["step"]]
    assert timeless(resumed.history) == timeless(tail)


def test_a_late_buffer_of_another_kind_is_refused(data: TrainingData) -> None:
    states: list[dict] = []
    fit(make("joint_alignment", data, bank=True), data, SHORT, seed=3, save=states.append)
    state = copy.deepcopy(states[0])
    state["method"]["start"] = state["method"]["start"].long()
    with pytest.raises(CheckpointError, match="start is no vector of numbers"):
        fit(make("joint_alignment", data, bank=True), data, SHORT, seed=3, state=state)


def test_same_seed_same_result_and_other_seed_not(data: TrainingData) -> None:
    weights = []
    for seed in (1, 1, 2):
        fitted = fit(make("joint_alignment", data), data, SHORT, seed=seed)
        weights.append(torch.cat([p.flatten() for p in fitted.method.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_labelled_batches_do_not_depend_on_the_method(data: TrainingData) -> None:
    first = Batches(data, make("ce", data), SHORT, seed=5)
    second = Batches(data, make("joint_alignment", data), SHORT, seed=5)
    for _ in range(5):
        assert torch.equal(first.draw().student, second.draw().student)


def test_batches_have_what_the_method_asks_for(data: TrainingData) -> None:
    plain = Batches(data, make("ce", data), SHORT, seed=0).draw()
    assert plain.teacher_feature is None and plain.unlabelled is None and plain.paired is None
    joint = Batches(data, make("joint_alignment", data), SHORT, seed=0).draw()
    assert joint.unlabelled is not None and len(joint.unlabelled) == 8
    assert joint.unlabelled_teacher_logits is not None
    assert len(joint.unlabelled_teacher_logits) == 10
    assert joint.paired is not None and len(joint.paired) == 4 and joint.paired_label is None
    matched = Batches(data, make("label_aware", data), SHORT, seed=0).draw()
    assert matched.teacher_label is not None
    assert torch.equal(matched.teacher_label, matched.student_label)
    assert joint.teacher_input is None
    both = Batches(data, make("discom_kd", data), SHORT, seed=0).draw()
    assert both.unlabelled is None and both.paired is None
    assert both.teacher_input is not None and both.teacher_label is not None
    assert data.teacher_input is not None and data.teacher_label is not None
    rows = (both.teacher_input[:, None] == data.teacher_input).all(-1).long().argmax(1)
    assert len(rows) == SHORT.teacher_batch_size
    assert torch.equal(both.teacher_label, data.teacher_label[rows])


def test_missing_pool_is_named(data: TrainingData) -> None:
    with pytest.raises(ValueError, match="'joint_alignment' needs unlabelled"):
        fit(make("joint_alignment", data), replace(data, unlabelled=None), SHORT)
    with pytest.raises(ValueError, match="'vanilla_kd' needs paired"):
        fit(make("vanilla_kd", data), replace(data, paired=None, paired_teacher_feature=None,
                                              paired_teacher_logits=None), SHORT)  # fmt: skip
    with pytest.raises(ValueError, match="'discom_kd' needs teacher_input"):
        fit(make("discom_kd", data), replace(data, teacher_input=None), SHORT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_label": torch.zeros(29, dtype=torch.int64)}, "rows of one group must agree"),
        ({"student_label": torch.full((30,), 3)}, "student_label must lie in 0..2"),
        ({"student_label": torch.zeros(30)}, "int64"),
        ({"unlabelled": torch.empty(0, INPUTS)}, "unlabelled must not be empty"),
        ({"test_label": None}, "come together"),
        ({"validation": torch.zeros(31, 9)}, r"student and validation must .* and .9,"),
        ({"test": torch.zeros(32, INPUTS, 1)}, r"student and test must .*, 1."),
        ({"unlabelled": torch.zeros(9, 2)}, r"student and unlabelled must .* and .2,"),
        ({"paired": torch.zeros(9, 7)}, r"student and paired must .* and .7,"),
        ({"num_classes": 2.5}, "num_classes must be an integer of at least 2, got 2.5"),
        ({"num_classes": 1}, "num_classes must be an integer of at least 2, got 1"),
    ],
)
def test_bad_data_are_refused(data: TrainingData, change: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        replace(data, **change)


def test_divergence_names_the_term(data: TrainingData) -> None:
    broken = replace(data, student=data.student * float("inf"))
    with pytest.raises(TrainingError, match="'ce' became nan"):
        fit(make("ce", data), broken, SHORT)


def test_frozen_parameters_stay(data: TrainingData) -> None:
    method = make("ucmkd", data)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    after = fit(method, data, SHORT).method.state_dict()
    for key, value in after.items():
        assert torch.equal(value, before[key]) == ("teacher_head" in key or "prior" in key), key


def test_precisions(data: TrainingData) -> None:
    for precision, dtype in (("64-true", torch.float64), ("bf16-mixed", torch.float32)):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        fitted = fit(make("feature_kd", data), data, SHORT, fabric=fabric)
        assert next(fitted.method.parameters()).dtype == dtype
        assert math.isfinite(fitted.history[-1]["loss"]["fa"])


def test_learning_rate_schedule() -> None:
    plain = OptimizerConfig(lr=1.0)
    assert learning_rate(7, 10, plain) == 1.0
    warm = OptimizerConfig(lr=1.0, warmup=4)
    assert [learning_rate(s, 10, warm) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = OptimizerConfig(lr=2.0, schedule="cosine")
    assert learning_rate(0, 10, cosine) == 2.0
    assert learning_rate(5, 10, cosine) == pytest.approx(1.0)


def test_gradient_is_clipped(data: TrainingData) -> None:
    """With AdamW the size of a gradient hardly matters, so look at the gradient itself."""
    method = make("ce", data)
    fit(method, data, replace(SHORT, steps=1), OptimizerConfig(clip=1e-3))
    norm = torch.stack([p.grad.norm() for p in method.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_metrics_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    label = torch.randint(4, (200,), generator=generator)  # class 4 is predicted, never true
    found = classification_metrics(logits, label, 5)
    predicted = logits.argmax(1)
    assert found.accuracy == pytest.approx((predicted == label).float().mean().item())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(label, predicted)
    assert found.balanced_accuracy == pytest.approx(expected)
    recall = recall_score(label, predicted, labels=range(4), average=None)
    assert found.recall[:4] == pytest.approx(recall.tolist())
    assert math.isnan(found.recall[4])
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, label).item())
    assert str(Metrics.from_dict(found.to_dict())) == str(found)
    with pytest.raises(ValueError, match="logits must have shape"):
        classification_metrics(logits, label, 6)
