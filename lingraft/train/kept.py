"""What a checkpoint holds beside the parameters, and a look at what was written before it counts.

Techniques with a memory (AdaLoRA's importances, the mean of weights) keep it as tensors in ``kept-NAME.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lingraft.problems import refuse

if TYPE_CHECKING:
    from lingraft.train.techniques import Keeps


def save_kept(keeps: Mapping[str, Keeps], folder: Path) -> None:
    """Write the memory of every technique that has one."""
    for name, keep in keeps.items():
        if tensors := keep.tensors():
            save_file(tensors, folder / f"kept-{name}.safetensors")


def restore_kept(keeps: Mapping[str, Keeps], folder: Path) -> None:
    """Give every technique its memory back."""
    for name, keep in keeps.items():
        path = folder / f"kept-{name}.safetensors"
        keep.restore(load_file(path) if path.is_file() else {})


def check_written(path: Path, wanted: Mapping[str, torch.Tensor]) -> None:
    """Reopen what was just written: the same tensors and shapes, finite, and not nothing but zeros.

    (Every lora_B may still be zero here: the first step of a warm-up moves nothing.) Errors: `checkpoint-damaged`,
    `non-finite`, `empty-tensor`.
    """
    alive = False
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name, parameter in wanted.items():
                if name not in names or tuple(file.get_slice(name).get_shape()) != tuple(parameter.shape):
                    refuse(
                        "checkpoint-damaged",
                        f"{path}: {name} was not written whole",
                        "check the disk; the checkpoint before is kept",
                        path,
                        name,
                    )
                value = file.get_tensor(name)
                if not torch.isfinite(value).all():
                    refuse(
                        "non-finite",
                        f"{path}: {name} holds NaN or Inf",
                        "lower trainer.learning_rate; the checkpoint before is kept",
                        path,
                        name,
                    )
                alive = alive or bool(value.any())
    except (OSError, SafetensorError) as error:
        refuse(
            "checkpoint-damaged",
            f"{path} cannot be read back: {error}",
            "check the disk; the checkpoint before is kept",
            path,
        )
    if wanted and not alive:
        refuse(
            "empty-tensor",
            f"{path} holds nothing but zeros",
            "report this: what was trained is not what was written",
            path,
        )
