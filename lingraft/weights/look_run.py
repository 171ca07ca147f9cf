"""Look at a training run or one of its checkpoints: what is whole, what is best, and which path to use next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.weights.json_file import read_json
from lingraft.weights.kinds import (
    CHECKPOINT,
    DEEPSPEED,
    STEP,
    fsdp_part,
    has_adapter,
    has_model,
    holds_step,
    names_in,
    subfolders,
)
from lingraft.weights.look_adapter import adapter_file, look_at_adapter
from lingraft.weights.look_deepspeed import look_at_deepspeed, step_folder
from lingraft.weights.look_model import Facts, look_at_model, look_at_state_dict, note_empty
from lingraft.weights.shards import Read, shards_of

STATE = "trainer_state.json"
RESUMABLE = "trained.safetensors"  # what our own checkpoints hold
MERGED = re.compile(r"(?:.*[-_])?merged(?:[-_].*)?")
LATER_FIRST = ("classify", "prefer", "sft", "pretrain")  # our own stages: the later one stands on the earlier ones


@dataclass(frozen=True)
class Run:
    """A run folder: its checkpoints by step, its other results, what the Trainer noted, and what to use."""

    path: Path
    checkpoints: tuple[Path, ...]
    state: Mapping[str, Any]
    use: Path | None
    why: str

    @property
    def finished(self) -> bool:
        step, last = self.state.get("global_step"), self.state.get("max_steps")
        return not (isinstance(step, int) and isinstance(last, int) and step < last)


def open_run(path: Path, read: Read, findings: Findings) -> Run:
    """Find the parts of a run and choose the one to work with next; damage in any part becomes a problem."""
    checkpoints = checkpoints_in(path)
    states = [_state(folder, findings) for folder in (path, *checkpoints[-1:])]
    state = max(states, key=lambda s: s.get("global_step") or 0)
    use, why = next(_choices(path, checkpoints, state, read, findings), (None, "nothing in it can be used"))
    return Run(path, checkpoints, state, use, why)


def checkpoints_in(path: Path) -> tuple[Path, ...]:
    """List a run's checkpoints, the last at the end: by number, or by age where steps and epochs are mixed."""
    numbered = [
        (int(m[1]), folder)
        for folder in subfolders(path)
        if (m := STEP.fullmatch(folder.name)) and (CHECKPOINT.fullmatch(folder.name) or holds_step(folder))
    ]
    mixed = len({re.split("[-_]", folder.name)[0] for _, folder in numbered}) > 1
    numbered.sort(key=lambda item: (item[1].stat().st_mtime if mixed else 0, item[0]))
    return tuple(folder for _, folder in numbered)


def look_at_run(run: Run, read: Read, findings: Findings) -> Facts:
    """Return the facts of the part to use; every other part is looked at for damage alone."""
    for folder in (run.path, *run.checkpoints, *_results(run.path)):
        _damage(folder, read, findings)
    if run.use is not None:
        return look_at_result(run.use, read, findings)
    if not findings.problems:
        findings.problem(
            "not-found", f"{run.path} holds nothing that can be used", "train on, or copy it again", run.path
        )
    return Facts()


def look_at_checkpoint(path: Path, read: Read, findings: Findings) -> Facts:
    """Look at one checkpoint-N: the adapter or model in it, else its DeepSpeed state."""
    _state(path, findings)
    result = result_in(path)
    if result is None and RESUMABLE in names_in(path):
        return Facts()  # `lingraft run` goes on from it, and makes the adapter
    if result is None:
        findings.problem(
            "not-found", f"{path} holds no adapter, model or DeepSpeed state", "use an earlier checkpoint", path
        )
        return Facts()
    return look_at_result(result, read, findings)


def look_at_result(path: Path, read: Read, findings: Findings) -> Facts:
    """Look at a folder that holds an adapter, a model or a DeepSpeed state."""
    names = names_in(path)
    if has_adapter(names) or has_model(names):
        return (look_at_adapter if has_adapter(names) else look_at_model)(path, read, findings)
    state = step_folder(path) != path or any(DEEPSPEED.fullmatch(name) for name in names)
    return (look_at_deepspeed if state else look_at_state_dict)(path, read, findings)


def result_in(folder: Path) -> Path | None:
    """Return where the trained weights are: the folder, one inside (as callbacks save), a DeepSpeed or FSDP state."""
    names = names_in(folder)
    if has_adapter(names) or has_model(names):
        return folder
    inner = next((f for f in subfolders(folder) if has_adapter(names_in(f)) or has_model(names_in(f))), None)
    return inner or (folder if step_folder(folder) != folder else fsdp_part(folder))


