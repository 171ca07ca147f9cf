"""Twenty adapters that were really trained, on fp32 and bf16 bases: none is refused, and each that is inside is known.

The base is a tiny Llama that first learns the shipped English text, so that its weights have structure; the adapters
then train by gradient on the shipped Chinese text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import codes, load_model

import lingraft

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN: dict[str, dict[str, Any]] = {f"lora r={r}": {"r": r, "lora_alpha": 2 * r} for r in (4, 8, 16, 32)}
PLAIN |= {
    "rslora": {"r": 8, "lora_alpha": 8, "use_rslora": True},
    "dora": {"r": 8, "lora_alpha": 16, "use_dora": True},
    "orthogonal": {"r": 8, "lora_alpha": 16, "init_lora_weights": "orthogonal"},
    "saved ends": {"r": 8, "lora_alpha": 16, "modules_to_save": ["embed_tokens", "lm_head"]},
}
INSIDE_ITS_BASE = {
    "pissa r=4": {"r": 4, "lora_alpha": 4, "init_lora_weights": "pissa"},
    "pissa r=16": {"r": 16, "lora_alpha": 32, "init_lora_weights": "pissa"},
}
CASES = [(name, dtype) for dtype in ("float32", "bfloat16") for name in {**PLAIN, **INSIDE_ITS_BASE}]


def text(name: str) -> torch.Tensor:
    lines = (Path(lingraft.__file__).parent / "text" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return torch.tensor(list("\n".join(json.loads(line)["text"] for line in lines).encode()))


def train(model: Any, data: torch.Tensor, steps: int, rate: float, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - 49, (8,), generator=generator)
        batch = torch.stack([data[s : s + 48] for s in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama over bytes that has learnt the shipped English text, in fp32 and in bf16."""
    import transformers as t

    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(
        t.LlamaConfig(
            vocab_size=256,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
    )
    train(model, text("en"), 150, 3e-3)
    model.save_pretrained(folder / "float32")
    model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")
    return {name: folder / name for name in ("float32", "bfloat16")}


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype", CASES, ids=[f"{name} {dtype}" for name, dtype in CASES])
def test_a_really_trained_adapter_is_merged_and_refused_where_it_is_inside(bases, run, tmp_path, name, dtype):
    import peft

    torch.manual_seed(1)
    config = {**PLAIN, **INSIDE_ITS_BASE}[name]
    live = peft.get_peft_model(load_model(bases[dtype]), peft.LoraConfig(target_modules=LINEAR, **config))
    train(live, text("zh"), 30, 1e-3, seed=len(name))
    live.save_pretrained(tmp_path / "adapter")
    out = run(bases[dtype], tmp_path / "adapter")
    if name in PLAIN:
        (out / "manifest.json").unlink()  # by evidence alone
        assert "already-merged" in codes(lambda: run(out, tmp_path / "adapter", out="again"))
