"""A SentencePiece BPE model as tokenizer.json, encoding exactly as SentencePiece and llama.cpp do.

transformers can build one from tokenizer.model itself, but since version 5 it swallows one of several leading
spaces; this is the form in which Llama 2 was published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lingraft.weights.sentencepieces import Piece

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def tokenizer_json(
    pieces: Sequence[Piece], add_space_prefix: bool, before: int | None = None, after: int | None = None
) -> dict[str, Any]:
    """Return tokenizer.json's content; ``before`` and ``after`` are the ids put around a text, if any."""
    vocab: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        vocab.setdefault(piece.text, number)
    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if add_space_prefix else []
    prepend = [{"type": "Prepend", "prepend": SPACE}] if add_space_prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(i, p.text, p.kind != USER) for i, p in enumerate(pieces) if p.kind in (UNKNOWN, CONTROL, USER)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": around([(pieces[i].text, i) if i is not None else None for i in (before, after)]),
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": any(p.kind == BYTE for p in pieces),
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges(pieces),
        },
    }


def merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """Return every pair of pieces that makes a piece, the best-scored result first: SentencePiece's order."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    found = []
    for text, score in scores.items():
        found += [
            (-score, number, text[:cut], text[cut:])
            for number, cut in enumerate(range(1, len(text)))
            if text[:cut] in scores and text[cut:] in scores
        ]
    order = {text: number for number, text in enumerate(scores)}
    found.sort(key=lambda item: (item[0], order[item[2] + item[3]], item[1]))
    return [[left, right] for _, _, left, right in found]


def added_token(number: int, content: str, special: bool) -> dict[str, Any]:
    """Return an added token as tokenizer.json lists it."""
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def around(ends: Sequence[tuple[str, int] | None]) -> dict[str, Any] | None:
    """Return the post-processor that puts tokens before and after every text, or None where there are none."""
    before, after = ends
    if before is None and after is None:
        return None

    def template(*sequences: tuple[str, int]) -> list[Mapping[str, Any]]:
        items: list[Mapping[str, Any]] = []
        for name, segment in sequences:
            items += [{"SpecialToken": {"id": before[0], "type_id": segment}}] if before else []
            items += [{"Sequence": {"id": name, "type_id": segment}}]
            items += [{"SpecialToken": {"id": after[0], "type_id": segment}}] if after else []
        return items

    used = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in filter(None, ends)}
    return {
        "type": "TemplateProcessing",
        "single": template(("A", 0)),
        "pair": template(("A", 0), ("B", 1)),
        "special_tokens": used,
    }
