"""The page "Coming from another library", row by row: both cells are evaluated and compared.

A library that is installed is asked itself. The codes that are no packages are written out here
from their formulas, in float64.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from docs.tools.blocks import ROOT
from torch import Tensor

from ucmkd import losses, ops

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = ROOT / "docs" / "conversion.md"
CODE = re.compile(r"`([^`]+)`")
HERE = {name: getattr(m, name) for m in (losses, ops) for name in m.__all__ if name.islower()}
EXACT = dict(tol=1e-11, max_iter=20_000)


def rows(section: str) -> list[tuple[str, str]]:
    """The first code of the first two cells of every row below a heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [(code(cells[0]), code(cells[1])) for cells in found]


def code(cell: str) -> str:
    match = CODE.search(cell)
    assert match, cell
    return match[1]


def cases(section: str) -> pytest.MarkDecorator:
    found = rows(section)
    assert found
    return pytest.mark.parametrize("there, here", found, ids=[left[:60] for left, _ in found])


def points() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a, b = draw(7).abs() + 0.3, draw(6).abs() + 0.3
    return {"x": draw(7, 3), "y": draw(6, 3) + 0.4, "a": a / a.sum(), "b": b / b.sum()}


def ours(expression: str, **names: Any) -> np.ndarray:
    value = eval(expression, {**HERE, **points(), "exact": EXACT, **names})
    return np.asarray(value.detach())


@cases("POT")
def test_pot(there: str, here: str) -> None:
    ot = pytest.importorskip("ot", reason="POT is not installed")
    given = points()
    matrix = torch.cdist(given["x"], given["y"]) ** 2
    numbers = {"reg": 0.8, "reg_m": 1.7}
    names = {
        **{name: tensor.numpy() for name, tensor in given.items()},
        "exact": {"numItermax": 20_000, "stopThr": 1e-13},
        "exact_": {"numIterMax": 20_000, "stopThr": 1e-13},
    }
    expected = np.asarray(eval(there, {"ot": ot, "M": matrix.numpy(), **numbers, **names}))
    tolerance = 1e-2 if "emd2" in there else 1e-6
    found = ours(here, M=matrix, **numbers)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * expected.max())


@cases("GeomLoss")
def test_geomloss(there: str, here: str) -> None:
    geomloss = pytest.importorskip("geomloss", reason="GeomLoss is not installed")
    given, numbers = points(), {"s": 0.8, "r": 1.1}

    def made(*args: Any, **options: Any) -> Any:
        return geomloss.SamplesLoss(*args, scaling=0.99, backend="tensorized", **options)

    loss = eval(there, {"SamplesLoss": made, **numbers})
    expected = loss(given["a"], given["x"], given["b"], given["y"]).numpy()
    weights = {"student_weight": given["a"], "teacher_weight": given["b"]}
    np.testing.assert_allclose(ours(here, weights=weights, **numbers), expected, rtol=2e-3)


