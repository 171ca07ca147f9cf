"""Run a model straight from disk: never more of it in memory than one module's weights.

The transformers model is built on the meta device; before a module that owns parameters runs, they are read, and
after it they are dropped. The embedding reads only the rows that are asked for, and the head works in blocks of
rows. So a 7B model needs the memory of its largest matrix (where experts are fused: of a layer's experts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lingraft.weights.live import parameters
from lingraft.weights.tensors import Entry, Lazy, Tensor, row_blocks

BLOCK = 64 << 20
LISTS = ("layers", "h", "layer", "blocks", "block")


@dataclass(frozen=True)
class Outcome:
    """What a model made of a probe: hidden states by module name (first the embedding), and its logits."""

    hidden: Mapping[str, Tensor]
    logits: Tensor


class Unrunnable(Exception):
    """The model cannot be built or its parameters are not in the weights; says why."""


def run(config: Mapping[str, Any], weights: Lazy, ids: Tensor) -> Outcome:
    """Run a model in float32 over token ids (1, n). Error: `Unrunnable`."""
    model = _build(config)
    held, tied = parameters(model, weights), dict(getattr(model, "all_tied_weights_keys", None) or {})
    hidden: dict[str, Tensor] = {}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()

    def entry(name: str) -> Entry:
        found = held.get(name) or held.get(tied.get(name, ""))
        if found is None:
            raise Unrunnable(f"the weights hold no {name}")
        return found

    for name, module in list(model.named_modules()):
        own = {key: entry(f"{name}.{key}" if name else key) for key, _ in module.named_parameters(recurse=False)}
        if module is head and type(module) is nn.Linear:
            model.set_output_embeddings(_Head(own["weight"], _whole(own["bias"]) if "bias" in own else None))
        elif module is embedding and type(module) is nn.Embedding:
            model.set_input_embeddings(_Embedding(own["weight"]))
        elif isinstance(module, nn.Conv1d):  # small, and used by some models without being called
            for key, one in own.items():
                setattr(module, key, nn.Parameter(_whole(one), requires_grad=False))
        elif own:
            _stream(module, own)
    for name, module in _layers(model):
        module.register_forward_hook(_keep(hidden, name))
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    try:
        with torch.inference_mode():
            logits = getattr(model(input_ids=ids, **more), "logits", None)
    except Unrunnable:
        raise
    except Exception as error:  # Mamba reads parameters of modules that it does not call; Whisper wants sound
        raise Unrunnable(f"{type(model).__name__} does not run from disk: {error}") from error
    if logits is None:
        raise Unrunnable(f"{type(model).__name__} gives no logits")
    return Outcome(hidden, logits.float().reshape(-1, logits.shape[-1]))


def _whole(entry: Entry) -> Tensor:
    return entry.read(0, None).float()


def _build(config: Mapping[str, Any]) -> Any:
    import transformers
    from accelerate import init_empty_weights

    fields = {k: v for k, v in config.items() if k not in ("model_type", "quantization_config", "torch_dtype", "dtype")}
    kind = getattr(transformers, str(next(iter(config.get("architectures") or ()), "")), None)
    try:
        made = transformers.AutoConfig.for_model(str(config.get("model_type")), **fields)
        make = transformers.AutoModelForCausalLM.from_config if kind is None else kind._from_config
        with init_empty_weights(include_buffers=False):
            return make(made, dtype=torch.float32).eval()
    except Exception as error:  # a config may break a model's constructor in any way
        raise Unrunnable(f"transformers cannot build it: {(str(error) or repr(error)).splitlines()[0]}") from error


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in LISTS
    ]
    if not lists:
        return []
    name, longest = max(lists, key=lambda item: len(item[1]))
    return [(f"{name}.{i}", layer) for i, layer in enumerate(longest)]


def _keep(hidden: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        hidden[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

    return hook


def _stream(module: nn.Module, entries: Mapping[str, Entry]) -> None:
    empty = {key: getattr(module, key) for key in entries}

    def load(_module: nn.Module, _inputs: Any) -> None:
        for key, entry in entries.items():
            value = _whole(entry)
            if value.shape != empty[key].shape:
                raise Unrunnable(f"{key} is {list(value.shape)} where the config gives {list(empty[key].shape)}")
            setattr(module, key, nn.Parameter(value, requires_grad=False))

    def drop(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        for key, value in empty.items():
            setattr(module, key, value)

    module.register_forward_pre_hook(load)
    module.register_forward_hook(drop)


class _Embedding(nn.Module):
    """An embedding that reads the rows it is asked for."""

    def __init__(self, rows: Entry) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        unique, where = torch.unique(ids, return_inverse=True)
        held = torch.cat([self.rows.read(int(i), int(i) + 1).float() for i in unique])
        return held[where]


class _Head(nn.Module):
    """A head that multiplies by blocks of its rows."""

    def __init__(self, rows: Entry, bias: Tensor | None) -> None:
        super().__init__()
        self.rows = rows
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # some models hand it on

    def forward(self, hidden: Tensor) -> Tensor:
        parts = [
            hidden @ self.rows.read(start, stop).float().T for start, stop in row_blocks(self.rows.shape, 4, BLOCK)
        ]
        logits = torch.cat(parts, dim=-1)
        return logits if self.bias is None else logits + self.bias
