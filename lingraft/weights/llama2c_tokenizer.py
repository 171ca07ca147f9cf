"""llama2.c's tokenizer files: the longest piece's length, then score, length and bytes of every piece.

Their pieces carry spaces where SentencePiece carries ▁, and blank lines around <s> and </s>.
Source: karpathy/llama2.c, tokenizer.py.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from lingraft.problems import refuse
from lingraft.weights.sentencepiece_json import tokenizer_json
from lingraft.weights.sentencepieces import Piece, model_bytes, read_pieces

SPACE = "\u2581"
UNKNOWN, CONTROL, NORMAL, BYTE = 2, 3, 1, 6
SPECIAL = {0: "<unk>", 1: "<s>", 2: "</s>"}


def tokenizer_for(model: Path, vocab: int) -> Path | None:
    """Find the tokenizer file of a model: by the model's name, by its vocabulary, or tokenizer.bin."""
    stem = model.name.removesuffix(".bin")
    names = (f"{stem}.tok{vocab}.bin", f"{stem}.tokenizer.bin", f"tok{vocab}.bin", "tokenizer.bin")
    return next((model.with_name(name) for name in names if model.with_name(name).is_file()), None)


def read_tokenizer(path: Path) -> list[Piece]:
    """Read the pieces of a tokenizer file. Errors: `truncated-file`, `corrupt-file`."""
    raw = path.read_bytes()
    pieces: list[Piece] = []
    at = 4
    while at < len(raw):
        if at + 8 > len(raw):
            break
        score, length = struct.unpack_from("<fi", raw, at)
        at += 8 + length
        if length < 0 or at > len(raw):
            refuse("truncated-file", f"{path} ends inside piece {len(pieces)}", "download the file again", path)
        pieces.append(_piece(len(pieces), raw[at - length : at], score))
    if not pieces or at != len(raw):
        refuse("corrupt-file", f"{path} is no llama2.c tokenizer", "download the file again", path)
    return pieces


def _piece(number: int, raw: bytes, score: float) -> Piece:
    if number in SPECIAL and SPECIAL[number].encode() in raw:
        return Piece(SPECIAL[number], score, UNKNOWN if number == 0 else CONTROL)
    text = raw.decode("utf-8", "replace")
    if re.fullmatch(r"<0x[0-9A-F]{2}>", text):
        return Piece(text, score, BYTE)
    return Piece(text.replace(" ", SPACE), score, NORMAL)


def tokenizer_files(path: Path, context: int) -> dict[str, bytes]:
    """Return the tokenizer in both of Hugging Face's forms, and its settings."""
    pieces = read_tokenizer(path)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    generation = {"_from_model_config": False, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "tokenizer.model": model_bytes(pieces, {"unk": 0, "bos": 1, "eos": 2}),
        "tokenizer.json": _json(tokenizer_json(pieces, add_space_prefix=True, before=1)),
        "tokenizer_config.json": _json(settings),
        "generation_config.json": _json(generation),
    }


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def tokenizer_bytes(model: bytes) -> bytes:
    """Return llama2.c's file for a SentencePiece model (tokenizer.model)."""
    return _packed(read_pieces(model)[0])


def _packed(pieces: Sequence[Piece]) -> bytes:
    texts = [f"\n{p.text}\n" if i in (1, 2) else p.text.replace(SPACE, " ") for i, p in enumerate(pieces)]
    raw = [text.encode() for text in texts]
    body = b"".join(struct.pack("<fi", p.score, len(text)) + text for p, text in zip(pieces, raw, strict=True))
    return struct.pack("<i", max(map(len, raw), default=0)) + body
