"""The curves of a training as inline SVG, whose colours follow the page they stand in."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .diagnosis import CONFLICT_COSINE

Points = list[tuple[int, float]]

# What matplotlib draws with, and what stands for it in the page's style sheet.
INK = "#000001"
SERIES = tuple(f"#00000{number}" for number in range(2, 8))
STYLE = {INK: "currentColor"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES, start=1)}

#: What the package's own diagnoses mean; the curves that share a plot share its key.
CAPTIONS = {
    "gradient/cosine": "Cosine between the gradients of cross-entropy and alignment on the "
    "student's shared parameters. Below 0 they disagree; a mean below "
    f"{CONFLICT_COSINE:g} (dotted) is warned of.",
    "gradient/ratio": "Length of the alignment's gradient over that of the cross-entropy's.",
    "plan/entropy": "Entropy of the transport plan in nats: for n student and m teacher samples "
    "log nm when it knows nothing, log max(n, m) when it is as sharp as can be.",
    "certificate": "Terms of the bound on the student's error, nats, on validation samples: "
    "entropy + feature alignment + label alignment = bound; the logit and the kernel bound are "
    "the same with other measures of feature alignment.",
    "certificate_transfer": "The bound without the student's logits: the teacher's head on the "
    "student's features, by teacher's error + class-wise alignment + prior mismatch, nats.",
    "plan/residual": "How far the plan's marginals are from the masses (L1, relative).",
}


@dataclass(frozen=True)
class Panel:
    """One plot: a title, a sentence, and named curves of (step, value)."""

    title: str
    caption: str
    curves: dict[str, Points]
    percent: bool = False
    level: float | None = None
    mark: int | None = None


def curves(records: Sequence[Mapping[str, Any]], group: str) -> dict[str, Points]:
    """The finite numbers of one group of the log's records, by name."""
    found: dict[str, Points] = {}
    for record in records:
        for name, value in record.get(group, {}).items():
            # A damaged line may hold an integer that no float can.
            if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
                found.setdefault(name, []).append((record["step"], float(value)))
    return found


def panels(records: Sequence[Mapping[str, Any]], best_step: int | None = None) -> list[Panel]:
    """What there is to draw in a log: terms, weighted terms, validation, diagnoses."""
    loss, weighted = curves(records, "loss"), curves(records, "weighted")
    found = [Panel("Terms of the loss", "Unweighted means since the line before.", loss)]
    if weighted != loss:
        found.append(Panel("Weighted terms", "The same, as they enter the sum.", weighted))
    validation = curves(records, "validation")
    scores = {
        name.replace("_", " "): validation[name]
        for name in ("accuracy", "balanced_accuracy")
        if name in validation
    }
    caption = "On the validation samples; dashed: the step whose weights were kept."
    found.append(Panel("Validation", caption, scores, percent=True, mark=best_step))
    shared: dict[str, dict[str, Points]] = {}
    for name, points in curves(records, "diagnostics").items():
        own = name.split("_")[0] if name.startswith("gradient/") else name
        shared.setdefault(own if own in CAPTIONS else name.partition("/")[0], {})[name] = points
    for key, lines in shared.items():
        level = CONFLICT_COSINE if key == "gradient/cosine" else None
        title = key.replace("/", ": ").replace("_", " ").capitalize()
        short = {name.partition("/")[2] or name: points for name, points in lines.items()}
        found.append(Panel(title, CAPTIONS.get(key, ""), short, level=level))
    return [panel for panel in found if any(panel.curves.values())]


def figure(panel: Panel) -> Figure:
    """A panel as a matplotlib figure in the placeholder colours."""
    drawn = Figure(figsize=(5.2, 3.0), layout="constrained")
    drawn.patch.set_alpha(0)
    axis = drawn.subplots()
    axis.patch.set_alpha(0)
    for number, (name, points) in enumerate(panel.curves.items()):
        steps, values = zip(*points, strict=True)
        scaled = [100 * v for v in values] if panel.percent else values
        style = ("-", "--", "-.", ":")[number % 4]  # curves may lie on each other
        mark = "o" if len(points) < 3 else None  # a line needs two points to be seen
        axis.plot(
            steps, scaled, style, color=SERIES[number % len(SERIES)], label=name, linewidth=1.6,
            marker=mark,
        )  # fmt: skip
    if panel.level is not None:
        axis.axhline(panel.level, color=INK, linestyle=":", linewidth=1)
    if panel.mark is not None:
        axis.axvline(panel.mark, color=INK, linestyle="--", linewidth=0.8)
    axis.set_xlabel("step", color=INK)
    if panel.percent:
        axis.set_ylabel("percent", color=INK)
    axis.tick_params(colors=INK)
    for side, spine in axis.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    axis.grid(color=INK, alpha=0.15, linewidth=0.6)
    if len(panel.curves) > 1:
        axis.legend(frameon=False, labelcolor=INK, fontsize=9)
    return drawn


def svg(panel: Panel, prefix: str) -> str:
    """A panel as an ``<svg>`` element.

    Args:
        panel: what to draw.
        prefix: of all ids inside, so that several figures fit in one page.
    """
    options = {"svg.fonttype": "none", "svg.hashsalt": prefix, "font.family": "sans-serif"}
    stream = io.StringIO()
    with matplotlib.rc_context(options):
        figure(panel).savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", text)  # an HTML parser knows them
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    # The page's font; the one measured with is wider than most. (Older versions write `font:`.)
    text = re.sub(r"font: (?:[\w.%]+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, variable in STYLE.items():
        text = text.replace(colour, variable)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(panel.title)}"', 1)
    # The width is that of its place; the viewBox keeps the shape.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text, count=2).strip()
