"""Rules for choosing a teacher, against closed forms, brute force and what is known beforehand."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from ucmkd.information import complementarity, mutual_information
from ucmkd.information.complementarity import verdict
from ucmkd.information.rules import RULES, Evidence, Finding, Settings
from ucmkd.information.rules.accuracy import teacher_outputs
from ucmkd.information.rules.cch import reduced, unbounded
from ucmkd.information.rules.evidence import mean_with_interval, with_half_the_labels
from ucmkd.information.rules.kernel import Ridge, Scale, on_simplex, one_hot, probe
from ucmkd.information.rules.similarity import aligned_mmd, linear_cka

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(
    n: int = 400, seed: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A weak student; a clear teacher that shares much with it, and one that is all noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centre = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[labels]
    detail = torch.randn(n, 2, generator=g)
    student = torch.cat([centre + detail, torch.randn(n, 2, generator=g)], dim=1)
    clear = torch.cat([6 * centre + 0.3 * torch.randn(n, 2, generator=g), detail], dim=1)
    noise = torch.randn(n, 4, generator=g)
    return {"noise": noise, "clear": clear}, student, labels


# --- complementarity ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mmd"])
def test_every_rule_prefers_the_clear_teacher(rule: str) -> None:
    teachers, student, labels = problem()
    labels = torch.where(torch.arange(len(labels)) % 5 == 0, labels, -1)
    found = complementarity(teachers, student, labels, rule=rule, subsamples=20)
    assert [c.name for c in found.candidates] == ["clear", "noise"]
    assert found.best.margin > found["noise"].margin
    assert (found.samples, found.labelled) == (400, 80)
    with pytest.raises(KeyError, match="clear, noise"):
        found["other"]


def test_cch_is_the_difference_of_two_estimates_on_one_reduction() -> None:
    teachers, student, labels = problem()
    for method in ("knn", "gaussian"):
        found = complementarity(teachers, student, labels, method=method, dims=3)["clear"]
        # Standardised first, as the function does.
        s, t = (reduced(((x - x.mean(0)) / x.std(0, correction=0)).double().numpy(), 3)
                for x in (student, teachers["clear"]))  # fmt: skip
        shared = mutual_information(t, s, method=method, subsamples=0).value
        own = mutual_information(s, labels, method=method, subsamples=0).value
        assert found.teacher == pytest.approx(shared, rel=1e-6)
        assert found.student == pytest.approx(own, rel=1e-6)
        assert found.margin == pytest.approx(shared - own, rel=1e-6)
        assert found.low < found.margin < found.high


def test_cch_verdicts_where_the_answer_is_known() -> None:
    teachers, student, labels = problem(800)
    found = complementarity(teachers, student, labels, dims=3)
    assert found["clear"].verdict == "helps"
    # Nothing is shared with noise, and the student knows something of the label.
    assert found["noise"].verdict == "does not help"
    assert found["noise"].teacher < 0.1 < found["noise"].student


def test_surrogate_ranks_and_decides_nothing() -> None:
    teachers, student, labels = problem(600)
    shorter = {name: rows[:450] for name, rows in teachers.items()}
    classes = {name: labels[:450] for name in teachers}
    found = complementarity(
        shorter, student, labels, pairing="class", teacher_labels=classes, method="gaussian"
    )
    assert found.pairing == "class" and found.best.name == "clear"
    assert {c.verdict for c in found.candidates} == {"cannot tell"}
    # H_T - Y - H_S is a Markov chain: I(H_T; H_S) <= I(H_S; Y), up to the estimates' error.
    assert all(c.margin < 0.05 for c in found.candidates)


def test_repeatable_and_the_order_of_teachers_is_free() -> None:
    teachers, student, labels = problem(200)
    first = complementarity(teachers, student, labels)
    again = complementarity(dict(reversed(teachers.items())), student.numpy(), labels.numpy())
    assert first == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": {}}, "at least one teacher"),
        ({"teachers": {"a": torch.randn(7, 2)}}, "by unpaired samples.*pairing='class'"),
        ({"teachers": {"a": torch.full((60, 2), torch.nan)}}, r"teachers\['a'\] must be finite"),
        ({"teachers": {"a": torch.ones(60, 2)}}, "must vary, got 2 constant columns"),
        ({"teachers": {"a": torch.randn(60)}}, r"shape \(n, d\)"),
        ({"labels": torch.zeros(60, dtype=torch.long)}, "at least 2 classes, got 1"),
        ({"labels": torch.arange(59) % 2}, "one entry per row of student, got 59"),
        ({"labels": torch.cat([torch.arange(5) % 2, torch.full((55,), -1)])}, "at least 12 rows"),
        ({"labels": torch.arange(60) - 5}, "or -1 for unknown, got -5"),
        ({"rule": "ccch"}, "rule must be one of cch"),
        ({"method": "ross"}, "one side only, and both must come from one estimator"),
        ({"method": "knn", "rule": "trial"}, "method must be 'auto' for rule 'trial'"),
        ({"pairing": "class"}, "needs teacher_labels"),
        ({"pairing": "class", "rule": "trial"}, "needs paired samples.*cch, accuracy, cka, mmd"),
        ({"pairing": "none"}, "'rows' or 'class'"),
        ({"dims": 0}, "dims must be at least 1"),
        ({"subsamples": 1}, "0 or at least 2"),
        ({"confidence": 1.0}, r"in \(0, 1\)"),
        ({"weight": 0.0}, "positive"),
        ({"outputs": {"a": torch.randn(60, 2)}}, "must be probabilities"),
        ({"outputs": {"b": torch.ones(60, 2)}}, "'b' that is no teacher"),
        ({"own": {"a": (torch.randn(19, 3), torch.arange(19) % 2)}}, r"features \(m, 2\)"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "teachers": {"a": torch.randn(60, 2)}, "student": torch.randn(60, 2),
        "labels": torch.arange(60) % 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        complementarity(**{**arguments, **change})  # type: ignore[arg-type]


def test_wrong_kinds() -> None:
    x, y = torch.randn(20, 2), torch.arange(20) % 2
    with pytest.raises(TypeError, match="teachers must map names"):
        complementarity([x], x, y)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="labels must be integers"):
        complementarity({"a": x}, x, y.float())
    with pytest.raises(TypeError, match="dims must be an integer"):
        complementarity({"a": x}, x, y, dims=2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"confidence must be a number in \(0, 1\), got str"):
        complementarity({"a": x}, x, y, confidence="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight must be a positive number, got str"):
        complementarity({"a": x}, x, y, weight="a")  # type: ignore[arg-type]
    for own, got in (((x,), "1 entries"), (x, "Tensor")):
        with pytest.raises(TypeError, match=rf"own\['a'\] must be a pair.*got {got}"):
            complementarity({"a": x}, x, y, own={"a": own})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="student must be a tensor"):
        complementarity({"a": x}, [[1.0]], y)


def test_constant_columns_are_left_out_and_said_so() -> None:
    teachers, student, labels = problem(100)
    wide = torch.cat([teachers["clear"], torch.ones(100, 3)], dim=1)
    found = complementarity({"clear": wide}, student, labels, rule="cka")
    plain = complementarity({"clear": teachers["clear"]}, student, labels, rule="cka")
    assert found.notes == ("teachers['clear']: 3 of 7 columns are constant and were left out",)
    assert found.best.margin == pytest.approx(plain.best.margin)


def test_verdict() -> None:
    assert verdict(Finding(1.0, 0.1, 2.0)) == "helps"
    assert verdict(Finding(-1.0, -2.0, -0.1)) == "does not help"
    assert verdict(Finding(1.0, -0.1, 2.0)) == "cannot tell"
    assert verdict(Finding(1.0)) == "cannot tell"
    assert verdict(Finding(1.0, 0.1, 2.0, decides=False)) == "cannot tell"


@pytest.mark.parametrize("rule", RULES)
def test_few_labels_among_many_rows(rule: str) -> None:
    """Subsets of the rows must not run out of labels."""
    teachers, student, labels = problem(300)
    labels = torch.where(torch.arange(300) < 27, labels, -1)
    found = complementarity(teachers, student, labels, rule=rule, subsamples=20)
    assert all(c.low <= c.margin <= c.high for c in found.candidates)


def test_half_the_labels() -> None:
    labels = np.array([0, 1, -1, -1, 1, 0, -1, -1])
    assert with_half_the_labels(np.array([2, 3, 6, 7]), labels).tolist() == [0, 1, 2, 3]
    assert with_half_the_labels(np.array([2, 4, 5, 7]), labels).tolist() == [2, 4, 5, 7]
    every = np.array([0, 1, 0, 1])
    assert with_half_the_labels(np.array([1, 2]), every).tolist() == [1, 2]


# --- the rules' parts ---------------------------------------------------------------------------


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    weight = rng.uniform(0.5, 2.0, 12)
    kernel = Scale.fit(x).kernel(x, x)
    ridge, penalty = Ridge(kernel, weight), 0.1
    rho = penalty * float((np.diagonal(kernel) * weight).mean())
    found = ridge.left_out(targets, penalty, np.arange(12))
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        system = kernel[np.ix_(rest, rest)] + rho * np.diag(1.0 / weight[rest])
        without = kernel[i, rest] @ np.linalg.solve(system, targets[rest])
        np.testing.assert_allclose(found[i], without, rtol=1e-8)
    whole = kernel @ np.linalg.solve(kernel + rho * np.diag(1.0 / weight), targets)
    np.testing.assert_allclose(kernel @ ridge.coefficients(targets, penalty), whole, rtol=1e-8)


def test_nearest_probabilities() -> None:
    scores = np.array([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.6, 0.6, -1.0], [-1.0, -1.0, -1.0]])
    wanted = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(on_simplex(scores), wanted, atol=1e-12)


def test_probe_predicts_held_out_rows() -> None:
    teachers, _, labels = problem(300)
    x, y = teachers["clear"].double().numpy(), labels.numpy()
    outputs, left_out, used = probe(x[:150], y[:150], 3, x[150:])
    assert (outputs.argmax(1) == y[150:]).mean() > 0.95
    assert (left_out.argmax(1) == y[used]).mean() > 0.95
    np.testing.assert_allclose(outputs.sum(1), 1.0)


def test_debiased_cka() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        """Song's equation 5, literally."""
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        first = np.trace(k @ m)
        second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float((first + second - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3)))

    k, m = x @ x.T, y @ y.T
    wanted = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-9)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)
    wide = [linear_cka(*rng.standard_normal((2, 30, 400))) for _ in range(20)]
    assert abs(np.mean(wide)) < 0.05  # the plain form is above 0.9 here
    with pytest.raises(ValueError, match="4 or more rows"):
        linear_cka(x[:3], y[:3])


