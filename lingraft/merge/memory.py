"""The memory that a piece of work needed: the peak of anonymous memory, sampled while it runs.

Pages of mapped files count for nothing: the kernel takes them back whenever it wants.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")


def anonymous() -> int:
    """Return this process's anonymous memory in bytes; where the system does not say, its resident size."""
    try:
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil

    return int(psutil.Process().memory_info().rss)


class Peak:
    """Sample `anonymous` every few milliseconds within a `with` block; ``bytes`` is the largest value seen."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds, self.bytes = seconds, anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(self.seconds):
            self.bytes = max(self.bytes, anonymous())
