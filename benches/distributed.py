"""The sharded Sinkhorn over gloo: time and bytes of an iteration with 1, 2 and 4 processes.

    python -m benches.distributed [--sizes 1024 2048] [--out benches/results/distributed]

Each process is one rank with one thread. An iteration of the cross term is the difference between
solves of 2 and of 8 iterations that cannot stop earlier, so that checks, mean cost and gradient
cancel; its time is the least of several rounds, on all ranks together. The bytes are those that
the loopback device of Linux counted (its headers with them), per rank. Beside them: what
:mod:`ucmkd.distributed.model` says, and then the same model for many GPUs, which is not a
measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benches.report import _processor
from ucmkd.distributed import sharded_sinkhorn_align
from ucmkd.distributed.model import (
    BETWEEN_BOXES,
    IN_A_BOX,
    Problem,
    efficiency,
    memory,
    seconds,
    traffic,
)

WORLDS = (1, 2, 4)
FEW, MANY = 2, 8


def _loopback() -> int:
    """Bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise RuntimeError("no loopback device in /proc/net/dev: this bench needs Linux")


def _rank(rank: int, world: int, folder: str, n: int, d: int, rounds: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    source = torch.Generator().manual_seed(rank)
    rows = n // world
    x, y = (torch.randn(rows, d, generator=source) + shift for shift in (0.0, 0.2))

    def solve(iterations: int, keep: bool) -> tuple[float, int]:
        dist.barrier()
        before, begin = _loopback(), time.perf_counter()
        sharded_sinkhorn_align(
            x, y, epsilon=0.1, debias=False, tol=0.0, max_iter=iterations, keep_costs=keep
        )
        dist.barrier()
        return time.perf_counter() - begin, _loopback() - before

    each = []
    for keep in (False, True):
        solve(FEW, keep)
        found = {count: [solve(count, keep) for _ in range(rounds)] for count in (FEW, MANY)}
        # The least of each: other processes of the machine only add.
        took, sent = (
            (min(r[i] for r in found[MANY]) - min(r[i] for r in found[FEW])) / (MANY - FEW)
            for i in (0, 1)
        )
        each.append((took, sent / world))
    if rank == 0:
        Path(folder, "found").write_text(json.dumps(each))
    dist.barrier()
    dist.destroy_process_group()


def measure(n: int, d: int, world: int, rounds: int) -> list[dict[str, Any]]:
    """An iteration with ``n`` points on each side, without and with the costs kept."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, folder, n, d, rounds)
        mp.start_processes(_rank, arguments, nprocs=world, start_method="fork")
        found = json.loads(Path(folder, "found").read_text())
    rows = []
    for keep, (took, sent) in zip((False, True), found, strict=True):
        said = traffic(Problem(n, n, d, world), keep_costs=keep).bytes
        rows.append(
            dict(
                n=n, d=d, world=world, keep_costs=keep, seconds=took, bytes_per_rank=sent,
                bytes_by_formula=said,
            )
        )  # fmt: skip
    return rows


def modelled(d: int) -> list[dict[str, Any]]:
    """The model for many GPUs: 65,536 points for each of them, and a fixed million."""
    rows = []
    for kind, points in (("65,536 per GPU", 65_536), ("1,048,576 in all", 0)):
        for world in (1, 8, 16, 64, 256, 1024):
            n = points * world if points else 2**20
            problem = Problem(n, n, d, world)
            network = IN_A_BOX if world <= 8 else BETWEEN_BOXES
            rows.append(
                dict(
                    kind=kind, world=world, seconds=seconds(problem, network),
                    efficiency=efficiency(problem, network),
                    gigabytes_sent=traffic(problem).bytes / 1e9,
                    gigabytes_held=memory(problem) / 1e9,
                )
            )  # fmt: skip
    return rows


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# The sharded Sinkhorn",
        "",
        f"Made by `python -m benches.distributed` on {result['date']}: {result['machine']}. Other "
        "work kept the processors busy and all ranks shared them: no speed-up from more ranks is "
        "to be seen here, and the times are what so many ranks took together, no more. The bytes "
        "are those of the loopback device, with the headers of TCP.",
        "",
        "## Measured: an iteration of the cross term, gloo over loopback, one thread a rank",
        "",
        "| points a side | d | ranks | costs kept | ms | MB sent per rank | by the formula |",
        "|---:|---:|---:|:--|---:|---:|---:|",
    ]
    for r in result["measured"]:
        lines.append(
            f"| {r['n']} | {r['d']} | {r['world']} | {'yes' if r['keep_costs'] else 'no'} | "
            f"{r['seconds'] * 1e3:.1f} | {r['bytes_per_rank'] / 1e6:.3f} | "
            f"{r['bytes_by_formula'] / 1e6:.3f} |"
        )
    lines += [
        "",
        "## A model, not a measurement: many GPUs",
        "",
        "`ucmkd.distributed.model` with its assumptions about the machine (a box of eight GPUs of "
        "the H100 kind up to 8 ranks, 400 Gbit/s a GPU beyond; 50 TFLOP/s in float32, 3 TB/s). "
        "No GPU has run this, and the times above do not confirm it. An iteration of the cross "
        "term in 128 dimensions:",
        "",
        "| points a side | GPUs | ms | efficiency | GB sent per GPU | GB held per GPU |",
        "|:--|---:|---:|---:|---:|---:|",
    ]
    for r in result["model"]:
        lines.append(
            f"| {r['kind']} | {r['world']} | {r['seconds'] * 1e3:.4g} | {r['efficiency']:.0%} | "
            f"{r['gigabytes_sent']:.3g} | {r['gigabytes_held']:.3g} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benches/results/distributed"))
    options = parser.parse_args()
    if any(size % max(WORLDS) for size in options.sizes):
        parser.error(f"--sizes must be multiples of {max(WORLDS)}")
    measured = []
    for n in options.sizes:
        for world in WORLDS:
            measured += measure(n, options.width, world, options.rounds)
            print(*measured[-2:], sep="\n", flush=True)
    machine = f"{_processor()}, {os.cpu_count()} processors, PyTorch {torch.__version__}"
    result = dict(
        date=date.today().isoformat(), machine=machine, measured=measured, model=modelled(128)
    )
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
