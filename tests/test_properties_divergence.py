"""Properties of the Sinkhorn divergence and of its loss, on every backend."""

from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from property_testing import STEEPEST, Problem, holds, near, problems, relaxed, rng, seeds
from ucmkd import losses

strict = st.just((None, None))


def align(p: Problem, backend: str, **changes: Any) -> Tensor:
    options: dict[str, Any] = dict(
        epsilon=p.epsilon, epsilon_scale=None, cost=p.cost, reach=p.reach, student_weight=p.a,
        teacher_weight=p.b, student_label=p.k, teacher_label=p.l, label_cost=p.label_cost,
        tol=1e-10, max_iter=20_000, detach_teacher=False, backend=backend,
    )  # fmt: skip
    return losses.sinkhorn_align(p.x, p.y, **(options | changes))


def same_reach(p: Problem) -> Problem:
    """One ρ for both sides, or none: with a pair the self-terms have different prices."""
    rho = next((r for r in p.reach if r is not None), None)
    if rho is None or None in p.reach:
        return p.but(reach=(None, None), b=p.b * (p.a.sum() / p.b.sum()))
    return p.but(reach=(rho, rho))


def no_steeper(p: Problem) -> Problem:
    """With an ε at which these clouds converge, which are not those that were drawn."""
    return p.but(epsilon=max(p.epsilon, float(p.matrix().detach().max()) / STEEPEST))


@holds(examples=80, p=problems())
def test_not_negative_and_symmetric(backend: str, p: Problem) -> None:
    p = same_reach(p)
    value = align(p, backend).item()
    assert value >= -1e-9 * max(1.0, float(p.matrix().max()))
    near(align(p.swapped(), backend), value)


@holds(examples=60, p=problems(), seed=seeds, share=st.floats(0.1, 0.9))
def test_zero_for_equal_measures(backend: str, p: Problem, seed: int, share: float) -> None:
    """However the measure is written: another order, a split point, an absent one."""
    p = same_reach(p)
    order = torch.randperm(len(p.x), generator=rng(seed))
    y = torch.cat([p.x[order], p.x[order[:1]], p.x[:1] + 1])
    b = torch.cat([p.a[order], (1 - share) * p.a[order[:1]], p.a.new_zeros(1)])
    b[0] = share * p.a[order[0]]
    l = None if p.k is None else torch.cat([p.k[order], p.k[order[:1]], p.k[:1]])  # noqa: E741
    x = p.x.clone().requires_grad_()
    p = no_steeper(p.but(x=x, y=y, b=b, l=l))
    value = align(p, backend)
    value.backward()
    size = max(1.0, float(p.matrix().max()))
    assert abs(value.item()) <= 1e-9 * size
    assert x.grad.abs().max() <= 1e-5 * size


@holds(
    examples=60,
    p=problems(costs=st.sampled_from(["sqeuclidean", "euclidean", "l1"]), labelled=False),
    move=st.sampled_from([0.5, 2.0]),
)
def test_positive_for_different_measures(backend: str, p: Problem, move: float) -> None:
    """One point moved out of the cloud, or a mass that differs."""
    p = same_reach(p)
    moved = p.x.clone()
    moved[0] += move + p.x.abs().max()  # a place where the other measure has no point
    assert align(p.but(y=moved, b=p.a, l=p.k), backend).item() > 1e-6
    if p.reach != (None, None):
        assert align(p.but(y=p.x, b=1.2 * p.a), backend).item() > 1e-6


