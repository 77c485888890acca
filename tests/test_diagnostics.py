"""Diagnoses: what is reported is what the step does, and the training does not notice."""

from __future__ import annotations

import copy
import math
import random
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_common import C, make, make_batch
from methods_common import double as _double  # noqa: F401
from ucmkd import diagnostics
from ucmkd.batches import TrainingData
from ucmkd.config import ConfigError, TrainingConfig, from_mapping
from ucmkd.diagnosis import (
    CONFLICT_COSINE,
    CONFLICT_DIAGNOSES,
    ConflictWatch,
    GradientConflictWarning,
    diagnose,
)
from ucmkd.methods import METHODS, Batch, Method, create
from ucmkd.methods.observed import plan_entropy, plan_residual, report_gradients
from ucmkd.models import MLP, SplitModel
from ucmkd.ops import sinkhorn_cost, transport_plan, transport_plan_cost
from ucmkd.trainer import fit

STEP = 200  # behind every ramp
ALIGNING = sorted(
    set(METHODS) - {"ce", "prior_only", "prior_correction", "logit_adjustment", "weighted_ce"}
)
#: Their alignment ends at the features.
HEADLESS = (
    "class_mmd", "discom_kd", "feature_kd", "fitnet", "label_aware", "norm", "pkdot",
    "pkdot_classes", "prototype_geometry", "rkd", "sp",
)  # fmt: skip
TRANSPORTING = [
    "feature_kd",
    "joint_alignment",
    "label_aware",
    "self_labelling",
    "self_labelling_with_pairs",
    "ucmkd",
]


def test_collector_takes_means_and_nests() -> None:
    diagnostics.report("lost", 1.0)
    with diagnostics.collect() as outer:
        diagnostics.report("a", 1.0)
        with diagnostics.collect() as inner:
            diagnostics.report("a", torch.tensor([7.0], requires_grad=True))
        diagnostics.report("a", torch.tensor(4))
    assert not diagnostics.collecting()
    assert outer.means() == {"a": 2.5} and inner.means() == {"a": 7.0}
    with (
        diagnostics.collect(),
        pytest.raises(ValueError, match=r"'a' must be one number, .*\(2,\)"),
    ):
        diagnostics.report("a", torch.zeros(2))
    with diagnostics.collect(), pytest.raises(ValueError, match="name must not be empty"):
        diagnostics.report("", 1.0)
    assert not diagnostics.collecting()  # an error closes it too


def test_collector_stays_in_its_thread() -> None:
    heard: list[bool] = []

    def other() -> None:
        heard.append(diagnostics.collecting())
        diagnostics.report("a", 1.0)

    with diagnostics.collect() as found:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert heard == [False] and found.values == {}


def test_plan_statistics_by_hand() -> None:
    plan = torch.tensor([[0.5, 0.0], [0.25, 0.25]])
    assert plan_entropy(plan).item() == pytest.approx(1.5 * math.log(2))
    # Rows .5 and .5 as they should be; columns .75 and .25 instead of .5 and .5.
    assert plan_residual(plan).item() == pytest.approx(0.5)
    column = torch.tensor([0.75, 0.25])
    assert plan_residual(plan, column=column).item() == pytest.approx(0)
    assert plan_residual(plan, torch.tensor([0.4, 0.6]), column).item() == pytest.approx(0.2)
    independent = torch.full((3, 4), 1 / 12)
    assert plan_entropy(independent).item() == pytest.approx(math.log(12))


def reported(method: Method, batch: Batch) -> dict[str, float]:
    with diagnostics.collect() as found:
        method.diagnostics(batch, STEP)
    return found.means()