def test_weighted_interval() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    mean, low, high = mean_with_interval(values, 0.95)
    assert mean == 0.75
    assert high - mean == pytest.approx(1.959964 * values.std(ddof=1) / 2, rel=1e-6)
    doubled = mean_with_interval(values, 0.95, np.full(4, 2.0))
    assert doubled == pytest.approx((mean, low, high))
    assert mean_with_interval(values, 0.95, np.array([1.0, 3.0, 1.0, 1.0]))[0] == 0.5
    assert math.isnan(mean_with_interval(values[:1], 0.95)[1])


def test_accuracies_count_classes_as_they_come() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    outputs = np.eye(2)[[0, 0, 0, 0, 0, 0, 1, 1]]  # right on class 0, half right on class 1
    evidence = Evidence(np.zeros((8, 1)), np.zeros((8, 1)), labels.numpy(), 2, outputs=outputs)
    assert teacher_outputs(evidence)[1].mean() == 0.75
    assert evidence.row_weight.tolist() == [1.0] * 8
    own = np.zeros((100, 1)), np.repeat([0, 1], [90, 10])
    weight = Evidence(*(np.zeros((8, 1)),) * 2, labels.numpy(), 2, own=own).row_weight
    assert weight.mean() == pytest.approx(1.0)
    assert weight[0] / weight[-1] == pytest.approx(90.5 / 10.5)


