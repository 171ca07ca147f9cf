"""Extend a byte-level BPE tokenizer (SmolLM2, Llama-3, Qwen: tokenizer.json) by merges or by whole words.

Old ids, old merges and their ranks stay; new pieces take the ids after the last old one (special tokens count:
Llama-3's and Qwen's stand behind the BPE vocabulary). Merges follow the old merges; words become added tokens that
are not special and match longest first. Either way text without Han characters cannot meet a new piece.
Every other file of the tokenizer is copied, and those that repeat the vocabulary are extended too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.vocab.learn import Pieces
from lingraft.vocab.learn_bpe import Merge
from lingraft.weights.hf import read_json

Json = dict[str, Any]


def is_byte_bpe(description: Json) -> bool:
    """Tell whether tokenizer.json's content is a byte-level BPE (not SentencePiece-like with byte fallback)."""
    model = description.get("model") or {}
    return model.get("type", "BPE") == "BPE" and "ByteLevel" in json.dumps(description.get("decoder"))


def spaces_texts(description: Json) -> bool:
    """Tell whether a space is put before every text, which also means behind every added token."""
    return '"add_prefix_space": true' in json.dumps(description.get("pre_tokenizer"))


def size_of(description: Json) -> int:
    """Return one more than the highest id: where new pieces begin."""
    ids: list[int] = list(description["model"]["vocab"].values())
    return max([*ids, *(int(token["id"]) for token in description.get("added_tokens") or ())]) + 1


def extended(description: Json, pieces: Pieces) -> Json:
    """Return tokenizer.json's content with the new pieces."""
    start = size_of(description)
    merges = [piece for piece in pieces if isinstance(piece, Merge)]
    if merges:
        return _with_merges(description, merges, start)
    added = [_added(piece.text, start + place) for place, piece in enumerate(pieces)]
    return {**description, "added_tokens": [*(description.get("added_tokens") or ()), *added]}


def _with_merges(description: Json, merges: Sequence[Merge], start: int) -> Json:
    """Put merges behind the old ones.

    Added tokens that the BPE vocabulary skips are named in it as well, so that it has no gaps: rebuilding
    tokenizers number what they add by its size. They stay unreachable by merging.
    """
    model = dict(description["model"])
    vocab = dict(model["vocab"])
    for token in description.get("added_tokens") or ():
        vocab.setdefault(token["content"], token["id"])
    vocab.update(_ids(merges, start))
    as_pairs = not model["merges"] or not isinstance(model["merges"][0], str)
    new = [[m.left, m.right] if as_pairs else f"{m.left} {m.right}" for m in merges]
    return {**description, "model": {**model, "vocab": vocab, "merges": [*model["merges"], *new]}}


def _ids(pieces: Pieces, start: int) -> dict[str, int]:
    names = [piece.token if isinstance(piece, Merge) else piece.text for piece in pieces]
    return {name: start + place for place, name in enumerate(names)}


def _added(text: str, number: int | None = None) -> Json:
    flags = {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }
    return flags if number is None else {"id": number, **flags}


def write_tokenizer(base: Path, out: Path, files: Sequence[Path], pieces: Pieces) -> None:
    """Write the tokenizer's files into ``out``: copied byte for byte, but for those that hold the vocabulary."""
    description = read_description(base)
    start = size_of(description)
    as_merges = any(isinstance(piece, Merge) for piece in pieces)
    for file in files:
        target = out / file.name
        if file.name == "tokenizer.json":
            _dump(target, extended(description, pieces))
        elif file.name == ("vocab.json" if as_merges else "added_tokens.json"):
            _dump(target, {**read_json(file), **_ids(pieces, start)})
        elif file.name == "merges.txt" and as_merges:
            rows = [f"{piece.left} {piece.right}" for piece in pieces if isinstance(piece, Merge)]
            text = file.read_text(encoding="utf-8").rstrip("\n")
            target.write_text("\n".join([text, *rows]) + "\n", encoding="utf-8")
        elif file.name == "tokenizer_config.json" and not as_merges and "added_tokens_decoder" in read_json(file):
            config = read_json(file)
            more = {str(start + place): _added(piece.text) for place, piece in enumerate(pieces)}
            _dump(target, {**config, "added_tokens_decoder": {**config["added_tokens_decoder"], **more}})
        else:
            shutil.copyfile(file, target)


def read_description(base: Path) -> Json:
    """Return tokenizer.json's content. Error: `tokenizer-mismatch` where the base has none."""
    path = base / "tokenizer.json"
    if not path.is_file():
        refuse("tokenizer-mismatch", f"{base} has no tokenizer.json", "put the model's tokenizer files beside it", base)
    return read_json(path)


def _dump(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