@pytest.mark.parametrize("name", ["feature_kd", "ucmkd", "label_aware"])
@pytest.mark.parametrize("scale", ["mean", None])
@pytest.mark.parametrize("placebo", [False, True])
def test_plan_of_feature_alignment(name: str, scale: str | None, placebo: bool) -> None:
    """The plan of ``ucmkd.ops.transport_plan`` at the ε, the labels and the masses of the loss."""
    method, batch = make(name, epsilon_scale=scale, epsilon=0.3, placebo=placebo), make_batch()
    found = reported(method, batch)
    x = method.projector(method.student.encoder(batch.student)).detach()
    y = batch.teacher_feature
    b = None
    given: dict[str, Any] = {}
    if name == "label_aware":
        label = batch.teacher_label if not placebo else method.permutation[batch.teacher_label]
        given = {"x_label": batch.student_label, "y_label": label, "label_cost": 10.0}
        if placebo:  # the student's class masses, shared by the teacher samples of each class
            mass = torch.bincount(batch.student_label, minlength=C) / 6
            b = torch.stack([mass[k] / (label == k).sum() for k in label])
            given["y_weight"] = b / b.sum()
    unit = 1.0
    if scale == "mean":
        column = torch.full((6,), 1 / 6) if b is None else given["y_weight"]
        unit = float(torch.cdist(x, y).mean(0) @ column)
    if "label_cost" in given:
        given["label_cost"] *= unit
    plan = transport_plan(
        x, y, epsilon=0.3 * unit, cost="euclidean", tol=1e-3, max_iter=100, **given
    )
    assert found["plan/entropy"] == pytest.approx(plan_entropy(plan).item(), rel=1e-6)
    residual = plan_residual(plan, None, given.get("y_weight")).item()
    assert found["plan/residual"] == pytest.approx(residual, rel=1e-3, abs=1e-9)
    assert math.log(6) - 1e-3 <= found["plan/entropy"] <= math.log(36) + 1e-9
    assert found["plan/residual"] < 2e-3


