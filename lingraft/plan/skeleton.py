"""A model without weights: its config on torch's meta device, whole or with fewer of its equal blocks.

Every architecture that transformers builds can be counted and traced this way; nothing but config.json is needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lingraft.problems import refuse

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["causal", "classify"]


def read_config(name: str | Path) -> Any:
    """Return a model's transformers config from a directory, a GGUF or other checkpoint, or a Hub id.

    From the Hub only config.json is fetched; an adapter leads to its base. Errors: `not-found`, `config-mismatch`.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "adapter_config.json").is_file():
        from lingraft.models import stack

        path = stack(path).base
    if path.is_dir() and (path / "config.json").is_file():
        return _from_values(_json(path / "config.json"), path / "config.json")
    if path.exists():
        from lingraft.weights.formats import open_checkpoint

        return _from_values(open_checkpoint(path).config, path)
    return _from_hub(str(name))


def build(config: Any, kind: Kind = "causal") -> nn.Module:
    """Build a model on the meta device. Error: `config-mismatch` where transformers has no such model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if getattr(config, "is_encoder_decoder", False):
        refuse(
            "config-mismatch",
            f"{config.model_type} is an encoder with a decoder, which is not trained here",
            "choose a causal language model, or an encoder to classify with",
        )
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            model: nn.Module = auto.from_config(copy.deepcopy(config), dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        refuse(
            "config-mismatch",
            f"transformers cannot build this {config.model_type}: {str(error).splitlines()[0]}",
            "choose a causal language model, or mend its config.json",
        )
    return model


def kind_of(config: Any) -> Kind:
    """Tell a causal language model from an encoder, which is trained as a classifier."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = config.architectures or []
    generates = not named or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)
    return "causal" if generates and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "classify"


def blocks_of(model: nn.Module, config: Any) -> list[nn.Module]:
    """Return the decoder's blocks in order; an empty list where they are not found."""
    from torch import nn as torch_nn

    count = depth_of(config)
    for module in model.modules():
        if isinstance(module, torch_nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def with_depth(config: Any, depth: int) -> Any:
    """Return the config of the same model with ``depth`` blocks."""
    fewer = copy.deepcopy(config)
    text = fewer.get_text_config()
    whole = depth_of(config)
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return fewer


def with_rows(config: Any, rows: int) -> Any:
    """Return the config with another vocabulary size."""
    grown = copy.deepcopy(config)
    grown.get_text_config().vocab_size = rows
    return grown


def depths_to_trace(model: nn.Module, config: Any) -> tuple[int, ...]:
    """Return the depths to trace: two small ones that one repetition of the blocks lies between, or the whole.

    Blocks are told apart by their parameters and their kind of attention: Gemma 3's repeat after six, DeepSeek's
    after the first few.
    """
    whole = depth_of(config)
    shapes = [_shapes(block) for block in blocks_of(model, config)]
    kinds = getattr(config.get_text_config(), "layer_types", None) or [None] * whole
    if not shapes or len(kinds) != whole:
        return (whole,)
    first, period = _repetition(list(zip(kinds, shapes, strict=True)))
    small = max(_LEAST, first + max(period, _LEAST - 1))
    small += (whole - small) % period
    return (small, small + period) if whole > small + period else (whole,)


_LEAST = 3  # the smallest depth that has a first, a middle and a last block


def _repetition(blocks: list[Any]) -> tuple[int, int]:
    """Return from which block on the blocks repeat, and after how many: the pair with the smallest sum."""
    count = len(blocks)
    pairs = sorted(((first, period) for period in range(1, count + 1) for first in range(count)), key=sum)
    return next((f, p) for f, p in pairs if all(blocks[i] == blocks[i + p] for i in range(f, count - p)))


def depth_of(config: Any) -> int:
    """Return a model's number of blocks."""
    return int(config.get_text_config().num_hidden_layers)


def _shapes(block: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in block.named_parameters()]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse("config-mismatch", f"{path} is not readable JSON: {error}", "restore it from its source", path)
    if not isinstance(value, dict):
        refuse("config-mismatch", f"{path} holds no JSON object", "restore it from its source", path)
    return value


def _from_values(values: Mapping[str, Any] | None, path: Path) -> Any:
    from transformers import AutoConfig

    if not values or "model_type" not in values:
        refuse("config-mismatch", f"{path} does not say its model_type", "run `lingraft adopt` to write a config", path)
    try:
        rest = {k: v for k, v in values.items() if k not in ("model_type", "auto_map")}
        return AutoConfig.for_model(values["model_type"], **rest)
    except Exception as error:  # configs validate themselves, each in its own way
        why = str(error).splitlines()[0].partition(" Should contain one of")[0]  # five hundred names follow
        refuse(
            "config-mismatch",
            f"{path} is refused by transformers: {why}",
            "restore it from its source, or update transformers",
            path,
        )


def _from_hub(name: str) -> Any:
    from lingraft.models import EMBEDDED, locate

    if name == EMBEDDED or name.startswith("modelscope:") or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return read_config(locate(name))
    from huggingface_hub import hf_hub_download

    try:
        return read_config(Path(hf_hub_download(name, "config.json")).parent)
    except OSError as error:  # no network, no such repository, gated: all are OSError there
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        refuse(
            "not-found",
            f"{name} is no local path, and the Hub did not give its config.json: {reason}",
            "check the id and the network (HF_ENDPOINT chooses a mirror), or give a local directory",
            name,
        )
