"""Small problems in one launch: the kernel in the interpreter (or on a GPU) against float64.

``TRITON_INTERPRET=1`` must be set before Triton is imported, so one test runs this file once more
in a process of its own.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ucmkd import reference
from ucmkd.ops import _triton, _triton_whole

INTERPRETED = _triton.interpreted()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
numerical = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1"
)
EPS = torch.finfo(torch.float32).eps
TOL = 1e-6
STRICT = math.inf
ALL = ("cross", "x", "y")
#: Numbers of a problem are float64, as the operators return them; the rest is float32.
TYPES = {
    "iterations": torch.int64, "converged": torch.bool,
    **dict.fromkeys(("value", "residual", "scale", "transport", "mismatch"), torch.float64),
}  # fmt: skip


class Case(NamedTuple):
    """One problem; ``tol`` 0 compares after ``max_iter`` plain iterations."""

    n: int = 18
    m: int = 11
    d: int = 5
    cost: str = "sqeuclidean"
    epsilon: float = 0.5
    reach: tuple[float, float] = (STRICT, STRICT)
    batch: int = 1
    masked: bool = False
    labels: str = ""  # "" | "price" | "distance"
    relative: bool = True
    terms: tuple[str, ...] = ("cross",)
    warm: bool = False
    dtype: torch.dtype = torch.float32
    shift: float = 0.0
    want: tuple[bool, bool] = (True, True)
    accelerate: bool = True
    bound: float = 200.0  # of the errors, in units of float32's ε


CASES = {
    **{f"{c} with self-terms": Case(cost=c, terms=ALL) for c in reference.COSTS},
    **{f"{c} normal to bf16": Case(cost=c, dtype=torch.bfloat16, d=20, n=9)
       for c in reference.COSTS},
    "fp16": Case(dtype=torch.float16),
    "one point each": Case(1, 1, 1, epsilon=1.0, relative=False, terms=ALL),
    "two points, three coordinates": Case(2, 17, 3, terms=ALL),
    "63 points, 64 coordinates": Case(63, 17, 64),
    "127 points": Case(127, 20, 3),
    "100 coordinates": Case(5, 3, 100, terms=("cross", "y")),
    "513 coordinates": Case(3, 4, 513, cost="cosine", terms=("cross", "x")),
    "unbalanced": Case(reach=(1.0, 0.7), terms=ALL, batch=2),
    "unbalanced and masked": Case(reach=(1.0, 0.7), terms=ALL, masked=True, relative=False),
    "semi-unbalanced": Case(reach=(STRICT, 0.5), masked=True),
    "semi-unbalanced, the other way": Case(reach=(0.5, STRICT), cost="euclidean"),
    "masked points": Case(masked=True, terms=ALL, cost="chordal", batch=2),
    "label cost": Case(labels="price", terms=ALL, masked=True),
    "label cost of a distance": Case(labels="price", cost="euclidean", reach=(1.0, 1.0)),
    "class distances": Case(labels="distance", terms=ALL, batch=2),
    "absolute parameters": Case(relative=False, epsilon=2.0, terms=ALL, cost="l1"),
    "warm start": Case(warm=True, terms=ALL, masked=True),
    "warm start, relaxed": Case(warm=True, reach=(1.0, 1.0), cost="l1"),
    "far from the origin": Case(shift=100.0, terms=ALL, bound=400.0),
    "distances far from the origin": Case(shift=100.0, cost="euclidean", bound=400.0),
    "not accelerated": Case(accelerate=False),
    "gradient to x alone": Case(want=(True, False), terms=ALL),
    "gradient to y alone": Case(want=(False, True), terms=ALL),
    "no gradient": Case(want=(False, False), terms=ALL),
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masses(batch: int, n: int, masked: bool, seed: int = 0) -> Tensor:
    weight = random(batch, n, seed=seed).abs() + 0.2
    if masked:
        weight[:, 1::3] = 0
    return weight / weight.sum(-1, keepdim=True)


def close(name: str, actual: Tensor, expected: Tensor, bound: float) -> None:
    """The largest error is below ``bound`` ε of the largest value."""
    assert actual.shape == expected.shape, name
    if expected.numel() == 0:
        return
    assert actual.isfinite().all(), name
    error = float((actual.double() - expected).abs().max())
    size = float(expected.abs().max())
    assert error <= bound * EPS * max(size, 1e-3), (name, error / EPS, size)


COMPARED = (
    "value", "x_potential", "y_potential", "scale", "row", "column", "transport", "mismatch",
    "grad_x", "grad_y", "class_mass",
)  # fmt: skip


def arguments(case: Case) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    def vector(value: float) -> Tensor:
        return torch.full((case.batch,), value, device=DEVICE)

    x = (random(case.batch, case.n, case.d) + case.shift).to(case.dtype)
    y = (random(case.batch, case.m, case.d, seed=1) + case.shift + 0.4).to(case.dtype)
    a = masses(case.batch, case.n, case.masked)
    b = masses(case.batch, case.m, case.masked, seed=1)
    if case.reach[1] < STRICT:
        b = 1.5 * b
    keywords: dict[str, Any] = dict(
        epsilon=vector(case.epsilon), reach_x=vector(case.reach[0]), reach_y=vector(case.reach[1]),
        cost=case.cost, relative=case.relative, want_x=case.want[0], want_y=case.want[1],
    )  # fmt: skip
    if case.labels:
        generator = torch.Generator().manual_seed(3)
        k = torch.randint(0, 3, (case.batch, case.n), generator=generator).to(DEVICE)
        l = torch.randint(0, 3, (case.batch, case.m), generator=generator).to(DEVICE)  # noqa: E741
        keywords |= {"x_label": k, "y_label": l, "label_cost": vector(0.5)}
    if case.labels == "distance":
        table = random(3, 3, seed=4).abs()
        keywords |= {"distance": table + table.T, "want_distance": True}
    return (x, y, a, b), keywords


def doubled(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floating else value


def precise(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """In float64; masses that differ by rounding alone are made equal, or nothing converges."""
    x, y, a, b = map(doubled, (x, y, a, b))
    ratio = a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True)
    return x, y, a, torch.where((ratio - 1).abs() < 1e-5, ratio, 1.0) * b


def expected_term(term: str, tensors: Any, keywords: dict[str, Any], scale: Tensor) -> Any:
    """A self-term in float64, in units of the cross term's mean cost."""
    x, y, a, b = precise(*tensors)
    own = {k: doubled(v) for k, v in keywords.items()} | {"relative": False}
    for name in ("epsilon", "reach_x", "reach_y", "label_cost"):
        if name in own:
            own[name] = own[name] * scale
    if term == "x":
        return reference.sinkhorn(x, None, a, a, **own)
    own |= {"reach_x": own["reach_y"], "x_label": own.get("y_label"), "want_x": own["want_y"]}
    return reference.sinkhorn(y, None, b, b, **own)


