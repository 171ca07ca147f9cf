"""The tokenizer inside a GGUF file, as the files that Hugging Face keeps beside a model.

Byte-level BPE (`gpt2`) becomes tokenizer.json with the split that `tokenizer.ggml.pre` names; SentencePiece
(`llama`) becomes tokenizer.model and the tokenizer.json that encodes alike. Chat template and generation config
come along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from lingraft.problems import refuse
from lingraft.weights.gguf_pre import NFC, WHOLE_WORDS, pre_tokenizer
from lingraft.weights.sentencepiece_json import added_token, around, tokenizer_json
from lingraft.weights.sentencepieces import Piece, model_bytes

KEY = "tokenizer.ggml."
ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}  # GGUF -> Hugging Face


class Kind(IntEnum):
    """What a token is (llama.h: llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


def tokenizer_files(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return tokenizer, chat template and generation config by file name.

    Error: `unknown-format` for a tokenizer model or a split that lingraft cannot spell out.
    """
    files = {"generation_config.json": _json(_generation(metadata))}
    if template := metadata.get("tokenizer.chat_template"):
        files["chat_template.jinja"] = template.encode("utf-8", "surrogateescape")
    model = metadata.get(KEY + "model")
    if model in (None, "no_vocab", "none"):
        return files
    if model == "gpt2":
        files["tokenizer.json"] = _json(_byte_bpe(metadata))
    elif model == "llama":
        files |= _sentencepiece(metadata)
    else:
        refuse(
            "unknown-format",
            f"the GGUF file's tokenizer is of the kind {model!r}; lingraft reads gpt2 and llama",
            "take the tokenizer of the original model",
        )
    files["tokenizer_config.json"] = _json(_settings(metadata, config, model))
    return files


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "surrogateescape")


def _byte_bpe(metadata: Mapping[str, Any]) -> dict[str, Any]:
    name = metadata.get(KEY + "pre", "default")
    split = pre_tokenizer(name)
    if split is None:
        refuse(
            "unknown-format",
            f"the GGUF file splits text as {name!r}, which lingraft does not know",
            "take the tokenizer of the original model",
        )
    vocab = {token: i for i, (token, _) in enumerate(_tokens(metadata))}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(metadata),
        "normalizer": {"type": "NFC"} if name in NFC else None,
        "pre_tokenizer": split,
        "post_processor": _post_processor(metadata),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": name in WHOLE_WORDS,
            "vocab": vocab,
            "merges": [merge.split(" ", 1) for merge in metadata.get(KEY + "merges", [])],
        },
    }


def _tokens(metadata: Mapping[str, Any]) -> list[tuple[str, Kind]]:
    """Return every token and its kind, without the fillers that converters append up to the number of rows."""
    tokens = metadata.get(KEY + "tokens", [])
    known = {int(kind): kind for kind in Kind}
    kinds = [known.get(kind, Kind.NORMAL) for kind in metadata.get(KEY + "token_type", [])]
    pairs = list(zip(tokens, kinds or [Kind.NORMAL] * len(tokens), strict=False))
    while pairs and pairs[-1][1] == Kind.UNUSED and re.fullmatch(r"\[PAD\d+\]", pairs[-1][0]):
        pairs.pop()
    return pairs


def _added(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = (Kind.CONTROL, Kind.USER, Kind.UNKNOWN) if metadata[KEY + "model"] == "llama" else (Kind.CONTROL, Kind.USER)
    return [
        added_token(number, token, special=kind != Kind.USER)
        for number, (token, kind) in enumerate(_tokens(metadata))
        if kind in kinds
    ]


def _post_processor(metadata: Mapping[str, Any]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    template = around(_ends(metadata, bos=False))
    return {"type": "Sequence", "processors": [byte_level, template]} if template else byte_level


def _ends(metadata: Mapping[str, Any], bos: bool) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
    """Return the tokens put before and after a text; ``bos`` is the default where the file does not say."""
    before = _special(metadata, "bos") if metadata.get(KEY + "add_bos_token", bos) else None
    return before, _special(metadata, "eos") if metadata.get(KEY + "add_eos_token") else None


def _special(metadata: Mapping[str, Any], role: str) -> tuple[str, int] | None:
    number = metadata.get(f"{KEY}{role}_token_id")
    tokens = metadata.get(KEY + "tokens", [])
    return (tokens[number], number) if number is not None and 0 <= number < len(tokens) else None


def _sentencepiece(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    tokens = _tokens(metadata)
    scores = metadata.get(KEY + "scores") or [0.0] * len(tokens)
    pieces = [Piece(token, score, int(kind)) for (token, kind), score in zip(tokens, scores, strict=False)]
    told = {hf: metadata.get(f"{KEY}{role}_token_id") for role, hf in ROLES.items()}
    numbers = {hf: number for hf, number in told.items() if number is not None}
    prefix = bool(metadata.get(KEY + "add_space_prefix", True))
    before, after = (end[1] if end else None for end in _ends(metadata, bos=True))
    return {
        "tokenizer.model": model_bytes(pieces, numbers, add_space_prefix=prefix),
        "tokenizer.json": _json(tokenizer_json(pieces, prefix, before, after)),
    }


def _settings(metadata: Mapping[str, Any], config: Mapping[str, Any], model: str) -> dict[str, Any]:
    spm = model == "llama"
    # A class of its own (GPT2Tokenizer, LlamaTokenizer …) would put its own split in the place of tokenizer.json's.
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings", 2048),
        "add_bos_token": bool(metadata.get(KEY + "add_bos_token", spm)),
        "add_eos_token": bool(metadata.get(KEY + "add_eos_token", False)),
        "added_tokens_decoder": {str(item.pop("id")): item for item in _added(metadata)},
    }
    for role, hf in ROLES.items():
        if special := _special(metadata, role):
            settings[f"{hf}_token"] = special[0]
    return settings


def _generation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"_from_model_config": False}
    for role, hf in ROLES.items():
        if role != "unknown" and (number := metadata.get(f"{KEY}{role}_token_id")) is not None:
            answer[f"{hf}_token_id"] = number
    turn = metadata.get(KEY + "eot_token_id")
    if turn is not None and turn != answer.get("eos_token_id"):
        answer["eos_token_id"] = [number for number in (answer.get("eos_token_id"), turn) if number is not None]
    return answer
