"""Models: encoder and head of every kind agree with the whole; the hook's cut is a real cut."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ucmkd.models import MLP, Head, HookedModel, SplitModel, Student, head_module


class Convolutional(nn.Module):
    """BatchNorm and dropout on both sides of the pooling layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.norm2 = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.drop(torch.relu(self.norm(self.conv(x)))))
        return self.out(self.norm2(x.flatten(1)))


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) + x)


def images(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_mlp_shapes_and_composition() -> None:
    torch.manual_seed(0)
    model = MLP(12, num_classes=3, hidden=8, width=5, dropout=0.3).eval()
    x = torch.randn(7, 3, 4)
    features, logits = model.outputs(x)
    assert features.shape == (7, 5) and logits.shape == (7, 3) and model.width == 5
    assert torch.equal(model.head(model.encoder(x)), model(x))
    assert torch.equal(logits, model(x))
    assert bool((features >= 0).all())  # ReLU features


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"width": -1}, {"dropout": 1.0}])
def test_mlp_rejects(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MLP(4, num_classes=2, **wrong)


def test_split_model_reads_the_width() -> None:
    model = SplitModel(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2)))
    assert model.width == 6
    x = torch.randn(3, 4)
    assert torch.equal(model(x), model.head(model.encoder(x)))
    with pytest.raises(ValueError, match="width"):
        SplitModel(nn.Linear(4, 6), nn.ReLU())
    with pytest.raises(TypeError, match="head"):
        SplitModel(nn.Linear(4, 6), lambda x: x)  # type: ignore[arg-type]


def test_hooked_model_equals_the_module() -> None:
    torch.manual_seed(0)
    module = Convolutional().eval()
    model = HookedModel(module, "pool", images(2))
    x = images()
    features, logits = model.outputs(x)
    assert model.width == 16 and features.shape == (6, 16)
    assert torch.equal(logits, module(x)) and torch.equal(model(x), module(x))
    torch.testing.assert_close(
        features, module.pool(torch.relu(module.norm(module.conv(x)))).flatten(1)
    )
    torch.testing.assert_close(model.head(features), logits)
    assert torch.equal(model.encoder(x), features)


def test_hooked_head_leaves_the_encoder_alone() -> None:
    """The dummy pass moves no running statistics, draws no random number, restores the modes."""
    torch.manual_seed(0)
    model = HookedModel(Convolutional(), "pool", images(2)).train()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    features = torch.randn(6, 16, requires_grad=True)
    state = torch.get_rng_state()
    model.head(features).square().sum().backward()
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in model.module.modules())
    after = model.module.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved == {"norm2.running_mean", "norm2.running_var", "norm2.num_batches_tracked"}
    assert features.grad is not None and bool(features.grad.abs().sum() > 0)
    assert model.module.out.weight.grad is not None
    conv = model.module.conv.weight.grad
    assert conv is None or not bool(conv.any())


def test_hooked_model_survives_deepcopy_and_state_dict() -> None:
    torch.manual_seed(0)
    model = HookedModel(Convolutional(), "pool", images(2)).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.module.out.weight.add_(1.0)
    assert not torch.allclose(twin(images()), model(images()))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images()), model(images()))
    assert set(model.state_dict()) == {f"module.{k}" for k in model.module.state_dict()}


def test_hooked_model_errors() -> None:
    with pytest.raises(ValueError, match="nearest is 'pool'"):
        HookedModel(Convolutional(), "pol", images(2))
    with pytest.raises(ValueError, match="skip connection"):
        HookedModel(Skipping(), "a", torch.randn(3, 4))
    twice = nn.Sequential()
    shared = nn.Linear(4, 4)
    twice.add_module("one", shared)
    twice.add_module("two", shared)
    with pytest.raises(ValueError, match="ran 2 times"):
        HookedModel(twice, "one", torch.randn(3, 4))
    with pytest.raises(ValueError, match="one tensor"):
        HookedModel(nn.Sequential(nn.LSTM(4, 4), Pick()), "0", torch.randn(3, 4))


class Pick(nn.Module):
    def forward(self, x: tuple) -> Tensor:
        return x[0]


def test_head_module() -> None:
    mlp = MLP(4, num_classes=2, hidden=4, width=3)
    assert head_module(mlp) is mlp.head
    hooked = HookedModel(Convolutional(), "pool", images(2)).eval()
    head = head_module(hooked)
    assert isinstance(head, Head) and isinstance(hooked, Student)
    torch.testing.assert_close(head(hooked.encoder(images())), hooked(images()))
