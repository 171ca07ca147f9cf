"""Read what a person types: one line, or several that belong together.

On a terminal prompt_toolkit edits: wide characters, input methods, the arrow keys, text pasted over several lines
(which stays one input) and Alt-Enter for a new line. Nothing that is typed is kept on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TextIO

FENCE = '"""'
Read = Callable[[bool], str | None]  # read(more) returns the next line, None at the end; more: the line before goes on


def reader(source: TextIO) -> Read:
    """Return how lines are read: edited on a terminal, as they come elsewhere."""
    return _edited() if source is sys.stdin and source.isatty() else lambda _: _plain(source)


def questions(read: Read) -> Iterator[str]:
    """Yield one input after another, joining the lines of those that have several."""
    while (line := read(False)) is not None:
        if line.strip().startswith(FENCE):
            yield _fenced(line.strip().removeprefix(FENCE), read)
            continue
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            following = read(True)
            if following is None:
                break
            lines.append(following)
        yield "\n".join(lines)


def _fenced(first: str, read: Read) -> str:
    lines = [first] if first else []
    if first.endswith(FENCE):
        return first.removesuffix(FENCE)
    while (line := read(True)) is not None and line.strip() != FENCE:
        lines.append(line)
    return "\n".join(lines)


def _plain(source: TextIO) -> str | None:
    line = source.readline()
    return line.rstrip("\r\n") if line else None


def _edited() -> Read:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(key_bindings=keys)

    def read(more: bool) -> str | None:
        try:
            return session.prompt("… " if more else "› ", prompt_continuation="… ")
        except EOFError:
            return None
        except KeyboardInterrupt:  # what was typed is thrown away, as in a shell
            return ""

    return read
