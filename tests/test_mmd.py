"""MMD: every kernel, estimator and kind of label against formulas written out here."""

import math

import pytest
import torch
from torch import Tensor

from ucmkd import losses, ops

KERNELS = ["gaussian", "laplace", "energy", "rational_quadratic", "polynomial"]
SCALES = (0.5, 1.0, 3.0)
F64 = torch.float64


def plain_kernel(name: str, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """The definition, by cdist and in float64."""
    x, y = x.double(), y.double()
    if name == "polynomial":
        return (x @ y.T / x.shape[1] + 1.0) ** 3
    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    if name == "energy":
        return -d
    each = {
        "gaussian": lambda s: torch.exp(-(d**2) / (2 * (s * sigma) ** 2)),
        "laplace": lambda s: torch.exp(-d / (s * sigma)),
        "rational_quadratic": lambda s: (1 + d**2 / (2 * s * sigma**2)) ** -s,
    }[name]
    return torch.stack([each(s) for s in SCALES]).mean(0)


def plain_mmd(
    name: str, x: Tensor, y: Tensor, sigma: float, estimator: str, a: Tensor, b: Tensor
) -> float:
    def within(p: Tensor, w: Tensor) -> Tensor:
        k = plain_kernel(name, p, p, sigma)
        if estimator == "v":
            return w @ k @ w
        outer = w[:, None] * w[None]
        outer.fill_diagonal_(0)
        return (outer * k).sum() * w.sum() ** 2 / outer.sum()

    a, b = a.double(), b.double()
    cross = a @ plain_kernel(name, x, y, sigma) @ b
    return (within(x, a) + within(y, b) - 2 * cross).item()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_definition(backend: str, kernel: str, estimator: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 19, 3, dtype=dtype), torch.randn(2, 14, 3, dtype=dtype) + 0.4
    a, b = torch.rand(2, 19, dtype=dtype), torch.rand(2, 14, dtype=dtype)
    options = dict(kernel=kernel, bandwidth=1.3, scales=SCALES, estimator=estimator)
    value = ops.mmd(x, y, x_weight=a, y_weight=b, backend=backend, **options)
    for i in range(2):
        expected = plain_mmd(kernel, x[i], y[i], 1.3, estimator, a[i], b[i])
        size = (a[i].sum() + b[i].sum()).item() ** 2 * 10
        assert abs(value[i].item() - expected) <= 20 * torch.finfo(dtype).eps * size


def test_golden_values(backend: str) -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=F64)
    y = torch.tensor([[1, 1], [2, 0], [0, -1], [3, 1]], dtype=F64)
    energy = dict(kernel="energy", backend=backend)
    assert ops.mmd(x, y, **energy).item() == pytest.approx(1.161780228882498, rel=1e-12)
    value = ops.mmd(x, y, estimator="u", **energy).item()
    assert value == pytest.approx(0.0422401332487814, rel=1e-11)
    laplace = dict(kernel="laplace", bandwidth=1.0, scales=(1.0,), backend=backend)
    assert ops.mmd(x, y, **laplace).item() == pytest.approx(0.4485961125527098, rel=1e-12)
    # The pooled off-diagonal mean of the squared distances is 32/7.
    gaussian = dict(scales=(1.0,), backend=backend)
    mean = ops.mmd(x, y, bandwidth="mean", **gaussian)
    exact = ops.mmd(x, y, bandwidth=math.sqrt(32 / 7), **gaussian)
    assert mean.item() == pytest.approx(exact.item(), rel=1e-12)


def test_energy_is_the_energy_distance(backend: str) -> None:
    """On the line it is 2 ∫ (F - G)², and it is homogeneous."""
    x, y = torch.randn(31, 1, dtype=F64), torch.randn(27, 1, dtype=F64) + 0.5
    points = torch.cat([x, y]).flatten().sort().values
    first = (points[:-1, None] >= x.T).double().mean(1)
    second = (points[:-1, None] >= y.T).double().mean(1)
    expected = 2 * ((first - second) ** 2 * points.diff()).sum().item()
    value = ops.mmd(x, y, kernel="energy", backend=backend)
    assert value.item() == pytest.approx(expected, rel=1e-11)
    scaled = ops.mmd(7 * x, 7 * y, kernel="energy", backend=backend)
    assert scaled.item() == pytest.approx(7 * value.item(), rel=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_large_clouds_in_tiles(kernel: str) -> None:
    """Several tiles, padded ones among them, on two threads."""
    x, y = torch.randn(151, 3), torch.randn(137, 3) + 0.2
    values, gradients = [], []
    for dtype, backend in ((torch.float32, "rust"), (F64, "torch")):
        left = x.to(dtype, copy=True).requires_grad_()
        options = dict(kernel=kernel, bandwidth=2.0, scales=SCALES, estimator="u")
        value = ops.mmd(left, y.to(dtype), backend=backend, **options)
        value.backward()
        values.append(value.item())
        gradients.append(left.grad.double())
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    assert (gradients[0] - gradients[1]).abs().max() <= 2e-4 * gradients[1].abs().max()


@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "energy", "polynomial"])
def test_linear_estimator(backend: str, kernel: str) -> None:
    x, y = torch.randn(9, 3, dtype=F64), torch.randn(9, 3, dtype=F64)
    options = dict(kernel=kernel, bandwidth=1.3, scales=SCALES, backend=backend)
    kxx, kyy, kxy = (plain_kernel(kernel, *pair, 1.3) for pair in ((x, x), (y, y), (x, y)))
    terms = [kxx[i, i + 1] + kyy[i, i + 1] - kxy[i, i + 1] - kxy[i + 1, i] for i in (0, 2, 4, 6)]
    value = ops.mmd(x, y, estimator="linear", **options)
    assert value.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-11)
    batch = ops.mmd(x.expand(3, 9, 3), y.expand(3, 9, 3), estimator="linear", **options)
    torch.testing.assert_close(batch, value.expand(3))


