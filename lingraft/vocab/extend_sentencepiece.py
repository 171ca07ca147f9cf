"""Extend a SentencePiece tokenizer (Llama-2): tokenizer.model and tokenizer.json, so that both go on agreeing.

Old pieces keep ids and scores. New ones get strictly falling scores below the lowest old one: SentencePiece joins the
pair with the highest score first, the tokenizers library the pair whose merge stands first, and only without equal
scores is that the same order (the published Chinese-LLaMA-2 gave all its new pieces 0.0). Byte fallback, the space
before a text and `legacy` stay; where tokenizer.model lies alone, they are written as SentencePiece has them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import tokenizers

from lingraft.problems import refuse
from lingraft.vocab.extend_bpe import size_of
from lingraft.weights.hf import read_json
from lingraft.weights.sentencepieces import told_to_transformers

Json = dict[str, Any]
MODEL = "tokenizer.model"
SETTINGS = "tokenizer_config.json"
NORMAL, CONTROL, USER = 1, 3, 4  # kinds of pieces, as sentencepiece_model.proto numbers them


def knows(base: Path) -> bool:
    """Tell whether a directory's tokenizer is SentencePiece-like: a .model file, or BPE with byte fallback."""
    if (base / "tokenizer.model").is_file():
        return True
    path = base / "tokenizer.json"
    return path.is_file() and bool((read_json(path).get("model") or {}).get("byte_fallback"))


def description_of(base: Path) -> Json:
    """Return tokenizer.json's content, made from tokenizer.model by transformers where there is none."""
    if (base / "tokenizer.json").is_file():
        return read_json(base / "tokenizer.json")
    try:
        return _made(base)
    except Exception as error:  # sentencepiece and protobuf raise bare kinds for a broken file
        refuse(
            "tokenizer-mismatch",
            f"{base / 'tokenizer.model'} is not a readable SentencePiece model: {error}",
            "fetch it again",
            base / "tokenizer.model",
        )


def _made(base: Path) -> Json:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        told = missing_settings(base)
        if told:
            Path(folder, SETTINGS).write_bytes(told)
            shutil.copyfile(base / MODEL, Path(folder, MODEL))
        tokenizer: Any = AutoTokenizer.from_pretrained(folder if told else base)
        return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def missing_settings(base: Path) -> bytes:
    """Return the tokenizer_config.json of a base whose tokenizer.model lies alone; empty where nothing is missing."""
    if (base / "tokenizer.json").is_file() or (base / SETTINGS).is_file():
        return b""
    told = told_to_transformers((base / MODEL).read_bytes())
    return (json.dumps(told, indent=2) + "\n").encode() if told else b""


def extended(description: Json, texts: Sequence[str]) -> Json:
    """Return tokenizer.json's content with the new pieces, and merges for every way to join one from two."""
    model = dict(description["model"])
    vocab = dict(model["vocab"])
    start = size_of(description)
    for token in description.get("added_tokens") or ():
        vocab.setdefault(token["content"], token["id"])
    vocab.update({text: start + place for place, text in enumerate(texts)})
    as_pairs = not model["merges"] or not isinstance(model["merges"][0], str)
    new = [pair for text in texts for pair in _joins(text, vocab)]
    merges = [*model["merges"], *([left, right] if as_pairs else f"{left} {right}" for left, right in new)]
    return {**description, "model": {**model, "vocab": vocab, "merges": merges}}


def _joins(text: str, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = [(text[:at], text[at:]) for at in range(1, len(text)) if text[:at] in vocab and text[at:] in vocab]
    return sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))


def extended_model(
    content: bytes, description: Json, texts: Sequence[str], scores: Sequence[float] | None = None
) -> bytes:
    """Return tokenizer.model's content with the new pieces at their ids; ``scores`` None: falling ones.

    Tokens that were added beside the model (a <pad> of 32,000) get pieces too, so that ids and places agree.
    """
    from sentencepiece import sentencepiece_model_pb2 as pb2

    model = pb2.ModelProto.FromString(content)
    lowest = min((piece.score for piece in model.pieces if piece.type == NORMAL), default=0.0)
    # Scores are 32-bit floats, and Llama-2 has pieces at -1e9, where neighbours are 64 apart.
    step = max(1.0, float(numpy.spacing(numpy.float32(2 * abs(lowest)))))
    added = {token["id"]: token for token in description.get("added_tokens") or ()}
    for number in range(len(model.pieces), size_of(description)):
        token = added.get(number, {"content": f"<unused{number}>", "special": True})
        model.pieces.add(piece=token["content"], score=0.0, type=CONTROL if token["special"] else USER)
    for text, score in zip(texts, scores or [lowest - step * n for n in range(1, len(texts) + 1)], strict=True):
        model.pieces.add(piece=text, score=score, type=NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString())


def write_tokenizer(base: Path, out: Path, files: Sequence[Path], texts: Sequence[str]) -> None:
    """Write the tokenizer's files into ``out``; tokenizer.json is written even where the base has none."""
    description = description_of(base)
    for file in files:
        if file.name == "tokenizer.model":
            (out / file.name).write_bytes(extended_model(file.read_bytes(), description, texts))
        elif file.name != "tokenizer.json":
            shutil.copyfile(file, out / file.name)
    if told := missing_settings(base):
        (out / SETTINGS).write_bytes(told)
    (out / "tokenizer.json").write_text(
        json.dumps(extended(description, texts), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def old_pieces(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[tuple[int, ...]]:
    """Return the ids that each text takes inside a text (no space is put before it)."""
    return [tuple(token.id for token in tokenizer.model.tokenize(text)) for text in texts]