@numerical
@pytest.mark.parametrize("name", CASES)
def test_against_the_reference(name: str) -> None:
    case = CASES[name]
    tensors, keywords = arguments(case)
    starts: dict[str, Any] = {}
    if case.warm:
        starts["g0"] = random(case.batch, case.m, seed=7)
        starts["own_starts"] = (random(case.batch, case.n, seed=8), None)
    options = {**keywords, **starts, "terms": case.terms, "accelerate": case.accelerate}
    found = _triton_whole.solve(*tensors, tol=TOL, max_iter=500, **options)
    exact = {k: doubled(v) for k, v in keywords.items()}
    cross = reference.sinkhorn(*precise(*tensors), tol=1e-9, **exact)
    assert len(found) == len(case.terms)
    for term, actual in zip(case.terms, found, strict=True):
        expected = cross
        if term != "cross":
            expected = expected_term(term, tensors, keywords, cross.scale)
            expected = expected._replace(scale=cross.scale)
        assert actual.converged.all() and (actual.residual <= TOL).all(), term
        assert actual.iterations.dtype == torch.int64 and (actual.iterations > 0).all()
        for field in COMPARED:
            close(f"{term} {field}", getattr(actual, field), getattr(expected, field), case.bound)
        for field, tensor in actual._asdict().items():
            assert tensor.dtype == TYPES.get(field, torch.float32), field


ALONE = {
    "balanced": Case(17, relative=False, labels="distance"),
    "relaxed, masked": Case(cost="chordal", reach=(0.8, STRICT), masked=True, relative=False),
    "in units of its own mean cost": Case(5, 40, 3, cost="euclidean", batch=2),
}


@numerical
@pytest.mark.parametrize("name", ALONE)
def test_a_self_term_alone(name: str) -> None:
    """The gradient is the total derivative; of y, if it is there, nothing is read."""
    case = ALONE[name]
    (x, y, a, b), keywords = arguments(case)
    keywords |= {"y_label": None, "want_y": False}
    start = random(case.batch, case.n, seed=8)
    (actual,) = _triton_whole.solve(
        x, None, a, None, terms=("x",), own_starts=(start, None), tol=TOL, **keywords
    )
    (also,) = _triton_whole.solve(
        x, y, a, b, terms=("x",), own_starts=(start, None), tol=TOL, **keywords
    )
    exact = {k: doubled(v) for k, v in keywords.items()}
    expected = reference.sinkhorn(x.double(), None, a.double(), a.double(), tol=1e-9, **exact)
    assert actual.converged.all()
    for field in COMPARED:
        close(field, getattr(actual, field), getattr(expected, field), 200.0)
        assert torch.equal(getattr(actual, field), getattr(also, field)), field


