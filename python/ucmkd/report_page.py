"""The page of a report: a skeleton that asks nobody for anything, and the pieces of it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# No address in the page is ever fetched: the policy forbids it, should one slip in.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #57606a;
  --line: #d0d7de; --tint: 0 114 178; --warn: #9a4a00;
  --series-1: #0072b2; --series-2: #c24d00; --series-3: #007a58; --series-4: #a8457f;
  --series-5: #8a6500; --series-6: #2f7fae; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e6e9ec; --soft: #9aa4ae;
  --line: #363c44; --tint: 86 180 233; --warn: #f0a35e;
  --series-1: #56b4e9; --series-2: #f08a4b; --series-3: #3fc79a; --series-4: #e29ac4;
  --series-5: #e6b422; --series-6: #9fc8e8; } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, figcaption, caption { color: var(--soft); margin: .3rem 0; }
caption { text-align: left; caption-side: bottom; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.confusion td, .confusion th { text-align: center; padding: .25rem .45rem; }
.confusion tbody th { text-align: left; }
.figures { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption b { color: var(--ink); }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; }
.warning { color: var(--warn); font-weight: 600; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A complete HTML document; ``body`` is markup, ``title`` text."""
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>\n",
        )
    )


def section(title: str, *parts: str) -> str:
    """A headed section of markup; empty without any parts."""
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text, with a class on demand."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of text; the first cell of a row is its head."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows
    )
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{note}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def confusion_table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Counts of true classes (rows) taken for classes (columns), tinted by their share of a row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = max(1, sum(row))
        # At most 60 %, so that the ink stays legible on it in either scheme.
        cells = "".join(
            f'<td style="background: rgb(var(--tint) / {60 * n / total:.0f}%)">{n}</td>'
            for n in row
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    body = "\n".join(rows)
    return (
        '<div class="wide"><table class="confusion"><caption>Rows: true class; columns: '
        "predicted class; tint: share of the row.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