def test_linear_and_u_are_unbiased() -> None:
    """The mean over many samples of eight points is the discrepancy of the populations."""
    x, y = torch.randn(20_000, 8, 1), torch.randn(20_000, 8, 1) + 0.8
    expected = 2 * (1 + 2 / 1.5**2) ** -0.5 * (1 - math.exp(-(0.8**2) / (2 * (1.5**2 + 2))))
    for estimator in ("linear", "u"):
        values = ops.mmd(x, y, bandwidth=1.5, scales=(1.0,), estimator=estimator)
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - expected) < 5 * error


# Classes.


def split(labels: Tensor, points: Tensor, c: int) -> Tensor:
    return points[labels == c]


@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_classes_are_the_mean_of_their_discrepancies(
    backend: str, kernel: str, estimator: str
) -> None:
    x, y = torch.randn(40, 3, dtype=F64), torch.randn(33, 3, dtype=F64)
    k, l = torch.arange(40) % 5 * 7 - 3, torch.arange(33) % 4 * 7 + 4  # noqa: E741
    common = (4, 11, 18, 25)
    options = dict(
        kernel=kernel, bandwidth=1.1, scales=SCALES, estimator=estimator, backend=backend
    )
    each = [ops.mmd(split(k, x, c), split(l, y, c), **options) for c in common]
    value = ops.mmd(x, y, x_class=k, y_class=l, **options)
    assert value.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-9)


def test_classes_batched_with_weights_and_without_a_common_one(backend: str) -> None:
    x, y = torch.randn(3, 12, 4, dtype=F64), torch.randn(3, 10, 4, dtype=F64)
    k, l = torch.randint(3, (3, 12)), torch.randint(3, (3, 10))  # noqa: E741
    k[1], l[1] = 0, 2  # nothing in common
    weight = torch.rand(3, 12, dtype=F64)
    weight[0, :4] = 0
    options = dict(bandwidth=1.4, backend=backend)
    labels = dict(student_label=k, teacher_label=l, student_weight=weight, reduction="none")
    value = losses.mmd_align(x, y, num_classes=3, **labels, **options)
    for i in range(3):
        each = []
        for c in range(3):
            mine, other = (k[i] == c) & (weight[i] > 0), l[i] == c
            if mine.any() and other.any():
                w = weight[i][mine] / weight[i][mine].sum()
                each.append(ops.mmd(x[i][mine], y[i][other], x_weight=w, **options))
        expected = torch.stack(each).mean().item() if each else 0.0
        assert value[i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(losses.mmd_align(x, y, **labels, **options), value)


@pytest.mark.parametrize("estimator", ["v", "u"])
def test_soft_labels(backend: str, estimator: str) -> None:
    x, y = torch.randn(15, 3, dtype=F64), torch.randn(11, 3, dtype=F64)
    p, q = torch.rand(15, 4, dtype=F64), torch.rand(11, 4, dtype=F64)
    options = dict(bandwidth=1.2, estimator=estimator, backend=backend)
    value = ops.mmd(x, y, x_class=p, y_class=q, **options)
    each = [
        ops.mmd(x, y, x_weight=p[:, c] / p[:, c].sum(), y_weight=q[:, c] / q[:, c].sum(), **options)
        for c in range(4)
    ]
    assert value.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-9)
    # One-hot memberships are labels; a hard side may meet a soft one.
    k = torch.randint(4, (15,))
    hard = torch.nn.functional.one_hot(k, 4).to(F64)
    one = ops.mmd(x, y, x_class=k, y_class=q, **options)
    torch.testing.assert_close(one, ops.mmd(x, y, x_class=hard, y_class=q, **options))


