"""The sharded operators over gloo: time, bytes sent and memory with 1, 2 and 4 processes.

    python -m benches.distributed [--sizes 1024 2048] [--memory-sizes 4096 8192]
                                  [--out benches/results/distributed]

Each process is one rank with one thread. An iteration of the cross term is the difference between
solves of 2 and of 8 iterations that cannot stop earlier, so that checks, mean cost and gradient
cancel; its time is the least of several rounds, on all ranks together. The bytes are those that
the loopback device of Linux counted (its headers with them), per rank. Memory is what value and
gradient add to the resident set of a rank at the most (:mod:`benches.memory`), the largest over
the ranks, each run in fresh processes. Beside them: what :mod:`ucmkd.distributed.model` says, and
then the same model for many GPUs, which is not a measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benches.memory import peak_growth
from benches.report import _processor
from ucmkd.distributed import sharded_mmd_align, sharded_sinkhorn_align
from ucmkd.distributed._costs import TILE
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


def _meet(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )


def _clouds(rank: int, rows: int, d: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(rank)
    x, y = (torch.randn(rows, d, generator=source) + shift for shift in (0.0, 0.2))
    return x, y


def _rank(rank: int, world: int, folder: str, n: int, d: int, rounds: int) -> None:
    _meet(rank, world, folder)
    x, y = _clouds(rank, n // world, d)

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


#: What is measured, by name: a loss of this rank's rows. Few iterations need as much as many.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sinkhorn": lambda x, y: sharded_sinkhorn_align(x, y, debias=False, tol=0.0, max_iter=2),
    "Sinkhorn, costs kept": lambda x, y: sharded_sinkhorn_align(
        x, y, debias=False, tol=0.0, max_iter=2, keep_costs=True
    ),
    "MMD": sharded_mmd_align,
}


def _memory_rank(rank: int, world: int, folder: str, n: int, d: int, name: str) -> None:
    _meet(rank, world, folder)

    def solve(x: Tensor, y: Tensor) -> None:
        x.requires_grad_()
        LOSSES[name](x, y).backward()

    solve(*_clouds(rank, 64, d))  # loads what is loaded once
    # The rows themselves are counted, as the formula does.
    growth = peak_growth(lambda: solve(*_clouds(rank, n // world, d)))
    Path(folder, str(rank)).write_text(str(growth))
    dist.barrier()
    dist.destroy_process_group()


def measure_memory(n: int, d: int, world: int, name: str) -> dict[str, Any]:
    """The most that a rank's resident memory grows in one loss with its gradient."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, folder, n, d, name)
        mp.start_processes(_memory_rank, arguments, nprocs=world, start_method="fork")
        growth = max(int(Path(folder, str(rank)).read_text()) for rank in range(world))
    said = memory(Problem(n, n, d, world), keep_costs=name.endswith("kept"))
    return dict(
        loss=name, n=n, d=d, world=world, growth=growth, by_formula=said, matrix=4 * n * n
    )  # fmt: skip


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
        "# The sharded operators",
        "",
        f"Made by `python -m benches.distributed` on {result['date']}: {result['machine']}. All "
        f"ranks share these {result['processors']} processors, one thread each, and nothing else "
        "was running: more ranks than processors take turns, so that 4 ranks cannot be faster than "
        f"{result['processors']}. The bytes are those of the loopback device, with the headers of "
        "TCP.",
        "",
        "## Measured: an iteration of Sinkhorn's cross term, gloo over loopback, one thread a rank",
        "",
        "| points a side | d | ranks | costs kept | ms | times one rank | MB sent per rank | "
        "by the formula |",
        "|---:|---:|---:|:--|---:|---:|---:|---:|",
    ]
    alone = {(r["n"], r["d"], r["keep_costs"]): r["seconds"] for r in result["measured"]
             if r["world"] == 1}  # fmt: skip
    for r in result["measured"]:
        times = r["seconds"] / alone[r["n"], r["d"], r["keep_costs"]]
        lines.append(
            f"| {r['n']} | {r['d']} | {r['world']} | {'yes' if r['keep_costs'] else 'no'} | "
            f"{r['seconds'] * 1e3:.1f} | {times:.2f} | {r['bytes_per_rank'] / 1e6:.3f} | "
            f"{r['bytes_by_formula'] / 1e6:.3f} |"
        )
    lines += [
        "",
        "## Measured: memory of a rank",
        "",
        "By how much the resident memory of a process grows at the most in one loss with its "
        "gradient, the largest over the ranks, in fresh processes, the rank's rows included: what "
        "the allocator and the exchange take is in it. The formula (`model.memory`) has rows, "
        f"passing blocks, masses and potentials; a tile of 2^{TILE.bit_length() - 1} numbers "
        f"({4 * TILE / 1e6:.0f} MB) and what is computed from it come on top, most "
        "of it temporaries. The matrix is what an operator that is not sharded would hold.",
        "",
        "| loss | points a side | d | ranks | MB per rank | by the formula, without tiles | "
        "MB of the n × m matrix |",
        "|:--|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["memory"]:
        lines.append(
            f"| {r['loss']} | {r['n']} | {r['d']} | {r['world']} | {r['growth'] / 1e6:.1f} | "
            f"{r['by_formula'] / 1e6:.1f} | {r['matrix'] / 1e6:.0f} |"
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
    parser.add_argument("--memory-sizes", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benches/results/distributed"))
    options = parser.parse_args()
    if any(size % max(WORLDS) for size in (*options.sizes, *options.memory_sizes)):
        parser.error(f"--sizes and --memory-sizes must be multiples of {max(WORLDS)}")
    measured = []
    for n in options.sizes:
        for world in WORLDS:
            measured += measure(n, options.width, world, options.rounds)
            print(*measured[-2:], sep="\n", flush=True)
    held = []
    for n in options.memory_sizes:
        for name in LOSSES:
            for world in WORLDS:
                held.append(measure_memory(n, options.width, world, name))
                print(held[-1], flush=True)
    machine = f"{_processor()}, {os.cpu_count()} processors, PyTorch {torch.__version__}"
    result = dict(
        date=date.today().isoformat(), machine=machine, processors=os.cpu_count(),
        measured=measured, memory=held, model=modelled(128),
    )  # fmt: skip
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
