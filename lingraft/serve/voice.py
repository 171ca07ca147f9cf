"""A model that answers in a conversation, and several of them when adapters are switched or compared."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from lingraft.models import Stack, label
from lingraft.serve.engine import BadRequest, Engine, Message, Settings, iterate

MAX_NEW_TOKENS = 512
__all__ = ["MAX_NEW_TOKENS", "Message", "Speaker", "Voices", "label", "shorter"]


@dataclass(frozen=True)
class Speaker:
    """An engine under the name by which a user tells it from others."""

    label: str
    engine: Engine

    @property
    def has_template(self) -> bool:
        """Tell whether it knows what a conversation is; else it only continues text."""
        return self.engine.has_template

    def answer(self, messages: Sequence[Message], most: int = MAX_NEW_TOKENS) -> Generator[str]:
        """Yield the answer piece by piece; the oldest turns go where the conversation does not fit beside it."""
        settings = Settings(max_tokens=most, room=min(most, self.engine.context // 2))
        return iterate(lambda emit: _fitting(messages, lambda kept: self.engine.run(kept, settings, emit)))


def _fitting(messages: Sequence[Message], run: Callable[[Sequence[Message]], None]) -> None:
    """Run with ever fewer of the oldest turns, until the conversation fits."""
    kept = list(messages)
    while True:
        try:
            return run(kept)
        except BadRequest as refused:
            fewer = shorter(kept)
            if refused.code != "context_length_exceeded" or not fewer:
                raise
            kept = fewer


def shorter(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation without its oldest turn and the answers to it; nothing where one question is all."""
    first = int(bool(messages) and messages[0]["role"] == "system")
    kept = list(messages)
    del kept[first : first + 1]
    while len(kept) > first and kept[first]["role"] == "assistant":
        del kept[first]
    return kept if len(kept) > first else []


@dataclass
class Voices:
    """The base, and the base with ever more of its adapters; what was opened once stays."""

    stack: Stack
    open: Callable[[Stack], Engine]
    opened: dict[Stack, Speaker] = field(default_factory=dict)

    def stacks(self) -> list[Stack]:
        """List what can be spoken with: the base alone first, all adapters last."""
        return [Stack(self.stack.base, self.stack.adapters[:n]) for n in range(len(self.stack.adapters) + 1)]

    def get(self, stack: Stack) -> Speaker:
        """Return a speaker, loading it the first time."""
        if stack not in self.opened:
            self.opened[stack] = Speaker(label(stack), self.open(stack))
        return self.opened[stack]

    def close(self) -> None:
        """Give all memory back."""
        for speaker in self.opened.values():
            speaker.engine.close()
        self.opened.clear()