@numerical
def test_no_field_shares_its_memory_with_another() -> None:
    tensors, keywords = arguments(Case(4, 3, 2, labels="distance"))
    for solution in _triton_whole.solve(*tensors, terms=ALL, max_iter=3, **keywords):
        places = [t.untyped_storage().data_ptr() for t in solution if t.numel()]
        assert len({*places}) == len(places) >= 12


@numerical
@pytest.mark.parametrize("reach", [STRICT, 1.0])
def test_counted_iterations_are_those_of_the_reference(reach: float) -> None:
    tensors, keywords = arguments(Case(reach=(reach, STRICT), batch=2, terms=ALL))
    exact = {k: doubled(v) for k, v in keywords.items()}
    for steps in (1, 4):
        actual, own, _ = _triton_whole.solve(
            *tensors, tol=0.0, max_iter=steps, terms=ALL, **keywords
        )
        expected = reference.sinkhorn(*precise(*tensors), tol=0.0, max_iter=steps, **exact)
        assert actual.iterations.tolist() == [steps, steps]
        assert not actual.converged.any() and not own.converged.any()
        error = (actual.residual.double() - expected.residual).abs().max()
        assert float(error) < 100 * EPS
        for field in COMPARED:
            close(field, getattr(actual, field), getattr(expected, field), 100.0)


@numerical
@pytest.mark.parametrize("reach", [STRICT, 2.0])
def test_acceleration_saves_iterations_and_finds_the_same_point(reach: float) -> None:
    case = Case(14, 12, 2, epsilon=0.05, reach=(reach, reach), want=(False, False))
    tensors, keywords = arguments(case)
    fast, slow = (
        _triton_whole.solve(*tensors, tol=1e-4, max_iter=300, accelerate=flag, **keywords)[0]
        for flag in (True, False)
    )
    assert fast.converged.all() and slow.converged.all()
    assert 2 * int(fast.iterations) < int(slow.iterations)
    exact = {k: doubled(v) for k, v in keywords.items()}
    expected = reference.sinkhorn(*precise(*tensors), tol=1e-9, **exact)
    close("value", fast.value, expected.value, 200.0)
    close("potential", fast.x_potential, expected.x_potential, 2000.0)


@numerical
def test_each_problem_of_a_batch_stops_for_itself() -> None:
    case = Case(batch=3, cost="euclidean")
    tensors, keywords = arguments(case)
    keywords["epsilon"] = torch.tensor([1.0, 0.01, 0.3], device=DEVICE)
    (all_three,) = _triton_whole.solve(*tensors, tol=1e-4, max_iter=40, **keywords)
    counts = all_three.iterations.tolist()
    assert counts[1] > 2 * max(counts[0], counts[2])
    for i in range(3):
        alone = {k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in keywords.items()}
        one = _triton_whole.solve(*(t[i : i + 1] for t in tensors), tol=1e-4, max_iter=40, **alone)
        for got, whole in zip(one[0], all_three, strict=True):
            assert torch.equal(got, whole[i : i + 1] if whole.numel() else whole)


@numerical
def test_a_single_point_left_and_coincident_points() -> None:
    case = Case(6, 5, 3)
    (x, y, a, b), keywords = arguments(case)
    a, b = torch.zeros_like(a), torch.zeros_like(b)
    a[:, 2], b[:, 4] = 1, 1
    (one,) = _triton_whole.solve(x, y, a, b, **keywords)
    distance = (x[:, 2] - y[:, 4]).square().sum(-1)
    close("value", one.value, distance.double(), 20.0)
    close("gradient", one.grad_x[:, 2], 2 * (x[:, 2] - y[:, 4]).double(), 20.0)
    assert not one.grad_x[:, :2].any() and not one.grad_y[:, :4].any()
    for cost in reference.COSTS:
        same = torch.ones_like(x)
        found = _triton_whole.solve(
            same, same[:, :5], a, b, terms=ALL, **{**keywords, "cost": cost}
        )
        for solution in found:
            assert all(field.isfinite().all() for field in solution)
            assert float(solution.value.abs().max()) < 1e-5


