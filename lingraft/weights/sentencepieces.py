"""Build and read SentencePiece model files (tokenizer.model) from bare pieces, scores and kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


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


def told_to_transformers(content: bytes) -> dict[str, Any]:
    """Return the tokenizer_config.json that a bare BPE model file needs; empty for another kind.

    Without it transformers puts neither the first token nor the first space before a text, as SentencePiece and
    the training did.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as pb2

    try:
        model = pb2.ModelProto.FromString(content)
    except DecodeError:  # Llama 3's tokenizer.model is tiktoken's
        return {}
    spec = model.trainer_spec
    if spec.model_type != pb2.TrainerSpec.BPE:
        return {}
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": spec.bos_id >= 0,
        "add_eos_token": False,
        "add_prefix_space": model.normalizer_spec.add_dummy_prefix,
        "bos_token": spec.bos_piece,
        "eos_token": spec.eos_piece,
        "unk_token": spec.unk_piece,
    }
