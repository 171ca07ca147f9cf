"""The Trainer over several processes: an even share for each, checkpoints that all of them write, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lingraft.recipe import Distributed
from lingraft.train.checkpoints import LingraftTrainer
from lingraft.train.distributed import sharded, strategy
from lingraft.train.distributed.even import Even, Order

_SCHEDULE = "scheduler.pt"


class SpreadTrainer(LingraftTrainer):
    """What transformers' Trainer does, where it would save the frozen base too, or one process's part alone."""

    def __init__(self, *args: Any, spread: Distributed, **more: Any) -> None:
        self.spread = spread
        super().__init__(*args, **more)

    def _move_model_to_device(self, model: Any, device: Any) -> Any:
        return model if self.spread.kind == "fsdp" else super()._move_model_to_device(model, device)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        data = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return Order(data, seed) if isinstance(data, Even) else super()._get_train_sampler(train_dataset)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Wrap the model, see that it runs as asked, and only then load: frozen weights are in no checkpoint."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        strategy.require_real(self.spread, self.model_wrapped)
        if resume_from_checkpoint is not None:
            if self.spread.kind == "deepspeed":
                self.model_wrapped.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; the Trainer would gather the whole model for it."""
        self._save(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.spread.kind == "ddp":
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.spread.kind == "deepspeed":
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            sharded.save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.spread.kind != "fsdp":
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharded.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULE, weights_only=True))

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
