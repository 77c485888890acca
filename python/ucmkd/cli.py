"""The command line: ``ucmkd distill | compare | teachers | demo | info | completion``.

A mistake of the user (a wrong key, a missing file) is one line on the error stream and exit
status 2; everything else is a traceback, since it is ours. ``UCMKD_TRACEBACK=1`` shows it always.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Sequence

from ._usage import UsageError

USAGE = """\
usage: ucmkd COMMAND [options]

commands:
  distill RECIPE   train a student from a recipe (a YAML file, or the name of a shipped one)
  compare STUDY    methods, scenarios and seeds side by side, with controls and statistics
  teachers CONFIG  which candidate modality will help a student, before anything is trained
  demo             what unpaired distillation brings, in three scenes on real data
  info [--bench]   versions, which backends work on this machine, and how fast they are
  completion SHELL a script by which bash or zsh completes all this

ucmkd COMMAND --help lists the options of a command.
"""

COMMANDS = ("distill", "compare", "teachers", "demo", "info", "completion")

# Import name -> distribution, of what `ucmkd[train]` adds.
EXTRAS = {
    "lightning_fabric": "lightning-fabric",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "torchmetrics": "torchmetrics",
    "tyro": "tyro",
    "yaml": "pyyaml",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``ucmkd`` command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "distill": _distill,
        "compare": _compare,
        "teachers": _teachers,
        "demo": _demo,
        "info": _info,
        "completion": _completion,
    }
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        import ucmkd

        print(f"ucmkd {ucmkd.__version__}")
        return 0
    try:
        if words[0] not in commands:
            from difflib import get_close_matches

            near = get_close_matches(words[0], commands, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown command {words[0]!r}{hint} ({', '.join(commands)})")
        return commands[words[0]](words[1:])
    except SystemExit as stop:  # tyro has shown the help, or what is wrong with an option
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0
    except KeyboardInterrupt:
        print("ucmkd: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("UCMKD_TRACEBACK") or not _is_users(error):
            raise
        print(f"ucmkd: error: {error}", file=sys.stderr)
        return 2


def _is_users(error: Exception) -> bool:
    """Whether the message alone tells the user what to do."""
    names = {"ConfigError", "CheckpointError", "TrainingError", "ProcessLostError"}
    names |= {"FetchError", "DataNotFoundError"}
    return isinstance(error, UsageError | ValueError) or type(error).__name__ in names


def _require_extras() -> None:
    missing = [name for module, name in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"this command needs {', '.join(missing)}: install them with pip install 'ucmkd[train]'"
        )


def _distill(words: list[str]) -> int:
    _require_extras()
    from .cli_distill import run

    return run(words)


def _compare(words: list[str]) -> int:
    _require_extras()
    from .cli_compare import run

    return run(words)


def _teachers(words: list[str]) -> int:
    _require_extras()
    from .cli_teachers import run

    return run(words)


def _demo(words: list[str]) -> int:
    _require_extras()
    from .demo import main as demo

    return int(demo(words) or 0)


def _completion(words: list[str]) -> int:
    _require_extras()
    from .cli_completion import run

    return run(words)


def _info(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        print("usage: ucmkd info [--bench]\n")
        print("--bench   measure for some 20 seconds which backend and how many threads are best")
        return 0
    if words not in ([], ["--bench"]):
        raise UsageError(f"info takes no argument but --bench, got {' '.join(words)!r}")
    import torch

    import ucmkd

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    missing = [name for module, name in EXTRAS.items() if importlib.util.find_spec(module) is None]
    facts = {
        "ucmkd": ucmkd.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "triton": triton_version,
        "gpu": device,
        "threads": str(torch.get_num_threads()),
        "train extra": f"missing {', '.join(missing)}" if missing else "installed",
    }
    for name, fact in facts.items():
        print(f"{name:12} {fact}")
    print("backends")
    for name, (available, detail) in ucmkd.backends().items():
        print(f"  {name:10} {'yes' if available else 'no ':3}  {detail}")
    if words:
        from .speed_here import advice, measure, table

        print("\nmeasuring ...", flush=True)
        if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
            print("(other processes are running: this is the speed of a busy machine)")
        times = measure()
        print("\n".join([*table(times), *advice(times)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
