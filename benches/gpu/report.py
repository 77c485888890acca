"""``python -m benches.gpu.report``: what every kernel compiles to, and the roofline model.

Needs no GPU. Results of earlier runs are taken from a cache while nothing that they depend on has
changed, so that an interrupted run goes on where it was. Ends with status 1 if a kernel does not
compile, spills, wants too much shared memory, or lacks the instructions that it should have.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benches.gpu import roofline
from benches.gpu.compile import Measured, faults, jobs, pool, submit
from benches.gpu.targets import TARGETS

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES = (256, 2048, 8192, 32768)
WIDTHS = (64, 128, 512)
#: Iterations of the whole problems in the model's table.
ITERATIONS = 20


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, its first column to the left and the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]


def _line(measured: Measured) -> list[str]:
    if measured.error:
        return [measured.name, measured.target, measured.error, *[""] * 7]
    return [
        measured.name,
        measured.target,
        str(measured.warps),
        str(measured.registers),
        str(measured.spill_bytes),
        f"{measured.shared / 1024:.1f}",
        f"{measured.mma} ({measured.mma_in_loops})",
        str(measured.exponentials),
        f"{100 * measured.occupancy:.0f} %",
        str(measured.instructions),
    ]


HEAD = ("kernel", "target", "warps", "registers", "spill bytes", "shared KiB", "MMA (in loops)",
        "exponentials", "occupancy", "instructions")  # fmt: skip
EXPLAINED = """\
From the machine code, compiled without a GPU. Registers are per thread; spill bytes are what the
spill instructions of one thread move, each counted once; MMA counts HMMA, HGMMA, UTCHMMA or v_mfma
instructions, and those inside a loop; exponentials count MUFU.EX2 or v_exp_f32. Occupancy is an
estimate from registers and shared memory: resident warps as a share of the most that fit. None of
these figures is a measurement of speed."""


def time_of(seconds: float) -> str:
    """Three digits, with a unit."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def predictions() -> list[dict[str, Any]]:
    """The model at every size, width, type and GPU."""
    rows = []
    for gpu in roofline.GPUS.values():
        for dtype in roofline.FACTOR:
            for n in SIZES:
                for d in WIDTHS:
                    given = (n, n, d, dtype)
                    works = {
                        "streaming iteration": roofline.streaming(*given),
                        "one-pass sweep": roofline.one_pass(*given),
                        "cached iteration": roofline.cached(n, n, gpu),
                        "gradient": roofline.gradient(*given),
                        "mmd": roofline.mmd(*given),
                    }
                    if n <= 256:
                        works["whole problem"] = roofline.whole(*given, ITERATIONS, gpu)
                    bounds = {k: roofline.bound(w, gpu, dtype) for k, w in works.items()}
                    rows.append({
                        "gpu": gpu.name, "dtype": dtype, "n": n, "d": d,
                        "bounds": {k: b._asdict() for k, b in bounds.items()},
                    })  # fmt: skip
    return rows


def model_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The predictions as Markdown."""
    names = (
        "streaming iteration",
        "one-pass sweep",
        "cached iteration",
        "gradient",
        "mmd",
        "whole problem",
    )
    lines = [
        "## Roofline model", "",
        "Predicted times below which no pass of its kind can go, from public peak numbers "
        "(sources and formulas: `benches/gpu/roofline.py`), and what bounds them. A whole problem "
        f"has {ITERATIONS} iterations and its gradient, on one core. Not measured.", "",
    ]  # fmt: skip
    for gpu, dtype in dict.fromkeys((row["gpu"], row["dtype"]) for row in rows):
        chosen = [row for row in rows if (row["gpu"], row["dtype"]) == (gpu, dtype)]
        body = []
        for row in chosen:
            cells = [row["bounds"].get(name) for name in names]
            shown = [f"{time_of(c['seconds'])}, {c['by']}" if c else "-" for c in cells]
            body.append([f"{row['n']}", f"{row['d']}", *shown])
        lines += [f"### {gpu}, {dtype}", "", *table(("n = m", "d", *names), body), ""]
    return lines


def compiled_text(
    results: Sequence[Measured], wrong: Sequence[tuple[Measured, list[str]]], triton: str
) -> list[str]:
    """The compiled kernels as Markdown."""
    lines = [
        "# The Triton kernels, compiled without a GPU", "", EXPLAINED, "",
        f"Triton {triton}; {len(results)} specialisations and targets, {len(wrong)} with a fault.",
        "",
    ]  # fmt: skip
    lines += [f"- {m.name}, {m.target}: {'; '.join(words)}" for m, words in wrong]
    lines += [""] * bool(wrong)
    for module in dict.fromkeys(measured.module for measured in results):
        body = [_line(measured) for measured in results if measured.module == module]
        lines += [f"## kernels/{module}.py", "", *table(HEAD, body), ""]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benches.gpu.report", description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--model-only", action="store_true", help="print the roofline model only")
    options = parser.parse_args(arguments)
    targets = options.targets.split(",")
    if unknown := sorted({*targets} - {*TARGETS}):
        parser.error(f"--targets must be among {', '.join(TARGETS)}; got {', '.join(unknown)}")
    rows = predictions()
    if options.model_only:
        print("\n".join(model_text(rows)))
        return 0
    import triton

    start = time.perf_counter()

    listed = jobs(targets)
    results = []
    with pool(options.workers) as executor:
        for wait in submit(listed, executor):
            results.append(wait())
            if len(results) % 20 == 0 or len(results) == len(listed):
                seconds = time.perf_counter() - start
                print(f"{len(results)} of {len(listed)}, {seconds:.0f} s", file=sys.stderr)
    pairs = zip(listed, results, strict=True)
    wrong = [(m, words) for job, m in pairs if (words := faults(job.compilation, m))]
    text = "\n".join(compiled_text(results, wrong, triton.__version__) + model_text(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu-report.md").write_text(text + "\n")
    data = {
        "triton": triton.__version__,
        "compiled": [asdict(measured) for measured in results],
        "faults": [{"name": m.name, "target": m.target, "words": words} for m, words in wrong],
        "model": rows,
    }
    (options.out / "gpu-report.json").write_text(json.dumps(data, indent=1) + "\n")
    print(text)
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
