"""Sharded Sinkhorn and MMD: each rank with its rows only, against one process with all rows."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benches.memory import available, peak_growth
from torch import Tensor

from distributed_common import needs_fork, run_ranks
from ucmkd import losses
from ucmkd.distributed import Ranks, _costs, mmd, model, sharded_mmd_align, sharded_sinkhorn_align
from ucmkd.distributed._ring import Ring

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
#: Rows of student and teacher on each of four ranks; two ranks take the first two.
SIZES = [(9, 12), (14, 5), (0, 7), (11, 0)]


def share(rank: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    n, m = SIZES[rank]
    source = torch.Generator().manual_seed(rank)
    weight = torch.rand(n, generator=source) + 0.2
    weight[3:5] = 0.0  # masked
    return {
        "x": torch.randn(n, 4, generator=source).to(dtype) + 3,
        "y": torch.randn(m, 4, generator=source).to(dtype) + 3.4 + 0.1 * rank,
        "a": weight.to(dtype),
        "b": (torch.rand(m, generator=source) + 0.2).to(dtype),
        "k": torch.randint(3, (n,), generator=source),
        "l": torch.randint(3, (m,), generator=source),
    }


def everyone(world: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    parts = [share(rank, dtype) for rank in range(world)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def classes(d: dict[str, Tensor], **options: Any) -> dict[str, Any]:
    return dict(student_label=d["k"], teacher_label=d["l"], **options)


def masses(d: dict[str, Tensor]) -> dict[str, Any]:
    return dict(student_weight=d["a"], teacher_weight=d["b"])


DISTANCES = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5], [2.0, 0.5, 0.0]])
#: The iterations are the same, and so is what is seen after a few of them.
TIGHT: dict[str, Any] = dict(tol=1e-9, max_iter=15)
#: Options by the rank's data.
SINKHORN: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "default": lambda d: TIGHT | dict(epsilon=0.3, max_iter=1000),
    "both sides": lambda d: TIGHT | dict(detach_teacher=False, epsilon=0.2),
    "euclidean": lambda d: TIGHT | dict(cost="euclidean", debias=False, detach_teacher=False),
    "cosine": lambda d: TIGHT | dict(cost="cosine", epsilon=0.2, detach_teacher=False),
    "l1": lambda d: TIGHT | dict(cost="l1", epsilon_scale=None, epsilon=0.7),
    "chordal": lambda d: TIGHT | dict(cost="chordal", epsilon=0.1),
    "unbalanced": lambda d: (
        TIGHT | masses(d) | dict(reach=(1.5, 0.8), detach_teacher=False, epsilon=0.2)
    ),
    "one-sided": lambda d: TIGHT | masses(d) | dict(reach=(None, 2.0), epsilon=0.2),
    "labels": lambda d: TIGHT | classes(d, label_cost=0.5, epsilon=0.2),
    "classes": lambda d: (
        TIGHT | classes(d, label_cost=DISTANCES.double(), epsilon=0.2, detach_teacher=False)
    ),
    "unfinished": lambda d: TIGHT | dict(epsilon=0.02, detach_teacher=False),
}
MMD: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "default": lambda d: {},
    "unbiased": lambda d: dict(estimator="u", bandwidth="mean", detach_teacher=False) | masses(d),
    "median of some": lambda d: dict(detach_teacher=False) | masses(d),
    "laplace": lambda d: dict(kernel="laplace", bandwidth=1.5, scales=(1.0, 2.0)),
    "energy": lambda d: dict(kernel="energy", detach_teacher=False),
    "rational": lambda d: dict(kernel="rational_quadratic", bandwidth=2.0),
    "polynomial": lambda d: dict(kernel="polynomial", estimator="u", detach_teacher=False),
}


def evaluate(loss: Any, d: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, ...]:
    x, y = d["x"].clone().requires_grad_(), d["y"].clone().requires_grad_()
    value = loss(x, y, **options)
    value.backward()
    return value.detach(), x.grad, torch.zeros_like(y) if y.grad is None else y.grad


def cases_of(world: int) -> list[tuple[str, str]]:
    """All of them with two ranks; four, of which one has no student and one no teacher, cost time:
    there the solves stop early."""
    names = [*SINKHORN, "kept"] if world == 2 else ["unfinished", "unfinished unbalanced"]
    return [("sinkhorn", name) for name in names] + [("mmd", name) for name in MMD]


def options_of(kind: str, name: str, d: dict[str, Tensor]) -> dict[str, Any]:
    if kind == "mmd":
        return MMD[name](d)
    if name == "kept":
        return SINKHORN["both sides"](d)
    first, *second = name.split()
    return SINKHORN[second[0] if first == "unfinished" and second else name](d) | (
        dict(max_iter=4) if first == "unfinished" else {}
    )


def all_cases(rank: int, world: int) -> dict[str, tuple[Tensor, ...]]:
    d = share(rank)
    if world == 4:  # several tiles in a block; only in this process
        for module in (_costs, sys.modules["ucmkd.distributed.mmd"]):
            setattr(module, "TILE", 20)  # noqa: B010
    found = {}
    for kind, name in cases_of(world):
        loss: Any = sharded_mmd_align if kind == "mmd" else sharded_sinkhorn_align
        options = options_of(kind, name, d) | (dict(keep_costs=True) if name == "kept" else {})
        found[f"{kind} {name}"] = evaluate(loss, d, options)
    return found


def compare(results: list[Any], name: str, expected: tuple[Tensor, ...], **bound: float) -> None:
    """The value on every rank, and the ranks' gradients times 1/W one behind the other."""
    value, *slopes = expected
    assert float(slopes[0].abs().max()) > 1e-3
    for result in results:
        torch.testing.assert_close(result[name][0], value, **bound)
    for i, slope in enumerate(slopes):
        together = torch.cat([result[name][1 + i] for result in results]) / len(results)
        torch.testing.assert_close(together, slope, **bound)


