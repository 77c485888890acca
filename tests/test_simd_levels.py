"""Every vector instruction set that this machine has, forced in turn, against float64 torch."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from simd_cases import DTYPES, names, solve
from ucmkd import _rust

pytestmark = pytest.mark.usefixtures("one_thread")
LEVELS = _rust.simd_levels()
#: Of the largest entry: value, then potentials and gradients.
BOUNDS = {torch.float32: (1e-5, 2e-4), torch.float64: (1e-10, 1e-7)}


@cache
def expected(name: str) -> dict[str, Tensor]:
    return solve(name, "torch", torch.float64)


def run(code: list[str], level: str) -> str:
    environment = os.environ | {"UCMKD_SIMD": level}
    done = subprocess.run(
        [sys.executable, *code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("level", LEVELS)
def test_level_against_the_reference(level: str, tmp_path: Path) -> None:
    run([str(Path(__file__).with_name("simd_cases.py")), str(tmp_path / "out")], level)
    saved = torch.load(tmp_path / "out")
    assert saved["level"] == level
    assert len(saved["results"]) == len(DTYPES) * len(list(names()))
    for name in names():
        for dtype in DTYPES:
            found, wanted = saved["results"][f"{name} {dtype}"], expected(name)
            assert found.keys() == wanted.keys()
            for key, value in found.items():
                size = max(float(wanted[key].abs().max()), 1e-2)
                bound = BOUNDS[dtype][key != "value"] * size
                gap = float((value - wanted[key]).abs().max())
                assert gap <= bound, f"{name} {dtype} {key}: {gap:.1e} > {bound:.1e}"


def test_the_choice_of_a_level() -> None:
    """A lower level is taken, an unknown name or one that the machine lacks is not."""
    # The extension alone, by its path: PyTorch takes seconds to import.
    code = [
        "-c",
        "from importlib.util import module_from_spec as new, spec_from_file_location as spec\n"
        f"found = spec('_rust', {_rust.__file__!r})\n"
        "module = new(found)\n"
        "found.loader.exec_module(module)\n"
        "print(module.simd_level())",
    ]
    for level in LEVELS:
        assert run(code, level.upper() + " ") == level
    assert run(code, "sse9") == LEVELS[-1]
    missing = {"avx2", "avx512", "neon"} - set(LEVELS)
    for level in missing:
        assert run(code, level) in LEVELS
