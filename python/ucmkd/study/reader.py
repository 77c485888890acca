"""Finding and reading studies; a plain recipe with a list of methods is a study too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ucmkd.config import ConfigError, Recipe, from_mapping, nearest, to_mapping
from ucmkd.recipe_file import SHIPPED as RECIPES
from ucmkd.recipe_file import read_yaml, shipped_recipes
from ucmkd.study.config import SECTIONS, MethodEntry, SeedsConfig, StudyConfig
from ucmkd.study.resolve import resolve_all

SHIPPED = Path(__file__).parent.parent / "studies"


def shipped_studies() -> list[str]:
    """Names of the studies inside the package, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_study(name: str) -> Path:
    """The file of a study or recipe given by path or by the name of a shipped one.

    Raises:
        ConfigError: there is nothing of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped_studies():
        return SHIPPED / f"{name}.yaml"
    if name in shipped_recipes():
        return RECIPES / f"{name}.yaml"
    known = (*shipped_studies(), *shipped_recipes())
    raise ConfigError(
        f"study {name!r} is neither a file nor shipped{nearest(name, known)} "
        f"(studies: {', '.join(shipped_studies())}; recipes: {', '.join(shipped_recipes())})"
    )


def load_study(
    path: str | Path, *, methods: Sequence[str] = (), seeds: int | None = None
) -> StudyConfig:
    """Read a study, or make one of a recipe, and resolve all of its recipes once.

    Args:
        path: A YAML file with the keys of :class:`ucmkd.study.config.StudyConfig`, or a recipe.
        methods: For a recipe: names of methods. The recipe's own method keeps its options.
        seeds: For a recipe: number of seeds, counted from the recipe's; default 10.

    Raises:
        ConfigError: unreadable file or YAML, unknown or doubled key, wrong type, value out of
            range, a method, option or split that cannot be; methods for a study, none for a
            recipe. The message starts with the file's name.
    """

    def build(mapping: Any) -> StudyConfig:
        if isinstance(mapping, dict) and not mapping.keys() & {"scenarios", "methods", "seeds"}:
            recipe = from_mapping(Recipe, mapping)
            if not methods:
                raise ConfigError("this is a recipe, so --methods must name the methods to compare")
            study = study_of_recipe(recipe, methods, 10 if seeds is None else seeds)
        elif methods or seeds is not None:
            raise ConfigError("this is a study, with methods and seeds of its own; --methods and "
                              "--seeds are for recipes")  # fmt: skip
        else:
            study = from_mapping(StudyConfig, mapping)
        resolve_all(study)
        return study

    return read_yaml(path, build)


def study_of_recipe(recipe: Recipe, methods: Sequence[str], seeds: int) -> StudyConfig:
    """Methods × seeds on one recipe; differences are taken from the first method.

    Raises:
        ConfigError: fewer than one seed, or a method named twice.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    if len(set(methods)) < len(methods):
        raise ConfigError(f"--methods must be different, got {', '.join(methods)}")
    mapping = to_mapping(recipe)
    entries = {}
    for name in methods:
        own = recipe.method.options if name == recipe.method.name else {}
        entries[name] = MethodEntry(method={"name": name, "options": dict(own)})
    return StudyConfig(
        name=recipe.name,
        seeds=SeedsConfig(fresh=list(range(recipe.seed, recipe.seed + seeds))),
        scenarios={recipe.name: {key: mapping[key] for key in SECTIONS if key != "method"}},
        methods=entries,
        references=[methods[0]],
    )
