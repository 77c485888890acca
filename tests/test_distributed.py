"""Data-parallel training over gloo, and modules that are copied, pickled or autocast."""

import copy
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ucmkd import losses

pytestmark = pytest.mark.usefixtures("one_thread")
WORLD = 2


def batch(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(24, 6, generator=generator)
    return inputs, torch.randn(20, 4, generator=generator) + 0.3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def loss(features: Tensor, teacher: Tensor, backend: str) -> Tensor:
    options: dict[str, Any] = dict(tol=1e-6, backend=backend)
    transport = losses.sinkhorn_align(features, teacher, **options)
    return transport + losses.mmd_align(features, teacher, backend=backend)


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters()]  # type: ignore[union-attr]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    inputs, teacher = batch(rank)
    found = {}
    for backend in ("rust", "torch"):
        parallel = DistributedDataParallel(model())
        loss(parallel(inputs), teacher, backend).backward()
        found[f"{backend} local"] = gradients(parallel)
        parallel = DistributedDataParallel(model())
        # The same loss of all samples on every rank: the gather's backward sums, DDP averages.
        everyone = torch.cat(dist.nn.functional.all_gather(parallel(inputs)))
        teachers = [torch.empty_like(teacher) for _ in range(WORLD)]
        dist.all_gather(teachers, teacher)
        loss(everyone, torch.cat(teachers), backend).backward()
        found[f"{backend} gathered"] = gradients(parallel)
    torch.save(found, f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_ranks(tmp_path: Path) -> None:
    """DDP's gradient is the mean over the ranks; with gathered features that of all samples."""
    mp.start_processes(worker, (str(tmp_path),), nprocs=WORLD, start_method="fork")
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(WORLD))
    for backend in ("rust", "torch"):
        each = []
        for rank in range(WORLD):
            alone = model()
            inputs, teacher = batch(rank)
            loss(alone(inputs), teacher, backend).backward()
            each.append(gradients(alone))
        mean = [(a + b) / WORLD for a, b in zip(*each, strict=True)]
        together = model()
        inputs, teacher = (torch.cat(parts) for parts in zip(batch(0), batch(1), strict=True))
        loss(together(inputs), teacher, backend).backward()
        for name, wanted in (("local", mean), ("gathered", gradients(together))):
            for found in (first, second):
                for a, b in zip(found[f"{backend} {name}"], wanted, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def modules(backend: str) -> list[nn.Module]:
    return [
        losses.SinkhornAlign(
            epsilon=nn.Parameter(torch.tensor(0.2)), reach=(None, 2.0), backend=backend
        ),
        losses.SinkhornAlign(epsilon=torch.tensor(0.2), debias=False, backend=backend),
        losses.FeatureAlign(epsilon_scale=None, epsilon=2.0, backend=backend),
        losses.MMDAlign(bandwidth=nn.Parameter(torch.tensor(1.5)), backend=backend),
        losses.MMDAlign(estimator="u", scales=(0.5, 2.0), backend=backend),
    ]


def test_copies_and_pickles(backend: str) -> None:
    x, y = torch.randn(12, 3), torch.randn(9, 3)
    for module in modules(backend):
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert repr(other) == repr(module)
            assert torch.equal(other(x, y), module(x, y))
            mine, theirs = list(module.parameters()), list(other.parameters())
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                assert a is not b and torch.equal(a, b)
        other = copy.deepcopy(module)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(x, y), module(x, y))


def test_a_copied_graph_does_not_share_gradients(backend: str) -> None:
    """Two backward passes over one graph add up, and a clone of the input is independent."""
    x = torch.randn(12, 3, requires_grad=True)
    y = torch.randn(9, 3)
    value = losses.sinkhorn_align(x, y, backend=backend)
    (one,) = torch.autograd.grad(value, x, retain_graph=True)
    kept = one.clone()
    one.zero_()  # an owner of the gradient may do this
    (two,) = torch.autograd.grad(value, x)
    assert torch.equal(two, kept) and kept.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_each_module(backend: str, dtype: torch.dtype) -> None:
    """Inside autocast the loss is float32, equal to that of the same rounded features."""
    layer = nn.Linear(6, 4)
    inputs, teacher = batch(0)
    for module in modules(backend):
        with torch.autocast("cpu", dtype):
            features = layer(inputs)
            value = module(features, teacher)
        assert features.dtype == dtype and value.dtype == torch.float32
        outside = module(features.detach().float(), teacher)
        torch.testing.assert_close(value, outside, rtol=1e-5, atol=1e-6)
        value.backward()
        assert layer.weight.grad.dtype == torch.float32
        assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.any()
