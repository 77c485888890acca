"""Files that come from outside, damaged at random: an answer or a clear error, in bounded time.

``python -m tests.fuzz.files [--cases 100000] [--kind recipe] [--seed 0]``

Each kind starts from right files and changes some bytes (flips, cuts, doubled and foreign pieces),
whole words of a text, values of a structure, or members of an archive. Accepted is what the reader
returns or the errors that it documents. Failures are any other error, a death of the process, more
than ten seconds of its time, more than 4 GiB, and anything written, made, moved, removed, started,
connected to or unpickled beside the files that the reader is there to write.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter

from .damage import mutated
from .kind import Kind
from .kinds import KINDS
from .sandbox import Sandbox

LIMIT = 10.0  # seconds of the processor; of the clock thirty times as much, for a busy machine
MEMORY = 4 << 30  # bytes beside what the imports took


class TooLong(BaseException):
    """A case did not end."""


def stop(*_: object) -> None:
    raise TooLong(f"more than {LIMIT:g} s")


def damaged(kind: Kind, draw: random.Random) -> bytes:
    """The file of a case."""
    content = draw.choice(kind.contents)
    if kind.alter is not None and draw.random() < 0.5:
        return kind.alter(content, draw)
    return mutated(content, draw, kind.words)


def attempt(kind: Kind, sandbox: Sandbox) -> tuple[str, str]:
    """Read the file once: what came of it, and what is wrong with that."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.setitimer(signal.ITIMER_REAL, 30 * LIMIT)
    sandbox.looking = True
    try:
        kind.read(sandbox.folder / kind.name)
        return "answer", ""
    except kind.answers as error:
        return type(error).__name__, "" if str(error).strip() else "an error without a word"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sandbox.looking = False
        lines = traceback.format_exception(error)
        return "failure", f"{type(error).__name__}\n{''.join(lines)[-1500:]}"
    finally:
        sandbox.looking = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(
    name: str, cases: int, seed: int = 0, kind: Kind | None = None, state: int | None = None
) -> tuple[Counter[str], list[str]]:
    """Run ``cases`` of one kind.

    Args:
        name: Of the kind.
        cases: How many.
        seed: Number of the first.
        kind: Another reader under that name.
        state: An open file that holds the number of the case now running.

    Returns:
        The counts of outcomes, and the failures as texts.
    """
    kind = kind or KINDS[name]()
    found, failures = Counter[str](), list[str]()
    allowed = frozenset((kind.name, *kind.writes))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, stop)
    with Sandbox() as sandbox, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = sandbox.folder / kind.name
        for case in range(seed, seed + cases):
            if state is not None:
                os.pwrite(state, f"{name} {case:<20d}\n".encode(), 0)
            path.write_bytes(damaged(kind, random.Random(f"{name}{case}")))
            outcome, problem = attempt(kind, sandbox)
            found[outcome] += 1
            if problem:
                failures.append(f"{name} {case}: {problem}")
            if wrong := sandbox.check(allowed):
                failures.append(f"{name} {case}: {'; '.join(wrong)}")
                break
    return found, failures


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    now = 0
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.files", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--state", default=os.devnull, help="holds the case now running")
    given = parser.parse_args()
    faulthandler.enable()
    _bound_memory()
    state = None if given.state == os.devnull else os.open(given.state, os.O_RDWR | os.O_CREAT)
    failed = 0
    for name in [given.kind] if given.kind else KINDS:
        begin = time.process_time()
        found, failures = fuzz(name, given.cases, given.seed, state=state)
        failed += len(failures)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
        spent = time.process_time() - begin
        head = f"{name:14} {sum(found.values())} cases from {given.seed} in {spent:.0f} s"
        print(f"{head}: {counts}; {len(failures)} failures", flush=True)
        for text in failures[:5]:
            print(text, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
