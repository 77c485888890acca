"""``python -m docs.tools.figures``: run the gallery's pages, and keep the pictures they draw."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from docs.tools.blocks import ROOT, run

GALLERY = ROOT / "docs" / "gallery"


def main() -> None:
    """Each picture lies beside the page that drew it."""
    matplotlib.use("Agg")
    for page in sorted(GALLERY.glob("*.md")):
        before = _pictures()
        run(page, GALLERY)
        drawn = [path.name for path, time in _pictures().items() if before.get(path) != time]
        if drawn:
            print(f"{page.name}: {', '.join(drawn)}")


def _pictures() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in GALLERY.glob("*.png")}


if __name__ == "__main__":
    main()
