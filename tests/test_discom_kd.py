"""DisCoM-KD: its losses by hand, the method written out, and that it disentangles."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benches import disentanglement
from torch import Tensor, nn

from methods_common import D_PEER, C, make, make_batch, make_student
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd import diagnostics
from ucmkd.config import ConfigError, Recipe, from_mapping
from ucmkd.distill import distill
from ucmkd.methods import Batch, create
from ucmkd.methods.discom_kd import modality_accuracy, modality_loss, orthogonality_loss
from ucmkd.methods.disentangled import Disentangled, Parts
from ucmkd.methods.reversal import reverse_gradient
from ucmkd.models import MLP, HookedModel
from ucmkd.recipe_file import find_recipe, load_recipe
from ucmkd.rehearsal import check_method
from ucmkd.study.reader import find_study, load_study
from ucmkd.study.resolve import resolve

pytestmark = pytest.mark.usefixtures("one_thread")

# The losses by hand ----------------------------------------------------------------------------


def test_reversal() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-1.5, -2.0]


def test_modality_loss_by_hand() -> None:
    # p(0) of the student's samples 3/4 and 1/2; p(1) of the other's 1/5.
    own, other = torch.tensor([[3.0, 1], [2, 2]]).log(), torch.tensor([[4.0, 1]]).log()
    expected = -(math.log(0.75) + math.log(0.5)) / 2 - math.log(0.2)
    assert modality_loss(own, other).item() == pytest.approx(expected, rel=1e-12)
    nothing = torch.zeros(3, 2)
    assert modality_loss(nothing, nothing[:1]).item() == pytest.approx(2 * math.log(2))


def test_float_targets_teach_nothing() -> None:
    """Why the modality is a class index: the released targets have no gradient to tell it by."""
    logits = torch.zeros(4, 2, requires_grad=True)
    for target in (torch.ones(4, 2), torch.zeros(4, 2)):
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, target), logits)
        assert not bool(slope.any())
    (slope,) = torch.autograd.grad(modality_loss(logits, logits.detach()), logits)
    assert slope[0].tolist() == [-0.125, 0.125]


def test_modality_accuracy_is_balanced() -> None:
    own, other = torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 1]])
    assert modality_accuracy(own, other).item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert modality_accuracy(torch.zeros(5, 2), torch.zeros(2, 2)).item() == 0.5


def test_orthogonality_by_hand() -> None:
    invariant = torch.tensor([[1.0, 1], [2, 0]])
    informative = torch.tensor([[3.0, 0], [1, 0]])
    irrelevant = torch.tensor([[0.0, 1], [0, 0]])  # a dead sample has no direction
    found = orthogonality_loss(Parts(invariant, informative, irrelevant))
    assert found.item() == pytest.approx((0.5**0.5 + 1) / 2, rel=1e-12)


# The method, written out -----------------------------------------------------------------------


def branch(model: Disentangled, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_inv, z_inf, z_irr and the class logits from the weights, with BatchNorm written out."""

    def perceptron(encoder: nn.Sequential, x: Tensor) -> Tensor:
        for k in (1, 4):
            x = (x @ encoder[k].weight.T + encoder[k].bias).clamp_min(0)
        return x

    linear, norm, _ = model.projection
    z = perceptron(model.second, inputs) @ linear.weight.T + linear.bias
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    features = perceptron(model.model.encoder, inputs)
    invariant, informative, irrelevant = z.clamp_min(0), features[:, :2], features[:, 2:]
    head = model.model.head
    useful = torch.cat((invariant, informative), 1)
    return invariant, informative, irrelevant, useful @ head.weight.T + head.bias


def cosine(x: Tensor, y: Tensor) -> float:
    length = (x.norm() * y.norm()).item()
    return (x @ y).item() / length if length else 0.0


def test_method_is_its_formula() -> None:
    method, batch = make("discom_kd"), make_batch()
    for model in (method.own, method.other):  # away from the copy that it starts as
        for p in (*model.second.parameters(), *model.projection.parameters()):
            p.data += 0.3 * torch.randn_like(p)
    found = method.losses(batch)
    expected = dict.fromkeys(found, 0.0)
    sides = (
        (method.own, batch.student, batch.student_label, "ce"),
        (method.other, batch.teacher_input, batch.teacher_label, "peer_ce"),
    )
    for modality, (model, x, label, name) in enumerate(sides):
        invariant, informative, irrelevant, logits = branch(model, x)
        for i in range(len(x)):

            def surprise(values: Tensor, index: int) -> float:
                return -math.log((values.exp()[index] / values.exp().sum()).item())

            y = int(label[i])
            told = [
                (method.classifier, invariant, y, "auxiliary"),
                (method.classifier, informative, y, "auxiliary"),
                (method.discriminator, invariant, modality, "adversarial"),
                (method.tell_informative, informative, modality, "modality"),
                (method.tell_irrelevant, irrelevant, modality, "modality"),
            ]
            expected[name] += surprise(logits[i], y) / len(x)
            for layer, z, index, term in told:
                expected[term] += surprise(layer.weight @ z[i] + layer.bias, index) / len(x)
            expected["orthogonality"] += cosine(informative[i], irrelevant[i]) / len(x)
            expected["orthogonality"] += cosine(informative[i], invariant[i]) / len(x)
    assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, rel=1e-10)
    assert method.total(found, 0).item() == pytest.approx(sum(expected.values()), rel=1e-10)
    weighted = make("discom_kd", auxiliary=2.0, adversarial=0.5, modality=0.0, orthogonality=3.0)
    assert weighted.weights(7) == {
        "ce": 1, "peer_ce": 1, "auxiliary": 2, "adversarial": 0.5, "modality": 0, "orthogonality": 3
    }  # fmt: skip


