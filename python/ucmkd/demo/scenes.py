"""The three scenes: which rows on which problem, and what is compared with what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ucmkd.demo.experiment import ALL_PAIRS, Row

CE = Row("ce", "CE, tuned", "tuned ce")
PRIOR = Row("prior", "class prior only", "prior_only", tuned=True)
SELF = Row("self", "self-labelling", "self_labelling")
UCMKD = Row("ucmkd", "UCMKD (published)", "ucmkd", tuned=True)
LABEL_AWARE = Row("label_aware", "label-aware", "label_aware", tuned=True)
JOINT = Row("joint", "joint alignment", "joint_alignment")
PLACEBO = Row("placebo", "joint, placebo", "joint_alignment", placebo=True)
ALL_LABELS = Row("all_labels", "every label known", "all labels")

PAIRS = (5, 10, 20, 50, ALL_PAIRS)


def with_pairs(row: Row, count: int, *, method: str | None = None) -> Row:
    """The row with a number of pairs (0: as it is)."""
    if count == 0:
        return row
    name = "all" if count == ALL_PAIRS else str(count)
    return replace(
        row,
        key=f"{row.key}@{name}",
        label=f"{row.label.split()[0]}, {name} pairs",
        pairs=count,
        method=method or row.method,
    )


KD = Row("kd", "KD", "vanilla_kd")
KD_ROWS = tuple(with_pairs(KD, count) for count in PAIRS)
JOINT_ROWS = (JOINT, *(with_pairs(JOINT, count) for count in PAIRS))
SELF_ROWS = (SELF, *(with_pairs(SELF, count, method="self + pairs") for count in PAIRS))
KD_PLACEBO = replace(with_pairs(KD, ALL_PAIRS), key="kd_placebo@all", placebo=True)


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        number: 1, 2 or 3.
        title: Its name.
        problem: Key of the problem.
        rows: What is trained.
        story: What is asked, in a sentence or two.
    """

    number: int
    title: str
    problem: str
    rows: tuple[Row, ...]
    story: str

    @property
    def setting(self) -> str:
        """What regularises the methods, in a sentence."""
        tuned = "the weight decay, dropout and smoothing that validation chose for cross-entropy"
        if all(row.tuned or row.key == "ce" for row in self.rows):
            return f"Every method has {tuned}."
        return (
            "Methods with unlabelled samples or pairs have one fixed setting (weight decay 1, "
            "dropout .5, smoothing .1), the others "
            f"{tuned}."
        )


SCENES = (
    Scene(
        1,
        "No pairs",
        "brca",
        (CE, PRIOR, SELF, UCMKD, LABEL_AWARE, JOINT, PLACEBO),
        "A student with few labels and some unlabelled samples; a teacher that saw other samples "
        "in another modality. What does the teacher add, beyond its class frequencies?",
    ),
    Scene(
        2,
        "Some pairs",
        "brca",
        (CE, *KD_ROWS, *JOINT_ROWS, *SELF_ROWS, KD_PLACEBO, ALL_LABELS),
        "The same, but some of the unlabelled samples were also measured in the teacher's "
        "modality. How many such pairs does the student need?",
    ),
    Scene(
        3,
        "Long-tailed labels, another modality's images",
        "pen",
        # Few inputs and no wide network to tame: here the fixed setting underfits.
        (CE, *(replace(row, tuned=True) for row in (PRIOR, SELF, UCMKD, JOINT, PLACEBO))),
        "Between 50 labels and one per class, and many unlabelled samples; the teacher saw images. "
        "Does it find the rare classes?",
    ),
)
