"""Text and its parts, windows, perplexity, the small transformer, and models of Hugging Face."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ucmkd.language import (
    HuggingFaceLM,
    LanguageTraining,
    SmallTransformer,
    Speculative,
    TextBatch,
    character_text,
    distil_language,
    pad_right,
    perplexity,
    python_paragraphs,
    random_windows,
    speculative_sample,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_python_text_has_no_paragraph_twice() -> None:
    found = python_paragraphs()
    keys = [" ".join(paragraph.split()) for paragraph in found]
    assert len(set(keys)) == len(keys) > 1000 and all(keys)
    assert sum(map(len, found)) > 200_000


def test_parts_by_hand() -> None:
    text = character_text([f"{k:02d}" for k in range(20)], run=2, least=2)
    assert text.decode(text.train[:11]) == "00\n\n01\n\n02\n"
    assert text.decode(text.validation) == "1\ufffd\n\n1\ufffd"
    # In the training part (00 to 15) 6 to 9 occur once each, 2 to 5 twice: the former share 0.
    assert text.symbols == "\ufffd\n012345"
    assert text.encode("8x0").tolist() == [0, 0, text.symbols.index("0")]
    for options in ({"run": 0}, {"least": 0}, {"run": 3}):
        with pytest.raises(ValueError, match="paragraphs" if options == {"run": 3} else "must be"):
            character_text([str(k) for k in range(20)], **options)


def test_windows_are_pieces_of_the_stream_and_known_by_their_step() -> None:
    stream = torch.arange(50)
    draw = random_windows(stream, prompt=2, response=3, batch=7, seed=4)
    batch = draw(3)
    assert (batch.tokens == batch.tokens[:, :1] + torch.arange(5)).all()
    assert batch.prompt_lengths.tolist() == [2] * 7
    assert batch.response[0].tolist() == [False, False, True, True, True]
    again = random_windows(stream, prompt=2, response=3, batch=7, seed=4)
    assert torch.equal(again(3).tokens, batch.tokens)
    others = [draw(4), random_windows(stream, prompt=2, response=3, batch=7, seed=5)(3)]
    assert not any(torch.equal(other.tokens, batch.tokens) for other in others)
    ends = {int(t) for k in range(40) for t in draw(k).tokens[:, [0, -1]].flatten()}
    assert {0, 49} <= ends  # the whole stream is reached
    with pytest.raises(ValueError, match="n at least 60"):
        random_windows(stream, prompt=30, response=30, batch=1, seed=0)


def test_perplexity_by_hand() -> None:
    tokens = torch.tensor([0, 1, 1, 0, 1, 0, 0])

    def uniform(t: Tensor) -> Tensor:
        return torch.zeros(*t.shape, 4)

    assert perplexity(uniform, tokens, context=4) == pytest.approx(4.0)

    def repeats(t: Tensor) -> Tensor:  # ¾ for the token that stands there
        return torch.where(nn.functional.one_hot(t, 2).bool(), 0.75, 0.25).log()

    # Windows 0110 and 1010 of context 4, stride 2: counted are 10 after 1, and 10 after 0.
    hits = [True, False, False, False]
    expected = math.exp(-sum(math.log(0.75 if hit else 0.25) for hit in hits) / 4)
    assert perplexity(repeats, tokens, context=4) == pytest.approx(expected)
    assert perplexity(repeats, tokens, context=4, batch=1) == pytest.approx(expected)
    # Stride 1 counts tokens 3 to 6: 0 after 1, 1 after 0, 0 after 1, 0 after 0.
    assert perplexity(repeats, tokens, context=4, stride=1) == pytest.approx(expected)
    for options, name in (({"context": 1}, "context"), ({"context": 4, "stride": 4}, "stride"),
                          ({"context": 8}, "tokens")):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            perplexity(uniform, tokens, **options)


def test_small_transformer_is_causal() -> None:
    torch.manual_seed(0)
    model = SmallTransformer(7, width=8, layers=2, heads=2, context=10).eval()
    tokens = torch.randint(7, (3, 10))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    torch.testing.assert_close(model(tokens)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(tokens)[:, 6:], model(changed)[:, 6:])
    torch.testing.assert_close(model(tokens)[:, :4], model(tokens[:, :4]))
    earlier = tokens.clone()
    earlier[:, 0] = (earlier[:, 0] + 1) % 7
    assert not torch.allclose(model(tokens)[:, 9], model(earlier)[:, 9])  # the past is seen
    with pytest.raises(ValueError, match="at most 10 long; got 11"):
        model(torch.zeros(1, 11, dtype=torch.int64))
    with pytest.raises(ValueError, match="multiple of heads; got 9 and 2"):
        SmallTransformer(7, width=9, heads=2)


def test_pad_right() -> None:
    prompts, lengths = pad_right([[5, 6, 7], [8]], pad=1)
    assert prompts.tolist() == [[5, 6, 7], [8, 1, 1]] and lengths.tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"got lengths \[1, 0\]"):
        pad_right([[1], []])


class StandIn(nn.Module):
    """What is used of a causal language model of transformers: its call and its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: Tensor | None = None, use_cache: bool = True) -> SimpleNamespace:
        assert input_ids is not None and not use_cache
        return SimpleNamespace(logits=self.inner(input_ids), past_key_values=None)


def check_adapter(student: nn.Module, teacher: nn.Module, vocabulary: int) -> None:
    """Samples and trains with prompts of different lengths."""
    models = [HuggingFaceLM(model, vocabulary=vocabulary).eval() for model in (student, teacher)]
    prompts, lengths = pad_right([[1, 2, 3], [4]])
    found = speculative_sample(
        *models, prompts, length=4, prompt_lengths=lengths, top_k=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    alone = speculative_sample(
        *models, torch.tensor([[1, 2, 3]]), length=4, top_k=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(found.tokens[:1], alone.tokens)  # the padding of the other row is not felt
    assert int(found.tokens.max()) < vocabulary and found.response.sum() == 8

    def batch(step: int) -> TextBatch:
        return TextBatch(found.tokens, lengths, found.response)

    before = [p.detach().clone() for p in student.parameters()]
    distil_language(models[0], models[1], batch, Speculative(), LanguageTraining(2, lr=1e-2))
    assert any(not torch.equal(p, q) for p, q in zip(before, student.parameters(), strict=True))


def test_adapter_with_a_stand_in() -> None:
    torch.manual_seed(0)
    student = StandIn(SmallTransformer(10, width=8, layers=1, heads=2))
    teacher = StandIn(SmallTransformer(12, width=8, layers=1, heads=2))  # a padded table
    check_adapter(student, teacher, 9)
    whole = HuggingFaceLM(teacher)
    assert whole(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, 12)
    assert [p.data_ptr() for p in whole.parameters()] == [
        p.data_ptr() for p in teacher.parameters()
    ]
    with pytest.raises(ValueError, match="at most the model's 12; got 13"):
        HuggingFaceLM(teacher, vocabulary=13)(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"must return an object with logits.*got Tensor"):
        HuggingFaceLM(NoLogits())(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got function"):
        HuggingFaceLM(lambda t: t)  # type: ignore[arg-type]


class NoLogits(nn.Module):
    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        return input_ids


def test_adapter_with_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = dict(n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    gpt = [
        transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=size, **sizes))
        for size in (10, 12)
    ]
    check_adapter(*gpt, 9)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=12, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16,
        )
    )  # fmt: skip
    check_adapter(gpt[0], llama, 9)  # another architecture, the same tokens
