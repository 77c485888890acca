"""The shipped recipes and studies on audio-visual data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import ucmkd
from audiovisual_common import make_ave, make_cremad, make_ravdess, make_vggsound
from ucmkd.config import Recipe, from_mapping
from ucmkd.data.audiovisual import VIEWS
from ucmkd.data.stored import StoredArray
from ucmkd.preparation import prepare
from ucmkd.preparation.mismatch import DomainShift
from ucmkd.recipe_file import find_recipe, load_recipe
from ucmkd.stored_inputs import StoredInputs

SETS = {
    "ave": make_ave,
    "ravdess": lambda root: make_ravdess(root, actors=10),
    "cremad": lambda root: make_cremad(root, actors=10),
    "vggsound": make_vggsound,
}
STUDIES = sorted((Path(ucmkd.__file__).parent / "studies").glob("*.yaml"))
OURS = [path for path in STUDIES if path.stem.startswith(("table", "ucmkd_costs"))]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UCMKD_DATA", str(tmp_path))


@pytest.mark.parametrize("direction", ["a2v", "v2a"])
@pytest.mark.parametrize("name", SETS)
def test_recipes_find_their_data(name: str, direction: str, tmp_path: Path) -> None:
    SETS[name](tmp_path)
    prepared = prepare(load_recipe(find_recipe(f"{name}_{direction}")).data, seed=0)
    order = VIEWS if direction == "a2v" else VIEWS[::-1]
    channels = {"audio": 1, "frames": 3}
    for side, view in zip((prepared.teacher, prepared.student), order, strict=True):
        assert isinstance(side.student, StoredInputs) and side.validation is not None
        assert side.student.shape[1] == channels[view]
    assert torch.equal(prepared.teacher.student_label, prepared.student.student_label)
    assert prepared.student.test is not None and prepared.student.unlabelled is None


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in copy.deepcopy(layer).items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merged(old, value) if both else value
    return result


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_studies_are_made_of_recipes(path: Path) -> None:
    study = yaml.safe_load(path.read_text())
    assert study["name"] == path.stem and study["seeds"] == {
        "explore": [],
        "fresh": [0, 1, 2, 3, 4],
    }
    assert set(study["references"]) <= set(study["methods"])
    for scenario in study["scenarios"].values():
        for method in study["methods"].values():
            sections = merged(study["defaults"], scenario, method)
            recipe = from_mapping(Recipe, sections)
            assert recipe.data.shared and recipe.training.epochs == 100
            assert recipe.optimizer.kind == recipe.teacher.optimizer == "sgd"
            if method["method"]["name"] in ("vanilla_kd", "c2kd", "dkd", "rkd", "fitnet"):
                assert recipe.data.pairs == -1


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_studies_are_read_by_the_study_reader(path: Path) -> None:
    study = pytest.importorskip("ucmkd.study")
    assert study.load_study(path).name == path.stem


def test_tables_and_recipes_agree() -> None:
    table = yaml.safe_load(next(path for path in OURS if path.stem == "table1").read_text())
    for name, scenario in table["scenarios"].items():
        one = load_recipe(find_recipe(name))
        sections = merged(table["defaults"], scenario, {"method": {"name": "ucmkd"}})
        other = from_mapping(Recipe, sections)
        assert (one.teacher, one.student, one.optimizer) == (
            other.teacher,
            other.student,
            other.optimizer,
        )
        assert one.training == other.training
        assert one.data.teacher == other.data.teacher and one.data.student == other.data.student


def test_mismatch_moves_training_inputs_in_files_and_not_the_test(tmp_path: Path) -> None:
    make_ravdess(tmp_path, actors=6, repeats=4)
    data = {
        "teacher": {"dataset": "ravdess", "view": "frames"},
        "student": {
            "dataset": "ravdess",
            "view": "audio",
            "labels_per_class": None,
            "standardise": False,
        },
        "shared": True,
        "validation": 0.2,
        "test": 0.3,
    }
    config = from_mapping(Recipe, {"data": data}).data
    plain = prepare(config, seed=0)
    hard = prepare(from_mapping(Recipe, {"data": {**data, "mismatch": "hard"}}).data, seed=0)
    assert plain.student.test is not None and hard.student.test is not None
    assert torch.equal(plain.student.test[:], hard.student.test[:])
    assert len(hard.student.student) < len(plain.student.student)
    assert float(hard.student.student[:].max()) > 0.5 > float(plain.student.student[:].max())


def test_shift_of_rows_in_a_file_by_hand() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(50, 1, 4, 5)).astype(np.float32)
    stored = StoredArray(values)
    shift = DomainShift.draw(0.5, stored, np.random.default_rng(1))
    assert shift.gain.shape == shift.offset.shape == (1, 4, 1)  # one per band
    generator = np.random.default_rng(1)
    gain = 1 + 0.5 * generator.uniform(-1, 1, size=(1, 4, 1))
    offset = 0.5 * values.std(dtype=np.float64) * generator.normal(0, 1, size=(1, 4, 1))
    expected = values.mean() + gain * (values - values.mean()) + offset
    np.testing.assert_allclose(shift(stored)[10:20].read(), expected[10:20], rtol=1e-4, atol=1e-4)
    colours = DomainShift.draw(0.5, StoredArray(np.ones((9, 3, 2, 2))), np.random.default_rng(1))
    assert colours.gain.shape == (3, 1, 1)