@needs_fork
@pytest.mark.parametrize("world", [2, 4])
def test_same_numbers(tmp_path: Path, world: int) -> None:
    """In float64, to rounding and the solver's tolerance; after three iterations to rounding."""
    results = run_ranks(tmp_path, world, all_cases)
    d = everyone(world)
    for kind, name in cases_of(world):
        loss = losses.mmd_align if kind == "mmd" else losses.sinkhorn_align
        expected = evaluate(loss, d, options_of(kind, name, d) | dict(backend="torch"))
        compare(results, f"{kind} {name}", expected, rtol=1e-7, atol=1e-9)


def in_float32(rank: int, world: int) -> dict[str, tuple[Tensor, ...]]:
    d = share(rank, torch.float32)
    half = {name: t.bfloat16() if name in "xy" else t for name, t in d.items()}
    with torch.autocast("cpu", torch.bfloat16):
        low = evaluate(sharded_sinkhorn_align, half, {})
    return {
        "sinkhorn": evaluate(sharded_sinkhorn_align, d, dict(tol=1e-5)),
        "mmd": evaluate(sharded_mmd_align, d, {}),
        "half": low,
    }


@needs_fork
def test_float32_and_half_precision(tmp_path: Path) -> None:
    """What the Rust solver gives with its acceleration, to its tolerance."""
    results = run_ranks(tmp_path, 2, in_float32)
    d = everyone(2, torch.float32)
    expected = evaluate(losses.sinkhorn_align, d, dict(tol=1e-5, backend="rust"))
    compare(results, "sinkhorn", expected, rtol=1e-3, atol=1e-5)
    compare(
        results, "mmd", evaluate(losses.mmd_align, d, dict(backend="rust")), rtol=1e-4, atol=1e-6
    )
    value, slope, _ = results[0]["half"]
    assert value.dtype == torch.float32 and slope.dtype == torch.bfloat16
    assert float(value) == pytest.approx(float(expected[0]), rel=0.03)


def mistakes(rank: int, world: int) -> dict[str, str]:
    d = share(rank, torch.float32)
    x, y = d["x"], d["y"]
    second = rank == 1
    cases: dict[str, Callable[[], Tensor]] = {
        "batched": lambda: sharded_sinkhorn_align(x[None] if second else x, y),
        "epsilon": lambda: sharded_sinkhorn_align(x, y, epsilon=0.0),
        "learned": lambda: sharded_sinkhorn_align(x, y, epsilon=torch.tensor(1.0)),  # type: ignore[arg-type]
        "differs": lambda: sharded_sinkhorn_align(x, y, cost="l1" if second else "cosine"),
        "mass": lambda: sharded_sinkhorn_align(x, y, student_weight=torch.ones(len(x))),
        "negative": lambda: sharded_mmd_align(x, y, student_weight=torch.full((len(x),), -1.0)),
        "gradient": lambda: sharded_mmd_align(x, y, teacher_weight=d["b"].requires_grad_()),
        "estimator": lambda: sharded_mmd_align(x, y, estimator="linear"),
        "labels": lambda: sharded_sinkhorn_align(x, y, student_label=d["k"]),
        "reach": lambda: sharded_sinkhorn_align(x, y, reach=torch.tensor(1.0)),  # type: ignore[arg-type]
        "range": lambda: sharded_sinkhorn_align(
            x, y, student_label=d["k"] - 3 * second, teacher_label=d["l"],
            label_cost=1 - torch.eye(3),
        ),
        "sparse": lambda: sharded_sinkhorn_align(
            x, y, student_weight=d["a"].to_sparse() if second else d["a"]
        ),
    }  # fmt: skip
    found = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = "no error"
        except (TypeError, ValueError) as error:
            found[name] = str(error)
    x = x.clone().requires_grad_()
    for loss in (sharded_sinkhorn_align, sharded_mmd_align):
        try:
            torch.autograd.grad(loss(x, y), x, create_graph=True)
        except NotImplementedError as error:
            found[f"twice {loss.__name__}"] = str(error)
    return found


