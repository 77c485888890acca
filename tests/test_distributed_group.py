"""``group=``: the alignment of the global batch, against one process with all rows."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from distributed_common import needs_fork, run_ranks
from ucmkd import losses
from ucmkd.distributed._agree import shown

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
#: Rows of student and teacher on each of four ranks; two ranks take the first two. One has none.
SIZES = [(9, 12), (14, 5), (6, 0), (11, 8)]
Data = dict[str, Tensor]


def share(rank: int) -> Data:
    """What a rank holds: inputs, teacher features, masses, labels."""
    n, m = SIZES[rank]
    source = torch.Generator().manual_seed(rank)
    return {
        "inputs": torch.randn(n, 6, generator=source),
        "teacher": torch.randn(m, 4, generator=source) + 0.3 * rank,
        "student_weight": torch.rand(n, generator=source) + 0.2,
        "teacher_weight": torch.rand(m, generator=source) + 0.2,
        "student_label": torch.randint(3, (n,), generator=source),
        "teacher_label": torch.randint(3, (m,), generator=source),
    }


def everyone(world: int) -> Data:
    parts = [share(rank) for rank in range(world)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Student(nn.Module):
    """An encoder, a learned ε and bandwidth, and a mass for each sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.mass = nn.Linear(6, 1)
        self.numbers = nn.Parameter(torch.tensor([0.4, 1.7]))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encoder(inputs), self.mass(inputs).squeeze(-1).exp(), self.numbers


def plain(student: nn.Module, data: Data, **options: Any) -> Tensor:
    features, mass, numbers = student(data["inputs"])
    one = losses.sinkhorn_align(features, data["teacher"], tol=1e-6, **options)
    two = losses.mmd_align(features, data["teacher"], **options)
    return one + two + 0 * (mass.sum() + numbers.sum())


def weighted(student: nn.Module, data: Data, **options: Any) -> Tensor:
    """Unbalanced, so that the masses matter, with labels and learned numbers."""
    features, mass, numbers = student(data["inputs"])
    masses = dict(student_weight=mass, teacher_weight=data["teacher_weight"])
    labels = {name: data[name] for name in ("student_label", "teacher_label")}
    one = losses.feature_align(
        features, data["teacher"], epsilon=numbers[0], reach=1.5, label_cost=0.5, debias=True,
        tol=1e-6, **masses, **labels, **options,
    )  # fmt: skip
    two = losses.mmd_align(features, data["teacher"], bandwidth=numbers[1], **masses, **options)
    three = losses.mmd_align(features, data["teacher"], **labels, **options)
    return 0.1 * one + two + three


LOSSES: dict[str, Callable[..., Tensor]] = {"plain": plain, "weighted": weighted}


def of(student: nn.Module, value: Tensor) -> tuple[Tensor, list[Tensor]]:
    value.backward()
    return value.detach(), [p.grad.clone() for p in student.parameters()]  # type: ignore[union-attr]


def one_process(name: str, world: int, backend: str) -> tuple[Tensor, list[Tensor]]:
    student = Student()
    return of(student, LOSSES[name](student, everyone(world), backend=backend))


def under_ddp(rank: int, world: int) -> dict[str, Any]:
    found = {}
    for backend in ("rust", "torch"):
        for name, loss in LOSSES.items():
            parallel = DistributedDataParallel(Student())
            value = loss(parallel, share(rank), backend=backend, group="world")
            found[f"{backend} {name}"] = of(parallel, value)
    return found


@needs_fork
@pytest.mark.parametrize("world", [2, 4])
def test_the_gradient_of_all_samples(tmp_path: Path, world: int) -> None:
    """Values and DDP's gradients are those of one process, with no factor of the world size."""
    results = run_ranks(tmp_path, world, under_ddp)
    for backend in ("rust", "torch"):
        for name in LOSSES:
            value, slopes = one_process(name, world, backend)
            assert max(float(s.abs().max()) for s in slopes) > 1e-3
            for result in results:
                found, gradients = result[f"{backend} {name}"]
                torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)
                for a, b in zip(gradients, slopes, strict=True):
                    torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-6)


