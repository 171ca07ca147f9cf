"""Progress of long work: a live bar with speed and time left on a terminal, one line a stage elsewhere.

Everything goes to stderr, so that stdout carries only the answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from lingraft.language import told


class Advance(Protocol):
    """Tell how much was done since the last call."""

    def __call__(self, amount: float, /) -> None: ...


def say(text: str) -> None:
    """Print one line for a person, on stderr, in their language."""
    print(told(text), file=sys.stderr, flush=True)


@contextmanager
def track(label: str, total: float, unit: str = "bytes") -> Iterator[Advance]:
    """Show ``label`` with its speed in ``unit`` per second and the time left until ``total`` is reached."""
    label, unit = told(label), told(unit)
    started = time.monotonic()
    done = 0.0
    if not sys.stderr.isatty():

        def count(amount: float) -> None:
            nonlocal done
            done += amount

        yield count
        seconds = time.monotonic() - started
        say(f"{label}: {_amount(done, unit)} in {seconds:.1f} s ({_amount(done / max(seconds, 1e-9), unit)}/s)")
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: RichTask) -> Text:
            return Text(f"{_amount(task.speed or 0, unit)}/s")

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda amount: bar.advance(task, amount)
    say(f"{label}: done in {time.monotonic() - started:.1f} s")


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    return f"{value:,.0f} {unit}"