@needs_fork
def test_mistakes_are_named_on_every_rank(tmp_path: Path) -> None:
    for found in run_ranks(tmp_path, 2, mistakes):
        assert "student must have shape (n, d); got (1, 14, 4)" in found["batched"]
        assert "epsilon must be > 0" in found["epsilon"]
        assert "epsilon must be a number here" in found["learned"]
        assert "cost must be the same on every rank of group; got rank 0: 'cos" in found["differs"]
        assert "must have the same mass over the ranks when reach is None" in found["mass"]
        assert "student_weight must be finite and non-negative" in found["negative"]
        assert "teacher_weight must not need a gradient" in found["gradient"]
        assert "reach must be numbers here" in found["reach"]
        assert "student_label must lie in 0..2 to index label_cost" in found["range"]
        assert "student_weight must be dense" in found["sparse"]
        assert "estimator must be one of 'v', 'u'" in found["estimator"]
        assert "teacher_label must be given too" in found["labels"]
        for name in ("sharded_sinkhorn_align", "sharded_mmd_align"):
            assert "first derivatives only" in found[f"twice {name}"]


def one_turn(rank: int, world: int) -> tuple[int, list[tuple[int, float]], int]:
    """What a turn shows, what it has sent, and the most points held at a time."""
    own = torch.full((6, 3), float(rank))
    ring = Ring(own, Ranks("world"), (6,) * world)
    shown = [(block.owner, float(block.points.mean())) for block in ring.turn()]
    return ring.sent, shown, ring.total


@needs_fork
@pytest.mark.parametrize("world", [2, 3])
def test_a_turn_of_the_ring(tmp_path: Path, world: int) -> None:
    """Every rank sees the rows of all, its own first, and sends what the formula says."""
    for rank, (sent, shown, total) in enumerate(run_ranks(tmp_path, world, one_turn)):
        assert shown[0][0] == rank and sorted(shown) == [(r, float(r)) for r in range(world)]
        problem = model.Problem(total, total, 3, world)
        assert 2 * sent == model.traffic(problem).points == 2 * (world - 1) * 6 * 3 * 4


def test_the_model_by_hand() -> None:
    """Formulas of the docstring with numbers for which they are easy."""
    p = model.Problem(n=800, m=400, d=10, world=4)
    said = model.traffic(p)
    assert said.points == 2 * 3 * 100 * 10 * 4 and said.columns == 2 * 2 * 0.75 * 400 * 4
    assert said.messages == 6 + 12 and said.bytes == 28_800
    assert model.traffic(p, keep_costs=True) == (0.0, 4800.0, 12)
    assert model.memory(p) == 4 * ((800 + 1200) / 4 * 10 + 4 * 1200)
    assert model.memory(p, keep_costs=True) - model.memory(p) == 800 * 400
    # An entry takes 1 s, a block 20,000 s; the network nothing, then 10 s a byte.
    instant = model.Machine(latency=0.0, bandwidth=1e30, flops=1e30, memory=48.0)
    assert model.seconds(p, instant) == pytest.approx(2 * 4 * 20_000)
    assert model.efficiency(p, instant) == pytest.approx(1.0)
    slow = instant._replace(bandwidth=0.1)
    block, reduce = 100 * 10 * 4 / 0.1, 2 * 0.75 * 400 * 4 / 0.1
    assert model.seconds(p, slow) == pytest.approx(2 * (3 * block + 20_000) + 2 * reduce)
    assert model.seconds(p._replace(world=1), slow) == pytest.approx(2 * 800 * 400)


def memory_of(rank: int, world: int) -> dict[str, int]:
    """By how much a rank grows, by loss; tiles are small, so that a matrix would be seen."""
    _costs.TILE = mmd.TILE = 2**14
    n = 2400 // world
    losses = {
        "sinkhorn": lambda x, y: sharded_sinkhorn_align(x, y, debias=False, tol=0.0, max_iter=2),
        "kept": lambda x, y: sharded_sinkhorn_align(
            x, y, debias=False, tol=0.0, max_iter=2, keep_costs=True
        ),
        # The median would look at pairs of a thousand points, whatever n.
        "mmd": lambda x, y: sharded_mmd_align(x, y, bandwidth=2.0),
    }
    found = {}
    for name, loss in losses.items():

        def solve(rows: int, loss: Callable[..., Tensor] = loss) -> None:
            x = torch.randn(rows, 4, requires_grad=True)
            loss(x, torch.randn(rows, 4)).backward()

        solve(50)
        found[name] = peak_growth(lambda: solve(n))
    return found


@needs_fork
@pytest.mark.skipif(not available(), reason="this system does not tell the peak of a process")
def test_no_rank_holds_the_matrix(tmp_path: Path) -> None:
    """2400 × 2400 costs are 23 MB, a rank's rows of them 11.5: held only where they are kept."""
    share = 2400 * 2400 * 4 // 2
    for found in run_ranks(tmp_path, 2, memory_of):
        assert found["kept"] > share  # the measurement sees a matrix
        assert max(found["sinkhorn"], found["mmd"]) < share / 2


def test_without_processes() -> None:
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    for loss in (sharded_sinkhorn_align, sharded_mmd_align):
        with pytest.raises(ValueError, match=r"needs torch\.distributed: call init_process_group"):
            loss(x, y)