def whole(folder: Path | None, read: Read) -> bool:
    """Tell whether a result is there, complete and with something in it."""
    if folder is None:
        return False
    names = names_in(folder)
    if has_adapter(names):
        file = adapter_file(folder)
        headers = read(file) if file else {}
        return bool(headers) and "adapter_config.json" in names and not any(0 in h.shape for h in headers.values())
    if has_model(names):
        shards = shards_of(folder, Findings())
        return bool(shards.files) and not shards.missing and all(read(file) for file in shards.files)
    return step_folder(folder) != folder or folder.name.startswith("pytorch_model_fsdp")


def _choices(
    path: Path,
    checkpoints: tuple[Path, ...],
    state: Mapping[str, Any],
    read: Read,
    findings: Findings,
) -> Iterator[tuple[Path, str]]:
    """Give what can be used, best first."""
    yield from ((folder, "the merged model") for folder in _merged(path) if whole(folder, read))
    named = state.get("best_model_checkpoint")
    if named:
        best = path / Path(str(named)).name
        if whole(result_in(best), read):
            metric = f" (metric {state['best_metric']:.6g})" if isinstance(state.get("best_metric"), float) else ""
            yield result_in(best) or best, f"the best checkpoint by {STATE}{metric}"
        else:
            findings.warn(
                "not-found",
                f"{path / STATE} names {Path(str(named)).name} as the best checkpoint; it is gone or damaged",
                "use what is named instead, or copy that checkpoint back",
                best,
            )
    names = names_in(path)
    if (has_adapter(names) or has_model(names)) and whole(path, read):
        yield path, "the final save at the top of the run"
    results = [folder for folder in _results(path) if whole(folder, read)]
    yield from ((folder, _why(folder, results)) for folder in results)
    usable = [(f, r) for f in reversed(checkpoints) if (r := result_in(f)) is not None and whole(r, read)]
    yield from ((result, "the last complete checkpoint") for folder, result in usable if (folder / STATE).is_file())
    yield from ((result, "the last checkpoint; no Trainer noted how good it is") for _, result in usable)


def _merged(path: Path) -> list[Path]:
    """List merged models, the newest first; one in 4 bits (unsloth's merged_4bit) is less than was trained."""
    found = [f for f in subfolders(path) if MERGED.fullmatch(f.name) and has_model(names_in(f))]
    return sorted(found, key=lambda f: ("4bit" in f.name, -f.stat().st_mtime))


def _why(folder: Path, results: list[Path]) -> str:
    """Say why a result comes first; folders that are not named after our stages do not tell which is the last."""
    if len(results) == 1 or folder.name in LATER_FIRST:
        return "the last stage's result" if folder.name in LATER_FIRST else "the only result beside the checkpoints"
    return f"the newest of {len(results)} results side by side; their names do not tell which is the last"


def _results(path: Path) -> list[Path]:
    """List results beside the checkpoints: stages of our own (later first), then adapters, then models."""
    found = [
        f
        for f in subfolders(path)
        if not STEP.fullmatch(f.name) and f.name != "work" and (has_adapter(names_in(f)) or has_model(names_in(f)))
    ]

    def rank(folder: Path) -> tuple[int, float]:
        stage = LATER_FIRST.index(folder.name) if folder.name in LATER_FIRST else len(LATER_FIRST)
        return stage + (100 if has_model(names_in(folder)) else 0), -folder.stat().st_mtime

    return sorted(found, key=rank)


def _state(folder: Path, findings: Findings) -> Mapping[str, Any]:
    if not (folder / STATE).is_file():
        return {}
    try:
        return read_json(folder / STATE)
    except Refusal as refusal:
        findings.absorb(refusal)
        return {}


def _damage(folder: Path, read: Read, findings: Findings) -> None:
    """Note what is broken in one part; sizes and tokenizers are checked in the part that is used."""
    result = result_in(folder) if CHECKPOINT.fullmatch(folder.name) else folder
    names = names_in(result) if result else set()
    if result is None:
        findings.problem(
            "not-found",
            f"{folder} holds no adapter, model or DeepSpeed state: its save was interrupted",
            "delete it; an earlier checkpoint is whole",
            folder,
        )
    elif has_adapter(names):
        file = adapter_file(result)
        headers = read(file) if file else {}
        if file and not headers and not any(p.path == str(file) for p in findings.problems):
            findings.problem(
                "empty-tensor",
                f"{file} has {file.stat().st_size:,} bytes and holds no tensor",
                "use another checkpoint; ZeRO-3 needs its parameters gathered before saving",
                file,
            )
        if file:
            note_empty(file, headers, findings)
    elif has_model(names):
        for file in shards_of(result, findings).files:
            read(file)
