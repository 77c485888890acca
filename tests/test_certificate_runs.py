"""The certificate of a training: in the log, the result and the report; of any method and head."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ucmkd.batches import TrainingData
from ucmkd.certified import CertificateProbe, TeacherSide, certify, linear_form, teacher_side
from ucmkd.cli import main
from ucmkd.config import TrainingConfig
from ucmkd.distill import distill, load_recipe
from ucmkd.methods import Method, create
from ucmkd.models import MLP, HookedModel, SplitModel, Student
from ucmkd.report_figures import panels
from ucmkd.runlog import read_log
from ucmkd.teacher import cache_outputs, freeze
from ucmkd.theory.certificate import Certificate, certificate
from ucmkd.trainer import fit

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, CLASSES = 5, 3


def samples(n: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % CLASSES
    return 2 * torch.eye(CLASSES, width)[label] + torch.randn(n, width, generator=generator), label


def sides(teacher: Student) -> tuple[TrainingData, TeacherSide]:
    """The student's data with the outputs of a frozen teacher, and the teacher's own side."""
    freeze(teacher)
    x, y = samples(60, 4, 0)
    own = TrainingData(CLASSES, x, y, *samples(45, 4, 1))
    feature, logits = cache_outputs(teacher, x)
    student = (*samples(30, 6, 2), *samples(42, 6, 3))
    data = TrainingData(
        CLASSES, *student, teacher_feature=feature, teacher_logits=logits, teacher_label=y
    )
    side = teacher_side(teacher, own)
    assert isinstance(side, TeacherSide)
    return data, side


def method_of(name: str, teacher: Student, width: int = WIDTH, **options) -> Method:
    torch.manual_seed(1)
    student = MLP(6, num_classes=CLASSES, hidden=8, width=width, dropout=0.5)
    given = {"class_prior": torch.ones(3), "label_counts": torch.tensor([10, 10, 10])}
    return create(
        name, student, num_classes=CLASSES, teacher_head=teacher, teacher_width=teacher.width,
        **given, **options,
    )  # fmt: skip


@pytest.fixture
def teacher() -> Student:
    return MLP(4, num_classes=CLASSES, hidden=8, width=WIDTH)


@pytest.mark.parametrize("width", [WIDTH, 7])
def test_projected_features_are_certified(teacher: Student, width: int) -> None:
    """What ``certify`` computes is ``certificate`` on the outputs in evaluation mode."""
    data, side = sides(teacher)
    method = method_of("feature_kd", teacher, width).train()
    found = certify(method, data, side)
    assert isinstance(found, Certificate) and found.holds
    assert method.training and method.student.training  # as it was
    method.eval()
    feature = method.student.encoder(data.validation)
    assert isinstance(method.projector, nn.Identity) == (width == WIDTH)
    expected = certificate(
        method.projector(feature), method(data.validation), data.validation_label, side.feature,
        side.logits, side.label, teacher.head, space=found.space,
    )  # fmt: skip
    assert found == expected and "projector" in found.space


@pytest.mark.parametrize(("name", "width"), [("joint_alignment", WIDTH), ("rkd", 7)])
def test_other_methods_go_through_a_fitted_map(teacher: Student, name: str, width: int) -> None:
    data, side = sides(teacher)
    found = certify(method_of(name, teacher, width), data, side)
    assert isinstance(found, Certificate) and found.holds
    assert "affine map onto the teacher's class means" in found.space
    without = replace(data, teacher_feature=None, teacher_logits=None, teacher_label=None)
    told = certify(method_of(name, teacher, width), without, side)
    assert told == "the method has no projector, and the data no teacher features to fit one to"


def test_fitted_map_finds_the_class_means(teacher: Student) -> None:
    """A student whose features are the labels: each goes to the teacher's mean of its class."""
    data, side = sides(teacher)
    label = data.student_label
    inputs = 9.0 * torch.eye(CLASSES)[label]
    means = torch.stack([data.teacher_feature[data.teacher_label == k].mean(0) for k in range(3)])
    data = replace(data, student=inputs, validation=inputs, validation_label=label)
    model = SplitModel(nn.Identity(), nn.Linear(3, CLASSES))
    method = create("joint_alignment", model, num_classes=CLASSES, teacher_width=WIDTH,
                    class_prior=torch.ones(3))  # fmt: skip
    found = certify(method, data, side)
    assert isinstance(found, Certificate)
    # The ridge pulls the means to their centre by less than 3 %.
    logits = means @ side.weight.T + side.bias
    loss = nn.functional.cross_entropy(logits, torch.arange(3))
    assert found.transfer_error == pytest.approx(float(loss), rel=0.05)


def test_truncated_features_have_no_place_in_the_teachers_space(teacher: Student) -> None:
    method = method_of("ucmkd", teacher, 3, projector="truncate")
    assert method.to_teacher(torch.zeros(2, 3)) is None
    assert method_of("ucmkd", teacher).to_teacher(torch.ones(2, WIDTH)).shape == (2, WIDTH)
    assert method_of("joint_alignment", teacher).to_teacher(torch.ones(2, WIDTH)) is None
    assert method_of("ce", teacher).to_teacher(torch.ones(2, WIDTH)) is None


