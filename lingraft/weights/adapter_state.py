"""The adapter inside a PeftModel's full state (a DeepSpeed or FSDP checkpoint of a LoRA run), as peft would save it.

A state carries the base too, and the adapter's name in every key: ``…q_proj.lora_A.default.weight`` is saved as
``…q_proj.lora_A.weight``, ``…lm_head.modules_to_save.default.weight`` as ``…lm_head.weight``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lingraft.problems import refuse
from lingraft.weights.adapter import CONFIG
from lingraft.weights.hf import read_json
from lingraft.weights.peft_names import LIVE
from lingraft.weights.tensors import Checkpoint, Lazy, header

# name in a live model -> name in a file; {0} is what stands before, {1} what stands behind the adapter's name
SAVED = (
    (r"(.+\.lora_(?:A|B|magnitude_vector))\.{name}(\.\w+)?", "{0}{1}"),
    (r"(.+\.lora_embedding_[AB])\.{name}", "{0}"),
    (r"(.+\.ia3_l)\.{name}", "{0}"),
    (r"(.+)\.modules_to_save\.{name}(\..+)", "{0}{1}"),
    (r"(.+\.trainable_tokens_delta)\.{name}", "{0}"),
)


def adapter_of(checkpoint: Checkpoint) -> Checkpoint:
    """Return the adapter in a PeftModel's state; adapter_config.json is looked for around the state.

    Errors: `not-found` without an adapter_config.json, `unsupported-adapter` for several adapters in one state.
    """
    found = {m[1] for name in checkpoint.tensors if (m := LIVE.fullmatch(name))}
    if len(found) != 1:
        refuse(
            "unsupported-adapter",
            f"{checkpoint.path} holds {len(found)} adapters ({', '.join(sorted(found))})",
            "save the one you want with peft",
            checkpoint.path,
        )
    patterns = [(re.compile(p.replace("{name}", re.escape(found.copy().pop()))), form) for p, form in SAVED]
    entries = {}
    for name in checkpoint.tensors:
        for pattern, form in patterns:
            if match := pattern.fullmatch(name):
                entries[form.format(match[1], (match[2] if pattern.groups > 1 else "") or "")] = header(
                    checkpoint.tensors, name
                )
                break
    folder = _config_folder(checkpoint.path)
    return replace(checkpoint, tensors=Lazy(entries), config=read_json(folder / CONFIG))


def _config_folder(path: Path) -> Path:
    folder = next((p for p in (path, *path.absolute().parents[:2]) if (p / CONFIG).is_file()), None)
    if folder is None:
        refuse("not-found", f"no {CONFIG} lies in or around {path}", "copy the run's own beside it", path)
    return folder
