"""Speculative against supervised and on-policy distillation: ``python -m benches.language``.

Small character-level transformers on the English text that ships with Python. A teacher and a
student are trained on the text; copies of the student then go on with the same number of tokens,
each on tokens of another origin. One line of ``benches/results/language/table.csv`` per run, as it
comes: lines that are there are not run again, and a run that was stopped goes on from its
checkpoint in ``--work``. ``table.md`` is written from them at the end. Five minutes of one core.
"""

from __future__ import annotations

import argparse
import copy
import csv
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benches.language_table import write_table
from ucmkd.language import (
    CharacterText,
    LanguageTraining,
    OnPolicy,
    Reference,
    Sampling,
    SmallTransformer,
    Source,
    Speculative,
    character_text,
    distil_language,
    perplexity,
    random_windows,
    response_cross_entropy,
    response_divergence,
    sample,
)  # fmt: skip

RESULTS = Path(__file__).parent / "results" / "language"
SEEDS = (1, 2, 3, 4, 5, 6)
FIELDS = (
    "method", "seed", "perplexity", "own_divergence", "own_surprise", "tokens", "own",
    "student_passes", "teacher_passes", "seconds", "python",
)  # fmt: skip
FULL = Sampling(temperature=1.0, top_p=1.0)


@dataclass(frozen=True)
class Sizes:
    """Of models, windows and trainings; the tests take smaller ones."""

    teacher_width: int = 64
    teacher_layers: int = 2
    student_width: int = 32
    context: int = 64
    teacher_steps: int = 500
    start_steps: int = 100
    steps: int = 120
    batch: int = 16
    prompt: int = 16
    response: int = 16


#: Origin of the tokens; "cross-entropy" is that cross-entropy on the text. The released sampling is
#: sharp (temperature .5 and .2, top-p .5), the other draws from the models as they are.
METHODS: dict[str, Source] = {
    "cross-entropy": Reference(),
    "supervised": Reference(),
    "on-policy": OnPolicy(sampling=FULL),
    "speculative, K = 5": Speculative(top_k=5, student_sampling=FULL, teacher_sampling=FULL),
    "speculative, K = 1": Speculative(top_k=1, student_sampling=FULL, teacher_sampling=FULL),
    "on-policy, released sampling": OnPolicy(),
    "speculative, K = 25, released sampling": Speculative(),
}
#: Without a distillation: the student that all others start from, and the teacher.
ENDS = ("start", "teacher")


@dataclass(frozen=True)
class Models:
    """Teacher and first student of a seed."""

    text: CharacterText
    teacher: nn.Module
    start: nn.Module


def prepare(text: CharacterText, seed: int, sizes: Sizes, work: Path) -> Models:
    """Train both on the text, or take them from their checkpoints."""
    made = []
    for name, width, layers, steps, lr in (
        ("teacher", sizes.teacher_width, sizes.teacher_layers, sizes.teacher_steps, 4e-3),
        ("start", sizes.student_width, 1, sizes.start_steps, 1e-2),
    ):
        torch.manual_seed(1000 * seed + layers)
        model = SmallTransformer(
            len(text.symbols), width=width, layers=layers, heads=width // 16, context=sizes.context
        )
        batches = random_windows(
            text.train, prompt=1, response=sizes.context - 1, batch=32, seed=10 * seed + layers
        )
        training = LanguageTraining(steps=steps, lr=lr, seed=seed, save_every=100)
        folder = work / f"{name}-{seed}"
        distil_language(model, None, batches, Reference(), training, folder=folder)
        made.append(model)
    return Models(text, *made)


def measure(method: str, seed: int, models: Models, sizes: Sizes, work: Path) -> dict[str, object]:
    """One line of the table."""
    text, student = models.text, copy.deepcopy(models.start)
    line: dict[str, object] = {"method": method, "seed": seed}
    began = time.process_time()
    if method in METHODS:
        batches = random_windows(
            text.train, prompt=sizes.prompt, response=sizes.response, batch=sizes.batch, seed=seed
        )
        steps = distil_language(
            student, None if method == "cross-entropy" else models.teacher, batches,
            METHODS[method], LanguageTraining(steps=sizes.steps, lr=5e-3, seed=seed, save_every=50),
            folder=work / f"{method}-{seed}".replace(" ", "_"),
        )  # fmt: skip
        line |= {
            "tokens": steps[-1].tokens,
            "own": round(sum(step.own for step in steps) / len(steps), 4),
            "student_passes": round(sum(s.student_passes for s in steps) / len(steps), 2),
            "teacher_passes": round(sum(s.teacher_passes for s in steps) / len(steps), 2),
        }
    line["seconds"] = round(time.process_time() - began, 2)
    model = models.teacher if method == "teacher" else student
    divergence, surprise = own_text(model, models, sizes)
    return line | {
        "perplexity": round(perplexity(model, text.test, context=sizes.context), 4),
        "own_divergence": round(divergence, 4),
        "own_surprise": round(surprise, 4),
        "python": platform.python_version(),
    }


@torch.no_grad()
def own_text(model: nn.Module, models: Models, sizes: Sizes) -> tuple[float, float]:
    """On what a model writes after prompts of the test part: KL(teacher ‖ model), and the teacher's
    nats per character."""
    batch = random_windows(
        models.text.test, prompt=sizes.prompt, response=sizes.response, batch=256, seed=99
    )(0)
    written = sample(
        model, batch.tokens[:, : sizes.prompt], length=sizes.response, sampling=FULL,
        generator=torch.Generator().manual_seed(99),
    )  # fmt: skip
    answer = models.teacher(written.tokens)
    divergence = response_divergence(model(written.tokens), answer, written.response)
    return float(divergence), float(
        response_cross_entropy(answer, written.tokens, written.response)
    )


def read(path: Path) -> list[dict[str, str]]:
    """The lines so far; one that a kill cut short is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("python")]


def execute(
    seeds: Sequence[int], out: Path, work: Path, sizes: Sizes, text: CharacterText | None = None
) -> list[dict[str, str]]:
    """Run what is missing; returns all lines."""
    path = out / "table.csv"
    known = read(path)
    done = {(row["method"], int(row["seed"])) for row in known}
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(known)
        stream.flush()
        for seed in seeds:
            left = [m for m in (*ENDS, *METHODS) if (m, seed) not in done]
            if not left:
                continue
            text = character_text() if text is None else text
            models = prepare(text, seed, sizes, work)
            for method in left:
                print(f"seed {seed}: {method}", flush=True)
                table.writerow(measure(method, seed, models, sizes, work))
                stream.flush()
    order = {method: place for place, method in enumerate((*ENDS, *METHODS))}
    return sorted(read(path), key=lambda row: (int(row["seed"]), order[row["method"]]))


def main(words: Sequence[str] | None = None) -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(prog="python -m benches.language", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of table.csv, table.md")
    parser.add_argument("--work", type=Path, default=Path("runs/language"), help="checkpoints")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rows = execute(options.seeds, options.out, options.work, Sizes())
    print(write_table(rows, options.out / "table.md"))


if __name__ == "__main__":
    main()
