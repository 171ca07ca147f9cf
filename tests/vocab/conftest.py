"""A tiny real base: a byte-level BPE tokenizer trained here, special tokens behind it, and a two-layer Llama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocab_texts import CHINESE, ENGLISH

TEMPLATE = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"


def tokenizer(whole: bool) -> Tokenizer:
    """Train a byte-level BPE whose merges know English and a few frequent Chinese bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500 if whole else 376, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([*ENGLISH * 3, *(list("".join(CHINESE)) * 2 if whole else CHINESE[:1])], trainer)
    made.add_special_tokens([AddedToken("<|start|>", special=True), AddedToken("<|end|>", special=True)])
    return made


@pytest.fixture
def make_base(tmp_path: Path) -> Callable[..., Path]:
    """Write a base directory: ``tied``, ``rows`` (None: as many as tokens), Han characters ``whole`` or in bytes."""

    def make(tied: bool = True, rows: int | None = None, whole: bool = False) -> Path:
        folder = tmp_path / "base"
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer(whole),
            bos_token="<|start|>",
            eos_token="<|end|>",
            pad_token="<|end|>",
            chat_template=TEMPLATE,
        )
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=rows or len(fast),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=fast.bos_token_id,
            eos_token_id=fast.eos_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write the Chinese sentences, with some English between them, as one text file."""
    path = tmp_path / "zh.txt"
    path.write_text("\n".join([*CHINESE, ENGLISH[0]] * 4) + "\n", encoding="utf-8")
    return path
