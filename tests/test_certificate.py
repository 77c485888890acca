"""The certificate by hand, by a literal transcription, and under attempts to break it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

import ucmkd
from ucmkd.theory import Certificate, certificate
from ucmkd.theory.certificate_lipschitz import entropy_constant, entropy_lipschitz

pytestmark = pytest.mark.usefixtures("one_thread")  # many small problems


def made(
    n: int = 40, m: int = 60, num_classes: int = 4, width: int = 3, seed: int = 0, scale: float = 1
) -> dict[str, Any]:
    """A teacher whose labels follow its head, and a student somewhat beside it."""
    g = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(num_classes, width, generator=g)
    bias = scale * torch.randn(num_classes, generator=g)
    z = torch.randn(m, width, generator=g)
    logits = z @ weight.T + bias
    own = 0.8 * torch.randn(n, width, generator=g) + 0.3
    return {
        "student_features": own,
        "student_logits": own @ weight.T + torch.randn(n, num_classes, generator=g),
        "student_labels": torch.randint(num_classes, (n,), generator=g),
        "teacher_features": z,
        "teacher_logits": logits,
        "teacher_labels": torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0],
        "teacher_head": (weight, bias),
    }


def test_one_sample_each_by_hand() -> None:
    # Head l = (z, -z). Teacher at 1, student at 3, both of class 0; student's logits (0, 0).
    found = certificate(
        torch.tensor([[3.0]]), torch.zeros(1, 2), torch.tensor([0]),
        torch.tensor([[1.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([0]),
        (torch.tensor([[1.0], [-1.0]]), None),
    )  # fmt: skip
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-6))
    h = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert found.student_error == pytest.approx(math.log(2))
    assert found.teacher_error == pytest.approx(-math.log(p))
    assert found.teacher_entropy == pytest.approx(h)
    assert not found.entropy_covered  # it is right more surely than it thinks
    assert found.wasserstein == pytest.approx(2)
    assert found.spectral_norm == pytest.approx(math.sqrt(2))
    assert found.lipschitz == pytest.approx(math.sqrt(2) * 0.316602, rel=1e-5)
    assert found.feature_alignment == pytest.approx(2 * math.sqrt(2) * 0.316602, rel=1e-5)
    assert found.logit_wasserstein == pytest.approx(2 * math.sqrt(2))  # (3, -3) from (1, -1)
    assert found.label_alignment == pytest.approx(math.log(2) + q * math.log(q))
    assert found.bound == pytest.approx(
        h + 2 * math.sqrt(2) * entropy_constant(2) + math.log(2) + q * math.log(q)
    )
    assert found.transfer_error == pytest.approx(-math.log(q))
    assert found.class_alignment == pytest.approx(2 * 2)  # |w₀ - w₁| = 2
    assert found.class_logit_alignment == pytest.approx(4)  # l₁ - l₀ from -2 to -6
    assert found.prior_mismatch == 0
    assert found.class_bound == pytest.approx(-math.log(p) + 4)
    assert found.holds and found.slack == pytest.approx(found.bound - math.log(2))
    assert found.ratio == pytest.approx(found.bound / math.log(2))


def test_literal_transcription() -> None:
    given = made()
    found = certificate(**given)
    z, logits, y, t, _, k, (w, b) = (
        tuple(u.double().numpy() for u in v) if isinstance(v, tuple) else v.double().numpy()
        for v in given.values()
    )
    y, k = y.astype(int), k.astype(int)

    def softmax(values: np.ndarray) -> np.ndarray:
        e = np.exp(values - values.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p_s, p_t, moved = softmax(logits), softmax(t @ w.T + b), softmax(z @ w.T + b)
    err_s = -np.mean([math.log(p_s[i, c]) for i, c in enumerate(y)])
    err_t = [-math.log(p_t[i, c]) for i, c in enumerate(k)]
    kappa = [moved[i, c] for i, c in enumerate(y)]
    assert found.student_error == pytest.approx(err_s)
    assert found.teacher_error == pytest.approx(np.mean(err_t))
    assert found.teacher_entropy == pytest.approx(-(p_t * np.log(p_t)).sum(1).mean())
    assert found.label_alignment == pytest.approx(err_s + np.mean([v * math.log(v) for v in kappa]))
    assert found.transfer_error == pytest.approx(-np.mean(np.log(kappa)))
    own, other = (np.bincount(c, minlength=4) / len(c) for c in (y, k))
    errors = [np.mean([e for e, label in zip(err_t, k, strict=True) if label == c])
              for c in range(4)]  # fmt: skip
    variation = 0.5 * np.abs(own - other).sum()
    assert found.prior_mismatch == pytest.approx((max(errors) - min(errors)) * variation)
    # It covers what it stands for.
    assert np.dot(own - other, errors) <= found.prior_mismatch
    assert found.lipschitz == pytest.approx(entropy_constant(4) * np.linalg.norm(w - w.mean(0), 2))
    assert (found.student_samples, found.teacher_samples, found.num_classes) == (40, 60, 4)


def exact(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    """W1 of two uniform clouds: every point as often as makes the numbers equal."""
    times = math.lcm(len(x), len(y))
    cost = cdist(x.repeat(times // len(x), 0), y.repeat(times // len(y), 0), metric)
    return float(cost[linear_sum_assignment(cost)].mean())


def test_class_terms_against_exact_transport() -> None:
    """Σ π L W1 of the features, and Σ π W1 of l - l_y in the largest coordinate."""
    given = made(18, 24, 3)
    found = certificate(**given, epsilon=1e-3, max_iter=5000)
    weight, bias = (v.double().numpy() for v in given["teacher_head"])
    x, t = (given[f"{side}_features"].double().numpy() for side in ("student", "teacher"))
    y, k = (given[f"{side}_labels"].numpy() for side in ("student", "teacher"))
    by_feature = by_logit = 0.0
    for c in range(3):
        own, other = x[y == c], t[k == c]
        constant = max(np.linalg.norm(weight[j] - weight[c]) for j in range(3))
        by_feature += len(own) / 18 * constant * exact(own, other, "euclidean")
        relative = [v @ weight.T + bias for v in (own, other)]
        by_logit += len(own) / 18 * exact(*(v - v[:, c : c + 1] for v in relative), "chebyshev")
    assert by_feature - 1e-9 <= found.class_alignment <= 1.02 * by_feature
    assert by_logit - 1e-9 <= found.class_logit_alignment <= 1.02 * by_logit
    assert found.wasserstein == pytest.approx(exact(x, t, "euclidean"), rel=0.02)


@pytest.mark.parametrize("seed", range(60))
def test_holds_whatever_comes(seed: int) -> None:
    """Few samples, huge and tiny heads, far outliers, labels against all sense."""
    rng = np.random.default_rng(seed)
    num_classes, width = int(rng.integers(2, 7)), int(rng.integers(1, 5))
    n, m = (int(v) for v in rng.integers(1, 14, size=2))
    given = made(n, m, num_classes, width, seed, scale=float(10 ** rng.uniform(-2, 2)))
    given["teacher_logits"] = None
    given["student_features"] *= float(10 ** rng.uniform(-2, 2))
    if seed % 3 == 0:  # the least likely label on either side
        weight, bias = given["teacher_head"]
        for side in ("student", "teacher"):
            logits = given[f"{side}_features"] @ weight.T + bias
            given[f"{side}_labels"] = logits.argmin(1)
    if seed % 4 == 0:
        given["teacher_features"][0] += 1e4
    if seed % 5 == 0:  # the student knows everything, its features nothing
        given["student_logits"] = 50 * torch.eye(num_classes)[given["student_labels"]]
    found = certificate(**given)
    assert found.holds, found
    for error, bound, finite in found.bounds().values():
        assert bound >= error - 1e-9 * (1 + abs(bound)) and finite >= 0
    # The sharp forms of the two claims, without what they share.
    believed = torch.exp(-nn.functional.cross_entropy(
        given["student_features"].double() @ given["teacher_head"][0].double().T
        + given["teacher_head"][1].double(), given["student_labels"], reduction="none",
    ))  # fmt: skip
    known = torch.special.entr(believed).mean()
    assert float(known) <= found.teacher_entropy + found.feature_alignment + 1e-9
    assert found.logit_alignment <= 1.1 * found.feature_alignment + 1e-6


def test_ascent_cannot_break_it() -> None:
    """Student features moved uphill on error - bound, the distance by its exact dual on a line."""
    weight = torch.tensor([[1.0], [-1.0], [0.4]], dtype=torch.float64)
    teacher = torch.tensor([[-2.0], [0.1], [2.5]], dtype=torch.float64)
    z = torch.randn(3, 1, dtype=torch.float64).requires_grad_()
    tau = entropy_lipschitz(weight)
    label = torch.tensor([0, 1, 2])
    optimizer = torch.optim.Adam([z], lr=0.05)
    worst = math.inf
    for step in range(300):
        optimizer.zero_grad()
        log_p = (z @ weight.T).log_softmax(1)
        known = -(log_p.exp() * log_p).sum(1).mean()
        distance = (z[:, 0].sort().values - teacher[:, 0]).abs().mean()
        (tau * distance - known).backward()
        optimizer.step()
        if step % 30 == 0:
            now = z.detach().clone()
            found = certificate(
                now, now @ weight.T, label, teacher, None, label, (weight, None), epsilon=1e-3
            )
            assert found.holds
            worst = min(worst, found.slack)
    assert 0 <= worst < 0.5


def test_nearly_tight_where_it_can_be() -> None:
    """A small step where the entropy is steepest, and one where the loss is."""
    slope = torch.linspace(0, 4, 40_001, dtype=torch.float64)
    p = torch.sigmoid(2 * slope)
    at = slope[(p * (1 - p) * torch.logit(p)).argmax()].reshape(1, 1)
    head = (torch.tensor([[1.0], [-1.0]], dtype=torch.float64), None)
    label = torch.tensor([0])
    near = at - 1e-3
    found = certificate(near, torch.zeros(1, 2), label, at, None, label, head)
    log_p = (near @ head[0].T).log_softmax(1)
    gained = float(-(log_p.exp() * log_p).sum()) - found.teacher_entropy
    assert 0.99 * found.feature_alignment <= gained <= found.feature_alignment
    # Far on the wrong side the loss of class 0 grows by |w₀ - w₁| = 2 per unit.
    far = torch.tensor([[-20.0]], dtype=torch.float64)
    found = certificate(far - 3, torch.zeros(1, 2), label, far, None, label, head)
    assert found.transfer_error == pytest.approx(found.teacher_error + 6)
    assert found.class_bound == pytest.approx(found.transfer_error, rel=1e-9)
    assert found.class_logit_bound == pytest.approx(found.transfer_error, rel=1e-9)


def test_entropy_check_is_the_slope_of_the_error() -> None:
    """err_T - E_T[H] = d err_T / d log scale: zero at the best temperature, its sign beside it."""
    given = made(seed=3)
    weight, bias = (v.double() for v in given["teacher_head"])
    given["teacher_features"] = given["teacher_features"].double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, tolerance_grad=1e-12)

    def error(scale: Tensor) -> Tensor:
        logits = given["teacher_features"] @ weight.T + bias
        return nn.functional.cross_entropy(scale * logits, given["teacher_labels"])

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = error(log_scale.exp())
        value.backward()
        return value

    optimizer.step(closure)
    best = float(log_scale.detach().exp())
    for factor, sign in ((0.5, False), (2.0, True)):
        scale = best * factor
        given["teacher_head"] = (scale * weight, scale * bias)
        found = certificate(**{**given, "teacher_logits": None})
        assert found.entropy_covered is sign
        at = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(error(at), at)
        assert found.teacher_error - found.teacher_entropy == pytest.approx(float(slope) * scale)
    given["teacher_head"] = (best * weight, best * bias)
    found = certificate(**{**given, "teacher_logits": None})
    assert found.teacher_error == pytest.approx(found.teacher_entropy, abs=1e-6)


def test_population_error_is_below_bound_and_term() -> None:
    """Fresh samples of the same kind: in 30 draws of 50 never above (δ = .05 allows 1.5)."""
    large = made(40_000, 40_000, seed=1)
    order = torch.Generator().manual_seed(0)
    truth = float(nn.functional.cross_entropy(large["student_logits"], large["student_labels"]))
    for _ in range(30):
        rows = torch.randint(40_000, (50,), generator=order)
        drawn = {k: v if k == "teacher_head" else v[rows] for k, v in large.items()}
        found = certificate(**drawn, delta=0.05)
        for name in ("bound", "logit_bound", "kernel_bound"):
            _, bound, finite = found.bounds()[name]
            assert truth <= bound + finite
    smaller = certificate(**drawn, delta=0.5)
    assert smaller.finite_sample < found.finite_sample
    assert smaller.kernel_finite_sample < found.kernel_finite_sample


def test_class_that_the_teacher_lacks() -> None:
    given = made()
    given["teacher_labels"] = given["teacher_labels"].clamp(max=2)
    found = certificate(**given)
    assert found.class_bound == found.class_logit_bound == math.inf
    assert found.class_finite_sample == math.inf and found.holds and not found.informative
    assert "class 3 has student samples and no teacher sample" in found.warnings[0]
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["class_bound"] is None and stored["bound"] == pytest.approx(found.bound)
    assert Certificate.from_dict(stored) == found
    # The other way round nothing is missing.
    given = made()
    given["student_labels"] = torch.zeros_like(given["student_labels"])
    assert math.isfinite(certificate(**given).class_bound)


def test_one_class_equal_clouds_and_one_point() -> None:
    given = made(5, 5)
    given["student_labels"] = given["teacher_labels"] = torch.zeros(5, dtype=torch.int64)
    given["student_features"] = given["teacher_features"]
    found = certificate(**given)
    assert found.holds and found.wasserstein < 0.01 and found.mmd < 1e-6
    assert found.prior_mismatch == 0
    assert found.class_bound == pytest.approx(found.transfer_error, rel=0.02)


def test_blocks_dtypes_and_heads() -> None:
    given = made(300, 200)
    whole, cut = certificate(**given), certificate(**given, max_points=64)
    assert (whole.blocks, cut.blocks) == (1, 5)
    assert cut.holds and cut.wasserstein > whole.wasserstein
    assert cut.student_error == whole.student_error
    head = nn.Linear(3, 4)
    with torch.no_grad():
        head.weight.copy_(given["teacher_head"][0])
        head.bias.copy_(given["teacher_head"][1])
    assert certificate(**{**given, "teacher_head": head}).bound == pytest.approx(whole.bound)
    half = {k: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in given.items()}  # fmt: skip
    assert certificate(**half).bound == pytest.approx(whole.bound, rel=0.05)
    # Known limits of the populations: no guess, no warning.
    told = certificate(**given, diameter=20.0, loss_bound=9.0)
    assert told.warnings == () and told.finite_sample > whole.finite_sample
    assert "diameter and loss_bound from the samples" in whole.warnings[0]


def test_words() -> None:
    found = certificate(**made())
    assert ucmkd.theory.certificate is certificate
    assert "certificate holds" in found.summary() and "log K = 1.386" in found.summary()
    table = {name: value for name, _, value in found.rows()}
    terms = ("teacher's entropy", "feature alignment", "label alignment")
    assert table["bound of err_S"] == pytest.approx(sum(table[term] for term in terms))
    assert table["bound of transfer"] == pytest.approx(
        table["teacher's error"] + table["class-wise alignment"] + table["prior mismatch"]
    )
    assert all(math.isfinite(value) for value in found.scalars().values())
    broken = dataclasses.replace(found, student_error=found.bound + 1)
    assert not broken.holds and "DOES NOT HOLD" in broken.summary()


def changed(**changes: Any) -> dict[str, Any]:
    return {**made(), **changes}


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (changed(student_features=torch.zeros(40, 5)), ValueError,
         r"student_features must have the 3 columns of teacher_head, got 5: map them"),
        (changed(teacher_features=torch.zeros(60)), ValueError, "teacher_features must have 2 dim"),
        (changed(student_features=torch.zeros(0, 3)), ValueError, "at least one row, got none"),
        (changed(student_features=torch.full((40, 3), math.nan)), ValueError,
         "student_features must be finite, got NaN"),
        (changed(student_features=torch.zeros(40, 3).int()), TypeError,
         "student_features must be floating, got torch.int32"),
        (changed(student_features=[[1.0]]), TypeError, "student_features must be a torch.Tensor"),
        (changed(student_logits=torch.zeros(40, 5)), ValueError,
         r"student_logits must have shape \(40, 4\), got \(40, 5\)"),
        (changed(teacher_logits=torch.zeros(60, 4)), ValueError,
         "teacher_logits must be those of teacher_head on teacher_features, got a difference"),
        (changed(student_labels=torch.full((40,), 4)), ValueError,
         r"student_labels must lie in 0\.\.3, got values from 4 to 4"),
        (changed(teacher_labels=torch.zeros(60)), TypeError, "teacher_labels must be integers"),
        (changed(teacher_labels=torch.zeros(59, dtype=torch.int64)), ValueError,
         r"teacher_labels must have shape \(60,\), got \(59,\)"),
        (changed(teacher_head=nn.ReLU()), TypeError, "teacher_head must be an nn.Linear or a pair"),
        (changed(teacher_head=(torch.zeros(1, 3), None)), ValueError, "K >= 2 classes"),
        (changed(teacher_head=(torch.zeros(4, 3), torch.zeros(3))), ValueError,
         r"teacher_head's bias must have shape \(4,\), got \(3,\)"),
        (changed(delta=0.0), ValueError, r"delta must be in \(0, 1\), got 0"),
        (changed(delta=True), TypeError, "delta must be a number, got bool"),
        (changed(epsilon=-1.0), ValueError, r"epsilon must be in \(0, inf\), got -1"),
        (changed(diameter=-0.5), ValueError, "diameter must be >= 0 and finite, got -0.5"),
        (changed(loss_bound=math.inf), ValueError, r"loss_bound must be in \(0, inf\), got inf"),
        (changed(diameter=0.1), ValueError, r"diameter must be at least that of the samples, \d"),
        (changed(loss_bound=0.1), ValueError, "loss_bound must be at least that of the samples"),
        (changed(max_points=1), ValueError, "max_points must be at least 2, got 1"),
        (changed(max_points=10.0), TypeError, "max_points must be an integer, got float"),
        (changed(seed=1.5), TypeError, "seed must be an integer, got float"),
        (changed(seed=2**70), ValueError, "seed must have at most 64 bits"),
    ],
)  # fmt: skip
def test_bad_input(given, kind, message) -> None:
    with pytest.raises(kind, match=message):
        certificate(**given)
