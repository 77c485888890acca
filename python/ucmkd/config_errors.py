"""The error of a recipe, and the one-line check that raises it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A recipe that cannot be used; the message says where and why."""


def require(condition: bool, name: str, value: object, accepted: str) -> None:
    """Raise :class:`ConfigError` "``name`` must be ``accepted``, got ``value``" unless it holds."""
    if not condition:
        raise ConfigError(f"{name} must be {accepted}, got {value!r}")


def require_file_name(name: str, value: str) -> None:
    """Raise :class:`ConfigError` where ``value`` would name a file in another folder, or none."""
    fine = value.strip() not in ("", ".", "..") and not set(value) & set("/\\\0")
    require(fine, name, value, "a name that a folder can have, without / or \\")