def on_gpus(rank: int, world: int) -> dict[str, Any]:
    device = torch.device("cuda", rank)
    found = {}
    for name, loss in LOSSES.items():
        parallel = DistributedDataParallel(Student().to(device), device_ids=[rank])
        data = {key: value.to(device) for key, value in share(rank).items()}
        value, slopes = of(parallel, loss(parallel, data, backend="auto", group="world"))
        found[name] = (value.cpu(), [slope.cpu() for slope in slopes])
    return found


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_nccl(tmp_path: Path) -> None:
    results = run_ranks(tmp_path, 2, on_gpus, backend="nccl")
    for name in LOSSES:
        value, slopes = one_process(name, 2, "torch")
        for result in results:
            found, gradients = result[name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
            for a, b in zip(gradients, slopes, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def sharded_parameters(rank: int, world: int) -> Any:
    mesh = init_device_mesh("cpu", (world,))
    student = Student()
    fully_shard(student.encoder, mesh=mesh)
    features = student.encoder(share(rank)["inputs"])
    value = losses.sinkhorn_align(features, share(rank)["teacher"], tol=1e-6, group="world")
    (value + losses.mmd_align(features, share(rank)["teacher"], group="world")).backward()
    return [p.grad.full_tensor() for p in student.encoder.parameters()]  # type: ignore[union-attr]


def several_at_once(rank: int, world: int) -> Any:
    """Batched problems, half precision, a subgroup, a second derivative, different factors."""
    found: dict[str, Any] = {}
    n, m = SIZES[rank]
    source = torch.Generator().manual_seed(rank)
    x = torch.randn(3, n, 4, generator=source, requires_grad=True)
    y = torch.randn(3, m, 4, generator=source)
    value = losses.sinkhorn_align(x, y, tol=1e-6, reduction="none", group=dist.group.WORLD)
    found["batched"] = (value.detach(), torch.autograd.grad(value.sum(), x)[0])
    half = x.detach().bfloat16().requires_grad_()
    value = losses.mmd_align(half, y.bfloat16(), group="world")
    found["half"] = (value.detach(), torch.autograd.grad(value, half)[0])
    alone = dist.new_subgroups(1)[0]
    found["alone"] = torch.equal(losses.mmd_align(x, y, group=alone), losses.mmd_align(x, y))
    factor = 1.0 + rank  # the sum of the ranks' losses has the sum of the factors
    value = losses.mmd_align(x, y, group="world")
    (slope,) = torch.autograd.grad(factor * value, x, create_graph=True)
    found["factor"] = slope.detach()
    (found["twice"],) = torch.autograd.grad(slope.square().sum(), x)
    return found


def everywhere(rank: int, world: int) -> Any:
    return {"fsdp": sharded_parameters(rank, world), **several_at_once(rank, world)}


@needs_fork
def test_fully_shard_and_other_uses(tmp_path: Path) -> None:
    first, second = run_ranks(tmp_path, 2, everywhere)
    # FSDP2's gradients.
    student, data = Student(), everyone(2)
    features = student.encoder(data["inputs"])
    value = losses.sinkhorn_align(features, data["teacher"], tol=1e-6)
    (value + losses.mmd_align(features, data["teacher"])).backward()
    for p, a, b in zip(student.encoder.parameters(), first["fsdp"], second["fsdp"], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, p.grad, rtol=2e-4, atol=2e-6)
    # The other uses, with each rank's rows among those of all.
    parts = []
    for rank in range(2):
        source = torch.Generator().manual_seed(rank)
        n, m = SIZES[rank]
        parts.append([torch.randn(3, k, 4, generator=source) for k in (n, m)])
    x, y = (torch.cat(side, 1) for side in zip(*parts, strict=True))
    x.requires_grad_()
    n = SIZES[0][0]

    def compare(name: str, slope: Tensor, **tolerance: float) -> None:
        for found, wanted in ((first, slope[:, :n]), (second, slope[:, n:])):
            got = found[name][1] if isinstance(found[name], tuple) else found[name]
            torch.testing.assert_close(got.float(), wanted.float(), **tolerance)

    value = losses.sinkhorn_align(x, y, tol=1e-6, reduction="none")
    torch.testing.assert_close(first["batched"][0], value.detach())
    compare("batched", 2 * torch.autograd.grad(value.sum(), x)[0], rtol=1e-4, atol=1e-6)
    half = x.detach().bfloat16().requires_grad_()
    value = losses.mmd_align(half, y.bfloat16())
    assert first["half"][0].dtype == torch.float32 and first["half"][1].dtype == torch.bfloat16
    torch.testing.assert_close(first["half"][0], value.detach())
    compare("half", 2 * torch.autograd.grad(value, half)[0], rtol=2e-2, atol=1e-5)
    assert first["alone"] and second["alone"]
    (slope,) = torch.autograd.grad(losses.mmd_align(x, y), x, create_graph=True)
    compare("factor", 3 * slope.detach(), rtol=1e-5, atol=1e-7)
    (twice,) = torch.autograd.grad((3 * slope).square().sum(), x)
    # Each rank's slope carries the factor 3 of both losses, and its own derivative again.
    compare("twice", twice, rtol=1e-4, atol=1e-7)


def mistakes(rank: int, world: int) -> dict[str, str]:
    """The error of every case, as each rank sees it."""
    x, y = torch.randn(5 + rank, 4), torch.randn(6, 4)
    nan = x.clone()
    nan[2, 1] = torch.nan
    ones = torch.ones(len(x))
    second = rank == 1
    cases: dict[str, Callable[[], Tensor]] = {
        "width": lambda: losses.sinkhorn_align(x[:, : 3 + rank], y[:, : 3 + rank], group="world"),
        "local": lambda: losses.sinkhorn_align(x, y[:, : 4 - rank], group="world"),
        "nan": lambda: losses.mmd_align(nan if second else x, y, group="world"),
        "type": lambda: losses.mmd_align([1.0] if second else x, y, group="world"),  # type: ignore[arg-type]
        "option": lambda: losses.sinkhorn_align(x, y, epsilon=0.1 + 0.1 * rank, group="world"),
        "weight": lambda: losses.mmd_align(
            x, y, student_weight=ones if second else None, group="world"
        ),
        "length": lambda: losses.mmd_align(x, y, student_weight=torch.ones(5), group="world"),
        "gradient": lambda: losses.mmd_align(x.clone().requires_grad_(second), y, group="world"),
        "function": lambda: (losses.mmd_align if second else losses.sinkhorn_align)(
            x.detach(), y, group="world"
        ),
        "empty": lambda: losses.mmd_align(x[:0], y, group="world"),
        "everywhere": lambda: losses.sinkhorn_align(x, y, epsilon=-1.0, group="world"),
        "group": lambda: losses.sinkhorn_align(x, y, group="all"),
    }
    found = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = "no error"
        except (TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    apart = dist.new_group([0])
    try:
        losses.mmd_align(x, y, group=apart)
        found["outside"] = "no error"
    except (TypeError, ValueError) as error:
        found["outside"] = str(error)
    found["good"] = str(losses.mmd_align(x, y, group="world") > 0)
    return found


@needs_fork
def test_mistakes_are_named_on_every_rank(tmp_path: Path) -> None:
    """Nothing hangs, and the next call works."""
    first, second = run_ranks(tmp_path, 2, mistakes)
    same = "must be the same on every rank of group; got rank 0: "
    for found in (first, second):
        assert found["width"].startswith(f"ValueError: student {same}(n, 3) float32; rank 1: (n, 4")
        assert "same width; got 4 and 3" in found["local"]
        assert "student must be finite; got 1 NaN" in found["nan"]
        assert found["type"].startswith("TypeError") and "student must be a torch" in found["type"]
        assert f"epsilon {same}0.1; rank 1: 0.2" in found["option"]
        assert f"student_weight {same}None; rank 1: (n) float32" in found["weight"]
        assert "student_weight must have shape (6,); got (5,)" in found["length"]
        assert f"student {same}(n, 4) float32; rank 1: (n, 4) float32, with" in found["gradient"]
        assert f"function {same}'sinkhorn_align'; rank 1: 'mmd_align'" in found["function"]
        assert "student must not be empty; got no row on any rank" in found["empty"]
        assert "epsilon must be > 0" in found["everywhere"]
        assert "group must be None, 'world' or a torch.distributed" in found["group"]
        assert found["good"] == "tensor(True)"
    assert first["nan"].startswith("ValueError: rank 1: ") and "rank 1" not in second["nan"]
    assert first["outside"] == "no error"
    assert "group does not contain this process (rank 1)" in second["outside"]


def test_options_are_compared_by_value() -> None:
    for equal in ((1, 1.0, np.float64(1), torch.tensor(1.0), np.int32(1)), ((1, 2.5), [1.0, 2.5])):
        assert len({shown(value) for value in equal}) == 1
    different = (1, 1.5, True, None, "1", (1,), 2**70, float("inf"), float("nan"), 0.1, 1e-9)
    assert len({shown(value) for value in different}) == len(different)


def test_without_processes() -> None:
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    for loss in (losses.sinkhorn_align, losses.feature_align, losses.mmd_align):
        with pytest.raises(ValueError, match=r"needs torch\.distributed: call init_process_group"):
            loss(x, y, group="world")
        with pytest.raises(TypeError, match=r"group must be None, 'world' or .*; got 3"):
            loss(x, y, group=3)


def test_modules_with_a_group_are_copied_and_pickled() -> None:
    for module in (losses.SinkhornAlign(group="world"), losses.MMDAlign(group="world")):
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert "group='world'" in repr(other) and repr(other) == repr(module)
        with pytest.raises(ValueError, match="init_process_group"):
            module(torch.randn(5, 3), torch.randn(4, 3))
    assert losses.FeatureAlign(group="world").options()["group"] == "world"
