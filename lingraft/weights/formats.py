"""Which formats there are, and what a path is: every container sits behind `knows`, `read`, `write`.

A new format is one module with those functions and one line in `FORMATS`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from lingraft.problems import refuse
from lingraft.weights.tensors import Checkpoint

# The order is the order of asking: the more telling the trace a format leaves, the earlier it is asked; and for a
# folder, what costs the least to import.
FORMATS: tuple[str, ...] = ("adapter", "meta", "deepspeed", "dcp", "hf", "gguf", "llama2c", "state_dict")


def module(name: str) -> ModuleType:
    """Import one format's module by name ('hf', 'gguf', …)."""
    return import_module(f"lingraft.weights.{name}")


def detect(path: Path) -> str | None:
    """Name the format of a path, or None."""
    return next((name for name in FORMATS if module(name).knows(path)), None)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open any readable path lazily, under Hugging Face names.

    Errors: `not-found`, `unknown-format`, and what the format's reader refuses.
    """
    if not path.exists():
        refuse("not-found", f"{path} does not exist", "check the path", path)
    name = detect(path)
    if name is None:
        refuse(
            "unknown-format",
            f"{path} holds no weights in a format that lingraft reads",
            "run `lingraft inspect` on it to see what is there",
            path,
        )
    return module(name).read(path)  # type: ignore[no-any-return]
