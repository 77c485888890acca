"""The loop: draw a case, call it, look at what came back; for so many seconds."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import extension, public
from .draw import Draw

#: Exceptions that are an answer; any other, of PyTorch or a Rust panic, is a failure.
ANSWERS = (ValueError, TypeError, OverflowError)


def drawn(seed: int) -> tuple[public.Case, Any, Draw]:
    d = Draw(seed)
    if d.chance(0.4):
        return extension.compiled(d), extension.check, d
    return d.one(public.CASES)(d), public.check, d


def short(value: Any) -> str:
    """An argument as text: tensors and arrays by their layout and range."""
    if isinstance(value, Tensor) and not value.is_meta and not value.is_sparse:
        head = f"Tensor{tuple(value.shape)} {value.dtype} strides {value.stride()}"
        if value.numel() and not value.is_complex():
            flat = value.detach().double().reshape(-1)
            return f"{head} in [{flat.min():.3g}, {flat.max():.3g}]"
        return head
    if isinstance(value, np.ndarray):
        return f"array{value.shape} {value.dtype} strides {value.strides}"
    return repr(value)[:200]


def show(case: public.Case) -> str:
    call, arguments, options = case
    lines = [getattr(call, "__name__", str(call))]
    lines += [f"  {short(value)}" for value in arguments]
    return "\n".join(lines + [f"  {name} = {short(value)}" for name, value in options.items()])


def same(one: Any, two: Any) -> bool:
    """Equal to the bit, NaN included; memory that nobody wrote differs between two calls."""
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, Tensor):
        if one.is_meta:
            return one.shape == two.shape
        one, two = (t.detach().double().numpy() for t in (one, two))
    if isinstance(one, np.ndarray):
        equal_nan = one.dtype.kind == "f"
        return one.shape == two.shape and bool(np.array_equal(one, two, equal_nan=equal_nan))
    return one == two or (one != one and two != two)


def run(seed: int, threads: int) -> str:
    """Runs one case; returns what came of it, raises on a failure."""
    case, check, d = drawn(seed)
    torch.set_num_threads(d.one([1, threads]))
    call, arguments, options = case
    try:
        result = call(*arguments, **options)
        check(case, result)
        again = call(*arguments, **options) if d.chance(0.25) else result
    except ANSWERS as error:
        return type(error).__name__
    assert same(result, again), "two calls gave different results"
    return "returned"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="where the cases begin")
    parser.add_argument("--case", type=int, help="run this one case and show it")
    parser.add_argument("--threads", type=int, default=2, help="most threads of a call")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for one case")
    parser.add_argument("--state", help="file that holds the number of the case now running")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    if options.case is not None:
        print(show(drawn(options.case)[0]), flush=True)
        print(run(options.case, options.threads))
        return 0
    path = options.state or tempfile.mkstemp(prefix="fuzz-", suffix=".case")[1]
    state = os.open(path, os.O_RDWR | os.O_CREAT)
    print(f"fuzzing for {options.seconds:g} s from seed {options.seed}; case in {path}", flush=True)
    counts: Counter[str] = Counter()
    failures = 0
    begin = report = time.monotonic()
    seed = first = options.seed << 32
    while time.monotonic() - begin < options.seconds:
        os.pwrite(state, f"{seed:<32d}\n".encode(), 0)
        faulthandler.dump_traceback_later(options.patience, exit=True)
        try:
            counts[run(seed, options.threads)] += 1
        except KeyboardInterrupt:
            break
        except BaseException:  # a Rust panic is no Exception
            failures += 1
            print(f"FAILED: python -m tests.fuzz --case {seed}", flush=True)
            print(show(drawn(seed)[0]), flush=True)
            traceback.print_exc(file=sys.stdout)
            if failures >= 20:
                break
        seed += 1
        if time.monotonic() - report > 60:
            report = time.monotonic()
            print(f"{report - begin:.0f} s, {seed - first} cases, {failures} failures", flush=True)
    faulthandler.cancel_dump_traceback_later()
    os.close(state)
    if not options.state:
        os.unlink(path)
    total = seed - first
    print(f"{total} cases in {time.monotonic() - begin:.0f} s, {failures} failures: {dict(counts)}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
