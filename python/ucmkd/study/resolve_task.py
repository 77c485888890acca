"""From the layers of a study with a task to complete settings; :mod:`.resolve` is for recipes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from ucmkd.config import ConfigError, from_mapping, nearest
from ucmkd.study.config import SECTIONS, SETTINGS, MethodEntry, Section, StudyConfig
from ucmkd.study.controls import Control
from ucmkd.study.layers import merged, put
from ucmkd.tasks import Case, Task, task_of


@dataclass(frozen=True)
class ResolvedTask:
    """One complete configuration, for any seed.

    Attributes:
        task: Its name.
        method: The row of the task.
        settings: Of the task's own class.
        control: Of the row.
        overrides: The candidate.
    """

    task: str
    method: str
    settings: Any
    control: Control | None
    overrides: Section

    def mapping(self) -> dict[str, Any]:
        """Plain values that decide a result, but for the seed."""
        row = {"task": self.task, "method": self.method, "control": self.control}
        return {**row, SETTINGS: asdict(self.settings)}

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of :meth:`mapping`."""
        text = json.dumps(self.mapping(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def case(self, seed: int) -> Case:
        """What a worker runs."""
        return Case(self.method, self.settings, self.control, seed)


def resolve_task(
    study: StudyConfig, scenario: str, method: str, candidate: int, control: Control | None = None
) -> ResolvedTask:
    """The configuration of one row.

    Raises:
        ConfigError: A row, section, setting or control that the task does not have, a value out of
            range, or candidates where nothing can choose.
    """
    assert study.task is not None
    entry, task = study.methods[method], task_of(study.task)
    place = f"scenario {scenario!r}, method {method!r}" + (
        f", candidate {candidate}" if len(entry.options) > 1 else ""
    )
    overrides = entry.options[candidate]
    try:
        name = _row(study.task, task, entry, control)
        mapping: Section = {}
        for layer in (study.defaults, study.scenarios[scenario], {SETTINGS: entry.settings}):
            mapping = merged(mapping, layer)
        for key, value in overrides.items():
            if not key.startswith(f"{SETTINGS}."):
                raise ConfigError(f"a candidate's key must begin with {SETTINGS}., got {key!r}")
            put(mapping, key, value)
        settings = from_mapping(task.settings, mapping.get(SETTINGS), SETTINGS)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return ResolvedTask(study.task, name, settings, control, overrides)


def _row(task_name: str, task: Task, entry: MethodEntry, control: Control | None) -> str:
    """The name of the task's row, which must have what the entry wants."""
    name: str = entry.method["name"]
    if name not in task.rows:
        known = ", ".join(task.rows)
        raise ConfigError(
            f"unknown method.name {name!r}{nearest(name, task.rows)} (known: {known})"
        )
    for section in SECTIONS:
        given = {
            k: v for k, v in getattr(entry, section).items() if (section, k) != ("method", "name")
        }
        if given:
            raise ConfigError(
                f"{section} must be empty with task {task_name!r}, whose options are under "
                f"{SETTINGS}, got {given}"
            )
    if control is not None and control not in task.rows[name]:
        accepted = " or ".join(map(repr, task.rows[name])) or "none: there is no teacher"
        raise ConfigError(f"controls of {name!r} can be {accepted}, got {control!r}")
    if len(entry.options) > 1 and not task.validates:
        raise ConfigError(
            f"candidates must be at most one with task {task_name!r}, which sets no samples aside "
            f"to choose by, got {len(entry.options)}"
        )
    return name