def test_encoders_ascend_what_the_discriminator_descends() -> None:
    method, batch = make("discom_kd", reversal=0.25), make_batch()
    own, other = (
        model.parts(x).invariant
        for model, x in ((method.own, batch.student), (method.other, batch.teacher_input))
    )
    plain = modality_loss(method.discriminator(own), method.discriminator(other))
    layer, encoder = method.discriminator.weight, method.own.second[1].weight
    ahead = torch.autograd.grad(plain, (layer, encoder))
    found = torch.autograd.grad(method.losses(batch)["adversarial"], (layer, encoder))
    torch.testing.assert_close(found[0], ahead[0])
    torch.testing.assert_close(found[1], -0.25 * ahead[1])


def test_diagnosis_says_how_the_modalities_are_told() -> None:
    method, batch = make("discom_kd"), make_batch()
    with diagnostics.collect() as found:
        method.diagnostics(batch, 0)
    values = found.means()
    invariant = branch(method.own, batch.student)[0], branch(method.other, batch.teacher_input)[0]
    right = [method.discriminator(z).argmax(1) == k for k, z in enumerate(invariant)]
    expected = sum(float(r.double().mean()) for r in right) / 2
    assert values["modality/invariant"] == pytest.approx(expected)
    assert {"modality/informative", "modality/irrelevant"} < set(values)


def test_placebo_permutes_the_other_modality_alone() -> None:
    method, placebo, batch = make("discom_kd"), make("discom_kd", placebo=True), make_batch()
    placebo.load_state_dict(method.state_dict(), strict=False)
    wrong = replace(batch, teacher_label=placebo.permutation[batch.teacher_label])
    found, expected = placebo.losses(batch), method.losses(wrong)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert torch.equal(found["ce"], method.losses(batch)["ce"])
    assert not torch.equal(found["peer_ce"], method.losses(batch)["peer_ce"])


def test_prediction_is_of_two_parts() -> None:
    method, batch = make("discom_kd"), make_batch()
    torch.testing.assert_close(method.predict(batch.student), branch(method.own, batch.student)[3])
    method.eval()
    model = method.deployed()
    torch.testing.assert_close(model(batch.student), method.predict(batch.student))
    model.projection[0].weight.data.zero_()
    assert bool(method.own.projection[0].weight.any())  # a copy


def test_a_hooked_student() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, C))
    method = make("discom_kd", HookedModel(network, "1", torch.ones(2, 5)))
    terms = method.backward(make_batch(), 0)
    assert all(bool(value.isfinite()) for value in terms.values())
    assert network[0].weight.grad is not None and bool(network[0].weight.grad.any())


# Training --------------------------------------------------------------------------------------


