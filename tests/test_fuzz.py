"""A few seconds of the fuzzer in every run; ``make nightly`` gives it an hour."""

import subprocess
import sys
from pathlib import Path

from fuzz.__main__ import drawn


def test_some_seconds_of_fuzzing(tmp_path: Path) -> None:
    """In a process of its own: a crash is a failure with the number of its case."""
    state = tmp_path / "case"
    command = [sys.executable, "-m", "fuzz", "--seconds", "10", "--state", str(state)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    case = state.read_text().strip() if state.exists() else "none"
    assert done.returncode == 0, f"case {case}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    count = int(done.stdout.splitlines()[-1].split()[0])
    assert count >= 100, done.stdout


def test_a_case_is_its_number() -> None:
    """The number printed with a failure brings the same call back."""
    for seed in range(60):
        (call, arguments, options), _, _ = drawn(seed)
        (again, others, keywords), _, _ = drawn(seed)
        assert call is again and len(arguments) == len(others)
        assert repr((arguments, options)) == repr((others, keywords))
