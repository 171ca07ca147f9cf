"""How many tokens a tokenizer has, counted from its files without loading transformers.

What matters for the rows of an embedding is the highest id, not how many entries there are: `size` is that + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights.headers import first_bytes, refuse_pointer
from lingraft.weights.json_file import read_json


@dataclass(frozen=True)
class Tokenizer:
    """What one tokenizer file holds: ``size`` is its highest id + 1, added tokens included."""

    file: Path
    size: int


def tokenizer_of(folder: Path, findings: Findings) -> Tokenizer | None:
    """Count the tokenizer of a folder as `AutoTokenizer` would load it; tokenizer.json comes first.

    Problems: `lfs-pointer`, `corrupt-file`. Warning: `tokenizer-mismatch` where two files of one folder disagree
    (a stale tokenizer.json beside a newer tokenizer.model is what gets loaded).
    """
    counted: list[Tokenizer] = []
    added = added_ids(folder, findings)
    for name, count in READERS.items():
        file = folder / name
        if not file.is_file():
            continue
        try:
            refuse_pointer(file)
            counted.append(Tokenizer(file, max(count(file), added)))
        except Refusal as refusal:
            findings.absorb(refusal)
    _compare(counted, findings)
    return counted[0] if counted else None


def size_of_file(file: Path) -> int:
    """Count one tokenizer file by its name. Errors: `lfs-pointer`, `corrupt-file`, `unknown-format`."""
    refuse_pointer(file)
    if file.name in READERS:
        return READERS[file.name](file)
    if file.suffix == ".model":
        return _sentencepiece(file)
    return refuse("unknown-format", f"{file} is no tokenizer file that lingraft reads", "check what it is", file)


def _compare(counted: list[Tokenizer], findings: Findings) -> None:
    if len({item.size for item in counted}) > 1:
        told = ", ".join(f"{item.file.name} has {item.size:,} tokens" for item in counted)
        findings.warn(
            "tokenizer-mismatch",
            f"{counted[0].file.parent}: {told}; {counted[0].file.name} is loaded",
            "delete or regenerate the stale file",
            counted[0].file,
        )


def added_ids(folder: Path, findings: Findings) -> int:
    """Return the highest id + 1 among added_tokens.json and tokenizer_config.json (0 where there are none)."""
    highest = -1
    for name in ("added_tokens.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        try:
            value = read_json(folder / name)
        except Refusal as refusal:
            findings.absorb(refusal)
            continue
        ids = value.get("added_tokens_decoder", {}) if name == "tokenizer_config.json" else value.values()
        highest = max([highest, *(int(i) for i in ids if str(i).isdigit())])
    return highest + 1


def _fast(file: Path) -> int:
    value = read_json(file)
    model = value.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocab, (dict, list)):
        refuse("corrupt-file", f"{file} has no model.vocab", "restore the file from its source", file)
    highest = max(vocab.values(), default=-1) if isinstance(vocab, dict) else len(vocab) - 1
    added = [int(item["id"]) for item in value.get("added_tokens") or [] if "id" in item]
    return int(max([highest, *added])) + 1


def _sentencepiece(file: Path) -> int:
    if _is_tiktoken(file):
        return sum(1 for row in file.read_bytes().splitlines() if row.strip())
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(file.read_bytes())
        return int(processor.GetPieceSize())
    except (RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()
        refuse(
            "corrupt-file",
            f"{file} is no SentencePiece model: {why[-1] if why else 'it cannot be parsed'}",
            "download the file again",
            file,
        )


def _is_tiktoken(file: Path) -> bool:
    """Llama-3's tokenizer.model is a text file: a base64 token and its rank on each line."""
    row = first_bytes(file).split(b"\n", 1)[0].split(b" ")
    return len(row) == 2 and row[1].strip().isdigit()


def _vocab_json(file: Path) -> int:
    ids = [int(i) for i in read_json(file).values() if isinstance(i, int)]
    if not ids:
        refuse("corrupt-file", f"{file} maps no token to an id", "restore the file from its source", file)
    return max(ids) + 1


def _lines(file: Path) -> int:
    return file.read_text(encoding="utf-8", errors="replace").count("\n")


def _tekken(file: Path) -> int:
    value: dict[str, Any] = read_json(file)
    config = value.get("config", {})
    return int(config.get("default_vocab_size") or len(value.get("vocab", [])))


READERS = {
    "tokenizer.json": _fast,
    "tokenizer.model": _sentencepiece,
    "spiece.model": _sentencepiece,
    "sentencepiece.bpe.model": _sentencepiece,
    "vocab.json": _vocab_json,
    "vocab.txt": _lines,
    "tekken.json": _tekken,
    "tokenizer.tiktoken": _lines,
}
