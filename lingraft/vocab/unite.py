"""Take the pieces of a ready-made tokenizer instead of learning some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lingraft.problems import refuse
from lingraft.vocab.extend_bpe import is_byte_bpe
from lingraft.vocab.han import has_han
from lingraft.vocab.learn_bpe import to_bytes
from lingraft.weights.hf import read_json
from lingraft.weights.sentencepieces import read_pieces

SPACE = "▁"  # SentencePiece's mark for a space
_NORMAL = 1


def pieces_of(path: Path) -> list[str]:
    """Return a tokenizer's ordinary pieces in the order of their ids, spaces written as ▁.

    ``path`` is a .model file, a tokenizer.json, or a directory with one of them.
    Errors: `not-found`, `unknown-format`, `corrupt-file`.
    """
    file = tokenizer_file(path)
    if file.suffix == ".model":
        from google.protobuf.message import DecodeError

        try:
            found, _ = read_pieces(file.read_bytes())
        except DecodeError:
            refuse("corrupt-file", f"{file} is not a SentencePiece model", "fetch it again", file)
        return [piece.text for piece in found if piece.kind == _NORMAL]
    description = read_json(file)
    model = description.get("model") or {}
    special = {token["content"] for token in description.get("added_tokens") or () if token.get("special")}
    vocab = model.get("vocab") or {}
    if not isinstance(vocab, dict):  # unigram: a list of [piece, score]
        vocab = {piece: place for place, (piece, _) in enumerate(vocab)}
    order = [token for token in sorted(vocab, key=lambda token: int(vocab[token])) if token not in special]
    return [text for token in order if (text := _spelled(token))] if is_byte_bpe(description) else order


def new_pieces(pieces: Sequence[str], known: set[str], all_pieces: bool) -> list[str]:
    """Return the pieces that the base has not, without those that could change text without Han."""
    return [text for text in dict.fromkeys(pieces) if text not in known and (all_pieces or has_han(text))]


def _spelled(token: str) -> str | None:
    try:
        return to_bytes(token).decode().replace(" ", SPACE)
    except UnicodeDecodeError:
        return None  # a part of a character


def tokenizer_file(path: Path) -> Path:
    """Return the file that holds a tokenizer. Errors: `not-found`, `unknown-format`."""
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "check the path of the tokenizer", path)
    if path.is_file() and path.suffix in (".model", ".json"):
        return path
    found = next((path / name for name in ("tokenizer.model", "tokenizer.json") if (path / name).is_file()), None)
    if found is None:
        refuse(
            "unknown-format",
            f"{path} holds no tokenizer.model and no tokenizer.json",
            "name a SentencePiece .model file, a tokenizer.json, or a directory with one",
            path,
        )
    return found
