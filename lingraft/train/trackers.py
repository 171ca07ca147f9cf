"""Experiment trackers by ``trainer.report_to``: tensorboard, trackio, wandb, swanlab, others that transformers knows.

Nothing is sent anywhere unasked: without an account's key wandb and swanlab run offline, trackio is local by
itself, and all of them write below the stage's work folder. ``lingraft run`` never asks for a login.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lingraft.problems import refuse

_PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "swanlab": "swanlab"}


def named(trainer: Mapping[str, Any]) -> list[str]:
    """Return the trackers that a ``trainer:`` block names; none is the default."""
    given = trainer.get("report_to") or []
    listed: Sequence[str] = [given] if isinstance(given, str) else list(given)
    return [name for name in listed if name != "none"]


def require(trainer: Mapping[str, Any], stage: str) -> None:
    """Refuse (`recipe-invalid`) a tracker that is unknown or not installed, with the command that installs it."""
    for name in named(trainer):
        if name == "all":
            refuse(
                "recipe-invalid",
                f"{stage}.trainer.report_to: all would report wherever a package happens to be",
                f"name the trackers: {', '.join(_PACKAGES)}",
            )
        if name not in _PACKAGES:
            from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

            if name not in INTEGRATION_TO_CALLBACK:
                refuse(
                    "recipe-invalid",
                    f"{stage}.trainer.report_to: {name} is no tracker that transformers knows",
                    f"name one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}",
                )
        elif find_spec(_PACKAGES[name]) is None:
            refuse(
                "recipe-invalid",
                f"{stage}.trainer.report_to: {name} is not installed",
                f"pip install {_PACKAGES[name]}",
            )


@contextmanager
def environment(trainer: Mapping[str, Any], work: Path) -> Iterator[None]:
    """Let trackers write below ``work`` and stay on this machine, unless the environment says otherwise."""
    if not named(trainer):
        yield
        return
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(work / "tensorboard"),
        "TRACKIO_DIR": str(work / "trackio"),
        "WANDB_DIR": str(work),
        "SWANLAB_LOG_DIR": str(work / "swanlab"),
        "SWANLAB_MODE": "offline",
        "WANDB_MODE": "offline",
    }
    if os.environ.get("WANDB_API_KEY"):
        del wanted["WANDB_MODE"]
    if os.environ.get("SWANLAB_API_KEY"):
        del wanted["SWANLAB_MODE"]
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        with _swanlab(work) if "swanlab" in named(trainer) else nullcontext():
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _swanlab(work: Path) -> Iterator[None]:
    """Begin swanlab's run here: transformers' callback asks for one, and swanlab 0.10 raises where there is none."""
    import swanlab  # type: ignore[import-not-found, import-untyped, unused-ignore]

    swanlab.init(
        project=os.environ.get("SWANLAB_PROJECT", "lingraft"),
        mode=os.environ.get("SWANLAB_MODE"),
        log_dir=os.environ.get("SWANLAB_LOG_DIR", str(work)),
        name=work.name,
    )
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the Trainer's callback may have finished it
            swanlab.finish()
