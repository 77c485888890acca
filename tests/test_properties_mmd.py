"""Properties of the squared maximum mean discrepancy, on every backend."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from property_testing import cloud, holds, kinds, masses, near, rng, seeds, sizes, weights, widths
from ucmkd import ops

all_scales = st.sampled_from([(1.0,), (0.25, 0.5, 1.0, 2.0, 4.0), (0.3, 1.0, 2.7)])
estimators = st.sampled_from(["v", "u"])


@dataclass(frozen=True)
class Samples:
    """Two weighted samples, a bandwidth and the scales."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    bandwidth: Any
    scales: tuple[float, ...]
    estimator: str

    def but(self, **changes: Any) -> "Samples":
        return replace(self, **changes)

    def swapped(self) -> "Samples":
        return self.but(x=self.y, y=self.x, a=self.b, b=self.a)

    def value(self, backend: str) -> Tensor:
        return ops.mmd(
            self.x, self.y, bandwidth=self.bandwidth, scales=self.scales,
            estimator=self.estimator, x_weight=self.a, y_weight=self.b, backend=backend,
        )  # fmt: skip

    def gradients(self, backend: str) -> list[Tensor]:
        """To x, y, a, b and the bandwidth."""
        sigma = torch.as_tensor(self.bandwidth, dtype=torch.float64)
        values = (self.x, self.y, self.a, self.b, sigma)
        x, y, a, b, sigma = leaves = [t.clone().requires_grad_() for t in values]
        self.but(x=x, y=y, a=a, b=b, bandwidth=sigma).value(backend).backward()
        return [t.grad for t in leaves]


@st.composite
def samples(draw: st.DrawFn, estimators: st.SearchStrategy[str] = estimators) -> Samples:
    n, m, d, seed = draw(sizes), draw(sizes), draw(widths), draw(seeds)
    kind = draw(kinds)
    return Samples(
        cloud(seed, n, d, kind),
        cloud(seed + 1, m, d, kind, spread=0.8) + draw(st.sampled_from([0.0, 0.5, 3.0])),
        weights(seed + 2, n, draw(masses)),
        weights(seed + 3, m, draw(masses)),
        draw(st.sampled_from([0.4, 1.0, 3.0])),
        draw(all_scales),
        draw(estimators),
    )


def kernel_sums(s: Samples) -> float:
    """The definition, by loops over NumPy matrices."""
    x, y, a, b = (t.numpy() for t in (s.x, s.y, s.a, s.b))

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        square = ((p[:, None] - q[None]) ** 2).sum(-1)
        return np.mean([np.exp(-square / (2 * (c * s.bandwidth) ** 2)) for c in s.scales], axis=0)

    def within(p: np.ndarray, w: np.ndarray) -> float:
        pairs = np.outer(w, w)
        if s.estimator == "v":
            return float((pairs * kernel(p, p)).sum())
        np.fill_diagonal(pairs, 0.0)
        if pairs.sum() == 0:
            return 0.0
        return float(w.sum() ** 2 * (pairs * kernel(p, p)).sum() / pairs.sum())

    cross = float((np.outer(a, b) * kernel(x, y)).sum())
    return within(x, a) + within(y, b) - 2 * cross


@holds(examples=80, s=samples())
def test_definition(backend: str, s: Samples) -> None:
    near(s.value(backend), kernel_sums(s), 1e-9)


@holds(examples=60, s=samples())
def test_swapping_the_samples(backend: str, s: Samples) -> None:
    near(s.value(backend), s.swapped().value(backend), 1e-10)
    gx, gy, ga, gb, sigma = s.gradients(backend)
    hx, hy, ha, hb, again = s.swapped().gradients(backend)
    for one, two in ((gx, hy), (gy, hx), (ga, hb), (gb, ha), (sigma, again)):
        near(one, two, 1e-9)


