"""What AdaLoRA needs around peft's layers: the callback that deals out ranks, the penalty, and the result as a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.adalora import SVDLinear
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D


class Ranks(TrainerCallback):  # type: ignore[misc]
    """Call peft's rank allocation after each update, on a schedule in shares of the run's own steps.

    Importance is a running mean, so it belongs into a checkpoint: see ``tensors`` and ``restore``.
    """

    def __init__(self, warm: float, settle: float) -> None:
        self.warm = warm
        self.settle = settle
        self._model: Any = None
        self._kept: dict[str, Tensor] = {}

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        """Set the schedule, and go on from a checkpoint's importances where there are some."""
        self._model = peft_of(more["model"]).base_model
        config = self._model.peft_config["default"]
        config.total_step = state.max_steps
        config.tinit = int(self.warm * state.max_steps)
        config.tfinal = min(int(self.settle * state.max_steps), state.max_steps - config.tinit - 1)
        allocator = self._model.rankallocator
        allocator.set_total_step(state.max_steps)
        for key, value in self._kept.items():
            kind, _, name = key.partition("/")
            if kind == "mask":
                config.rank_pattern = {**(config.rank_pattern or {}), name: value.bool().tolist()}
            else:
                getattr(allocator, kind)[name] = value

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Deal out ranks while the gradients are still there."""
        self._model.update_and_allocate(state.global_step + 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: importances by parameter, and the masks."""
        allocator, pattern = self._model.rankallocator, self._model.peft_config["default"].rank_pattern or {}
        found = {
            f"{kind}/{name}": value.contiguous()
            for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            for name, value in getattr(allocator, kind).items()
        }
        return found | {f"mask/{name}": torch.tensor(mask, dtype=torch.uint8) for name, mask in pattern.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what a checkpoint held."""
        self._kept = tensors


def peft_of(model: nn.Module) -> Any:
    """Return the PeftModel inside whatever wraps it."""
    return next(module for module in model.modules() if isinstance(module, PeftModel))


def skewness(model: nn.Module) -> Tensor:
    """Return how far the outer factors are from orthonormal: mean ‖AAᵀ − I‖ and ‖BᵀB − I‖ (equation 4)."""
    parts = [
        (p @ p.T if "lora_A" in name else p.T @ p)
        for name, p in model.named_parameters()
        if p.requires_grad and ("lora_A" in name or "lora_B" in name)
    ]
    return torch.stack([torch.linalg.norm(part - torch.eye(len(part), device=part.device)) for part in parts]).mean()


def as_lora(model: Any, base: Path, folder: Path) -> dict[str, tuple[int, ...]]:
    """Write B·diag(E)·A·scale of each layer as LoRA factors of the rank it has left; return the shapes by tensor.

    A layer that is left with no rank is not among the targets. The scale goes into A, so that alpha = r.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    turned = False
    for path, layer in model.get_base_model().named_modules():
        if not isinstance(layer, SVDLinear):
            continue
        values = layer.lora_E["default"].detach()
        kept = values.flatten().nonzero().flatten()
        if not len(kept):
            continue
        scale = layer.scaling["default"] / (layer.ranknum["default"].detach() + 1e-5)
        up, down = layer.lora_B["default"].detach(), layer.lora_A["default"].detach()
        tensors[f"base_model.model.{path}.lora_A.weight"] = (down * values * scale)[kept].contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = up[:, kept].contiguous()
        ranks[path] = len(kept)
        turned = turned or isinstance(layer.get_base_layer(), Conv1D)
    most = max(ranks.values(), default=1)
    task = model.peft_config["default"].task_type
    config = LoraConfig(
        r=most,
        lora_alpha=most,
        target_modules=sorted(ranks),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        task_type=task,
        fan_in_fan_out=turned,
        inference_mode=True,
        base_model_name_or_path=str(base),
    )
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return {name: tuple(value.shape) for name, value in tensors.items()}
