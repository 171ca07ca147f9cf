"""Extend a byte-level BPE tokenizer (SmolLM2, Llama-3, Qwen: tokenizer.json) by new merges.

Old ids, old merges and their ranks stay; new merges follow them, new pieces take the ids after the last old one
(special tokens count: Llama-3's and Qwen's stand behind the BPE vocabulary). Every other file of the tokenizer
is kept, and those that repeat the vocabulary (vocab.json, merges.txt) are extended too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.vocab.learn_bpe import Merge
from lingraft.weights.hf import read_json


def is_byte_bpe(description: dict[str, Any]) -> bool:
    """Tell whether tokenizer.json's content is a byte-level BPE (not SentencePiece-like with byte fallback)."""
    model = description.get("model") or {}
    return model.get("type", "BPE") == "BPE" and "ByteLevel" in json.dumps(description.get("decoder"))


def size_of(description: dict[str, Any]) -> int:
    """Return one more than the highest id: where new pieces begin."""
    ids: list[int] = list(description["model"]["vocab"].values())
    return max([*ids, *(int(token["id"]) for token in description.get("added_tokens") or ())]) + 1


def extended(description: dict[str, Any], merges: Sequence[Merge]) -> dict[str, Any]:
    """Return tokenizer.json's content with the new merges behind the old ones.

    Added tokens that the BPE vocabulary skips are named in it as well, so that it has no gaps: rebuilding
    tokenizers number what they add by its size. They stay unreachable by merging.
    """
    model = dict(description["model"])
    vocab = dict(model["vocab"])
    start = size_of(description)
    for token in description.get("added_tokens") or ():
        vocab.setdefault(token["content"], token["id"])
    for place, merge in enumerate(merges):
        if merge.token in vocab:
            raise ValueError(f"{merge.token!r} is in the vocabulary already")
        vocab[merge.token] = start + place
    as_pairs = not model["merges"] or not isinstance(model["merges"][0], str)
    new = [[m.left, m.right] if as_pairs else f"{m.left} {m.right}" for m in merges]
    return {**description, "model": {**model, "vocab": vocab, "merges": [*model["merges"], *new]}}


def write_tokenizer(base: Path, out: Path, files: Sequence[Path], merges: Sequence[Merge]) -> None:
    """Write the tokenizer's files into ``out``: copied byte for byte, but for those that hold the vocabulary."""
    for file in files:
        if file.name == "tokenizer.json":
            _dump(out / file.name, extended(read_json(file), merges))
        elif file.name == "vocab.json":
            old = read_json(file)
            start = size_of(read_json(base / "tokenizer.json"))
            _dump(out / file.name, {**old, **{m.token: start + i for i, m in enumerate(merges)}})
        elif file.name == "merges.txt":
            text = file.read_text(encoding="utf-8").rstrip("\n")
            rows = "".join(f"\n{m.left} {m.right}" for m in merges)
            (out / file.name).write_text(f"{text}{rows}\n", encoding="utf-8")
        else:
            shutil.copyfile(file, out / file.name)


def read_description(base: Path) -> dict[str, Any]:
    """Return tokenizer.json's content. Error: `tokenizer-mismatch` where the base has none."""
    path = base / "tokenizer.json"
    if not path.is_file():
        refuse("tokenizer-mismatch", f"{base} has no tokenizer.json", "put the model's tokenizer files beside it", base)
    return read_json(path)


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
