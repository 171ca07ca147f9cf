"""What is seen of a training while it runs: the log, the progress bar, and when to save a checkpoint."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lingraft.problems import refuse
from lingraft.progress import Advance
from lingraft.train.distributed import group

_LOGGED = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy", "eval_macro_f1")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Write each step's row to ``log``, advance the bar by its tokens, and save every ``every`` seconds of work.

    A row is {"step", "loss", "learning_rate", "grad_norm", "tokens", "seconds"} or {"step", "eval_loss"}.
    """

    def __init__(self, log: Path, advance: Advance, every: float, tokens_per_step: float) -> None:
        self.log = log
        self.advance = advance
        self.every = every
        self.tokens_per_step = tokens_per_step
        self.started = self.saved = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, _control: Any, **more: Any) -> None:
        """Stop before a gradient that is not finite could spoil weights and optimizer."""
        if args.fp16:  # its scaler looks for them itself, skips the step and scales less
            return
        if group.anywhere(any(_spoilt(p.grad) for g in more["optimizer"].param_groups for p in g["params"])):
            message = f"a gradient is not finite at step {state.global_step + 1}"
            remedy = "lower trainer.learning_rate; the last good checkpoint is kept"
            refuse("training-diverged", message, remedy, args.output_dir)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:  # noqa: ARG002
        """Ask for a checkpoint when one is due, and after the last step."""
        self.advance(self.tokens_per_step)
        due = group.tell(time.monotonic() - self.saved >= self.every) or state.global_step >= state.max_steps
        if due and not args.save_only_model:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Count the time to the next checkpoint from here."""
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Append what the Trainer logs."""
        logs: dict[str, Any] = more.get("logs") or {}
        kept: dict[str, Any] = {k: logs[k] for k in _LOGGED if k in logs}
        if not kept:
            return
        tokens, seconds = round(state.global_step * self.tokens_per_step), time.monotonic() - self.started
        row = {"step": state.global_step, **kept, "tokens": tokens, "seconds": round(seconds, 2)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _spoilt(gradient: Any) -> bool:
    """Tell whether a gradient, or this process's part of it, holds NaN or Inf."""
    if gradient is None:
        return False
    here = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return not math.isfinite(float(here.sum()))


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the rows of a log; a last line cut short by a kill is left out."""
    if not log.is_file():
        return []
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def trim_log(log: Path, step: int) -> None:
    """Drop rows beyond ``step``: a resumed run takes those steps again."""
    if not log.is_file():
        return
    kept = [row for row in read_log(log) if row["step"] <= step]
    log.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
