"""English text that ships with Python, as characters, in three parts without a shared paragraph."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNKNOWN = "\ufffd"


def python_paragraphs() -> list[str]:
    """The paragraphs of the language reference that ``help()`` shows, each once.

    Topics contain each other in parts (all of "if" is in "compound"), sometimes indented: a
    paragraph that differs from an earlier one in white space alone is left out. What is there
    depends on the version of Python; 3.11 has 345,000 characters.

    Raises:
        ImportError: This Python was packed without ``pydoc_data``.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            "python_paragraphs needs pydoc_data, which some packages of Python leave out; give "
            "character_text paragraphs of your own"
        ) from error
    found: dict[str, str] = {}
    for topic in topics.values():
        for paragraph in topic.split("\n\n"):
            key = " ".join(paragraph.split())
            if key:
                found.setdefault(key, textwrap.dedent(paragraph).strip("\n"))
    return list(found.values())


@dataclass(frozen=True)
class CharacterText:
    """Text as character numbers.

    Attributes:
        symbols: Character k is ``symbols[k]``; character 0 stands for all rare ones.
        train: ``(n,)`` int64.
        validation: ``(n_v,)`` int64.
        test: ``(n_t,)`` int64.
    """

    symbols: str
    train: Tensor
    validation: Tensor
    test: Tensor

    def encode(self, text: str) -> Tensor:
        """Character numbers ``(len(text),)`` int64.

        Args:
            text: What is not among the symbols becomes 0.
        """
        number = {symbol: k for k, symbol in enumerate(self.symbols)}
        return torch.tensor([number.get(symbol, 0) for symbol in text], dtype=torch.int64)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The text of character numbers.

        Args:
            tokens: ``(n,)``, each below the number of symbols.
        """
        return "".join(self.symbols[int(k)] for k in tokens)


def character_text(
    paragraphs: Iterable[str] | None = None, *, run: int = 10, least: int = 20
) -> CharacterText:
    """Paragraphs in three parts: of every ten runs the ninth validates and the tenth tests.

    Args:
        paragraphs: None for :func:`python_paragraphs`.
        run: Neighbouring paragraphs that stay together.
        least: Characters that occur less often in the training part share number 0.

    Raises:
        ValueError: ``run`` or ``least`` below 1, or fewer than ten runs.
    """
    for name, value in (("run", run), ("least", least)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1; got {value}")
    given = list(python_paragraphs() if paragraphs is None else paragraphs)
    if len(given) < 10 * run:
        raise ValueError(f"paragraphs must be at least {10 * run}, ten runs; got {len(given)}")
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for index, paragraph in enumerate(given):
        place = index // run % 10
        parts[max(0, place - 7)].append(paragraph)
    train, validation, test = ("\n\n".join(part) for part in parts)
    often = sorted(symbol for symbol, count in Counter(train).items() if count >= least)
    empty = torch.empty(0, dtype=torch.int64)
    made = CharacterText(UNKNOWN + "".join(often), empty, empty, empty)
    return CharacterText(made.symbols, *(made.encode(part) for part in (train, validation, test)))