@holds(examples=50, s=samples(), seed=seeds)
def test_the_order_of_the_points(backend: str, s: Samples, seed: int) -> None:
    i = torch.randperm(len(s.x), generator=rng(seed))
    j = torch.randperm(len(s.y), generator=rng(seed + 1))
    t = s.but(x=s.x[i], a=s.a[i], y=s.y[j], b=s.b[j])
    near(t.value(backend), s.value(backend), 1e-10)
    for one, two, order in zip(
        t.gradients(backend)[:4], s.gradients(backend)[:4], (i, j, i, j), strict=True
    ):
        near(one, two[order], 1e-9)


@holds(examples=50, s=samples(), shift=st.sampled_from([-2.0, 0.5, 100.0, 4096.0]))
def test_translation(backend: str, s: Samples, shift: float) -> None:
    t = s.but(x=s.x + shift, y=s.y + shift)
    near(t.value(backend), s.value(backend), 1e-9)
    near(t.gradients(backend)[0], s.gradients(backend)[0], 1e-7)


@holds(examples=50, s=samples(), c=st.sampled_from([1e-3, 0.5, 7.0, 1e3]))
def test_scale_and_rotation(backend: str, s: Samples, c: float) -> None:
    """Points and bandwidth times c; and any rotation."""
    t = s.but(x=c * s.x, y=c * s.y, bandwidth=c * s.bandwidth)
    near(t.value(backend), s.value(backend), 1e-9)
    near(c * t.gradients(backend)[0], s.gradients(backend)[0], 1e-8)
    turn = torch.linalg.qr(torch.randn(s.x.shape[1], s.x.shape[1], generator=rng(3)).double())[0]
    near(s.but(x=s.x @ turn, y=s.y @ turn).value(backend), s.value(backend), 1e-9)


@holds(examples=60, s=samples(estimators=st.just("v")))
def test_v_is_a_squared_metric(backend: str, s: Samples) -> None:
    """0 ≤ V ≤ (m_a + m_b)², the triangle inequality for its root, and 2-homogeneous in mass."""
    between = s.value(backend).item()
    assert -1e-12 <= between <= float(s.a.sum() + s.b.sum()) ** 2 + 1e-12
    z, c = cloud(7, 5, s.x.shape[1]), weights(8, 5, 1.3)
    first = s.but(y=z, b=c).value(backend).item()
    second = s.but(x=z, a=c).value(backend).item()
    root = [max(v, 0.0) ** 0.5 for v in (between, first, second)]
    assert root[0] <= root[1] + root[2] + 1e-6
    near(s.but(a=3 * s.a, b=3 * s.b).value(backend), 9 * between, 1e-9)


@holds(examples=50, s=samples(estimators=st.just("v")), seed=seeds, share=st.floats(0.05, 0.95))
def test_zero_iff_equal(backend: str, s: Samples, seed: int, share: float) -> None:
    """However the measure is written; and positive once a point has moved."""
    order = torch.randperm(len(s.x), generator=rng(seed))
    y = torch.cat([s.x[order], s.x[order[:1]], s.x[:1] + 1])
    b = torch.cat([s.a[order], (1 - share) * s.a[order[:1]], s.a.new_zeros(1)])
    b[0] = share * s.a[order[0]]
    equal = s.but(y=y, b=b)
    assert abs(equal.value(backend).item()) <= 1e-12
    assert equal.gradients(backend)[0].abs().max() <= 1e-10
    moved = s.x.clone()
    moved[0] += 1 + s.x.abs().max()
    assert s.but(y=moved, b=s.a).value(backend).item() > 1e-6


