"""Two models answer the same conversation at the same time, piece by piece."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lingraft.problems import Findings, Problem, Refusal, refuse
from lingraft.studio.local import local, locals_in

if TYPE_CHECKING:
    from lingraft.serve.voice import Speaker

KEPT = 2  # models in memory at once: those of the last question
Message = dict[str, str]
Side = int  # 0: base, 1: adapted


@dataclass(frozen=True)
class Warned:
    """A warning on the way to a conversation; what refuses one is a bare Problem."""

    problem: Problem


Heard = str | Problem | Warned


@dataclass(frozen=True)
class Held:
    """A model in memory, what was warned of when it was loaded, and whether it is answering."""

    speaker: Speaker
    warnings: tuple[Problem, ...]
    answering: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Loaded:
    """The models that were asked last; the same paths are not loaded again."""

    held: dict[tuple[Path, ...], Held] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str) -> Held:
        """Return a model, or a base with adapters, one a line. Errors: as `open_engine`."""
        from lingraft import models
        from lingraft.serve.choose import open_engine
        from lingraft.serve.engine import Options
        from lingraft.serve.voice import Speaker

        first, *more = locals_in(name) or [local(name)]
        stack = models.stack(first, None, more)
        key = (stack.base, *stack.adapters)
        with self.lock:
            if key not in self.held:
                while len(self.held) >= KEPT:
                    self._close(self.held.pop(next(iter(self.held))))
                findings = Findings()
                engine = open_engine(Options(stack.base, stack.adapters, concurrency=1), "auto", findings)
                self.held[key] = Held(Speaker(models.label(stack), engine), tuple(findings.warnings))
            self.held[key] = self.held.pop(key)  # the last used goes last
            return self.held[key]

    def _close(self, old: Held) -> None:
        with old.answering:  # an answer that was stopped ends at its next piece
            old.speaker.engine.close()


def answers(
    loaded: Loaded, names: Sequence[str], told: Sequence[Sequence[Message]], most: int
) -> Iterator[tuple[Side, Heard]]:
    """Yield (side, piece) as the models speak; a side that is refused yields its problems, one warned of its warnings.

    ``told`` holds each side's own conversation. Closing the iterator stops both models.
    """
    heard: queue.Queue[tuple[Side, Heard | None]] = queue.Queue()
    stop = threading.Event()

    def speak(side: Side) -> None:
        from lingraft.serve.engine import BadRequest

        try:
            model = loaded.get(names[side])
            for warning in model.warnings:
                heard.put((side, Warned(warning)))
            with model.answering, closing(model.speaker.answer(told[side], most)) as pieces:
                for piece in pieces:
                    heard.put((side, piece))
                    if stop.is_set():
                        break
        except Refusal as refusal:
            for problem in refusal.problems:
                heard.put((side, problem))
        except BadRequest as refused:
            heard.put((side, Problem("does-not-fit", str(refused), "ask a shorter question, or begin anew")))
        except Exception as error:  # shown, never lost in a thread
            heard.put((side, Problem("unreadable", f"{names[side]}: {error}", "run `lingraft inspect` on it")))
        finally:
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
