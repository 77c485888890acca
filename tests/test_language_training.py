"""Losses by hand, the trainer's three sources, and a training that was interrupted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ucmkd.checkpoint import CheckpointError
from ucmkd.language import (
    LanguageTraining,
    OnPolicy,
    Reference,
    Sampling,
    SmallTransformer,
    Source,
    Speculative,
    TextBatch,
    distil_language,
    random_windows,
    response_cross_entropy,
    response_divergence,
    token_divergence,
)
from ucmkd.language.windows import Batches, RandomWindows

pytestmark = pytest.mark.usefixtures("one_thread")
V = 9
FULL = Sampling()


def stream() -> Tensor:
    return torch.randint(V, (300,), generator=torch.Generator().manual_seed(0))


def pair(seed: int = 0, dropout: float = 0.0) -> tuple[SmallTransformer, SmallTransformer]:
    torch.manual_seed(seed)
    student = SmallTransformer(V, width=8, layers=1, heads=2, context=16, dropout=dropout)
    return student, SmallTransformer(V, width=16, layers=1, heads=2, context=16).eval()


def windows(seed: int = 1) -> Batches:
    return random_windows(stream(), prompt=3, response=5, batch=4, seed=seed)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_divergences_by_hand() -> None:
    # p_t = (¾, ¼), p_s = (½, ½), their even mixture (⅝, ⅜).
    student, teacher = logits_of(0.5, 0.5), logits_of(0.75, 0.25)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    to_middle = 0.75 * math.log(1.2) + 0.25 * math.log(2 / 3)
    from_middle = 0.5 * math.log(0.8) + 0.5 * math.log(4 / 3)
    for kind, value in (
        ("forward", forward), ("reverse", reverse), ("jsd", (to_middle + from_middle) / 2)
    ):  # fmt: skip
        found = token_divergence(student, teacher, divergence=kind)
        assert found.item() == pytest.approx(value, rel=1e-12), kind
    # β = .2: the mixture .2 p_t + .8 p_s = (.55, .45).
    fifth = 0.2 * (0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)) + 0.8 * (
        0.5 * math.log(0.5 / 0.55) + 0.5 * math.log(0.5 / 0.45)
    )
    found = token_divergence(student, teacher, divergence="jsd", mixture=0.2)
    assert found.item() == pytest.approx(fifth, rel=1e-12)
    # At temperature ½ the teacher has (9, 1) of ten.
    sharp = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert token_divergence(student, teacher, temperature=0.5).item() == pytest.approx(sharp)


def test_divergence_has_the_students_gradient_only() -> None:
    s = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for kind in ("forward", "reverse", "jsd"):
        assert torch.autograd.gradcheck(
            lambda x, kind=kind: token_divergence(x, t.detach(), divergence=kind), s
        )
        assert torch.autograd.grad(
            token_divergence(s, t, divergence=kind).sum(), t, allow_unused=True
        ) == (None,)
    # d KL(p_t ‖ p_s) / d logits = p_s - p_t
    slope = torch.autograd.grad(token_divergence(s, t).sum(), s)[0]
    torch.testing.assert_close(slope, s.softmax(-1) - t.softmax(-1))
    assert token_divergence(s.bfloat16(), t.bfloat16()).dtype is torch.float32


def test_only_the_response_counts_and_is_predicted_from_the_left() -> None:
    s, t = torch.randn(2, 5, V), torch.randn(2, 5, V)
    tokens = torch.randint(V, (2, 5))
    response = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]).bool()
    where = [(0, 1), (0, 2), (1, 3)]  # the first place of row 1 has nothing on its left
    p, q = t.softmax(-1), s.softmax(-1)
    kl = sum(float((p[i] * (p[i] / q[i]).log()).sum()) for i in where) / 3
    assert response_divergence(s, t, response).item() == pytest.approx(kl, rel=1e-5)
    ce = -sum(float(q[i, j].log()[tokens[i, j + 1]]) for i, j in where) / 3
    assert response_cross_entropy(s, tokens, response).item() == pytest.approx(ce, rel=1e-5)


def test_bad_losses_are_named() -> None:
    s, mask = torch.zeros(2, 3, V), torch.ones(2, 3, dtype=torch.bool)
    for call, kind, message in (
        (lambda: token_divergence(s, s[:1]), ValueError, "must have one shape"),
        (lambda: token_divergence(s, s, divergence="kl"), ValueError, "divergence must be one of"),
        (lambda: token_divergence(s, s, mixture=1.0), ValueError, r"mixture must lie in \(0, 1\)"),
        (lambda: token_divergence(s, s, temperature=0.0), ValueError, "temperature must be > 0"),
        (lambda: token_divergence(s, [1.0]), TypeError, "teacher_logits must be a floating"),  # type: ignore[arg-type]
        (lambda: response_divergence(s, s, mask.long()), TypeError, "must be a bool"),
        (lambda: response_divergence(s, s, mask[:, :2]), ValueError, r"got \(2, 3, 9\)"),
        (lambda: response_divergence(s, s, ~mask), ValueError, "must have a token"),
        (lambda: response_divergence(s, s[..., :4], mask), ValueError, "same vocabulary"),
        (lambda: response_cross_entropy(s, s, mask), TypeError, "tokens must be an integer"),
    ):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("with_teacher", [False, True])
def test_training_is_adamw_on_the_loss(with_teacher: bool) -> None:
    """Three steps, written out with PyTorch's own losses."""
    student, teacher = (model.double() for model in pair())
    other, _ = (model.double() for model in pair())
    training = LanguageTraining(steps=3, lr=1e-2, weight_decay=0.1, clip=0.5)
    steps = distil_language(
        student, teacher if with_teacher else None, windows(), Reference(), training
    )
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
    for number in range(3):
        optimizer.param_groups[0]["lr"] = 1e-2 * (3 - number) / 3
        tokens = windows()(number).tokens
        logits = other(tokens)[:, 2:7].flatten(0, 1)  # places 3…7 are the response
        if with_teacher:
            answer = teacher(tokens)[:, 2:7].flatten(0, 1)
            target = answer.softmax(-1).detach()
            loss = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
        else:
            loss = F.cross_entropy(logits, tokens[:, 3:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
        assert steps[number].loss == pytest.approx(loss.item(), rel=1e-10)
        assert steps[number].tokens == 20 * (number + 1)
    for p, q in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


def trained(source: Source, teacher_seed: int = 0) -> tuple[SmallTransformer, list[float]]:
    student, teacher = pair()
    steps = distil_language(student, teacher, windows(), source, LanguageTraining(4, lr=1e-2))
    return student, [step.loss for step in steps]


def test_the_sources_meet_at_the_limits_of_top_k() -> None:
    """K = V trains as on-policy distillation does, bit for bit; K = 1 does not."""
    on_policy, losses = trained(OnPolicy(sampling=FULL))
    mixed, same = trained(Speculative(top_k=V, student_sampling=FULL))
    assert losses == same
    assert all(
        torch.equal(p, q) for p, q in zip(on_policy.parameters(), mixed.parameters(), strict=True)
    )
    assert trained(Speculative(top_k=1, student_sampling=FULL))[1] != losses
    # Greedy teacher and K = 1: as supervised distillation on the teacher's own continuations.
    greedy = Sampling(temperature=0)
    _, first = trained(Speculative(top_k=1, teacher_sampling=greedy))
    _, teacher = pair()

    def continued(step: int) -> TextBatch:
        batch = windows()(step)
        tokens = batch.tokens[:, :3]
        for _ in range(5):
            tokens = torch.cat([tokens, teacher(tokens)[:, -1:].argmax(-1)], dim=1)
        return batch._replace(tokens=tokens)

    student, _ = pair()
    second = distil_language(student, teacher, continued, Reference(), LanguageTraining(4, lr=1e-2))
    assert first == [step.loss for step in second]


def test_student_samples_in_eval_mode_and_learns_in_train_mode() -> None:
    student, teacher = pair(dropout=0.5)
    modes: list[tuple[bool, bool]] = []
    student.register_forward_hook(
        lambda module, given, out: modes.append((module.training, out.requires_grad))
    )
    before = [p.clone() for p in student.parameters()]
    steps = distil_language(student, teacher, windows(), OnPolicy(), LanguageTraining(1, lr=0.1))
    assert modes == [(False, False)] * 5 + [(True, True)]
    assert not student.training and steps[0].own == 1.0 and steps[0].student_passes == 5
    assert any(not torch.equal(p, q) for p, q in zip(before, student.parameters(), strict=True))
    assert all(p.grad is None for p in teacher.parameters())


class Stop(Exception):
    pass


@pytest.mark.parametrize("source", [Reference(), Speculative(top_k=3, block=2)])
def test_resumed_is_bit_equal(source: Source, tmp_path: Path) -> None:
    training = LanguageTraining(steps=9, lr=1e-2, save_every=2)

    def run(folder: Path, stop: int | None = None) -> tuple[list[float], bytes]:
        student, teacher = pair(dropout=0.3)
        torch.manual_seed(5)  # of the dropout

        def watch(number: int, step: object) -> None:
            if number == stop:
                raise Stop

        try:
            steps = distil_language(
                student, teacher, windows(), source, training, folder=folder, on_step=watch
            )
        except Stop:
            return [], b""
        return [s.loss for s in steps], b"".join(p.detach().numpy().tobytes()
                                                 for p in student.parameters())  # fmt: skip

    whole = run(tmp_path / "whole")
    for stop in (3, 6, 7):
        run(tmp_path / "parts", stop)
    assert run(tmp_path / "parts") == whole and len(whole[0]) == 9
    assert run(tmp_path / "parts") == whole  # nothing left to do
    student, teacher = pair()
    with pytest.raises(CheckpointError, match="is of another training"):
        distil_language(
            student, teacher, windows(), source, replace(training, lr=1e-3),
            folder=tmp_path / "parts",
        )  # fmt: skip


def test_a_resume_on_other_data_is_refused(tmp_path: Path) -> None:
    def run(batches: Batches, folder: str) -> int:
        student, training = pair()[0], LanguageTraining(2, lr=1e-2)
        return len(
            distil_language(student, None, batches, Reference(), training, folder=tmp_path / folder)
        )

    first = windows()
    assert run(first, "windows") == 2 == run(windows(), "windows")
    assert isinstance(first, RandomWindows)
    longer = replace(first, tokens=torch.cat([stream(), stream()[:5]]))
    changed = replace(first, tokens=stream().index_fill(0, torch.tensor([7]), 0))
    assert not torch.equal(changed.tokens, stream())
    for other, shown in (
        (longer, "4 windows of 3 + 5 tokens of 305 tokens, digest"), (changed, "of 300 tokens"),
        (replace(first, seed=2), "seed 2"), (replace(first, batch=3), "3 windows"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            run(other, "windows")
        message = str(caught.value)
        assert "windows is of other data (4 windows of 3 + 5 tokens of 300 tokens" in message
        assert shown in message.split("not of this (")[1] and "delete that one" in message
    # Batches of one's own are known by the first of them.
    own: list[Batches] = [lambda step, seed=seed: windows(seed)(step) for seed in (1, 2)]  # type: ignore[misc]
    assert run(own[0], "own") == 2
    with pytest.raises(CheckpointError, match=r"of other data \(batches of \(4, 8\), digest"):
        run(own[1], "own")


def test_bad_training_is_named() -> None:
    student, _ = pair()
    with pytest.raises(TypeError, match=r"student must be a torch\.nn\.Module; got function"):
        distil_language(lambda t: t, None, windows(), Reference(), LanguageTraining(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teacher must be given to a source that asks it"):
        distil_language(student, None, windows(), Speculative(), LanguageTraining(1))
    for options, kind in (
        (dict(steps=0), ValueError), (dict(lr=0.0), ValueError), (dict(clip=math.inf), ValueError),
        (dict(divergence="x"), ValueError), (dict(lr="1"), TypeError), (dict(steps=1.5), TypeError),
        (dict(seed=-1), ValueError),
    ):  # fmt: skip
        with pytest.raises(kind, match=next(iter(options))):
            LanguageTraining(**options)  # type: ignore[arg-type]
