"""Cut a stream of text at the first stop word, holding back only what could still become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopWords:
    """Feed text in; get out what may be said. Once ``found``, nothing more comes.

    An engine that knows stop words itself (llama.cpp, vLLM) does not need this.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [word for word in words if word]
        self.held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Return the part that is certainly before any stop word."""
        if self.found:
            return ""
        self.held += text
        hits = [at for word in self.words if (at := self.held.find(word)) >= 0]
        if hits:
            self.found = True
            said, self.held = self.held[: min(hits)], ""
            return said
        keep = max((_overlap(self.held, word) for word in self.words), default=0)
        said, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return said

    def rest(self) -> str:
        """Return what was held back, when nothing more will come."""
        said, self.held = self.held, ""
        return "" if self.found else said


def _overlap(text: str, word: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``word``."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:n])), 0)
