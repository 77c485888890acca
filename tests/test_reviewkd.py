"""ReviewKD: the pyramid by hand, the fusion against its formula, stages from model to loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods_common import D_T, C, D, double, make, make_batch, make_student  # noqa: F401
from ucmkd.config import ConfigError, Recipe, from_mapping, to_mapping
from ucmkd.distill import distill
from ucmkd.methods.review_fusion import AttentionFusion, hierarchical_context_loss
from ucmkd.models import MLP, SplitModel
from ucmkd.preparation import prepare
from ucmkd.rehearsal import check_method, make_method, rehearse
from ucmkd.staged import StagedTeacher, staged

STAGES = ((4,), (3,))  # of a teacher of width 7 = D_T


def test_pyramid_by_hand() -> None:
    vectors = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    assert hierarchical_context_loss(*vectors).item() == pytest.approx(2.5)
    # 2 × 2: the maps differ by 1, -1, 1, 3 (mean square 3), their mean by 1; 4 and 2 do not fit.
    maps = torch.tensor([[[[1.0, -1.0], [1.0, 3.0]]]])
    found = hierarchical_context_loss(maps, torch.zeros_like(maps))
    assert found.item() == pytest.approx((3 + 1 / 2) / 1.5)
    # 8 × 8 of ones against zeros: 1 on every level, whatever the weights.
    assert hierarchical_context_loss(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)).item() == 1
    # 3 × 3, 1 in a corner: 1/9; to 2 × 2 a quarter in one of four, 1/64; to 1 × 1 1/9.
    corner = torch.zeros(1, 1, 3, 3)
    corner[..., 0, 0] = 1
    expected = (1 / 9 + 1 / 64 / 2 + 1 / 81 / 4) / 1.75
    found = hierarchical_context_loss(corner, torch.zeros_like(corner))
    assert found.item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2\) and \(1, 3\)"):
        hierarchical_context_loss(torch.zeros(1, 2), torch.zeros(1, 3))


def test_method_is_its_formula() -> None:
    method = make("reviewkd", teacher_stages=STAGES, weight=2.0, mid=5)
    batch, student = make_batch(), method.student
    hidden = torch.relu(student.encoder[1](batch.paired))
    features = torch.relu(student.encoder[4](hidden))
    first, last = method.fusions

    def affine(layer: torch.nn.Linear, x: Tensor) -> Tensor:
        return x @ layer.weight.T + layer.bias

    deep = affine(last.reduce, features)
    mixed = affine(first.reduce, hidden)
    gate = 1 / (1 + torch.exp(-affine(first.attention, torch.cat((mixed, deep), 1))))
    fused = torch.stack([gate[i, 0] * mixed[i] + gate[i, 1] * deep[i] for i in range(4)])
    teacher = batch.paired_teacher_feature
    expected = (affine(first.expand, fused) - teacher[:, :4]).square().mean()
    expected = expected + (affine(last.expand, deep) - teacher[:, 4:]).square().mean()
    terms = method.losses(batch)
    torch.testing.assert_close(terms["review"], expected)
    total = terms["ce"] + 2 * terms["review"] + terms["pair_ce"]
    torch.testing.assert_close(method.total(terms, 0), total)
    assert make("reviewkd", ramp_steps=10).weights(5)["review"] == 0.5
    assert last.attention is None and first.reduce.out_features == 5


def test_every_part_is_trained() -> None:
    method, batch = make("reviewkd", teacher_stages=STAGES), make_batch()
    method.total(method.losses(batch), 0).backward()
    assert all(bool(p.grad.any()) for p in method.fusions.parameters())


def test_maps_of_unequal_size() -> None:
    """From 2 × 2 maps of 6 channels and 4 × 4 of 4 to a teacher's of 3 × 3 and 5 × 5."""
    deepest = AttentionFusion(6, 4, 3, maps=True, deepest=True)
    before = AttentionFusion(4, 4, 2, maps=True, deepest=False)
    out, carried = deepest(torch.randn(2, 6, 2, 2), None, torch.Size((3, 3)))
    assert out.shape == (2, 3, 3, 3) and carried.shape == (2, 4, 2, 2)
    torch.nn.init.zeros_(before.attention.weight)
    before.attention.bias.data = torch.tensor([-50.0, 50.0])  # all attention to the deeper stage
    out, carried_on = before(torch.randn(2, 4, 4, 4), carried, torch.Size((5, 5)))
    assert out.shape == (2, 2, 5, 5)
    blown_up = carried.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(carried_on, blown_up)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"shape \(p, 6\), all of .* got \(4, 7\)"):
        make("reviewkd", teacher_stages=[(6,)]).losses(make_batch())
    with pytest.raises(ValueError, match="maps where the student's are"):
        make("reviewkd", teacher_stages=[(7, 1, 1)])
    with pytest.raises(ValueError, match="mid must be"):
        make("reviewkd", mid=0)
    with pytest.raises(ValueError, match="weight must be"):
        make("reviewkd", weight=-1.0)


def test_models_show_their_stages() -> None:
    model, x = make_student(), torch.randn(3, D)
    (hidden, features), logits = model.stages(x)
    assert [tuple(s.shape[1:]) for s in (hidden, features)] == list(model.stage_shapes)
    torch.testing.assert_close((features, logits), model.outputs(x))
    torch.testing.assert_close(hidden, model.encoder[:3](x))
    split = SplitModel(model.encoder, model.head)
    assert split.stage_shapes == ((4,),) and torch.equal(split.stages(x)[0][0], features)
    whole = StagedTeacher(model)
    assert whole.width == 10 == whole.outputs(x)[0].shape[1]
    assert torch.equal(whole.outputs(x)[0], torch.cat((hidden, features), 1))


RECIPE = {
    "name": "review", "method": {"name": "reviewkd"},
    "data": {
        "teacher": {"dataset": "mfeat", "view": "fac"},
        "student": {"dataset": "mfeat", "view": "zer", "labels_per_class": 5},
        "pairs": 40,
    },
    "teacher": {"steps": 3, "hidden": 12, "width": 8}, "student": {"hidden": 9, "width": 5},
    "training": {"steps": 4, "eval_every": 2, "diagnose_every": 2},
    "hardware": {"accelerator": "cpu"},
}  # fmt: skip


def test_it_runs_from_a_recipe(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    recipe = from_mapping(Recipe, {**RECIPE, "out_dir": str(tmp_path / "run")})
    first = distill(recipe)
    (tmp_path / "run" / "metrics.json").unlink()
    assert distill(recipe, resume=True).test == first.test


def test_the_teacher_is_asked_for_what_the_method_needs() -> None:
    torch.set_default_dtype(torch.float32)
    recipe = from_mapping(Recipe, RECIPE)
    prepared = prepare(recipe.data, 0)
    rehearse(recipe, prepared)
    teacher = MLP(216, num_classes=10, hidden=12, width=8)
    student = MLP(47, num_classes=10, hidden=9, width=5)
    method = make_method(recipe, student, teacher, prepared.student)
    assert method.teacher_width == 8 and method.teacher_stages == [(12,), (8,)]
    assert staged(recipe, teacher).width == 20
    other = replace(recipe, method=replace(recipe.method, name="fitnet"))
    assert staged(other, teacher) is teacher
    mapping = to_mapping(recipe)
    mapping["method"]["options"] = {"teacher_stages": 3}
    with pytest.raises(ConfigError, match="unknown option 'teacher_stages'"):
        check_method(from_mapping(Recipe, mapping))
