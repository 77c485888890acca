"""Which of DisCoM-KD's three features tell the modality, in training and to a probe afterwards.

``python -m benches.disentanglement [--out study/discom_kd] [--seeds 5]`` trains the method of both
scenarios of the study ``discom_kd`` at the paper's weights, with its gradient reversal and without,
and writes ``modality.csv`` (balanced accuracy of the three discriminators on each tenth batch),
``probes.csv`` (of a logistic regression fitted afterwards, on samples that neither has seen) and
``figures/modality.png`` (about two minutes on one core).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ucmkd.config import Recipe
from ucmkd.methods.discom_kd import DisCoMKD
from ucmkd.preparation import Prepared, prepare
from ucmkd.rehearsal import make_method
from ucmkd.statistics import t_interval
from ucmkd.study.reader import find_study, load_study
from ucmkd.study.resolve import resolve
from ucmkd.taught import untaught
from ucmkd.teacher import build_model
from ucmkd.trainer import fit

PARTS = ("invariant", "informative", "irrelevant")
COLOURS = dict(zip(PARTS, ("#0072B2", "#E69F00", "#D55E00"), strict=True))
STRENGTHS = (1.0, 0.0)
EVERY = 10
Line = dict[str, Any]


def recipes(strength: float) -> dict[str, Recipe]:
    """Of each scenario, the paper's weights and this λ of the reversal."""
    study = load_study(find_study("discom_kd"))
    found = {}
    for scenario in study.scenarios:
        recipe = resolve(study, scenario, "discom_kd", 0, None).recipe
        options = {**recipe.method.options, "reversal": strength}
        found[scenario] = replace(
            recipe,
            method=replace(recipe.method, options=options),
            training=replace(recipe.training, log_every=EVERY, diagnose_every=EVERY),
        )
    return found


def train(recipe: Recipe, seed: int) -> tuple[list[Line], dict[str, float]]:
    """Accuracies over the training by step, and of the probes after it."""
    prepared = prepare(recipe.data, seed)
    data = untaught(prepared, inputs=True)
    torch.manual_seed(seed)
    student = build_model(recipe.student, data.student, data.num_classes)
    method = make_method(recipe, student, None, data)
    assert isinstance(method, DisCoMKD)
    # Without validation samples the last step is kept: the end of the curves.
    data = replace(data, validation=None, validation_label=None)
    fabric = Fabric(accelerator="cpu", devices=1)
    history = fit(method, data, recipe.training, recipe.optimizer, seed=seed, fabric=fabric).history
    lines = [
        {"step": record["step"], **{p: record["diagnostics"][f"modality/{p}"] for p in PARTS}}
        for record in history
        if "diagnostics" in record
    ]
    return lines, probes(method, prepared)


@torch.no_grad()
def probes(method: DisCoMKD, prepared: Prepared) -> dict[str, float]:
    """Balanced accuracy of telling the modality of samples that nobody has seen, by part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    own, other = prepared.student, prepared.teacher
    assert isinstance(own.unlabelled, Tensor) and isinstance(own.student, Tensor)
    seen = torch.cat((own.student, own.unlabelled)), other.student
    unseen = own.test, other.validation
    sets = [
        (method.own.parts(x), method.other.parts(z))
        for x, z in (seen, unseen)  # type: ignore[arg-type]
    ]
    found = {}
    for part in PARTS:
        pairs = [[getattr(side, part).double().numpy() for side in both] for both in sets]
        inputs = [np.concatenate(pair) for pair in pairs]
        truth = [np.repeat([0, 1], [len(side) for side in pair]) for pair in pairs]
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500)
        ).fit(inputs[0], truth[0])
        found[part] = float(balanced_accuracy_score(truth[1], probe.predict(inputs[1])))
    return found


def draw(lines: Sequence[Line], path: Path) -> None:
    """Curves of both scenarios, with the reversal above and without it below."""
    from matplotlib.figure import Figure

    scenarios = list(dict.fromkeys(line["scenario"] for line in lines))
    figure = Figure(figsize=(5.0 * len(scenarios), 6.0), dpi=90, layout="constrained")
    axes: Any = figure.subplots(2, len(scenarios), sharex="col", sharey=True, squeeze=False)
    for row, strength in enumerate(STRENGTHS):
        for axis, scenario in zip(axes[row], scenarios, strict=True):
            some = [
                line
                for line in lines
                if (line["scenario"], line["reversal"]) == (scenario, strength)
            ]
            steps = [line["step"] for line in some]
            for part in PARTS:
                mean = np.array([line[part] for line in some])
                reach = np.array([line[f"{part}_half_width"] for line in some])
                axis.plot(steps, mean, color=COLOURS[part], label=part)
                axis.fill_between(
                    steps, mean - reach, mean + reach, color=COLOURS[part], alpha=0.2, linewidth=0
                )
            axis.axhline(0.5, color="0.5", linestyle=":", linewidth=1)
            axis.set(ylim=(0.3, 1.02), title=f"{scenario}, reversal λ = {strength:g}")
        axes[row][0].set_ylabel("modality told (balanced accuracy)")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    axes[1][0].legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")


def write(lines: Sequence[Line], path: Path) -> None:
    """A CSV of lines with the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        for line in lines:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write, draw; 0 if it worked, 2 if it could not be."""
    parser = argparse.ArgumentParser(prog="python -m benches.disentanglement", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("study/discom_kd"), help="folder")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each, default 5")
    words = parser.parse_args(arguments)
    if words.seeds < 2:
        print(f"error: --seeds must be at least 2, got {words.seeds}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    curves: list[Line] = []
    told: list[Line] = []
    for strength in STRENGTHS:
        for scenario, recipe in recipes(strength).items():
            runs = [train(recipe, 100 + seed) for seed in range(words.seeds)]
            print(f"{scenario}, λ = {strength:g}", file=sys.stderr, flush=True)
            place: Line = {"scenario": scenario, "reversal": strength, "seeds": words.seeds}
            for records in zip(*(run[0] for run in runs), strict=True):
                curves.append({**place, "step": records[0]["step"], **_means(records)})
            told.append({**place, **_means([run[1] for run in runs])})
    write(curves, words.out / "modality.csv")
    write(told, words.out / "probes.csv")
    draw(curves, words.out / "figures" / "modality.png")
    for line in told:
        parts = ", ".join(f"{p} {line[p]:.3f} ± {line[f'{p}_half_width']:.3f}" for p in PARTS)
        print(f"probe, {line['scenario']}, λ = {line['reversal']:g}: {parts}")
    return 0


def _means(records: Sequence[Line]) -> Line:
    found: Line = {}
    for part in PARTS:
        interval = t_interval([record[part] for record in records])
        found |= {part: interval.mean, f"{part}_half_width": interval.half_width}
    return found


if __name__ == "__main__":
    raise SystemExit(main())
