"""Run as two processes: train a tiny Llama for two steps under one ZeRO stage on the CPU and save its state.

    python -m torch.distributed.run --nproc_per_node 2 deepspeed_run.py OUT STAGE {lora,full} {fp32,bf16}
"""

import sys
from pathlib import Path

import deepspeed
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

out, stage, kind, dtype = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_optimization": {"stage": stage},
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": dtype == "bf16"},
}
deepspeed.init_distributed("gloo")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=67, max_position_embeddings=64, tie_word_embeddings=kind == "full")
)
if kind == "lora":
    model = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", modules_to_save=["lm_head"]))
if dtype == "bf16":
    model = model.bfloat16()
engine, *_ = deepspeed.initialize(
    model=model, model_parameters=[p for p in model.parameters() if p.requires_grad], config=settings
)
for step in range(2):
    ids = torch.randint(0, 67, (1, 16), generator=torch.Generator().manual_seed(step))
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
engine.save_checkpoint(str(out))
