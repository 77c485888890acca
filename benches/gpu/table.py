"""The results of the GPU benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benches.gpu.report import table, time_of
from benches.report import OURS

HEAD = ("", "median", "min - max", "rounds", "value error", "gradient error", "iterations",
        "memory MB", "ratio", "")  # fmt: skip


def _ours(case: dict[str, Any]) -> dict[str, Any] | None:
    """Our row, if it may be compared: it ran and is accurate."""
    row = next((r for r in case["rows"] if r["name"] == OURS), None)
    return row if row and row["median"] is not None and row["accurate"] else None


def fastest(case: dict[str, Any], begins: str = "") -> tuple[str, float] | None:
    """The fastest accurate contestant that is not ours, and its time beside ours."""
    ours = _ours(case)
    peers = [
        row
        for row in case["rows"]
        if row["accurate"] and row["median"] is not None and not row["name"].startswith(OURS)
        and row["name"].startswith(begins)
    ]  # fmt: skip
    if ours is None or not peers:
        return None
    best = min(peers, key=lambda row: row["median"])
    return best["name"], best["median"] / ours["median"]


def roofline_share(case: dict[str, Any]) -> float | None:
    """The model's time over our measured time."""
    ours, model = _ours(case), case.get("model")
    return model["seconds"] / ours["median"] if ours and model else None


def verdicts(case: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What is aimed at in a case, what came out, and whether it is met."""
    found = []

    def judge(aim: str, value: float | None, target: float, shown: str) -> None:
        met = "no figure" if value is None else "met" if value >= target else "not met"
        found.append((aim, shown if value is not None else "-", met))

    wanted = [("", case["target"])] if case["target"] else []
    for begins, target in [*wanted, *case["against"].items()]:
        best = fastest(case, begins)
        name, ratio = best or ("", None)
        aim = f">= {target:g} x {begins or 'the fastest'}"
        judge(aim, ratio, target, f"{ratio or 0:.2f} ({name})")
    if case["share"]:
        value = roofline_share(case)
        judge(f">= {100 * case['share']:g} % of the roofline", value, case["share"],
              f"{100 * (value or 0):.0f} %")  # fmt: skip
    return found


def _row(row: dict[str, Any], ours: dict[str, Any] | None) -> list[str]:
    timed = row["median"] is not None
    fair = timed and ours is not None and row["accurate"]

    def number(value: Any, pattern: str) -> str:
        return "-" if value is None else format(value, pattern)

    return [
        row["name"],
        time_of(row["median"]) if timed else "-",
        f"{time_of(row['low'])} - {time_of(row['high'])}" if timed else "-",
        str(row["rounds"] or "-"),
        number(row["value_error"], ".1e"),
        number(row["gradient_error"], ".1e"),
        number(row["iterations"], "d"),
        number(None if row["memory"] is None else row["memory"] / 1e6, ".1f"),
        f"{row['median'] / ours['median']:.2f}" if fair and ours else "-",
        "; ".join(part for part in (row["status"], row["note"]) if part),
    ]


def _case(case: dict[str, Any]) -> list[str]:
    lines = [f"### {case['title']}", ""]
    if case["error"]:
        return [*lines, case["error"], ""]
    if model := case.get("model"):
        lines += [
            f"Roofline ({model['gpu']}, from {model['from']}): {time_of(model['seconds'])}, bound "
            f"by {model['by']}.",
            "",
        ]
    ours = _ours(case)
    return [*lines, *table(HEAD, [_row(row, ours) for row in case["rows"]]), ""]


def _training(result: dict[str, Any]) -> list[str]:
    body = [
        [name, time_of(seconds), f"{100 * result['share'][name]:.1f} %"]
        if name in result["share"]
        else [name, time_of(seconds), "-"]
        for name, seconds in result["seconds"].items()
    ]
    aim = f"Aim: at most {100 * result['target']:g} % for sinkhorn_align with its memory."
    return [f"### {result['title']}", "", aim, "", *table(("", "step", "share"), body), ""]


def text(data: dict[str, Any]) -> str:
    """The whole document."""
    hardware, versions = data["hardware"], data["versions"]
    lines = [
        f"# GPU benchmark: {hardware['device']}", "",
        ", ".join(f"{k} {v}" for k, v in hardware.items()) + ".", "",
        ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", "",
        f"{data['date']}; L2 flushed before each sample: {'yes' if data['flush'] else 'no'}; "
        f"clock: {data['clock']}.", "",
        "Value and gradient to x. Ratios are to our row, and stand only beside errors (against a "
        "float64 solution) within the bounds. All contestants but ours run a fixed number of "
        "iterations, found beforehand and not timed.", "",
    ]  # fmt: skip
    if data["dry_run"]:
        lines += ["**A dry run: tiny sizes on the CPU. Its times say nothing about any GPU.**", ""]
    body: list[Sequence[str]] = []
    for case in data["cases"].values():
        best = fastest(case)
        ours = _ours(case)
        shown = [time_of(ours["median"]) if ours else "-", f"{best[1]:.2f}" if best else "-"]
        aims = verdicts(case) or [("reported", "-", "-")]
        body += [[case["title"], *shown, *aim] for aim in aims]
    head = ("case", "ours", "fastest / ours", "aim", "reached", "")
    lines += ["## Summary", "", *table(head, body), "", "## Cases", ""]
    for case in data["cases"].values():
        lines += _case(case)
    if data.get("training"):
        lines += _training(data["training"])
    if data["failed"]:
        lines += [data["failed"], ""]
    if data["left"]:
        lines += ["Not run within the time limit; the same command goes on with them: "
                  + ", ".join(data["left"]) + ".", ""]  # fmt: skip
    return "\n".join(lines)
