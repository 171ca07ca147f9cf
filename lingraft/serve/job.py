"""Run answers on threads and bring their pieces to the event loop, many at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from lingraft.serve.engine import Engine, Piece, Prompt, Settings

Event = tuple[int, Piece | BaseException | None]  # which answer, and its next piece, its failure, or its end


class TimedOut(Exception):
    """An answer took longer than the server allows."""


@dataclass(frozen=True)
class Task:
    """One answer to make."""

    index: int
    prompt: Prompt
    settings: Settings


class Answers:
    """Several answers of one request under way; ``stop`` ends them at their next piece."""

    def __init__(self, engine: Engine, tasks: Sequence[Task], eager: bool, deadline: float) -> None:
        self.engine, self.tasks, self.eager, self.deadline = engine, tasks, eager, deadline
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._called = False  # the loop was told already that there is something
        self._quiet = False  # nothing came for a while
        self._waiter: asyncio.Future[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._stop = threading.Event()

    def start(self, pool: Executor, at_once: int) -> asyncio.Task[None]:
        """Begin, with so many answers at once."""

        async def work() -> None:
            places = asyncio.Semaphore(at_once)

            async def one(task: Task) -> None:
                async with places:
                    await self._loop.run_in_executor(pool, self._run, task)

            await asyncio.gather(*(one(task) for task in self.tasks))

        return asyncio.create_task(work())

    def stop(self) -> None:
        """End all answers at their next piece."""
        self._stop.set()

    async def events(self, patience: float) -> AsyncIterator[list[Event]]:
        """Yield what has come, an empty list where nothing came for so many seconds, until all answers ended."""
        left = len(self.tasks)
        clock = self._loop.call_later(patience, self._tick, patience)
        try:
            while left:
                if not self._events and not self._quiet:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                self._called = self._quiet = False
                found = [self._events.popleft() for _ in range(len(self._events))]
                left -= sum(not isinstance(piece, Piece) for _, piece in found)
                yield found
        finally:
            clock.cancel()
            self._clock.cancel() if self._clock else None

    def _tick(self, patience: float) -> None:
        """Wake the reader now and then, though there is nothing to read."""
        self._quiet = True
        self._wake()
        self._clock = self._loop.call_later(patience, self._tick, patience)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _run(self, task: Task) -> None:
        """Work in a thread of the pool."""
        ended: BaseException | None = None
        late = False

        def emit(piece: Piece) -> bool:
            nonlocal late
            if piece.text or piece.usage or piece.logprobs:
                self._put((task.index, piece), self.eager)
            late = time.monotonic() > self.deadline
            return late or self._stop.is_set()

        try:
            if not self._stop.is_set():
                self.engine.run(task.prompt, task.settings, emit)
        except BaseException as error:
            ended = error
        self._put((task.index, TimedOut() if late and ended is None else ended), True)

    def _put(self, event: Event, call: bool) -> None:
        self._events.append(event)
        if call and not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._wake)


def tasks_for(prompts: Sequence[Prompt], settings: Settings, n: int) -> list[Task]:
    """Return the answers that a request asks for: n to each prompt, each with a seed of its own."""
    made = []
    for index in range(len(prompts) * n):
        seed = None if settings.seed is None else settings.seed + index % n
        made.append(Task(index, prompts[index // n], replace(settings, seed=seed)))
    return made
