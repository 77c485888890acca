"""Interleaved sampling: the student drafts, the teacher replaces what lies outside its top K."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ucmkd.language import _check
from ucmkd.language.sampling import LanguageModel, Sampling, invert

STUDENT = Sampling(temperature=0.5, top_p=0.5)
TEACHER = Sampling(temperature=0.2, top_p=0.5)


class Continuation(NamedTuple):
    """Prompts with what was written after them.

    Attributes:
        tokens: ``(B, W)`` int64, W the width of the prompts plus the length; padded on the right.
        response: ``(B, W)`` bool, True for tokens that were written.
        accepted: ``(B, W)`` bool, True for written tokens that are the student's own.
        student_passes: Calls of the student.
        teacher_passes: Calls of the teacher.
    """

    tokens: Tensor
    response: Tensor
    accepted: Tensor
    student_passes: int
    teacher_passes: int


@torch.no_grad()
def speculative_sample(
    student: LanguageModel,
    teacher: LanguageModel,
    prompts: Tensor,
    *,
    length: int,
    prompt_lengths: Tensor | None = None,
    top_k: int = 25,
    block: int = 5,
    student_sampling: Sampling = STUDENT,
    teacher_sampling: Sampling = TEACHER,
    end: int | None = None,
    pad: int = 0,
    generator: torch.Generator | None = None,
) -> Continuation:
    r"""Tokens on which speculative knowledge distillation trains.

    .. math:: \tilde y_i \sim p_s(\cdot \mid y_{<i}), \qquad
        y_i = \tilde y_i \text{ if } \tilde y_i \in \mathrm{top}_K\, p_t(\cdot \mid y_{<i}),
        \text{ else } y_i \sim p_t(\cdot \mid y_{<i}).

    The student writes ``block`` tokens ahead, one call of the teacher judges them all, and what
    follows the first rejected one is discarded. Every position has its own random numbers, so that
    the block changes the number of calls and nothing else. No token is added when a whole block is
    accepted.

    K is the dial between two known methods: K >= V never rejects, which is on-policy distillation
    (:func:`sample` from the same generator gives the same tokens); K = 1 keeps a draft only where
    it is the teacher's first choice, and with a greedy teacher writes the teacher's greedy
    continuation; K = 0 writes samples of the teacher alone.

    A draft is judged by the number of tokens that the teacher finds more probable, before its
    temperature and nucleus: ties with the K-th are inside.

    Args:
        student: Tokens ``(B, L)`` to logits ``(B, L, V)``; causal, so that tokens further right
            change nothing. Called as it is: put modules into eval mode.
        teacher: The same, over the same tokens.
        prompts: ``(B, P)`` integers, padded on the right.
        length: Largest number of tokens to write after each prompt, >= 1.
        prompt_lengths: ``(B,)`` integers in 1…P; None for P.
        top_k: K >= 0.
        block: Tokens drafted before the teacher is asked, >= 1.
        student_sampling: Of the drafts.
        teacher_sampling: Of the replacements.
        end: A token after which a response is over; None: all have ``length`` tokens.
        pad: Written behind what is over.
        generator: Of the random numbers; None: PyTorch's own.

    Raises:
        TypeError: Arguments of the wrong kind, logits that are not floating.
        ValueError: Shapes or numbers out of range, logits of another shape or with NaN, student
            and teacher with different vocabularies.

    Source: Xu et al., "Speculative knowledge distillation", ICLR 2025 (arXiv 2410.11325),
    algorithm 1; block, K and sampling as in the released code. That code tests one draw of the
    student and keeps another; here the token that is judged is the one that stands.
    """
    tokens, start, stop = _check.prompts(prompts, prompt_lengths, length, end, pad)
    _check.integer(top_k, "top_k", 0)
    _check.integer(block, "block", 1)
    noise = random_numbers(len(tokens), length, tokens.device, generator)
    column = torch.arange(tokens.shape[1], device=tokens.device)
    position, accepted = start.clone(), torch.zeros_like(tokens, dtype=torch.bool)
    alive = torch.ones_like(start, dtype=torch.bool)
    calls = [0, 0]
    while bool(alive.any()):
        rows = alive.nonzero().squeeze(1)
        first, offset = position[rows], (position - start)[rows]
        # The drafts of every row, from its own position on.
        drafted = torch.zeros_like(first)
        writing = torch.ones_like(alive[rows])
        for ahead in range(block):
            writing &= first + ahead < stop[rows]
            if not bool(writing.any()):
                break
            some, place = rows[writing], (first + ahead)[writing]
            found = _logits(student, "student", tokens[some], place - 1)
            calls[0] += 1
            uniform = noise[some, (offset + ahead)[writing], 0]
            draft = invert(student_sampling.probabilities(found), uniform)
            tokens[some, place] = draft
            drafted += writing
            if end is not None:
                writing[writing.clone()] = draft != end
        # One call of the teacher judges them all.
        steps = torch.arange(int(drafted.max()), device=tokens.device)
        place = torch.minimum(first[:, None] + steps, (first + drafted - 1)[:, None])
        judged = _logits(teacher, "teacher", tokens[rows], place - 1)
        calls[1] += 1
        _check.same_vocabulary(found, judged)
        own = judged.gather(-1, tokens[rows[:, None], place][..., None])
        outside = (judged > own).sum(-1) >= top_k
        outside &= steps < drafted[:, None]
        rejected = outside.any(1)
        kept = torch.where(rejected, outside.long().argmax(1), drafted)
        # Its own token in place of the first rejected one; what follows is forgotten.
        late, at = rows[rejected], kept[rejected]
        choice = teacher_sampling.probabilities(judged[rejected, at])
        uniform = noise[late, offset[rejected] + at, 1]
        tokens[late, first[rejected] + at] = invert(choice, uniform)
        accepted[rows] |= (column >= first[:, None]) & (column < (first + kept)[:, None])
        position[rows] = first + kept + rejected
        tokens[rows] = tokens[rows].masked_fill(column >= position[rows, None], pad)
        alive = position < stop
        if end is not None:
            alive &= tokens.gather(1, (position - 1)[:, None]).squeeze(1) != end
    return Continuation(tokens, _written(tokens, start, position), accepted, *calls)


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Tensor,
    *,
    length: int,
    prompt_lengths: Tensor | None = None,
    sampling: Sampling = STUDENT,
    end: int | None = None,
    pad: int = 0,
    generator: torch.Generator | None = None,
) -> Continuation:
    """Tokens of one model alone, ``y_i ~ p(· | y_<i)``: those of on-policy distillation.

    Arguments and errors as in :func:`speculative_sample`; every written token is ``accepted``.
    """
    tokens, start, stop = _check.prompts(prompts, prompt_lengths, length, end, pad)
    noise = random_numbers(len(tokens), length, tokens.device, generator)
    position = start.clone()
    alive = torch.ones_like(start, dtype=torch.bool)
    calls = 0
    while bool(alive.any()):
        rows, place = alive.nonzero().squeeze(1), position[alive]
        found = _logits(model, "model", tokens[rows], place - 1)
        calls += 1
        uniform = noise[rows, place - start[rows], 0]
        chosen = invert(sampling.probabilities(found), uniform)
        tokens[rows, place] = chosen
        position[rows] += 1
        over = position[rows] >= stop[rows]
        alive[rows] = ~over if end is None else ~over & (chosen != end)
    written = _written(tokens, start, position)
    return Continuation(tokens, written, written.clone(), calls, 0)


def random_numbers(
    rows: int, length: int, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Two uniform numbers for each position, ``(rows, length, 2)`` float64: a draft's, and its
    replacement's."""
    source = device if generator is None else generator.device
    drawn = torch.rand(rows, length, 2, dtype=torch.float64, device=source, generator=generator)
    return drawn.to(device)


def _logits(model: LanguageModel, name: str, tokens: Tensor, place: Tensor) -> Tensor:
    """Those at ``place``, ``(R,)`` or ``(R, k)``, one row for each row of the tokens."""
    width = int(place.max()) + 1
    logits = _check.logits(model(tokens[:, :width]), name, (len(tokens), width))
    row = torch.arange(len(tokens), device=tokens.device)
    chosen = logits[row, place] if place.dim() == 1 else logits[row[:, None], place]
    if bool(chosen.isnan().any()):
        raise ValueError(f"{name} must give logits without NaN; got NaN")
    return chosen


def _written(tokens: Tensor, start: Tensor, position: Tensor) -> Tensor:
    column = torch.arange(tokens.shape[1], device=tokens.device)
    return (column >= start[:, None]) & (column < position[:, None])
