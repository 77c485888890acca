"""The second-order outer step against a numeric derivative of the whole outer objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods_common import D_T, C, D, make, make_batch
from methods_common import double as _double  # noqa: F401 (a fixture for every test)
from ucmkd.models import SplitModel

EXACT = {"tol": 1e-13, "max_iter": 20000}
ABSOLUTE = {"epsilon": 0.5, "epsilon_scale": None}

pytestmark = pytest.mark.usefixtures("one_thread")


def smooth_student(width: int) -> SplitModel:
    """Without kinks, so that differences converge."""
    return SplitModel(nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, width)),
                      nn.Linear(width, C))  # fmt: skip


def numeric(objective: Any, parameters: list[Tensor], direction: list[Tensor], h: float) -> float:
    """Richardson's central difference along ``direction``."""

    def at(h: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += h * d
        value = objective()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= h * d
        return value

    coarse, fine = (at(h) - at(-h)) / (2 * h), (at(h / 2) - at(-h / 2)) / h
    return (4 * fine - coarse) / 3


@pytest.mark.parametrize("width", [D_T, 4])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"fa_steps": 2, "la_steps": 2, "fa_weight": 0.7, "la_weight": 1.3},
        {"fa_steps": 3, "la_steps": 0},
        {"fa_steps": 0, "la_steps": 3},
        {"kappa": "attached"},
        {"kappa": "clipped", "kappa_clip": 0.3},
        ABSOLUTE,
        {"cost": "sqeuclidean"},
        {"cost": "cosine", "inner_lr": 0.5},
        {"cost": "chordal", **ABSOLUTE},
        {"cost": "l1"},
        {"alignment": "mmd", "inner_lr": 0.5},
        {"alignment": "mmd", "inner_lr": 0.5, "bandwidth": "mean"},
        {"alignment": "mmd", "inner_lr": 0.5, "bandwidth": 2.0, "fa_steps": 2},
        {"la_detach_features": True, "la_detach_teacher": True, "la_steps": 2},
        {"la_detach_teacher": True},
        {"inner_optimizer": "adamw", "fa_steps": 2, "la_steps": 2, "inner_weight_decay": 0.1},
        {"variant": "released", "sharp": False, "inner_lr": 0.05, "la_steps": 2, "fa_steps": 2},
        {"paired": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::ucmkd.methods.collapse.CollapseWarning")
def test_against_differences(given: dict[str, Any], width: int) -> None:
    given = {"inner_lr": 0.1, **EXACT, **given}
    if given.get("alignment") == "mmd":
        given = {k: v for k, v in given.items() if k not in EXACT}
    student, head, batch = smooth_student(width), nn.Linear(D_T, C), make_batch()
    second = make("ucmkd", student, teacher_head=head, outer="second_order", **given)
    first = make("ucmkd", student, teacher_head=head, **given)
    first.projector.load_state_dict(second.projector.state_dict())
    parameters = list(student.parameters())

    def objective() -> float:
        """The cross-entropy at the copy, by the steps of the first-order form."""
        value = float(first.backward(batch, 0)["ce"])
        first.zero_grad()
        return value

    terms = second.backward(batch, 0)
    gradient = [p.grad.clone() for p in parameters]
    assert float(terms["ce"]) == pytest.approx(objective(), rel=1e-9)
    first.backward(batch, 0)
    plain = [p.grad.clone() for p in parameters]
    # Small differences where a sign, or the pair that is the median, may change within larger ones.
    kinked = given.get("cost") == "l1" or "adamw" in given.values() or "released" in given.values()
    kinked |= given.get("alignment") == "mmd" and "bandwidth" not in given
    h, close = (1e-6, 2e-4) if kinked else (1e-3, 2e-6)
    gap = 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        direction = [torch.randn_like(p) for p in parameters]
        found = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
        other = float(sum((g * d).sum() for g, d in zip(plain, direction, strict=True)))
        wanted = numeric(objective, parameters, direction, h)
        assert found == pytest.approx(wanted, rel=close, abs=close / 10)
        gap = max(gap, abs(other - wanted))
    assert gap > 1e-5  # the first-order form is another gradient


def test_projector_and_scaling_as_to_first_order() -> None:
    """The projector takes the mean inner gradient in both; the loss may be scaled."""
    student, head, batch = smooth_student(4), nn.Linear(D_T, C), make_batch()
    methods = [
        make("ucmkd", student, teacher_head=head, outer=outer, fa_steps=2, la_steps=2, **EXACT)
        for outer in ("first_order", "second_order")
    ]
    methods[1].projector.load_state_dict(methods[0].projector.state_dict())
    for method in methods:
        method.backward(batch, 0)
    own = [[p.grad for p in method.projector.parameters()] for method in methods]
    torch.testing.assert_close(*own, rtol=1e-7, atol=1e-10)
    method = methods[1]
    method.zero_grad()
    method.backward(batch, 0)
    once = [p.grad.clone() for p in method.trainable()]
    method.backward(batch, 0, lambda loss: (8 * loss).backward())
    for p, g in zip(method.trainable(), once, strict=True):
        torch.testing.assert_close(p.grad, 9 * g)


def test_zero_gradients_have_a_derivative_in_adamw() -> None:
    """Units that a ReLU has switched off: their AdamW direction is 0, not NaN."""
    encoder = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, D_T))
    with torch.no_grad():
        encoder[0].bias[:3] = -100.0
    method = make(
        "ucmkd", SplitModel(encoder, nn.Linear(D_T, C)), outer="second_order",
        inner_optimizer="adamw",
    )  # fmt: skip
    method.backward(make_batch(), 0)
    assert all(bool(p.grad.isfinite().all()) for p in method.trainable())
    assert float(encoder[0].weight.grad[:3].abs().max()) == 0.0


def test_sharp_is_refused() -> None:
    for given in ({"sharp": True}, {"variant": "released"}):
        with pytest.raises(ValueError, match="outer='second_order' needs sharp=False"):
            make("ucmkd", outer="second_order", **given)
    make("ucmkd", outer="second_order", variant="released", alignment="mmd")
    make("ucmkd", outer="second_order", variant="joint", sharp=True)  # there is no inner step
