"""Properties of entropic transport that hold for every problem, on every backend."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from property_testing import Problem, costs, holds, near, problems, relaxed, rng, seeds
from ucmkd import ops

COST_DEGREE = {"sqeuclidean": 2, "euclidean": 1, "l1": 1, "cosine": 0, "chordal": 0}
moving = st.sampled_from(["sqeuclidean", "euclidean", "l1"])
strict = st.just((None, None))


def generalised_kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p / q) - p + q).sum()


@holds(examples=60, p=problems())
def test_swapping_the_sides(backend: str, p: Problem) -> None:
    """The value is the same; the potentials and gradients change places."""
    one, two = p.solve(backend), p.swapped().solve(backend)
    near(one.value, two.value)
    near(one.x_potential, two.y_potential, 1e-5)
    near(one.y_potential, two.x_potential, 1e-5)
    gx, gy, ga, gb = p.gradients(backend)
    hx, hy, ha, hb = p.swapped().gradients(backend)
    for first, second in ((gx, hy), (gy, hx), (ga, hb), (gb, ha)):
        near(first, second, 1e-5)


@holds(examples=50, p=problems(), seed=seeds)
def test_the_order_of_the_points(backend: str, p: Problem, seed: int) -> None:
    i = torch.randperm(len(p.x), generator=rng(seed))
    j = torch.randperm(len(p.y), generator=rng(seed + 1))
    q = p.but(x=p.x[i], a=p.a[i], y=p.y[j], b=p.b[j])
    if p.k is not None and p.l is not None:
        q = q.but(k=p.k[i], l=p.l[j])
    near(q.value(backend), p.value(backend))
    for first, second, order in zip(
        q.gradients(backend), p.gradients(backend), (i, j, i, j), strict=True
    ):
        near(first, second[order], 1e-5)


@holds(examples=40, p=problems(costs=moving), shift=st.sampled_from([-3.0, 0.5, 100.0]))
def test_translation_of_both(backend: str, p: Problem, shift: float) -> None:
    move = shift * (1 + torch.arange(p.x.shape[1], dtype=torch.float64))
    q = p.but(x=p.x + move, y=p.y + move)
    near(q.value(backend), p.value(backend))
    for first, second in zip(q.gradients(backend), p.gradients(backend), strict=True):
        near(first, second, 1e-5)


@holds(examples=40, p=problems(costs=st.just("sqeuclidean"), reaches=strict, labelled=False))
def test_translation_of_one(backend: str, p: Problem) -> None:
    """OT(x, y+t) = OT(x, y) + M|t|² - 2t·(Σa x - Σb y), for strict marginals of mass M."""
    t = 0.25 * (1 + torch.arange(p.x.shape[1], dtype=torch.float64))
    change = p.a.sum() * (t @ t) - 2 * t @ (p.a @ p.x - p.b @ p.y)
    near(p.but(y=p.y + t).value(backend), p.value(backend) + float(change))


@holds(examples=40, p=problems(), s=st.sampled_from([0.01, 0.5, 3.0, 100.0]))
def test_scale(backend: str, p: Problem, s: float) -> None:
    """A cost of degree k: points times s, and ε, ρ, λ times s^k, give the value times s^k."""
    factor = s ** COST_DEGREE[p.cost]
    reach = tuple(None if r is None else r * factor for r in p.reach)
    q = p.but(
        x=s * p.x, y=s * p.y, epsilon=factor * p.epsilon, label_cost=factor * p.label_cost,
        reach=reach,
    )  # fmt: skip
    near(q.value(backend) / factor, p.value(backend))
    near(q.gradients(backend)[0] * s / factor, p.gradients(backend)[0], 1e-5)


@holds(examples=40, p=problems(reaches=strict, labelled=False), s=st.sampled_from([0.1, 0.5, 7.0]))
def test_scaling_the_masses(backend: str, p: Problem, s: float) -> None:
    """Masses 1 times s: KL(sP | s²ab) = s·KL(P | ab) - s log s - s + s², and <P, C> times s."""
    p = p.but(a=p.a / p.a.sum(), b=p.b / p.b.sum())
    q = p.but(a=s * p.a, b=s * p.b)
    extra = p.epsilon * (-s * torch.log(torch.tensor(s, dtype=torch.float64)) - s + s * s)
    near(q.value(backend), s * p.value(backend) + float(extra))


@holds(
    examples=30,
    p=problems(
        costs=st.sampled_from(["sqeuclidean", "l1"]),
        reaches=strict,
        sizes=st.integers(1, 4),
        labelled=False,
    ),
    seed=seeds,
    n=st.integers(1, 4),
    m=st.integers(1, 4),
)
def test_product_measures(backend: str, p: Problem, seed: int, n: int, m: int) -> None:
    """Transport of product measures is the sum over the factors (masses 1)."""
    p = p.but(a=p.a / p.a.sum(), b=p.b / p.b.sum())
    generator = rng(seed)
    u, v = (torch.randn(k, 2, generator=generator, dtype=torch.float64) for k in (n, m))
    w, z = (torch.rand(k, generator=generator, dtype=torch.float64) + 0.1 for k in (n, m))
    q = p.but(x=u, y=v, a=w / w.sum(), b=z / z.sum())

    def product(first: Tensor, second: Tensor) -> Tensor:
        left = first.repeat_interleave(len(second), 0)
        return torch.cat([left, second.repeat(len(first), 1)], 1)

    both = p.but(
        x=product(p.x, q.x), y=product(p.y, q.y), a=torch.outer(p.a, q.a).reshape(-1),
        b=torch.outer(p.b, q.b).reshape(-1),
    )  # fmt: skip
    near(both.value(backend), p.value(backend) + q.value(backend))


@holds(examples=50, p=problems(), share=st.floats(0.01, 0.99))
def test_splitting_a_point(backend: str, p: Problem, share: float) -> None:
    """Two coincident points are one point with the sum of their masses."""
    q = p.but(
        x=torch.cat([p.x[:1], p.x]),
        a=torch.cat([share * p.a[:1], (1 - share) * p.a[:1], p.a[1:]]),
        k=None if p.k is None else torch.cat([p.k[:1], p.k]),
    )
    near(q.value(backend), p.value(backend))
    whole, parts = p.gradients(backend), q.gradients(backend)
    near(parts[0][:2].sum(0), whole[0][0], 1e-5)
    near(parts[0][:2], torch.stack([share * whole[0][0], (1 - share) * whole[0][0]]), 1e-5)
    near(parts[1], whole[1], 1e-5)
    near(parts[2][1:], whole[2], 1e-5)


@holds(
    examples=50,
    p=problems(),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    far=st.sampled_from([0.0, 1.0, 300.0]),
)
def test_zero_weights_are_absent(
    backend: str, p: Problem, extra: tuple[int, int], far: float
) -> None:
    """Padding of weight zero, wherever it lies, changes nothing and receives no gradient."""

    def padded(points: Tensor, count: int) -> Tensor:
        return torch.cat([points, points.new_full((count, points.shape[1]), far)])

    def zeros(values: Tensor | None, count: int) -> Tensor | None:
        return None if values is None else torch.cat([values, values.new_zeros(count)])

    q = p.but(
        x=padded(p.x, extra[0]), a=zeros(p.a, extra[0]), k=zeros(p.k, extra[0]),
        y=padded(p.y, extra[1]), b=zeros(p.b, extra[1]), l=zeros(p.l, extra[1]),
    )  # fmt: skip
    one, two = q.solve(backend), p.solve(backend)
    near(one.value, two.value)
    n, m = len(p.x), len(p.y)
    near(one.x_potential[:n], two.x_potential, 1e-5)
    near(one.y_potential[:m], two.y_potential, 1e-5)
    assert torch.isfinite(one.x_potential).all() and torch.isfinite(one.y_potential).all()
    mine, cropped = q.gradients(backend), p.gradients(backend)
    for found, wanted, count in zip(mine, cropped, (n, m, n, m), strict=True):
        near(found[:count], wanted, 1e-5)
    assert not mine[0][n:].any() and not mine[1][m:].any()


@holds(examples=60, p=problems())
def test_optimality(backend: str, p: Problem) -> None:
    """KKT, and no duality gap: the plan of the potentials attains the value."""
    out = p.solve(backend)
    matrix = p.matrix()
    score = (out.x_potential[:, None] + out.y_potential[None] - matrix) / p.epsilon
    plan = p.a[:, None] * torch.exp(score) * p.b[None]
    near(ops.transport_plan(p.x, p.y, **p.options(backend)), plan, 1e-6)
    primal = (plan * matrix).sum() + p.epsilon * generalised_kl(plan, torch.outer(p.a, p.b))
    for marginal, mass, potential, rho in (
        (plan.sum(1), p.a, out.x_potential, p.reach[0]),
        (plan.sum(0), p.b, out.y_potential, p.reach[1]),
    ):
        near(marginal, mass if rho is None else mass * torch.exp(-potential / rho), 1e-7)
        if rho is not None:
            primal = primal + rho * generalised_kl(marginal, mass)
    near(out.value, primal)


@holds(examples=40, p=problems(), up=st.sampled_from([1.1, 2.0, 8.0]))
def test_monotone_and_concave_in_the_prices(backend: str, p: Problem, up: float) -> None:
    """The value is a minimum of functions linear and increasing in ε, ρ and λ."""

    def at(factor: float) -> Problem:
        reach = tuple(None if r is None else r * factor for r in p.reach)
        return p.but(epsilon=factor * p.epsilon, reach=reach, label_cost=factor * p.label_cost)

    low, high = p.value(backend), at(up).value(backend)
    middle = at((1 + up) / 2).value(backend)
    only_epsilon = p.but(epsilon=up * p.epsilon).value(backend)
    slack = 1e-8 * max(1.0, abs(high))
    assert low <= only_epsilon + slack and only_epsilon <= high + slack
    assert low <= middle + slack and middle <= high + slack
    assert middle >= (low + high) / 2 - slack


@holds(examples=40, p=problems(reaches=relaxed))
def test_relaxation_costs_less_than_strictness(backend: str, p: Problem) -> None:
    """With equal masses the strict plan is feasible for the relaxed problem at no extra price."""
    p = p.but(b=p.b * (p.a.sum() / p.b.sum()))
    relaxed_value = p.value(backend)
    assert relaxed_value <= p.but(reach=(None, None)).value(backend) * (1 + 1e-8) + 1e-8
    # And the plan that moves nothing costs this much:
    if None not in p.reach:
        nothing = p.epsilon * p.a.sum() * p.b.sum()
        nothing = nothing + p.reach[0] * p.a.sum() + p.reach[1] * p.b.sum()
        assert relaxed_value <= float(nothing) * (1 + 1e-8)


@holds(examples=40, p=problems())
def test_labels_are_part_of_the_cost(backend: str, p: Problem) -> None:
    options = p.options(backend)
    for name in ("cost", "x_label", "y_label", "label_cost"):
        del options[name]
    out = ops.sinkhorn_cost(p.matrix(), **options)
    near(out.value, p.value(backend))


@holds(examples=30, p=problems(labelled=False), count=st.integers(2, 4), cost=costs)
def test_a_batch_is_its_problems(backend: str, p: Problem, count: int, cost: str) -> None:
    """Each problem of a batch, with its own ε, equals itself alone."""
    p = p.but(cost=cost)
    x = torch.stack([p.x + i for i in range(count)])
    epsilon = p.epsilon * torch.arange(1, count + 1, dtype=torch.float64)
    options = p.options(backend) | dict(epsilon=epsilon)
    options |= {k: options[k].expand(count, -1) for k in ("x_weight", "y_weight")}
    both = ops.sinkhorn(x, p.y.expand(count, -1, -1), **options)
    assert both.converged.all()
    for i in range(count):
        alone = p.but(x=x[i], epsilon=float(epsilon[i])).solve(backend)
        near(both.value[i], alone.value)
        near(both.x_potential[i], alone.x_potential, 1e-6)


@holds(examples=30, p=problems(), noise=st.sampled_from([0.0, 0.1, 10.0]))
def test_a_warm_start_changes_no_value(backend: str, p: Problem, noise: float) -> None:
    first = p.solve(backend)
    start = first.y_potential + noise * torch.cos(torch.arange(len(p.y), dtype=torch.float64))
    again = ops.sinkhorn(p.x, p.y, y_potential=start, **p.options(backend))
    assert bool(again.converged)
    near(again.value, first.value)