@holds(
    examples=50,
    p=problems(costs=st.just("sqeuclidean"), reaches=strict, labelled=False),
    t=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_translation_is_its_square(backend: str, p: Problem, t: float) -> None:
    """S(x, x+t) = M|t|² exactly: no entropic bias is left, and the gradient is that of |t|²."""
    move = t * torch.ones(p.x.shape[1], dtype=torch.float64)
    p = no_steeper(p.but(y=p.x))  # which no translation changes
    x = p.x.clone().requires_grad_()
    value = align(p.but(x=x, y=p.x + move, b=p.a), backend)
    value.backward()
    near(value, p.a.sum() * (move @ move), 1e-6)
    near(x.grad, -2 * p.a[:, None] * move, 1e-4)


@holds(examples=50, p=problems(reaches=relaxed), s=st.sampled_from([0.3, 4.0]))
def test_definition(backend: str, p: Problem, s: float) -> None:
    """S = OT(α,β) - ½OT(α,α) - ½OT(β,β) + ε/2 (m_α - m_β)², for a pair of reaches too."""
    p = p.but(a=s * p.a)
    own_x = p.but(y=p.x, b=p.a, l=p.k, reach=(p.reach[0], p.reach[0]))
    own_y = p.but(x=p.y, a=p.b, k=p.l, reach=(p.reach[1], p.reach[1]))
    # Two-sided iterations are slow on a self-term; the loss does not use them there.
    steep = max(float(q.matrix().max()) for q in (own_x, own_y)) / STEEPEST
    p, own_x, own_y = (q.but(epsilon=max(p.epsilon, steep)) for q in (p, own_x, own_y))
    gap = p.epsilon / 2 * (p.a.sum() - p.b.sum()) ** 2
    expected = p.value(backend) - (own_x.value(backend) + own_y.value(backend)) / 2 + float(gap)
    size = 1e-8 * max(1.0, p.value(backend))
    assert abs(align(p, backend).item() - expected) <= size


@holds(examples=50, p=problems(), count=st.integers(0, 6))
def test_padding_and_batches(backend: str, p: Problem, count: int) -> None:
    """A ragged batch, padded with weight zero, gives each problem's own value and gradient."""
    p = same_reach(p)
    short = p.but(x=p.x[: (len(p.x) + 1) // 2], k=None, l=None, label_cost=0.0)
    mass = p.a.sum()
    short = short.but(a=p.a[: len(short.x)] * (mass / p.a[: len(short.x)].sum()))
    full = p.but(k=None, l=None, label_cost=0.0)
    x = torch.stack([p.x, p.x]).requires_grad_()
    a = torch.stack([p.a, torch.cat([short.a, p.a.new_zeros(len(p.x) - len(short.x))])])
    each = align(
        full.but(x=x, y=torch.stack([p.y, p.y]), a=a, b=torch.stack([p.b, p.b])),
        backend, reduction="none",
    )  # fmt: skip
    each.sum().backward()
    for i, q in enumerate((full, short)):
        left = q.x.clone().requires_grad_()
        value = align(q.but(x=left), backend)
        value.backward()
        size = max(1.0, float(p.matrix().max()))
        assert abs(each[i].item() - value.item()) <= 1e-8 * size
        near(x.grad[i, : len(left)], left.grad, 1e-4)


@holds(examples=40, p=problems(), s=st.sampled_from([0.01, 3.0, 50.0]))
def test_relative_units(backend: str, p: Problem, s: float) -> None:
    """With epsilon_scale="mean" the loss of scaled features is the scaled loss."""
    # Where all directions agree, the mean of the cosine costs is rounding error: no unit.
    assume(float(p.but(label_cost=0.0).matrix().max()) > 1e-9)
    p = same_reach(p).but(epsilon=0.5, label_cost=0.7 if p.k is not None else 0.0)
    p = p.but(reach=tuple(None if r is None else 2.0 for r in p.reach))
    degree = {"sqeuclidean": 2, "euclidean": 1, "l1": 1}.get(p.cost, 0)
    one = align(p, backend, epsilon_scale="mean").item()
    two = align(p.but(x=s * p.x, y=s * p.y), backend, epsilon_scale="mean").item()
    assert abs(two / s**degree - one) <= 1e-7 * max(1.0, float(p.matrix().max()))
