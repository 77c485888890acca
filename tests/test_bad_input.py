"""Every wrong argument is an error that names it, before any work."""

import math
import re

import pytest
import torch

from ucmkd import losses, ops

X, Y = torch.randn(5, 3), torch.randn(4, 3)
HALF = torch.full((5,), 0.2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], Y), {}, ValueError, r"student must have shape \(n, d\) or \(B, n, d\); got \(3,\)"),
        ((X[None, None], Y), {}, ValueError, "student must have shape"),
        ((X, Y[None]), {}, ValueError, r"both be \(n, d\) or both \(B, n, d\)"),
        ((X, torch.randn(4, 2)), {}, ValueError, "same width; got 3 and 2"),
        ((X[None].expand(2, 5, 3), Y[None]), {}, ValueError, "same batch size; got 2 and 1"),
        ((X[:0], Y), {}, ValueError, r"student must not be empty; got shape \(0, 3\)"),
        ((X, Y[:, :0]), {}, ValueError, "teacher must not be empty"),
        ((X.long(), Y), {}, TypeError, "student must be floating .* got torch.int64"),
        ((X.numpy(), Y), {}, TypeError, "student must be a torch.Tensor; got ndarray"),
        ((X, Y.to("meta")), {}, ValueError, "one device; got cpu and meta"),
        ((X.index_fill(0, torch.tensor([2]), math.nan), Y), {}, ValueError, "student must be fin"),
        ((X, Y.index_fill(0, torch.tensor([1]), math.inf)), {}, ValueError, "teacher must be fin"),
        ((X, Y), {"student_weight": -HALF}, ValueError, "student_weight must be non-negative"),
        ((X, Y), {"student_weight": HALF * math.nan}, ValueError, "student_weight must be non-neg"),
        ((X, Y), {"student_weight": 0 * HALF}, ValueError, "student_weight must have a positive"),
        (
            (X, Y),
            {"student_weight": HALF[:3]},
            ValueError,
            r"student_weight must have shape \(5,\)",
        ),
        ((X, Y), {"student_weight": HALF.long()}, TypeError, "student_weight must be floating"),
        ((X, Y), {"student_weight": [0.2] * 5}, TypeError, "student_weight must be a torch.Tensor"),
        ((X, Y), {"student_label": torch.zeros(5).long()}, ValueError, "teacher_label must be giv"),
        ((X, Y), {"teacher_label": torch.zeros(4).long()}, ValueError, "student_label must be giv"),
        (
            (X, Y),
            {"student_label": torch.zeros(5), "teacher_label": torch.zeros(4)},
            TypeError,
            "student_label must be an integer tensor",
        ),
        (
            (X, Y),
            {"student_label": torch.zeros(6).long(), "teacher_label": torch.zeros(4).long()},
            ValueError,
            r"student_label must have shape \(5,\)",
        ),
        ((X, Y), {"reduction": "avg"}, ValueError, "reduction must be one of"),
        ((X, Y), {"backend": "gpu"}, ValueError, "backend must be"),
    ],
)
@pytest.mark.parametrize("loss", [losses.sinkhorn_align, losses.feature_align, losses.mmd_align])
def test_alignments(loss, arguments, options, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        loss(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 0.0}, ValueError, "epsilon must be > 0 and finite in .*; got 0.0"),
        ({"epsilon": -1}, ValueError, "epsilon must be > 0 and finite in .*; got -1"),
        ({"epsilon": math.nan}, ValueError, "epsilon must be > 0 and finite in .*; got nan"),
        ({"epsilon": math.inf}, ValueError, "epsilon must be > 0 and finite in .*; got inf"),
        ({"epsilon": torch.tensor(-1.0)}, ValueError, "epsilon must be > 0"),
        ({"epsilon": torch.tensor(1)}, TypeError, "epsilon must be a number or a floating tensor"),
        ({"epsilon": torch.ones(2, 2)}, ValueError, "epsilon must be a number, a 0-d tensor"),
        ({"epsilon": "small"}, TypeError, "epsilon must be a number"),
        ({"epsilon_scale": "max"}, ValueError, "epsilon_scale must be 'mean' or None"),
        ({"cost": "manhattan"}, ValueError, "cost must be one of .*'l1'.*; got 'manhattan'"),
        ({"reach": 0}, ValueError, "reach must be > 0"),
        ({"reach": (1.0, 2.0, 3.0)}, ValueError, "reach must be None, a number or a pair; got 3"),
        ({"label_cost": 1.0}, ValueError, "label_cost=1.0 needs student_label and teacher_label"),
        ({"label_cost": -1.0}, ValueError, "label_cost must be >= 0"),
        ({"tol": -1e-3}, ValueError, "tol must be a number >= 0"),
        ({"max_iter": 0}, ValueError, "max_iter must be an integer >= 1"),
        ({"max_iter": 1.5}, ValueError, "max_iter must be an integer >= 1"),
        ({"max_iter": 10**30}, ValueError, r"max_iter must be below 2\*\*31; got 10000"),
        ({"student_weight": 2 * HALF}, ValueError, "student_weight and teacher_weight must have"),
    ],
)
def test_sinkhorn_options(options, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        losses.sinkhorn_align(X, Y, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "poly"}, ValueError, "kernel must be one of 'gaussian', .*; got 'poly'"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be > 0"),
        ({"bandwidth": "mode"}, ValueError, "bandwidth must be one of 'median', 'mean'"),
        ({"scales": ()}, ValueError, "scales must be one or more positive numbers"),
        ({"scales": (1.0, -1.0)}, ValueError, "scales must be one or more positive numbers"),
        ({"estimator": "w"}, ValueError, "estimator must be one of 'v', 'u', 'linear'; got 'w'"),
    ],
)
def test_mmd_options(options, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        losses.mmd_align(X, Y, **options)


def test_operators_name_their_own_arguments() -> None:
    with pytest.raises(ValueError, match="x must not be empty"):
        ops.sinkhorn(X[:0], Y, epsilon=1.0)
    with pytest.raises(ValueError, match="x_weight must have a positive"):
        ops.mmd(X, Y, x_weight=0 * HALF)
    with pytest.raises(ValueError, match=re.escape("cost_matrix must have shape")):
        ops.sinkhorn_cost(torch.ones(3), epsilon=1.0)
    with pytest.raises(ValueError, match="y_potential must have shape"):
        ops.sinkhorn(X, Y, epsilon=1.0, y_potential=torch.zeros(9))


def test_logits() -> None:
    logits = torch.randn(4, 3)
    target = torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\); got 0 to 3"):
        losses.label_align(logits, logits, target + (target == 2).long())
    with pytest.raises(ValueError, match=r"target must have shape \(4,\)"):
        losses.label_align(logits, logits, target[:2])
    with pytest.raises(TypeError, match="target must be an integer"):
        losses.label_align(logits, logits, target.float())
    with pytest.raises(ValueError, match="one shape"):
        losses.kd_loss(logits, logits[:, :2])
    with pytest.raises(ValueError, match="temperature must be > 0"):
        losses.kd_loss(logits, logits, temperature=0)
    with pytest.raises(TypeError, match="student_logits must be a floating"):
        losses.kd_loss(target[:, None], logits)
    with pytest.raises(ValueError, match="teacher_logits must be finite"):
        losses.kd_loss(logits, logits * math.inf)


