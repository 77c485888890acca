"""Fixtures: every test of an operator runs on every backend that this machine has."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# What starts in the background of a shell script ignores Ctrl-C, and so would what tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread per process keeps small problems fast and the run repeatable.
torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(params=["torch", "rust"])
def backend(request: pytest.FixtureRequest) -> str:
    # Never skipped: the package is built with its Rust extension, or it is broken.
    return request.param


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("UCMKD_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("UCMKD_DATA does not point to a folder with the evaluation data")
    return Path(root)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests of many small problems, which two threads only slow down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    try:
        from property_testing import PROFILE, RAN
    except ImportError:  # without hypothesis there are no properties
        return
    if RAN:
        terminalreporter.write_line(
            f"{sum(RAN.values())} examples of {len(RAN)} properties (profile {PROFILE})"
        )
