"""Put together what a stage trains: the base, the adapters live below, and the stage's techniques on top.

On a CPU earlier adapters are added to the base in float32, which is as exact as keeping them live; the result is
never written anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lingraft.models import attach, config_changes, config_for, locate
from lingraft.problems import Findings, refuse
from lingraft.train import bottlenecks
from lingraft.train.stage import Stage
from lingraft.train.techniques import Setting, Technique, Tuning


@dataclass(frozen=True)
class Assembled:
    """The model with its techniques applied (a PeftModel, or a bare model trained in full) and the Trainer's tuning."""

    model: Any
    tuning: Tuning


def assemble(stage: Stage, tokenizer: PreTrainedTokenizerBase, load: Callable[[Any, Path], Any]) -> Assembled:
    """Load the base in float32, add the adapters below, and let each technique change model and Trainer in turn.

    Errors: `config-mismatch` where the base is no causal language model, `recipe-invalid` from techniques.
    """
    techniques: Sequence[Technique] = stage.block.techniques
    config = config_below(stage)
    for technique in techniques:
        config = technique.on_config(config)
    model = load(config, stage.base)
    for adapter in stage.adapters:
        model = attach(model, adapter)
    model.requires_grad_(False)
    setting = Setting(stage.base, tokenizer, stage.work, new_rows(stage.base))
    if stage.block.continue_ is not None:
        model = _continued(model, stage)
    tuning = Tuning()
    for technique in techniques:
        if stage.block.continue_ is None or getattr(technique, "leaves", "nothing") == "nothing":
            model = technique.on_model(model, setting)
        tuning = technique.on_trainer(tuning)
    if not any(p.requires_grad for p in model.parameters()):
        refuse(
            "recipe-invalid",
            f"{stage.name}.techniques: nothing would be trained",
            "add a technique that trains something: lora, full, …",
        )
    return Assembled(model, tuning)


def to_compute_type(model: nn.Module, dtype: torch.dtype, exactly: bool = False) -> None:
    """Hold frozen parameters in the type that is multiplied in; trained ones keep float32 as master weights.

    ``exactly`` leaves alone what the type cannot hold to the bit: frozen layers of a model that will be saved whole.
    """
    if dtype == torch.float32:
        return
    for parameter in model.parameters():
        quantised = hasattr(parameter, "quant_state") or hasattr(parameter, "SCB")
        if not parameter.requires_grad and parameter.dtype == torch.float32 and not quantised:
            small = parameter.data.to(dtype)
            if not exactly or torch.equal(small.float(), parameter.data):
                parameter.data = small


def new_rows(base: Path) -> range | None:
    """Return the rows that a vocabulary stage added to this base, by its manifest.json; None without one."""
    manifest = base / "manifest.json"
    if not manifest.is_file():
        return None
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
        result = value.get("result", value)
        return range(int(result["old_size"]), int(result["new_size"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def rates_of(model: nn.Module, tuning: Tuning) -> dict[str, float]:
    """Return each trained parameter's multiple of the learning rate."""
    return {
        name: next((rate for pattern, rate in tuning.rates if re.search(pattern, name)), 1.0)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def with_recipe(tuning: Tuning, trainer: dict[str, Any]) -> Tuning:
    """Lay the recipe's own ``trainer:`` settings over what the techniques chose."""
    return replace(tuning, arguments={**tuning.arguments, **trainer})


def config_below(stage: Stage) -> Any:
    """Return the base's config with what the adapters below were trained with. Error: `config-mismatch`."""
    base = stage.base
    lived = [*stage.adapters, *([locate(stage.block.continue_)] if stage.block.continue_ else [])]
    try:
        return config_for(base, config_changes(lived))
    except (ValueError, OSError, KeyError) as error:
        refuse(
            "config-mismatch",
            f"{base / 'config.json'} is refused by transformers: {str(error).splitlines()[0]}",
            "restore it from its source, or run `lingraft adopt`",
            base,
        )


def _continued(model: Any, stage: Stage) -> Any:
    """Load an adapter to go on training it. Error: `base-mismatch`, `wrong-order`."""
    from peft import PeftModel

    assert stage.block.continue_ is not None
    path = locate(stage.block.continue_)
    check_chain(stage, path)
    kind = bottlenecks.config_of(path)
    if kind is not None:
        return bottlenecks.read(model, path, kind)
    try:
        return PeftModel.from_pretrained(model, path, is_trainable=True)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        refuse(
            "base-mismatch",
            f"continue: {path} does not fit this base: {str(error).splitlines()[0]}",
            "name an adapter that was trained on this base",
            path,
        )


def check_chain(stage: Stage, adapter: Path) -> None:
    """Hold an adapter that is to be continued against the base and the adapters below it, by its lineage.

    Errors: `base-mismatch`, `wrong-order`, `already-merged`.
    """
    from lingraft.merge import order
    from lingraft.merge.lineage import adapter_fingerprint, read_lineage
    from lingraft.weights.fingerprint import fingerprint
    from lingraft.weights.formats import open_checkpoint

    if read_lineage(adapter) is None:
        return
    known = order.inside(stage.base)
    known = replace(known, fingerprint=fingerprint(open_checkpoint(stage.base).tensors))
    given = [order.Given(a, adapter_fingerprint(a), read_lineage(a)) for a in (*stage.adapters, adapter)]
    findings = Findings(stage.findings.allow)
    order.check(stage.base, known, given, findings)
    findings.settle()
