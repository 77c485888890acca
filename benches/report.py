"""The table of a run and its JSON file; ``python -m benches.report FILE`` prints a saved run."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benches.timing import Row

PACKAGES = ("ucmkd", "torch", "numpy", "geomloss", "pykeops", "POT", "ott-jax", "jax", "jaxlib")
#: Rows whose names begin so are ours.
OURS = "ucmkd"


@dataclass
class Table:
    """The rows of one case.

    Attributes:
        title: For people.
        operator: ``"sinkhorn"``, ``"batch"``, ``"sequence"``, ``"streaming"`` or ``"mmd"``.
        n: Points on each side.
        setting: The setting within the operator.
        measure: Name of the row that the ratios are to.
        bounds: Largest relative errors of value and gradient of a row with a ratio.
        rows: One for each contestant.
        target: How many times our time the fastest accurate peer should take.
    """

    title: str
    operator: str
    n: int
    setting: str
    measure: str
    bounds: tuple[float, float]
    rows: list[Row]
    target: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON data, with the ratio of each row that deserves one."""
        base = next((r.median for r in self.rows if r.name == self.measure), None)
        rows = []
        for row in self.rows:
            fair = row.accurate and row.median is not None and base is not None
            ratio = row.median / base if fair else None  # type: ignore[operator]
            rows.append({**row.as_dict(), "ratio": ratio})
        return {
            "title": self.title,
            "operator": self.operator,
            "n": self.n,
            "setting": self.setting,
            "measure": self.measure,
            "bounds": list(self.bounds),
            "target": self.target,
            "rows": rows,
        }


@dataclass
class Section:
    """A table of other measurements: lines of text cells under a head, then remarks."""

    title: str
    head: list[str]
    lines: list[list[str]]
    remarks: list[str]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    return versions


def document(
    tables: Sequence[Table],
    threads: int,
    start_load: Sequence[float] = (),
    sections: Sequence[Section] = (),
) -> dict[str, Any]:
    """Everything that a reader of the numbers needs, as JSON data.

    Args:
        tables: The cases.
        threads: Threads of every contestant, and cores of the process.
        start_load: The load averages of the machine when the run began: an idle machine shows
            values near 0.
        sections: Other measurements.
    """
    from ucmkd import backends

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": {
            "processor": _processor(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "rust": backends()["rust"].detail,
        },
        "versions": _versions(),
        "threads": threads,
        "dtype": "float32",
        "load_at_start": list(start_load),
        "cases": [table.as_dict() for table in tables],
        "sections": [asdict(section) for section in sections],
    }


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    value *= 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _row(row: dict[str, Any]) -> list[str]:
    spread = "-"
    if row["low"] is not None:
        spread = f"{_milliseconds(row['low'])} - {_milliseconds(row['high'])}"
    return [
        row["name"],
        _milliseconds(row["median"]),
        spread,
        str(row["rounds"] or "-"),
        _number(row["value_error"], ".1e"),
        _number(row["gradient_error"], ".1e"),
        str(row["iterations"] or "-"),
        "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "; ".join(part for part in (row["status"], row["note"]) if part),
    ]


_HEAD = ["", "median ms", "min - max", "rounds", "value err", "grad err", "its", "ratio", ""]


def _aligned(cells: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _lines(case: dict[str, Any]) -> list[str]:
    cells = [_HEAD, *(_row(row) for row in case["rows"])]
    value, gradient = case["bounds"]
    explained = (
        f"(ratio to '{case['measure']}'; only with a value error <= {value:g} and a gradient "
        f"error <= {gradient:g})"
    )
    return [case["title"], explained, *_aligned(cells, (0, len(_HEAD) - 1)), ""]


def _summary(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Our time beside that of the fastest accurate peer, case by case."""
    cells = [["case", "ours ms", "fastest peer ms", "ratio", "target", "who"]]
    for case in cases:
        ours = next((r["median"] for r in case["rows"] if r["name"] == case["measure"]), None)
        peers = [r for r in case["rows"] if r["ratio"] and not r["name"].startswith(OURS)]
        best = min(peers, key=lambda row: row["ratio"], default=None)
        target = case.get("target")
        cells.append([
            case["title"],
            _milliseconds(ours),
            _milliseconds(best["median"] if best else None),
            f"{best['ratio']:.2f}" if best else "-",
            f">= {target:g}" if target else "-",
            best["name"] if best else "no accurate peer",
        ])  # fmt: skip
    return ["Against the fastest accurate peer", *_aligned(cells, (0, 5)), ""]


def text(data: dict[str, Any]) -> str:
    """The tables of a run as plain text."""
    hardware, versions = data["hardware"], data["versions"]
    load = ", ".join(f"{value:.1f}" for value in data["load_at_start"]) or "unknown"
    lines = [
        f"{hardware['processor']}, {hardware['cores']} cores, {data['threads']} threads each, "
        f"{hardware['rust']}; load at the start {load}; {data['date']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
    ]
    for case in data["cases"]:
        lines += _lines(case)
    if data["cases"]:
        lines += _summary(data["cases"])
    for section in data.get("sections", ()):
        body = _aligned([section["head"], *section["lines"]], (0,))
        lines += [section["title"], *body, *section["remarks"], ""]
    return "\n".join(lines)


def save(data: dict[str, Any], where: Path) -> Path:
    """Writes the run to a file, or to one named by its date in a folder; returns its path."""
    if where.suffix != ".json":
        stamp = data["date"].replace(":", "").replace("+0000", "Z")
        where = where / f"{stamp}-{data['threads']}-threads.json"
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps(data, indent=1) + "\n")
    return where


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benches.report FILE")
    sys.stdout.write(text(json.loads(Path(sys.argv[1]).read_text())))
