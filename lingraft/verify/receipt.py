"""`lingraft verify MODEL`: is what lies beside manifest.json still what the receipt says was written?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from lingraft.merge.merged import Onto
from lingraft.problems import Findings, refuse
from lingraft.weights.fingerprint import combine, digest, line
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.json_file import read_json
from lingraft.weights.shards import few
from lingraft.weights.tensors import header

MANIFEST = "manifest.json"


def verify_receipt(path: Path, findings: Findings) -> dict[str, Any]:
    """Return `fingerprint`, `recorded` and `match`; where the receipt lists tensors, also which ones differ.

    Errors: `not-found` without a receipt or without a fingerprint in it. Problem: `fingerprint-mismatch`.
    """
    file = _beside(path)
    if not file.is_file():
        refuse(
            "not-found",
            f"{path} has no {file.name} to hold its weights against",
            "add --base BASE --adapter ADAPTER to verify a merge, or name something that lingraft wrote",
            file,
        )
    receipt = read_json(file)
    recorded = receipt.get("fingerprint") or _nested(receipt).get("fingerprint")
    if not isinstance(recorded, str):
        refuse("not-found", f"{file} records no fingerprint", "verify the stage that wrote weights", file)
    weights = open_checkpoint(path).tensors
    lines = {
        name: line(name, (entry := header(weights, name)).dtype, entry.shape, digest(weights, name)) for name in weights
    }
    found = combine(lines.values())
    differing = _differing(receipt.get("tensors"), lines)
    if found != recorded:
        names = f"; {len(differing)} tensors differ: {few(differing)}" if differing else ""
        findings.problem(
            "fingerprint-mismatch",
            f"{path}: the weights are {found[:16]}…, the receipt says {recorded[:16]}…{names}",
            "restore the files, or make the result again",
            path,
            differing[0] if differing else None,
        )
    return {
        "path": str(path),
        "fingerprint": found,
        "recorded": recorded,
        "match": found == recorded,
        "different": differing,
        "modules": [],
        "embeddings": [],
    }


def chosen_base(path: Path) -> Onto:
    """Return which base a merge says it chose (`--onto`), for an adapter that was trained on a quantised one."""
    file = _beside(path)
    choices = read_json(file).get("choices") if file.is_file() else None
    told = choices.get("onto") if isinstance(choices, Mapping) else None
    return cast(Onto, told) if told in get_args(Onto) else "original"


def _beside(path: Path) -> Path:
    """Return where the receipt of a folder, or of a single file such as a GGUF, lies."""
    own = path.with_name(f"{path.name}.{MANIFEST}")
    return own if path.is_file() and own.is_file() else (path if path.is_dir() else path.parent) / MANIFEST


def _nested(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    value = receipt.get("result")
    return value if isinstance(value, Mapping) else {}


def _differing(tensors: object, lines: Mapping[str, str]) -> list[str]:
    """Name the tensors whose digest is not the recorded one: `tensors` maps names to hex digests."""
    if not isinstance(tensors, Mapping):
        return []
    held = {name: text.rstrip("\n").rpartition("\t")[2] for name, text in lines.items()}
    return sorted(str(name) for name in {*tensors, *held} if tensors.get(name) != held.get(str(name)))
