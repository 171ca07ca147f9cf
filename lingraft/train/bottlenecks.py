"""Bottleneck networks inside a model: put in, saved, put in again.

A network hangs on a linear layer as its submodule ``bottleneck`` and follows it in a forward hook, before the
residual is added: ``y + up(act(down(y)))``. So the model keeps its class, and the tensors' names say where they belong:
``model.layers.0.mlp.down_proj.bottleneck.down.weight`` [size, width]. ``up`` begins at zero: training starts from the
model as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from lingraft.output import write_json
from lingraft.problems import refuse
from lingraft.weights.hf import read_json

KIND = "BOTTLENECK"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}
_LAST = {
    "o_proj",
    "out_proj",
    "dense",
    "c_proj",
    "down_proj",
    "fc2",
    "fc_out",
    "dense_4h_to_h",
    "wo",
    "w2",
    "out_lin",
    "lin2",
    "Wo",
}
_BLOCK = re.compile(r"^(.*\.\d+)\.(.+)$")


class Network(nn.Module):
    """``y + up(act(down(y)))`` in float32 weights, for y [..., width] of any floating type."""

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        self.activation = activation
        nn.init.normal_(self.down.weight, std=1e-2)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Return the sublayer's output with what was learnt added."""
        inner = _ACTIVATIONS[self.activation](self.down(y.to(self.down.weight.dtype)))
        added: Tensor = self.up(inner)
        return y + added.to(y.dtype)


def insert(model: nn.Module, layers: Sequence[str], size: int, activation: str) -> None:
    """Hang a trainable network on each of ``layers`` (full names of linear layers)."""
    from transformers.pytorch_utils import Conv1D

    for name in layers:
        layer: Any = model.get_submodule(name)
        width = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        layer.bottleneck = Network(width, size, activation).to(layer.weight.device)
        layer.register_forward_hook(_follow)


def _follow(layer: Any, _given: Any, output: Tensor) -> Tensor:
    result: Tensor = layer.bottleneck(output)
    return result


def ends_of_sublayers(model: nn.Module, attention: bool) -> list[str]:
    """Return each block's last feed-forward layer, and with ``attention`` the one that ends its attention.

    Error: `recipe-invalid` where a block's layers have no known names.
    """
    from lingraft.train.techniques.targets import linear_layers

    found: dict[tuple[str, bool], str] = {}
    blocks: dict[str, None] = {}
    for name in linear_layers(model):
        if match := _BLOCK.match(name):
            blocks[match[1]] = None
            if name.rpartition(".")[2] in _LAST and ".experts." not in name:
                found[match[1], "att" in match[2]] = name
    wanted = [(block, side) for block in blocks for side in ((True, False) if attention else (False,))]
    missing = [block for block, side in wanted if (block, side) not in found]
    if missing or not wanted:
        refuse(
            "recipe-invalid",
            f"bottleneck: the layers that end {missing[0] if missing else 'the blocks'}'s "
            "sublayers are not known by name",
            "name them: targets: [o_proj, down_proj]",
        )
    return [found[key] for key in wanted]


def write(model: nn.Module, folder: Path, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Write adapter_model.safetensors and adapter_config.json into ``folder``; return the shapes by tensor."""
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters() if ".bottleneck." in name}
    layers = sorted({name.partition(".bottleneck.")[0] for name in tensors})
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    write_json(folder / _CONFIG, {"peft_type": KIND, **settings, "target_modules": layers})
    return {name: tuple(value.shape) for name, value in tensors.items()}


def config_of(folder: Path) -> dict[str, Any] | None:
    """Return the config of a folder that holds a bottleneck adapter, None for any other."""
    path = folder / _CONFIG
    config = read_json(path) if path.is_file() else {}
    return config if config.get("peft_type") == KIND else None


def read(model: nn.Module, folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """Put a saved adapter's networks into a model. Error: `base-mismatch` where they do not fit it."""
    tensors = load_file(folder / _WEIGHTS)
    layers = [str(name) for name in config["target_modules"]]
    names = {name for name, _ in model.named_modules()}
    lacking = next((name for name in layers if name not in names), None)
    if lacking is not None:
        refuse(
            "base-mismatch",
            f"{folder} belongs behind {lacking}, which this model has not",
            "name the base that it was trained on",
            folder,
            lacking,
        )
    insert(model, layers, int(config["size"]), str(config["activation"]))
    try:
        _, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        refuse(
            "base-mismatch",
            f"{folder} does not fit its base: {str(error).splitlines()[-1].strip()}",
            "name the base that it was trained on",
            folder,
        )
    missing = {n for n, _ in model.named_parameters() if ".bottleneck." in n} - set(tensors)
    if missing or unexpected:
        refuse(
            "missing-adapter-tensors" if missing else "unused-adapter-tensors",
            f"{folder}: {min(missing or set(unexpected))} has no counterpart",
            "copy the adapter again",
            folder,
        )
    return model
