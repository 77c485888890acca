"""``ucmkd teachers`` as a user meets it; offline, on scikit-learn's digits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ucmkd.cli import main
from ucmkd.config import ConfigError
from ucmkd.teachers import find_comparison, load_comparison, read_samples
from ucmkd.teachers.config import shipped_comparisons

pytestmark = pytest.mark.usefixtures("one_thread")

DATA: dict[str, Any] = {
    "student": {"dataset": "digits_degraded", "view": "shape", "labels_per_class": 5},
    "teachers": {
        "sharp": {"dataset": "digits_degraded", "view": "pixels"},
        "noisy": {"dataset": "digits_degraded", "view": "noise24"},
    },
}
UNPAIRED: dict[str, Any] = {
    "student": {"dataset": "digits_shape", "labels_per_class": 5},
    "teachers": {"pixels": {"dataset": "digits_pixels"}},
}


def written(folder: Path, mapping: dict[str, Any]) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return str(path)


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a user error."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ucmkd: error: ")
    return line


def ranks(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_ranking_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["teachers", written(tmp_path, {"data": DATA}), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.index("sharp") < shown.index("noisy")
    assert "50 of them labelled" in shown
    rows = ranks(tmp_path / "out" / "teachers.csv")
    assert [row["teacher"] for row in rows] == ["sharp", "noisy"]
    assert float(rows[0]["margin"]) > float(rows[1]["margin"])
    for row in rows:
        assert float(row["low"]) <= float(row["margin"]) <= float(row["high"])
    assert (tmp_path / "out" / "teachers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rule", ["cch", "gaussian", "gaussian_own", "accuracy", "cka", "snr"])
def test_other_rules(rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"data": DATA, "subsamples": 20, "rule": "mmd"})
    assert main(["teachers", path, "--rule", rule, "--out", str(tmp_path / "out")]) == 0
    rows = ranks(tmp_path / "out" / "teachers.csv")
    assert {row["rule"] for row in rows} == {rule}
    assert rows[0]["teacher"] == "sharp"
    assert f"by rule {rule}" in capsys.readouterr().out


def test_without_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path, {"data": UNPAIRED}), str(tmp_path / "out")
    line = failure(capsys, "teachers", path, "--out", out)
    assert "pixels shares none with the student" in line and "class-conditional surrogate" in line
    words = ["teachers", path, "--out", out, "--rule", "cch", "--pairing", "class"]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Class-conditional surrogate" in shown and "cannot tell" in shown
    assert ranks(tmp_path / "out" / "teachers.csv")[0]["pairing"] == "class"
    assert main(["teachers", path, "--out", out, "--rule", "accuracy"]) == 0
    assert ranks(tmp_path / "out" / "teachers.csv")[0]["rule"] == "accuracy"


def test_rows_of_all_views_are_the_same_samples(tmp_path: Path) -> None:
    data = {**DATA, "teachers": {"pixels": {"dataset": "digits_degraded", "view": "pixels"}}}
    found = read_samples(load_comparison(written(tmp_path, {"data": data})))
    images = found.teachers["pixels"].reshape(-1, 8, 8)
    # The last 16 shape numbers are the row and column sums of the same image.
    torch.testing.assert_close(found.student[:, -16:-8], images.sum(2))
    torch.testing.assert_close(found.student[:, -8:], images.sum(1))
    assert (found.labels >= 0).sum() == 50 and (found.labels[:50] >= 0).all()
    mine = {tuple(row) for row in found.own["pixels"][0].tolist()}
    assert not mine & {tuple(row) for row in found.teachers["pixels"].tolist()}


def test_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    good = np.eye(3)[y] * 4 + rng.standard_normal((120, 3))
    student = np.eye(3)[y] + rng.standard_normal((120, 3))
    y[60:] = -1
    file = tmp_path / "views.npz"
    np.savez(file, y=y, student=student, good=good, bad=rng.standard_normal((120, 2)))
    path = written(tmp_path, {"arrays": {"file": str(file), "student": "student"}})
    assert main(["teachers", path, "--rule", "accuracy", "--out", str(tmp_path / "out")]) == 0
    assert [r["teacher"] for r in ranks(tmp_path / "out" / "teachers.csv")] == ["good", "bad"]
    capsys.readouterr()
    for arrays, message in (
        ({"file": str(file), "student": "studnt"}, "no array 'studnt'; did you mean 'student'?"),
        ({"file": str(file), "teachers": ["good", "good"]}, "names that occur once each"),
        ({"file": str(file), "teachers": ["student"]}, "which is the student"),
        ({"file": str(tmp_path / "none.npz")}, "there is no such file"),
    ):
        line = failure(capsys, "teachers", written(tmp_path, {"arrays": arrays}))
        assert message in line
    path = written(tmp_path, {"arrays": {"file": str(file)}})
    for labels, got in (
        (y * 1.0, "float64 (120,)"),
        (y > 0, "bool (120,)"),
        (y[:, None], "int64 (120, 1)"),
        (y.astype(str), "<U21 (120,)"),
    ):
        np.savez(file, y=labels, student=student, good=good)
        line = failure(capsys, "teachers", path)
        assert "arrays.labels: " in line
        assert f"y must be integers (n,), -1 where unknown, got {got}" in line
    for kind in ("int8", ">i4"):
        np.savez(file, y=y.astype(kind), student=student, good=good)
        assert main(["teachers", path, "--rule", "accuracy", "--out", str(tmp_path / "out")]) == 0


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "did you mean 'digits'" in failure(capsys, "teachers", "digit")
    assert "comes first" in failure(capsys, "teachers", "--rule", "cch")
    assert "exactly one of data and arrays" in failure(capsys, "teachers", written(tmp_path, {}))
    same = {**DATA, "teachers": {"own": {"dataset": "digits_degraded", "view": "shape"}}}
    line = failure(capsys, "teachers", written(tmp_path, {"data": same}), *out)
    assert "another modality than the student's" in line
    twice = {**DATA, "teachers": {name: DATA["teachers"]["sharp"] for name in "ab"}}
    line = failure(capsys, "teachers", written(tmp_path, {"data": twice}), *out)
    assert "teachers.b must differ from teachers.a" in line
    none = {**DATA, "teachers": {}}
    assert "at least one named teacher" in failure(
        capsys, "teachers", written(tmp_path, {"data": none})
    )
    path = written(tmp_path, {"data": DATA})
    assert "method must be auto or one of" in failure(
        capsys, "teachers", path, "--rule", "cch", "--method", "ksgg", *out
    )
    (tmp_path / "twice.yaml").write_text(
        "data:\n  teachers:\n    a: {view: pixels}\n    a: {view: shape}\n"
    )
    line = failure(capsys, "teachers", str(tmp_path / "twice.yaml"))
    assert "line 4: the key 'a' appears twice" in line


def test_shipped_configurations_are_read() -> None:
    assert {"brca", "mfeat", "digits", "speech", "arrays"} == set(shipped_comparisons())
    for name in shipped_comparisons():
        assert load_comparison(find_comparison(name)).name == name
    with pytest.raises(ConfigError, match="shipped: arrays"):
        find_comparison("nothing like it")


def test_shards_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    data = {**UNPAIRED, "teachers": {"far": {"dataset": str(folder)}}}
    line = failure(capsys, "teachers", written(tmp_path, {"data": data, "rule": "accuracy"}))
    assert "data.teachers.far.dataset must be a data set in memory" in line
    assert str(folder) in line