@numerical
@pytest.mark.parametrize("cost, bound", [("euclidean", 20.0), ("chordal", 1e4)])
def test_near_points(cost: str, bound: float) -> None:
    """A distance from norms and products has no digit left here; the differences have.

    Normalised points are rounded themselves: at distances of 4e-5 that alone turns the gradient by
    some 2000 ε.
    """
    x = 10 * random(1, 6, 8)
    y = (x + 1e-3 * random(1, 6, 8, seed=1))[:, :5]
    a, b = masses(1, 6, False), masses(1, 5, False, seed=1)
    one = torch.ones(1, device=DEVICE)
    keywords: dict[str, Any] = dict(epsilon=one, reach_x=one, reach_y=one, cost=cost)
    (actual,) = _triton_whole.solve(x, y, a, b, tol=1e-6, **keywords)
    exact = {k: doubled(v) for k, v in keywords.items()}
    expected = reference.sinkhorn(*precise(x, y, a, b), tol=1e-9, **exact)
    for field in ("value", "transport"):
        close(field, getattr(actual, field), getattr(expected, field), 20.0)
    for field in ("grad_x", "grad_y"):
        close(field, getattr(actual, field), getattr(expected, field), bound)


@numerical
@pytest.mark.parametrize("reach", [STRICT, 1.0])
def test_a_matrix(reach: float) -> None:
    cost, a, b = random(2, 9, 17).abs(), masses(2, 9, True), masses(2, 17, False, seed=1)
    vectors = [torch.full((2,), v, device=DEVICE) for v in (0.3, reach, STRICT)]
    for matrix, first, second in ((cost, a, b), (cost.transpose(1, 2), b, a)):
        zero = torch.zeros_like(second)
        epsilon, reach_x, reach_y = vectors
        exact = precise(matrix, matrix, first, second)
        actual = _triton_whole.solve_matrix(
            matrix, first, second, epsilon=epsilon, reach_x=reach_x, reach_y=reach_y,
            relative=True, tol=TOL,
        )  # fmt: skip
        expected, plan = reference.solve_dense(
            exact[0], None, *exact[2:], zero.double(), *(v.double() for v in vectors),
            zero[:, 0].double(), symmetric=False, relative=True,
            tol=1e-9, max_iter=5000,
        )  # fmt: skip
        assert actual.converged.all()
        close("plan", actual.grad_x, plan, 100.0)
        for field in COMPARED[:8]:
            close(field, getattr(actual, field), getattr(expected, field), 100.0)


def test_bad_input_is_refused() -> None:
    (x, y, a, b), keywords = arguments(Case())
    with pytest.raises(ValueError, match="cost must be one of"):
        _triton_whole.solve(x, y, a, b, **{**keywords, "cost": "l3"})
    with pytest.raises(ValueError, match=r"x must be float32.*float64"):
        _triton_whole.solve(x.double(), y, a, b, **keywords)
    for terms in (("y",), ("x", "y"), ("cross", "x", "x"), ("cross", "z"), ()):
        with pytest.raises(ValueError, match="terms must be"):
            _triton_whole.solve(x, y, a, b, terms=terms, **keywords)
    with pytest.raises(ValueError, match="without y and b"):
        _triton_whole.solve(x, None, a, None, terms=ALL, **keywords)
    with pytest.raises(ValueError, match="x and y must have 1 to"):
        _triton_whole.solve(random(1, 2000, 5), y, a, b, **keywords)
    assert not _triton_whole.fits(2000, 4, 3, torch.float32)
    assert not _triton_whole.fits(4, 4, 3, torch.float64)
    assert _triton_whole.fits(128, 100, 512, torch.bfloat16)


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1: the interpreter compiles nothing")
def test_every_tabled_configuration_is_listed_and_a_small_one_compiles() -> None:
    """The report compiles them all; here the quickest, to the instructions that were meant."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ucmkd.kernels import whole

    pytest.importorskip("triton.backends.nvidia.compiler")
    found = {c.name: c for c in whole.compilations()}
    listed = {tuple(name.split("/")[1::2]) for name in found}
    assert listed == {(kind, str(block)) for kind, block in whole.TABLE}
    one = found["whole/half/sqeuclidean/64"]
    names = one.kernel.arg_names
    signature = {name: one.signature.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name.endswith("_ptr") or name == "d"
    }
    options = {"num_warps": one.warps, "num_stages": one.stages}
    ptx = triton.compile(
        ASTSource(one.kernel, signature, one.constants, aligned),
        target=GPUTarget("cuda", 90, 32), options=options,
    ).asm["ptx"]  # fmt: skip
    assert "ex2.approx" in ptx
    assert "mma" in ptx


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_numerics_in_the_interpreter() -> None:
    """Runs the numerical tests of this file in a process with TRITON_INTERPRET=1."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= len(CASES), done.stdout
