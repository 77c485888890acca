"""Writes everything that a study shows into its folder."""

from __future__ import annotations

import re
from pathlib import Path

from ucmkd.checkpoint import write_atomically
from ucmkd.study.figures import draw_curves, draw_scores
from ucmkd.study.overview import overview
from ucmkd.study.page import page
from ucmkd.study.plan import Only, fresh
from ucmkd.study.provenance import code_digest
from ucmkd.study.render import differences_csv, latex, markdown, scores_csv
from ucmkd.study.runner import StudyRun
from ucmkd.study.summary import ScenarioSummary, summarise
from ucmkd.study.tables import all_tables


def write_report(attempt: StudyRun) -> list[ScenarioSummary]:
    """``summary.{md,tex}``, two CSV files, ``figures/`` and ``report.html`` of what is known.

    Returns:
        The summaries; empty, and nothing is written, without results.
    """
    study, folder, rows = attempt.study, attempt.folder, attempt.rows()
    summaries = summarise(study, rows)
    if not summaries:
        return []
    shown = [*overview(study, summaries), *all_tables(summaries)]
    head = f"# Study {study.name}\n\n"
    head += "".join(f"{note}\n\n" for note in notes(attempt))
    _write(folder / "summary.md", head + "\n".join(map(markdown, shown)))
    _write(folder / "summary.tex", "\n".join(map(latex, shown)))
    _write(folder / "scores.csv", scores_csv(summaries))
    _write(folder / "differences.csv", differences_csv(summaries))
    pictures = {summary.name: _pictures(attempt, summary) for summary in summaries}
    text = page(study, summaries, pictures, rows, _configurations(attempt), notes(attempt))
    _write(folder / "report.html", text)
    return summaries


def notes(attempt: StudyRun) -> list[str]:
    """Sentences on what is missing, on choices at an edge, and on results of other code."""
    found = [
        f"{scenario}, {method}: not explored yet, so there are no results."
        for scenario, method in attempt.unexplored()
    ]
    found += attempt.configurations.at_an_edge()
    runs = [
        run
        for scenario, method in Only().rows(attempt.study)
        for run in fresh(attempt.study, scenario, method, attempt.configurations.choices)
    ]
    missing = sum(attempt.results.get(run) is None for run in runs)
    if missing:
        found.append(f"{missing} of {len(runs)} runs have no result.")
    other = sum(row["code"] != code_digest() for row in attempt.rows())
    if other:
        found.append(
            f"{other} results were computed by other code of the same version; --recompute "
            "computes them anew."
        )
    return found


def _configurations(attempt: StudyRun) -> dict[str, object]:
    """What exploration fixed, and how often each candidate was chosen where each run chooses."""
    found: dict[str, dict[str, object]] = {}
    rows = attempt.rows()
    for scenario, method in Only().rows(attempt.study):
        entry = attempt.study.methods[method]
        if (scenario, method) in attempt.configurations.choices:
            number = attempt.configurations.choices[scenario, method]
            found.setdefault(scenario, {})[method] = dict(entry.options[number])
        elif entry.choose == "per_run":
            own = [
                row["candidate"]
                for row in rows
                if (row["scenario"], row["method"], row["control"]) == (scenario, method, None)
            ]
            found.setdefault(scenario, {})[method] = [
                {"settings": dict(settings), "runs": own.count(number)}
                for number, settings in enumerate(entry.options)
            ]
    return dict(found)


def _pictures(attempt: StudyRun, summary: ScenarioSummary) -> list[Path]:
    stem = attempt.folder / "figures" / re.sub(r"[^\w.-]+", "_", summary.name)
    scores = stem.with_name(stem.name + ".png")
    curves = stem.with_name(stem.name + "_curves.png")
    draw_scores(summary, scores)
    drawn = draw_curves(summary, attempt.study.curve_label, curves)
    return [scores, curves] if drawn else [scores]


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
