"""Hooks of MkDocs: the studies and measurements of the repository become pages of the site.

They stay where the commands that make them write them. Nothing is copied: a page of ``study/``
is built from ``study/``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: What is taken from outside ``docs/``, as globs from the root of the repository.
OUTSIDE = (
    "study/README.md",
    "study/*/summary.md",
    "study/*/configurations.yaml",
    "study/*/figures/*.png",
    "benches/results/*.png",
    "benches/results/*.md",
    "benches/results/information/table.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside the folder of the documentation."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A link to a folder, which is a listing in a repository and nothing on a site, is words."""
    here = Path(page.file.abs_src_path).parent

    def plain(match: re.Match[str]) -> str:
        return match[1] if (here / match[2]).is_dir() else match[0]

    return _LINK.sub(plain, markdown)
