"""The looseness of the certificate over a grid of runs, as a picture and in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, str]

#: Name, bound, error that it bounds.
BOUNDS = (
    ("plug-in, features", "bound", "student_error"),
    ("plug-in, logits", "logit_bound", "student_error"),
    ("plug-in, kernel", "kernel_bound", "student_error"),
    ("non-circular, features", "class_bound", "transfer_error"),
    ("non-circular, logits", "class_logit_bound", "transfer_error"),
)
COLOURS = ("#1b6ca8", "#5aa9d6", "#8a8d91", "#d1495b", "#edae49")


def ratios(rows: Sequence[Row], bound: str, error: str) -> list[float]:
    """Bound over error, sorted; 1 is tight."""
    return sorted(float(row[bound]) / float(row[error]) for row in rows)


def report(rows: Sequence[Row]) -> str:
    """How many runs, how many bounds held, and the quantiles of the looseness."""
    held = sum(row["holds"] == "True" for row in rows)
    covered = sum(row["entropy_covered"] == "True" for row in rows)
    by_error = sum(float(row["teacher_bound"]) >= float(row["student_error"]) for row in rows)
    informative = sum(row["informative"] == "True" for row in rows)
    fresh = sum(
        float(row["test_error"]) <= float(row["bound"]) + float(row["finite_sample"])
        for row in rows
    )
    lines = [
        f"{len(rows)} runs: every bound holds in {held}; err_T >= E_T[H] in {covered}, the bound "
        f"by err_T holds in {by_error}; non-circular bound below log K in {informative}; error on "
        f"the test set below bound + finite-sample term in {fresh}",
        "bound / error (5 %, median, 95 %):",
    ]
    for name, bound, error in BOUNDS:
        found = ratios(rows, bound, error)
        cuts = statistics.quantiles(found, n=20, method="inclusive")
        lines.append(f"  {name:24} {cuts[0]:8.2f} {cuts[9]:8.2f} {cuts[18]:8.2f}")
    return "\n".join(lines)


def draw(rows: Sequence[Row], where: Path) -> None:
    """Two panels: the distribution of bound / error, and bound against error, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for (name, bound, error), colour in zip(BOUNDS, COLOURS, strict=True):
        found = ratios(rows, bound, error)
        share = [(i + 1) / len(found) for i in range(len(found))]
        left.step(found, share, where="post", color=colour, label=name, linewidth=1.6)
    left.axvline(1, color="#333333", linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlabel="bound / error (1 is tight)", ylabel="share of runs")
    left.set_title(f"Looseness over {len(rows)} runs", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    ends: list[float] = []
    for name, bound, error in (BOUNDS[1], BOUNDS[4]):
        colour = COLOURS[BOUNDS.index((name, bound, error))]
        x = [float(row[error]) for row in rows]
        y = [float(row[bound]) for row in rows]
        ends += x
        right.scatter(x, y, s=12, color=colour, alpha=0.7, label=name, linewidths=0)
    line = [min(ends), max(ends)]
    right.plot(line, line, color="#333333", linewidth=0.8)
    right.set(xscale="log", yscale="log", xlabel="error, nats", ylabel="bound, nats")
    right.set_title("Every point must lie above the line", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(where, dpi=110)
    plt.close(figure)
