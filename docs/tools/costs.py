"""``python -m docs.tools.costs``: what a step of each method costs, in steps of cross-entropy.

CPU time of one thread, the medians of interleaved rounds, on random data of the default sizes: a
perceptron 50 - 128 - 64 - 10, 64 labelled samples, 64 unlabelled, 96 of the teacher, 32 pairs.
Written to ``docs/method_costs.csv``, or to ``--out``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from docs.tools.blocks import ROOT
from torch import Tensor

from ucmkd.methods import METHODS, Batch, Method, create
from ucmkd.models import MLP

CLASSES, WIDTH, INPUTS = 10, 64, 50
ROUNDS, STEPS = 15, 10
TABLE = ROOT / "docs" / "method_costs.csv"


def batch() -> Batch:
    """Every field filled."""
    label, teacher = torch.arange(64) % CLASSES, torch.arange(96) % CLASSES

    def logits(label: Tensor) -> Tensor:
        return 4 * torch.nn.functional.one_hot(label, CLASSES) + torch.randn(len(label), CLASSES)

    return Batch(
        student=torch.randn(64, INPUTS),
        student_label=label,
        teacher_input=torch.randn(64, INPUTS),
        teacher_feature=torch.randn(64, WIDTH),
        teacher_logits=logits(label),
        teacher_label=label,
        unlabelled=torch.randn(64, INPUTS),
        unlabelled_teacher_feature=torch.randn(96, WIDTH),
        unlabelled_teacher_logits=logits(teacher),
        unlabelled_teacher_label=teacher,
        paired=torch.randn(32, INPUTS),
        paired_teacher_feature=torch.randn(32, WIDTH),
        paired_teacher_logits=logits(label[:32]),
        paired_label=label[:32],
    )


def teacher_of(method: type[Method]) -> dict[str, Any]:
    """The teacher as a method asks for it: its head, all of it with its inputs, or its stages."""
    whole = MLP(WIDTH, num_classes=CLASSES, width=WIDTH)
    if method.teacher_inputs:
        half = {"first": INPUTS // 2, "second": INPUTS - INPUTS // 2}
        own = {"first": WIDTH // 2, "second": WIDTH - WIDTH // 2}
        return {"teacher_head": whole, "modalities": half, "teacher_modalities": own}
    if method.needs_stages:
        return {"teacher_stages": ((WIDTH // 2,), (WIDTH // 2,))}
    return {"teacher_head": torch.nn.Linear(WIDTH, CLASSES)}


def made(name: str) -> tuple[Method, torch.optim.Optimizer]:
    """A method with its optimiser."""
    peer = MLP(INPUTS, num_classes=CLASSES, width=WIDTH) if METHODS[name].needs_peer else None
    method = create(
        name,
        MLP(INPUTS, num_classes=CLASSES, width=WIDTH),
        num_classes=CLASSES,
        teacher_width=WIDTH,
        class_prior=torch.full((CLASSES,), 1 / CLASSES),
        label_counts=torch.full((CLASSES,), 5),
        peer=peer,
        **teacher_of(METHODS[name]),
    )
    return method, torch.optim.AdamW(method.trainable(), fused=True)


def seconds(method: Method, optimizer: torch.optim.Optimizer, given: Batch) -> float:
    """CPU time of one step, after every ramp."""
    start = time.process_time()
    for _ in range(STEPS):
        optimizer.zero_grad()
        method.backward(given, 1000)
        optimizer.step()
    return (time.process_time() - start) / STEPS


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.tools.costs", description="Measure what a step of each method costs."
    )
    parser.add_argument(
        "--out", type=Path, default=TABLE, help="the table to write (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    given = parser.parse_args(words)
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {given.rounds}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    given = batch()
    ready = {name: made(name) for name in METHODS}
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(given.rounds + 1):
        for name, (method, optimizer) in ready.items():
            spent = seconds(method, optimizer, given)
            if turn:  # the first warms up
                taken[name].append(spent)
    unit = statistics.median(taken["ce"])
    with given.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["method", "milliseconds", "times_ce"])
        for name, times in taken.items():
            middle = statistics.median(times)
            table.writerow([name, f"{1e3 * middle:.3f}", f"{middle / unit:.1f}"])
            print(f"{name:28} {1e3 * middle:8.2f} ms {middle / unit:6.1f}")


if __name__ == "__main__":
    main()
