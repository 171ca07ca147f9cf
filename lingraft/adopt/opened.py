"""Open what `adopt` is given: any format that lingraft reads, and bare tensors under Meta's names.

Meta's q and k lie in another rotary layout, whose rows belong to a number of heads that only params.json tells.
Without one the layout is undone later, for each head size that is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lingraft.problems import Findings, refuse
from lingraft.weights import hf, names, pickles, safetensors
from lingraft.weights.formats import detect, open_checkpoint
from lingraft.weights.rotary import hf_from_pairs, reordered
from lingraft.weights.shards import shards_of
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, header


@dataclass(frozen=True)
class Source:
    """A checkpoint with every tensor that its files hold, buffers too; ``pairs``: q and k in Meta's layout."""

    checkpoint: Checkpoint
    entries: Mapping[str, Entry]
    pairs: bool = False


def open_source(src: Path) -> Source:
    """Open a path. Errors: `not-found`, `unknown-format`, and what the readers refuse."""
    if not src.exists():
        refuse("not-found", f"{src} does not exist", "check the path", src)
    form = detect(src)
    if form == "adapter":
        refuse(
            "unsupported-adapter",
            f"{src} is an adapter, not a model",
            "merge it: lingraft merge BASE ADAPTER --out DIR",
            src,
        )
    if form == "state_dict" and (file := _single(src)) is not None:
        raw = safetensors.read_file(file) if file.suffix == ".safetensors" else pickles.read_file(file)
        plain = names.without_wrappers(raw.entries)
        if names.is_meta(plain):
            found = names.to_hf(plain)
            folder = file.parent
            checkpoint = Checkpoint(src, "state_dict", Lazy(found), {}, hf.side_files(folder))
            return Source(checkpoint, found, pairs=True)
    checkpoint = open_checkpoint(src)
    entries = {name: header(checkpoint.tensors, name) for name in checkpoint.tensors}
    return Source(checkpoint, names.without_wrappers(entries | _buffers(src, form)))


def _single(src: Path) -> Path | None:
    """Return the only weight file of a path, or None."""
    if src.is_file():
        return src
    files = [file for file in src.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    return files[0] if len(files) == 1 else None


def _buffers(src: Path, form: str | None) -> dict[str, Entry]:
    """Return the buffers of a model directory, which its reader leaves out: old ones tell the rotary base."""
    if form != "hf":
        return {}
    found: dict[str, Entry] = {}
    for file in shards_of(src, Findings()).files:
        raw = safetensors.read_file(file) if file.suffix == ".safetensors" else pickles.read_file(file)
        found |= {name: entry for name, entry in raw.entries.items() if name.endswith("inv_freq")}
    return found


def in_hf_layout(entries: Mapping[str, Entry], head_dim: int) -> dict[str, Entry]:
    """Return Meta's q and k in Hugging Face's rotary layout, for one size of head."""
    return {
        name: reordered(entry, hf_from_pairs(entry.shape[0], entry.shape[0] // head_dim))
        if ".q_proj." in name or ".k_proj." in name
        else entry
        for name, entry in entries.items()
    }
