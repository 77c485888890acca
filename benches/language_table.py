"""The table of :mod:`benches.language` in Markdown: means over the seeds, differences by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from ucmkd.statistics import paired_difference

HEAD = """# Tokens of the text, of the student, or of both: student perplexity at equal tokens

Made by `python -m benches.language`; every run is in `table.csv`. Character-level transformers on
the text of `pydoc_data.topics` (Python {python}), seeds {seeds}. All students of a seed start from
the same one and train on {tokens} response tokens with the same learning rate. *Perplexity* is per
character on the test part; *difference* is to supervised distillation, paired by seed, with a 95 %
interval. *KL* and *surprise* are measured on what the student itself writes after prompts of the
test part: KL(teacher ‖ student), and the teacher's nats per character. *Own* is the share of the
training tokens that the student wrote; *calls* are the teacher's and the student's per step while
sampling; seconds of processor time.

| tokens of | perplexity | difference | KL | surprise | own | calls | seconds |
|---|---|---|---|---|---|---|---|
"""


def write_table(rows: Sequence[dict[str, str]], path: Path) -> str:
    """Write the file; returns its text."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    seeds = sorted({int(row["seed"]) for row in rows})
    tokens = next(row["tokens"] for row in rows if row["tokens"])
    text = HEAD.format(
        python=", ".join(sorted({row["python"] for row in rows})),
        seeds=", ".join(map(str, seeds)), tokens=f"{int(tokens):,}",
    )  # fmt: skip
    by = {(row["method"], int(row["seed"])): row for row in rows}
    for method in methods:
        some = [by[method, seed] for seed in seeds if (method, seed) in by]

        def average(name: str, form: str, some: list[dict[str, str]] = some) -> str:
            values = [float(row[name]) for row in some if row[name]]
            return format(mean(values), form) if values else ""

        calls = " / ".join(average(f"{who}_passes", ".1f") for who in ("teacher", "student"))
        cells = (
            method, average("perplexity", ".3f"), _difference(by, method, seeds),
            average("own_divergence", ".3f"), average("own_surprise", ".3f"),
            average("own", ".0%"), calls if some[0]["own"] else "", average("seconds", ".1f"),
        )  # fmt: skip
        text += f"| {' | '.join(cells)} |\n"
    path.write_text(text, encoding="utf-8")
    return text


def _difference(by: dict[tuple[str, int], dict[str, str]], method: str, seeds: list[int]) -> str:
    both = [seed for seed in seeds if (method, seed) in by and ("supervised", seed) in by]
    if method == "supervised" or len(both) < 2:
        return ""
    values = [[float(by[m, s]["perplexity"]) for s in both] for m in (method, "supervised")]
    found = paired_difference(*values)
    return f"{found.mean:+.3f} ± {found.half_width:.3f}"
