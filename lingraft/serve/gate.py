"""Let so many requests run, let so many wait in line, and turn the rest away with a time to come back."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Full(Exception):
    """Nobody more may wait; ``seconds`` is when a place is likely to be free."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the server is busy; try again in {seconds} s")
        self.seconds = seconds


class Gate:
    """First come, first served; a request with several answers takes several places. For one event loop."""

    def __init__(self, places: int, line: int) -> None:
        self.places, self.line = places, line
        self.running = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._usual = 1.0  # seconds that a request has taken, newer ones weighing more

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, wanted: int = 1) -> AsyncIterator[None]:
        """Hold places while inside. Error: Full."""
        await self.enter(wanted)
        started = time.monotonic()
        try:
            yield
        finally:
            self.leave(wanted, time.monotonic() - started)

    def leave(self, wanted: int, seconds: float) -> None:
        """Give places back, held for so long."""
        self._usual += 0.2 * (seconds - self._usual)
        self.running -= min(wanted, self.places)
        self._admit()

    async def enter(self, wanted: int) -> None:
        """Wait for places; never more than there are. Error: Full."""
        wanted = min(wanted, self.places)
        if not self._waiting and self.running + wanted <= self.places:
            self.running += wanted
            return
        if len(self._waiting) >= self.line:
            raise Full(self._come_back())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and called off in the same moment
                self.running -= wanted
            else:
                self._waiting.remove((wanted, turn))
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.running + self._waiting[0][0] <= self.places:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self.running += wanted
                turn.set_result(None)

    def _come_back(self) -> int:
        return max(1, min(60, math.ceil(self._usual * (len(self._waiting) + 1) / self.places)))
