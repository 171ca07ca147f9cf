"""DDP, DeepSpeed's ZeRO or FSDP2, as the recipe's ``distributed:`` block says; and a look at what really runs.

DeepSpeed's own settings go through as they are (``config:``). A strategy that is silently replaced by another is
refused: that is found out on the wrapped model, not in the settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.problems import refuse
from lingraft.recipe import Distributed
from lingraft.train.distributed import group

if TYPE_CHECKING:
    from lingraft.train.stage import Stage

_QUIET = 1_000_000_000  # steps between DeepSpeed's own lines


def of(stage: Stage) -> Distributed | None:
    """Return how a stage is spread, None in a run of one process. Errors: `recipe-invalid` for what cannot be."""
    if group.size() == 1:
        return None
    forget()  # an earlier stage's
    spread = stage.distributed or Distributed()
    refuse_unoffered(spread, stage.name, stage.block)
    return spread


def own_scratch(stage: Stage) -> Stage:
    """Return the stage for rank 0, and one that writes into a folder of its own for the others."""
    if group.leads():
        return stage
    return replace(stage, work=Path(tempfile.mkdtemp(prefix="lingraft-rank-")))


def require_same(work: Path, begun: bool) -> None:
    """Refuse (`recipe-invalid`) to go on with a stage over another number of processes than it was begun with."""
    path, here = work / "processes", str(group.size())
    before = group.tell(path.read_text(encoding="ascii") if path.is_file() else "1" if begun else here)
    if before != here:
        refuse(
            "recipe-invalid",
            f"this stage was begun over {before} processes, and this run has {here}: batches "
            "would be seen twice or never",
            f"start {before} processes, or remove {work} to begin anew",
            work,
        )
    if group.leads():
        path.write_text(here, encoding="ascii")


def gathers_by_module(spread: Distributed) -> bool:
    """Tell whether weights are whole only inside the forward of the very module that owns them (ZeRO-3)."""
    return spread.kind == "deepspeed" and spread.stage == 3


def arguments(spread: Distributed, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what TrainingArguments need for the strategy. Error: `recipe-invalid` without DeepSpeed."""
    if spread.kind == "deepspeed":
        return {"deepspeed": _deepspeed(spread)}
    if spread.kind == "ddp":
        return {"ddp_find_unused_parameters": False, **{k: v for k, v in chosen.items() if k.startswith("ddp_")}}
    return {}


def refuse_unoffered(spread: Distributed, name: str, block: Any) -> None:
    """Refuse (`recipe-invalid`) what cannot be sharded, rather than train something else."""
    if name == "prefer" and spread.kind != "ddp":
        refuse("recipe-invalid", f"prefer is not offered with {label(spread)}", "use distributed: {kind: ddp}")
    if splits_weights(spread) and any(technique.kind == "qlora" for technique in block.techniques):
        refuse(
            "recipe-invalid",
            f"{name}.techniques: quantised weights are not split over processes",
            "use distributed: {kind: ddp}, or lora instead of qlora",
        )


def splits_weights(spread: Distributed) -> bool:
    """Tell whether the strategy leaves each process with a part of the weights."""
    return spread.kind == "fsdp" or (spread.kind == "deepspeed" and spread.stage == 3)


def label(spread: Distributed) -> str:
    """Return the strategy as people call it."""
    return {"ddp": "DDP", "fsdp": "FSDP2"}.get(spread.kind, f"ZeRO-{spread.stage}")


def running(wrapped: Any) -> str:
    """Return what a wrapped model really runs as: ZeRO-n, FSDP2 (every parameter a DTensor), DDP, or alone."""
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    if hasattr(wrapped, "zero_optimization_stage"):
        return f"ZeRO-{wrapped.zero_optimization_stage()}"
    if isinstance(wrapped, DistributedDataParallel):
        return "DDP"
    return "FSDP2" if all(isinstance(p, DTensor) for p in wrapped.parameters()) else "alone"


def require_real(spread: Distributed, wrapped: Any) -> None:
    """Refuse (`recipe-invalid`) to train another way than the recipe says."""
    import torch.distributed as dist

    found, wanted = running(wrapped), label(spread)
    if found != wanted or dist.get_world_size() != group.size():
        refuse(
            "recipe-invalid",
            f"distributed: {wanted} over {group.size()} processes is asked for, but {found} "
            f"over {dist.get_world_size()} would run",
            "check the versions of torch, accelerate and deepspeed",
        )


def forget() -> None:
    """Take back the setting by which transformers would split every model that is loaded from now on."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _deepspeed(spread: Distributed) -> dict[str, Any]:
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        refuse(
            "recipe-invalid",
            f"distributed.kind: deepspeed cannot be imported ({error})",
            "pip install 'lingraft[deepspeed]'",
        )
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _QUIET,
        "zero_optimization": {"stage": spread.stage},
    }
    return _laid_over(config, spread.config)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of ``above`` in their places."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged
