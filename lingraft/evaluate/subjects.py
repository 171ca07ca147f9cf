"""What is compared: a model as a user names it, its fingerprint, and how it is opened.

A HF directory, a Hub id, an adapter directory (live over its base) or a GGUF file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft import models
from lingraft.evaluate.speed import weight_bytes
from lingraft.problems import refuse
from lingraft.weights.hf import SIDE_FILES

FILES = (*SIDE_FILES, "config.json", "adapter_config.json")  # what a measured result depends on, beside the weights


@dataclass(frozen=True)
class Subject:
    """One row of the comparison."""

    name: str
    stack: models.Stack

    @property
    def gguf(self) -> Path | None:
        """Return the GGUF file that it is, or the only one in a folder without a config.json; else None."""
        base = self.stack.base
        if base.suffix == ".gguf":
            return base
        files = sorted(base.glob("*.gguf")) if not (base / "config.json").is_file() else []
        return files[0] if len(files) == 1 else None

    @property
    def bytes(self) -> int:
        """Return the size of its weights on disk, adapters included."""
        return weight_bytes(self.gguf or self.stack.base) + sum(weight_bytes(a) for a in self.stack.adapters)

    @cached_property
    def key(self) -> str:
        """A digest of weights, config and tokenizer by content: what results are cached under."""
        parts = [_weights(self.gguf or self.stack.base), *(_weights(a) for a in self.stack.adapters)]
        for home in (self.stack.base, *self.stack.adapters):
            parts += [f"{name}:{_bytes(home / name)}" for name in FILES if (home / name).is_file()]
        return str(blake3("\n".join(parts).encode()).hexdigest())


def subjects(names: Sequence[str], base: str | None = None, adapters: Sequence[str | Path] = ()) -> list[Subject]:
    """Resolve the models of a comparison; ``adapters`` make one more row, the first model with all of them live.

    Errors: `not-found`, `base-mismatch` (an adapter whose base nobody names).
    """
    found = [Subject(name, _stack(name, base)) for name in names]
    if adapters:
        label = " + ".join([names[0], *(str(a) for a in adapters)])
        found.append(Subject(label, models.stack(names[0], base, adapters)))
    return found


def open_subject(subject: Subject, dtype: Any = None) -> tuple[Any, Any]:
    """Load model and tokenizer in eval mode, on the accelerator if any, with what adapters changed of the config.

    ``dtype`` None takes the fastest of this machine.
    """
    from lingraft import accelerator

    if subject.gguf is not None:
        model, tokenizer = _open_gguf(subject.gguf, dtype or models.fastest_dtype())
    else:
        base, changed = subject.stack.base, models.config_changes(subject.stack.adapters)
        more = {"config": models.config_for(base, changed)} if changed else {}
        model, tokenizer = models.load_base(base, dtype, **more), None
    for adapter in subject.stack.adapters:
        model = models.attach(model, adapter)
    home = next((a for a in reversed(subject.stack.adapters) if models.has_tokenizer(a)), None)
    if home is not None or tokenizer is None:
        tokenizer = models.load_tokenizer(home or subject.stack.base)
    return model.eval().to(accelerator.kind()), tokenizer


def _stack(name: str, base: str | None) -> models.Stack:
    if name.endswith(".gguf") and Path(name).expanduser().is_file():
        return models.Stack(Path(name).expanduser())
    return models.stack(name, base)


def _open_gguf(path: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        # transformers draws a bar here on whatever stderr is.
        with Path(os.devnull).open("w") as silence, redirect_stderr(silence):
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # gguf and transformers raise many kinds for what they do not know
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        refuse(
            "unknown-format",
            f"{path} cannot be read as a language model: {first}",
            "run `lingraft inspect` on it",
            path,
        )
    return model.eval(), tokenizer


def _weights(path: Path) -> str:
    if path.is_file():
        return _bytes(path)
    if models.is_adapter(path):
        from lingraft.merge.lineage import adapter_fingerprint

        return adapter_fingerprint(path)
    from lingraft.weights import hf
    from lingraft.weights.fingerprint import fingerprint

    return fingerprint(hf.read(path).tensors)


def _bytes(path: Path) -> str:
    return str(blake3(max_threads=blake3.AUTO).update_mmap(str(path)).hexdigest())
