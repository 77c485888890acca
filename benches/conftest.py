"""Options of the benchmarks, the pinning of threads, and the report at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import report, timing

SIZES = (64, 256, 1024, 4096)
RESULTS = Path(__file__).parent / "results"


@dataclass
class Session:
    """What the tests of this run share."""

    threads: int
    rounds: int
    cap: float = timing.CAP
    only: tuple[str, ...] = ()
    tables: list[report.Table] = field(default_factory=list)
    sections: list[report.Section] = field(default_factory=list)
    start_load: tuple[float, ...] = ()

    def wanted(self, name: str) -> bool:
        """Whether a contestant of this name takes part."""
        return not self.only or any(part in name.lower() for part in self.only)


_SESSION = pytest.StashKey[Session]()


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if not all(size >= 2 for size in sizes):
        raise ValueError(text)
    return sizes


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ucmkd benchmarks")
    group.addoption(
        "--sizes",
        type=_sizes,
        default=None,
        metavar="N,N",
        help="numbers of points (default 64,256,1024,4096; MMD without the 64)",
    )
    group.addoption(
        "--threads",
        type=int,
        default=2,
        help="threads of every contestant, and cores of the process (default 2)",
    )
    group.addoption(
        "--rounds",
        type=int,
        default=25,
        help="most rounds of a case; slow contestants get fewer (default 25)",
    )
    group.addoption(
        "--only",
        type=lambda text: tuple(part.strip().lower() for part in text.split(",")),
        default=(),
        metavar="NAME,NAME",
        help="contestants whose names contain one of these ('ours' is this package)",
    )
    group.addoption(
        "--budget",
        type=float,
        default=timing.CAP,
        metavar="SECONDS",
        help="a call that takes longer is the only one of its contestant; one that takes twice "
        f"as long is stopped where it can be (default {timing.CAP:g})",
    )
    group.addoption("--save", nargs="?", const="", default=None, metavar="FILE",
                    help="write a JSON file (default: benches/results/DATE.json); the "
                    "environment variable UCMKD_BENCH_SAVE=1 does the same")  # fmt: skip


def pin(threads: int) -> None:
    """So many cores, and as many threads for every library; before any of them is imported."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= threads <= len(cores):
            raise ValueError(f"--threads must be 1 to {len(cores)} here; got {threads}")
        os.sched_setaffinity(0, cores[:threads])
    # XLA reads NPROC.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        os.environ[name] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # KeOps compiles for any x86-64 otherwise: 2.7 times slower here. Its own cache, because an
    # object that was compiled with other flags would be taken.
    os.environ["CXXFLAGS"] = "-march=native -ffast-math"
    os.environ["KEOPS_CACHE_FOLDER"] = str(Path.home() / ".cache" / "ucmkd-bench-keops")

    import torch

    torch.set_num_threads(threads)


def pytest_configure(config: pytest.Config) -> None:
    threads, rounds = config.getoption("--threads"), config.getoption("--rounds")
    if rounds < 1:
        raise pytest.UsageError(f"--rounds must be at least 1; got {rounds}")
    try:
        pin(threads)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    only = tuple("ucmkd" if part == "ours" else part for part in config.getoption("--only"))
    cap = config.getoption("--budget")
    config.stash[_SESSION] = Session(threads, rounds, cap, only, start_load=load)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "n" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--sizes")
        smallest = 256 if metafunc.function.__name__ == "test_mmd" else 0
        metafunc.parametrize("n", asked or [size for size in SIZES if size >= smallest])


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    yield request.config.stash[_SESSION]


@pytest.fixture
def compete(benchmark: BenchmarkFixture, session: Session) -> Callable[..., None]:
    """Lets contestants take turns at a case, and adds the table."""

    def run(
        contestants: Sequence[timing.Contestant],
        case: Any,
        *,
        title: str,
        operator: str,
        n: int,
        setting: str,
        measure: str,
        bounds: tuple[float, float],
        target: float | None = None,
        stop: float = timing.STOP,
    ) -> None:
        benchmark.group = f"{operator}, {setting}"
        chosen = [c for c in contestants if session.wanted(c.name)]
        if not chosen:
            pytest.skip(f"no contestant is called {', '.join(session.only)}")
        rows, ready = timing.race(
            chosen, case, rounds=session.rounds, bounds=bounds, timed=benchmark.enabled,
            cap=session.cap, stop=stop,
        )  # fmt: skip
        session.tables.append(
            report.Table(title, operator, n, setting, measure, bounds, rows, target)
        )
        benchmark.extra_info["contestants"] = [row.as_dict() for row in rows]
        shown = measure if session.wanted(measure) else next(iter(ready), "")
        assert shown in ready, rows
        slow = any(row.name == shown and (row.median or 0) > 1 for row in rows)
        benchmark.pedantic(
            ready[shown].run, rounds=1 if slow else min(5, session.rounds),
            warmup_rounds=0 if slow else 1,
        )  # fmt: skip
        assert all(row.accurate for row in rows if row.name == measure), rows

    return run


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = config.stash[_SESSION]
    if not session.tables and not session.sections:
        return
    data = report.document(session.tables, session.threads, session.start_load, session.sections)
    terminalreporter.section("ucmkd and its peers")
    terminalreporter.write(report.text(data))
    where = config.getoption("--save")
    if where is None and os.environ.get("UCMKD_BENCH_SAVE", "0") not in ("", "0"):
        where = ""
    if where is not None:
        path = report.save(data, Path(where) if where else RESULTS)
        terminalreporter.write_line(f"written: {path}")
