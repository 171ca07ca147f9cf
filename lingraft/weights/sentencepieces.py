"""Build and read SentencePiece model files (tokenizer.model) from bare pieces, scores and kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """One piece; ``kind`` counts as SentencePiece and GGUF both do: 1 normal, 2 unknown, 3 control, 4 user, 6 byte."""

    text: str
    score: float
    kind: int


def model_bytes(pieces: Sequence[Piece], numbers: Mapping[str, int], add_space_prefix: bool = True) -> bytes:
    """Return a BPE model file; ``numbers`` gives the ids of unk, bos, eos and pad where there are any."""
    from sentencepiece import sentencepiece_model_pb2 as pb2

    model = pb2.ModelProto()
    for piece in pieces:
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.kind)
    spec = model.trainer_spec
    spec.model_type = pb2.TrainerSpec.BPE
    spec.vocab_size = len(pieces)
    spec.byte_fallback = any(piece.kind == 6 for piece in pieces)
    for role in ("unk", "bos", "eos", "pad"):
        setattr(spec, f"{role}_id", numbers.get(role, -1))
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == 2), None)
    if unknown is not None:
        spec.unk_id = unknown
    spec.unk_piece = pieces[spec.unk_id].text if 0 <= spec.unk_id < len(pieces) else "<unk>"
    for role in ("bos", "eos", "pad"):
        number = getattr(spec, f"{role}_id")
        if 0 <= number < len(pieces):
            setattr(spec, f"{role}_piece", pieces[number].text)
    norm = model.normalizer_spec
    norm.name = "identity"
    norm.add_dummy_prefix = add_space_prefix
    norm.remove_extra_whitespaces = False
    norm.escape_whitespaces = True
    return bytes(model.SerializeToString())


def read_pieces(content: bytes) -> tuple[list[Piece], bool]:
    """Return a model file's pieces, and whether it puts a space before the text."""
    from sentencepiece import sentencepiece_model_pb2 as pb2

    model = pb2.ModelProto.FromString(content)
    return [Piece(p.piece, p.score, p.type) for p in model.pieces], bool(model.normalizer_spec.add_dummy_prefix)
