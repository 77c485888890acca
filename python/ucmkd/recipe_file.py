"""Reading recipes from YAML files and from the recipes shipped with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .config import ConfigError, Recipe, from_mapping, nearest, to_mapping
from .strict_yaml import read_yaml_text, to_yaml_text

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "recipes"


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by the name of a shipped recipe.

    Raises:
        ConfigError: there is neither such a file nor such a shipped recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped_recipes():
        return SHIPPED / f"{name}.yaml"
    known = shipped_recipes()
    raise ConfigError(
        f"recipe {name!r} is neither a file nor a shipped recipe{nearest(name, known)} "
        f"(shipped: {', '.join(known)})"
    )


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file whose keys are the fields of :class:`ucmkd.config.Recipe`.

    Raises:
        ConfigError: unreadable file or YAML (with its line), unknown or doubled key, wrong type,
            value out of range. The message starts with the file's name.
    """
    return read_yaml(path, lambda mapping: from_mapping(Recipe, mapping))


def read_yaml(path: str | Path, build: Callable[[Any], T]) -> T:
    """What ``build`` makes of a YAML file, which may not name a key twice.

    Raises:
        ConfigError: unreadable file or YAML (with its line), or what ``build`` finds wrong. The
            message starts with the file's name.
    """
    try:
        return build(read_yaml_text(Path(path).read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def recipe_to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML text; :func:`load_recipe` reads it back unchanged."""
    return to_yaml_text(to_mapping(recipe))
