"""The phase diagram: every point against the model, and the picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ucmkd.theory.gaussian import GaussianModel
from ucmkd.theory.gaussian.__main__ import main
from ucmkd.theory.gaussian.phase import Phase, best_gains, phases

# Without ρ₂ = 0, where the best student is constant and shares no information with anything.
STUDENT = np.linspace(-0.97, 0.97, 22)[None, :]
SHARED = np.linspace(-0.99, 0.99, 24)[:, None]


@pytest.mark.parametrize("r1", [0.5, 0.95, -0.8])
@pytest.mark.parametrize("scale", [1.0, 1.9])
def test_every_point_against_the_model(r1: float, scale: float) -> None:
    found = phases(r1, STUDENT, SHARED, scale=scale)
    gains = best_gains(r1, STUDENT, SHARED, samples=12, scale=scale)
    for i, j in np.ndindex(found.shape):
        if found[i, j] == Phase.IMPOSSIBLE:
            assert np.isnan(gains[i, j])
            with pytest.raises(ValueError, match="no three variables"):
                GaussianModel.from_correlations(r1, STUDENT[0, j], SHARED[i, 0], samples=12)
            continue
        model = GaussianModel.from_correlations(
            r1, STUDENT[0, j], SHARED[i, 0], samples=12, scale=scale
        )
        says, helps = model.cch().says_helps, model.helps()
        if says:
            proven = (scale * r1) ** 2 <= 1
            yes = Phase.RIGHT_YES if proven else Phase.UNPROVEN
            expected = yes if helps else Phase.WRONG
        else:
            expected = Phase.CONSERVATIVE if helps else Phase.RIGHT_NO
        assert found[i, j] == expected
        assert gains[i, j] == pytest.approx(model.best_gain() / model.excess_risk(), abs=1e-9)


def test_three_points_by_hand() -> None:
    # ρ₁ = .8: c = .64 - .8ρ₂ρ₁₂ against 1 - ρ₂².
    assert phases(0.8, np.array(0.2), np.array(0.5)) == Phase.RIGHT_YES  # .56 < .96, .5 > .2
    assert phases(0.8, np.array(0.5), np.array(0.2)) == Phase.CONSERVATIVE  # .56 < .75
    assert phases(0.8, np.array(0.7), np.array(0.2)) == Phase.RIGHT_NO  # .528 > .51
    assert phases(0.8, np.array(0.9), np.array(0.0)) == Phase.IMPOSSIBLE


def test_a_calibrated_teacher_is_never_falsely_recommended() -> None:
    for r1 in np.linspace(0.01, 1.0, 40):
        found = phases(float(r1), STUDENT, SHARED)
        assert not np.isin(found, [Phase.WRONG, Phase.UNPROVEN]).any()


def test_the_command_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "phases.png"
    assert main(["--out", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 150_000
    assert str(path) in capsys.readouterr().out
    assert main(["--out", str(path), "--samples", "2"]) == 2
    assert "samples must be at least 3, got 2" in capsys.readouterr().err


def test_the_core_needs_no_extras() -> None:
    code = (
        "import sys, ucmkd.theory; "
        "print([m for m in ('matplotlib', 'scipy', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
