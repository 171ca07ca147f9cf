"""Liger's Triton kernels (``trainer.use_liger_kernel``): needs a GPU; not run here, only its guard is tested.

transformers would apply them to a model of its own class; ours stands inside a wrapper, so they are applied here. Its
fused head is left out: the loss never makes all logits anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from lingraft.problems import refuse


def apply(model: Any, arguments: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Apply the kernels where the arguments ask for them; return the arguments without that wish.

    Error: `recipe-invalid` without the package or without a GPU.
    """
    left = {k: v for k, v in arguments.items() if k not in ("use_liger_kernel", "liger_kernel_config")}
    if not arguments.get("use_liger_kernel"):
        return left
    if find_spec("liger_kernel") is None:
        refuse(
            "recipe-invalid",
            f"{stage}.trainer.use_liger_kernel: liger-kernel is not installed",
            "pip install liger-kernel, on a machine with a GPU",
        )
    if not torch.cuda.is_available():
        refuse(
            "recipe-invalid",
            f"{stage}.trainer.use_liger_kernel: its kernels need a GPU, and there is none",
            "remove the key",
        )
    from liger_kernel.transformers import (  # type: ignore[import-not-found, unused-ignore]
        _apply_liger_kernel_to_instance,
    )

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = {
        "fused_linear_cross_entropy": False,
        "cross_entropy": False,
        **(arguments.get("liger_kernel_config") or {}),
    }
    _apply_liger_kernel_to_instance(model=causal, **settings)
    return left
