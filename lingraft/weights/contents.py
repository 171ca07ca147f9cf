"""What each file of a folder is: its role with its size explained, what it is needed for, what may be deleted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.weights.headers import Header, of_llama2c
from lingraft.weights.kinds import DEEPSPEED, GLOBAL_STEP, META, TOKENIZER_FILES, is_llama2c
from lingraft.weights.look_adapter import EMBEDDING, HEAD
from lingraft.weights.look_deepspeed import Moment, moments, read_state
from lingraft.weights.shards import Read

USING = "using the model"
RESUMING = "resuming training"
NOTHING = "nothing that runs"
ADAM = {"exp_avg", "exp_avg_sq"}


@dataclass(frozen=True)
class Part:
    """One row of `contents`; ``path`` is relative to what was inspected."""

    path: str
    role: str
    bytes: int
    needed_for: str
    removable: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


# pattern of the name → role, needed for, removable
RULES: tuple[tuple[str, str, str, bool], ...] = (
    (r"config\.json", "the model's architecture and sizes", "loading the weights", False),
    (r"adapter_config\.json", "the adapter's kind, rank, scaling and targets", "loading the adapter", False),
    (r"generation_config\.json", "defaults for generating", "the sampling its authors chose", False),
    (r"lingraft\.json", "lineage: the base and adapters it was trained on", "merging in the right order", False),
    (r"manifest\.json", "receipt: how it was made, with fingerprints", "verifying it", False),
    (r".*\.index\.json", "index: which shard holds which tensor", "loading the shards", False),
    (
        r"(tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|.*chat_template\.(jinja|json)",
        "part of the tokenizer",
        "reading and writing text",
        False,
    ),
    (r"params\.json", "Meta's sizes: width, heads, layers", "reading the shards", False),
    (r"scheduler\.(pt|bin)", "learning-rate schedule: where it stands", RESUMING, True),
    (r"rng_state.*\.pth|random_states_\d+\.pkl", "random number generators: data order and dropout", RESUMING, True),
    (r"scaler\.pt", "loss scale of fp16 training", RESUMING, True),
    (r"trainer_state\.json", "log of losses, step reached, best checkpoint", "resuming, and reading the curves", True),
    (r"training_args\.bin", "a pickle of the settings; never opened here", "reading back how it was trained", True),
    (r"trained\.safetensors", "what lingraft was training, under the live model's names", RESUMING, True),
    (r"digests\.json", "digests of a checkpoint's files: it is whole, or not used", RESUMING, True),
    (r"\.metadata", "index of a torch distributed checkpoint", RESUMING, True),
    (r"decision\.json|processes", "what a stage decided at its first start", RESUMING, True),
    (r"latest", "the name of DeepSpeed's newest step", RESUMING, True),
    (r"zero_to_(fp32|torch)\.py", "DeepSpeed's script to gather weights; never run here", NOTHING, True),
    (r"(all|train|eval)_results\.json", "figures of the run", "reading them", True),
    (r"events\.out\.tfevents.*", "TensorBoard log", "reading the curves", True),
    (r"((trainer_)?log|logging|metrics)\.jsonl|.*\.log|running_log\.txt", "log", "reading the curves", True),
    (r".*\.(png|svg|jpg)", "picture", "looking at the curves", True),
    (r".*\.ya?ml|args\.json|additional_config\.json", "settings", "reading back how it was trained", False),
    (r"(\d+_)?adapters\.(safetensors|npz)", "an MLX adapter's matrices", "fusing it with mlx_lm", False),
    (r"recipe_state\.pt", "torchtune's optimizer state and place in the data", RESUMING, True),
    (r"latest_checkpointed_iteration\.txt", "the number of Megatron's newest step", RESUMING, False),
    (r"sampler(_\d+)?\.bin|dl_state_dict(_\d+)?\.bin", "data order", RESUMING, True),
    (r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*", "left by a file manager", NOTHING, True),
    (r"report\.html|verify\.json|evaluate\.json|vocab\.json", "report", "reading it", True),
    (r"LICENSE.*|NOTICE.*|USE_POLICY.*", "licence", "knowing what its use is bound to", False),
    (r".*\.md", "text for people", "reading it", True),
    (r"key|lock|seconds|\.gitattributes|\.gitignore|checklist\.chk", "bookkeeping", NOTHING, True),
)


def part_of(file: Path, root: Path, read: Read, findings: Findings, stale: frozenset[Path] = frozenset()) -> Part:
    """Describe one file. ``stale`` holds weight files that nothing loads (another save's shards, a second copy)."""
    size = file.stat().st_size if file.exists() else 0
    path = str(file.relative_to(root)) if file != root else file.name
    role, needed, removable = _role(file, read, findings)
    if file in stale:
        role, needed, removable = f"{role}; not what is loaded from this folder", NOTHING, True
    return Part(path, role, size, needed, removable)


def _role(file: Path, read: Read, findings: Findings) -> tuple[str, str, bool]:
    name = file.name
    if re.fullmatch(r"optimizer(_\d+)?\.(pt|bin)", name) or name.endswith("optim_states.pt"):
        return _optimizer(file, findings), RESUMING, True
    if DEEPSPEED.fullmatch(name):
        return "DeepSpeed model states: names, shapes, buffers and (ZeRO 1, 2) the weights", RESUMING, True
    if name in TOKENIZER_FILES or name.endswith(".model"):
        return "tokenizer", "reading and writing text", False
    for pattern, role, needed, removable in RULES:
        if re.fullmatch(pattern, name):
            return role, needed, removable
    if name.startswith("adapter_model."):
        return _adapter(read(file)), "the trained result, on top of its base", False
    if GLOBAL_STEP.search(str(file.parent)) or "pytorch_model_fsdp" in str(file) or file.suffix == ".distcp":
        return "part of a sharded training state", RESUMING, True
    if file.suffix == ".bin" and is_llama2c(file):
        found = of_llama2c(file)
        return f"weights in llama2.c's layout, version {found.version if found else 0}", USING, False
    if META.fullmatch(name) or file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt"):
        return _weights(read(file), file), USING, False
    return "unknown to lingraft", "unknown", False


def _weights(headers: Mapping[str, Header], file: Path) -> str:
    """Explain a weight file's size: parameters × bytes, dtype by dtype."""
    what = "weights" if file.suffix != ".gguf" else "weights and tokenizer for llama.cpp"
    sizes: dict[str, list[int]] = {}
    for item in headers.values():
        had = sizes.setdefault(item.dtype, [0, 0])
        had[0] += item.count
        had[1] += item.nbytes
    told = " + ".join(f"{n:,} parameters × {_width(nbytes, n)} bytes ({dtype})" for dtype, (n, nbytes) in sizes.items())
    return f"{what}: {told} = {gigabytes(sum(nbytes for _, nbytes in sizes.values()))}" if told else what


def _width(nbytes: int, count: int) -> str:
    return f"{nbytes / max(count, 1):.3g}"


def _adapter(headers: Mapping[str, Header]) -> str:
    """Explain an adapter's size: low-rank matrices beside the embedding and head that were saved whole."""
    groups: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, item in headers.items():
        whole = EMBEDDING.fullmatch(name) or HEAD.fullmatch(name)
        label = whole[1] if whole else "low-rank matrices" if "lora_" in name else "other tensors"
        groups[label] += item.nbytes
        counts[label] += item.count
    told = " + ".join(f"{label} {counts[label]:,} × {_width(groups[label], counts[label])} bytes" for label in groups)
    return f"adapter weights: {told} = {gigabytes(sum(groups.values()))}" if told else "adapter weights: none"


def _optimizer(file: Path, findings: Findings) -> str:
    """Explain an optimizer file's size by what it keeps a trainable parameter."""
    state = read_state(file, findings)
    if state is None:
        return "optimizer state (damaged)"
    found = moments(state)
    if not found:
        return "optimizer state"
    return f"optimizer state: {explain(found)} = {gigabytes(sum(m.count * m.itemsize for m in found))}"


def explain(found: list[Moment]) -> str:
    """Say in words what an optimizer keeps: ``2 Adam moments × 4 bytes × 900,000,000 trainable parameters``."""
    adam = [m for m in found if m.name in ADAM]
    rest = [m for m in found if m not in adam]
    told = []
    if len(adam) == 2 and adam[0].count == adam[1].count and adam[0].itemsize == adam[1].itemsize:
        told.append(f"2 Adam moments × {adam[0].itemsize} bytes × {adam[0].count:,} trainable parameters")
    else:
        rest = found
    masters = {"single_partition_of_fp32_groups": "fp32 master weights", "fp32_flat_groups": "fp32 master weights"}
    told += [f"{masters.get(m.name, m.name)} {m.itemsize} bytes × {m.count:,}" for m in rest]
    return " + ".join(told)


def gigabytes(size: int) -> str:
    """Write a size in decimal units, as the JSON's bytes count them."""
    for unit, width in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= width:
            return f"{size / width:.2f} {unit}"
    return f"{size} bytes"


def files_below(root: Path) -> list[Path]:
    """List every file below a folder; a git history and a download cache are one entry each."""
    if root.is_file():
        return [root]
    found: list[Path] = []
    for item in sorted(root.iterdir()):
        if item.is_dir() and not item.is_symlink() and item.name in (".git", ".cache"):
            found.append(item)
        elif item.is_dir():
            around = item.is_symlink() and item.resolve() in root.resolve().joinpath("_").parents
            found += [] if around else files_below(item)  # a link to a folder around it has no end
        else:
            found.append(item)
    return found
