"""FSDP2 by torch's own ``fully_shard``: the same on cards and on CPUs.

accelerate knows FSDP on accelerators only, and on a CPU falls back to plain DDP without a word. So the model is
sharded here, block by block, before the Trainer sees it; its optimizer's state is kept by torch's distributed
checkpoints, which another number of processes can read too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingraft import accelerator
from lingraft.problems import refuse
from lingraft.train.distributed import group

STATE = "optimizer"  # the folder of a checkpoint that holds the optimizer's parts


def shard(model: Any) -> None:
    """Shard a model that is ready to compute losses: each block by itself, then what is left around them.

    Error: `recipe-invalid` where no block is found, since whole models would be gathered at once.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.kind(), (group.size(),))
    blocks = _blocks(model)
    if not blocks:
        refuse(
            "recipe-invalid",
            "distributed.kind: fsdp finds no blocks in this model to shard by",
            "use kind: deepspeed with stage: 3, or kind: ddp",
        )
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model._is_accelerate_prepared = True  # accelerate wraps nothing around it then


def save_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Write every process's part of the optimizer's state."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    save({STATE: get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder / STATE)


def load_optimizer(model: Any, optimizer: Any, folder: Path) -> None:
    """Read this process's part of the optimizer's state."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    state = {STATE: get_optimizer_state_dict(model, optimizer)}
    load(state, checkpoint_id=folder / STATE)
    set_optimizer_state_dict(model, optimizer, state[STATE])


def _blocks(model: Any) -> list[Any]:
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in named]
