"""Fixing a method's configuration on the exploratory seeds, by validation alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ucmkd.checkpoint import write_atomically
from ucmkd.config import ConfigError
from ucmkd.strict_yaml import read_yaml_text, to_yaml_text
from ucmkd.study.config import StudyConfig
from ucmkd.study.plan import Choices, digest_of, exploration
from ucmkd.study.store import Results

FILE = "configurations.yaml"
_HEADER = (
    "# The candidate of each method with the best mean validation score (of classifiers: accuracy\n"
    "# plus balanced accuracy) on the exploratory seeds. Fresh runs use it as long as `digest`\n"
    "# fits the study.\n"
)


class Configurations:
    """``configurations.yaml``: what is fixed, per scenario and method.

    An entry is used as long as its candidates, recipes, exploratory seeds and the package's
    version are the study's; otherwise the method is explored anew.

    Args:
        study: The study.
        folder: Of the study.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, study: StudyConfig, folder: Path) -> None:
        self.study = study
        self.path = folder / FILE
        self.entries: dict[str, dict[str, dict[str, Any]]] = {}
        if self.path.exists():
            self._read()
        self.choices: Choices = {
            (scenario, method): self.entries[scenario][method]["candidate"]
            for scenario in study.scenarios
            for method, entry in study.methods_of(scenario).items()
            if entry.explored and self._fits(scenario, method)
        }

    def _read(self) -> None:
        try:
            found = read_yaml_text(self.path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            raise ConfigError(
                f"{self.path} cannot be read: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
            raise ConfigError(
                f"{self.path} must map scenarios to methods; delete it to explore anew"
            )
        self.entries = found

    def _fits(self, scenario: str, method: str) -> bool:
        entry = self.entries.get(scenario, {}).get(method)
        return (
            isinstance(entry, dict)
            and entry.get("digest") == self._digest(scenario, method)
            and type(entry.get("candidate")) is int
            and entry["candidate"] in range(len(self.study.methods[method].options))
        )

    def _digest(self, scenario: str, method: str) -> str:
        return digest_of([run.key for run in exploration(self.study, scenario, method)])

    def at_an_edge(self) -> list[str]:
        """Sentences on choices of the smallest or largest value of the one thing that was varied.

        The best may lie beyond it. Of two candidates one always is an edge: they are left out.
        """
        found = []
        for (scenario, method), chosen in self.choices.items():
            options = self.study.methods[method].options
            keys = {key for option in options for key in option}
            if len(options) < 3 or len(keys) != 1:
                continue
            (key,) = keys
            given = [option.get(key) for option in options]
            values = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(values) < len(options):
                continue
            for which, edge in (("smallest", min(values)), ("largest", max(values))):
                if values[chosen] == edge:
                    found.append(
                        f"{scenario}, {method}: the chosen {key}, {edge:g}, is the {which} of "
                        f"{len(options)} candidates; a better one may lie beyond."
                    )
        return found

    def fix(self, scenario: str, method: str, results: Results) -> bool:
        """Choose among the candidates that have a result on every exploratory seed.

        Returns:
            Whether there was one. The earlier candidate wins a tie.
        """
        runs = exploration(self.study, scenario, method)
        candidates = self.study.methods[method].options
        scores: list[float | None] = []
        spent: list[float | None] = []
        for number in range(len(candidates)):
            rows = [results.get(run) for run in runs if run.candidates == (number,)]
            spent += [row.get("processor_seconds") for row in rows if row is not None]
            values = [row["validation_score"] for row in rows if row is not None]
            scores.append(float(np.mean(values)) if len(values) == len(rows) else None)
        known = [(score, -number) for number, score in enumerate(scores) if score is not None]
        if not known:
            return False
        best = -max(known)[1]
        self.entries.setdefault(scenario, {})[method] = {
            "candidate": best,
            "settings": dict(candidates[best]),  # the same object twice would be a YAML alias
            "mean_validation_scores": [None if s is None else round(s, 6) for s in scores],
            "seeds": list(self.study.seeds.explore),
            "digest": self._digest(scenario, method),
            **exploration_cost(spent),
        }
        self.choices[scenario, method] = best
        text = _HEADER + to_yaml_text(self.entries)
        write_atomically(self.path, text.encode())
        return True


def exploration_cost(spent: Sequence[float | None]) -> dict[str, Any]:
    """What ``configurations.yaml`` keeps of exploratory runs: their number and their seconds.

    Args:
        spent: Processor seconds of each; None where one did not store it.
    """
    known = [value for value in spent if value is not None]
    total = {"processor_seconds": round(sum(known), 3)} if len(known) == len(spent) else {}
    return {"trainings": len(spent), **total}