def test_nan_without_the_check_never_hangs(backend: str) -> None:
    bad = X.clone()
    bad[2, 1] = math.nan
    for loss in (losses.sinkhorn_align, losses.mmd_align):
        value = loss(bad, Y, check_finite=False, backend=backend, **(
            {"max_iter": 10**7} if loss is losses.sinkhorn_align else {}
        ))  # fmt: skip
        assert not torch.isfinite(value)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.ones(1, 2), torch.ones(1, 2)),
        (torch.ones(6, 2), torch.ones(4, 2)),
        (torch.zeros(6, 2), torch.zeros(4, 2)),
        (torch.zeros(6, 2), torch.randn(4, 2)),
        (torch.ones(1, 2), torch.randn(4, 2)),
        (torch.cat([torch.ones(3, 2), torch.randn(2, 2)]), torch.ones(4, 2)),
    ],
    ids=["one", "coincident", "zeros", "zeros-and-cloud", "one-and-cloud", "partly"],
)
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine", "l1", "chordal"])
def test_degenerate_clouds_are_finite(
    backend: str, x: torch.Tensor, y: torch.Tensor, cost: str
) -> None:
    for debias in (False, True):
        for sharp in (False, True):
            left = x.clone().requires_grad_()
            value = losses.sinkhorn_align(
                left, y, cost=cost, debias=debias, sharp=sharp, backend=backend
            )
            value.backward()
            assert torch.isfinite(value) and torch.isfinite(left.grad).all()
    for estimator in ("v", "u"):
        left = x.clone().requires_grad_()
        value = losses.mmd_align(left, y, estimator=estimator, backend=backend)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(left.grad).all()


def test_equal_clouds_are_at_distance_zero(backend: str) -> None:
    x = torch.randn(30, 5)
    for cost in ("sqeuclidean", "euclidean", "cosine", "l1", "chordal"):
        value = losses.sinkhorn_align(x, x.clone(), cost=cost, tol=1e-6, backend=backend)
        assert abs(value.item()) < 2e-5
    assert abs(losses.mmd_align(x, x.clone(), backend=backend).item()) < 1e-6
