"""Teachers that know nothing: what a method must beat before its teacher is given the credit."""

from __future__ import annotations

from typing import Literal, get_args

Control = Literal["placebo", "untrained", "noise"]
CONTROLS: tuple[Control, ...] = get_args(Control)

MEANING: dict[str, str] = {
    "placebo": "the teacher's classes are permuted (class frequencies kept)",
    "untrained": "the teacher has its random initial weights",
    "noise": "features of the teacher are standard normal noise, under a random head",
}
