"""Files that come from outside, damaged at random: an answer or a clear error, in bounded time.

``python -m tests.fuzz.files [--cases 100000] [--kind recipe] [--seed 0]``

Each kind starts from right files and changes some bytes: flips, cuts, doubled and foreign pieces,
and for YAML whole words and lines. Accepted is what the reader returns or the errors that it
documents; anything else is a failure, as is a case of more than ten seconds, or a new file.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import tempfile
import traceback
import warnings
import wave
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ucmkd.checkpoint import FORMAT, Checkpointer, CheckpointError
from ucmkd.config import ConfigError
from ucmkd.data import DataNotFoundError, load_npz
from ucmkd.data.audiovisual.audio import read_audio
from ucmkd.data.speech import read_wave
from ucmkd.models import MLP
from ucmkd.recipe_file import SHIPPED, load_recipe
from ucmkd.teacher import load_weights

LIMIT = 10  # seconds
WORDS = (
    "null", "true", "-1", "1e999", ".nan", "''", "[]", "{}", "&a", "*a", "!!python/name:os.system",
    "? [a, b]", "<<: *a", "999999999999999999999", "data", "\t", "- x", "|", "\u2028", "0x10",
)  # fmt: skip


class Kind(NamedTuple):
    """A reader, the name its file has, right contents, and the errors that are answers."""

    read: Callable[[Path], object]
    name: str
    contents: list[bytes]
    answers: tuple[type[BaseException], ...]
    words: bool = False


def archive(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def sound(channels: int, width: int, rate: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).bytes(64 * channels * width))
    return stream.getvalue()


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def weights() -> bytes:
    from safetensors.torch import save

    return save(MLP(3, num_classes=2, hidden=2, width=2).state_dict(), {"validation": "null"})


def kinds() -> dict[str, Kind]:
    """All that is read from a user's folder."""
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    state = {"format": FORMAT, "step": 3, "method": {"w": torch.ones(2, 2)}, "ranks": [{"a": 1}]}
    model = MLP(3, num_classes=2, hidden=2, width=2)
    return {
        "recipe": Kind(
            load_recipe,
            "recipe.yaml",
            [path.read_bytes() for path in sorted(SHIPPED.glob("*.yaml"))],
            (ConfigError,),
            words=True,
        ),
        "npz": Kind(
            load_npz,
            "data.npz",
            [
                archive(X=x, y=y),
                archive(X=x.astype(np.uint8), y=np.array(["a", "b"] * 3), ids=np.arange(6)),
                archive(X=x, y=y, groups=y.astype(str), test=y.astype(bool), class_names=y[:2]),
            ],
            (ValueError, DataNotFoundError),
        ),
        "checkpoint": Kind(
            lambda path: Checkpointer(path.parent).load(("step", "method")),
            "checkpoint.pt",
            [saved(state)],
            (CheckpointError,),
        ),
        "weights": Kind(
            lambda path: load_weights(model, path), "x.safetensors", [weights()], (ConfigError,)
        ),
        "speech": Kind(read_wave, "a.wav", [sound(1, 2, 8000), sound(2, 2, 8000)], (ValueError,)),
        "sound": Kind(
            read_audio,
            "a.wav",
            [sound(1, 2, 16000), sound(2, 2, 44100), sound(1, 1, 8000)],
            (ValueError, ImportError),
        ),
    }


def mutated(content: bytes, draw: random.Random, words: bool) -> bytes:
    """A copy with one to four changes."""
    if not words and zipfile.is_zipfile(io.BytesIO(content)) and draw.random() < 0.5:
        return repacked(content, draw)  # past the checksums of the archive
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
            parts[draw.randrange(len(parts))] = draw.choice(WORDS)
            data = bytearray(" ".join(parts).encode())
        elif choice == 5 and len(data) >= 4:
            at = min(at, len(data) - 4)
            data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
    return bytes(data)


def repacked(content: bytes, draw: random.Random) -> bytes:
    """An archive one of whose members is damaged, with a right checksum."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        victim = draw.choice(names)
        for name in names:
            inside = old.read(name)
            if name == victim and inside:
                inside = mutated(inside, draw, words=False)
            new.writestr(name, inside)
    return stream.getvalue()


class TooLong(BaseException):
    """A case did not end."""


def stop(*_: object) -> None:
    raise TooLong(f"more than {LIMIT} s")


def fuzz(name: str, cases: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Run ``cases`` of one kind; the counts of outcomes, and the failures as texts."""
    kind, found, failures = kinds()[name], Counter[str](), []
    signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / kind.name
        for case in range(seed, seed + cases):
            draw = random.Random(f"{name}{case}")
            path.write_bytes(mutated(draw.choice(kind.contents), draw, kind.words))
            signal.alarm(LIMIT)
            try:
                kind.read(path)
                found["answer"] += 1
            except kind.answers as error:
                found[type(error).__name__] += 1
                if not str(error).strip():
                    failures.append(f"{name} {case}: an error without a word")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                lines = traceback.format_exception(error)
                failures.append(f"{name} {case}: {type(error).__name__}\n{''.join(lines)[-1500:]}")
            finally:
                signal.alarm(0)
            if os.listdir(folder) != [kind.name]:
                failures.append(f"{name} {case}: left {os.listdir(folder)}")
                break
    return found, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--kind", choices=list(kinds()))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = 0
    for name in [given.kind] if given.kind else kinds():
        found, failures = fuzz(name, given.cases, given.seed)
        failed += len(failures)
        print(f"{name:12} {given.cases} cases: {dict(found)}, {len(failures)} failures", flush=True)
        for text in failures[:5]:
            print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
