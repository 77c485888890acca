"""What was found, in two sentences per scene that follow from the numbers and nothing else.

A difference is called one only if its p-value, adjusted for the comparisons of its sentence, is
below .05. No sentence takes "not significant" for "equal": it says what was not shown.
"""

from __future__ import annotations

from ucmkd.demo.experiment import ALL_PAIRS
from ucmkd.demo.numbers import SHORT, Comparison, Metric, Outcome, compare
from ucmkd.demo.scenes import PAIRS, Scene
from ucmkd.study.text import p_text, signed


def findings(scene: Scene, outcome: Outcome) -> tuple[str, str]:
    """The two sentences of a scene."""
    return {1: _no_pairs, 2: _some_pairs, 3: _long_tail}[scene.number](outcome)


def change(c: Comparison) -> str:
    """A difference in words: risen, fallen, or not shown to differ."""
    if not c.significant:
        size = f"{signed(c.test.mean)} ± {c.test.half_width:.1f}"
        return f"did not change significantly ({size}, p {_p(c)})"
    size = f"{abs(c.test.mean):.1f} ± {c.test.half_width:.1f} points"
    return f"{'rose' if c.test.mean > 0 else 'fell'} by {size} (p {_p(c)})"


def _p(c: Comparison) -> str:
    text = p_text(c.p_value)
    return text if text.startswith("<") else f"= {text}"


def _gap(c: Comparison) -> str:
    return f"{signed(c.test.mean)} ± {c.test.half_width:.1f} (p {_p(c)})"


def _knowledge(outcome: Outcome, metrics: tuple[Metric, ...]) -> str:
    """What the placebo and self-labelling say about where joint alignment's score comes from."""
    pairs = [("joint", "placebo"), ("joint", "self")]
    found = {metric: compare(outcome, pairs, metric) for metric in metrics}

    def gaps(reference: str) -> str:
        return " and ".join(f"{SHORT[m]} {_gap(found[m]['joint', reference])}" for m in metrics)

    def significant(reference: str, sign: int) -> list[str]:
        tests = {m: found[m]["joint", reference] for m in metrics}
        return [SHORT[m] for m, c in tests.items() if c.significant and sign * c.test.mean > 0]

    measured = (
        f"Against a placebo teacher with the right class frequencies and the wrong classes joint "
        f"alignment gets {gaps('placebo')}, and against self-labelling, which has the class "
        f"frequencies and no teacher, {gaps('self')}; "
    )
    for reference, name in (("placebo", "its placebo"), ("self", "self-labelling")):
        if worse := significant(reference, -1):
            measured += f"it is significantly behind {name} in {' and '.join(worse)}, and "
    over_placebo, over_self = significant("placebo", 1), significant("self", 1)
    if over_placebo and over_self:
        return measured + "what the teacher knows about the classes helps here."
    if over_placebo:
        return measured + (
            "a wrong teacher does worse than the right one, but a gain over having no teacher is "
            "not shown."
        )
    if over_self:
        return measured + (
            "aligning beats labelling oneself, but that this comes from knowing which class is "
            "which is not shown."
        )
    return measured + "that the teacher gives more than its class frequencies is not shown here."


def _no_pairs(outcome: Outcome) -> tuple[str, str]:
    rows = [("joint", "ce"), ("prior", "ce"), ("ucmkd", "ce")]
    accuracy = compare(outcome, rows, "accuracy")
    balanced = compare(outcome, rows, "balanced_accuracy")
    first = (
        f"With joint alignment accuracy {change(accuracy['joint', 'ce'])} against tuned "
        f"cross-entropy while balanced accuracy {change(balanced['joint', 'ce'])}; with the "
        f"class prior alone it was {signed(accuracy['prior', 'ce'].test.mean)} and "
        f"{signed(balanced['prior', 'ce'].test.mean)}, with UCMKD as published "
        f"{signed(accuracy['ucmkd', 'ce'].test.mean)} and "
        f"{signed(balanced['ucmkd', 'ce'].test.mean)}."
    )
    return first, _knowledge(outcome, ("accuracy", "balanced_accuracy"))


def _some_pairs(outcome: Outcome) -> tuple[str, str]:
    names = ["all" if n == ALL_PAIRS else str(n) for n in PAIRS]
    basis = compare(
        outcome, [("kd@all", "ce"), ("kd@all", "kd_placebo@all"), ("kd@all", "all_labels")],
        "accuracy",
    )  # fmt: skip
    first = (
        f"With distillation through all pairs, unlabelled as they are, accuracy "
        f"{change(basis['kd@all', 'ce'])} against tuned cross-entropy; the difference to its "
        f"placebo teacher is {_gap(basis['kd@all', 'kd_placebo@all'])} and to training on every "
        f"label {_gap(basis['kd@all', 'all_labels'])}."
    )
    tests = compare(outcome, [(f"joint@{n}", f"kd@{n}") for n in names], "accuracy")
    better = [n for n in names if (c := tests[f"joint@{n}", f"kd@{n}"]).significant
              and c.test.mean > 0]  # fmt: skip
    worse = [n for n in names if (c := tests[f"joint@{n}", f"kd@{n}"]).significant
             and c.test.mean < 0]  # fmt: skip
    start = outcome.interval("joint", "accuracy").mean
    # As printed: no verdict on a hundredth of a point.
    reached = [
        n for n in names if round(outcome.interval(f"kd@{n}", "accuracy").mean - start, 1) >= 0
    ]
    worth = f"which distillation alone reaches with {reached[0]} pairs" if reached else (
        "which distillation alone does not reach"
    )  # fmt: skip
    control = compare(outcome, [(f"joint@{n}", f"self@{n}") for n in names], "accuracy")
    over_self = [n for n in names if (c := control[f"joint@{n}", f"self@{n}"]).significant
                 and c.test.mean > 0]  # fmt: skip
    second = (
        f"Joint alignment gets {start:.1f} % without any pair, {worth}; given pairs it is "
        f"significantly ahead of distillation alone {_listed(better)}"
        + (f", behind it {_listed(worse)}" if worse else "")
        + f", and ahead of self-labelling with the same pairs {_listed(over_self)}."
    )
    return first, second


def _listed(names: list[str]) -> str:
    if not names:
        return "at none of the numbers tried"
    return "at " + (names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}")


def _long_tail(outcome: Outcome) -> tuple[str, str]:
    rows = [("joint", "ce"), ("self", "ce"), ("prior", "ce"), ("ucmkd", "ce")]
    balanced = compare(outcome, rows, "balanced_accuracy")
    value = outcome.interval("joint", "balanced_accuracy").mean
    first = (
        f"With joint alignment balanced accuracy {change(balanced['joint', 'ce'])} against tuned "
        f"cross-entropy, to {value:.1f} %; with self-labelling it was "
        f"{signed(balanced['self', 'ce'].test.mean)}, with the class prior alone "
        f"{signed(balanced['prior', 'ce'].test.mean)}, with UCMKD as published "
        f"{signed(balanced['ucmkd', 'ce'].test.mean)}."
    )
    return first, _knowledge(outcome, ("balanced_accuracy",))
