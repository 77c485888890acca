"""The report of a finished run: one HTML file that needs nothing but itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import binomtest

from .batches import TrainingData
from .checkpoint import write_atomically
from .config import Recipe
from .metrics import Metrics
from .recipe_file import recipe_to_yaml
from .report_figures import panels, svg
from .report_page import confusion_table, page, paragraph, section, table
from .runlog import read_log

if TYPE_CHECKING:
    from .distill import RunResult

# How a number of `Metrics` is called and written; one that is not here is written plainly.
HEADS = {
    "accuracy": ("accuracy", "{:.1%}"),
    "balanced_accuracy": ("balanced accuracy", "{:.1%}"),
    "macro_f1": ("macro F1", "{:.1%}"),
    "ece": ("ECE", "{:.1%}"),
    "loss": ("cross-entropy, nats", "{:.3f}"),
}


def write_report(
    recipe: Recipe,
    result: RunResult,
    data: TrainingData,
    teacher: TrainingData | None,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into the run's folder, atomically.

    Args:
        recipe: the settings.
        result: the figures, and the folder with ``log.jsonl``.
        data: what the student was trained on.
        teacher: what the teacher was trained on; None without a teacher.
        notes: sentences about the run.

    Returns:
        The file.
    """
    records = read_log(result.folder / "log.jsonl")
    path = result.folder / "report.html"
    html = report_html(recipe, result, data, teacher, records, notes)
    write_atomically(path, html.encode())
    return path


def report_html(
    recipe: Recipe,
    result: RunResult,
    data: TrainingData,
    teacher: TrainingData | None,
    records: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> str:
    """The report as text; arguments as in :func:`write_report`, ``records`` those of the log."""
    title = f"{recipe.name}: {recipe.method.name}"
    if recipe.method.placebo:
        title += " (placebo)"
    warned = [text for r in records for text in r.get("warning", {}).values()]
    figures = [
        f"<figure>{svg(panel, f'figure-{number}')}<figcaption><b>{escape(panel.title)}</b> "
        f"{escape(panel.caption)}</figcaption></figure>"
        for number, panel in enumerate(panels(records, result.best_step))
    ]
    confusion = result.confusion
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            paragraph(
                f"Weights of step {result.best_step} of {result.steps}, chosen on the validation "
                "samples; the test samples were looked at once."
            ),
            *(paragraph(f"Warning: {text}", "warning") for text in warned),
            section("Results", _scores(result)),
            section("Classes", _classes(result, data)),
            section("Confusion on the test set", confusion_table(confusion, result.class_names))
            if confusion is not None
            else "",
            section(
                "Training", f'<div class="figures">{"".join(figures)}</div>' if figures else ""
            ),
            section("Certificate", *_certificate(result)),
            section("Data", _sizes(recipe, data, teacher)),
            section("Notes", *(paragraph(note) for note in (*_placebo(recipe), *notes))),
            section("Settings", f"<pre>{escape(recipe_to_yaml(recipe))}</pre>"),
            section("Made with", paragraph(_versions())),
        ],
    )


def _scores(result: RunResult) -> str:
    rows = {"student, test": result.test, "student, validation": result.validation}
    if result.teacher is not None:
        rows["teacher, validation (its modality)"] = result.teacher
    names = list(dict.fromkeys(name for m in rows.values() for name in _numbers(m)))
    names.sort(key=lambda name: list(HEADS).index(name) if name in HEADS else len(HEADS))
    shown = [HEADS.get(name, (name.replace("_", " "), "{:.4g}")) for name in names]
    body = []
    for label, metrics in rows.items():
        numbers = _numbers(metrics)
        cells = [
            form.format(numbers[name]) if name in numbers else "–"
            for name, (_, form) in zip(names, shown, strict=True)
        ]
        body.append([label, str(metrics.count), *cells])
    test = result.test
    interval = binomtest(round(test.accuracy * test.count), test.count).proportion_ci(
        method="wilson"
    )
    return table(
        ["", "samples", *(head for head, _ in shown)],
        body,
        f"95 % interval of the test accuracy from the number of test samples alone (Wilson): "
        f"{interval.low:.1%} to {interval.high:.1%}.",
    )


def _certificate(result: RunResult) -> list[str]:
    found = result.certificate
    if found is None:
        return [paragraph(f"None: {result.uncertified}.")] if result.uncertified else []
    rows = [[name, formula, f"{value:.4g}"] for name, formula, value in found.rows()]
    sizes = (
        f"On {found.student_samples} validation samples of the student and "
        f"{found.teacher_samples} of the teacher; compared are {found.space}. "
        f"W1 {found.wasserstein:.4g}, of the logits {found.logit_wasserstein:.4g}; τ = "
        f"{found.lipschitz:.4g} = {found.spectral_norm:.4g} × {found.entropy_constant:.4g}."
    )
    return [
        paragraph(found.summary()),
        table(["term", "formula", "nats"], rows, sizes),
        *(paragraph(f"{text[0].upper()}{text[1:]}.") for text in found.warnings),
    ]


def _numbers(metrics: Metrics) -> dict[str, float]:
    """The single numbers among the metrics, whichever there are."""
    found = metrics.to_dict()
    return {k: v for k, v in found.items() if isinstance(v, int | float) and k != "count"}


def _classes(result: RunResult, data: TrainingData) -> str:
    def counted(label: torch.Tensor | None) -> list[str]:
        if label is None:
            return ["–"] * data.num_classes
        return [str(n) for n in torch.bincount(label, minlength=data.num_classes).tolist()]

    # A class without samples has no recall (nan).
    recall = ["–" if value != value else f"{value:.1%}" for value in result.test.recall]
    labelled = [str(n) for n in data.label_counts.tolist()]
    columns = (result.class_names, labelled, counted(data.test_label), recall)
    rows = [list(row) for row in zip(*columns, strict=True)]
    return table(["class", "labelled", "test", "recall"], rows)


def _sizes(recipe: Recipe, data: TrainingData, teacher: TrainingData | None) -> str:
    def name(side: str) -> str:
        config = getattr(recipe.data, side)
        return config.dataset + (f", {config.view}" if config.view else "")

    def row(label: str, dataset: str, part: TrainingData) -> list[str]:
        shape = " × ".join(map(str, part.student.shape[1:]))
        pools = ("student", "unlabelled", "paired", "validation", "test")
        return [label, dataset, shape, *(str(part.samples(pool) or "–") for pool in pools)]

    rows = [row("student", name("student"), data)]
    if teacher is not None:
        rows.append(row("teacher", name("teacher"), teacher))
    heads = ["", "data set", "input", "labelled", "unlabelled", "pairs", "validation", "test"]
    return table(heads, rows, "Samples; student and teacher share none except the pairs.")


def _placebo(recipe: Recipe) -> list[str]:
    if not recipe.method.placebo:
        return []
    return [
        "A placebo: the teacher's classes were permuted. What this run gains over cross-entropy, "
        "a teacher's knowledge did not give."
    ]


def _versions() -> str:
    import ucmkd

    return (
        f"ucmkd {ucmkd.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
