"""The scikit-learn classifier: its estimator checks, a teacher that helps, and bad input."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import ucmkd.sklearn
from ucmkd import data
from ucmkd.methods import METHODS
from ucmkd.sklearn import UCMKDClassifier

pytestmark = pytest.mark.usefixtures("one_thread")
#: Short trainings: the checks are about the interface.
SHORT: dict[str, Any] = {"steps": 60, "teacher_steps": 60, "lr": 1e-2, "random_state": 0}


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks([UCMKDClassifier(**SHORT)])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    """All of scikit-learn's for a classifier; none is expected to fail."""
    check(estimator)


def problem(labels: int = 5, seed: int = 0) -> dict[str, Any]:
    """Digits: the teacher sees pixels, the student the shape numbers of other digits."""
    digits = data.load("digits")
    assert isinstance(digits, data.Views)
    split = data.unpaired_split(digits.labels, seed=seed)
    rng = np.random.default_rng(seed)
    few = data.few_labels(digits.labels, labels, rng, pool=split.student_train)
    rest = np.setdiff1d(split.student_train, few)
    shape, pixels = np.asarray(digits.views["shape"]), np.asarray(digits.views["pixels"])
    return {
        "student": (shape[few], digits.labels[few]),
        "teacher": {
            "X_teacher": pixels[split.teacher_train],
            "y_teacher": digits.labels[split.teacher_train],
        },
        "pool": shape[rest],
        "paired": {"X_paired": shape[rest], "X_teacher_paired": pixels[rest]},
        "test": (shape[split.test], digits.labels[split.test]),
    }


def accuracy(model: UCMKDClassifier, given: dict[str, Any], **more: Any) -> float:
    return float(model.fit(*given["student"], **more).score(*given["test"]))


def test_a_teacher_helps_and_a_placebo_does_not() -> None:
    given = problem()
    own = UCMKDClassifier(steps=300, random_state=0)
    alone = accuracy(own, given)
    assert own.method_ == "ce" and own.teacher_ is None
    unpaired = clone(own)
    taught = accuracy(unpaired, given, **given["teacher"], X_unlabelled=given["pool"])
    assert unpaired.method_ == "joint_alignment" and unpaired.teacher_ is not None
    assert taught > alone + 0.01
    paired = clone(own)
    assert accuracy(paired, given, **given["teacher"], **given["paired"]) > alone + 0.02
    assert paired.method_ == "vanilla_kd"
    misled = clone(own).set_params(placebo=True)
    assert accuracy(misled, given, **given["teacher"], **given["paired"]) < alone


def test_without_a_pool_the_labelled_samples_are_aligned() -> None:
    given = problem()
    model = UCMKDClassifier(**SHORT).fit(*given["student"], **given["teacher"])
    assert model.method_ == "label_aware" and "fa" in model.history_[-1]["loss"]


@pytest.mark.parametrize("classes", [2, 1])
def test_a_teacher_without_some_classes_teaches_the_others(classes: int) -> None:
    given = problem()
    known = given["teacher"]["y_teacher"] < 10 - classes
    teacher = {name: value[known] for name, value in given["teacher"].items()}
    with pytest.warns(UserWarning, match="no samples of class"):
        model = UCMKDClassifier(**SHORT).fit(*given["student"], **teacher)
    assert model.method_ == "label_aware" and np.isfinite(model.history_[-1]["loss"]["fa"])


def test_names_of_classes_and_classes_without_a_label() -> None:
    """What only the teacher has seen can be predicted."""
    given = problem()
    names = np.array([f"digit {k}" for k in range(10)])
    x, y = given["student"]
    teacher = {**given["teacher"], "y_teacher": names[given["teacher"]["y_teacher"]]}
    model = UCMKDClassifier(steps=300, random_state=1)
    model.fit(x[y != 7], names[y[y != 7]], **teacher, X_unlabelled=given["pool"])
    assert model.classes_.tolist() == sorted(names)
    x_test, y_test = given["test"]
    assert (model.predict(x_test[y_test == 7]) == "digit 7").mean() > 0.3


def test_equal_seeds_equal_models_and_the_global_generators_stay() -> None:
    given = problem()
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = UCMKDClassifier(**SHORT).fit(*given["student"], **given["teacher"])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    again = pickle.loads(pickle.dumps(UCMKDClassifier(**SHORT)))
    again.fit(*given["student"], **given["teacher"])
    x = given["test"][0]
    np.testing.assert_array_equal(first.predict_proba(x), again.predict_proba(x))
    other = UCMKDClassifier(**{**SHORT, "random_state": 1}).fit(*given["student"])
    assert not np.allclose(first.predict_proba(x), other.predict_proba(x))


