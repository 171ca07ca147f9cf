"""Run as two processes: train a tiny Llama for two steps under ZeRO on the CPU and save its state, case by case.

PYTHONPATH=tests python -m torch.distributed.run --nproc_per_node 2 deepspeed_run.py OUT 1-lora-fp32 3-full-bf16 …
"""

import sys
from pathlib import Path

import deepspeed
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from two_processes import through_gloo


def train(out: Path, stage: int, kind: str, dtype: str) -> None:
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        "zero_optimization": {"stage": stage, "sub_group_size": 3000},  # ZeRO 3: several flat groups a rank
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bf16"},
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=67,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=kind == "full",
        )
    )
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", modules_to_save=["lm_head"]))
    model = model.bfloat16() if dtype == "bf16" else model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, config=settings)
    for step in range(2):
        ids = torch.randint(0, 67, (1, 16), generator=torch.Generator().manual_seed(step))
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    engine.save_checkpoint(str(out))
    engine.destroy()


if __name__ == "__main__":
    through_gloo()
    deepspeed.init_distributed("gloo")
    for case in sys.argv[2:]:
        number, kind, dtype = case.split("-")
        train(Path(sys.argv[1]) / case, int(number), kind, dtype)
