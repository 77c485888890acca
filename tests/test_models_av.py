"""Networks for spectrograms and pictures."""

from __future__ import annotations

import sys

import pytest
import torch

from ucmkd import models_av
from ucmkd.config import ModelConfig
from ucmkd.models import SplitModel
from ucmkd.teacher import build_model

SHAPES = {"audio": (1, 32, 40), "frames": (3, 40, 40)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet18_augmented", 512)])
def test_resnet_from_a_recipe(name: str, width: int, shape: tuple[int, ...]) -> None:
    pytest.importorskip("torchvision")
    inputs = torch.randn(2, *shape)
    model = build_model(ModelConfig(factory=f"ucmkd.models_av:{name}"), inputs, 5).eval()
    assert isinstance(model, SplitModel)
    features, logits = model.outputs(inputs)
    assert model.width == width and features.shape == (2, width) and logits.shape == (2, 5)
    assert torch.equal(model.head(features), logits)
    assert sum(p.numel() for p in model.encoder.parameters()) == 11_176_512 - 9408 + 3136 * shape[0]


def test_vit_from_a_recipe() -> None:
    pytest.importorskip("timm")
    inputs = torch.randn(1, 1, 32, 50)
    model = build_model(ModelConfig(factory="ucmkd.models_av:vit_small"), inputs, 3).eval()
    features, logits = model.outputs(inputs)
    assert model.width == 384 and features.shape == (1, 384) and logits.shape == (1, 3)


def test_pretrained_weights_are_asked_for_and_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: the library's function is replaced by one with known weights."""
    torchvision = pytest.importorskip("torchvision")
    asked = []
    real = torchvision.models.resnet18

    def fake(weights=None):  # type: ignore[no-untyped-def]
        asked.append(weights)
        network = real(weights=None)
        torch.nn.init.constant_(network.conv1.weight, 2.0)
        return network

    monkeypatch.setattr(torchvision.models, "resnet18", fake)
    grey = models_av.resnet18_pretrained((1, 32, 32), 2)
    assert bool((grey.encoder.conv1.weight == 6.0).all())  # the sum over the colours
    colour = models_av.resnet18_pretrained((3, 32, 32), 2)
    assert bool((colour.encoder.conv1.weight == 2.0).all())
    models_av.resnet18((3, 32, 32), 2)
    assert asked == ["IMAGENET1K_V1", "IMAGENET1K_V1", None]


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"\(channels, height, width\).*got \(64,\)"):
        models_av.resnet18((64,), 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models_av.vit_small((1, 8, 8), 0)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=r"'torchvision'.*ucmkd\[audiovisual\]"):
        models_av.resnet18((1, 8, 8), 3)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"'timm'.*ucmkd\[audiovisual\]"):
        models_av.vit_small((1, 8, 8), 3)
    with pytest.raises(ValueError, match=r"scale must be an ordered pair"):
        models_av.Augment((0.5, 0.1))


def test_augment_is_off_in_evaluation_and_fixed_by_the_seed() -> None:
    augment = models_av.Augment()
    for channels in (1, 3):
        inputs = torch.randn(4, channels, 16, 24)
        assert augment.eval()(inputs) is inputs
        torch.manual_seed(1)
        first = augment.train()(inputs)
        torch.manual_seed(1)
        assert torch.equal(first, augment(inputs))
        assert not torch.equal(first, augment(inputs))
        assert first.shape == inputs.shape and bool(first.isfinite().all())


def test_pictures_are_flipped_or_kept_at_full_scale() -> None:
    inputs = torch.randn(40, 3, 8, 8)
    seen = models_av.Augment((1.0, 1.0)).train()(inputs)
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, inputs, strict=True)]
    turned = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(seen, inputs, strict=True)]
    assert [a or b for a, b in zip(kept, turned, strict=True)] == [True] * 40
    assert 5 < sum(kept) < 35


def test_spectrograms_lose_bands_and_nothing_else() -> None:
    inputs = torch.randn(50, 1, 20, 30)
    seen = models_av.Augment().train()(inputs)
    changed = seen != inputs
    mean = inputs.mean(dim=(1, 2, 3), keepdim=True).expand_as(inputs)
    assert torch.equal(seen[changed], mean[changed])
    whole = changed.all(dim=3, keepdim=True) | changed.all(dim=2, keepdim=True)
    assert torch.equal(changed, whole)  # a changed cell lies in a changed row or column
    # Two bands of at most 15 % (3 of 20 rows) and of 20 % (6 of 30 columns), rounded up.
    assert int(changed.all(dim=3).sum(dim=2).max()) <= 8
    assert int(changed.all(dim=2).sum(dim=2).max()) <= 14
    assert 0 < changed.float().mean() < 0.5
