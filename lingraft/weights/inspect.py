"""`lingraft inspect PATH`: what this file or folder is, what each part is for, which path to use, what is broken.

Reads headers only (and small JSON), without torch, so that a 25 GB folder takes a fraction of a second;
``--fingerprint`` reads everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights.contents import USING, Part, files_below, part_of
from lingraft.weights.describe import describe as describe
from lingraft.weights.foreign import below, foreign
from lingraft.weights.headers import of_file
from lingraft.weights.kinds import HF_WEIGHTS, Kind, has_adapter, has_model, kind_of, names_in, snapshot_of
from lingraft.weights.look_adapter import adapter_file, look_at_adapter
from lingraft.weights.look_container import look_at_gguf, look_at_llama2c, look_at_meta
from lingraft.weights.look_deepspeed import look_at_deepspeed, step_folder
from lingraft.weights.look_model import (
    Facts,
    look_at_model,
    look_at_state_dict,
    look_at_tokenizer,
    look_at_unknown,
)
from lingraft.weights.look_run import Run, look_at_checkpoint, look_at_run, open_run, result_in
from lingraft.weights.shards import Read, shards_of

ONLY = "using the model: the weights are nowhere else"
LOOKS: dict[Kind, Callable[[Path, Read, Findings], Facts]] = {
    "hf-model": look_at_model,
    "peft-adapter": look_at_adapter,
    "trainer-checkpoint": look_at_checkpoint,
    "deepspeed-state": look_at_deepspeed,
    "meta-checkpoint": look_at_meta,
    "gguf": look_at_gguf,
    "llama2c": look_at_llama2c,
    "state-dict": look_at_state_dict,
    "tokenizer": look_at_tokenizer,
    "unknown": look_at_unknown,
}


def inspect(path: Path, fingerprint: bool, findings: Findings) -> dict[str, Any]:
    """Return the contract's `inspect` answer; everything that is wrong is left in ``findings``.

    Error: `not-found`. ``fingerprint`` is None where it was not asked for or the weights cannot be read.
    """
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "check the path", path)
    here = _only_one_below(snapshot_of(path))
    read: Read = cache(lambda file: of_file(file, findings))
    kind = kind_of(here)
    run = open_run(here, read, findings) if kind == "training-run" else None
    facts = look_at_run(run, read, findings) if run else LOOKS[kind](here, read, findings)
    use = run.use if run else _use(here, kind)
    parts = _contents(here, run, use, read, findings)
    return {
        "path": str(path),
        "kind": kind,
        "bytes": sum(part.bytes for part in parts),
        "tensors": facts.tensors,
        "parameters": facts.parameters,
        "dtypes": dict(facts.dtypes),
        "architecture": facts.architecture,
        "vocab_size": facts.vocab_size,
        "tokenizer_size": facts.tokenizer_size,
        "tied": facts.tied,
        "adapter": None if facts.adapter is None else dict(facts.adapter),
        "contents": [part.as_json() for part in parts],
        "use": None if use is None else str(use),
        "why": run.why if run else None,
        "fingerprint": _fingerprint(use or here, findings) if fingerprint else None,
    }


def _only_one_below(path: Path) -> Path:
    """Step through folders that only stand around a result: an unpacked archive, a tool's own levels."""
    if not path.is_dir() or kind_of(path) != "unknown" or foreign(path):
        return path
    found = below(path)
    return found[0][0] if len(found) == 1 else path


def _use(path: Path, kind: Kind) -> Path | None:
    if kind == "trainer-checkpoint":
        return result_in(path)
    return None if kind == "unknown" else path


def _contents(here: Path, run: Run | None, use: Path | None, read: Read, findings: Findings) -> list[Part]:
    files = files_below(here)
    stale = frozenset(file for folder in {file.parent for file in files} for file in _stale(folder))
    parts = [
        _folder_part(file, here) if file.is_dir() else part_of(file, here, read, findings, stale) for file in files
    ]
    if run is not None:
        parts = [_in_run(part, file, run, use) for part, file in zip(parts, files, strict=True)]
    state = _only_state(use)
    return [
        replace(part, needed_for=ONLY, removable=False) if state in file.parents or file == state else part
        for part, file in zip(parts, files, strict=True)
    ]


def _only_state(use: Path | None) -> Path | None:
    """Return the training state that alone holds the weights to use, if one does: it must stay."""
    if use is None or use.name.startswith("pytorch_model_fsdp"):
        return use
    names, step = names_in(use), step_folder(use)
    return None if has_adapter(names) or has_model(names) or step == use else step


def _stale(folder: Path) -> list[Path]:
    """List weight files that nothing loads: a second copy in .bin, or shards of another save."""
    names = names_in(folder)
    if not has_model(names):
        return []
    loaded = {file.name for file in shards_of(folder, Findings()).files}
    return [
        folder / name
        for name in names
        if HF_WEIGHTS.fullmatch(name) and not name.endswith(".json") and name not in loaded
    ]


def _folder_part(folder: Path, root: Path) -> Part:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    what = "git history; with LFS it holds a second copy of every file" if folder.name == ".git" else "download cache"
    return Part(str(folder.relative_to(root)), what, size, "updating the download", True)


def _in_run(part: Part, file: Path, run: Run, use: Path | None) -> Part:
    """Say what a file is worth once the run's result is known: what belongs to the result stays."""
    checkpoint = next((folder for folder in run.checkpoints if folder in file.parents), None)
    if "work" in file.relative_to(run.path).parts[:1]:
        return replace(part, removable=True, needed_for="resuming this run")
    if checkpoint is None:
        return part
    step = re.split("[-_]", checkpoint.name)[-1]
    if use is not None and file.parent == use and not part.removable:
        return part
    latest = checkpoint == run.checkpoints[-1]
    if part.needed_for.startswith("resuming"):
        needed = f"resuming training from step {step}" if latest else f"going back to step {step}"
        return replace(part, needed_for=needed, removable=run.finished or not latest)
    if part.removable:
        return part
    needed = f"{USING} as it was at step {step}" + (", and resuming from it" if latest else "")
    return replace(part, needed_for=needed, removable=run.finished or not latest)


def _fingerprint(path: Path, findings: Findings) -> str | None:
    """Fingerprint the weights of a path, reading everything."""
    from lingraft.weights.fingerprint import fingerprint

    try:
        if path.is_dir() and has_adapter(names_in(path)):
            from lingraft.weights import pickles, safetensors

            file = adapter_file(path)
            if file is None:
                return None
            return fingerprint((safetensors if file.suffix == ".safetensors" else pickles).read_file(file))
        from lingraft.weights.formats import open_checkpoint

        return fingerprint(open_checkpoint(path).tensors)
    except Refusal as refusal:
        findings.absorb(refusal)
        return None