@holds(examples=50, s=samples(), extra=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_zero_weights_are_absent(backend: str, s: Samples, extra: tuple[int, int]) -> None:
    def padded(points: Tensor, count: int) -> Tensor:
        return torch.cat([points, points.new_full((count, points.shape[1]), 50.0)])

    t = s.but(
        x=padded(s.x, extra[0]), a=torch.cat([s.a, s.a.new_zeros(extra[0])]),
        y=padded(s.y, extra[1]), b=torch.cat([s.b, s.b.new_zeros(extra[1])]),
    )  # fmt: skip
    near(t.value(backend), s.value(backend), 1e-10)
    mine, cropped = t.gradients(backend), s.gradients(backend)
    for one, two in zip(mine[:4], cropped[:4], strict=True):
        near(one[: len(two)], two, 1e-9)
    assert not mine[0][len(s.x) :].any() and not mine[1][len(s.y) :].any()


@holds(examples=40, s=samples(estimators=st.just("v")), share=st.floats(0.01, 0.99))
def test_splitting_a_point(backend: str, s: Samples, share: float) -> None:
    t = s.but(
        x=torch.cat([s.x[:1], s.x]),
        a=torch.cat([share * s.a[:1], (1 - share) * s.a[:1], s.a[1:]]),
    )
    near(t.value(backend), s.value(backend), 1e-10)
    near(t.gradients(backend)[0][:2].sum(0), s.gradients(backend)[0][0], 1e-8)


@holds(examples=40, s=samples(), count=st.integers(2, 5))
def test_batches_and_scales(backend: str, s: Samples, count: int) -> None:
    """A batch is its problems, each with its bandwidth; several scales are the mean over them."""
    sigma = s.bandwidth * torch.arange(1, count + 1, dtype=torch.float64)
    x = torch.stack([s.x + i for i in range(count)])
    both = s.but(
        x=x, y=s.y.expand(count, -1, -1), a=s.a.expand(count, -1), b=s.b.expand(count, -1),
        bandwidth=sigma,
    ).value(backend)  # fmt: skip
    alone = [s.but(x=x[i], bandwidth=float(sigma[i])).value(backend) for i in range(count)]
    near(both, torch.stack(alone), 1e-10)
    each = [s.but(scales=(c,)).value(backend) for c in s.scales]
    near(s.value(backend), torch.stack(each).mean(), 1e-10)


@holds(examples=60, s=samples(), c=st.sampled_from([0.01, 1.0, 40.0]))
def test_median_bandwidth(backend: str, s: Samples, c: float) -> None:
    """The root of the pooled off-diagonal median; so that the value does not know the units."""
    pooled = torch.cat([s.x, s.y])
    square = torch.pdist(pooled) ** 2
    median = float(np.median(square.numpy()))
    t = s.but(bandwidth="median")
    if median > 0:
        near(t.value(backend), s.but(bandwidth=median**0.5).value(backend), 1e-9)
        near(t.but(x=c * s.x, y=c * s.y).value(backend), t.value(backend), 1e-9)
    else:
        assert torch.isfinite(t.value(backend))


@holds(
    examples=20,
    seed=seeds,
    n=st.integers(2, 6),
    m=st.integers(2, 6),
    d=st.integers(1, 4),
    sigma=st.sampled_from([0.5, 1.0, 3.0]),
    delta=st.sampled_from([0.0, 0.7]),
)
def test_u_is_unbiased(
    backend: str, seed: int, n: int, m: int, d: int, sigma: float, delta: float
) -> None:
    """The mean of U over 4,000 pairs of Gaussian samples is the population's MMD²; V's is not."""
    count = 4000
    x = torch.randn(count, n, d, generator=rng(seed), dtype=torch.float64)
    y = torch.randn(count, m, d, generator=rng(seed + 1), dtype=torch.float64) + delta
    options: dict[str, Any] = dict(bandwidth=sigma, scales=(1.0,), backend=backend)
    u, v = (ops.mmd(x, y, estimator=e, **options) for e in ("u", "v"))
    shrink = (1 + 2 / sigma**2) ** (-d / 2)
    exact = 2 * shrink * (1 - np.exp(-d * delta**2 / (2 * (sigma**2 + 2))))
    error = float(u.std()) / count**0.5
    assert abs(float(u.mean()) - exact) <= 6 * error
    # V has the diagonal too: its bias is (1 - E k(x, x'))·(1/n + 1/m).
    bias = (1 - shrink) * (1 / n + 1 / m)
    assert abs(float(v.mean()) - exact - bias) <= 6 * float(v.std()) / count**0.5
