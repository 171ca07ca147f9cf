"""Which files make up the weights of a folder, and whether they are all there: indexes and shard numbers.

Looks at names and headers only. Every fault is told, not the first alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingraft.problems import Findings, Refusal
from lingraft.weights.headers import Header
from lingraft.weights.json_file import read_json

NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
STEMS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
Read = Callable[[Path], Mapping[str, Header]]


@dataclass(frozen=True)
class Shards:
    """The weight files of a folder: those that are there, those that should be, and the index if there is one."""

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    index: Path | None = None

    def named(self, file: Path) -> str:
        """Return a file's name as an index writes it: seen from the folder, for some lie in folders below."""
        return file.name if self.index is None else Path(os.path.relpath(file, self.index.parent)).as_posix()


def shards_of(folder: Path, findings: Findings) -> Shards:
    """List a model folder's weight files, safetensors before .bin, as transformers chooses them.

    Problems: `missing-shard` (every one named), `corrupt-file` for an unreadable index.
    """
    for stem, ending in STEMS:
        index = folder / f"{stem}{ending}.index.json"
        if (folder / f"{stem}{ending}").is_file():  # transformers takes it, too, where an index lies beside it
            return Shards((folder / f"{stem}{ending}",))
        if index.is_file():
            return _indexed(folder, index, findings)
        numbered = [f for f in sorted(folder.glob(f"{stem}-*{ending}")) if NUMBERED.fullmatch(f.name)]
        if numbered:
            return _numbered(folder, numbered, findings)
    others = sorted(f for f in folder.glob("*.safetensors") if not f.name.startswith((".", "adapter_model")))
    return _numbered(folder, others, findings) if others else Shards(())


def _indexed(folder: Path, index: Path, findings: Findings) -> Shards:
    try:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            findings.problem("corrupt-file", f"{index} has no weight_map", "download the index again", index)
            weight_map = {}
    except Refusal as refusal:
        findings.absorb(refusal)
        weight_map = {}
    names = sorted({str(value) for value in weight_map.values()})
    if not names:
        return Shards(tuple(sorted(folder.glob(index.name.replace(".index.json", "").replace(".", "*.")))), (), index)
    return _present(folder, names, f"{index.name} names", findings, index)


def _numbered(folder: Path, files: list[Path], findings: Findings) -> Shards:
    found = NUMBERED.fullmatch(files[0].name)
    if found is None:
        return Shards(tuple(files))
    stem, _, total, ending = found.groups()
    names = [f"{stem}-{i:05d}-of-{total}{ending}" for i in range(1, int(total) + 1)]
    return _present(folder, names, "the shards' own numbers promise", findings, None)


def _present(folder: Path, names: list[str], who: str, findings: Findings, index: Path | None) -> Shards:
    missing = tuple(name for name in names if not (folder / name).is_file())
    if missing:
        findings.problem(
            "missing-shard",
            f"{folder}: {who} {len(names)} files; {len(missing)} are missing: {', '.join(missing)}",
            "download the missing shards into the same folder",
            folder / missing[0],
        )
    return Shards(tuple(folder / name for name in names if name not in missing), missing, index)


def check_index(shards: Shards, read: Read, findings: Findings) -> None:
    """Hold an index against the headers of its shards.

    Problem: `corrupt-file` for tensors that no shard holds. Warnings: `corrupt-file` for a wrong total_size and for
    tensors that lie in another shard than the index says, or that it does not name.
    """
    if shards.index is None or shards.missing:
        return
    try:
        listing = read_json(shards.index)
    except Refusal:
        return  # told already
    weight_map: dict[str, str] = listing.get("weight_map") or {}
    held = {name: shards.named(file) for file in shards.files for name in read(file)}
    if any(not read(file) for file in shards.files):
        return  # a damaged shard is told by itself
    absent = sorted(name for name in weight_map if name not in held)
    if absent:
        findings.problem(
            "corrupt-file",
            f"{shards.index} names {len(absent)} tensors that no shard holds: {few(absent)}",
            "download the shards and the index from one version of the repository",
            shards.index,
            absent[0],
        )
    moved = sorted(name for name, file in held.items() if weight_map.get(name, file) != file or name not in weight_map)
    if moved:
        findings.warn(
            "corrupt-file",
            f"{shards.index}: {len(moved)} tensors lie elsewhere than it says: {few(moved)}",
            "write the model again, or repair the index",
            shards.index,
            moved[0],
        )
    _check_total(shards.index, listing, sum(h.nbytes for file in shards.files for h in read(file).values()), findings)


def _check_total(index: Path, listing: Mapping[str, object], total: int, findings: Findings) -> None:
    metadata = listing.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(said, int | float) and int(said) != total:
        findings.warn(
            "corrupt-file",
            f"{index} says total_size {int(said):,}; the tensors have {total:,} bytes",
            "nothing that loads the model reads it; write the model again to repair it",
            index,
        )


def few(names: Sequence[str], most: int = 4) -> str:
    """Join some names and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
