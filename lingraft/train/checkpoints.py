"""Checkpoints that are complete or absent, and the Trainer that writes them.

transformers' Trainer writes a checkpoint file by file into its final place; a kill in between leaves half of one.
Here it writes into a folder beside, which is given digests and then renamed. Only trained parameters are kept,
under the names of the model, so that every technique resumes the same way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerState

from lingraft.problems import Findings, refuse

TRAINED = "trained.safetensors"
DIGESTS = "digests.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


class Atomic(_Base):  # type: ignore[misc]
    """What a Trainer is given here: atomic checkpoints, learning rates by parameter, and a stop at NaN.

    Stands before transformers' Trainer, or one of trl's, in a class's bases.
    ``rates`` is each trained parameter's multiple of the learning rate; ``name_of`` says which texts a batch holds.
    """

    def __init__(self, *args: Any, rates: dict[str, float], describe: Any = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.rates = rates
        self.describe = describe
        self._folder: str | None = None

    def create_optimizer(self, model: Any = None) -> Any:
        """Group parameters by learning rate and by whether weight decay is due; added rows are never decayed."""
        if getattr(self, "optimizer", None) is None:
            target = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(target))
            groups: dict[tuple[float, float], list[Any]] = {}
            for name, parameter in target.named_parameters():
                if parameter.requires_grad:
                    rate = self.rates.get(name.removeprefix("model."), 1.0) * self.args.learning_rate
                    decay = self.args.weight_decay if name in decayed and "trainable_tokens" not in name else 0.0
                    groups.setdefault((rate, decay), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            options.pop("params", None)
            listed = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
            self.optimizer = kind(listed, **options)
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Take one step; a loss or gradient that is not finite is `training-diverged`, naming the batch."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            what = f", on the batch that begins {self.describe(inputs)}" if self.describe else ""
            refuse("training-diverged", f"the loss is {float(loss)} at step {self.state.global_step + 1}{what}",
                   "lower trainer.learning_rate, or mend that text; the last good checkpoint is kept",
                   self.args.output_dir)  # fmt: skip
        return loss

    def _get_output_dir(self, trial: Any) -> str:
        return self._folder or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().contiguous() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, folder / TRAINED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        home = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        beside = home / f".partial-{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        self._folder = str(beside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._folder = None
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(home / f"checkpoint-{self.state.best_global_step}")
        self.state.save_to_json(str(beside / name / _STATE))
        seal(beside / name)
        shutil.rmtree(home / name, ignore_errors=True)
        (beside / name).replace(home / name)
        shutil.rmtree(beside, ignore_errors=True)
        retire(home, self.args.save_total_limit or 2, self.state.best_global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best and Path(best).is_dir():
            load_trained(self.model, Path(best))


class LingraftTrainer(Atomic, Trainer):  # type: ignore[misc]
    """transformers' own Trainer, with atomic checkpoints."""


def load_trained(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's trained parameters into the model. Error: `checkpoint-damaged` where they do not fit."""
    found = load_file(checkpoint / TRAINED)
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wrong = set(found) ^ set(wanted) or {n for n in found if found[n].shape != wanted[n].shape}
    if wrong:
        refuse("checkpoint-damaged", f"{checkpoint} is of another model or technique ({min(wrong)})",
               f"remove {checkpoint.parent} to begin anew", checkpoint)  # fmt: skip
    with torch.no_grad():
        for name, value in found.items():
            wanted[name].copy_(value)


def seal(checkpoint: Path) -> None:
    """Write the digests of all files of a checkpoint, to the disk itself."""
    digests = {p.name: _digest(p) for p in sorted(checkpoint.iterdir()) if p.is_file()}
    with (checkpoint / DIGESTS).open("w") as file:
        json.dump(digests, file)
        file.flush()
        os.fsync(file.fileno())


def intact(checkpoint: Path) -> bool:
    """Tell whether every file of a checkpoint is there and has its digest."""
    try:
        digests = json.loads((checkpoint / DIGESTS).read_text())
        return bool(digests) and all(_digest(checkpoint / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def latest(home: Path, findings: Findings) -> Path | None:
    """Return the newest intact checkpoint, warning (`checkpoint-damaged`) of each newer one that is not."""
    for checkpoint in _newest_first(home):
        if intact(checkpoint):
            return checkpoint
        findings.warn("checkpoint-damaged", f"{checkpoint} fails its digests; the one before it is used",
                      "nothing to do; if it happens again, check the disk", checkpoint)  # fmt: skip
        shutil.rmtree(checkpoint)
    return None


def state_of(checkpoint: Path) -> TrainerState:
    """Return the Trainer's state as a checkpoint holds it."""
    return TrainerState.load_from_json(str(checkpoint / _STATE))


def retire(home: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best."""
    for checkpoint in _newest_first(home)[keep:]:
        if best is None or checkpoint.name != f"checkpoint-{best}":
            shutil.rmtree(checkpoint)


def _newest_first(home: Path) -> list[Path]:
    found = [(int(m[1]), p) for p in home.glob("checkpoint-*") if p.is_dir() and (m := _NAME.search(p.name))]
    return [p for _, p in sorted(found, reverse=True)]


def _digest(path: Path) -> str:
    hasher = blake3(max_threads=1)
    hasher.update_mmap(str(path))
    return str(hasher.hexdigest())
