"""The table of :mod:`benches.coherence` in Markdown: means over the seeds, differences by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from ucmkd.statistics import paired_difference

HEAD = """# Accelerometer windows put into order, guided by the gyroscope

Made by `python -m benches.coherence`; every run is in `table.csv`. Five windows of 0.2 s from
shoulder exercises felt by a smartwatch, each sensor shuffled by itself; seven people to train on,
three others to test on, chosen by the seed ({seeds}). *τ* is Kendall's, *exact* the share of
stretches whose whole order is right (chance 0 and 0.8 %). *Gain* is in τ over no guidance with as
many rounds, paired by seed, with a 95 % interval that takes the seeds for independent (they share
people). *Alone* is the same student asked without guidance; *gyroscope* is the guide with the
student's guidance. *Learned* guidance finds the windows that belong together by a similarity that
is right for {aligned:.0%} of the test windows, *gold* by time; *permuted* is learned too, but the
guide is of another recording. Without rounds both networks are as they were trained alone, and
guidance comes at the test only.

| rounds | guidance | τ | gain | exact | τ alone | exact alone | τ gyroscope | exact gyroscope |
|---|---|---|---|---|---|---|---|---|
"""
SHOWN = ("tau", "exact", "alone_tau", "alone_exact", "guide_tau", "guide_exact")


def write_table(rows: Sequence[dict[str, str]], path: Path) -> str:
    """Write the file; returns its text."""
    by = {(row["rounds"], row["guidance"], int(row["seed"])): row for row in rows}
    seeds = sorted({seed for _, _, seed in by})
    text = HEAD.format(
        seeds=f"seeds {', '.join(map(str, seeds))}",
        aligned=mean(float(row["aligned"]) for row in rows),
    )
    for rounds, guidance in dict.fromkeys((r, g) for r, g, _ in by):
        some = [by[rounds, guidance, s] for s in seeds if (rounds, guidance, s) in by]
        tau, exact, *others = (mean(float(row[name]) for row in some) for name in SHOWN)
        shown = [f"{v:.3f}" if k % 2 == 0 else f"{v:.1%}" for k, v in enumerate(others)]
        gain = _gain(by, rounds, guidance, seeds)
        cells = (rounds, guidance, f"{tau:.3f}", gain, f"{exact:.1%}", *shown)
        text += f"| {' | '.join(cells)} |\n"
    path.write_text(text, encoding="utf-8")
    return text


def _gain(
    by: dict[tuple[str, str, int], dict[str, str]], rounds: str, guidance: str, seeds: list[int]
) -> str:
    both = [s for s in seeds if (rounds, guidance, s) in by and (rounds, "none", s) in by]
    if guidance == "none" or len(both) < 2:
        return ""
    values = [[float(by[rounds, g, s]["tau"]) for s in both] for g in (guidance, "none")]
    found = paired_difference(*values)
    return f"{found.mean:+.3f} ± {found.half_width:.3f}"
