"""``ucmkd distill``: a recipe, changed by the command line, run and shown."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ._usage import UsageError
from .cli_watch import Watch, total_steps
from .config import ConfigError, OptionValue, Recipe
from .diagnosis import GradientConflictWarning
from .distill import RunResult, distill
from .processes import is_first
from .recipe_file import find_recipe, load_recipe, shipped_recipes
from .runlog import read_log
from .strict_yaml import read_yaml_text


@dataclass(frozen=True)
class _Options:
    """Train a student as a recipe says; options change single keys of it."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run in its folder after an interruption."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the terms, the validation and the diagnoses while they come."""


def run(words: list[str]) -> int:
    """Run the command with these words after ``distill``; returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: ucmkd distill RECIPE [--resume] [--watch] [--SECTION.KEY VALUE ...]\n\n"
            "RECIPE is a YAML file or one of: " + ", ".join(shipped_recipes()) + "\n\n"
            "ucmkd distill RECIPE --help lists every key with its value in that recipe, for\n"
            "example: ucmkd distill brca_unpaired --method.name ce --optimizer.lr 1e-3\n"
            "An option of the method: --method.options.NAME VALUE"
        )
        return 0 if words else 2
    if words[0].startswith("-"):
        raise UsageError(f"the recipe comes first: ucmkd distill RECIPE, got {words[0]!r}")
    chosen = _override(load_recipe(find_recipe(words[0])), words[0], words[1:])
    recipe = chosen.recipe

    # With several devices this runs once per process; one of them speaks.
    console = Console(quiet=not is_first())
    view: Watch | _Progress
    if chosen.watch:
        earlier = read_log(recipe.run_dir / "log.jsonl") if chosen.resume else []
        view = Watch(recipe, console, earlier)
    else:
        view = _Progress(recipe, console)
    with view, warnings.catch_warnings():
        warnings.simplefilter("ignore", GradientConflictWarning)  # shown from the log's record
        try:
            result = distill(recipe, resume=chosen.resume, callbacks=[view], say=view.say)
        except KeyboardInterrupt:
            view.say("stopped; the same command with --resume goes on from the last checkpoint")
            raise
    show_result(console, recipe, result)
    return 0


def _override(recipe: Recipe, name: str, words: list[str]) -> _Options:
    """The recipe with the command line's changes, and the flags."""
    words, options = _take_method_options(words)

    shown = replace(recipe, method=replace(recipe.method, options={}))
    chosen = tyro.cli(
        _Options,
        args=words,
        default=_Options(recipe=shown),
        prog=f"ucmkd distill {name}",
        config=(tyro.conf.SuppressFixed,),
    )
    method = chosen.recipe.method
    # The options of one method mean nothing to another.
    inherited = recipe.method.options if method.name == recipe.method.name else {}
    method = replace(method, options={**inherited, **method.options, **options})
    return replace(chosen, recipe=replace(chosen.recipe, method=method))


def _take_method_options(words: list[str]) -> tuple[list[str], dict[str, OptionValue]]:
    """Split off ``--method.options.NAME VALUE`` (or ``=VALUE``); values as in YAML."""
    prefix, rest, options = "--method.options.", [], {}
    stream = iter(words)
    for word in stream:
        if not word.startswith(prefix):
            rest.append(word)
            continue
        name, equals, text = word.removeprefix(prefix).partition("=")
        if not equals:
            try:
                text = next(stream)
            except StopIteration:
                raise UsageError(f"{word} needs a value") from None
        try:
            value = read_yaml_text(text)
        except ConfigError:
            value = text
        if not isinstance(value, float | int | bool | str | None):
            raise UsageError(f"{prefix}{name} must be a number, true, false, null or text")
        options[name.replace("-", "_")] = value
    return rest, options


class _Progress:
    """A rich progress bar with the terms of the loss; nothing where there is no terminal."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.recipe, self.console = recipe, console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[terms]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        self.console.print(message, style="dim", markup=False, highlight=False)

    def __call__(self, record: dict[str, Any]) -> None:
        if self._task is None:
            total = total_steps(self.recipe, record)
            self._task = self._bar.add_task(self.recipe.method.name, total=total, terms="")
        terms = [f"{name} {value:.3f}" for name, value in record["loss"].items()]
        if "validation" in record:
            terms.append(f"validation {record['validation']['balanced_accuracy']:.1%}")
        self._bar.update(self._task, completed=record["step"], terms="  ".join(terms))
        for message in record.get("warning", {}).values():
            self.console.print(f"warning: {message}", style="yellow", markup=False, highlight=False)


def certificate_lines(result: RunResult) -> list[str]:
    """The certificate of a run in a few lines of text; why there is none in one."""
    found = result.certificate
    if found is None:
        return [f"no certificate: {result.uncertified}"] if result.uncertified else []
    infinite = [text for text in found.warnings if "infinite" in text]
    return [
        f"certificate, nats: E_T[H] {found.teacher_entropy:.3f} + τ W1 "
        f"{found.feature_alignment:.3f} (logits {found.logit_alignment:.3f}) + LA "
        f"{found.label_alignment:.3f} = {found.bound:.3f} ({found.logit_bound:.3f})",
        found.summary(),
        f"for the populations add {found.finite_sample:.3f} ({found.logit_finite_sample:.3f}) at "
        f"δ = {found.delta:g}; compared are {found.space}",
        *infinite,
    ]


def show_result(console: Console, recipe: Recipe, result: RunResult) -> None:
    """The figures of a run as a table."""
    table = Table(title=f"{recipe.name}: {recipe.method.name}", title_justify="left")
    table.add_column("")
    for heading in ("samples", "accuracy", "balanced accuracy"):
        table.add_column(heading, justify="right")
    rows = {"student, test": result.test, "student, validation": result.validation}
    if result.teacher is not None:
        rows["teacher, validation (its modality)"] = result.teacher
    for name, metrics in rows.items():
        table.add_row(
            name,
            str(metrics.count),
            f"{metrics.accuracy:.1%}",
            f"{metrics.balanced_accuracy:.1%}",
        )
    console.print(table)
    recall = "  ".join(
        f"{name} {value:.0%}"
        for name, value in zip(result.class_names, result.test.recall, strict=True)
        if value == value  # a class without test samples has no recall
    )
    console.print(f"recall on the test set: {recall}", markup=False, highlight=False)
    for line in certificate_lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"weights of step {result.best_step} of {result.steps}; everything is in "
        f"{result.folder}, to be read in {result.folder / 'report.html'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
