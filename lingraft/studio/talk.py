"""Two models answer the same conversation at the same time, piece by piece."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingraft.problems import Problem, Refusal, refuse
from lingraft.studio.local import local, locals_in

KEPT = 2  # models in memory at once: those of the last question
Message = dict[str, str]
Side = int  # 0: base, 1: adapted


@dataclass
class Loaded:
    """The models that were asked last; the same paths are not loaded again."""

    voices: dict[tuple[Path, ...], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> Any:
        """Return a voice for a model, or for a base with adapters, one a line. Errors: as `models.load`."""
        from lingraft import models
        from lingraft.serve.voice import Voice, label

        first, *more = locals_in(name) or [local(name)]
        stack = models.stack(first, None, more)
        key = (stack.base, *stack.adapters)
        with self.lock:
            if key not in self.voices:
                while len(self.voices) >= KEPT:
                    self.voices.pop(next(iter(self.voices)))
                model, tokenizer = models.load(stack.base, None, stack.adapters)
                self.voices[key] = Voice(label(stack), model, tokenizer)
            self.voices[key] = self.voices.pop(key)  # the last used goes last
            return self.voices[key]


def answers(loaded: Loaded, names: Sequence[str], told: Sequence[Sequence[Message]],
            most: int) -> Iterator[tuple[Side, str | Problem]]:  # fmt: skip
    """Yield (side, piece) as the models speak; a side that is refused yields its problems.

    ``told`` holds each side's own conversation. Closing the iterator stops both models.
    """
    heard: queue.Queue[tuple[Side, str | Problem | None]] = queue.Queue()
    stop = threading.Event()

    def speak(side: Side) -> None:
        pieces = None
        try:
            pieces = loaded.get(names[side]).answer(told[side], most)
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
