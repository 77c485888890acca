"""ONE: its loss by a literal formula, the gated network, and the small CNN it is made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ucmkd.losses import ONELoss, attention_loss, fsp_loss, one_loss
from ucmkd.models_cnn import SmallCNN
from ucmkd.models_one import Gate, GatedEnsemble, gated_cnn


def softmax(z: list[float], temperature: float = 1.0) -> list[float]:
    e = [math.exp(v / temperature) for v in z]
    return [v / sum(e) for v in e]


def test_loss_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    gate = torch.rand(5, 3, generator=generator, dtype=torch.float64).softmax(1)
    label, temperature, weight = torch.tensor([0, 3, 1, 2, 2]), 2.5, 0.7
    total = 0.0
    for i in range(5):
        mixed = [sum(gate[i, j].item() * z[i, j, c].item() for j in range(3)) for c in range(4)]
        total -= math.log(softmax(mixed)[label[i]])
        soft = softmax(mixed, temperature)
        for j in range(3):
            total -= math.log(softmax(z[i, j].tolist())[label[i]])
            own = softmax(z[i, j].tolist(), temperature)
            divergence = sum(p * math.log(p / q) for p, q in zip(soft, own, strict=True))
            total += weight * temperature**2 * divergence
    found = one_loss(z, gate, label, weight=weight, temperature=temperature)
    assert found.item() == pytest.approx(total / 5, rel=1e-12)
    module = ONELoss(weight=weight, temperature=temperature)
    assert module(z, gate, label).item() == found.item()


def test_mixture_is_a_fixed_target() -> None:
    z = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 2, 0])

    def gradient(**options: float) -> Tensor:
        return torch.autograd.grad(one_loss(z, gate, label, **options), gate)[0]

    torch.testing.assert_close(gradient(weight=5.0), gradient(weight=0.0))
    assert not torch.allclose(gradient(weight=5.0, detach_teacher=False), gradient(weight=0.0))


def test_gate_and_branches() -> None:
    net = gated_cnn(lambda: SmallCNN(num_classes=10, channels=(8, 16)), 3)
    x = torch.rand(6, 1, 8, 8)
    logits, gate = net(x)
    assert logits.shape == (6, 3, 10) and gate.shape == (6, 3)
    torch.testing.assert_close(gate.sum(1), torch.ones(6))
    net.eval()
    logits, gate = net(x)
    torch.testing.assert_close(net.branch(1)(x), logits[:, 1])
    torch.testing.assert_close(net.mixture(x), (gate[..., None] * logits).sum(1))
    # What is deployed has the size of the student.
    alone = SmallCNN(num_classes=10, channels=(8, 16))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (alone, net.branch(2))]
    assert sizes[0] == sizes[1] == 1898
    # The branches start apart.
    assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_gate_by_hand() -> None:
    gate = Gate(1, 2).eval()
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        gate.linear.bias.zero_()
    gate.norm.eps = 0.0
    # The mean of the map is 2: ReLU leaves (2, 0).
    found = gate(torch.tensor([[[[1.0, 3.0]]]]))
    assert found[0, 0].item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_stages_have_one_shape() -> None:
    student = SmallCNN(num_classes=10, channels=(4, 8))
    teacher = SmallCNN(num_classes=10, channels=(4, 8), depth=3, inner=20)
    x = torch.rand(5, 1, 8, 8)
    s, t = student.through(x), teacher.through(x)
    assert [m.shape for m in s.maps] == [m.shape for m in t.maps] == [(5, 4, 8, 8), (5, 8, 4, 4)]
    assert s.features.shape == (5, 32) and student.width == 32
    assert attention_loss(s.maps[0], t.maps[0]) > 0 and fsp_loss(*s.maps, *t.maps) > 0
    assert student.stage_shapes == ((4, 8, 8), (8, 4, 4))
    maps, logits = student.stages(x)
    torch.testing.assert_close((*maps, logits), (*s.maps, s.logits))
    features, logits = student.outputs(x)
    torch.testing.assert_close(student.encoder(x), features)
    torch.testing.assert_close(student(x), logits)
    pooled = torch.nn.functional.max_pool2d(s.maps[1], 2).flatten(1)
    torch.testing.assert_close(logits, pooled @ student.head.weight.T + student.head.bias)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"channels": (4, 8, 16, 32)}, ValueError, "divisible by 16 for 4 stages, got 8"),
        ({"channels": ()}, ValueError, "at least one stage"),
        ({"channels": (4, 0)}, ValueError, r"channels\[1\] must be an integer of at least 1"),
        ({"depth": 0}, ValueError, "depth must be an integer of at least 1, got 0"),
        ({"inner": 1.5}, TypeError, "inner must be an integer"),
    ],
)
def test_bad_networks(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        SmallCNN(num_classes=10, **options)


def test_bad_ensembles() -> None:
    with pytest.raises(ValueError, match="at least two modules, got 1"):
        GatedEnsemble(nn.Identity(), [nn.Identity()], nn.Identity())
    with pytest.raises(ValueError, match="at least two stages, got one"):
        gated_cnn(lambda: SmallCNN(num_classes=3, channels=(4,)))
    with pytest.raises(ValueError, match="branches must be an integer of at least 2, got 1"):
        gated_cnn(lambda: SmallCNN(num_classes=3), 1)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"branch_logits": torch.zeros(2, 3)}, ValueError, r"branch_logits must have shape \(n, m"),
        ({"branch_logits": [0.0]}, TypeError, "branch_logits must be a floating"),
        ({"branch_logits": torch.full((2, 2, 3), math.nan)}, ValueError, "branch_logits must be f"),
        ({"gate": torch.zeros(2, 3)}, ValueError, r"gate must have shape \(2, 2\)"),
        ({"label": torch.zeros(2)}, ValueError, r"label must be int64 of shape \(2,\)"),
        (
            {"label": torch.tensor([-100, 0])},
            ValueError,
            r"label must lie in \[0, 3\); got -100 to 0",
        ),
        ({"label": torch.tensor([0, -1])}, ValueError, r"label must lie in \[0, 3\); got -1 to 0"),
        ({"label": torch.tensor([3, 0])}, ValueError, r"label must lie in \[0, 3\); got 0 to 3"),
        ({"weight": -1.0}, ValueError, "weight must be >= 0; got -1.0"),
        ({"weight": True}, TypeError, "weight must be a number; got bool"),
        ({"temperature": 0.0}, ValueError, "temperature must be > 0"),
    ],
)
def test_bad_losses_are_named(change: dict, kind: type[Exception], message: str) -> None:
    call: dict = {
        "branch_logits": torch.zeros(2, 2, 3),
        "gate": torch.full((2, 2), 0.5),
        "label": torch.zeros(2, dtype=torch.int64),
        **change,
    }
    arguments = [call.pop(name) for name in ("branch_logits", "gate", "label")]
    with pytest.raises(kind, match=message):
        one_loss(*arguments, **call)