@cases("OTT-JAX")
def test_ott(there: str, here: str) -> None:
    pytest.importorskip("ott", reason="OTT-JAX is not installed")
    import jax
    from ott.geometry.pointcloud import PointCloud
    from ott.solvers.linear import solve
    from ott.tools.sinkhorn_divergence import sinkhorn_divergence

    given = points()
    square = torch.cdist(given["x"], given["y"]) ** 2
    names = {
        "solve": solve,
        "PointCloud": PointCloud,
        "sinkhorn_divergence": sinkhorn_divergence,
        "exact": {"threshold": 1e-7, "max_iterations": 20_000},
    }
    numbers: dict[str, Any] = {"e": 0.8, "rho": 1.7}
    if "mean_cost" in there:  # the one row whose mean is without weights there
        given |= {"a": torch.full((7,), 1 / 7).double(), "b": torch.full((6,), 1 / 6).double()}
    numbers["mean_cost"] = square.mean().item()
    arrays = {name: jax.numpy.asarray(tensor.numpy()) for name, tensor in given.items()}
    expected = np.asarray(eval(there, {**names, **numbers, **arrays}))
    found = ours(here, **numbers, M=square, a=given["a"], b=given["b"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# The codes without a package ----------------------------------------------------------------


def square(x: Tensor, y: Tensor) -> Tensor:
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def off(matrix: Tensor) -> Tensor:
    """The entries off the diagonal."""
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def u_statistic(kernel: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    within = off(kernel(square(x, x))).mean() + off(kernel(square(y, y))).mean()
    return within - 2 * kernel(square(x, y)).mean()


def xlearn_mmd(x: Tensor, y: Tensor) -> Tensor:
    pooled = torch.cat((x, y))
    width = off(square(pooled, pooled)).mean()

    def kernel(d: Tensor) -> Tensor:
        return sum(torch.exp(-d / (width * 2.0**k)) for k in range(-2, 3))

    value: Tensor = kernel(square(x, x)).mean() + kernel(square(y, y)).mean()
    return value - 2 * kernel(square(x, y)).mean()


def tll_mmd(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    pooled, n = torch.cat((x, y)), len(x)
    width = alpha * square(pooled, pooled).mean()  # the zero diagonal counts

    def kernel(d: Tensor) -> Tensor:
        return torch.exp(-d / (2 * width))

    inside = sum(off(kernel(square(z, z))).sum() / (n * (n - 1)) for z in (x, y))
    return inside - 2 * kernel(square(x, y)).sum() / n**2 + 2 / (n - 1)


def median_of(x: Tensor) -> Tensor:
    return square(x, x).median().sqrt()


def pytorch_adapt_mmd(x: Tensor, y: Tensor, scales: list[float]) -> Tensor:
    middle = square(x, x).median()
    values = [u_statistic(lambda d, s=s: torch.exp(-s * d / middle), x, y) for s in scales]
    return torch.stack(values).mean()


def alibi_detect_mmd(x: Tensor, y: Tensor) -> Tensor:
    pooled = torch.cat((x, y))
    sigma2 = 0.5 * off(square(pooled, pooled)).median()
    return u_statistic(lambda d: torch.exp(-d / (2 * sigma2)), x, y)


def torch_two_sample_mmd(x: Tensor, y: Tensor, alphas: list[float]) -> Tensor:
    return u_statistic(lambda d: sum(torch.exp(-alpha * d) for alpha in alphas), x, y)


def dcor_energy(x: Tensor, y: Tensor) -> Tensor:
    def mean(p: Tensor, q: Tensor) -> Tensor:
        return square(p, q).sqrt().mean()

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def deep_coral(x: Tensor, y: Tensor) -> Tensor:
    return (torch.cov(x.T) - torch.cov(y.T)).square().sum() / (4 * x.shape[1] ** 2)


def tll_coral(x: Tensor, y: Tensor) -> Tensor:
    gap = (torch.cov(x.T) - torch.cov(y.T)).square().mean()
    return gap + (x.mean(0) - y.mean(0)).square().mean()


def repdistiller_kd(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = F.log_softmax(student / t, 1), F.softmax(teacher / t, 1)
    return F.kl_div(p, q, reduction="sum") * t**2 / len(student)


def torchdistill_kd(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return repdistiller_kd(student, teacher, t) / t**2


@cases("MMD, energy distance, moments")
def test_written_out(there: str, here: str) -> None:
    given = points()
    x, y = given["x"][:6], given["y"]
    if "alibi" in there:
        y = y[:5]  # an odd number of pairs has one median
    names: dict[str, Any] = {
        "x": x,
        "y": y,
        "n": len(x),
        "u": x[:, 0],
        "v": y[:, 1],
        "alpha": 0.7,
        "student": x,
        "teacher": x.flip(0) * 2,
        "median_of": median_of,
    }
    if "poly_mmd" in there:
        kid = pytest.importorskip("torchmetrics.image.kid")
        names |= {"poly_mmd": kid.poly_mmd}
    if "scipy" in there:
        names["scipy"] = pytest.importorskip("scipy", reason="SciPy is not installed")
        pytest.importorskip("scipy.stats")
    expected = eval(there, {**globals(), **names})
    np.testing.assert_allclose(ours(here, **names), float(expected), rtol=1e-6)


def fixture() -> Iterator[Tensor]:
    """The points for which values of these codes are known."""
    yield torch.tensor([[0.0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    yield torch.tensor([[1.0, 1], [2, 0], [0, -1], [3, 1]], dtype=torch.float64)


def test_what_is_written_out_is_what_they_compute() -> None:
    """Values computed with the codes themselves."""
    x, y = fixture()
    assert tll_mmd(x, y[:3], 1.0).item() == pytest.approx(0.8578792986747983, rel=1e-12)
    assert tll_coral(x, y).item() == pytest.approx(1.9357638888888888, rel=1e-12)
    assert deep_coral(x, y).item() == pytest.approx(0.29210069444444436, rel=1e-12)
    assert dcor_energy(x, y).item() == pytest.approx(1.161780228882498, rel=1e-12)
    student = torch.tensor([[1.0, 2, 3], [0, -1, 1]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 1, 0.5], [-1, 0, 2]], dtype=torch.float64)
    assert repdistiller_kd(student, teacher, 4.0).item() == pytest.approx(0.7106712894925946)


def test_installed_torchdistill() -> None:
    mid = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is missing")
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    loss = mid.KDLoss("m", "output", "m", "output", temperature=4.0, alpha=0.0)
    io = ({"m": {"output": student}}, {"m": {"output": teacher}})
    expected = torchdistill_kd(student, teacher, 4.0)
    assert loss(*io).item() == pytest.approx(expected.item(), rel=1e-9)
