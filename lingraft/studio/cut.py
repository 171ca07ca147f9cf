"""Cut a sentence by a tokenizer into the pieces that a model reads, byte tokens told apart from whole characters."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lingraft.problems import refuse

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Piece:
    """One token: its id, and its text, or the bytes in hexadecimal where it is only a part of a character."""

    id: int
    text: str
    whole: bool


@dataclass(frozen=True)
class Cut:
    """A text in pieces."""

    name: str
    size: int
    pieces: tuple[Piece, ...]
    characters: int

    @property
    def tokens_per_character(self) -> float:
        return len(self.pieces) / max(1, self.characters)

    @property
    def byte_share(self) -> float:
        return sum(not p.whole for p in self.pieces) / max(1, len(self.pieces))


def cut(path: Path, text: str) -> Cut:
    """Cut ``text``; special tokens are not added, newlines count as characters.

    Errors: `not-found`, `unknown-format`, `tokenizer-mismatch`.
    """
    from lingraft.vocab.unite import tokenizer_file

    file = tokenizer_file(path)
    size, pieces = _opened(file, file.stat().st_mtime)
    return Cut(path.name, size, pieces(text), len(text))


@lru_cache(8)
def _opened(file: Path, _: float) -> tuple[int, Callable[[str], tuple[Piece, ...]]]:
    return _sentencepiece(file) if file.suffix == ".model" else _fast(file)


def _sentencepiece(file: Path) -> tuple[int, Callable[[str], tuple[Piece, ...]]]:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        refuse("tokenizer-mismatch", f"{file} is not a SentencePiece model: {error}", "fetch it again", file)
    return model.get_piece_size(), lambda text: tuple(_marked(i, model.id_to_piece(i)) for i in model.encode(text))


def _fast(file: Path) -> tuple[int, Callable[[str], tuple[Piece, ...]]]:
    import tokenizers

    from lingraft.vocab.extend_bpe import is_byte_bpe
    from lingraft.weights.hf import read_json

    try:
        fast = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        refuse("tokenizer-mismatch", f"{file} cannot be loaded: {error}", "fetch the tokenizer again", file)
    make = _spelled if is_byte_bpe(read_json(file)) else _marked

    def pieces(text: str) -> tuple[Piece, ...]:
        found = fast.encode(text, add_special_tokens=False)
        return tuple(make(i, token) for i, token in zip(found.ids, found.tokens, strict=True))

    return fast.get_vocab_size(), pieces


def _spelled(number: int, token: str) -> Piece:
    """Read a token of byte-level BPE: its letters stand for bytes."""
    from lingraft.vocab.learn_bpe import to_bytes

    raw = to_bytes(token)
    try:
        return Piece(number, raw.decode(), True)
    except UnicodeDecodeError:
        return Piece(number, raw.hex(" ").upper(), False)


def _marked(number: int, token: str) -> Piece:
    """Read a token of SentencePiece: ▁ is a space, <0xE4> a byte."""
    byte = _BYTE.fullmatch(token)
    return Piece(number, byte[1], False) if byte else Piece(number, token.replace("▁", " "), True)
