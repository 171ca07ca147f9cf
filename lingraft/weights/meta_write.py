"""Write Meta's checkpoints: any number of consolidated shards in one pass over the tensors.

Every tensor is read once, in blocks of rows, and each block is dealt out to all shards (see `meta` for the cuts).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.output import write_json
from lingraft.problems import refuse
from lingraft.weights.fingerprint import is_buffer, raw_bytes
from lingraft.weights.llama_shape import require_config
from lingraft.weights.meta import Cut, cut_of
from lingraft.weights.meta_names import meta_name, params_from
from lingraft.weights.rotary import pairs_from_hf, reordered, theta_and_scaling
from lingraft.weights.tensors import Checkpoint, Entry, Tensor, header, row_blocks
from lingraft.weights.tied import EMBEDDING, HEAD
from lingraft.weights.torch_zip import Planned, TorchZip

BLOCK = 32 << 20
LLAMA3_THETA = 500000.0  # from Llama 3 on, the embedding is cut by rows


@dataclass(frozen=True)
class _Piece:
    """How one tensor goes into the shards: its source in Meta's layout and where it is cut."""

    entry: Entry
    cut: Cut
    edges: tuple[int, ...]

    def shape(self, shard: int) -> tuple[int, ...]:
        size = self.edges[shard + 1] - self.edges[shard]
        rows, rest = self.entry.shape[0], self.entry.shape[1:]
        return {"rows": (size, *rest), "columns": (rows, size), "whole": self.entry.shape}[self.cut]


def write(
    checkpoint: Checkpoint, out: Path, shards: int = 1, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Write ``shards`` consolidated files, params.json and the tokenizer into the existing folder ``out``.

    Returns {"shards"}.
    Errors: `unknown-format` for anything but a Llama, `config-mismatch` for heads that cannot be cut so.
    """
    config = checkpoint.config
    if config.get("model_type") not in ("llama", "mistral"):
        refuse(
            "unknown-format",
            f"{checkpoint.path}: Meta's format holds Llamas, not {config.get('model_type')!r}",
            "convert to hf or gguf",
            checkpoint.path,
        )
    require_config(config, checkpoint.tensors, checkpoint.path)
    pieces = _pieces(checkpoint, shards)
    with ExitStack() as stack:
        files = []
        for i in range(shards):
            plan = {name: Planned(piece.entry.dtype, piece.shape(i)) for name, piece in pieces.items()}
            files.append(stack.enter_context(TorchZip(out / f"consolidated.{i:02d}.pth", plan)))
        for name, piece in pieces.items():
            _write_piece(name, piece, files, progress)
    rows = pieces["tok_embeddings.weight"].entry.shape[0]
    write_json(out / "params.json", params_from({**config, "vocab_size": rows}))
    for file_name, content in checkpoint.made().items():
        (out / file_name).write_bytes(content)
    for file in checkpoint.side_files:
        shutil.copyfile(file, out / file.name)
    return {"shards": shards}


def _pieces(checkpoint: Checkpoint, shards: int) -> dict[str, _Piece]:
    config, weights = checkpoint.config, checkpoint.tensors
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    _check_cuts(
        checkpoint.path,
        shards,
        {"attention heads": heads, "key/value heads": kv, "feed-forward rows": config["intermediate_size"]},
    )
    names = [name for name in weights if not is_buffer(name)]
    pieces = {}
    for name in names + ([HEAD] if HEAD not in weights else []):
        meta = meta_name(name)
        if meta is None:
            refuse(
                "unknown-format",
                f"tensor {name} has no place in Meta's format",
                "convert to hf or gguf",
                checkpoint.path,
                name,
            )
        entry = header(weights, name if name in weights else EMBEDDING)  # Meta's code has no tied head
        if ".q_proj." in name or ".k_proj." in name:
            entry = reordered(entry, pairs_from_hf(entry.shape[0], heads if ".q_proj." in name else kv))
        cut = cut_of(name)
        if name == EMBEDDING:
            cut = "rows" if theta_and_scaling(config)[0] >= LLAMA3_THETA else "columns"
        size = entry.shape[1 if cut == "columns" else 0]
        pieces[meta] = _Piece(entry, cut, (*(size // shards * i for i in range(shards)), size))
    return pieces


def _check_cuts(path: Path, shards: int, widths: Mapping[str, int]) -> None:
    for what, count in widths.items():
        if shards < 1 or count % shards:
            refuse(
                "config-mismatch",
                f"{count} {what} cannot be cut into {shards} shards",
                "choose a number of shards that divides it",
                path,
            )


def _write_piece(name: str, piece: _Piece, files: Sequence[TorchZip], progress: Callable[[int], object] | None) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(file.member(name)) for file in files]
        for start, stop in row_blocks(piece.entry.shape, piece.entry.dtype.itemsize, BLOCK):
            block = piece.entry.read(start, stop)
            for i, member in enumerate(members):
                member.write(raw_bytes(_share(piece, block, start, i)))
            if progress is not None:
                progress(block.nbytes)


def _share(piece: _Piece, block: Tensor, start: int, shard: int) -> Tensor:
    low, high = piece.edges[shard], piece.edges[shard + 1]
    if piece.cut == "columns":
        return block[:, low:high]
    if piece.cut == "rows":
        return block[max(low - start, 0) : max(high - start, 0)]
    return block
