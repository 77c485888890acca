"""MMD on the Triton kernels: numerics in the interpreter or on a GPU, and what they compile to.

As in ``test_triton.py``, one test runs this file once more in a process with
``TRITON_INTERPRET=1``.
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

from ucmkd import ops, reference
from ucmkd.kernels import mmd as km
from ucmkd.ops import _triton, _triton_mmd
from ucmkd.ops._median import device_median
from ucmkd.ops._mmd_op import Flag, Spec

INTERPRETED = _triton.interpreted()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
numerical = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="needs a GPU or TRITON_INTERPRET=1"
)
EPS = torch.finfo(torch.float32).eps
FIVE = (0.25, 0.5, 1.0, 2.0, 4.0)
ALL = Flag.X | Flag.Y | Flag.MASSES | Flag.BANDWIDTH


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def masses(*shape: int, seed: int = 0) -> Tensor:
    weight = random(*shape, seed=seed).abs() + 0.1
    if shape[1] > 2:
        weight[:, 1] = 0
    return weight / weight.sum(1, keepdim=True)


class Case(NamedTuple):
    """Sizes and options of one comparison."""

    kernel: str
    n: int
    m: int
    d: int
    unbiased: bool = False
    weights: str = "masses"  # or "uniform", "classes"
    classes: int = 3
    wanted: Flag = ALL
    dtype: torch.dtype = torch.float32
    scales: tuple[float, ...] = FIVE
    shift: float = 0.0
    many: bool = False  # the large tiles


def differences(case: Case, x: Tensor, y: Tensor, width: float | None = None) -> list[float]:
    """The errors of value and gradients, each in units of the largest entry."""
    batch, n, d = x.shape
    a = b = None
    if case.weights != "uniform":
        tail = () if case.weights == "masses" else (case.classes,)
        a, b = masses(batch, n, *tail), masses(batch, y.shape[1], *tail, seed=1)
    first = math.sqrt(d) if width is None else width
    sigma = torch.linspace(first, 1.3 * first, batch, dtype=torch.float64, device=DEVICE)
    kernel = reference.Kernel(case.kernel, case.scales, 3, 1 / d, 1.0)
    out = _triton_mmd.compute(
        x, y, a, b, sigma, Spec(kernel, case.unbiased, "triton"), int(case.wanted)
    )
    wide = [x.double(), y.double()]
    for weight, points in ((a, x), (b, y)):
        uniform = torch.full(points.shape[:2], 1 / points.shape[1], device=DEVICE)
        wide.append((uniform if weight is None else weight).double())
    options: dict[str, Any] = {"bandwidth": sigma, "kernel": kernel, "unbiased": case.unbiased}
    gradient = reference.mmd_gradient(*wide, **options)
    expected = [reference.mmd(*wide, **options), *gradient]
    flags = (None, Flag.X, Flag.Y, Flag.MASSES, Flag.MASSES, Flag.BANDWIDTH)
    # The sums of which value and derivative by the bandwidth are differences.
    left = reference.kernel_value(
        kernel, reference.kernels.argument(kernel, wide[0], wide[0]), sigma[:, None, None]
    )
    term = (wide[2].reshape(batch, n, -1) ** 2).sum() * float(left.abs().max()) + float(
        (left.abs() * (wide[2].reshape(batch, n, -1).sum(-1)[:, :, None] / n)).sum()
    )
    found = []
    for flag, one, other in zip(flags, out, expected, strict=True):
        if flag is not None and not case.wanted & flag:
            assert one is None
            continue
        assert one is not None and one.shape == other.shape
        assert one.isfinite().all()
        assert one.dtype == (torch.float64 if flag == Flag.BANDWIDTH else torch.float32)
        scale = float(other.abs().max())
        if flag in (None, Flag.BANDWIDTH):
            scale = max(scale, float(term))
        found.append(float((one.double() - other).abs().max()) / max(scale, 1e-30))
    return found


KERNELS = reference.KERNELS
CASES = [
    # Every kernel with V and U, masses with zeros, and n != m.
    *(Case(k, 17, 33, 1) for k in ("gaussian", "laplace", "energy")),
    *(Case(k, 33, 17, 3, unbiased=True) for k in KERNELS),
    *(Case(k, 1, 2, 1, unbiased=k != "energy") for k in ("gaussian", "energy", "polynomial")),
    Case("gaussian", 9, 35, 64, weights="classes"),
    Case("polynomial", 9, 18, 64, weights="classes", unbiased=True),
    Case("laplace", 17, 9, 5, weights="classes", classes=20, unbiased=True),
    # Large tiles, blocks of the product and of the output, scales without a common exponential.
    Case("gaussian", 129, 2, 64, unbiased=True, wanted=Flag.X | Flag.Y, many=True),
    Case("laplace", 17, 35, 64, many=True, wanted=Flag.X | Flag.Y),
    Case("energy", 2, 33, 100, unbiased=True, wanted=Flag.X | Flag.Y),
    Case("gaussian", 17, 18, 513, wanted=Flag.X),
    Case("polynomial", 17, 9, 130, unbiased=True, many=True, wanted=Flag.X),
    Case("gaussian", 20, 33, 5, scales=(1.0, 3.0, 0.5, 0.1)),
    Case("laplace", 20, 33, 5, scales=(0.7,), wanted=Flag.X | Flag.Y),
    # What is wanted decides which tiles are visited.
    *(
        Case("gaussian", 66, 35, 4, wanted=Flag(f), unbiased=bool(f % 4), weights=w)
        for f, w in (
            (0, "uniform"), (2, "classes"), (4, "uniform"), (6, "uniform"), (8, "masses"),
            (16, "masses"),
        )
    ),
    *(Case(k, 18, 21, 70, dtype=torch.bfloat16) for k in ("gaussian", "energy", "polynomial")),
    Case("laplace", 20, 35, 140, dtype=torch.bfloat16, many=True, wanted=Flag.X | Flag.Y),
    Case("laplace", 18, 21, 40, dtype=torch.float16, wanted=Flag.X | Flag.Y),
    Case("energy", 18, 35, 6, shift=100.0),
    Case("laplace", 18, 35, 6, shift=100.0, dtype=torch.bfloat16),
]  # fmt: skip


@numerical
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.many:
        monkeypatch.setattr(km, "FEW_ROWS", 0)
    batch = 2 if case.n * case.m < 200 else 1
    x = (random(batch, case.n, case.d) + case.shift).to(case.dtype)
    y = (random(batch, case.m, case.d, seed=1) + 0.3 + case.shift).to(case.dtype)
    # Two terms of 8 bits hold the weights of the gradient for bfloat16 points; five scales of one
    # exponential multiply its error by 256 in the narrowest.
    split = 2**-16 if case.dtype == torch.bfloat16 else 0
    shared = 256 if case.kernel == "gaussian" else 64
    if case.d == 1 and case.kernel in ("laplace", "energy"):
        # Squared distances just above a thousandth of the norms keep a thousandth of the digits'
        # range, and on a line the gradient of such a pair does not vanish with its distance.
        shared = 2000
    # 16-bit points are not centred: the two products of the gradient differ by a rounded shift.
    far = 8 * case.shift * EPS if case.dtype != torch.float32 else 0
    assert max(differences(case, x, y)) < shared * EPS + split + far


@numerical
@pytest.mark.parametrize(
    "kernel, unbiased", [*((k, False) for k in KERNELS), ("gaussian", True), ("energy", True)]
)
def test_coincident_and_collapsed_points_are_finite(kernel: str, unbiased: bool) -> None:
    case = Case(kernel, 20, 20, 20, unbiased=unbiased)
    x = random(1, 20, 20)
    x[:, 3] = x[:, 4]
    assert max(differences(case, x, x.clone())) < 256 * EPS
    one = random(1, 1, 20).expand(1, 20, 20).contiguous()
    value = ops.mmd(
        one[0].clone().requires_grad_(), one[0], kernel=kernel, backend="triton",
        estimator="u" if unbiased else "v",
    )  # fmt: skip
    largest = max(float((one[0, 0].square().sum() / 20 + 1) ** 3), 1)
    assert abs(float(value.detach())) < 256 * EPS * largest


@numerical
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_agrees_with_torch(dtype: torch.dtype) -> None:
    x, y = random(19, 5).to(dtype), random(22, 5, seed=1).to(dtype)
    labels = torch.arange(19, device=DEVICE) % 3, torch.arange(22, device=DEVICE) % 3
    results = []
    for backend in ("triton", "torch"):
        point, width = x.clone().requires_grad_(), torch.tensor(1.5, requires_grad=True)
        value = ops.mmd(
            point, y, bandwidth=width.to(DEVICE), backend=backend, x_class=labels[0],
            y_class=labels[1], num_classes=3,
        )  # fmt: skip
        assert value.dtype == torch.float32
        results.append([value.detach(), *torch.autograd.grad(value, (point, width))])
    assert results[0][1].dtype == dtype
    for one, other in zip(*results, strict=True):
        tolerance = max(256 * EPS, 2 * torch.finfo(one.dtype).eps)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 0.1)


@numerical
def test_second_derivatives() -> None:
    x, y, direction = random(2, 7, 3), random(2, 9, 3, seed=1), random(2, 7, 3, seed=2)

    def products(dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
        point = x.to(dtype).requires_grad_()
        value = ops.mmd(point, y.to(dtype), bandwidth=1.5, kernel="laplace", backend=backend)
        (slope,) = torch.autograd.grad(value.square().sum(), point, create_graph=True)
        (twice,) = torch.autograd.grad((slope * direction.to(dtype)).sum(), point)
        return slope.detach(), twice

    for one, other in zip(
        products(torch.float32, "triton"), products(torch.float64, "torch"), strict=True
    ):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert float(error) < 64 * EPS


@numerical
def test_operator_traces() -> None:
    """The registered operator, with its fake and its derivative, for 16-bit points too."""
    x, y = random(1, 6, 4).bfloat16(), random(1, 5, 4, seed=1).bfloat16()
    sigma = torch.ones(1, dtype=torch.float64, device=DEVICE)
    arguments = (x, y, None, None, sigma, "gaussian", [1.0], [3.0, 1.0, 1.0], int(ALL), "triton")
    torch.library.opcheck(
        torch.ops.ucmkd.mmd.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@numerical
def test_a_part_of_the_columns_for_each_program(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("gaussian", 65, 65, 3, unbiased=True, wanted=Flag.X)
    x, y = random(1, 65, 3), random(1, 65, 3, seed=1)
    monkeypatch.setattr(km, "PROGRAMS", 10**6)
    assert max(differences(case, x, y)) < 256 * EPS


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n, m, limit", [(1, 1, 1024), (7, 12, 1024), (30, 41, 16), (5, 5, 1)])
def test_median_on_a_device(weighted: bool, n: int, m: int, limit: int) -> None:
    x, y = random(3, n, 4) + 10, random(3, m, 4, seed=1) + 10
    x[2], y[2] = 7.0, 7.0  # collapsed
    a, b = torch.ones_like(x[..., 0]), torch.ones_like(y[..., 0])
    if weighted:
        a[0, ::3], b[1, 1::2] = 0, 0
        x[0, ::3] = 1e6
    expected = reference.median_bandwidth(x.double(), y.double(), a, b, limit)
    pair = (a, b) if weighted else (None, None)
    found = device_median(x, y, *pair, limit)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def test_bad_input_is_refused() -> None:
    x, sigma = random(1, 4, 3), torch.ones(1, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match="must both be float32, bfloat16 or float16; got"):
        km.mmd(x.double(), x.double(), None, None, sigma)
    with pytest.raises(ValueError, match="both have classes"):
        km.mmd(x, x, torch.ones(1, 4, 2), None, sigma)
    with pytest.raises(ValueError, match=r"backend='triton' cannot run here: .*float64"):
        ops.mmd(x.double(), x.double(), backend="triton")


def test_scales_that_share_an_exponential() -> None:
    assert km.runs("gaussian", FIVE) == ((4, 2, 1, 0.5, 0.25), (True, *[False] * 4))
    assert km.runs("laplace", (1, 3, 0.5)) == ((3, 1, 0.5), (True, True, False))
    assert sum(km.runs("gaussian", [2.0**-i for i in range(7)])[1]) == 2


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_numerics_in_the_interpreter() -> None:
    """Runs the numerical tests of this file in a process with TRITON_INTERPRET=1."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", __file__],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= 40, done.stdout
