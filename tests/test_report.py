"""The report of a run: complete, well formed, self-contained, legible in both colour schemes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ucmkd import checkpoint, distill, report
from ucmkd.batches import TrainingData
from ucmkd.cli import main
from ucmkd.config import MethodConfig, Recipe
from ucmkd.distill import RunResult
from ucmkd.metrics import Metrics, classification_metrics, confusion_matrix
from ucmkd.report import report_html, write_report
from ucmkd.report_figures import panels, svg
from ucmkd.report_page import STYLE

NAMES = ("basal", 'lum <A> & "B"', "never")
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects what the tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [v for k, v in given.items() if k in ("href", "xlink:href", "src")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row[:1] == [name])


def record(step: int, **more: Any) -> dict[str, Any]:
    loss = {"ce": 2.0 / step, "fa": 1.0 + step % 3}
    weighted = {"ce": loss["ce"], "fa": 0.1 * loss["fa"]}
    return {
        "step": step, "epoch": step / 4, "lr": 1e-3, "seconds": 0.1 * step, "loss": loss,
        "weighted": weighted, **more,
    }  # fmt: skip


def score(step: int) -> dict[str, Any]:
    return {
        "accuracy": 0.5 + step / 100, "balanced_accuracy": 0.4, "recall": [0.5, math.nan],
        "loss": 1.0, "count": 7,
    }  # fmt: skip


RECORDS = [
    record(1, diagnostics={"gradient/cosine": -0.25, "gradient/cosine_fa": 0.5}),
    record(2, validation=score(2), diagnostics={"gradient/cosine": math.nan, "plan/entropy": 3.0}),
    record(5, diagnostics={"certificate/bound": 1.5, "certificate/w1": 0.5, "plan/entropy": 2.0}),
    record(6, validation=score(6), warning={"gradient_conflict": "gradient_conflict: at <6>"}),
]


def made(folder: Path) -> tuple[Recipe, RunResult, TrainingData, TrainingData]:
    label = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 1, 2, 0, 1]), 3).float()
    data = TrainingData(
        3, torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), torch.zeros(7, 4),
        torch.zeros(7, dtype=torch.int64), torch.zeros(8, 4), label, unlabelled=torch.zeros(21, 4),
    )  # fmt: skip
    teacher = TrainingData(3, torch.zeros(33, 2, 5), torch.arange(33) % 3)
    result = RunResult(
        test=classification_metrics(logits, label, 3),
        validation=Metrics(0.625, 0.5, (0.5, 0.5, math.nan), 1.25, 7),
        teacher=Metrics(0.875, 0.75, (1.0, 0.5, 0.75), 0.5, 11),
        best_step=6,
        steps=6,
        class_names=NAMES,
        folder=folder,
        confusion=confusion_matrix(logits, label, 3),
    )
    return Recipe(name="a <run>"), result, data, teacher


def test_report_says_what_was_measured(tmp_path: Path) -> None:
    recipe, result, data, teacher = made(tmp_path)
    html = report_html(recipe, result, data, teacher, RECORDS, ["teacher: loaded from <here>"])
    found = Reader(html)
    # Counted by hand from the eight samples above: 5 right; recall 2/4 and 3/4.
    heads = found.row("")
    test = dict(zip(heads, found.row("student, test"), strict=True))
    assert [test[head] for head in heads[:4]] == ["student, test", "8", "62.5%", "62.5%"]
    assert test["cross-entropy, nats"] == f"{result.test.loss:.3f}"
    assert test["ECE"] == f"{100 * result.test.ece:.1f}%"
    assert test["macro F1"] == f"{100 * result.test.macro_f1:.1f}%"
    validation = dict(zip(heads, found.row("student, validation"), strict=True))
    assert validation["cross-entropy, nats"] == "1.250" and validation["ECE"] == "–"
    assert [validation[head] for head in heads[1:4]] == ["7", "62.5%", "50.0%"]
    assert found.row("teacher, validation (its modality)")[2] == "87.5%"
    assert "30.6% to 86.3%" in found.text  # Wilson interval of 5 in 8
    heads = [row[0] for row in found.rows]
    at = heads.index("basal")
    assert found.rows[at : at + 3] == [
        ["basal", "3", "4", "50.0%"], [NAMES[1], "2", "4", "75.0%"], ["never", "1", "0", "–"]
    ]  # fmt: skip
    at = heads.index("basal", at + 1)  # the confusion matrix
    assert found.rows[at - 1] == ["", *NAMES]
    assert found.rows[at : at + 3] == [
        ["basal", "2", "1", "1"], [NAMES[1], "1", "3", "0"], ["never", "0", "0", "0"]
    ]  # fmt: skip
    assert found.row("student")[1:] == ["digits", "4", "6", "21", "–", "7", "8"]
    assert found.row("teacher")[1:] == ["digits", "2 × 5", "33", "–", "–", "–", "–"]
    for text in ("Warning: gradient_conflict: at <6>", "teacher: loaded from <here>",
                 "name: a <run>", "lr: 0.001", "Weights of step 6 of 6"):  # fmt: skip
        assert text in found.text


def test_report_is_one_well_formed_file_that_fetches_nothing(tmp_path: Path) -> None:
    html = report_html(*made(tmp_path), RECORDS)
    found = Reader(html)
    assert html.startswith("<!DOCTYPE html>") and html.count("<!DOCTYPE") == 1
    assert found.count["html"] == found.count["body"] == found.count["title"] == 1
    assert found.count["svg"] == found.count["figure"] == len(panels(RECORDS)) == 6
    assert len(found.ids) == len(set(found.ids)) > 0
    assert found.links and all(link[0] == "#" and link[1:] in found.ids for link in found.links)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(found.ids)
    assert "script" not in found.count and "link" not in found.count and "img" not in found.count
    assert "://" not in html and "@import" not in html
    assert "default-src 'none'" in html


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_are_legible_in_both_schemes(tmp_path: Path) -> None:
    """WCAG 2: text at least 4.5 to 1, lines of a plot at least 3 to 1."""
    html = report_html(*made(tmp_path), RECORDS)
    used = set(re.findall(r"var\(--([\w-]+)", html))
    for part in STYLE.split("@media"):
        scheme = dict(re.findall(r"--([\w-]+): ([^;]+);", part))
        assert used <= scheme.keys()
        for name in ("ink", "soft", "warn"):
            assert contrast(scheme[name], scheme["page"]) >= 4.5, name
        for number in range(1, 7):
            assert contrast(scheme[f"series-{number}"], scheme["page"]) >= 3, number
        # The darkest cell of the confusion matrix: 60 % tint over the page.
        tint, page = scheme["tint"].split(), scheme["page"]
        mixed = [
            round(0.6 * int(t) + 0.4 * int(page[i : i + 2], 16))
            for t, i in zip(tint, (1, 3, 5), strict=True)
        ]
        assert contrast("#" + "".join(f"{c:02x}" for c in mixed), scheme["ink"]) >= 3
    plots = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "currentColor" in plots and "--series-2" in plots
    assert not re.findall(r"(?:stroke|fill): ?#", plots)  # no colour of one scheme alone


def test_panels_group_the_scalars() -> None:
    found = {panel.title: panel.curves for panel in panels(RECORDS, 6)}
    assert found["Terms of the loss"]["ce"] == [(1, 2.0), (2, 1.0), (5, 0.4), (6, 2.0 / 6)]
    assert found["Weighted terms"]["fa"][0] == (1, pytest.approx(0.2))
    assert found["Validation"] == {
        "accuracy": [(2, 0.52), (6, 0.56)], "balanced accuracy": [(2, 0.4), (6, 0.4)]
    }  # fmt: skip
    assert found["Gradient: cosine"] == {"cosine": [(1, -0.25)], "cosine_fa": [(1, 0.5)]}
    assert found["Plan: entropy"] == {"entropy": [(2, 3.0), (5, 2.0)]}
    assert found["Certificate"] == {"bound": [(5, 1.5)], "w1": [(5, 0.5)]}  # any named scalar
    same = [{**r, "weighted": r["loss"]} for r in RECORDS]
    assert "Weighted terms" not in {panel.title for panel in panels(same)}
    assert panels([]) == []


def test_the_drawn_curve_is_the_logged_one() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 5.0]
    records = [record(10 * i, loss={"ce": v}) for i, v in enumerate(values, start=1)]
    text = svg(panels(records)[0], "one")
    path = re.search(r'id="one-line2d_\d+">\s*<path d="([^"]*)"[^>]*var\(--series-1\)', text)
    assert path is not None
    x, y = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), float).T
    for drawn, logged in ((x, np.arange(1, 6)), (-y, np.array(values))):
        scaled = (drawn - drawn[0]) / (drawn[-1] - drawn[0])
        expected = (logged - logged[0]) / (logged[-1] - logged[0])
        assert scaled == pytest.approx(expected, abs=1e-4)
    assert text == svg(panels(records)[0], "one")  # no date, no random ids


def test_report_of_little(tmp_path: Path) -> None:
    """No teacher, no log, no test confusion (an older run), a placebo."""
    recipe, result, data, _ = made(tmp_path)
    recipe = replace(recipe, method=MethodConfig("ce", placebo=True))
    path = write_report(recipe, replace(result, teacher=None, confusion=None), data, None)
    found = Reader(path.read_text(encoding="utf-8"))
    assert "svg" not in found.count and "A placebo" in found.text and "Confusion" not in found.text
    assert "a <run>: ce (placebo)" in found.text


def test_distill_writes_the_report_before_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = checkpoint.write_atomically

    def kept(path: Path, content: bytes) -> None:
        real(path, content)
        written.append(path.name)

    for module in (distill, report):
        monkeypatch.setattr(module, "write_atomically", kept)
    words = ["distill", "digits_offline", "--out-dir", str(tmp_path), "--training.steps", "6"]
    words += ["--training.eval-every", "3", "--training.log-every", "2", "--teacher.steps", "20"]
    assert main([*words, "--hardware.accelerator", "cpu"]) == 0
    assert written[-2:] == ["report.html", "metrics.json"]
    assert not list(tmp_path.glob("*.tmp"))

    figures = json.loads((tmp_path / "metrics.json").read_text())
    counts = np.array(figures["confusion"])
    assert counts.shape == (10, 10) and counts.sum() == figures["test"]["count"]
    assert counts.trace() / counts.sum() == pytest.approx(figures["test"]["accuracy"])
    assert counts.diagonal() / counts.sum(1) == pytest.approx(figures["test"]["recall"])
    found = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert found.row("student, test")[2] == f"{figures['test']['accuracy']:.1%}"
    assert found.row("teacher")[1] == "digits, pixels" and "teacher: training on" in found.text
    assert found.row("3")[3] == f"{figures['test']['recall'][3]:.1%}"
    # Terms, weighted terms, validation, entropy, residual, cosine, ratio, two of the certificate.
    assert found.count["svg"] == 9
    again = distill.distill(distill.load_recipe(tmp_path / "recipe.yaml"), resume=True)
    assert again.already_finished and again.confusion == tuple(map(tuple, figures["confusion"]))
