"""The functions of the methods in half precision and under autocast: as good as in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ucmkd import losses
from ucmkd.losses.boundary import base_samples
from ucmkd.losses.fsp import flow_matrix
from ucmkd.losses.one import gated_logits
from ucmkd.methods.adversary import guess_loss, judge_loss
from ucmkd.methods.alignment import truncate
from ucmkd.methods.amid import information_bound
from ucmkd.methods.c2kd import _kl, kendall_tau, non_target_kl
from ucmkd.methods.ckd import comparative_loss
from ucmkd.methods.class_soft_labels import class_soft_label_loss
from ucmkd.methods.cross_entropy import logit_adjustment
from ucmkd.methods.discom_kd import modality_loss, orthogonality_loss
from ucmkd.methods.disentangled import Parts
from ucmkd.methods.fitnet import hint_loss
from ucmkd.methods.imbalance import logit_adjusted_cross_entropy, weighted_cross_entropy
from ucmkd.methods.joint_cost import joint_cost
from ucmkd.methods.msd import saliency, shares
from ucmkd.methods.norm import many_to_one_loss
from ucmkd.methods.parts import class_weights
from ucmkd.methods.pkdot import structure_loss
from ucmkd.methods.pkdot_classes import prototype_rows
from ucmkd.methods.planned import planned_cost
from ucmkd.methods.profile import profile_cost
from ucmkd.methods.prototype_geometry import prototype_geometry_loss, prototypes
from ucmkd.methods.review_fusion import hierarchical_context_loss
from ucmkd.methods.self_labelling import self_label_loss
from ucmkd.methods.sp import similarity_preserving_loss
from ucmkd.methods.vanilla_kd import pair_kd

pytestmark = pytest.mark.usefixtures("one_thread")
N, CLASSES = 32, 20
LABEL = torch.arange(N) % CLASSES
SOME = LABEL % 7  # of classes 7 to 19 there is no sample
TRUE = torch.ones(CLASSES, dtype=torch.bool)
PRIOR = torch.arange(1, CLASSES + 1) / (CLASSES * (CLASSES + 1) / 2)


def maps(rows: Tensor) -> Tensor:
    return rows[:, :, None, None].expand(-1, -1, 6, 6)


def square(logits: Tensor) -> Tensor:
    return logits[:CLASSES]


#: Features x and y (32, 64) of scale 4, logits u and v (32, 20) of scale 3.
FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "sp": lambda x, y, u, v: similarity_preserving_loss(x, y),
    "sp of large features": lambda x, y, u, v: similarity_preserving_loss(10 * x, 10 * y),
    "tau": lambda x, y, u, v: kendall_tau(u, v),
    "tau of equal rows": lambda x, y, u, v: kendall_tau(u, u),
    "non-target": lambda x, y, u, v: non_target_kl(u, v, LABEL),
    "proxies": lambda x, y, u, v: _kl(u, v),
    "prototypes": lambda x, y, u, v: prototypes(x, SOME, CLASSES)[0],
    "geometry": lambda x, y, u, v: prototype_geometry_loss(
        x[:CLASSES] * (torch.arange(CLASSES) < 7)[:, None], y[:CLASSES], torch.arange(CLASSES) < 7
    ),
    "soft labels": lambda x, y, u, v: class_soft_label_loss(
        u, LABEL, square(v).softmax(1), temperature=100.0
    ),
    "hint": lambda x, y, u, v: hint_loss(30 * x, 30 * y),
    "comparison": lambda x, y, u, v: comparative_loss(30 * u, 30 * v),
    "many to one": lambda x, y, u, v: many_to_one_loss(30 * x, 30 * y[:, :16]),
    "context": lambda x, y, u, v: hierarchical_context_loss(maps(30 * x), maps(30 * y)),
    "structure": lambda x, y, u, v: structure_loss(x, y),
    "rows of prototypes": lambda x, y, u, v: prototype_rows(x, y[:CLASSES], TRUE),
    "joint cost": lambda x, y, u, v: joint_cost(x, u, y, v.softmax(1)),
    "coinciding points": lambda x, y, u, v: joint_cost(x, u, x, v.softmax(1)).sum(),
    "profile": lambda x, y, u, v: profile_cost(x, y, LABEL, y, v.softmax(1)),
    "planned": lambda x, y, u, v: planned_cost(u.abs()),
    "self-labels": lambda x, y, u, v: self_label_loss(u, PRIOR),
    "information": lambda x, y, u, v: information_bound(square(u)),
    "judge": lambda x, y, u, v: judge_loss(u[:, 0], v[:, 0]),
    "guess": lambda x, y, u, v: guess_loss(u[:, 0]),
    "modality": lambda x, y, u, v: modality_loss(u[:, :2], v[:, :2]),
    "orthogonality": lambda x, y, u, v: orthogonality_loss(Parts(90 * x, 90 * y, 90 * x * y)),
    "saliency": lambda x, y, u, v: saliency(u, v[None]),
    "shares": lambda x, y, u, v: shares(u.abs() * 1e-3),
    "weighted": lambda x, y, u, v: weighted_cross_entropy(u, LABEL, PRIOR),
    "adjusted": lambda x, y, u, v: logit_adjusted_cross_entropy(u, LABEL, PRIOR),
    "pair_kd": lambda x, y, u, v: pair_kd(u, v, class_prior=PRIOR),
    "cut widths": lambda x, y, u, v: truncate(30 * x, y[:, :30])[0],
    "rkd": lambda x, y, u, v: losses.rkd_loss(x, y),
    "flow": lambda x, y, u, v: flow_matrix(maps(x), maps(30 * y)),
    "coral": lambda x, y, u, v: losses.coral_align(x, y),
    "gate": lambda x, y, u, v: gated_logits(
        torch.stack((90 * u, 90 * v), 1), torch.full((N, 2), 0.5, dtype=u.dtype)
    ),
}


def given(dtype: torch.dtype) -> list[Tensor]:
    """Rounded to ``dtype`` and wide enough for all factors above; leaves."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((N, 64), (N, 64), (N, CLASSES), (N, CLASSES))
    drawn = [
        k * torch.randn(s, generator=generator) for s, k in zip(shapes, (4, 4, 3, 3), strict=True)
    ]
    return [v.to(dtype).requires_grad_() for v in drawn]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    """Values within the type's own error of float32; gradients finite, in the inputs' type."""
    low = given(dtype)
    value = FUNCTIONS[name](*low)
    exact = FUNCTIONS[name](*(v.detach().float() for v in low))
    assert value.dtype == torch.float32
    scale = float(exact.detach().abs().max())
    assert (value - exact).detach().abs().max() <= 8 * torch.finfo(dtype).eps * scale
    if value.requires_grad:
        (value.sum() / scale).backward()
        reached = [v.grad for v in low if v.grad is not None]
        assert reached and all(g.dtype == dtype and bool(g.isfinite().all()) for g in reached)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_nothing(name: str) -> None:
    """What is float32 stays so inside an autocast region, matrix products too."""
    plain = FUNCTIONS[name](*given(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = FUNCTIONS[name](*given(torch.float32))
    torch.testing.assert_close(inside, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [17, 40])
def test_equal_rankings_have_tau_one_in_half(classes: int) -> None:
    row = torch.randn(4, classes).half().add(torch.arange(classes).half())
    assert bool((kendall_tau(row, row) == 1).all())


def test_masses_and_priors_of_narrow_types() -> None:
    assert class_weights(SOME, PRIOR.half()).sum() == pytest.approx(1, abs=1e-6)
    assert logit_adjustment(torch.zeros(1, CLASSES), PRIOR.half(), PRIOR).abs().max() < 1e-2


def test_the_largest_gaps_are_told_in_half() -> None:
    """Squared gaps of probabilities are soon subnormal in half precision."""
    u, v = (w.detach() / 300 for w in given(torch.float16)[2:])
    label = v.argmax(1)
    wanted = base_samples(u.float(), v.float(), label, 5)
    assert base_samples(u, v, label, 5).tolist() == wanted.tolist()
