"""Does the certificate hold, and how loose is it? ``python -m benches.certificate``.

A grid of problems (synthetic and real), methods, teachers and seeds: each run trains a teacher and
a student, computes the certificate on their validation samples and looks at the student's test set
once. One line of ``benches/results/certificate.csv`` per run; lines that are there are not run
again. At the end a picture of the distributions, ``certificate.png``. Twelve minutes on one busy
core.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benches.certificate_problems import PROBLEMS, prepared
from ucmkd.certified import certify, teacher_side
from ucmkd.config import MethodConfig, Recipe, TeacherConfig, TrainingConfig
from ucmkd.distill import make_fabric
from ucmkd.rehearsal import make_method
from ucmkd.taught import taught
from ucmkd.teacher import build_model, build_teacher, freeze, train_teacher
from ucmkd.theory.certificate import Certificate
from ucmkd.trainer import fit

RESULTS = Path(__file__).parent / "results"
METHODS = ("feature_kd", "ucmkd", "joint_alignment", "class_mmd")
SEEDS = 5
#: Steps of the teacher and of the student: short, so that good and bad ones occur.
TEACHER_STEPS, STUDENT_STEPS = 200, 150

KEY = ("problem", "method", "teacher", "seed")
TERMS = (
    "num_classes", "student_samples", "teacher_samples", "student_error", "teacher_error",
    "teacher_entropy", "entropy_constant", "spectral_norm", "wasserstein", "logit_wasserstein",
    "feature_alignment", "logit_alignment", "kernel_alignment", "label_alignment", "bound",
    "logit_bound", "kernel_bound", "teacher_bound", "transfer_error", "class_alignment",
    "class_logit_alignment", "prior_mismatch", "class_bound", "class_logit_bound", "finite_sample",
    "logit_finite_sample", "kernel_finite_sample", "class_finite_sample",
    "class_logit_finite_sample", "holds", "entropy_covered", "informative",
)  # fmt: skip
COLUMNS = (*KEY, *TERMS, "test_error", "seconds")


@dataclass(frozen=True)
class Run:
    """One line of the grid."""

    problem: str
    method: str
    teacher: str
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        return (self.problem, self.method, self.teacher, str(self.seed))


def grid(seeds: int = SEEDS) -> list[Run]:
    """Every problem, method and seed with a trained teacher; two seeds with an untrained one."""
    runs = [
        Run(problem, method, "trained", seed)
        for seed in range(seeds)
        for problem in PROBLEMS
        for method in METHODS
    ]
    control = [Run(p, "feature_kd", "untrained", s) for s in range(min(2, seeds)) for p in PROBLEMS]
    return runs + control


def measure(
    run: Run, teacher_steps: int = TEACHER_STEPS, student_steps: int = STUDENT_STEPS
) -> tuple[Certificate, float]:
    """The certificate of one run, and the student's cross-entropy on its test samples."""
    recipe = Recipe(
        seed=run.seed,
        teacher=TeacherConfig(kind=run.teacher, steps=teacher_steps),  # type: ignore[arg-type]
        method=MethodConfig(run.method),
        training=TrainingConfig(steps=student_steps, diagnose_every=0, eval_every=50),
    )
    recipe = replace(recipe, hardware=replace(recipe.hardware, accelerator="cpu"))
    both, fabric = prepared(run.problem, run.seed), make_fabric(recipe.hardware)
    teacher = build_teacher(recipe.teacher, both.teacher, seed=run.seed)
    train_teacher(teacher, both.teacher, recipe.teacher, seed=run.seed, fabric=fabric)
    teacher.to(dtype=torch.float32)
    freeze(teacher)
    data = taught(both, teacher)
    torch.manual_seed(run.seed)
    student = build_model(recipe.student, data.student, data.num_classes)
    method = make_method(recipe, student, teacher, data)
    fitted = fit(
        method, data, recipe.training, recipe.optimizer, seed=run.seed, fabric=fabric
    )  # fmt: skip
    side = teacher_side(teacher, both.teacher)
    found = certify(fitted.method, fitted.data, side) if not isinstance(side, str) else side
    if isinstance(found, str):
        raise RuntimeError(f"{run}: {found}")
    return found, fitted.test().loss


def line(run: Run, found: Certificate, test_error: float, seconds: float) -> dict[str, Any]:
    """A line of the table."""
    terms = {name: getattr(found, name) for name in TERMS}
    shown = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in terms.items()}
    key = dict(zip(KEY, run.key, strict=True))
    return {**key, **shown, "test_error": f"{test_error:.6g}", "seconds": f"{seconds:.2f}"}


def read(path: Path) -> list[dict[str, str]]:
    """The lines so far; one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("seconds")]


def execute(runs: Sequence[Run], path: Path, **steps: int) -> list[dict[str, str]]:
    """Run what is missing in the table, which is written anew line by line; returns it all."""
    done = read(path)
    known = {tuple(row[name] for name in KEY) for row in done}
    path.parent.mkdir(parents=True, exist_ok=True)
    left = [run for run in runs if run.key not in known]
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(done)
        stream.flush()
        began = time.monotonic()
        for number, run in enumerate(left, start=1):
            start = time.monotonic()
            table.writerow(line(run, *measure(run, **steps), time.monotonic() - start))
            stream.flush()
            rest = (time.monotonic() - began) / number * (len(left) - number)
            text = f"{number}/{len(left)}  {' | '.join(run.key)}  {rest:.0f} s left"
            print(f"\r\033[K{text}" if sys.stdout.isatty() else text, end="", flush=True)
            print(end="" if sys.stdout.isatty() else "\n")
    return read(path)


def main() -> None:
    """Runs the grid, draws it, and says how many bounds held."""
    parser = argparse.ArgumentParser(prog="python -m benches.certificate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    options = parser.parse_args()
    from benches.certificate_figure import draw, report

    torch.set_num_threads(1)
    rows = execute(grid(options.seeds), options.out / "certificate.csv")
    draw(rows, options.out / "certificate.png")
    print(f"\n{report(rows)}")


if __name__ == "__main__":
    main()
