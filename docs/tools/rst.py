"""The docstrings' roles and formulas, as Markdown: an extension of griffe for mkdocstrings.

Docstrings are written for ``help()`` with the roles that editors know (``:func:``, ``:class:``,
``:math:``, ``.. math::``); the site reads Markdown.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?([^`]+)`")
_MATH = re.compile(r":math:`([^`]+)`", re.S)
_BLOCK = re.compile(r"^([ ]*)\.\. math::[ ]*(.*)\n((?:\1[ ]+.*\n|[ ]*\n)*)", re.M)
_TABLE = re.compile(
    r"^(?P<indent>[ ]*)=+(?:[ ]+=+)+\n(?P<rows>.*?)^(?P=indent)=+(?:[ ]+=+)+\n", re.M | re.S
)


def to_markdown(text: str) -> str:
    """A docstring with roles, ``.. math::`` and simple tables, as Markdown.

    >>> to_markdown("see :func:`ucmkd.ops.mmd`, :math:`x^2`")
    'see `ucmkd.ops.mmd`, $x^2$'
    """
    text = _BLOCK.sub(_formula, text + "\n")
    text = _TABLE.sub(_table, text)
    text = _MATH.sub(lambda match: "$" + " ".join(match[1].split()) + "$", text)
    text = _ROLE.sub(lambda match: f"`{match[1].lstrip('.')}`", text)
    return text.removesuffix("\n")


def _formula(match: re.Match[str]) -> str:
    indent, body = match[1], (match[2] + "\n" + textwrap.dedent(match[3])).strip()
    lines = ("", "$$", *body.splitlines(), "$$", "", "")
    return "\n".join(indent + line if line else "" for line in lines)


def _table(match: re.Match[str]) -> str:
    """A reStructuredText table of two columns; a row whose first cell is empty goes on."""
    indent, rows = match["indent"], []
    for line in match["rows"].splitlines():
        first, _, second = line.removeprefix(indent).partition("  ")
        if line.removeprefix(indent).startswith(" "):
            rows[-1][1] += " " + line.strip()
        else:
            rows.append([first.strip(), second.strip()])
    cells = ["| | |", "|---|---|"]
    cells += [f"| {a} | {b.replace('|', chr(92) + 'vert ')} |" for a, b in rows]
    return "\n".join(indent + row for row in ("", *cells, "")) + "\n"


class Roles(Extension):
    """Rewrites every docstring once, when its object has been read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
