"""Speculative sampling: a literal loop, its two limits, and what it may be given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ucmkd.language import Sampling, SmallTransformer, sample, speculative_sample
from ucmkd.language.sampling import invert
from ucmkd.language.speculative import random_numbers

pytestmark = pytest.mark.usefixtures("one_thread")
V, END = 11, 0


def pair(seed: int = 0) -> tuple[SmallTransformer, SmallTransformer]:
    torch.manual_seed(seed)
    student = SmallTransformer(V, width=8, layers=1, heads=2, context=40).eval()
    teacher = SmallTransformer(V, width=16, layers=2, heads=2, context=40).eval()
    for model in (student, teacher):
        with torch.no_grad():
            model.tokens.weight.mul_(20)  # far from uniform
    return student, teacher


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(logits: Tensor, temperature: float, top_p: float, uniform: float) -> int:
    """Temperature, nucleus and inversion in plain Python."""
    scaled = [math.exp((v - max(logits.tolist())) / temperature) for v in logits.tolist()]
    p = [v / sum(scaled) for v in scaled]
    kept, mass = set(), 0.0
    for k in sorted(range(len(p)), key=lambda k: -p[k]):
        if mass >= top_p:
            break
        kept.add(k)
        mass += p[k]
    left = uniform * mass
    for k in range(len(p)):
        left -= p[k] if k in kept else 0.0
        if left < 0:
            return k
    raise AssertionError("uniform must be below 1")


def literal(
    student: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    prompt: list[int],
    noise: Tensor,
    top_k: int,
    end: int | None = None,
) -> tuple[list[int], list[bool]]:
    """Algorithm 1, token by token, one row."""
    tokens, own = list(prompt), []
    for first, second in noise.tolist():
        context = torch.tensor([tokens])
        draft = by_hand(student(context)[0, -1], 0.5, 0.5, first)
        answer = teacher(context)[0, -1]
        best = answer.topk(top_k).indices.tolist() if top_k else []
        own.append(draft in best)
        tokens.append(draft if own[-1] else by_hand(answer, 0.2, 0.5, second))
        if tokens[-1] == end:
            break
    return tokens, own


def test_probabilities_by_hand() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert Sampling().probabilities(logits).tolist() == pytest.approx([0.5, 0.3, 0.2])
    # At temperature ½ the probabilities are squared: 25, 9 and 4 of 38.
    half = Sampling(temperature=0.5).probabilities(logits)
    assert half.tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38])
    # .5 is less than .6 of the mass, .5 + .3 is enough; .5 is enough for .5.
    assert Sampling(top_p=0.6).probabilities(logits).tolist() == pytest.approx([5 / 8, 3 / 8, 0])
    assert Sampling(top_p=0.5).probabilities(logits).tolist() == pytest.approx([1, 0, 0])
    assert Sampling(temperature=0).probabilities(logits).tolist() == [1, 0, 0]


def test_inversion_by_hand() -> None:
    p = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0], dtype=torch.float64)
    for uniform, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.5, 3), (1 - 2**-53, 3)):
        assert invert(p, torch.tensor(uniform, dtype=torch.float64)).item() == token
    third = torch.full((3,), 1 / 3, dtype=torch.float64)  # does not sum to one exactly
    assert invert(third, torch.tensor(1 - 2**-53, dtype=torch.float64)).item() == 2


@pytest.mark.parametrize("top_k", [0, 1, 3, V])
@pytest.mark.parametrize("block", [1, 3, 5, 20])
def test_it_is_the_algorithm(top_k: int, block: int) -> None:
    student, teacher = pair()
    prompts, lengths = torch.randint(V, (4, 5), generator=generator()), torch.tensor([5, 2, 1, 4])
    found = speculative_sample(
        student, teacher, prompts, length=9, prompt_lengths=lengths, top_k=top_k, block=block,
        end=END, pad=7, generator=generator(),
    )  # fmt: skip
    noise = random_numbers(4, 9, prompts.device, generator())
    ended = 0
    for row, size in enumerate(lengths.tolist()):
        tokens, own = literal(
            student, teacher, prompts[row, :size].tolist(), noise[row], top_k, end=END
        )
        ended += len(own) < 9
        assert found.tokens[row].tolist() == tokens + [7] * (14 - len(tokens))
        assert found.response[row].nonzero().flatten().tolist() == list(range(size, len(tokens)))
        assert found.accepted[row, size : len(tokens)].tolist() == own
        assert not found.accepted[row, len(tokens) :].any() and not found.accepted[row, :size].any()
    assert 0 < ended < 4  # some responses are over before the others
    assert bool(found.accepted.any()) == (top_k > 0)
    if block == 1:
        assert found.teacher_passes == found.student_passes == int(found.response.sum(1).max())
    if top_k == V:
        longest = int(found.response.sum(1).max())
        assert found.teacher_passes == -(-longest // block)


def test_whole_vocabulary_is_on_policy() -> None:
    student, teacher = pair(1)
    prompts = torch.randint(V, (6, 3), generator=generator())
    warm = Sampling(temperature=0.8)
    for block in (1, 4):
        mixed = speculative_sample(
            student, teacher, prompts, length=12, top_k=V, block=block, student_sampling=warm,
            generator=generator(),
        )  # fmt: skip
        alone = sample(student, prompts, length=12, sampling=warm, generator=generator())
        assert torch.equal(mixed.tokens, alone.tokens)
        assert torch.equal(mixed.accepted, alone.response) and alone.response.sum() == 72
    other = sample(teacher, prompts, length=12, sampling=warm, generator=generator())
    assert not torch.equal(other.tokens, alone.tokens)


def test_one_token_with_a_greedy_teacher_is_its_greedy_continuation() -> None:
    student, teacher = pair(2)
    prompts, greedy = torch.randint(V, (6, 3), generator=generator()), Sampling(temperature=0)
    expected = prompts
    for _ in range(10):
        best = teacher(expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], dim=1)
    for top_k, kept in ((1, True), (0, False)):
        found = speculative_sample(
            student, teacher, prompts, length=10, top_k=top_k, teacher_sampling=greedy,
            student_sampling=Sampling(), generator=generator(),
        )  # fmt: skip
        assert torch.equal(found.tokens, expected)
        assert bool(found.accepted.any()) == kept


def test_no_draft_kept_is_the_teacher_alone() -> None:
    student, teacher = pair(3)
    prompts, warm = torch.randint(V, (5, 2), generator=generator()), Sampling(top_p=0.9)
    found = speculative_sample(
        student, teacher, prompts, length=8, top_k=0, teacher_sampling=warm, generator=generator()
    )
    noise = random_numbers(5, 8, prompts.device, generator())
    tokens = prompts
    for step in range(8):
        p = warm.probabilities(teacher(tokens)[:, -1])
        tokens = torch.cat([tokens, invert(p, noise[:, step, 1])[:, None]], dim=1)
    assert torch.equal(found.tokens, tokens) and not found.accepted.any()


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_distribution_of_one_token(top_k: int) -> None:
    """p(y) = [y ∈ top K] p_s(y) + p_s(outside) p_t(y), here (.4, .3, .2, .1) and its reverse."""
    p_s, p_t = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    n = 40_000
    found = speculative_sample(
        lambda t: p_s.log().expand(*t.shape, 4), lambda t: p_t.log().expand(*t.shape, 4),
        torch.zeros(n, 1, dtype=torch.int64), length=1, top_k=top_k, block=1,
        student_sampling=Sampling(), teacher_sampling=Sampling(), generator=generator(),
    )  # fmt: skip
    inside = torch.arange(4) >= 4 - top_k
    expected = inside * p_s + (p_s * ~inside).sum() * p_t
    share = found.tokens[:, 1].bincount(minlength=4) / n
    assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / n)
    assert found.accepted.sum() / n == pytest.approx(float(p_s[inside].sum()), abs=0.0125)


def test_ties_are_inside_and_padding_says_nothing() -> None:
    student, teacher = pair(4)
    flat = torch.zeros(V)
    found = speculative_sample(
        student, lambda t: flat.expand(*t.shape, V), torch.zeros(3, 1, dtype=torch.int64),
        length=6, top_k=1, generator=generator(),
    )  # fmt: skip
    assert found.accepted.sum() == 18
    tokens = [
        speculative_sample(
            student, teacher, torch.tensor([[1, 2, junk]]), length=6, top_k=2,
            prompt_lengths=torch.tensor([2]), generator=generator(),
        ).tokens
        for junk in (0, 9)
    ]  # fmt: skip
    assert torch.equal(*tokens)


def test_no_gradient_and_no_change_of_the_prompts() -> None:
    student, teacher = pair(5)
    prompts = torch.zeros(2, 2, dtype=torch.int32)
    found = speculative_sample(student, teacher, prompts, length=3, generator=generator())
    assert found.tokens.dtype is torch.int64 and prompts.shape == (2, 2)
    assert all(p.grad is None for p in itertools.chain(student.parameters(), teacher.parameters()))


def test_bad_arguments_are_named() -> None:
    student, teacher = pair()
    good = torch.zeros(2, 3, dtype=torch.int64)

    def call(prompts: object = good, **options: object) -> object:
        return speculative_sample(student, teacher, prompts, **({"length": 2} | options))  # type: ignore[arg-type]

    for wrong, kind, message in (
        (dict(prompts=[1]), TypeError, "prompts must be a torch.Tensor; got list"),
        (dict(prompts=good.float()), TypeError, "prompts must be an integer tensor"),
        (dict(prompts=good[0]), ValueError, r"prompts must have shape \(B, L\).*got \(3,\)"),
        (dict(length=0), ValueError, "length must be >= 1; got 0"),
        (dict(top_k=-1), ValueError, "top_k must be >= 0; got -1"),
        (dict(top_k=2.0), TypeError, "top_k must be an integer; got float"),
        (dict(block=0), ValueError, "block must be >= 1"),
        (dict(prompt_lengths=torch.tensor([0, 3])), ValueError, "must lie in 1…3; got 0 to 3"),
        (dict(prompt_lengths=torch.tensor([3])), ValueError, r"must have shape \(2,\)"),
        (dict(end=-1), ValueError, "end must be >= 0"),
    ):
        with pytest.raises(kind, match=message):
            call(**wrong)
    for name, value in (("temperature", -1.0), ("top_p", 0.0), ("top_p", 1.5)):
        with pytest.raises(ValueError, match=name):
            Sampling(**{name: value})
    with pytest.raises(TypeError, match="top_p must be a number; got str"):
        Sampling(top_p="1")  # type: ignore[arg-type]


def test_bad_models_are_named() -> None:
    student, _ = pair()
    prompts = torch.zeros(2, 3, dtype=torch.int64)
    for model, kind, message in (
        (lambda t: torch.zeros(*t.shape, V + 1), ValueError, f"got logits of {V} and {V + 1}"),
        (lambda t: torch.zeros(len(t), V), ValueError, r"teacher must give logits \(B, L, V\)"),
        (lambda t: t, TypeError, "teacher must give a floating torch.Tensor of logits"),
        (lambda t: torch.full((*t.shape, V), math.nan), ValueError, "teacher must .* without NaN"),
    ):
        with pytest.raises(kind, match=message):
            speculative_sample(student, model, prompts, length=2)
