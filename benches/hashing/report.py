"""Mean average precision by length of the codes, and by the weight of the modality gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benches.hashing.study import BITS, GAP, GAPS, METHODS, STEPS, Row
from ucmkd.statistics import Interval, holm, paired_difference, t_interval
from ucmkd.study.text import estimate, p_text, signed

WAYS = {"x_to_y": "fac → fou", "y_to_x": "fou → fac"}


@dataclass(frozen=True)
class Scores:
    """Of one method, length and weight: seed to percent, each way."""

    method: str
    bits: int
    gap: float
    values: dict[str, dict[int, float]]

    def interval(self, way: str) -> Interval:
        """Mean and 95 % interval over the seeds."""
        return t_interval(list(self.values[way].values()))


def scores(rows: Sequence[Row], steps: int = STEPS) -> list[Scores]:
    """What has been measured, in the order of the grid; lines of another length are left out."""
    found: dict[tuple[str, int, float], Scores] = {}
    for row in rows:
        if row["steps"] in ("0", str(steps)):
            key = (row["method"], int(row["bits"]), float(row["gap"]))
            own = found.setdefault(key, Scores(*key, {way: {} for way in WAYS}))
            for way in WAYS:
                own.values[way][int(row["seed"])] = float(row[way])
    return [own for own in found.values() if len(own.values["x_to_y"]) >= 2]


def markdown(found: Sequence[Scores], sizes: tuple[int, int]) -> str:
    """``table.md``.

    Args:
        found: All scores.
        sizes: Samples outside the queries, and queries.
    """
    known = {(s.method, s.bits, s.gap): s for s in found}
    header = ["", *(f"{way}, {k}" for way in WAYS.values() for k in BITS)]
    lines = []
    for name, title in METHODS.items():
        gap = GAP if name in ("cmimh", "placebo") else 0.0
        own = [known.get((name, k, gap)) for k in BITS]
        lines.append([title, *(_cell(s, way) for way in WAYS for s in own)])
    parts = [
        "# Retrieval across two views by hash codes\n",
        "Made by `python -m benches.hashing`. UCI multiple features: a profile (fac) finds Fourier "
        "coefficients (fou) of the same digit, and back. Mean average precision in percent, mean ± "
        f"95 % interval over {_seeds(found)} splits into {sizes[0]} pairs, which are also the "
        f"database, and {sizes[1]} queries; codes of 16, 32 and 64 bits (CCA, real-valued: as many "
        "coordinates, cosine). CMIMH: λ = 3, chosen on another split. Labels grade, nothing else; "
        "what is equally near is averaged over its orders.\n",
        _table(header, lines),
        "## CMIMH against the others, 32 bits\n",
        _tests(known, sizes),
        "Differences in points, paired by split, with interval and p of the corrected resampled "
        "t-test (Nadeau and Bengio); p after Holm's adjustment over the table.\n",
        "## The weight of the modality gap, 32 bits\n",
        _gaps(known),
    ]
    return "\n".join(parts)


def _seeds(found: Sequence[Scores]) -> int:
    return min(len(s.values["x_to_y"]) for s in found)


def _cell(own: Scores | None, way: str) -> str:
    if own is None:
        return "–"
    interval = own.interval(way)
    return estimate(interval.mean, interval.half_width)


def _tests(known: dict[tuple[str, int, float], Scores], sizes: tuple[int, int]) -> str:
    tests = []
    ours = known[("cmimh", 32, GAP)]
    for name, title in METHODS.items():
        other = known.get((name, 32, GAP if name == "placebo" else 0.0))
        if name == "cmimh" or other is None:
            continue
        for way, label in WAYS.items():
            seeds = sorted(ours.values[way].keys() & other.values[way].keys())
            test = paired_difference(
                [ours.values[way][s] for s in seeds], [other.values[way][s] for s in seeds],
                train_size=sizes[0], test_size=sizes[1],
            )  # fmt: skip
            tests.append((f"{title}, {label}", test))
    adjusted = holm([test.p_value for _, test in tests])
    lines = [
        [label, f"{signed(t.mean)} ± {t.half_width:.1f}", p_text(float(p)), f"{t.wins} of {t.n}"]
        for (label, t), p in zip(tests, adjusted, strict=True)
    ]
    return _table(["minus", "difference", "p", "ahead"], lines)


def _gaps(known: dict[tuple[str, int, float], Scores]) -> str:
    lines = [
        [f"{gap:g}", *(_cell(known.get(("cmimh", 32, gap)), way) for way in WAYS)]
        for gap in sorted({GAP, *GAPS})
    ]
    return _table(["λ", *WAYS.values()], lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


COLOURS = dict(
    zip(METHODS, ("#b0b3b8", "#edae49", "#5aa9d6", "#d1495b", "#1b6ca8", "#333333"), strict=True)
)


def draw(found: Sequence[Scores], path: Path) -> None:
    """Precision by bits for every method, and by λ at 32 bits; the mean of both ways."""
    from matplotlib.figure import Figure

    def mean(own: Scores) -> float:
        return (own.interval("x_to_y").mean + own.interval("y_to_x").mean) / 2

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, title in METHODS.items():
        gap = GAP if name in ("cmimh", "placebo") else 0.0
        points = sorted(
            (own.bits, mean(own)) for own in found if (own.method, own.gap) == (name, gap)
        )
        left.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=title, markersize=4)
    left.set_xscale("log", base=2)
    left.set_xticks(BITS, [str(k) for k in BITS])
    left.set(xlabel="bits", ylabel="mean average precision, %")
    left.legend(frameon=False, fontsize=7)
    points = sorted((own.gap, mean(own)) for own in found
                    if own.method == "cmimh" and own.bits == 32)  # fmt: skip
    right.plot(range(len(points)), [y for _, y in points], "o-", color=COLOURS["cmimh"])
    right.set_xticks(range(len(points)), [f"{gap:g}" for gap, _ in points])
    right.set(xlabel="weight λ of the modality gap")
    for panel in (left, right):
        panel.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
