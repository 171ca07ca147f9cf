"""Tiny models and tokenizers of the evaluation room: random, but real transformers classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TEXT = "长城是中国古代的伟大工程。\nThe Great Wall was built to keep riders out.\n春眠不觉晓，处处闻啼鸟。"


def learn_tokenizer(size: int = 400, bos: bool = True) -> Any:
    """Return a byte-level BPE tokenizer learned from a few sentences; every text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>" if bos else None, eos_token="</s>")


def random_llama(rows: int = 400, seed: int = 0, context: int = 64) -> Any:
    """Return a random two-layer Llama with sharp enough logits that mistakes show."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def make_tokenizer() -> Any:
    return learn_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Any:
    return random_llama


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return learn_tokenizer()


@pytest.fixture(scope="session")
def model() -> Any:
    return random_llama()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, model: Any, tokenizer: Any) -> Path:
    path = tmp_path_factory.mktemp("models") / "base"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def other_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    path = tmp_path_factory.mktemp("models") / "other"
    random_llama(seed=1).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LINGRAFT_DTYPE", "float32")
    return tmp_path / "cache"
