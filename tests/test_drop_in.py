"""What other people's training loops do to a loss: scale, accumulate, recompute, export, trace."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ucmkd import losses

pytestmark = pytest.mark.usefixtures("one_thread")


def data(n: int = 16, m: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 6), torch.randn(m, 4) + 0.5


def encoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


class Step(nn.Module):
    """A module that contains the losses, as a Lightning or Hugging Face model would."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.encoder = encoder()
        self.sinkhorn = losses.SinkhornAlign(backend=backend)
        self.mmd = losses.MMDAlign(backend=backend)

    def forward(self, inputs: Tensor, teacher: Tensor) -> Tensor:
        features = self.encoder(inputs)
        return self.sinkhorn(features, teacher) + self.mmd(features, teacher)


def gradients(module: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(module.parameters())))


def test_compiled_with_dynamic_shapes(backend: str) -> None:
    """One graph for all batch sizes: what eager gives, to rounding."""
    step = Step(backend)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for n, m in ((16, 12), (9, 14), (21, 11)):
        inputs, teacher = data(n, m)
        with torch._dynamo.config.patch(error_on_recompile=True):
            one = compiled(inputs, teacher)
        two = step(inputs, teacher)
        torch.testing.assert_close(one, two)
        for a, b in zip(gradients(step, one), gradients(step, two), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_scaler(backend: str, dtype: torch.dtype) -> None:
    """A scaled step in half precision is the unscaled one; an overflow is seen and skipped."""
    step = Step(backend)
    plain, scaled = copy.deepcopy(step), copy.deepcopy(step)
    inputs, teacher = data()

    def value(module: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype):
            result: Tensor = module(inputs, teacher)
        return result

    ordinary = torch.optim.SGD(plain.parameters(), lr=0.1)
    value(plain).backward()
    ordinary.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    other = torch.optim.SGD(scaled.parameters(), lr=0.1)
    scaler.scale(value(scaled)).backward()
    scaler.step(other)
    scaler.update()
    eps = torch.finfo(dtype).eps
    for before, a, b in zip(
        step.parameters(), plain.parameters(), scaled.parameters(), strict=True
    ):
        moved = (a - before).abs().max()
        assert moved > 0 and (a - b).abs().max() <= 4 * eps * moved
    kept = [p.clone() for p in scaled.parameters()]
    other.zero_grad()
    # Not the largest of float32: the loss itself must stay finite.
    huge = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    huge.scale(value(scaled)).backward()
    huge.step(other)
    huge.update()
    if dtype is torch.float16:  # bfloat16 has the range of float32
        assert huge.get_scale() == 2.0**119
        assert all(torch.equal(a, b) for a, b in zip(kept, scaled.parameters(), strict=True))


def test_gradient_accumulation(backend: str) -> None:
    """Micro-batches add up to the gradient of their mean loss."""
    step, parts = Step(backend), [data(8, 9), data(10, 7), data(6, 6)]
    for inputs, teacher in parts:
        (step(inputs, teacher) / len(parts)).backward()
    mean = torch.stack([step(*part) for part in parts]).mean()
    for p, expected in zip(step.parameters(), gradients(step, mean), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("what", ["encoder", "loss"])
def test_activation_checkpointing(backend: str, reentrant: bool, what: str) -> None:
    """Recomputed in the backward pass, the encoder or the loss as well: equal to the bit."""
    step = Step(backend)
    inputs, teacher = data()
    inputs.requires_grad_()  # the reentrant kind needs an input with a gradient
    if what == "encoder":
        features = checkpoint(step.encoder, inputs, use_reentrant=reentrant)
        value = step.sinkhorn(features, teacher) + step.mmd(features, teacher)
    else:
        value = checkpoint(step, inputs, teacher, use_reentrant=reentrant)
    value.backward()
    expected = gradients(step, step(inputs, teacher))
    for p, wanted in zip(step.parameters(), expected, strict=True):
        assert p.grad is not None and torch.equal(p.grad, wanted)


def everything(backend: str) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Every public loss as a module, and what it is called with."""
    x, y, logits, target = *data(), torch.randn(16, 3), torch.arange(16) % 3
    maps, others = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    return {
        "SinkhornAlign": (losses.SinkhornAlign(backend=backend), (x[:, :4], y)),
        "FeatureAlign": (losses.FeatureAlign(backend=backend), (x[:, :4], y)),
        "MMDAlign": (losses.MMDAlign(backend=backend), (x[:, :4], y)),
        "EnergyAlign": (losses.EnergyAlign(backend=backend), (x[:, :4], y)),
        "CoralAlign": (losses.CoralAlign(), (x[:, :4], y)),
        "CMDAlign": (losses.CMDAlign(), (x[:, :4], y)),
        "LabelAlign": (losses.LabelAlign(), (x[:, :3], logits, target)),
        "KDLoss": (losses.KDLoss(), (x[:, :3], logits)),
        "DKDLoss": (losses.DKDLoss(), (x[:, :3], logits, target)),
        "RKDLoss": (losses.RKDLoss(), (x, logits)),
        "AttentionLoss": (losses.AttentionLoss(), (maps, others)),
        "FSPLoss": (losses.FSPLoss(), (maps, others, others, maps)),
        "BSSLoss": (losses.BSSLoss(), (x[:, :3], logits, target > 0)),
        "ONELoss": (losses.ONELoss(), (torch.randn(16, 2, 3), torch.rand(16, 2), target)),
    }


def names() -> list[str]:
    modules = {n for n in losses.__all__ if isinstance(getattr(losses, n), type)}
    return sorted(modules - {"SinkhornState"})


@pytest.mark.parametrize("name", names())
def test_copied_pickled_and_exported(backend: str, name: str) -> None:
    module, arguments = everything(backend)[name]
    value = module(*arguments)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(stream, weights_only=False),
    ):
        assert repr(other) == repr(module) and torch.equal(other(*arguments), value)
    program = torch.export.export(module, arguments)
    torch.testing.assert_close(program.module()(*arguments), value)


def test_exported_with_any_batch_size(backend: str, tmp_path: Any) -> None:
    """Saved, loaded, and run on other sizes; the operators are in the graph by name."""
    step = Step(backend)
    shapes = ({0: torch.export.Dim("n")}, {0: torch.export.Dim("m")})
    program = torch.export.export(step, data(), dynamic_shapes=shapes)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"ucmkd.sinkhorn.default", "ucmkd.mmd.default"} <= called
    torch.export.save(program, tmp_path / "step.pt2")
    loaded = torch.export.load(tmp_path / "step.pt2").module()
    inputs, teacher = data(9, 20)
    torch.testing.assert_close(loaded(inputs, teacher), step(inputs, teacher))


def test_deterministic_algorithms(backend: str) -> None:
    """No operation is refused, and two runs are equal to the bit."""
    step = Step(backend)
    inputs, teacher = data(40, 30)
    torch.use_deterministic_algorithms(True)
    try:
        one, two = (gradients(step, step(inputs, teacher)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for a, b in zip(one, gradients(step, step(inputs, teacher)), strict=True):
        torch.testing.assert_close(a, b)
