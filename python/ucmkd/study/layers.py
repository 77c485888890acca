"""Layers of a study file laid over each other."""

from __future__ import annotations

import copy

from ucmkd.config import ConfigError
from ucmkd.study.config import Section


def merged(base: Section, layer: Section) -> Section:
    """``layer`` over ``base``; mappings are merged, everything else is replaced."""
    found = copy.deepcopy(base)
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = merged(found[key], value)
        else:
            found[key] = copy.deepcopy(value)
    return found


def put(mapping: Section, dotted: str, value: object) -> None:
    """Set ``section.key`` in place.

    Raises:
        ConfigError: No section in the key, or what should be one is none.
    """
    *path, last = dotted.split(".")
    if not path:
        raise ConfigError(f"a candidate's key must be dotted like optimizer.lr, got {dotted!r}")
    for name in path:
        mapping = mapping.setdefault(name, {})
        if not isinstance(mapping, dict):
            raise ConfigError(f"{dotted}: {name} is not a section")
    mapping[last] = value
