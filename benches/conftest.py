"""Options of the benchmarks, the pinning of threads, and the report at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benches import report

SIZES = (64, 256, 1024, 4096)
RESULTS = Path(__file__).parent / "results"


@dataclass
class Session:
    """What the tests of this run share."""

    threads: int
    rounds: int
    tables: list[report.Table] = field(default_factory=list)
    start_load: tuple[float, ...] = ()


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
    group.addoption("--save", nargs="?", const="", default=None, metavar="FILE",
                    help="write a JSON file (default: benches/results/DATE.json); the "
                    "environment variable UCMKD_BENCH_SAVE=1 does the same")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    threads, rounds = config.getoption("--threads"), config.getoption("--rounds")
    if rounds < 1:
        raise pytest.UsageError(f"--rounds must be at least 1; got {rounds}")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= threads <= len(cores):
            raise pytest.UsageError(f"--threads must be 1 to {len(cores)} here; got {threads}")
        os.sched_setaffinity(0, cores[:threads])
    # Before any of the libraries is imported; XLA reads NPROC.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        os.environ[name] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

    import torch

    torch.set_num_threads(threads)
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    config.stash[_SESSION] = Session(threads, rounds, start_load=load)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "n" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--sizes")
        smallest = 256 if metafunc.function.__name__ == "test_mmd" else 0
        metafunc.parametrize("n", asked or [size for size in SIZES if size >= smallest])


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    yield request.config.stash[_SESSION]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    session = config.stash[_SESSION]
    if not session.tables:
        return
    data = report.document(session.tables, session.threads, session.start_load)
    terminalreporter.section("ucmkd and its peers")
    terminalreporter.write(report.text(data))
    where = config.getoption("--save")
    if where is None and os.environ.get("UCMKD_BENCH_SAVE", "0") not in ("", "0"):
        where = ""
    if where is not None:
        path = report.save(data, Path(where) if where else RESULTS)
        terminalreporter.write_line(f"written: {path}")
