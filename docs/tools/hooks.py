"""Hooks of MkDocs: the studies and measurements of the repository become pages of the site.

They stay where the commands that make them write them. Nothing is copied: a page of ``study/``
is built from ``study/``.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: What is taken from outside ``docs/``, as globs from the root of the repository.
OUTSIDE = (
    "study/README.md",
    "study/*/README.md",
    "study/*/summary.md",
    "study/*/*.csv",
    "study/*/configurations.yaml",
    "study/*/figures/*.png",
    "benches/results/*.png",
    "benches/results/*.md",
    "benches/results/*/table.md",
    "benches/results/information/fresh.md",
    "benches/results/*/*.png",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
_LINK = re.compile(r"(?P<before>!?)\[(?P<words>[^\[\]]*)\]\((?P<path>[^)#:\s]+)(?P<rest>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside the folder of the documentation."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links are written for the repository; here they are made true of the site.

    What the site does not have, a folder or a source file, becomes words.
    """
    here = Path(page.file.abs_src_path).parent
    known = {os.path.realpath(f.abs_src_path): f.src_uri for f in files if f.abs_src_path}

    def mended(match: re.Match[str]) -> str:
        target = (here / match["path"]).resolve()
        if str(target) in known:
            start = posixpath.dirname(page.file.src_uri) or "."
            path = posixpath.relpath(known[str(target)], start)
            return f"{match['before']}[{match['words']}]({path}{match['rest'] or ''})"
        if target.exists() and target.is_relative_to(ROOT) and not match["before"]:
            return match["words"]
        return match[0]

    return _LINK.sub(mended, markdown)
