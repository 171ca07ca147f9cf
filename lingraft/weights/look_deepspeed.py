"""Look at DeepSpeed's global_stepN: which ranks are there, and how many parameters they hold between them.

Layout (ZeRO 1 and 2): mp_rank_00_model_states.pt and one zero_pp_rank_N_mp_rank_00_optim_states.pt a rank;
ZeRO 3 cuts the model states by rank too, so that only all ranks together hold the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.weights.headers import Header, refuse_strange
from lingraft.weights.kinds import ACCELERATE, DEEPSPEED, GLOBAL_STEP, names_in
from lingraft.weights.look_model import Facts
from lingraft.weights.pickle_header import PickleHeader, read_pickle, sketches
from lingraft.weights.shards import Read
from lingraft.weights.unpickler import Sketch

RANK = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_(optim|model)_states\.pt")
# A class of these packages is what their own checkpoints name; a function of theirs may do anything.
PACKAGES = (
    "torch",
    "deepspeed",
    "transformers",
    "accelerate",
    "trl",
    "peft",
    "numpy",
    "enum",
    "datetime",
    "pathlib",
    "collections",
    "builtins",
    "lingraft",
)

DATACLASSES = frozenset({"deepspeed.utils.tensor_fragment.fragment_address"})  # real ZeRO 1 and 2 states name it


def harmless(strange: frozenset[str]) -> frozenset[str]:
    """Return the names that a training state has no reason to hold."""
    return frozenset(
        name
        for name in strange - DATACLASSES
        if name.split(".")[0] not in PACKAGES or not name.rpartition(".")[2][:1].isupper()
    )


def read_state(path: Path, findings: Findings) -> PickleHeader | None:
    """Read a training state's structure; damage and code in it become problems."""
    try:
        found = read_pickle(path)
    except Refusal as refusal:
        findings.absorb(refusal)
        return None
    except OSError as error:
        findings.problem("unreadable", f"{path} cannot be read: {error.strerror}", "check its permissions", path)
        return None
    refuse_strange(path, harmless(found.strange), findings)
    return found


@dataclass(frozen=True)
class Moment:
    """One kind of optimizer tensor, such as exp_avg: how many numbers it has, and their width."""

    name: str
    count: int
    itemsize: int


def moments(state: PickleHeader) -> list[Moment]:
    """Group an optimizer state's tensors by what they are (the last word of their name); scalars are left out."""
    counts: Counter[tuple[str, int]] = Counter()
    for name, item in sketches(state.content):
        words = [word for word in name.split(".") if not word.isdigit()]
        size = item.count
        if item.shape and size > 1 and words:
            counts[words[-1], item.nbytes // size] += size
    return [Moment(name, number, itemsize) for (name, itemsize), number in counts.most_common()]


def step_folder(path: Path) -> Path:
    """Return the folder that holds the state files: the path itself, or the step that `latest` names, or the last."""
    names = names_in(path)
    if any(DEEPSPEED.fullmatch(name) for name in names):
        return path
    steps = {int(m[1]): path / name for name in names if (m := GLOBAL_STEP.fullmatch(name))}
    latest = path / "latest"
    if latest.is_file() and (path / latest.read_text(errors="replace").strip()).is_dir():
        return path / latest.read_text(errors="replace").strip()
    if ACCELERATE in names and any(DEEPSPEED.fullmatch(name) for name in names_in(path / ACCELERATE)):
        return path / ACCELERATE
    return steps[max(steps)] if steps else path


def look_at_deepspeed(path: Path, _: Read, findings: Findings) -> Facts:
    """Look at a DeepSpeed state. Problems: `missing-shard` for every rank that is gone, damaged or unsafe files."""
    folder = path.parent if path.is_file() else step_folder(path)
    names = sorted(name for name in names_in(folder) if DEEPSPEED.fullmatch(name))
    models = [name for name in names if name.endswith("model_states.pt")]
    states = {name: state for name in models if (state := read_state(folder / name, findings)) is not None}
    first = next((s.content for s in states.values() if isinstance(s.content, Mapping)), {})
    _check_ranks(folder, names, first, findings)
    for name in names:
        if name.endswith("optim_states.pt"):
            read_state(folder / name, findings)
    shapes = _shapes(first)
    dtypes = Counter({item.dtype: 0 for _, item in sketches(first.get("module"))})
    dtype = next(iter(dtypes), "F32")
    parameters = sum(Header(dtype, shape, 0).count for shape in shapes.values())
    return Facts(tensors=len(shapes), parameters=parameters, dtypes={dtype: parameters} if shapes else {})


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the full shapes of all parameters, trained and frozen, as DeepSpeed notes them."""
    found: dict[str, tuple[int, ...]] = {}
    groups = state.get("param_shapes") or []
    for group in [*(groups if isinstance(groups, list) else [groups]), state.get("frozen_param_shapes") or {}]:
        if isinstance(group, Mapping):
            found |= {str(name): tuple(shape) for name, shape in group.items() if isinstance(shape, tuple)}
    module = state.get("module")
    if isinstance(module, Mapping):
        for name, item in module.items():
            if isinstance(item, Sketch) and item.count:
                found.setdefault(str(name), item.shape)
    shared = state.get("shared_params")  # name that is not stored → name that holds it: counted once
    for name in shared if isinstance(shared, Mapping) else ():
        found.pop(str(name), None)
    return found


def _check_ranks(folder: Path, names: list[str], state: Mapping[str, Any], findings: Findings) -> None:
    ranks = {(m[3], int(m[1])) for name in names if (m := RANK.fullmatch(name))}
    if not any(name.endswith("model_states.pt") for name in names):
        findings.problem(
            "missing-shard",
            f"{folder} holds no model_states.pt: names and shapes of the parameters are gone",
            "copy the whole folder again",
            folder,
        )
    world = state.get("dp_world_size")
    count = max([world if isinstance(world, int) else 0, *(rank + 1 for _, rank in ranks)])
    template = next((name for name in names if RANK.fullmatch(name)), "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    prefix = "bf16_" if template.startswith("bf16_") else ""
    kinds = {kind for kind, _ in ranks} | {"optim"}
    missing = [
        f"{prefix if kind == 'optim' else ''}zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt"
        for kind in sorted(kinds)
        for rank in range(count)
        if (kind, rank) not in ranks
    ]
    if missing:
        findings.problem(
            "missing-shard",
            f"{folder} was written by {count} ranks; {len(missing)} files are missing: {', '.join(missing)}",
            "copy them from the other machines",
            folder / missing[0],
        )
