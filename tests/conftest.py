"""Tiny real models and tokenizers, made once a session; the folder of larger test data, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder named by LINGRAFT_TEST_DATA; tests that need it skip where it is absent."""
    folder = os.environ.get("LINGRAFT_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LINGRAFT_TEST_DATA names no folder: larger test data is not on this machine")
    return Path(folder)


def make_tokenizer(folder: Path, size: int = 400) -> None:
    """Train a real byte-level BPE tokenizer on the shipped English text and save it as transformers does."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    import lingraft

    lines = (Path(lingraft.__file__).parent / "text" / "en.jsonl").read_text(encoding="utf-8").splitlines()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator((json.loads(line)["text"] for line in lines), trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                   unk_token="<|endoftext|>", pad_token="<|im_end|>")  # fmt: skip
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)


def make_llama(folder: Path, tied: bool = True, rows: int = 400, seed: int = 0, **changes: object) -> Path:
    """Save a tiny random Llama with a real tokenizer: 2 layers, width 32, 4 heads of which 2 KV."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=2,
                         **changes)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder, min(rows, 400))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Llama with a byte-level BPE tokenizer of 400 pieces."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-tied")


@pytest.fixture(scope="session")
def tiny_untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is a tensor of its own."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-untied", tied=False)
