"""How the time grows with the points and with their width: ``python -m benches.growth``.

One Sinkhorn solve to the residual 1e-3 and one MMD with five scales, forward + backward, with n
from 64 to 16,384 at d = 128 and with d from 8 to 1024 at n = 1024; beside them the quickest peers
as far as one call stays below a few seconds. Written as a picture and a JSON file to
``benches/results/growth.{png,json}``. What is not measured when the time is up is left out and
named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
POINTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
FIXED_POINTS, FIXED_WIDTH = 1024, 128
#: A peer whose call took longer than this is not asked for a larger problem.
PATIENCE = 2.0
#: Seconds of samples at each place, and most samples.
SHARE, MOST = 0.5, 15

Call = Callable[[], object]


class _Problem:
    """Clouds and ε without a float64 solution: only the time is wanted here."""

    def __init__(self, n: int, d: int) -> None:
        import numpy as np

        from benches.problems import EPSILON, features

        self.n = n
        self.x, self.y = features(n, width=d)
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        between = x.mean(0) - y.mean(0)
        mean = x.var(0).sum() + y.var(0).sum() + between @ between
        self.epsilon = float(EPSILON * mean)
        self.sigma = float(mean**0.5)
        self.kernel, self.scales = "gaussian", (0.25, 0.5, 1.0, 2.0, 4.0)
        self.converged = self.solution = None


def _sinkhorn_ours(problem: Any) -> Call:
    from benches.contestants import ours
    from benches.contestants.common import LONGEST
    from benches.problems import RESIDUAL

    return ours.solver(problem, tol=RESIDUAL, max_iter=LONGEST)


def _sinkhorn_ott(problem: Any) -> Call:
    from benches.contestants import ott_jax

    choice = ott_jax.calibrate(256, True)
    return ott_jax.runner(problem, ott_jax.solver(choice, True))


def _sinkhorn_torch(problem: Any) -> Call:
    from benches.contestants import by_hand
    from benches.contestants.common import LONGEST

    return by_hand.solver(problem, True, LONGEST, stop=True)


def _mmd(which: int) -> Callable[[Any], Call]:
    def build(problem: Any) -> Call:
        from benches.contestants import mmd

        return mmd.CONTESTANTS[which].build(problem).run

    return build


#: In the order in which they are measured: what matters most comes before the time is up.
CURVES: dict[tuple[str, str], Callable[[Any], Call]] = {
    ("Sinkhorn to the residual 1e-3", "ucmkd"): _sinkhorn_ours,
    ("MMD, five scales", "ucmkd"): _mmd(0),
    ("Sinkhorn to the residual 1e-3", "OTT-JAX"): _sinkhorn_ott,
    ("MMD, five scales", "torch.compile"): _mmd(2),
    ("Sinkhorn to the residual 1e-3", "torch.compile"): _sinkhorn_torch,
}


def _seconds(call: Call, patience: float) -> float:
    """The median of a few calls; of one if it is slow."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    if first > patience:
        return first
    samples = []
    began = time.perf_counter()
    while len(samples) < 3 or (len(samples) < MOST and time.perf_counter() - began < SHARE):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return sorted(samples)[len(samples) // 2]


def measure(limit: float, largest: int) -> tuple[list[dict[str, Any]], list[str]]:
    """All curves, each from the small to the large problems; and where one was left."""
    end = time.monotonic() + limit
    axes = {
        "n": [(n, n, FIXED_WIDTH) for n in POINTS if n <= largest],
        "d": [(d, min(FIXED_POINTS, largest), d) for d in WIDTHS],
    }
    curves: list[dict[str, Any]] = []
    left: list[str] = []
    for (operator, name), build in CURVES.items():
        if time.monotonic() < end:
            build(_Problem(64, 8))()  # imports, thread pools
        for axis, places in axes.items():
            curve: dict[str, Any] = {"operator": operator, "axis": axis, "name": name}
            curve |= {"sizes": [], "seconds": []}
            curves.append(curve)
            for size, n, d in places:
                where = f"{operator}, {name}, from n = {n}, d = {d} on"
                if time.monotonic() > end:
                    left.append(f"{where}: the time is up")
                    break
                try:
                    seconds = _seconds(build(_Problem(n, d)), PATIENCE)
                except Exception as error:  # a peer's failure is a result
                    left.append(f"{where}: {type(error).__name__}")
                    break
                curve["sizes"].append(size)
                curve["seconds"].append(seconds)
                # The next place of the first axis costs four times as much.
                if name != "ucmkd" and 4 * seconds > PATIENCE:
                    left.append(f"{where}: larger ones take more than {PATIENCE:g} s")
                    break
    return curves, left


def draw(data: dict[str, Any], where: Path) -> None:
    """The picture: one panel for each operator and axis, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    operators = list(dict.fromkeys(operator for operator, _ in CURVES))
    figure, panels = plt.subplots(
        len(operators), 2, figsize=(9, 3.4 * len(operators)), squeeze=False, sharey="row"
    )
    labels = {
        "n": f"points on each side, n = m (d = {FIXED_WIDTH})",
        "d": f"width d (n = m = {data['fixed_points']})",
    }
    styles = {
        "ucmkd": ("#1b6ca8", "o"),
        "OTT-JAX": ("#d1495b", "s"),
        "torch.compile": ("#8a8d91", "^"),
    }
    for row, operator in zip(panels, operators, strict=True):
        for panel, axis in zip(row, ("n", "d"), strict=True):
            for curve in data["curves"]:
                if (curve["operator"], curve["axis"]) != (operator, axis) or not curve["sizes"]:
                    continue
                colour, marker = styles[curve["name"]]
                milliseconds = [1e3 * t for t in curve["seconds"]]
                panel.plot(
                    curve["sizes"], milliseconds, color=colour, marker=marker, markersize=4,
                    label=curve["name"],
                )  # fmt: skip
            panel.set(xscale="log", yscale="log", xlabel=labels[axis])
            panel.set_xscale("log", base=2)
            panel.grid(alpha=0.25)
            panel.set_title(operator, fontsize=10)
        row[0].set_ylabel("forward + backward, ms")
        row[0].legend(frameon=False, fontsize=8)
    processor = data["hardware"]["processor"]
    figure.suptitle(f"{processor}, threads: {data['threads']}, float32", fontsize=9)
    figure.tight_layout()
    figure.savefig(where, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measures, then writes the picture and the numbers."""
    parser = argparse.ArgumentParser(prog="python -m benches.growth", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", type=int, default=POINTS[-1], help="most points")
    parser.add_argument("--seconds", type=float, default=360.0, help="begin nothing after this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only draw a saved run again")
    options = parser.parse_args()
    if options.draw:
        draw(json.loads(options.draw.read_text()), options.draw.with_suffix(".png"))
        return
    from benches.conftest import pin

    pin(options.threads)
    from benches import report

    load = os.getloadavg()
    curves, left = measure(options.seconds, options.largest)
    data = report.document([], options.threads, load)
    data["fixed_points"] = min(FIXED_POINTS, options.largest)
    data |= {"curves": curves, "left_out": left}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "growth.json"
    file.write_text(json.dumps(data, indent=1) + "\n")
    draw(data, file.with_suffix(".png"))
    sys.stdout.write("".join(f"left out: {line}\n" for line in left))
    for curve in curves:
        times = ", ".join(
            f"{size}: {1e3 * t:.3g}"
            for size, t in zip(curve["sizes"], curve["seconds"], strict=True)
        )
        sys.stdout.write(f"{curve['operator']}, {curve['name']}, ms by {curve['axis']}: {times}\n")
    sys.stdout.write(f"written: {file} and {file.with_suffix('.png')}\n")


if __name__ == "__main__":
    main()
