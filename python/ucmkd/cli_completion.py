"""``ucmkd completion``: a script by which bash (and zsh) completes the command line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable

from ._usage import UsageError
from .cli_compare import CompareOptions
from .cli_teachers import TeachersOptions
from .config import Recipe
from .methods import METHODS
from .recipe_file import shipped_recipes
from .study.reader import shipped_studies
from .teachers.config import shipped_comparisons

SHELLS = ("bash", "zsh")

SCRIPT = """\
# Completion of ucmkd {version}. In ~/.bashrc: eval "$(ucmkd completion bash)"
{prelude}_ucmkd() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  elif [ "$before" = "--method.name" ]; then
    words="{methods}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case "${{COMP_WORDS[1]}}" in
      distill) words="{recipes}" ;;
      compare) words="{studies} {recipes}" ;;
      teachers) words="{comparisons}" ;;
      demo) words="{demo}" ;;
      completion) words="{shells}" ;;
    esac
  else
    case "${{COMP_WORDS[1]}}" in
      distill) words="{keys}" ;;
      compare) words="{compare}" ;;
      teachers) words="{teachers}" ;;
      demo) words="{demo}" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [ "${{word#-}}" = "$word" ]; then
    COMPREPLY+=($(compgen -f -X '!*.y?(a)ml' -- "$word") $(compgen -d -S / -- "$word"))
  fi
}}
complete -o nospace -F _ucmkd ucmkd
"""
DEMO = ("scene", "splits", "out", "workers", "steps", "fresh", "offline")


def run(words: list[str]) -> int:
    """Print the script for the shell that is named; returns the exit status."""
    if len(words) != 1 or words[0] not in SHELLS:
        got = f", got {' '.join(words)!r}" if words else ""
        raise UsageError(f"completion needs the name of a shell, {' or '.join(SHELLS)}{got}")
    print(script(words[0]), end="")
    return 0


def script(shell: str) -> str:
    """The script for ``shell``, a name of :data:`SHELLS`."""
    import ucmkd

    from .cli import COMMANDS

    return SCRIPT.format(
        version=ucmkd.__version__,
        prelude="autoload -U +X bashcompinit && bashcompinit\n"
        if shell == "zsh"
        else "shopt -s extglob\n",
        commands=" ".join(COMMANDS),
        methods=" ".join(METHODS),
        recipes=" ".join(shipped_recipes()),
        studies=" ".join(shipped_studies()),
        comparisons=" ".join(shipped_comparisons()),
        shells=" ".join(SHELLS),
        keys=_flags(["resume", "watch", *keys(Recipe)]),
        compare=_flags(field.name for field in dataclasses.fields(CompareOptions)),
        teachers=_flags(field.name for field in dataclasses.fields(TeachersOptions)),
        demo=_flags(DEMO),
    )


def keys(config: type, place: str = "") -> list[str]:
    """The dotted names of all single values of a configuration."""
    found = []
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found += keys(kind, f"{place}{name}.")
        elif name != "options":  # those depend on the method
            found.append(place + name)
    return found


def _flags(names: Iterable[str]) -> str:
    return " ".join("--" + name.replace("_", "-") for name in names)
