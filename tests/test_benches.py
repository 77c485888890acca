"""The benchmarks still fit the package that they time; their times are nobody's business here."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import benches
import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(benches.__path__, "benches.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_importable_without_the_peers(name: str) -> None:
    importlib.import_module(name)


def test_our_own_contestants_run() -> None:
    """Every case but the two of fixed large size, on tiny problems, peers left out."""
    options = {"--sizes": "24", "--only": "ours", "--rounds": "1", "--threads": "1"}
    cases = ["-k", "not streaming and not machine"]
    command = [sys.executable, "-m", "pytest", "benches", "-q", *cases]
    run = subprocess.run(
        [*command, *(word for option in options.items() for word in option)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "fastest accurate peer" in run.stdout