def test_in_a_pipeline_and_with_validation() -> None:
    given = problem(labels=20)
    model = UCMKDClassifier(**SHORT, validation_fraction=0.2)
    scores = cross_val_score(make_pipeline(StandardScaler(), model), *given["student"], cv=3)
    assert scores.min() > 0.6
    assert "validation" in model.fit(*given["student"]).history_[-1]


BAD = [
    ({"X_teacher": np.zeros((3, 2))}, "X_teacher and y_teacher come together, got only X_teacher"),
    ({"X_paired": np.zeros((3, 4))}, "come together, got only X_paired"),
    (
        {"X_paired": np.zeros((3, 4)), "X_teacher_paired": np.zeros((3, 2))},
        "X_paired needs X_teacher",
    ),
    ({"X_unlabelled": np.zeros((3, 5))}, "X_unlabelled must have the 4 columns of X, got 5"),
    ({"X_teacher": np.zeros((3, 2)), "y_teacher": [0, 1]}, "one label per row of X_teacher, got 2"),
    ({"X_unlabelled": np.full((3, 4), np.nan)}, "X_unlabelled contains NaN"),
]


@pytest.mark.parametrize(("more", "message"), BAD, ids=[text[:30] for _, text in BAD])
def test_bad_arrays(more: dict[str, Any], message: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 2
    with pytest.raises(ValueError, match=message):
        UCMKDClassifier(**SHORT).fit(x, y, **more)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "jont"}, "method must be 'auto' or one of .*, got 'jont'"),
        ({"method": "ucmkd"}, "method 'ucmkd' needs X_teacher and y_teacher"),
        ({"method": "self_labelling"}, "needs"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
        ({"method": "at"}, "'at' cannot be used here: attention transfer"),
        ({"method": "prior_only"}, "method 'prior_only' needs X_teacher and y_teacher"),
        ({"method": "self_labelling"}, "method 'self_labelling' needs X_teacher and y_teacher: pr"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], message: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 2
    with pytest.raises(ValueError, match=message):
        UCMKDClassifier(**{**SHORT, **parameters}).fit(x, y)


TOO_LATE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weight_decay": -1}, ValueError, "weight_decay must be a finite number of at least 0, got"),
    ({"weight_decay": float("nan")}, ValueError, "weight_decay must be a finite number"),
    ({"lr": "x"}, TypeError, "lr must be a finite number above 0, got 'x'"),
    ({"lr": 0.0}, ValueError, "lr must be a finite number above 0, got 0.0"),
    ({"placebo": "yes"}, TypeError, "placebo must be true or false, got 'yes'"),
    ({"method_options": 3}, TypeError, "method_options must be a mapping .* or None, got 3"),
    (
        {"method_options": {"wieght": 1}}, ValueError,
        r"method_options must hold .* of 'label_aware' \(.*, got 'wieght'; did you mean 'weight'",
    ),
    ({"method_options": {"num_classes": 2}}, ValueError, "method_options must .* 'num_classes'"),
    ({"method_options": {"placebo": True}}, ValueError, "placebo is an argument of UCMKDClassif"),
    ({"method_options": {"weight": -1}}, ValueError, "weight must be .* got -1"),
    ({"method": "joint_alignment"}, ValueError, "'joint_alignment' needs X_unlabelled$"),
    ({"method": "vanilla_kd"}, ValueError, "'vanilla_kd' needs X_paired and X_teacher_paired$"),
    (
        {"method": "self_labelling_with_pairs"}, ValueError,
        "needs X_unlabelled",
    ),
    ({"method": "discom_kd", "width": 7}, ValueError, "width must be even"),
    ({"method": "amid"}, ValueError, "'amid' cannot be used here: .* which columns of X_teacher"),
    ({"method": "msd"}, ValueError, "'msd' cannot be used here: .* which columns of X_teacher"),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "kind", "message"), TOO_LATE)
def test_mistakes_are_found_before_the_teacher_is_trained(
    parameters: dict[str, Any], kind: type[Exception], message: str, monkeypatch: Any
) -> None:
    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher was trained")

    monkeypatch.setattr(ucmkd.sklearn, "train_teacher", trained)
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.arange(8) % 2
    with pytest.raises(kind, match=message):
        UCMKDClassifier(**{**SHORT, **parameters}).fit(x, y, X_teacher=x[:, :3], y_teacher=y)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("amid", "msd")])
def test_every_other_method_can_be_used(method: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    x, z = rng.normal(size=(24, 5)) + y[:, None], rng.normal(size=(24, 4)) - y[:, None]
    model = UCMKDClassifier(method, steps=4, teacher_steps=4, hidden=8, width=6, random_state=0)
    model.fit(x, y, X_teacher=z, y_teacher=y, X_unlabelled=x, X_paired=x, X_teacher_paired=z)
    assert (model.teacher_ is None) == (method == "discom_kd")
    assert np.isfinite(model.predict_proba(x)).all()