@pytest.mark.parametrize("name", ["joint_alignment", "self_labelling"])
def test_plan_of_a_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported is the plan at the cost, the ε and the masses of the term itself."""
    from ucmkd.methods import planned

    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def kept(cost: Tensor, **options: Any) -> Any:
        calls.append((cost.detach().clone(), options))
        return sinkhorn_cost(cost, **options)

    monkeypatch.setattr(planned, "sinkhorn_cost", kept)
    found = reported(make(name, tol=1e-10, max_iter=5000), replace(make_batch(), paired=None))
    ((cost, options),) = calls
    wanted = ("epsilon", "x_weight", "y_weight", "tol", "max_iter")
    plan = transport_plan_cost(cost, **{key: options[key] for key in wanted})
    assert found["plan/entropy"] == pytest.approx(plan_entropy(plan).item(), rel=1e-7)
    residual = plan_residual(plan, options["x_weight"], options["y_weight"]).item()
    assert found["plan/residual"] == pytest.approx(residual, abs=1e-8)


@pytest.mark.parametrize("name", ALIGNING)
def test_gradients_of_every_method(name: str) -> None:
    """Cosine and ratio by ``backward`` on whole sums, over the encoder that both terms reach."""
    method, batch = make(name), make_batch()
    found = reported(method, batch)
    gradient = []
    for kind in (True, False):
        method.zero_grad()
        terms, weights = method.losses(batch, STEP), method.weights(STEP)
        sum(weights[k] * v for k, v in terms.items() if (k in method.supervised) == kind).backward()
        gradient.append({k: p.grad for k, p in method.student.named_parameters()})
    both = [k for k in gradient[0] if gradient[0][k] is not None and gradient[1][k] is not None]
    assert any("encoder" in k for k in both)
    g, h = (torch.cat([side[k].flatten() for k in both]) for side in gradient)
    assert found["gradient/cosine"] == pytest.approx((g @ h / g.norm() / h.norm()).item())
    assert found["gradient/ratio"] == pytest.approx((h.norm() / g.norm()).item())
    assert ("plan/entropy" in found) == (name in TRANSPORTING)
    # The head is not counted where the alignment does not touch it.
    assert any("head" in k for k in both) == (name not in HEADLESS)
    method.zero_grad()
    reported(method, batch)
    assert all(p.grad is None for p in method.parameters())


def test_cosines_by_hand() -> None:
    w, v = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    terms = {"ce": w.sum() + 5 * v, "a": 2 * w[0] - w[1], "b": -w.sum(), "off": w.sum()}
    weights = {"ce": 1.0, "a": 1.0, "b": 2.0, "off": 0.0}
    with diagnostics.collect() as found:
        report_gradients(terms, weights, ("ce",), [w, v])
    values = found.means()  # ce (1, 1); a (2, -1); 2 b (-2, -2); together (0, -3)
    assert values["gradient/cosine_a"] == pytest.approx(1 / math.sqrt(10))
    assert values["gradient/cosine_b"] == pytest.approx(-1)
    assert values["gradient/cosine"] == pytest.approx(-1 / math.sqrt(2))
    assert values["gradient/ratio"] == pytest.approx(3 / math.sqrt(2))
    assert "gradient/cosine_off" not in values


def test_without_alignment_nothing_is_computed() -> None:
    for method in (
        make("ce"),
        make("prior_only"),
        make("joint_alignment", weight=0, pair_weight=0),
    ):
        method.student.forward = method.student.outputs = None  # a forward pass would fail
        assert reported(method, make_batch()) == {}


class Noisy(nn.Module):
    """An encoder with every kind of state that a forward pass can change."""

    counted: Tensor | None

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, width)
        self.register_buffer("counted", None)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.counted = torch.ones(()) if self.counted is None else self.counted + 1
        x = self.norm(x) + 0.1 * torch.randn_like(x) + random.random() + np.random.rand()
        return torch.dropout(self.linear(x), 0.4, self.training) * (
            1 + 0.01 * self.calls * self.counted
        )

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def clusters(n: int, seed: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    return 2 * torch.eye(3, width)[label] + torch.randn(n, width, generator=generator), label


def small_data() -> TrainingData:
    student, validation, test = clusters(30, 0, 6), clusters(31, 1, 6), clusters(32, 2, 6)
    feature, label = clusters(40, 3, 5)
    paired, paired_label = clusters(9, 5, 6)
    one_hot = nn.functional.one_hot
    return TrainingData(
        3, *student, *validation, *test, feature, 3.0 * one_hot(label, 3), label,
        clusters(25, 4, 6)[0], paired, clusters(9, 6, 5)[0], 2.0 * one_hot(paired_label, 3),
        teacher_input=clusters(40, 7, 6)[0],
    ).to("cpu", torch.float64)  # fmt: skip


def noisy(name: str, **options: Any) -> Method:
    torch.manual_seed(7)
    width = 6 if METHODS[name].needs_peer else 5  # split in halves
    return create(
        name, SplitModel(Noisy(width), nn.Linear(width, 3)), num_classes=3,
        teacher_head=nn.Linear(5, 3), class_prior=torch.tensor([0.4, 0.3, 0.3]),
        label_counts=torch.tensor([4, 4, 4]), peer=SplitModel(Noisy(width), nn.Linear(width, 3)),
        teacher_width=5, **options,
    )  # fmt: skip


SHORT = TrainingConfig(steps=12, batch_size=12, unlabelled_batch_size=8, eval_every=4, log_every=2)


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "diagnostics", "warning")}
        for r in records
    ]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_diagnoses_do_not_change_the_training(name: str) -> None:
    """Bit for bit, with dropout, BatchNorm, a replaced buffer, three generators and own state."""

    def probe(method: Method, data: TrainingData, step: int) -> None:
        assert data.test is None
        method.eval()
        method.predict(data.student)
        diagnostics.report("probe/step", float(step))

    # prior_only counts labels in every forward pass: diagnosed here by the probe alone.
    without = fit(noisy(name), small_data(), replace(SHORT, diagnose_every=0), seed=1)
    looked = fit(noisy(name), small_data(), SHORT, seed=1, probes=[probe])
    assert comparable(looked.history) == comparable(without.history)
    expected = without.method.state_dict()
    for key, value in looked.method.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not any("diagnostics" in record for record in without.history)
    seen = [record["diagnostics"] for record in looked.history]
    assert [found["probe/step"] for found in seen] == [1, 3, 5, 7, 9, 11]
    if name in ALIGNING:
        assert all(-1 <= found["gradient/cosine"] <= 1 for found in seen)


def test_a_diagnosis_sees_the_random_numbers_of_its_step() -> None:
    method, data = noisy("feature_kd").double().train(), small_data()
    batch = Batch(data.student, data.student_label, data.teacher_feature[:30])
    seen: list[dict[str, Tensor]] = []
    inner = method.terms

    def spied(batch: Batch, step: int) -> dict[str, Tensor]:
        seen.append(inner(batch, step))
        return seen[-1]

    method.terms = spied
    diagnose(method, batch, 0, data=data)
    method.backward(batch, 0)
    first, second = seen
    assert torch.equal(first["ce"], second["ce"]) and torch.equal(first["fa"], second["fa"])


def test_rhythm_and_default() -> None:
    assert TrainingConfig().steps_between_diagnoses == TrainingConfig().log_every
    history = fit(noisy("feature_kd"), small_data(), replace(SHORT, diagnose_every=3)).history
    assert [r["step"] for r in history] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert [r["step"] for r in history if "diagnostics" in r] == [3, 6, 9, 12]
    with pytest.raises(ConfigError, match="diagnose_every must be zero or more, or null, got -1"):
        from_mapping(TrainingConfig, {"diagnose_every": -1})


def test_warning_needs_several_bad_diagnoses() -> None:
    watch, bad = ConflictWatch(), {"gradient/cosine": CONFLICT_COSINE - 0.1}
    assert [watch.update(bad, i) for i in range(CONFLICT_DIAGNOSES - 1)] == [None] * (
        CONFLICT_DIAGNOSES - 1
    )
    other = ConflictWatch()
    other.load_state_dict(watch.state_dict())
    assert other.update({"plan/entropy": -9.0}, 0) is None
    for each in (watch, other):
        message = each.update(bad, 77)
        assert message is not None and message.startswith("gradient_conflict: at step 77")
        assert "mean cosine -0.60" in message
    assert all(watch.update(bad, i) is None for i in range(20))  # once
    calm = ConflictWatch()
    values = [-1.0, -0.9, 0.2, 0.3, -1.0] * 4  # the mean of any five is -.48
    assert not any(calm.update({"gradient/cosine": v}, 0) for v in values)


class Fighting(Method):
    """Cross-entropy, and half of its negative, less a little so that it can still learn."""

    name = "fighting"

    def weights(self, step: int) -> dict[str, float]:
        return {"ce": 1.0, "against": 0.5}

    def terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        ce = self.cross_entropy(self.student(batch.student), batch.student_label)
        return {"ce": ce, "against": -ce}


def test_fighting_objective_warns_once_and_a_normal_one_does_not(
    recwarn: pytest.WarningsRecorder,
) -> None:
    training = replace(SHORT, steps=40)
    student = MLP(6, num_classes=3, hidden=8, width=5)
    with pytest.warns(GradientConflictWarning, match="gradient_conflict: at step 10") as caught:
        history = fit(Fighting(student, num_classes=3), small_data(), training).history
    assert len([w for w in caught if w.category is GradientConflictWarning]) == 1
    (said,) = [r for r in history if "warning" in r]
    assert said["step"] == 10 and "gradient_conflict" in said["warning"]
    assert all(r["diagnostics"]["gradient/cosine"] == pytest.approx(-1) for r in history)

    for name in ("joint_alignment", "feature_kd", "vanilla_kd"):
        history = fit(noisy(name), small_data(), training).history
        assert not any("warning" in r for r in history)
        assert min(r["diagnostics"]["gradient/cosine"] for r in history) > -1
    assert not [w for w in recwarn if w.category is GradientConflictWarning]


def test_resumed_run_warns_as_the_uninterrupted_one() -> None:
    """The cosines before the interruption count, and what was said is not said again."""
    training = replace(SHORT, steps=24, epochs=None, eval_every=6)
    states: list[dict[str, Any]] = []

    def made() -> Method:
        torch.manual_seed(0)
        return Fighting(MLP(6, num_classes=3, hidden=8, width=5), num_classes=3)

    with pytest.warns(GradientConflictWarning):
        straight = fit(
            made(), small_data(), training, save=lambda s: states.append(copy.deepcopy(s))
        ).history
    for state, times in ((states[0], 1), (states[2], 0)):
        with pytest.warns() as caught:
            warnings.warn("so that there is one", UserWarning, stacklevel=1)
            resumed = fit(made(), small_data(), training, state=state).history
        found = [w for w in caught if w.category is GradientConflictWarning]
        assert len(found) == times == sum("warning" in r for r in resumed)
        tail = [r for r in straight if r["step"] > state["step"]]
        assert [{**r, "seconds": 0} for r in resumed] == [{**r, "seconds": 0} for r in tail]
