"""``ucmkd distill --watch``: the live view, plain lines elsewhere, and Ctrl-C."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from ucmkd import trainer
from ucmkd.cli import main
from ucmkd.cli_watch import BLOCKS, Watch, plain_line, sparkline, total_steps
from ucmkd.config import MethodConfig, Recipe, TrainingConfig
from ucmkd.diagnosis import ConflictWatch
from ucmkd.runlog import RunLog, read_log

QUICK = ["--teacher.steps", "20", "--training.steps", "6", "--training.eval-every", "3"]
QUICK += ["--teacher.hidden", "16", "--student.hidden", "16", "--hardware.accelerator", "cpu"]


def test_sparkline_by_hand() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([3.0, -1.0, 1.0], blocks="abc") == "cab"
    assert sparkline([2.0, 2.0], blocks="abc") == "bb"
    assert sparkline([0.0, math.nan, 1.0, math.inf], blocks="ab") == "a b "
    assert sparkline([math.nan]) == " " and sparkline([]) == ""
    # Means of stretches: (0, 2), (4, nan), (8, 8) are 1, 4, 8.
    assert sparkline([0, 2, 4, math.nan, 8, 8], width=3, blocks="01234567") == "037"
    assert len(sparkline(list(range(1000)), width=32)) == 32


def record(step: int, accuracy: float | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "step": step, "epoch": step / 10, "lr": 1e-3, "seconds": 2.0 * step,
        "loss": {"ce": 1.0 / step, "fa": 0.5}, "weighted": {"ce": 1.0 / step, "fa": 0.05},
    }  # fmt: skip
    if accuracy is not None:
        found["validation"] = {"accuracy": accuracy, "balanced_accuracy": accuracy / 2}
    return {**found, **more}


RECIPE = Recipe(name="shown", method=MethodConfig("feature_kd"), training=TrainingConfig(steps=40))


def terminal(encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=stream, force_terminal=True, width=100, legacy_windows=False)


def shown(watch: Watch) -> str:
    console = watch.console
    with console.capture() as capture:
        console.print(watch.view())
    return Text.from_ansi(capture.get()).plain


def test_view_shows_what_there_is() -> None:
    watch = Watch(RECIPE, terminal())
    assert "shown: feature_kd" in shown(watch)
    watch(record(10, 0.5, diagnostics={"gradient/cosine": -0.75, "plan/entropy": 3.0}))
    watch(record(20, 0.75))
    watch(record(30, 0.25, warning={"gradient_conflict": "gradient_conflict: at step 30"}))
    text = shown(watch)
    for part in ("step 30/40", "60 s, 20 s left", "lr 0.001", "weighted 0.05",
                 "best so far: step 20, 75.0%, balanced 37.5%",
                 "warning: gradient_conflict: at step 30", "--resume"):  # fmt: skip
        assert part in text, part
    lines = {name: line for line in text.splitlines() for name in ("ce", "validation accuracy",
             "gradient cosine", "plan entropy") if line.startswith(f"│ {name} ")}  # fmt: skip
    assert "0.03333" in lines["ce"] and "█▃▁" in lines["ce"]  # 1/10, 1/20, 1/30
    assert "25.0%" in lines["validation accuracy"] and "▅█▁" in lines["validation accuracy"]
    assert "-0.75" in lines["gradient cosine"] and "3" in lines["plan entropy"]


def test_view_without_unicode() -> None:
    watch = Watch(RECIPE, terminal("ascii"))
    for step in (10, 20, 30):
        watch(record(step, 0.5))
    assert shown(watch).isascii()


def test_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    watch = Watch(RECIPE, Console(file=stream, force_terminal=False, width=40))
    with watch:
        watch.say("a stage")
        watch(record(10, 0.5, diagnostics={"gradient/cosine": -0.75}))
        watch(record(20, warning={"gradient_conflict": "gradient_conflict: at [20]"}))
    assert stream.getvalue().splitlines() == [
        "a stage",
        "step 10/40  ce 0.1  fa 0.5  validation 50.0% (balanced 25.0%)  gradient/cosine -0.75",
        "step 20/40  ce 0.05  fa 0.5",
        "warning: gradient_conflict: at [20]",
    ]
    epochs = replace(RECIPE, training=TrainingConfig(epochs=7))
    assert total_steps(epochs, record(10)) == 70
    assert plain_line(record(10), 70).startswith("step 10/70")


def test_resumed_view_continues_the_log(tmp_path: Path) -> None:
    """Records behind the checkpoint come again, and count once."""
    log = RunLog(tmp_path, tensorboard=False)
    for step, accuracy in ((10, 0.9), (20, math.nan), (30, 0.1)):
        log(record(step, accuracy))
    log.close()
    earlier = read_log(log.path)
    assert math.isnan(earlier[1]["validation"]["accuracy"])
    watch = Watch(RECIPE, terminal(), earlier)
    watch(record(30, 0.2))
    assert watch.curves["loss"]["ce"] == [0.1, 0.05, pytest.approx(1 / 30)]
    assert watch.curves["validation"]["accuracy"][::2] == [0.9, 0.2]
    assert "best so far: step 10, 90.0%" in shown(watch)
    assert read_log(tmp_path / "absent") == []


@pytest.mark.parametrize("flag", [[], ["--watch"]])
def test_command_prints_lines_and_the_warning_once(
    flag: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    class Alarmed(ConflictWatch):
        def update(self, found: dict[str, float], step: int) -> str | None:
            return "gradient_conflict: for the test" if step == 4 else None

    monkeypatch.setattr(trainer, "ConflictWatch", Alarmed)
    words = ["distill", "digits_offline", "--out-dir", str(tmp_path), *QUICK, *flag]
    assert main([*words, "--training.diagnose-every", "2"]) == 0
    out = capsys.readouterr().out
    steps = re.findall(r"^step (\d)/6  ce [\d.]+  joint [\d.]+", out, re.MULTILINE)
    assert steps == (["2", "3", "4", "6"] if flag else [])
    assert out.count("warning: gradient_conflict: for the test") == 1
    assert not [w for w in recwarn if "gradient_conflict" in str(w.message)]  # not a second time
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "diagnostics" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "warning" in r] == [4]
    diagnosed = {"plan/entropy", "plan/residual", "gradient/cosine", "gradient/ratio"}
    found = {name for name in records[-1]["diagnostics"] if not name.startswith("certificate")}
    assert found == diagnosed
    assert "Warning: gradient_conflict" in (tmp_path / "report.html").read_text()


def test_tensorboard_has_the_diagnostics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path)
    log(record(5, diagnostics={"plan/entropy": 3.5}, warning={"gradient_conflict": "they fight"}))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (scalar,) = events.Scalars("diagnostics/plan/entropy")
    assert (scalar.step, scalar.value) == (5, 3.5)
    assert "warning/gradient_conflict/text_summary" in events.Tags()["tensors"]


def drain(master: int, into: list[bytes]) -> None:
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        into.append(part)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_ctrl_c_leaves_a_resumable_run(tmp_path: Path) -> None:
    """On a terminal, in the middle of the live view; resumed, the figures are the same."""
    settings = ["--training.steps", "150", "--training.eval-every", "10", "--teacher.steps", "20"]
    settings += ["--hardware.accelerator", "cpu", "--training.log-every", "5"]
    settings += ["--teacher.hidden", "16", "--student.hidden", "16"]
    words = [sys.executable, "-m", "ucmkd.cli", "distill", "digits_offline", *settings]
    folder = tmp_path / "stopped"
    master, slave = os.openpty()
    out: list[bytes] = []
    process = subprocess.Popen(
        [*words, "--out-dir", str(folder), "--watch"], stdout=slave,
        stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    reader = threading.Thread(target=drain, args=(master, out))
    reader.start()
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, b"".join(out).decode()
    reader.join(timeout=60)
    os.close(master)
    screen = b"".join(out).decode()
    assert "the same command with --resume goes on from the last checkpoint" in screen
    assert "╭─ digits_offline: joint_alignment" in screen and "Traceback" not in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is back
    assert not (folder / "metrics.json").exists()

    for name, flags in (("stopped", ["--resume"]), ("straight", [])):
        again = [*words, "--out-dir", str(tmp_path / name), *flags]
        subprocess.run(again, check=True, capture_output=True, timeout=300)
    for name in ("metrics.json", "student.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    steps = [json.loads(x)["step"] for x in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 151, 5))
