"""The report: one HTML file that needs nothing else, in light and in dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from ucmkd.strict_yaml import to_yaml_text
from ucmkd.study.config import StudyConfig
from ucmkd.study.measures import shown_of
from ucmkd.study.overview import overview
from ucmkd.study.render import as_html
from ucmkd.study.store import Row
from ucmkd.study.summary import ScenarioSummary
from ucmkd.study.tables import tables

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --rule: #bbb; --soft: #555; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --rule: #555; --soft: #aaa; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--rule); }
tbody tr { border-bottom: 1px solid var(--rule); }
.caption { color: var(--soft); font-size: .875rem; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
pre { overflow-x: auto; font-size: .875rem; }
"""


def page(
    study: StudyConfig,
    summaries: Sequence[ScenarioSummary],
    pictures: dict[str, list[Path]],
    rows: Sequence[Row],
    configurations: dict[str, object],
    notes: Sequence[str],
) -> str:
    """The report as HTML text.

    Args:
        study: What was run.
        summaries: One per scenario with results.
        pictures: PNG files of each scenario; they are put into the page.
        rows: The results, for versions.
        configurations: What exploration fixed and what runs chose, for each scenario and method.
        notes: Sentences on what is missing or mixed.
    """
    title = html.escape(f"Study {study.name}")
    parts = [f"<h1>{title}</h1>", _introduction(study, rows)]
    if notes:
        parts.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    parts += [as_html(table) for table in overview(study, summaries)]
    for summary in summaries:
        parts.append(f"<h2>{html.escape(summary.name)}</h2>")
        parts += [_picture(path, summary.name) for path in pictures.get(summary.name, [])]
        parts += [as_html(table) for table in tables(summary)]
    if configurations:
        text = to_yaml_text(configurations)
        parts.append(
            "<h2>Configurations: fixed on the exploratory seeds, or chosen by each run</h2>"
            f"<pre>{html.escape(text)}</pre>"
        )
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _introduction(study: StudyConfig, rows: Sequence[Row]) -> str:
    seeds = ", ".join(map(str, study.seeds.fresh))
    versions = sorted({f"ucmkd {row['ucmkd']}, torch {row['torch']}" for row in rows})
    meaning = shown_of(study).meaning
    kinds = {control for entry in study.methods.values() for control in entry.controls}
    controls = "; ".join(f"{kind}: {text}" for kind, text in meaning.items() if kind in kinds)
    explored = ""
    if any(entry.explored for entry in study.methods.values()):
        explored = (
            " A method with several candidates uses the one with the best mean validation score on "
            f"the exploratory seeds {', '.join(map(str, study.seeds.explore))}, which are not "
            "among the results."
        )
    text = (
        f"{len(rows)} runs on the seeds {seeds}; each seed is another split of the samples and "
        f"another initialisation, the same for every method.{explored} Models are selected on "
        "validation samples; the test samples are looked at once per run."
        + (f" Controls: {controls}." if controls else "")
        + f" Made with {'; '.join(versions)}."
    )
    return f"<p>{html.escape(text)}</p>"


def _picture(path: Path, name: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    label = html.escape(f"{name}: {path.stem}", quote=True)
    return f"<p><img alt='{label}' src='data:image/png;base64,{data}'></p>"
