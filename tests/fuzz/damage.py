"""Ways to damage a file: bytes, words of a text, values in a structure, members of an archive."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import torch

YAML_WORDS = (
    "null", "true", "-1", "1e999", ".nan", "''", "[]", "{}", "&a", "*a", "!!python/name:os.system",
    "? [a, b]", "<<: *a", "999999999999999999999", "data", "\t", "- x", "|", "\u2028", "0x10",
    "2020-13-45", "0x_", "!!int x", "!!bool x", "!!timestamp x", "!!binary x", "[" * 300, ".inf",
    "9" * 5000, "../../etc/passwd", "'\\0'", "~", "0b", "1:60", "=", "&a [*a]", "-0.0", "1_0",
)  # fmt: skip
JSON_WORDS = (
    "null", "true", "-1", "1e999", "NaN", "-Infinity", '""', "[]", "{}", "9" * 5000, "[" * 3000,
    '{"a":' * 3000, '"\\ud800"', "1.5", "\u2028", '"x"', "\n",
)  # fmt: skip

#: What stands for a value of a structure: every kind, and the ends of their ranges.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, float("nan"), float("inf"), 2**63, -(2**80), 10**400, "", "x", "\ud800",
    [], {}, [[]], [None] * 3, {"a": 1}, [0.5, "a"], {"": {"": []}},
)  # fmt: skip
ODD_TENSORS: tuple[Any, ...] = (
    torch.zeros(0), torch.zeros(1), torch.full((2, 2), float("nan")), torch.ones(3, 2, 1),
    torch.arange(5), torch.zeros(2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.complex64),
)  # fmt: skip

Alter = Callable[[bytes, random.Random], bytes]


def mutated(content: bytes, draw: random.Random, words: tuple[str, ...] = ()) -> bytes:
    """A copy with one to four changes: bits, cuts, doubled and foreign pieces, words."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        far = min(len(data), at + draw.randint(1, 24))
        choice = draw.randrange(6)
        if choice == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif choice == 1:
            data[at:far] = b""
        elif choice == 2:
            data[at:at] = data[at:far]
        elif choice == 3:
            data[at:far] = draw.randbytes(far - at)
        elif choice == 4 and draw.random() < 0.3:
            del data[at:]
        elif words:
            text = data.decode("utf-8", "replace")
            parts = text.split(" ")
            parts[draw.randrange(len(parts))] = draw.choice(words)
            data = bytearray(" ".join(parts).encode())
        elif choice == 5 and len(data) >= 4:
            at = min(at, len(data) - 4)
            data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
    return bytes(data)


def repacked(content: bytes, draw: random.Random) -> bytes:
    """An archive one of whose members is damaged, missing or renamed, with right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        victim, how = draw.choice(names), draw.random()
        for name in names:
            inside = old.read(name)
            if name != victim:
                new.writestr(name, inside)
            elif how < 0.05:
                continue
            elif how < 0.1:
                new.writestr(draw.choice(("../outside.npy", "/tmp/outside.npy", "x", "X/")), inside)
            else:
                kind = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                new.writestr(name, mutated(inside, draw) if inside else inside, kind)
    return stream.getvalue()


def values(state: Any, draw: random.Random, odd: tuple[Any, ...] = ODD) -> Any:
    """A copy of nested containers in which one to three values are odd, gone, or somewhere else."""
    state = copy.deepcopy(state)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(state))
        if not places:
            return draw.choice(odd)
        container, key = draw.choice(places)
        how = draw.random()
        if how < 0.2:
            del container[key]
        elif how < 0.4:
            other, at = draw.choice(places)
            container[key] = copy.deepcopy(other[at])
        else:
            container[key] = copy.deepcopy(draw.choice(odd))
    return state


def _places(state: Any) -> Any:
    items: Any = ()
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, list):
        items = list(enumerate(state))
    for key, value in items:
        yield state, key
        yield from _places(value)


def lines_altered(content: bytes, draw: random.Random) -> bytes:
    """JSON lines, one of which has odd values."""
    lines = content.decode().splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json.dumps(values(json.loads(lines[at]), draw))
    return ("\n".join(lines) + "\n").encode()


def state_altered(content: bytes, draw: random.Random) -> bytes:
    """A stored state of torch with odd values: what no checksum tells."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    stream = io.BytesIO()
    torch.save(values(state, draw, (*ODD, *ODD_TENSORS)), stream)
    return stream.getvalue()
