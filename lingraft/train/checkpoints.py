"""Checkpoints that are complete or absent, and the Trainer that writes them.

transformers' Trainer writes a checkpoint file by file into its final place; a kill in between leaves half of one.
Here it writes into a folder beside, which is given digests and then renamed. Only trained parameters are kept,
under the names of the model, so that every technique resumes the same way.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerState

from lingraft.output import write_json
from lingraft.problems import Findings, refuse
from lingraft.train.distributed import group, whole
from lingraft.train.kept import check_written, restore_kept, save_kept
from lingraft.train.techniques import Tuning

TRAINED = "trained.safetensors"
DIGESTS = "digests.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)$")
_LASTING = {TRAINED, _STATE}  # what an old checkpoint keeps
_WHOLE = 2  # checkpoints to resume from: the newest, and the one before should it be damaged


if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


class Atomic(_Base):  # type: ignore[misc]
    """What a Trainer is given here: atomic checkpoints, learning rates by parameter, and a stop at NaN.

    Stands before transformers' Trainer, or one of trl's, in a class's bases.
    ``rates`` is each trained parameter's multiple of the learning rate; ``describe`` says which texts a batch holds;
    ``tuning`` brings the techniques' penalties and what checkpoints must hold for them.
    """

    def __init__(
        self, *args: Any, rates: dict[str, float], describe: Any = None, tuning: Tuning | None = None, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.rates = rates
        self.describe = describe
        self.tuning = tuning or Tuning()
        self._batch: Any = None
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
        self._batch = inputs
        if self.tuning.penalties:
            penalty = torch.stack([penalise(self.model) for penalise in self.tuning.penalties]).sum()
            self.accelerator.backward(penalty / self.current_gradient_accumulation_steps)
        bad = not torch.isfinite(loss)
        if group.anywhere(bad):
            what = self._named(inputs)
            value, what = next(told for told in group.everybodys((float(loss), what) if bad else None) if told)
            refuse(
                "training-diverged",
                f"the loss is {value} at step {self.state.global_step + 1}{what}",
                "lower trainer.learning_rate, or mend that text; the last good checkpoint is kept",
                self.args.output_dir,
            )
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip; a gradient that is not finite never reaches the weights, and its batch is named."""
        norm = super()._clip_grad_norm(model)
        if norm is None:  # DeepSpeed clips in its own step
            return norm
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if getattr(self.accelerator, "scaler", None) is None and not math.isfinite(float(norm)):
            what = self._named(self._batch)
            refuse(
                "training-diverged",
                f"the gradient is {float(norm)} at step {self.state.global_step + 1}{what}",
                "lower trainer.learning_rate, or mend that text; the last good checkpoint is kept",
                self.args.output_dir,
            )
        return norm

    def _named(self, inputs: Any) -> str:
        return f", on the batch that begins {self.describe(inputs)}" if self.describe and inputs is not None else ""

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return bool(super()._determine_best_metric(metrics, trial))
        except KeyError:
            there = sorted(name.removeprefix("eval_") for name in metrics)
            refuse(
                "recipe-invalid",
                f"trainer.metric_for_best_model: {self.args.metric_for_best_model} is not what "
                f"evaluation gives: {', '.join(there)}",
                "name one of these",
            )

    def _get_output_dir(self, trial: Any) -> str:
        return self._folder or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        trained = whole.trained(self.model)
        if group.leads():
            folder.mkdir(parents=True, exist_ok=True)
            save_file(trained, folder / TRAINED)
            save_kept(self.tuning.keeps, folder)
            check_written(folder / TRAINED, trained)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        home = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        beside = home / f".partial-{group.tell(os.getpid())}"
        if group.leads():
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        group.wait()
        self._folder = str(beside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._folder = None
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(home / f"checkpoint-{self.state.best_global_step}")
        group.wait()
        if group.leads():
            self.state.save_to_json(str(beside / name / _STATE))
            seal(beside / name)
            shutil.rmtree(home / name, ignore_errors=True)
            (beside / name).replace(home / name)
            shutil.rmtree(beside, ignore_errors=True)
            retire(home, self.args.save_total_limit or 2, self.state.best_global_step)
        group.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))
        restore_kept(self.tuning.keeps, Path(resume_from_checkpoint))

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
    wrong = set(found) ^ set(wanted) or {n for n in found if found[n].shape != whole.shape(wanted[n])}
    if wrong:
        refuse(
            "checkpoint-damaged",
            f"{checkpoint} is of another model or technique ({min(wrong)})",
            f"remove {checkpoint.parent} to begin anew",
            checkpoint,
        )
    whole.put(model, found)


def seal(checkpoint: Path) -> None:
    """Write the digests of all files of a checkpoint, to the disk itself."""
    digests = {str(p.relative_to(checkpoint)): _digest(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()}
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
    """Return the newest intact checkpoint to resume from; each newer one that is damaged is told and removed.

    Warning: `checkpoint-damaged`.
    """
    for checkpoint in _newest_first(home):
        if not resumable(checkpoint):
            continue
        if intact(checkpoint):
            return checkpoint
        findings.warn(
            "checkpoint-damaged",
            f"{checkpoint} fails its digests; the one before it is used",
            "nothing to do; if it happens again, check the disk",
            checkpoint,
        )
        shutil.rmtree(checkpoint)
    return None


def state_of(checkpoint: Path) -> TrainerState:
    """Return the Trainer's state as a checkpoint holds it."""
    return TrainerState.load_from_json(str(checkpoint / _STATE))


def retire(home: Path, keep: int, best: int | None) -> None:
    """Keep the newest ``keep`` checkpoints and the best; of all but the newest two, the trained weights alone."""
    for number, checkpoint in enumerate(_newest_first(home)):
        if number >= max(keep, 1) and (best is None or checkpoint.name != f"checkpoint-{best}"):
            shutil.rmtree(checkpoint)
        elif number >= _WHOLE:
            _strip(checkpoint)


def resumable(checkpoint: Path) -> bool:
    """Tell whether a checkpoint still has what resuming needs; one without digests counts, so that it is told."""
    try:
        return not set(json.loads((checkpoint / DIGESTS).read_text())) <= _LASTING
    except (OSError, ValueError):
        return True


def _strip(checkpoint: Path) -> None:
    """Remove what only resuming needs; the digests go first, so that a kill in between leaves no damage."""
    digests = json.loads((checkpoint / DIGESTS).read_text())
    write_json(checkpoint / DIGESTS, {name: digest for name, digest in digests.items() if name in _LASTING})
    for path in checkpoint.iterdir():
        if path.name not in {*_LASTING, DIGESTS}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _newest_first(home: Path) -> list[Path]:
    found = [(int(m[1]), p) for p in home.glob("checkpoint-*") if p.is_dir() and (m := _NAME.search(p.name))]
    return [p for _, p in sorted(found, reverse=True)]


def _digest(path: Path) -> str:
    hasher = blake3(max_threads=1)
    hasher.update_mmap(str(path))
    return str(hasher.hexdigest())
