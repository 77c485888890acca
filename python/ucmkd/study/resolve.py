"""From a study's layers to complete recipes: defaults, scenario, method, candidate, control."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ucmkd.config import ConfigError, Recipe, from_mapping, to_mapping
from ucmkd.config_data import StreamConfig
from ucmkd.methods import options as method_options
from ucmkd.rehearsal import check_method, uses_peer, uses_teacher
from ucmkd.study.config import MethodEntry, Section, StudyConfig
from ucmkd.study.controls import Control
from ucmkd.study.layers import merged, put
from ucmkd.study.resolve_task import ResolvedTask, resolve_task

# What decides which samples are tested: the same for all methods of a scenario.
_SPLIT = ("teacher_fraction", "validation", "test", "root")


@dataclass(frozen=True)
class Resolved:
    """One complete configuration, for any seed.

    Attributes:
        recipe: With seed 0.
        overrides: The candidate.
    """

    recipe: Recipe
    overrides: Section

    def mapping(self) -> dict[str, Any]:
        """The recipe as plain values, without what does not change a result, and the seed."""
        mapping = to_mapping(self.recipe)
        for key in ("name", "out_dir", "seed"):
            del mapping[key]
        if not self.recipe.teacher.focus:  # results from before there was a focus stay known
            for key in ("focus", "focus_channels"):
                del mapping["teacher"][key]
        if self.recipe.data.stream == StreamConfig():  # and those from before there were streams
            del mapping["data"]["stream"]
        return mapping

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of :meth:`mapping`."""
        text = json.dumps(self.mapping(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of one run; a placebo has another permutation in every split."""
        method = self.recipe.method
        if method.placebo and "placebo_seed" in method_options(method.name):
            options = {"placebo_seed": seed, **method.options}
            method = replace(method, options=options)
        return replace(self.recipe, seed=seed, method=method)


def resolve(
    study: StudyConfig, scenario: str, method: str, candidate: int, control: Control | None = None
) -> Resolved:
    """The configuration of one row.

    Raises:
        ConfigError: an unknown key, a wrong type or value, an option that the method does not
            have, a control of a method without a teacher, a split of the method's own.
    """
    entry = study.methods[method]
    place = f"scenario {scenario!r}, method {method!r}" + (
        f", candidate {candidate}" if len(entry.options) > 1 else ""
    )
    overrides = entry.options[candidate]
    try:
        if entry.settings:
            raise ConfigError(f"settings must be empty without a task, got {entry.settings}")
        recipe = _build(study, scenario, method, entry, overrides, control)
        check_method(recipe)
        if control is not None and not uses_teacher(recipe) and not uses_peer(recipe):
            raise ConfigError(
                f"controls must be empty for {recipe.method.name!r}, which asks no teacher, "
                f"got {entry.controls}"
            )
        if recipe.hardware.devices != 1:
            raise ConfigError(f"hardware.devices must be 1, got {recipe.hardware.devices}")
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return Resolved(recipe, overrides)


def resolve_all(study: StudyConfig) -> None:
    """Resolve everything once, to find mistakes before any work.

    Raises:
        ConfigError: see :func:`resolve`.
    """
    for scenario in study.scenarios:
        for method, entry in study.methods_of(scenario).items():
            for candidate in range(len(entry.options)):
                for control in (None, *entry.controls):
                    configuration(study, scenario, method, candidate, control)


def configuration(
    study: StudyConfig, scenario: str, method: str, candidate: int, control: Control | None = None
) -> Resolved | ResolvedTask:
    """:func:`resolve`, or the same for a study with a task."""
    how = resolve if study.task is None else resolve_task
    return how(study, scenario, method, candidate, control)


def _build(
    study: StudyConfig,
    scenario: str,
    method: str,
    entry: MethodEntry,
    overrides: Section,
    control: Control | None,
) -> Recipe:
    # A processor unless the study says otherwise: all workers would crowd on one accelerator.
    # Scenarios of a library's caller may be paths; a recipe's name is that of a folder.
    name = f"{scenario}-{method}".replace("/", "-").replace("\\", "-")
    base: Section = {"name": name, "hardware": {"accelerator": "cpu"}}
    for layer in (study.defaults, study.scenarios[scenario]):
        base = merged(base, layer)
    split = _split_of(from_mapping(Recipe, {"data": base.get("data")}))
    mapping = merged(base, entry.sections)
    for key, value in overrides.items():
        put(mapping, key, value)
    if control == "placebo":
        put(mapping, "method.placebo", True)
    elif control is not None:
        put(mapping, "teacher.kind", control)
        put(mapping, "teacher.weights", None)  # which only a trained teacher has
    recipe = from_mapping(Recipe, mapping)
    for name, value in _split_of(recipe).items():
        if value != split[name]:
            raise ConfigError(
                f"data.{name} must be {split[name]!r} as in the scenario, got {value!r}: the "
                "methods of a scenario are tested on the same samples"
            )
    return recipe


def _split_of(recipe: Recipe) -> dict[str, Any]:
    data = recipe.data
    datasets = {f"{side}.dataset": getattr(data, side).dataset for side in ("teacher", "student")}
    return {**datasets, **{name: getattr(data, name) for name in _SPLIT}}