def test_placebo_is_certified_with_its_classes(teacher: Student) -> None:
    data, side = sides(teacher)
    method = method_of("feature_kd", teacher, placebo=True).eval()
    found = certify(method, data, side)
    permutation = method.permutation
    weight, bias = torch.empty_like(side.weight), torch.empty_like(side.bias)
    weight[permutation], bias[permutation] = side.weight, side.bias
    expected = certificate(
        method.student.encoder(data.validation), method(data.validation), data.validation_label,
        side.feature, None, permutation[side.label], (weight, bias), space=found.space,
    )  # fmt: skip
    assert found == expected and found.holds
    plain = certify(method_of("feature_kd", teacher).eval(), data, side)
    assert found.teacher_error == pytest.approx(plain.teacher_error)
    assert found.transfer_error != pytest.approx(plain.transfer_error)


def test_linear_forms() -> None:
    network = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Dropout(0.5), nn.Linear(WIDTH, 3))
    hooked = HookedModel(network, "1", torch.randn(2, 4))
    data, side = sides(hooked)
    torch.testing.assert_close(side.weight, network[3].weight)
    torch.testing.assert_close(side.bias, network[3].bias)
    assert certify(method_of("feature_kd", hooked), data, side).holds
    bare = SplitModel(nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3, bias=False))
    assert sides(bare)[1].bias.tolist() == [0, 0, 0]
    bent = SplitModel(nn.Linear(4, WIDTH), nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(),
                                                          nn.Linear(8, 3)))  # fmt: skip
    freeze(bent)
    own = TrainingData(CLASSES, *samples(20, 4, 0), *samples(9, 4, 1))
    assert teacher_side(bent, own) == "the teacher's head is not linear"
    assert linear_form(bent, *cache_outputs(bent, own.student)) is None
    blind = TrainingData(CLASSES, *samples(20, 4, 0))
    assert teacher_side(bent, blind) == "the teacher has no validation samples"


@pytest.mark.parametrize("name", ["ucmkd", "joint_alignment"])
def test_probe_reports_and_changes_nothing(teacher: Student, name: str) -> None:
    data, side = sides(teacher)
    data = replace(data, unlabelled=samples(50, 6, 9)[0])
    short = TrainingConfig(steps=6, batch_size=8, eval_every=3, log_every=2)
    weights, history = [], []
    for probes in ((), [CertificateProbe(side)]):
        fitted = fit(method_of(name, teacher), data, short, seed=4, probes=probes)
        weights.append(fitted.method.state_dict())
        history.append(fitted.history)
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], rtol=0, atol=0)
    looked = [r["diagnostics"] for r in history[1] if "diagnostics" in r]
    assert len(looked) == 3
    for found in looked:
        terms = ("teacher_entropy", "feature_alignment", "label_alignment")
        total = sum(found[f"certificate/{term}"] for term in terms)
        assert found["certificate/bound"] == pytest.approx(total)
        assert found["certificate/bound"] >= found["certificate/student_error"]
        transfer = found["certificate_transfer/transfer_error"]
        assert found["certificate_transfer/class_bound"] >= transfer
    assert not any(key.startswith("certificate") for key in history[0][1].get("diagnostics", {}))
    titles = {panel.title: set(panel.curves) for panel in panels(history[1])}
    assert {"bound", "student_error", "label_alignment"} <= titles["Certificate"]
    assert {"class_bound", "transfer_error"} <= titles["Certificate transfer"]


def test_large_sides_are_thinned_while_training(teacher: Student) -> None:
    data, side = sides(teacher)
    method = method_of("feature_kd", teacher)
    found = certify(method, data, side, max_samples=20, max_points=8)
    assert (found.student_samples, found.teacher_samples, found.blocks) == (20, 20, 3)
    assert found.holds


def test_distill_prints_stores_and_draws_it(tmp_path: Path, capsys) -> None:
    words = ["distill", "digits_offline", "--training.steps", "6", "--training.eval-every", "3"]
    words += ["--training.log-every", "3", "--teacher.steps", "20", "--hardware.accelerator", "cpu"]
    folder = tmp_path / "taught"
    assert main([*words, "--out-dir", str(folder), "--method.name", "feature_kd"]) == 0
    shown = capsys.readouterr().out
    assert "The certificate holds" in shown and "certificate, nats: E_T[H]" in shown
    stored = json.loads((folder / "metrics.json").read_text())
    found = Certificate.from_dict(stored["certificate"])
    assert found.holds and stored["certificate"]["holds"] and stored["uncertified"] == ""
    assert found.student_error == pytest.approx(stored["validation"]["loss"], rel=1e-5)
    assert found.teacher_error == pytest.approx(stored["teacher"]["loss"], rel=1e-5)
    assert f"{found.bound:.3f}" in shown
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Certificate</h2>" in html and f"<td>{found.bound:.4g}</td>" in html
    assert "E_T[H] + τ W1 + LA" in html and "Certificate transfer" in html
    last = read_log(folder / "log.jsonl")[-1]["diagnostics"]
    assert math.isfinite(last["certificate/bound"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    curve = board.Scalars("diagnostics/certificate/bound")
    assert [point.step for point in curve] == [3, 6]
    assert curve[-1].value == pytest.approx(last["certificate/bound"], rel=1e-6)
    again = distill(load_recipe(folder / "recipe.yaml"), resume=True)
    assert again.already_finished and again.certificate == found

    folder = tmp_path / "alone"
    assert main([*words, "--out-dir", str(folder), "--method.name", "ce"]) == 0
    assert "no certificate: the method has no teacher" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["certificate"] is None
    assert "None: the method has no teacher." in (folder / "report.html").read_text()