def test_trial_is_its_definition() -> None:
    teachers, student, labels = problem(40)
    known = torch.where(torch.arange(40) < 15, labels, -1)
    outputs = np.full((40, 3), 0.1)
    outputs[np.arange(40), labels] = 0.8
    evidence = Evidence(
        teachers["clear"].double().numpy(), student.double().numpy(), known.numpy(), 3,
        outputs=outputs,
    )  # fmt: skip
    found = RULES["trial"].ask(evidence, Settings(weight=2.0))
    kernel = Scale.fit(evidence.student).kernel(evidence.student, evidence.student)
    truth = one_hot(labels[:15].numpy(), 3)

    def best(rows: np.ndarray, weight: np.ndarray, targets: np.ndarray) -> float:
        ridge = Ridge(kernel[np.ix_(rows, rows)], weight)
        guesses = [ridge.left_out(targets, p, np.arange(15))
                   for p in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)]  # fmt: skip
        errors = [float(np.square(guess - truth).sum()) for guess in guesses]
        return min(errors) / 15

    alone = best(np.arange(15), np.full(15, 1 / 15), truth)
    both = np.concatenate([truth, outputs[15:] - 1 / 3])
    taught = best(np.arange(40), np.repeat([1 / 15, 2 / 25], [15, 25]), both)
    assert (found.teacher, found.student) == pytest.approx((taught, alone))
    assert found.margin == pytest.approx(alone - taught)
    assert found.margin > 0


