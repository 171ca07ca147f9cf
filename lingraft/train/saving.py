"""Write what a stage has trained, reopen it, and only then call it done.

Adapters of a few hundred bytes have been written by every way of saving that was never read back: shapes of zero
after ZeRO-3, patched state dicts, embeddings left out. So each tensor is looked at again in the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lingraft.data.templates import save_beside
from lingraft.merge.lineage import (
    Lineage,
    Link,
    adapter_fingerprint,
    tokenizer_digest,
    write_lineage,
)
from lingraft.problems import Findings
from lingraft.train.stage import Examples, Stage
from lingraft.train.techniques.lora import PISSA_START
from lingraft.weights.kinds import TOKENIZER_PARTS

ADAPTER = "adapter_model.safetensors"


def save(model: Any, stage: Stage, examples: Examples, folder: Path, quantisation: Mapping[str, Any] | None) -> None:
    """Write adapter or model, tokenizer and lineage into ``folder``, and check them. Errors: see `check_adapter`."""
    from peft import PeftModel, get_peft_model_state_dict

    writer = next((t for t in stage.block.techniques if getattr(t, "writes", lambda _: False)(model)), None)
    if writer is not None:
        check_adapter(folder, writer.write(model, stage.base, folder))
        write_lineage(folder, lineage(stage, quantisation))
    elif isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = str(stage.base)
        # 'auto' would add the whole embedding, or not, depending on what the Hub says of the base.
        start = stage.work / PISSA_START
        from_start = {"path_initial_model_for_weight_conversion": str(start)} if start.is_dir() else {}
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, **from_start)
        check_adapter(folder, {name: _shape(name, t, bool(from_start)) for name, t in expected.items()})
        write_lineage(folder, lineage(stage, quantisation))
    else:
        model.float().save_pretrained(folder)  # frozen layers may have been held in a smaller type that is exact
    copy_tokenizer(stage.base, folder)
    if examples.template is not None:
        save_beside(examples.template, examples.tokenizer, folder)


def _shape(name: str, value: torch.Tensor, doubled: bool) -> tuple[int, ...]:
    """Return a tensor's shape in the file; on the true base, a PiSSA update has twice the rank."""
    shape = list(value.shape)
    if doubled and ("lora_A" in name or "lora_B" in name):
        shape[0 if "lora_A" in name else 1] *= 2
    return tuple(shape)


def check_adapter(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Reopen a saved adapter and hold it against the tensors that should be in it.

    Errors: `missing-adapter-tensors`, `empty-tensor`, `non-finite`, `untrained-adapter`.
    """
    findings = Findings()
    path = folder / ADAPTER
    ups: list[bool] = []
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        for name, shape in expected.items():
            if name not in names or tuple(file.get_slice(name).get_shape()) != shape:
                findings.problem(
                    "missing-adapter-tensors",
                    f"{path}: {name} was not saved whole",
                    "report this: what was trained is not what was written",
                    path,
                    name,
                )
                continue
            value = file.get_tensor(name)
            if not value.numel():
                findings.problem("empty-tensor", f"{path}: {name} is empty", "report this", path, name)
            elif not torch.isfinite(value).all():
                findings.problem(
                    "non-finite",
                    f"{path}: {name} holds NaN or Inf",
                    "lower trainer.learning_rate and train again",
                    path,
                    name,
                )
            if "lora_B" in name:
                ups.append(bool(value.any()))
    if ups and not any(ups):
        findings.problem("untrained-adapter", f"{path}: every lora_B is zero", "train for more steps", path)
    findings.settle()


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy the base's tokenizer files byte for byte."""
    for name in TOKENIZER_PARTS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _changed_config(stage: Stage) -> dict[str, Any]:
    """Return the fields of the base's config that the stage's techniques changed, as config.json spells them."""
    from lingraft.train.assemble import config_below

    config, found = config_below(stage), {}
    for technique in stage.block.techniques:
        if hasattr(technique, "changes"):
            found.update(technique.changes(config))
    return found


def lineage(stage: Stage, quantisation: Mapping[str, Any] | None) -> Lineage:
    """Return what the new adapter was trained on."""
    from lingraft.weights.fingerprint import fingerprint
    from lingraft.weights.formats import open_checkpoint

    return Lineage(
        base=fingerprint(open_checkpoint(stage.base).tensors),
        base_path=str(stage.base.resolve()),
        adapters=tuple(Link(adapter_fingerprint(a), str(a.resolve())) for a in stage.adapters),
        quantisation=quantisation,
        tokenizer=tokenizer_digest(stage.base),
        recipe=stage.recipe,
        config=_changed_config(stage),
    )
