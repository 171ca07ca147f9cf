"""The base's tokenizer, of either kind: how it learns pieces, what they were before, how it is written larger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from lingraft.problems import refuse
from lingraft.vocab import extend_bpe, extend_sentencepiece, extend_unigram, learn, learn_sentencepiece
from lingraft.vocab.learn import Pieces
from lingraft.vocab.learn_bpe import to_bytes
from lingraft.vocab.unite import SPACE


class BaseTokenizer(Protocol):
    """What the vocabulary stage asks of a tokenizer."""

    @property
    def size(self) -> int:
        """One more than the highest id."""

    @property
    def fast(self) -> tokenizers.Tokenizer:
        """The tokenizer as it is before."""

    def known(self) -> set[str]:
        """Return the texts of its pieces, a space as ▁."""

    def learn(self, runs: Mapping[str, int], size: int) -> Pieces:
        """Return at most ``size`` new pieces, the most useful first."""

    def old_pieces(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the old ids that each text takes inside a text."""

    def reachable(self, texts: Sequence[str]) -> list[str]:
        """Return those of the texts that encoding can come to, were they all pieces."""

    def write(self, out: Path, files: Sequence[Path], pieces: Pieces) -> None:
        """Write the larger tokenizer's files."""


@dataclass(frozen=True)
class ByteBpe:
    """Byte-level BPE: SmolLM2, Llama-3, Qwen."""

    base: Path
    description: dict[str, Any]
    fast: tokenizers.Tokenizer

    @property
    def size(self) -> int:
        return extend_bpe.size_of(self.description)

    def known(self) -> set[str]:
        return {to_bytes(token).decode("utf-8", "replace").replace(" ", SPACE) for token in self.fast.get_vocab()}

    def learn(self, runs: Mapping[str, int], size: int) -> Pieces:
        return learn.learn(runs, self.fast, size, extend_bpe.spaces_texts(self.description))

    def old_pieces(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return learn.old_pieces([text.replace(SPACE, " ") for text in texts], self.fast)

    def reachable(self, texts: Sequence[str]) -> list[str]:
        if extend_bpe.spaces_texts(self.description):
            refuse(
                "tokenizer-mismatch",
                f"{self.base}: its tokenizer puts a space before every text (add_prefix_space), which would then stand "
                "behind each new word, too",
                "learn pieces from a corpus instead: those become merges",
                self.base / "tokenizer.json",
            )
        return list(texts)

    def write(self, out: Path, files: Sequence[Path], pieces: Pieces) -> None:
        extend_bpe.write_tokenizer(self.base, out, files, pieces)


@dataclass(frozen=True)
class SentencePiece:
    """SentencePiece BPE with byte fallback: Llama-2, Mistral."""

    base: Path
    description: dict[str, Any]
    fast: tokenizers.Tokenizer

    @property
    def size(self) -> int:
        return extend_bpe.size_of(self.description)

    def known(self) -> set[str]:
        return set(self.fast.get_vocab())

    def learn(self, runs: Mapping[str, int], size: int) -> Pieces:
        return learn_sentencepiece.learn(runs, self.known(), lambda t: [len(i) for i in self.old_pieces(t)], size)

    def old_pieces(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return extend_sentencepiece.old_pieces(texts, self.fast)

    def reachable(self, texts: Sequence[str]) -> list[str]:
        """Leave out what holds a character that is no piece: SentencePiece would join it, tokenizers its bytes not."""
        known = self.known() | set(texts)
        return [text for text in texts if all(char in known for char in text)]

    def write(self, out: Path, files: Sequence[Path], pieces: Pieces) -> None:
        extend_sentencepiece.write_tokenizer(self.base, out, files, [piece.text for piece in pieces])


@dataclass(frozen=True)
class Unigram:
    """Unigram with scores: XGLM, and SentencePiece models of that type."""

    base: Path
    description: dict[str, Any]
    fast: tokenizers.Tokenizer

    @property
    def size(self) -> int:
        return extend_unigram.size_of(self.description)

    def known(self) -> set[str]:
        return set(self.fast.get_vocab())

    def learn(self, runs: Mapping[str, int], size: int) -> Pieces:
        return learn_sentencepiece.learn(runs, self.known(), self._costs, size, "unigram")

    def _costs(self, texts: Sequence[str]) -> list[int]:
        """Count old tokens; where a character is unknown, which loses it, as many as its bytes would be."""
        unknown = self.description["model"].get("unk_id")
        return [
            3 * len(text) if unknown in ids else len(ids)
            for text, ids in zip(texts, self.old_pieces(texts), strict=True)
        ]

    def old_pieces(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return extend_sentencepiece.old_pieces(texts, self.fast)

    def reachable(self, texts: Sequence[str]) -> list[str]:
        return list(texts)

    def write(self, out: Path, files: Sequence[Path], pieces: Pieces) -> None:
        extend_unigram.write_tokenizer(self.base, out, files, pieces, self.fast)


def read(base: Path) -> BaseTokenizer:
    """Open a base directory's tokenizer. Error: `tokenizer-mismatch` for none, or one of another kind."""
    with_scores = extend_sentencepiece.knows(base)
    description = extend_sentencepiece.description_of(base) if with_scores else extend_bpe.read_description(base)
    kind = (description.get("model") or {}).get("type", "BPE")
    if kind == "Unigram":
        return Unigram(base, description, _fast(description, base))
    if kind != "BPE" or not (with_scores or extend_bpe.is_byte_bpe(description)):
        refuse(
            "tokenizer-mismatch",
            f"{base}: its tokenizer ({kind}) is neither byte-level BPE nor SentencePiece's BPE or unigram",
            "only these three kinds can be extended",
            base,
        )
    return (SentencePiece if with_scores else ByteBpe)(base, description, _fast(description, base))


def _fast(description: dict[str, Any], base: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # tokenizers raises bare Exception
        refuse(
            "tokenizer-mismatch",
            f"{base / 'tokenizer.json'} cannot be loaded: {error}",
            "fetch the tokenizer again",
            base / "tokenizer.json",
        )
