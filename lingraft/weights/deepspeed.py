"""DeepSpeed's global_stepN: the fp32 weights out of ZeRO 1, 2 and 3 states, lazily.

ZeRO 1 and 2: every rank holds one slice of a flat vector in which all parameters lie one after the other.
ZeRO 3: every parameter is cut evenly over the ranks (the last padded), each rank laying its cuts one after the
other. Frozen parameters lie in the model states: whole (1, 2) or cut the same way (3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights import hf, names, pickles
from lingraft.weights.look_deepspeed import harmless, step_folder
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor

NAME = "deepspeed"
MODEL = re.compile(r"(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<mp>\d+)_model_states\.pt")
OPTIM = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_(?P<mp>\d+)_optim_states\.pt")
SLICES = "single_partition_of_fp32_groups"  # ZeRO 1 and 2
CUTS = "fp32_flat_groups"  # ZeRO 3


class Segment(NamedTuple):
    """A run of elements of a flat tensor."""

    source: Entry
    begin: int
    length: int


def knows(path: Path) -> bool:
    """Tell whether a folder is a global_stepN, or holds one and no weights beside it."""
    if not path.is_dir():
        return False
    if any(MODEL.fullmatch(file.name) for file in path.iterdir()):
        return True
    inner = step_folder(path)
    return inner != path and not hf.has_weights(path) and knows(inner)


def read(path: Path) -> Checkpoint:
    """Open a global_stepN, or the latest in a folder; config and tokenizer come from the folder around it.

    Errors: `missing-shard` (every absent rank named), `corrupt-file` where the states do not add up,
    `unknown-format` for tensor-parallel states, and those of the pickles.
    """
    folder = step_folder(path)
    models, optims = _ranks(folder, MODEL), _ranks(folder, OPTIM)
    states = _load_all(folder, models)
    first = states[0]
    if not isinstance(first, Mapping) or not isinstance(first.get("module"), Mapping):
        refuse("corrupt-file", f"{models[0]} holds no DeepSpeed model state", "copy the file again", folder)
    optimizer = [_part(state, "optimizer_state_dict") for state in _load_all(folder, optims)]
    _complain_of_missing(folder, models, optims, states, optimizer)
    entries = {str(k): v for k, v in first["module"].items() if isinstance(v, Entry) and 0 not in v.shape}
    if optimizer and CUTS in optimizer[0]:
        entries |= _frozen_cuts(folder, states) | _cuts(folder, first, optimizer)
    elif optimizer:
        entries |= _slices(folder, first, optimizer)
    elif any(isinstance(v, Entry) and 0 in v.shape for v in first["module"].values()):
        refuse(
            "missing-shard",
            f"{folder} is a ZeRO 3 state without its *_optim_states.pt: the weights lie in them",
            "copy the optimizer states of every rank beside the model states",
            folder,
        )
    for copy, original in (first.get("shared_params") or {}).items():
        if original in entries:
            entries[copy] = entries[original]
    around = folder.parent if hf.read_config(folder.parent) or hf.side_files(folder.parent) else folder
    return Checkpoint(path, NAME, Lazy(names.without_wrappers(entries)), hf.read_config(around), hf.side_files(around))


def _ranks(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """List one kind of state file in the order of the ranks."""
    found = [(int(m["rank"] or 0), file) for file in folder.iterdir() if (m := pattern.fullmatch(file.name))]
    if other := [file for _, file in found if not file.name.count("mp_rank_00")]:
        refuse(
            "unknown-format",
            f"{other[0].name}: states of tensor parallelism are not read here",
            "export the model with DeepSpeed itself",
            other[0],
        )
    return [file for _, file in sorted(found)]


def _load_all(folder: Path, files: Sequence[Path]) -> list[Any]:
    findings, loaded = Findings(), []
    for file in files:
        try:
            loaded.append(pickles.load(folder / file.name, suspect=harmless))
        except Refusal as refusal:
            findings.absorb(refusal)
    findings.settle()
    return loaded


def _part(state: Any, key: str) -> Mapping[str, Any]:
    part = state.get(key) if isinstance(state, Mapping) else None
    return part if isinstance(part, Mapping) else {}


State = Mapping[str, Any]


def _complain_of_missing(
    folder: Path, models: Sequence[Path], optims: Sequence[Path], states: Sequence[State], optimizer: Sequence[State]
) -> None:
    counts = optimizer[0].get("partition_count", 0) if optimizer else 0
    world = max(counts) if isinstance(counts, list) else int(counts or states[0].get("dp_world_size") or 0)
    missing = _absent(optims, OPTIM, world) if optims else []
    if models[0].name.startswith("zero_pp_rank_") or models[-1].name.startswith("zero_pp_rank_"):
        missing += _absent(models, MODEL, world)
    if missing:
        refuse(
            "missing-shard",
            f"{folder} was saved by {world} ranks; missing: {', '.join(missing)}",
            "copy the states of every rank into the same folder",
            folder / missing[0],
        )


def _absent(files: Sequence[Path], pattern: re.Pattern[str], world: int) -> list[str]:
    there = {int(m["rank"] or 0) for file in files if (m := pattern.fullmatch(file.name))}
    return [re.sub(r"pp_rank_\d+", f"pp_rank_{i}", files[0].name) for i in range(world) if i not in there]


def _shapes(group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {str(name): tuple(int(n) for n in shape) for name, shape in group.items()}


def _slices(folder: Path, first: Mapping[str, Any], optimizer: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """Return the parameters of ZeRO 1 and 2 by where they begin in each group's flat vector."""
    entries: dict[str, Entry] = {}
    paddings = optimizer[0].get("param_alignment_paddings")
    for number, shapes in enumerate(map(_shapes, first["param_shapes"])):
        flat = [Segment(part, 0, prod(part.shape)) for part in (state[SLICES][number] for state in optimizer)]
        whole, at = sum(segment.length for segment in flat), 0
        for place, (name, shape) in enumerate(shapes.items()):
            entries[name] = _from_segments(shape, _window(flat, at, prod(shape)))
            at += prod(shape) + (int(paddings[number][place]) if paddings is not None else 0)
        # DeepSpeed aligns each group to twice the number of ranks
        if not at <= whole <= at + 2 * len(optimizer) * max(len(optimizer), 2):
            _refuse_sum(folder, at, whole)
    return entries


