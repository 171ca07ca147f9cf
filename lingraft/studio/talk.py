"""Two models answer the same conversation at the same time, piece by piece."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.problems import Findings, Problem, Refusal, refuse
from lingraft.studio.local import local, locals_in

if TYPE_CHECKING:
    from lingraft.serve.engine import Engine

KEPT = 2  # models in memory at once: those of the last question
Message = dict[str, str]
Side = int  # 0: base, 1: adapted


@dataclass
class Loaded:
    """The models that were asked last; the same paths are not loaded again."""

    engines: dict[tuple[Path, ...], Engine] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> Engine:
        """Return the engine of a model, or of a base with adapters, one a line. Errors: as `open_engine`."""
        from lingraft import models
        from lingraft.serve.choose import open_engine
        from lingraft.serve.engine import Options

        first, *more = locals_in(name) or [local(name)]
        stack = models.stack(first, None, more)
        key = (stack.base, *stack.adapters)
        with self.lock:
            if key not in self.engines:
                while len(self.engines) >= KEPT:
                    self.engines.pop(next(iter(self.engines))).close()
                self.engines[key] = open_engine(Options(stack.base, stack.adapters, concurrency=1), "auto", Findings())
            self.engines[key] = self.engines.pop(key)  # the last used goes last
            return self.engines[key]


def answers(loaded: Loaded, names: Sequence[str], told: Sequence[Sequence[Message]],
            most: int) -> Iterator[tuple[Side, str | Problem]]:  # fmt: skip
    """Yield (side, piece) as the models speak; a side that is refused yields its problems.

    ``told`` holds each side's own conversation. Closing the iterator stops both models.
    """
    heard: queue.Queue[tuple[Side, str | Problem | None]] = queue.Queue()
    stop = threading.Event()

    def speak(side: Side) -> None:
        from lingraft.serve.engine import Settings

        pieces: Any = None
        try:
            pieces = loaded.get(names[side]).generate(told[side], Settings(max_tokens=most))
            for piece in pieces:
                heard.put((side, piece))
                if stop.is_set():
                    break
        except Refusal as refusal:
            for problem in refusal.problems:
                heard.put((side, problem))
        except Exception as error:  # shown, never lost in a thread
            heard.put((side, Problem("unreadable", f"{names[side]}: {error}", "run `lingraft inspect` on it")))
        finally:
            if pieces is not None:
                pieces.close()
            heard.put((side, None))

    sides = [side for side, name in enumerate(names) if name.strip()]
    if not sides:
        refuse("not-found", "no model is named", "type the path of a model above")
    threads = [threading.Thread(target=speak, args=(side,), daemon=True) for side in sides]
    for thread in threads:
        thread.start()
    try:
        open_sides = len(sides)
        while open_sides:
            side, piece = heard.get()
            if piece is None:
                open_sides -= 1
            else:
                yield side, piece
    finally:
        stop.set()
