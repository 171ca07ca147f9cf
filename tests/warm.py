"""Processes of their own that start warm: forked from one that has imported what training needs.

A start from nothing imports for ten seconds. A process that starts here is as separate as any: it has its own
environment, standard output and end, and it can be killed. Only starting and importing are not tested by it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "lingraft.cli",
        "lingraft.pipeline",
        "lingraft.stages",
        "lingraft.train.prefer",
        "lingraft.train.sft",
        "datasets",
        "peft",
        "transformers.models.llama.modeling_llama",
        "transformers.trainer",
    ]
)


def start(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Run a function of a module in a process of its own."""
    process = FORKS.Process(target=_with, args=(dict(os.environ), work, arguments), daemon=True)
    process.start()
    return process


def lingraft(*words: str | Path, **environment: str) -> CompletedProcess[str]:
    """Run the command and return its exit code and what it wrote."""
    with TemporaryDirectory() as folder:
        written = [Path(folder, name) for name in ("out", "err")]
        process = start(_command, [str(word) for word in words], environment, written)
        process.join()
        out, told = (path.read_text(encoding="utf-8") for path in written)
    return CompletedProcess(words, process.exitcode or 0, out, told)


def command(words: list[str]) -> None:
    """Be the command, in a process that started warm."""
    from lingraft.cli import main

    sys.argv = ["lingraft", *words]
    main()


def _with(environment: Mapping[str, str], work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)


def _command(words: list[str], environment: Mapping[str, str], written: list[Path]) -> None:
    os.environ.update(environment)
    for path, stream in zip(written, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    command(words)
