"""Make what `inspect` looks at: a run that transformers' Trainer really left, folders as users damage them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from lingraft.problems import Findings
from lingraft.weights.inspect import inspect


class Numbers(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Eight rows of random tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, 300, (16,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def train_run(base: Path, out: Path, **settings: Any) -> Path:
    """Let the Trainer train LoRA, embedding and head for four steps, with a checkpoint every second one."""
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(model, arguments, train_dataset=Numbers(), eval_dataset=Numbers())
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return out


def look(path: Path, fingerprint: bool = False) -> tuple[dict[str, Any], Findings]:
    """Inspect a path."""
    findings = Findings()
    return inspect(path, fingerprint, findings), findings


def problems(path: Path) -> list[str]:
    """Return the codes of a path's problems."""
    return [problem.code for problem in look(path)[1].problems]


def edit_json(file: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_weights(file: Path, **changes: Any) -> None:
    """Replace tensors of a safetensors file; None leaves one out, dots are written as two underscores."""
    tensors = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file, {"format": "pt"})
