"""What a file or folder is, told by names and first bytes alone.

A kind is one of eleven words; the order of `FOLDERS` is the order of asking, the more telling trace first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from lingraft.weights.headers import PICKLES, first_bytes, of_llama2c

Kind = Literal[
    "hf-model",
    "peft-adapter",
    "training-run",
    "trainer-checkpoint",
    "deepspeed-state",
    "meta-checkpoint",
    "gguf",
    "llama2c",
    "state-dict",
    "tokenizer",
    "unknown",
]
KINDS: tuple[str, ...] = get_args(Kind)
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Each holds a vocabulary: one of them is enough to be a tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
    "tokenizer.tiktoken",
    "sentencepiece.bpe.model",
)
# All that goes with a tokenizer. A lineage digests them in this order: add behind the last.
TOKENIZER_PARTS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.tiktoken",
    "sentencepiece.bpe.model",
)
STATE_FILES = (
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "rng_state.pth",
    "rng_state_0.pth",
    "trainer_state.json",
    "latest",
    "scaler.pt",
)
RUN_FILES = {
    "trainer_state.json",
    "training_args.bin",
    "all_results.json",
    "train_results.json",
    "manifest.json",
    "runs",
    "logs",
}
HF_WEIGHTS = re.compile(
    r"(?:model|pytorch_model)(?:-\d{5}-of-\d{5}|\.fp16|\.bf16)?\.(?:safetensors|bin)"
    r"|(?:model|pytorch_model)\.(?:safetensors|bin)\.index\.json"
)
DEEPSPEED = re.compile(r".*(?:optim|model)_states\.pt")
META = re.compile(r"consolidated\.(\d\d)\.pth")
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# The Trainer's name, and those of accelerate's and people's own loops, of torchtune and of DeepSpeed.
STEP = re.compile(r"(?:checkpoint|step|epoch|iter)[-_](\d+)")
MEGATRON = re.compile(r"mp_rank_\d\d(?:_\d{3}){0,2}")
ACCELERATE = "pytorch_model"  # the folder that accelerate has DeepSpeed write, instead of global_stepN
GLOBAL_STEP = re.compile(r"global_step(\d+)")


def kind_of(path: Path) -> Kind:
    """Name what a path is; `unknown` where nothing gives it away."""
    return _folder(path) if path.is_dir() else _file(path)


def names_in(folder: Path) -> set[str]:
    """Return the names in a folder, hidden ones left out; an unreadable folder is empty."""
    try:
        return {item.name for item in folder.iterdir() if not item.name.startswith(".")}
    except OSError:
        return set()


def _folder(path: Path) -> Kind:
    names = names_in(path)
    for kind, asks in FOLDERS:
        if asks(path, names):
            return kind
    return "unknown"


def _file(path: Path) -> Kind:
    first = first_bytes(path)
    if first.startswith(b"GGUF") or path.suffix == ".gguf":
        return "gguf"
    if DEEPSPEED.fullmatch(path.name):
        return "deepspeed-state"
    if META.fullmatch(path.name):
        return "meta-checkpoint"
    if path.name in TOKENIZER_FILES or (path.suffix == ".model" and b"\x00" not in first[:1]):
        return "tokenizer"
    if path.suffix == ".safetensors":
        return "state-dict"
    if path.suffix in PICKLES:
        return "llama2c" if path.suffix == ".bin" and is_llama2c(path) else "state-dict"
    return "state-dict" if first.startswith(b"PK") and path.suffix in ("", ".pkl") else "unknown"


def is_llama2c(path: Path) -> bool:
    """Tell whether a ``.bin`` is llama2.c's: its header's sizes make sense and agree with the file's, roughly."""
    first = first_bytes(path)
    if first.startswith((b"PK", b"\x80\x02", b"version ", b"GGUF")):
        return False
    found = of_llama2c(path)
    return found is not None and (found.version > 0 or path.stat().st_size < 2 * found.nbytes + (1 << 24))


def subfolders(path: Path) -> list[Path]:
    """List the visible folders directly below a folder."""
    return sorted(path / name for name in names_in(path) if (path / name).is_dir())


def _is_run(path: Path, names: set[str]) -> bool:
    if any(CHECKPOINT.fullmatch(name) and (path / name).is_dir() for name in names):
        return True
    if "manifest.json" in names and "work" in names:
        return True  # a run folder of our own
    if any(STEP.fullmatch(folder.name) and holds_step(folder) for folder in subfolders(path)):
        return True
    if has_model(names) or _is_checkpoint(path, names):
        return False
    folders = subfolders(path)
    below = [names_in(folder) for folder in folders]
    adapters = sum(has_adapter(inside) for inside in below)
    models = sum(has_model(inside) for inside in below)
    among = bool(names & RUN_FILES) or any(CHECKPOINT.fullmatch(name) for inside in below for name in inside)
    return (adapters > 0 and adapters + models > 1) or (adapters + models > 0 and among)


