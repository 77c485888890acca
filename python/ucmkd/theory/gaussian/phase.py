r"""Where the complementarity criterion is right, conservative, silent, or wrong.

The scalar unit-variance case: ρ₁ = corr(x₁, y) of the teacher's input, ρ₂ = corr(x₂, y) of the
student's, ρ₁₂ = corr(x₁, x₂); the teacher answers t = sρ₁x₁. Small weights help iff
:math:`c = s\rho_1(\rho_1 - \rho_2\rho_{12}) < \sigma^2 = 1 - \rho_2^2`; the criterion says so iff
|ρ₁₂| > |ρ₂|, which is proven where Var t = s²ρ₁² ≤ 1 = Var y and silent beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checks

Array = NDArray[np.float64]


class Phase(IntEnum):
    """What the criterion says at a point, against what is true there."""

    IMPOSSIBLE = 0
    """No three variables have these correlations."""
    RIGHT_YES = 1
    """It says that distillation helps, with a proof."""
    RIGHT_NO = 2
    """It does not say so, and distillation harms."""
    CONSERVATIVE = 3
    """It does not say so, yet distillation helps."""
    UNPROVEN = 4
    """It says so where Var t > Var y, so that nothing is proven, and distillation helps."""
    WRONG = 5
    """The same, and distillation harms."""


#: What the picture says to each, and its colour (Okabe and Ito's palette, lightened).
CAPTIONS = {
    Phase.RIGHT_YES: ("criterion yes, distillation helps: right", "#4C9BCB"),
    Phase.RIGHT_NO: ("criterion no, distillation harms: right", "#B8B8B8"),
    Phase.CONSERVATIVE: ("criterion no, yet it helps: conservative", "#F3D36B"),
    Phase.UNPROVEN: ("criterion silent (Var t > Var y), its yes is true", "#A9D8EF"),
    Phase.WRONG: ("criterion silent (Var t > Var y), its yes is false", "#D55E00"),
    Phase.IMPOSSIBLE: ("no such variables", "#FFFFFF"),
}


def phases(
    teacher_label: float, student_label: Array, teacher_student: Array, *, scale: float = 1.0
) -> NDArray[np.int64]:
    """The :class:`Phase` at every point of a slice.

    Args:
        teacher_label: ρ₁ in [-1, 1].
        student_label: ρ₂, an array inside (-1, 1).
        teacher_student: ρ₁₂, an array in [-1, 1] that broadcasts with it.
        scale: s.

    Returns:
        An array of the broadcast shape.
    """
    checks.share("abs(teacher_label)", abs(teacher_label))
    r1, r2, r12 = teacher_label, student_label, teacher_student
    helps = scale * r1 * (r1 - r2 * r12) < 1.0 - r2**2
    # A teacher that says nothing shares no information with anything.
    says = (np.abs(r12) > np.abs(r2)) & (scale * r1 != 0.0)
    proven = (scale * r1) ** 2 <= 1.0
    found = np.where(helps, Phase.CONSERVATIVE, Phase.RIGHT_NO)
    found = np.where(says & helps, Phase.RIGHT_YES if proven else Phase.UNPROVEN, found)
    found = np.where(says & ~helps, Phase.WRONG, found)
    possible = 1.0 - r1**2 - r2**2 - r12**2 + 2.0 * r1 * r2 * r12 >= 0.0
    return np.where(possible, found, Phase.IMPOSSIBLE).astype(np.int64)


def best_gains(
    teacher_label: float,
    student_label: Array,
    teacher_student: Array,
    *,
    samples: int,
    scale: float = 1.0,
) -> Array:
    """The largest gain over the risk without a teacher; nan where there are no such variables.

    ``K(σ²-c)² / (σ²(B + K(σ²-2c+σ_t²)))`` with the optimal weight clipped to [0, 1] and
    K = 1/(n-2). Arguments as for :func:`phases`, n > 2.
    """
    checks.count("samples", samples, 3)
    r1, r2, r12 = teacher_label, student_label, teacher_student
    k, tau = 1.0 / (samples - 2.0), scale * r1
    noise, c, mismatch = 1.0 - r2**2, tau * (r1 - r2 * r12), (tau * r12 - r2) ** 2
    teacher = tau**2 * (1.0 - r12**2)
    below = mismatch + k * (noise - 2.0 * c + teacher)
    alpha = np.clip(k * (noise - c) / np.maximum(below, 1e-12), 0.0, 1.0)
    risk = alpha**2 * mismatch
    risk = risk + k * ((1 - alpha) ** 2 * noise + 2 * alpha * (1 - alpha) * c + alpha**2 * teacher)
    impossible = phases(r1, r2, r12, scale=scale) == Phase.IMPOSSIBLE
    return np.where(impossible, np.nan, 1.0 - risk / (k * noise))


def draw_phases(
    path: Path,
    *,
    teacher_label: Sequence[float] = (0.5, 0.8, 0.95),
    overconfidence: float = 1.5,
    samples: int = 12,
    resolution: int = 401,
) -> None:
    """The phase diagram as a PNG: a column for each ρ₁, a row for a good and a loud teacher.

    Lines are the largest relative gain at n ``samples``. Needs matplotlib.

    Args:
        path: Of the file; its folder is made.
        teacher_label: The values of ρ₁, above 0.
        overconfidence: Standard deviation of the second row's teacher over the label's, above 1.
        samples: n > 2.
        resolution: Points along each axis.
    """
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("draw_phases needs matplotlib: pip install 'ucmkd[train]'") from error
    student = np.linspace(0.0, 0.999, resolution)[None, :]
    shared = np.linspace(-1.0, 1.0, 2 * resolution - 1)[:, None]
    figure = Figure(figsize=(3.6 * len(teacher_label), 8.6), dpi=90, layout="constrained")
    axes: Any = figure.subplots(2, len(teacher_label), sharex=True, sharey=True, squeeze=False)
    colours = ListedColormap([CAPTIONS[phase][1] for phase in Phase])
    seen: set[int] = set()
    for row, name in enumerate(("t = E[y|x₁]", f"Var t = {overconfidence**2:g} Var y")):
        for axis, r1 in zip(axes[row], teacher_label, strict=True):
            scale = 1.0 if row == 0 else overconfidence / r1
            found = phases(r1, student, shared, scale=scale)
            seen.update(np.unique(found).tolist())
            axis.imshow(
                found, cmap=colours, vmin=0, vmax=len(Phase) - 1, origin="lower",
                extent=(0, 1, -1, 1), aspect="auto", interpolation="nearest",
            )  # fmt: skip
            gains = best_gains(r1, student, shared, samples=samples, scale=scale)
            lines = axis.contour(
                student[0], shared[:, 0], gains, levels=(0.05, 0.25, 0.5, 0.75), colors="0.15",
                linewidths=0.7,
            )  # fmt: skip
            axis.clabel(lines, fmt=lambda value: f"{100 * value:.0f} %", fontsize=7)
            axis.set_title(f"ρ₁ = {r1:g}, {name}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("ρ₂ = corr(student's input, label)")
    for axis in axes[:, 0]:
        axis.set_ylabel("ρ₁₂ = corr(teacher's, student's input)")
    patches = [
        Patch(facecolor=colour, edgecolor="0.6", label=label)
        for phase, (label, colour) in CAPTIONS.items()
        if int(phase) in seen
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(
        f"Complementarity criterion against the truth (lines: largest gain, % of the risk, "
        f"n = {samples})",
        fontweight="bold",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
