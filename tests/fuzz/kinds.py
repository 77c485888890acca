"""All kinds of files, by name."""

from __future__ import annotations

from collections.abc import Callable

from . import from_outside, of_runs
from .kind import Kind

KINDS: dict[str, Callable[[], Kind]] = {
    make.__name__: make
    for make in (
        from_outside.recipe,
        from_outside.study,
        from_outside.comparison,
        from_outside.npz,
        from_outside.arrays,
        from_outside.checkpoint,
        from_outside.weights,
        from_outside.speech,
        from_outside.sound,
        of_runs.resume,
        of_runs.log,
        of_runs.metrics,
        of_runs.results,
        of_runs.configurations,
        of_runs.rows,
    )
}