def holds_step(folder: Path) -> bool:
    """Tell whether a folder named like a step holds weights or a training state: pictures have epochs, too."""
    names = names_in(folder)
    return has_adapter(names) or has_model(names) or _is_checkpoint(folder, names) or _is_deepspeed(folder, names)


def has_adapter(names: set[str]) -> bool:
    """Tell whether names are those of a peft adapter, complete or not."""
    return "adapter_config.json" in names or bool(names & set(ADAPTER_FILES))


def is_mlx(names: set[str]) -> bool:
    """Tell whether names are those of an MLX adapter: peft's config name beside other weights, by other rules."""
    return bool(names & {"adapters.safetensors", "adapters.npz"}) and not names & set(ADAPTER_FILES)


def is_megatron(names: set[str]) -> bool:
    """Tell whether names are those of a Megatron-LM checkpoint, or of one of its iterations."""
    return "latest_checkpointed_iteration.txt" in names or any(MEGATRON.fullmatch(name) for name in names)


def has_model(names: set[str]) -> bool:
    """Tell whether names are those of a Hugging Face model, complete or not."""
    return any(HF_WEIGHTS.fullmatch(name) for name in names)


def _is_checkpoint(path: Path, names: set[str]) -> bool:
    state = names & {"optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth", "latest"}
    # `latest` and global_stepN alone are what DeepSpeed's own save_checkpoint leaves: no Trainer was there.
    steps = any(GLOBAL_STEP.fullmatch(name) for name in names) and (
        "trainer_state.json" in names or has_model(names) or has_adapter(names)
    )
    fsdp = fsdp_part(path) is not None
    numbered = CHECKPOINT.fullmatch(path.name) is not None and bool(names)
    return (
        ("trainer_state.json" in names and (bool(state) or numbered))
        or steps
        or fsdp
        or (bool(state - {"latest"}) and (has_model(names) or has_adapter(names)))
        or (numbered and (has_model(names) or has_adapter(names)))
    )


def fsdp_part(path: Path) -> Path | None:
    """Return what accelerate and the Trainer save of a model under FSDP: a folder of shards, or one file."""
    parts = sorted(path / name for name in names_in(path) if name.startswith("pytorch_model_fsdp"))
    return parts[0] if parts else None


def _is_deepspeed(path: Path, names: set[str]) -> bool:
    if any(DEEPSPEED.fullmatch(name) for name in names):
        return True
    steps = [name for name in names if GLOBAL_STEP.fullmatch(name) or name == ACCELERATE]
    return any(DEEPSPEED.fullmatch(inner) for name in steps for inner in names_in(path / name))


def _is_state_dict(_: Path, names: set[str]) -> bool:
    others = {*STATE_FILES, "training_args.bin", "scheduler.bin", "sampler.bin"}
    return any(name.endswith((".safetensors", ".distcp", *PICKLES)) for name in names - others)


def _is_model(_: Path, names: set[str]) -> bool:
    weights = any(name.endswith((".safetensors", ".bin")) for name in names - {"training_args.bin"})
    return has_model(names) or ("config.json" in names and weights)


def _is_configured(_: Path, names: set[str]) -> bool:
    return "config.json" in names and not any(name.endswith(".gguf") for name in names)


FOLDERS: tuple[tuple[Kind, Callable[[Path, set[str]], bool]], ...] = (
    ("training-run", _is_run),
    ("trainer-checkpoint", _is_checkpoint),
    ("unknown", lambda _, names: is_mlx(names) or is_megatron(names)),
    ("peft-adapter", lambda _, names: has_adapter(names)),
    ("deepspeed-state", _is_deepspeed),
    ("hf-model", _is_model),
    ("meta-checkpoint", lambda _, names: any(META.fullmatch(name) for name in names)),
    ("gguf", lambda _, names: any(name.endswith(".gguf") for name in names)),
    ("llama2c", lambda path, names: any(n.endswith(".bin") and is_llama2c(path / n) for n in names - {*STATE_FILES})),
    ("state-dict", _is_state_dict),
    ("hf-model", _is_configured),
    ("tokenizer", lambda _, names: bool(names & set(TOKENIZER_FILES))),
)


def snapshot_of(path: Path) -> Path:
    """Step from a folder of the Hub's cache (models--owner--name) into the snapshot that `main` names."""
    if not (path / "snapshots").is_dir():
        return path
    main = path / "refs" / "main"
    named = path / "snapshots" / main.read_text().strip() if main.is_file() else None
    if named is not None and named.is_dir():
        return named
    return max((path / "snapshots").iterdir(), key=lambda folder: folder.stat().st_mtime, default=path)
