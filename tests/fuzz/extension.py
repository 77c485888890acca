"""Cases for the functions of the compiled extension, called past every check in Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ucmkd import _rust

from .draw import Draw

Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
COSTS = ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"]
FUNCTIONS = [
    function
    for name, function in sorted(vars(_rust).items())
    if callable(function) and not name.startswith("_") and not isinstance(function, type)
]


def spoil(d: Draw, array: np.ndarray) -> Any:
    """The array in another layout, of another type, of another shape; or no array."""
    wrong: list[Callable[[], Any]] = [
        lambda: array[::-1],  # negative strides
        lambda: array[..., ::-1],
        lambda: np.asfortranarray(array),
        lambda: array.T,
        lambda: np.broadcast_to(array[:1], array.shape),  # strides of zero, read-only
        lambda: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda: array.astype(np.float16),
        lambda: array.astype(np.longdouble),
        lambda: array.astype(array.dtype.newbyteorder()),
        lambda: array.astype(np.complex64),
        lambda: array.astype(object),
        lambda: np.ones(array.shape, np.int32),
        lambda: array.astype(np.float32 if array.dtype == np.float64 else np.float64),
        lambda: array[..., :0],
        lambda: array[:0],
        lambda: array[..., None],
        lambda: array.reshape(-1),
        lambda: array[..., :-1].copy(),
        lambda: np.concatenate([array, array]),
        lambda: np.float64(1.0),
        lambda: array.tolist(),
        lambda: misaligned(array),
        lambda: None,
        lambda: "array",
        lambda: 3,
    ]
    return d.one(wrong)()


def misaligned(array: np.ndarray) -> np.ndarray:
    """The same numbers at an odd address."""
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    view = buffer[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def value(d: Draw, name: str, sizes: dict[str, int], dtype: type) -> Any:
    """A usual argument of that name; of an unknown name anything."""
    batch, n, m, width = (sizes[key] for key in ("batch", "n", "m", "width"))

    def floats(*shape: int) -> np.ndarray:
        with np.errstate(all="ignore"):
            array = d.values(shape, 0.2).numpy().astype(dtype)
        return read_only(array) if d.chance(0.05) else array

    def mass(size: int) -> Any:
        if d.chance(0.5):
            return None
        w = np.abs(floats(batch, size)) + (0 if d.chance(0.2) else 0.1)
        with np.errstate(all="ignore"):
            return (w / w.sum(-1, keepdims=True)).astype(dtype)

    def numbers(low: float, high: float) -> np.ndarray:
        exponents = [d.random.uniform(low, high) for _ in range(batch)]
        return 10.0 ** np.array(exponents, dtype=np.float64)

    def labels(size: int) -> Any:
        return (
            None
            if sizes["labels"] == 0
            else np.array(
                [[d.random.randrange(-1, 3) for _ in range(size)] for _ in range(batch)], np.int64
            ).reshape(batch, size)
        )

    known: dict[str, Callable[[], Any]] = {
        "x": lambda: floats(batch, n, width),
        "y": lambda: None if d.chance(0.1) else floats(batch, m, width),
        "a": lambda: mass(n),
        "b": lambda: mass(m),
        "x_label": lambda: labels(n),
        "y_label": lambda: labels(m),
        "f0": lambda: None if d.chance(0.7) else floats(batch, n),
        "g0": lambda: None if d.chance(0.7) else floats(batch, m),
        "epsilon": lambda: numbers(-3, 2),
        "reach_x": lambda: numbers(-2, 2) if d.chance(0.5) else np.full(batch, np.inf),
        "reach_y": lambda: numbers(-2, 2) if d.chance(0.5) else np.full(batch, np.inf),
        "label_cost": lambda: numbers(-2, 2),
        "parameters": lambda: np.stack([numbers(-3, 2) for _ in range(4)]),
        "cost": lambda: d.one(COSTS),
        "tol": lambda: d.one([0.0, 1e-3, 1e-9, -1.0, float("nan")]),
        "max_iter": lambda: d.one([0, 1, 2, 50]),
        "scales": lambda: d.one([[1.0], [0.25, 0.5, 1.0, 2.0, 4.0], [0.3], []]),
        "bandwidth": lambda: numbers(-2, 2),
        "limit": lambda: d.one([2, 5, 1024, 2**63]),
        "threads": lambda: d.one([0, 1, 2, 5]),
    }
    flags = ("relative", "want_", "accelerate", "unbiased", "debias", "symmetric", "sharp")
    if name.startswith(flags):
        return d.chance(0.5)
    if name not in known:
        return d.one([None, None, True, 1, 0.5, "x", floats(batch, n), numbers(-1, 1)])
    return known[name]()


def compiled(d: Draw) -> Case:
    """A call of one function; most arguments usual, sometimes one or two are not."""
    function = d.one(FUNCTIONS)
    names = list(inspect.signature(function).parameters)
    sizes = dict(batch=d.one([1, 1, 2, 3]), n=d.size(), m=d.size(), width=d.size())
    sizes["labels"] = int(d.chance(0.3))
    dtype = d.one([np.float32, np.float64])
    arguments = {name: value(d, name, sizes, dtype) for name in names}
    if function.__name__ == "sinkhorn_cost":
        shape = (sizes["batch"], sizes["n"], sizes["m"])
        arguments["cost"] = d.values(shape, 0.2).numpy().astype(dtype)
    for _ in range(d.one([0, 0, 1, 1, 2])):
        if not names:
            break
        name = d.one(names)
        old = arguments[name]
        if isinstance(old, np.ndarray) and old.ndim:
            try:
                with np.errstate(all="ignore"):
                    arguments[name] = spoil(d, old)
            except (TypeError, ValueError, IndexError):  # an empty array has no such view
                pass
        elif name != "threads":  # so many threads as asked for are started
            arguments[name] = d.one([-1, 2**70, 1.5, "x", None, b"\x00", [], float("nan")])
    if d.chance(0.02) and names:
        arguments.pop(d.one(names))
    return function, (), arguments


def check(case: Case, result: Any) -> None:
    """Arrays that own or borrow valid memory: reading them all is the test."""
    for array in result if isinstance(result, tuple) else (result,):
        if isinstance(array, np.ndarray):
            assert array.flags.c_contiguous and array.dtype.kind in "fib"
            array.sum(dtype=np.float64 if array.dtype.kind == "f" else None)
