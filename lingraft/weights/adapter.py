"""Peft adapter directories: adapter_config.json beside adapter_model.safetensors, or the older adapter_model.bin.

Only the container: tensors keep the names they were saved under, and `config` is adapter_config.json. What they
mean is `merge/adapter.py`'s business. peft saves an adapter that is not called "default" in a sub-folder of its
own name: a folder that holds nothing but one such sub-folder is read, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from lingraft.output import write_json
from lingraft.problems import refuse
from lingraft.weights import pickles, safetensors
from lingraft.weights.foreign import MLX_REMEDY
from lingraft.weights.hf import read_json, side_files, write_weights
from lingraft.weights.tensors import Checkpoint

NAME = "adapter"
CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")


def knows(path: Path) -> bool:
    """Tell whether a path is an adapter directory, or holds exactly one in a sub-folder and no model itself."""
    return home(path) is not None


def home(path: Path) -> Path | None:
    """Return the folder that holds adapter_config.json: ``path``, or its only sub-folder that is an adapter."""
    if not path.is_dir():
        return None
    if (path / CONFIG).is_file():
        return path
    if (path / "config.json").exists() or any(path.glob("*.safetensors")):
        return None
    inside = [p.parent for p in sorted(path.glob(f"*/{CONFIG}")) if not p.parent.name.startswith(("checkpoint-", "."))]
    return inside[0] if len(inside) == 1 and any((inside[0] / name).is_file() for name in FILES) else None


def read(path: Path) -> Checkpoint:
    """Open an adapter directory lazily; side files are those beside the adapter, else those of the outer folder.

    Errors: `not-found` where the weights are absent, and those of the containers.
    """
    folder = home(path) or path
    config = read_json(folder / CONFIG)
    if "peft_type" not in config and "lora_parameters" in config:
        refuse("unsupported-adapter", f"{folder} is an MLX adapter, which is not peft's", MLX_REMEDY, folder / CONFIG)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        refuse(
            "not-found",
            f"{folder} has {CONFIG} but neither {' nor '.join(FILES)}",
            "copy the adapter's weights beside its config",
            folder,
        )
    weights = safetensors.read_file(file) if file.suffix == ".safetensors" else pickles.read_file(file)
    return Checkpoint(folder, NAME, weights, config, side_files(folder) or side_files(path))


def write(checkpoint: Checkpoint, out: Path, progress: Callable[[int], object] | None = None) -> str:
    """Write adapter_model.safetensors, adapter_config.json and the side files into ``out``; return the fingerprint."""
    result = write_weights(checkpoint.tensors, out, 1 << 62, progress=progress, stem="adapter_model").fingerprint
    write_json(out / CONFIG, checkpoint.config)
    for file in checkpoint.side_files:
        shutil.copyfile(file, out / file.name)
    return result