def test_large_class_problem_in_tiles() -> None:
    x, y = torch.randn(150, 3), torch.randn(130, 3)
    p, q = torch.rand(150, 10), torch.randint(10, (130,))
    results = []
    for dtype, backend in ((torch.float32, "rust"), (F64, "torch")):
        left, soft = (t.to(dtype, copy=True).requires_grad_() for t in (x, p))
        value = ops.mmd(left, y.to(dtype), bandwidth=2.0, x_class=soft, y_class=q, backend=backend)
        value.backward()
        results.append((value.double(), left.grad.double(), soft.grad.double()))
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


# Bandwidths.


def test_bandwidth_rules(backend: str) -> None:
    x, y = torch.randn(2, 20, 3, dtype=F64), torch.randn(2, 15, 3, dtype=F64) + 50
    weight = torch.ones(2, 20, dtype=F64)
    weight[0, 3:7] = 0
    pooled = torch.cat([x[0][weight[0] > 0], y[0]])
    square = torch.pdist(pooled) ** 2
    ordered = square.sort().values
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    for rule, width in (("mean", square.mean().sqrt()), ("median", middle.sqrt())):
        value = ops.mmd(x, y, bandwidth=rule, x_weight=weight, backend=backend)
        exact = ops.mmd(x[0], y[0], bandwidth=width, x_weight=weight[0], backend=backend)
        assert value[0].item() == pytest.approx(exact.item(), rel=1e-9)
        alone = ops.mmd(x[1], y[1], bandwidth=rule, backend=backend)
        weighted = ops.mmd(x[1], y[1], bandwidth=rule, x_weight=weight[1] / 20, backend=backend)
        assert weighted.item() == pytest.approx(alone.item(), rel=1e-9)
    many = ops.mmd(x, y, bandwidth=torch.tensor([1.0, 2.0], dtype=F64), backend=backend)
    for i, sigma in enumerate((1.0, 2.0)):
        alone = ops.mmd(x[i], y[i], bandwidth=sigma, backend=backend)
        assert many[i].item() == pytest.approx(alone.item(), rel=1e-12)


def test_a_learned_bandwidth(backend: str) -> None:
    layer = losses.MMDAlign(bandwidth=torch.nn.Parameter(torch.tensor(1.5)), backend=backend)
    assert [name for name, _ in layer.named_parameters()] == ["bandwidth"]
    layer(torch.randn(8, 2), torch.randn(6, 2)).backward()
    assert layer.bandwidth.grad.shape == () and torch.isfinite(layer.bandwidth.grad)
    assert layer.bandwidth.grad != 0


@pytest.mark.parametrize("rule", ["median", "mean", 1e-30])
@pytest.mark.parametrize("kernel", KERNELS)
def test_collapsed_points(backend: str, kernel: str, rule: str | float) -> None:
    for dtype in (torch.float32, F64):
        for x, y in (
            (torch.full((6, 3), 2.5), torch.full((4, 3), 2.5)),
            (torch.zeros(5, 2), torch.zeros(5, 2)),
            (torch.ones(1, 2), torch.ones(1, 2)),
        ):
            left = x.to(dtype, copy=True).requires_grad_()
            value = ops.mmd(left, y.to(dtype), kernel=kernel, bandwidth=rule, backend=backend)
            value.backward()
            assert abs(value.item()) < 1e-4
            assert torch.isfinite(left.grad).all()
            if kernel in ("energy", "laplace"):
                assert not left.grad.any()


def test_bad_options() -> None:
    x, y, labels = torch.randn(5, 2), torch.randn(4, 2), torch.zeros(5).long()
    cases = [
        (dict(degree=0), "degree must be an integer >= 1; got 0"),
        (dict(gamma=-1.0), "gamma must be None or a finite number > 0"),
        (dict(coef=-1.0), "coef must be a finite number >= 0"),
        (dict(estimator="linear"), "same number of points, 2 or more"),
        (dict(x_class=labels), "y_class must be given too"),
        (dict(x_class=labels, y_class=labels), r"y_class must have shape \(4,\)"),
        (
            dict(x_class=labels + 2, y_class=labels[:4], num_classes=2),
            r"x_class must lie in \[0, 2",
        ),
        (dict(x_class=-torch.ones(5, 2), y_class=torch.ones(4, 2)), "x_class must be non-negative"),
        (dict(x_class=torch.ones(5, 2), y_class=torch.ones(4, 3)), "one number of classes"),
        (dict(x_class=labels, y_class=labels[:4], num_classes=0), "num_classes must be"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            ops.mmd(x, y, **options)
    with pytest.raises(TypeError, match="x_class must be an integer tensor, or floating"):
        ops.mmd(x, y, x_class=torch.ones(5), y_class=torch.ones(4))
    with pytest.raises(ValueError, match="x_weight must be None with estimator='linear'"):
        ops.mmd(x, x, x_weight=torch.ones(5), estimator="linear")
    with pytest.raises(ValueError, match="x_class and y_class must be None"):
        ops.mmd(x, x, x_class=labels, y_class=labels, estimator="linear")
