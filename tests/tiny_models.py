"""Make tiny real models and tokenizers; a module of its own, since every room has a conftest."""

from __future__ import annotations

from pathlib import Path


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
    raw.train_from_iterator(
        (json.loads(line)["text"] for line in lines),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
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
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2} | changes
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=64,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder, min(rows, 400))
    return folder
