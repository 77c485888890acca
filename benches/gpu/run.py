"""``python -m benches.gpu.run``: this package and its peers on the GPU of this machine.

Writes JSON after every case, and Markdown. Started again, it goes on with the cases that are not
in the JSON file yet, if hardware, versions and options are the same. ``--dry-run`` runs tiny cases
on the CPU, with the kernels in Triton's interpreter: it checks the plumbing, not the speed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("ucmkd", "torch", "triton", "numpy", "flash-sinkhorn", "geomloss", "pykeops", "POT")
#: Seconds that are kept for the training step at the end.
TRAINING = 60.0


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.split("\n")[0].strip() or "unknown"


def hardware(device: Any) -> dict[str, Any]:
    """The device, its driver and its sizes."""
    import torch

    if device.type != "cuda":
        return {"device": f"CPU ({platform.machine()})", "system": platform.system()}
    about = torch.cuda.get_device_properties(device)
    return {
        "device": about.name,
        "capability": f"{about.major}.{about.minor}",
        "memory": f"{about.total_memory / 2**30:.0f} GiB",
        "multiprocessors": about.multi_processor_count,
        "L2": f"{about.L2_cache_size / 2**20:.0f} MiB",
        "driver": _driver(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of everybody who may take part."""
    import torch

    found = {"python": platform.python_version(), "CUDA of torch": str(torch.version.cuda)}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def model(case: Any, rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The roofline of our solve with the iterations that it took, on GPUs that the model knows."""
    from benches.gpu import roofline

    gpu = next((peaks for key, peaks in roofline.GPUS.items() if key in name), None)
    n, d, batch = case.shape.n, case.shape.d, case.shape.batch
    if gpu is None:
        return None
    if case.operator == "mmd":
        bound = roofline.bound(roofline.mmd(n, n, d, "float32"), gpu, "float32")
        return {"gpu": gpu.name, "from": "one pass", **bound._asdict()}
    iterations = next((r["iterations"] for r in rows if r["name"] == "ucmkd"), None)
    if iterations is None:
        return None
    bound = roofline.solve(n, n, d, "float32", iterations, gpu, batch)
    return {"gpu": gpu.name, "from": f"{iterations} iterations", **bound._asdict()}


def start(where: Path, fresh: bool, about: dict[str, Any]) -> dict[str, Any]:
    """The document so far: what an interrupted run of the same kind left, or an empty one."""
    empty = {**about, "date": "", "left": [], "cases": {}, "training": None, "failed": ""}
    if fresh or not where.exists():
        return empty
    before = json.loads(where.read_text())
    same = all(before.get(key) == value for key, value in about.items())
    return before if same else empty


def save(data: dict[str, Any], where: Path) -> None:
    """Writes both files, each as a whole or not at all."""
    from benches.gpu.table import text

    now = datetime.datetime.now(datetime.timezone.utc)
    data["date"] = now.isoformat(timespec="seconds")
    where.parent.mkdir(parents=True, exist_ok=True)
    for path, content in (
        (where, json.dumps(data, indent=1) + "\n"),
        (where.with_suffix(".md"), text(data) + "\n"),
    ):
        part = path.with_suffix(path.suffix + ".part")
        part.write_text(content)
        part.replace(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.gpu.run", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="no new case after that long")
    parser.add_argument("--seconds", type=float, default=3.0, help="of rounds for each case")
    parser.add_argument("--flush", action="store_true", help="overwrite L2 before each sample")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--only", default="", help="cases whose key contains this")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options, begun = _options(arguments), time.perf_counter()
    if options.dry_run:  # before Triton is imported
        os.environ["TRITON_INTERPRET"], os.environ["UCMKD_BACKEND"] = "1", "triton"
    import torch

    from benches.gpu import cases, training
    from benches.gpu.clock import Clock, race
    from ucmkd import backends

    if not options.dry_run and not torch.cuda.is_available():
        print("no CUDA device: --dry-run checks the plumbing without one", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda")
    clock = Clock(device, flush=options.flush)
    about = {
        "hardware": hardware(device),
        "versions": versions(),
        "backend": backends()["triton"]._asdict(),
        "dry_run": options.dry_run,
        "flush": options.flush,
        "clock": "time.perf_counter" if options.dry_run else "CUDA events",
    }
    slug = re.sub(r"[^a-z0-9]+", "-", about["hardware"]["device"].lower()).strip("-")
    where = options.out / f"gpu-bench-{'dry-run' if options.dry_run else slug}.json"
    data = start(where, options.fresh, about)
    chosen = cases.tiny() if options.dry_run else cases.every()
    missing = [c for c in chosen if options.only in c.key and c.key not in data["cases"]]
    end = begun + 60 * options.minutes - (0 if data["training"] else TRAINING)
    data["left"] = [case.key for case in missing]
    for case in missing:
        if time.perf_counter() > end:
            break
        print(case.key, file=sys.stderr)
        measured: dict[str, Any] = {
            "title": case.title, "target": case.target, "against": case.against,
            "share": case.share, "rows": [], "model": None, "error": "",
        }  # fmt: skip
        try:
            rows = race(case.contestants, case.problem(device), clock,
                        bounds=cases.BOUNDS[case.operator], seconds=options.seconds)  # fmt: skip
            measured["rows"] = [asdict(row) for row in rows]
            measured["model"] = model(case, measured["rows"], about["hardware"]["device"])
        except Exception as error:  # out of memory for the reference: the other cases go on
            measured["error"] = f"{type(error).__name__}: {error}"
        data["cases"][case.key] = measured
        data["left"].remove(case.key)
        clock.rest()
        save(data, where)
    if not data["training"] and options.only in "training":
        print("training", file=sys.stderr)
        full, tiny = training.Setting(), training.Setting(4, 32, 2, rounds=1, warm=1, epsilon=1.0)
        try:
            data["training"] = training.share(tiny if options.dry_run else full, clock)
        except Exception as error:
            data["failed"] = f"training: {type(error).__name__}: {error}"
    save(data, where)
    print(where.with_suffix(".md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
