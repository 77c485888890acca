"""Distillation of language models on tokens that student and teacher write together.

:func:`speculative_sample` draws them, :func:`response_divergence` compares on them, and
:func:`distil_language` trains; two callables from tokens ``(B, L)`` to logits ``(B, L, V)`` are all
it needs. :class:`HuggingFaceLM` makes one of a model of transformers.

>>> import torch
>>> from ucmkd.language import SmallTransformer, speculative_sample
>>> student, teacher = SmallTransformer(30, layers=1), SmallTransformer(30)
>>> found = speculative_sample(student, teacher, torch.zeros(2, 1, dtype=torch.int64), length=8)
>>> found.tokens.shape
torch.Size([2, 9])
"""

from ucmkd.language.huggingface import HuggingFaceLM, pad_right
from ucmkd.language.losses import response_cross_entropy, response_divergence, token_divergence
from ucmkd.language.sampling import LanguageModel, Sampling
from ucmkd.language.sources import Drawn, OnPolicy, Reference, Source, Speculative
from ucmkd.language.speculative import Continuation, sample, speculative_sample
from ucmkd.language.text import CharacterText, character_text, python_paragraphs
from ucmkd.language.trainer import LanguageTraining, Step, distil_language
from ucmkd.language.transformer import SmallTransformer
from ucmkd.language.windows import TextBatch, perplexity, random_windows

__all__ = [
    "CharacterText",
    "Continuation",
    "Drawn",
    "HuggingFaceLM",
    "LanguageModel",
    "LanguageTraining",
    "OnPolicy",
    "Reference",
    "Sampling",
    "SmallTransformer",
    "Source",
    "Speculative",
    "Step",
    "TextBatch",
    "character_text",
    "distil_language",
    "pad_right",
    "perplexity",
    "python_paragraphs",
    "random_windows",
    "response_cross_entropy",
    "response_divergence",
    "sample",
    "speculative_sample",
    "token_divergence",
]