def _cuts(folder: Path, first: Mapping[str, Any], optimizer: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """Return the trained parameters of ZeRO 3: a cut from every rank, all at the same place."""
    entries: dict[str, Entry] = {}
    ranks = [[Segment(part, 0, prod(part.shape)) for part in state[CUTS]] for state in optimizer]
    at = 0
    for name, shape in (item for group in map(_shapes, first["param_shapes"]) for item in group.items()):
        size = -(-prod(shape) // len(ranks))
        entries[name] = _from_segments(shape, [s for rank in ranks for s in _window(rank, at, size)])
        at += size
    held = sum(segment.length for segment in ranks[0])
    if held != at:
        _refuse_sum(folder, at, held)
    return entries


def _frozen_cuts(folder: Path, states: Sequence[Mapping[str, Any]]) -> dict[str, Entry]:
    """Return the frozen parameters of ZeRO 3, whose cuts lie in the model states."""
    entries: dict[str, Entry] = {}
    for name, shape in _shapes(states[0].get("frozen_param_shapes") or {}).items():
        cuts = [state["frozen_param_fragments"][name] for state in states]
        segments = [Segment(cut, 0, prod(cut.shape)) for cut in cuts]
        if sum(segment.length for segment in segments) < prod(shape):
            _refuse_sum(folder, prod(shape), sum(segment.length for segment in segments))
        entries[name] = _from_segments(shape, segments)
    return entries


def _refuse_sum(folder: Path, needed: int, held: int) -> None:
    refuse(
        "corrupt-file",
        f"{folder}: the parameters need {needed:,} values and the ranks' states hold {held:,}",
        "the states come from different runs or ranks: copy one complete global_step folder",
        folder,
    )


def _window(segments: Sequence[Segment], begin: int, count: int) -> list[Segment]:
    """Return the part ``begin : begin + count`` of segments laid one after the other."""
    found, at = [], 0
    for segment in segments:
        low, high = max(begin - at, 0), min(begin + count - at, segment.length)
        if low < high:
            found.append(Segment(segment.source, segment.begin + low, high - low))
        at += segment.length
    return found


def _from_segments(shape: tuple[int, ...], segments: Sequence[Segment]) -> Entry:
    dtype = segments[0].source.dtype if segments else torch.float32
    row = prod(shape[1:])

    def read_rows(start: int, stop: int | None) -> Tensor:
        rows = ((shape[0] if stop is None else min(stop, shape[0])) - start) if shape else 1
        wanted = _window(segments, start * row if shape else 0, rows * row)
        parts = [s.source.read(s.begin, s.begin + s.length) for s in wanted]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
        return flat.reshape(rows, *shape[1:]) if shape else flat.reshape(())

    return Entry(dtype, shape, read_rows)
