"""Bits per character against a plain transformers loop, hand-computed values, and invariances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lingraft.evaluate.bits import BLOCK, score, summary
from lingraft.evaluate.head import _plain, _short_cut_is_exact, log_probs, scorer
from lingraft.evaluate.windows import batches, cut

SHORT = ["长城是中国古代的伟大工程。\n", "The wall.", "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"]
LONG = "人们常说，读书使人明理。A page a day, read with care, is a book by summer.\n" * 12


def plain_bits(model: Any, ids: list[int], size: int, stride: int) -> float:
    """The loop of transformers' perplexity guide, with its sum in place of its mean."""
    total, before = 0.0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + size, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : -(end - before)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(inputs, labels=labels).loss) * scored
        before = end
        if end == len(ids):
            break
    return total / math.log(2)


def test_short_documents_agree_with_transformers_own_loss(model: Any, tokenizer: Any) -> None:
    for text, mine in zip(SHORT, score(model, tokenizer, SHORT), strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert mine.bits == pytest.approx(plain_bits(model, ids, 64, 32), rel=1e-5)
        assert mine.characters == len(text)


def test_a_long_document_agrees_with_the_sliding_window_of_the_guide(model: Any, tokenizer: Any) -> None:
    ids = [tokenizer.bos_token_id, *tokenizer(LONG, add_special_tokens=False)["input_ids"]]
    assert len(ids) > 5 * 64
    assert score(model, tokenizer, [LONG])[0].bits == pytest.approx(plain_bits(model, ids, 64, 32), rel=1e-5)


def test_batching_and_padding_change_nothing(model: Any, tokenizer: Any) -> None:
    together, alone = (score(model, tokenizer, [*SHORT, LONG], batch_tokens=n) for n in (4096, 1))
    assert [one.bits for one in together] == pytest.approx([one.bits for one in alone], rel=1e-5)


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_every_token(make_model: Any, tokenizer: Any) -> None:
    flat = make_model()
    torch.nn.init.zeros_(flat.lm_head.weight)
    found = score(flat, tokenizer, SHORT)
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in SHORT)
    characters = sum(len(text) for text in SHORT)
    assert summary(found)["bits_per_character"] == pytest.approx(tokens * math.log2(400) / characters)
    assert summary(found)["token_perplexity"] == pytest.approx(400, rel=1e-5)
    assert summary(found)["tokens_per_character"] == tokens / characters


def test_without_a_bos_the_first_token_costs_nothing_and_does_not_count(model: Any, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(bos=False)
    text = "The wall. 长城"
    encoded = tokenizer(text, return_offsets_mapping=True)
    (mine,) = score(model, tokenizer, [text])
    assert mine.characters == len(text) - encoded["offset_mapping"][0][1]
    assert mine.bits == pytest.approx(plain_bits(model, encoded["input_ids"], 64, 32), rel=1e-5)


def test_newlines_count_as_characters_and_bytes_are_utf8(model: Any, tokenizer: Any) -> None:
    (mine,) = score(model, tokenizer, ["长\n城\n"])
    assert (mine.characters, mine.bytes) == (4, 8)


def test_the_same_model_under_renumbered_pieces_agrees(
    model: Any, tokenizer: Any, make_model: Any, make_tokenizer: Any
) -> None:
    shuffled = make_model()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    order = torch.cat([torch.tensor([0, 1]), order[order > 1]])  # <s> and </s> stay
    shuffled.model.embed_tokens.weight.data[order] = model.model.embed_tokens.weight.data
    shuffled.lm_head.weight.data[order] = model.lm_head.weight.data
    renamed = make_tokenizer()
    renumber(renamed, order.tolist())
    before, after = score(model, tokenizer, SHORT), score(shuffled, renamed, SHORT)
    assert renamed(SHORT[0])["input_ids"] != tokenizer(SHORT[0])["input_ids"]
    assert [a.bits for a in after] == pytest.approx([b.bits for b in before], rel=1e-5)


def renumber(tokenizer: Any, order: list[int]) -> None:
    import json

    from tokenizers import Tokenizer

    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    raw["model"]["vocab"] = {piece: order[i] for piece, i in raw["model"]["vocab"].items()}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(raw))


def test_blocks_add_up_to_the_document(model: Any, tokenizer: Any) -> None:
    (mine,) = score(model, tokenizer, [LONG])
    assert len(mine.blocks) == -(-len(LONG) // BLOCK)
    assert sum(mine.blocks) == pytest.approx(mine.bits)


@pytest.mark.parametrize(("tokens", "size"), [(1, 8), (2, 8), (8, 8), (9, 8), (100, 8), (101, 7), (5, 2)])
def test_windows_score_every_token_but_the_first_once(tokens: int, size: int) -> None:
    windows = cut(0, tokens, size)
    assert [t for w in windows for t in range(w.first, w.stop)] == list(range(1, tokens))
    assert all(w.stop - w.start <= size and w.first > w.start for w in windows)


def test_batches_hold_every_window_within_the_bound() -> None:
    windows = [w for d, n in enumerate((5, 90, 33, 33, 7, 64)) for w in cut(d, n, 32)]
    made = list(batches(windows, 100))
    assert sorted((w.document, w.start) for b in made for w in b) == sorted((w.document, w.start) for w in windows)
    assert all(len(b) * max(w.inputs for w in b) <= 100 for b in made)


def test_a_model_that_caps_its_logits_is_scored_by_its_own_forward(tokenizer: Any) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        final_logit_softcapping=2.0,
        initializer_range=0.3,
    )
    gemma = Gemma2ForCausalLM(config).eval()
    assert not _short_cut_is_exact(gemma)
    ids = [0, *tokenizer(SHORT[0], add_special_tokens=False)["input_ids"]]
    assert score(gemma, tokenizer, SHORT[:1])[0].bits == pytest.approx(plain_bits(gemma, ids, 64, 32), rel=1e-4)


def test_the_tiled_head_equals_the_whole_one(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lingraft.evaluate.head.POSITIONS", 5)
    monkeypatch.setattr("lingraft.evaluate.head.PIECES", 33)
    inputs = torch.arange(2, 22).view(2, 10)
    positions = torch.tensor([(r, p) for r in range(2) for p in range(9)])
    targets = torch.arange(18) + 30
    with torch.no_grad():
        mine, theirs = (make(model)(inputs, positions, targets) for make in (scorer, _plain))
    assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_with_a_bias_equals_torch_log_softmax(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states, weight, bias = torch.randn(700, 16).to(dtype), torch.randn(5000, 16).to(dtype), torch.randn(5000).to(dtype)
    targets = torch.randint(0, 5000, (700,))
    exact = (states.double() @ weight.double().T + bias.double()).log_softmax(-1)[torch.arange(700), targets]
    atol = 1e-4 if dtype == torch.float32 else 0.1
    assert torch.allclose(log_probs(states, weight, bias, targets).double(), exact, atol=atol)
