"""``ucmkd distill RECIPE --watch``: the training as it goes, in the terminal.

On a terminal a live view with a small curve per quantity; elsewhere one plain line per record of
the log.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .config import Recipe

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"


def sparkline(values: Sequence[float], width: int = 32, blocks: str = BLOCKS) -> str:
    """A curve in one line of text: the lowest value is the first block, the highest the last.

    Args:
        values: of one quantity, in order; what is not finite leaves a gap.
        width: most characters; more values are averaged in ``width`` equal stretches.
        blocks: characters from low to high.
    """
    n = len(values)
    if n > width:
        cuts = [i * n // width for i in range(width + 1)]
        parts = [[v for v in values[a:b] if math.isfinite(v)] for a, b in itertools.pairwise(cuts)]
        values = [sum(part) / len(part) if part else math.nan for part in parts]
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return " " * len(values)
    low, span = min(finite), max(finite) - min(finite)
    top = len(blocks) - 1
    # A constant is a line in the middle.
    return "".join(
        " " if not math.isfinite(v) else blocks[round(top * (v - low) / span) if span else top // 2]
        for v in values
    )


def total_steps(recipe: Recipe, record: dict[str, Any]) -> int:
    """The length of the training; in epochs it shows from the first record on."""
    epochs = recipe.training.epochs
    return round(epochs * record["step"] / record["epoch"]) if epochs else recipe.training.steps


def watched(found: dict[str, float]) -> dict[str, float]:
    """The diagnoses that are worth a line here: of the certificate the bound, not its terms."""
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("certificate") or name == "certificate/bound"
    }


def plain_line(record: dict[str, Any], total: int) -> str:
    """A record of the log in one line of text."""
    parts = [f"step {record['step']}/{total}"]
    parts += [f"{name} {value:.4g}" for name, value in record["loss"].items()]
    if "validation" in record:
        found = record["validation"]
        parts.append(
            f"validation {found['accuracy']:.1%} (balanced {found['balanced_accuracy']:.1%})"
        )
    parts += [
        f"{name} {value:.3g}" for name, value in watched(record.get("diagnostics", {})).items()
    ]
    return "  ".join(parts)


class Watch:
    """Shows the records of a training; a context manager and a callback of :func:`distill`.

    Args:
        recipe: for the title and the number of steps.
        console: where to; live only if it is a terminal.
        earlier: records of the log that a resumed run continues.
    """

    def __init__(
        self, recipe: Recipe, console: Console, earlier: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.recipe, self.console, self._earlier = recipe, console, list(earlier)
        self._lock = threading.Lock()  # the view is drawn by a thread of its own
        self.total = recipe.training.steps
        self.last: dict[str, Any] | None = None
        self.curves: dict[str, dict[str, list[float]]] = {}
        self.warnings: list[str] = []
        self.best: tuple[float, int, float, float] | None = None
        self._live = Live(
            console=console, get_renderable=self.view, refresh_per_second=4, redirect_stderr=False
        )

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._live.is_started:
            self._live.refresh()
            self._live.stop()

    def say(self, message: str) -> None:
        """A sentence about a stage, above the view."""
        self.console.print(message, style="dim", markup=False, highlight=False)

    def __call__(self, record: dict[str, Any]) -> None:
        """Take in one record of the log."""
        with self._lock:
            self.total = total_steps(self.recipe, record)
            for before in self._earlier:  # up to the checkpoint; the rest comes again
                if before["step"] < record["step"]:
                    self._take(before)
            self._earlier = []
            self._take(record)
        if not self.console.is_terminal:
            said = [f"warning: {text}" for text in record.get("warning", {}).values()]
            for line in (plain_line(record, self.total), *said):
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _take(self, record: dict[str, Any]) -> None:
        for group in ("loss", "weighted", "diagnostics"):
            self._append(group, watched(record.get(group, {})))
        if "validation" in record:
            found = record["validation"]
            scores = {name: found[name] for name in ("accuracy", "balanced_accuracy")}
            self._append("validation", scores)
            score = sum(scores.values())
            if self.best is None or score > self.best[0]:
                self.best = (score, record["step"], *scores.values())
        self.warnings += record.get("warning", {}).values()
        self.last = record

    def _append(self, group: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.curves.setdefault(group, {}).setdefault(name, []).append(value)

    def view(self) -> RenderableType:
        """The whole view, as of the last record."""
        with self._lock:
            return self._view()

    def _view(self) -> RenderableType:
        title = f"{self.recipe.name}: {self.recipe.method.name}"
        if self.last is None:
            return Panel("before the first record of the log", title=title, title_align="left")
        parts: list[RenderableType] = [self._progress(self.last), Text(), self._table()]
        if self.best is not None:
            _, step, accuracy, balanced = self.best
            parts.append(Text(f"best so far: step {step}, {accuracy:.1%}, balanced {balanced:.1%}"))
        parts += [Text(f"warning: {text}", style="bold yellow") for text in self.warnings]
        parts.append(Text("Ctrl-C stops; the same command with --resume goes on", style="dim"))
        return Panel(Group(*parts), title=title, title_align="left")

    def _progress(self, record: dict[str, Any]) -> RenderableType:
        step, seconds = record["step"], record["seconds"]
        left = seconds / step * max(0, self.total - step)
        row = Table.grid(padding=(0, 2))
        row.add_row(
            ProgressBar(total=self.total, completed=step, width=24),
            f"step {step}/{self.total}",
            f"{seconds:.0f} s, {left:.0f} s left",
            f"lr {record['lr']:.2g}",
        )
        return row

    def _table(self) -> Table:
        options = self.console.options
        width = max(8, min(32, self.console.width - 48))
        blocks = ASCII_BLOCKS if options.ascii_only else BLOCKS
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, style="cyan")
        table.add_column(no_wrap=True, style="dim")

        def add(name: str, shown: str, values: list[float], note: str = "") -> None:
            table.add_row(name, shown, sparkline(values, width, blocks), note)

        for name, values in self.curves.get("loss", {}).items():
            (weighted,) = self.curves.get("weighted", {}).get(name, values)[-1:]
            note = "" if weighted == values[-1] else f"weighted {weighted:.3g}"
            add(name, f"{values[-1]:.4g}", values, note)
        for name, values in self.curves.get("validation", {}).items():
            add(f"validation {name.replace('_', ' ')}", f"{values[-1]:.1%}", values)
        for name, values in self.curves.get("diagnostics", {}).items():
            add(name.replace("/", " ").replace("_", " "), f"{values[-1]:.3g}", values)
        return table
