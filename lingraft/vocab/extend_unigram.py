"""Extend a unigram tokenizer (tokenizer.json of type Unigram, with a tokenizer.model or without).

A unigram tokenizer takes the segmentation with the highest sum of scores (Kudo 2018, arXiv:1804.10959), so a new
piece needs a score and no merges: the log of its share in the corpus, but no less than a little more than its old
pieces come to, or it would never be taken, and no less than the lowest old score, which the score of unknown
characters hangs on. Old pieces keep ids and scores, and text without Han cannot meet a new piece.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import tokenizers

from lingraft.vocab.extend_sentencepiece import MODEL, description_of, extended_model
from lingraft.vocab.learn import Pieces

Json = dict[str, Any]
_GAIN = 0.01  # of a new piece over its old ones
_UNKNOWN = 10.0  # below the lowest score: what both libraries charge for an unknown character


def size_of(description: Json) -> int:
    """Return one more than the highest id."""
    added = (int(token["id"]) + 1 for token in description.get("added_tokens") or ())
    return max([len(description["model"]["vocab"]), *added])


def extended(description: Json, pieces: Pieces, scores: Sequence[float]) -> Json:
    """Return tokenizer.json's content with the new pieces; ids are places, so gaps before them are filled."""
    model = description["model"]
    vocab, start = list(model["vocab"]), size_of(description)
    lowest = min(score for _, score in vocab)
    added: Mapping[int, str] = {int(t["id"]): t["content"] for t in description.get("added_tokens") or ()}
    vocab += [[added.get(number, f"<unused{number}>"), lowest] for number in range(len(vocab), start)]
    vocab += [[piece.text, score] for piece, score in zip(pieces, scores, strict=True)]
    return {**description, "model": {**model, "vocab": vocab}}


def scores_of(pieces: Pieces, description: Json, tokenizer: tokenizers.Tokenizer) -> list[float]:
    """Return the new pieces' scores; a united piece, which was never counted, gets the least that works."""
    vocab, unknown = description["model"]["vocab"], description["model"].get("unk_id")
    old = [score for _, score in vocab]
    lowest = min(old)
    if unknown is not None:
        old[unknown] = lowest - _UNKNOWN
    total = sum(piece.count for piece in pieces)
    found = []
    for piece in pieces:
        before = sum(old[token.id] for token in tokenizer.model.tokenize(piece.text))
        natural = log(piece.count / total) if piece.count else lowest
        found.append(max(natural, before + _GAIN, lowest))
    return found


def write_tokenizer(
    base: Path, out: Path, files: Sequence[Path], pieces: Pieces, tokenizer: tokenizers.Tokenizer
) -> None:
    """Write the tokenizer's files into ``out``.

    A .model of another name (T5's spiece.model, XGLM's with its shifted ids) is left out: tokenizer.json is what
    transformers reads, and a file that lacks the new pieces would be wrong.
    """
    description = description_of(base)
    scores = scores_of(pieces, description, tokenizer)
    for file in files:
        if file.name == MODEL:
            content = extended_model(file.read_bytes(), _as_tokens(description), [p.text for p in pieces], scores)
            (out / file.name).write_bytes(content)
        elif file.suffix != ".model" and file.name != "tokenizer.json":
            shutil.copyfile(file, out / file.name)
    (out / "tokenizer.json").write_text(
        json.dumps(extended(description, pieces, scores), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def _as_tokens(description: Json) -> Json:
    """Return the description with its vocabulary as a mapping, as the BPE kinds have it."""
    vocab = {piece: number for number, (piece, _) in enumerate(description["model"]["vocab"])}
    return {**description, "model": {**description["model"], "vocab": vocab}}
