"""Which code made a result: a short digest of the package's own files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

import ucmkd

# How a study is planned and shown does not change what one training gives.
_RESULTS = {"controls.py", "job.py", "task_job.py"}


def digest_of_package(counts: Callable[[Path], bool]) -> str:
    """Twelve hexadecimal digits over Python files and compiled modules.

    Args:
        counts: Called with a path relative to the package; False leaves the file out.
    """
    root = Path(ucmkd.__file__).parent
    digest = hashlib.sha256()
    compiled = (*root.glob("_rust*.so"), *root.glob("_rust*.pyd"))
    for path in sorted((*root.rglob("*.py"), *compiled)):
        relative = path.relative_to(root)
        if counts(relative):
            digest.update(relative.as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def in_study(relative: Path) -> bool:
    """Whether the file belongs to ``ucmkd.study``."""
    return relative.parts[0] == "study"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """The digest of everything that a result of a study depends on."""

    def counts(relative: Path) -> bool:
        if in_study(relative):
            return relative.name in _RESULTS
        return relative.parts[0] != "demo" and not relative.name.startswith("cli")

    return digest_of_package(counts)


def provenance() -> dict[str, str]:
    """Versions, and a digest of the code, behind a row."""
    return {"ucmkd": ucmkd.__version__, "torch": torch.__version__, "code": code_digest()}