def two_modalities(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two unpaired sets of the same classes, in other coordinates and at another level."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(2 * n) % C
    x = torch.randn(2 * n, 6, generator=generator)
    x[:, :C] += 4 * torch.eye(C)[label]
    other = x[n:, [3, 1, 5, 0, 4, 2]] * 0.5
    return x[:n], label[:n], other + 1.0, label[n:]


def trained(steps: int = 160, **options: float) -> dict[str, float]:
    """How well the modalities are told, mean over the last 40 steps."""
    x, y, other, z = two_modalities(60, 0)
    torch.manual_seed(0)
    student, peer = (MLP(6, num_classes=C, hidden=16, width=16) for _ in range(2))
    method = create("discom_kd", student, num_classes=C, peer=peer, **options)
    train = torch.optim.Adam(method.trainable(), lr=1e-2)
    with diagnostics.collect() as found:
        for step in range(steps):
            train.zero_grad()
            method.backward(Batch(x, y, teacher_input=other, teacher_label=z), step)
            train.step()
    return {k: sum(map(float, v[-40:])) / 40 for k, v in found.values.items()}


def test_invariant_features_do_not_tell_the_modality_and_irrelevant_ones_do() -> None:
    fought, let_be = trained(), trained(reversal=0.0)
    for told in (fought, let_be):
        assert told["modality/irrelevant"] > 0.97 and told["modality/informative"] > 0.97
    assert abs(fought["modality/invariant"] - 0.5) < 0.15
    assert let_be["modality/invariant"] > 0.9


def test_a_run_from_recipe_to_result(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    recipe = from_mapping(
        Recipe,
        {
            "out_dir": str(tmp_path / "run"),
            "data": {
                "teacher": {"dataset": "digits", "view": "pixels"},
                "student": {"dataset": "digits", "view": "shape", "labels_per_class": 3},
            },
            "teacher": {"hidden": 12, "width": 8},
            "student": {"hidden": 12, "width": 8},
            "method": {"name": "discom_kd"},
            "training": {"steps": 20, "eval_every": 10, "log_every": 10},
        },
    )
    result = distill(recipe)
    assert result.steps == 20 and result.teacher is None
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"ce", "peer_ce", "adversarial"} < set(log[-1]["loss"])
    assert "modality/invariant" in log[-1]["diagnostics"]
    assert not (tmp_path / "run" / "teacher.safetensors").exists()
    assert distill(recipe, resume=True).already_finished
    odd = replace(recipe, out_dir=str(tmp_path / "odd"), student=replace(recipe.student, width=9))
    with pytest.raises(ConfigError, match="got 8 and 9"):
        distill(odd)
    assert not (tmp_path / "odd").exists()


# Bad input -------------------------------------------------------------------------------------


def test_models_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="discom_kd needs peer"):
        create("discom_kd", make_student(), num_classes=C)
    with pytest.raises(ValueError, match=r"as many features as the student, .* got 6 and 4"):
        make("discom_kd", peer=MLP(D_PEER, num_classes=C, width=6))
    with pytest.raises(ValueError, match=r"width must be even, .* 5 features"):
        make("discom_kd", make_student(5))
    with pytest.raises(ValueError, match="peer's head has 7 outputs"):
        make("discom_kd", peer=MLP(D_PEER, num_classes=7, width=4))
    with pytest.raises(TypeError, match=r"peer must be a ucmkd\.models\.Student, got Linear"):
        make("discom_kd", peer=nn.Linear(2, C))


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "untrained"), ("weights", "a.safetensors"), ("focus", 0.5)]
)
def test_there_is_no_teacher_to_be_told_about(key: str, value: object) -> None:
    recipe = load_recipe(find_recipe("brca_discom_kd"))
    check_method(recipe)
    with pytest.raises(ConfigError, match=rf"teacher\.{key} must be .*got {value!r}"):
        check_method(replace(recipe, teacher=replace(recipe.teacher, **{key: value})))


def test_a_study_may_have_its_placebo_and_no_untrained_teacher() -> None:
    study = load_study(find_study("discom_kd"))
    recipe = resolve(study, "brca", "discom_kd", 0, "placebo").recipe
    assert recipe.method.placebo and recipe.method.name == "discom_kd"
    with pytest.raises(ConfigError, match=r"teacher\.kind must be 'trained', got 'untrained'"):
        resolve(study, "brca", "discom_kd", 0, "untrained")
    with pytest.raises(ConfigError, match="asks no teacher"):
        resolve(study, "brca", "ce", 0, "placebo")


def test_curves_and_probes_of_the_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    small = from_mapping(
        Recipe,
        {
            "data": {
                "teacher": {"dataset": "digits", "view": "pixels"},
                "student": {"dataset": "digits", "view": "shape", "labels_per_class": 5},
            },
            "teacher": {"hidden": 12, "width": 8},
            "student": {"hidden": 12, "width": 8},
            "method": {"name": "discom_kd"},
            "training": {"steps": 40, "log_every": 10, "diagnose_every": 10, "eval_every": 15},
        },
    )
    monkeypatch.setattr(disentanglement, "recipes", lambda strength: {"small": small})
    assert disentanglement.main(["--out", str(tmp_path), "--seeds", "2"]) == 0
    with open(tmp_path / "modality.csv", newline="") as file:
        curves = list(csv.DictReader(file))
    assert [(row["reversal"], row["step"]) for row in curves] == [
        (strength, step) for strength in ("1", "0") for step in ("10", "20", "30", "40")
    ]
    assert all(0 <= float(row[part]) <= 1 for row in curves for part in disentanglement.PARTS)
    with open(tmp_path / "probes.csv", newline="") as file:
        probes = list(csv.DictReader(file))
    assert len(probes) == 2 and all(float(row["irrelevant"]) > 0.9 for row in probes)
    assert (tmp_path / "figures" / "modality.png").stat().st_size > 10_000
    assert disentanglement.main(["--seeds", "1"]) == 2