def test_with_all_labels_a_perfect_teacher_adds_nothing_to_the_trial() -> None:
    teachers, student, labels = problem(150)
    outputs = {name: torch.eye(3)[labels] for name in teachers}
    found = complementarity(teachers, student, labels, rule="trial", outputs=outputs)
    assert [c.margin for c in found.candidates] == [0.0, 0.0]
    assert [c.verdict for c in found.candidates] == ["cannot tell"] * 2


def test_aligned_mmd() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 3)) * np.array([3.0, 2.0, 1.0])
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert aligned_mmd(x, 7 * x @ turn + 2, 3) < 0.01
    assert aligned_mmd(x**5, x, 3) > 0.1  # heavy tails, which no rotation hides


@pytest.mark.parametrize("knows", [False, True])
def test_infinite_margins(monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
    rng = np.random.default_rng(0)
    student = rng.standard_normal((120, 3))
    label = (student[:, 0] + rng.standard_normal(120) > 0).astype(int)
    teachers = {"self": student, "other": rng.standard_normal((120, 3))}
    cch = import_module("ucmkd.information.rules.cch")  # the package has the function
    plain = cch.estimate

    def exact(x, y, *rest, **more):  # type: ignore[no-untyped-def]
        """Without rounding, which may leave a correlation just below 1."""
        out = plain(x, y, *rest, **more)
        linear = knows if y.ndim == 1 else np.array_equal(x, y)
        return replace(out, value=math.inf) if linear else out

    monkeypatch.setattr(cch, "estimate", exact)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = complementarity(teachers, student, label, method="gaussian")
    own, other = found["self"], found["other"]
    if knows:  # A student that knows the label needs nobody, says the rule.
        assert (other.margin, other.low, other.high) == (-math.inf, -math.inf, -math.inf)
        assert other.verdict == "does not help"
        assert math.isnan(own.margin) and own.verdict == "cannot tell"
        assert found.candidates == (other, own)
    else:
        assert (own.margin, own.low, own.high) == (math.inf, math.inf, math.inf)
        assert own.verdict == "helps" and found.best is own


def test_intervals_of_margins_that_are_not_all_finite() -> None:
    assert unbounded([math.inf, 2.0, 1.0]) == (1.0, math.inf)
    assert unbounded([3.0, math.inf, 1.0]) == (1.0, math.inf)
    assert unbounded([math.inf, math.inf]) == (math.inf, math.inf)
    assert unbounded([-math.inf, 2.0, 1.0]) == (-math.inf, 2.0)
    assert unbounded([math.nan, 1.0]) == (-math.inf, math.inf)
