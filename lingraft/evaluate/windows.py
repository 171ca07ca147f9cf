"""Cut documents into overlapping windows and windows into batches: the geometry of scoring, without a model.

Every token but the first of a document is scored exactly once, with at least half a window of text before it
(or all there is). Windows of like length share a batch, so that little padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LONGEST = 2048


@dataclass(frozen=True)
class Window:
    """Tokens ``start:stop`` of a document, of which those from ``first`` on are scored here."""

    document: int
    start: int
    first: int
    stop: int

    @property
    def inputs(self) -> int:
        """How many tokens go in; the last one scored is predicted, never read."""
        return self.stop - self.start - 1


def cut(document: int, tokens: int, size: int) -> list[Window]:
    """Cut a document of ``tokens`` tokens (BOS counted) into windows of ``size`` with half of it as stride."""
    stride = max(size // 2, 1)
    found: list[Window] = []
    first = 1
    for start in range(0, tokens, stride):
        stop = min(start + size, tokens)
        if stop > first:
            found.append(Window(document, start, max(first, start + 1), stop))
            first = stop
        if stop == tokens:
            break
    return found


def batches(windows: Sequence[Window], most: int) -> Iterator[list[Window]]:
    """Yield batches of at most ``most`` tokens, padding counted, the longest windows first.

    Longest first: if memory is short it shows at once, not at the end.
    """
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: w.inputs, reverse=True):
        if batch and (len(batch) + 1) * batch[0].inputs > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
