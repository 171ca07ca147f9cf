"""Run as two processes: shard a tiny Llama with torch's own fully_shard on the CPU and save it distributed.

python -m torch.distributed.run --nproc_per_node 2 fsdp_run.py OUT
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

dist.init_process_group("gloo")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=32,
        intermediate_size=57,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=67,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
)
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
ids = torch.randint(0, 67, (1, 16))
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer), "step": 1}
dcp.save(state, checkpoint_id=Path(sys.argv[1]))
dist.destroy_process_group()
