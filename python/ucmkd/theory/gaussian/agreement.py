"""Compare predicted gains with those of least-squares students on real data sets of several views.

Every ordered pair of views: the teacher is a logistic regression on one half of the samples, its
probabilities on the other half are the answers, and students of few labels from there are fitted
with and without it. Prediction and measurement share these samples: what is tested is whether the
formulas hold for features and classes that are not Gaussian.
``python -m ucmkd.theory.gaussian.agreement [--out docs]`` writes ``gaussian_agreement.csv`` and
``figures/gaussian_agreement.png`` (about a minute).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import inputs
from .prediction import predicted_gain
from .rehearsal import measure_gain

DATA = ("mfeat", "brca")
#: n labels, m unlabelled pairs, whether the labelled samples are pairs, α.
SETTINGS = ((40, 0, True, 0.5), (200, 0, True, 0.5), (100, 100, True, 0.5), (100, 100, False, 1.0))


@dataclass(frozen=True)
class Row:
    """One teacher, student and setting."""

    data: str
    teacher: str
    student: str
    labelled: int
    pairs: int
    labelled_paired: bool
    weight: float
    dims: int
    tails: float
    risk: float
    predicted: float
    predicted_low: float
    predicted_high: float
    measured: float
    measured_low: float
    measured_high: float


def compare(
    name: str, views: dict[str, NDArray[np.float64]], labels: NDArray[np.int64], *, repetitions: int
) -> Iterator[Row]:
    """Rows of every ordered pair of views ``(N, width)`` and setting, as they are known."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = np.random.default_rng(0).permutation(len(labels))
    own, rest = order[: len(order) // 2], order[len(order) // 2 :]
    target = np.eye(int(labels.max()) + 1)[labels[rest]]
    for teacher, seen in views.items():
        fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        answer = fit.fit(seen[own], labels[own]).predict_proba(seen[rest])
        for student, features in views.items():
            if student == teacher:
                continue
            for n, m, paired, weight in SETTINGS:
                options: dict[str, Any] = {
                    "n_labelled": n, "unlabelled_pairs": m, "labelled_paired": paired,
                    "weight": weight,
                }  # fmt: skip
                found = predicted_gain(features[rest], labels[rest], answer, **options)
                reduced = inputs.principal(features[rest], found.dimension, found.dimension)
                real = measure_gain(reduced, target, answer, **options, repetitions=repetitions)
                yield Row(
                    name, teacher, student, n, m, paired, weight, found.dimension,
                    inputs.tail_weight(reduced), found.excess_risk_without, found.value,
                    found.low, found.high, *real,
                )  # fmt: skip


def draw(rows: Sequence[Row], path: Path) -> None:
    """Predicted against measured gains, both over the predicted risk without a teacher."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(SETTINGS), 3.7), dpi=100, layout="constrained")
    axes: Any = figure.subplots(1, len(SETTINGS))
    for axis, setting in zip(axes, SETTINGS, strict=True):
        n, m, paired, weight = setting
        chosen = [r for r in rows if (r.labelled, r.pairs, r.labelled_paired, r.weight) == setting]
        for name, colour in zip(DATA, ("#0072B2", "#D55E00"), strict=True):
            for heavy, marker in ((False, "o"), (True, "x")):
                part = [r for r in chosen if r.data == name and (r.tails > inputs.HEAVY) is heavy]
                if part:
                    axis.plot(
                        [r.predicted / r.risk for r in part], [r.measured / r.risk for r in part],
                        linestyle="", marker=marker, markersize=5, color=colour, alpha=0.8,
                        label=f"{name}, heavy tails" if heavy else name,
                    )  # fmt: skip
        values = [v / r.risk for r in chosen for v in (r.predicted, r.measured)]
        ends = np.array([min(values) - 0.1, max(values) + 0.1])
        axis.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
        axis.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        axis.axvline(0.0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlim(*ends)
        axis.set_ylim(*ends)
        what = f"{n} labelled pairs" if paired else f"{n} labels without a teacher"
        more = f"{m} unlabelled pairs" if m else "no more pairs"
        axis.set_title(f"{what}\n{more}, α = {weight:g}", fontsize=9)
        axis.set_xlabel("predicted relative gain")
    axes[0].set_ylabel("measured relative gain")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """A line per setting and data set: ranks, signs, ratio."""
    from scipy.stats import spearmanr

    for setting in SETTINGS:
        for name in DATA:
            part = [
                r
                for r in rows
                if (r.labelled, r.pairs, r.labelled_paired, r.weight) == setting and r.data == name
            ]
            if len(part) < 3:
                continue
            predicted = np.array([r.predicted for r in part])
            measured = np.array([r.measured for r in part])
            clear = [r for r in part if r.measured_low > 0 or r.measured_high < 0]
            agree = sum((r.predicted > 0) == (r.measured > 0) for r in clear)
            helpful = sum(r.measured > 0 for r in clear)
            yield (
                f"{name}, n={setting[0]}, m={setting[1]}, paired={setting[2]}, α={setting[3]:g}: "
                f"Spearman {spearmanr(predicted, measured)[0]:.2f}, sign right in {agree} of "
                f"{len(clear)} clear gains ({helpful} positive), median measured/predicted "
                f"{np.median(measured / predicted):.2f}"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write, draw; 0 if it worked, 2 if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m ucmkd.theory.gaussian.agreement")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder, default docs")
    parser.add_argument("--repetitions", type=int, default=100, help="splits, default 100")
    words = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        from ucmkd import data

        for name in DATA:
            found: Any = data.load(name)
            views = {
                view: np.asarray(x, dtype=np.float64).reshape(len(x), -1)
                for view, x in found.views.items()
            }
            labels = np.asarray(found.labels, dtype=np.int64)
            for row in compare(name, views, labels, repetitions=words.repetitions):
                rows.append(row)
                print(f"\r{name}: {len(rows)} rows", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        draw(rows, words.out / "figures" / "gaussian_agreement.png")
        with open(words.out / "gaussian_agreement.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            for row in rows:
                writer.writerow(
                    f"{v:.5g}" if isinstance(v, float) else v for v in asdict(row).values()
                )
    except (OSError, ValueError, ImportError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    print("\n".join(summary(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
