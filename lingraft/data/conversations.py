"""Read conversations in the shapes people publish, and say which shape a file has.

Alpaca (``instruction``, ``input``, ``output``), messages (``role``, ``content``), ShareGPT (``from``,
``value``), Firefly (``conversation``: [{human, assistant}]) and ``prompt``/``completion``. A conversation
that answers nothing is refused by file and line: training on it would teach nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lingraft.data.files import ROWS, Rejected, expand
from lingraft.data.rows import rows
from lingraft.data.text import require_some
from lingraft.problems import Findings
from lingraft.progress import say

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}

_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("input", "target"),  # Firefly's single turns
)


@dataclass(frozen=True)
class Message:
    """One turn: who speaks (``system``, ``user``, ``assistant``) and what."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """An optional system line, then user and assistant in turn; ``source`` is ``file:line``."""

    messages: tuple[Message, ...]
    source: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what cleaning mends."""
        return tuple(m.content for m in self.messages)

    @property
    def whole(self) -> bool:
        """Tell whether there is anything to learn: an empty system line is none, but questions and answers count."""
        return all(m.content.strip() or m.role == "system" for m in self.messages)

    def saying(self, texts: Sequence[str]) -> Conversation:
        """Return it with other texts."""
        return replace(self, messages=tuple(replace(m, content=t) for m, t in zip(self.messages, texts, strict=True)))

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages as chat templates take them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]


class Unusable(Exception):
    """Why a row cannot be used; becomes part of a `data-invalid`, never leaves the readers."""


def conversations(paths: Sequence[Path | str], findings: Findings) -> list[Conversation]:
    """Read every conversation below ``paths`` into memory.

    Errors: `not-found`, `unknown-format`, `unreadable`, and `data-invalid` by file and line with a count;
    bad rows are left out instead where ``findings`` allows it, but nothing left at all is refused.
    """
    found = list(stream(paths, findings))
    findings.settle()
    require_some(bool(found), paths, "no conversation in it")
    return found


def stream(paths: Sequence[Path | str], findings: Findings) -> Iterator[Conversation]:
    """Yield the conversations one by one, noting bad rows in ``findings`` and saying what each file holds."""
    for source in expand(paths, ROWS):
        rejected = Rejected(source)
        shapes: Counter[str] = Counter()
        total = 0
        for row in rows(source):
            total += 1
            try:
                if row.error is not None:
                    raise Unusable(row.error)
                messages = parse(row.value)
            except Unusable as why:
                rejected.add(row.line, str(why))
                continue
            shapes[str(shape(row.value))] += 1
            yield Conversation(messages, f"{source}:{row.line}")
        if shapes:
            say(f"{source}: {', '.join(f'{count:,} {name}' for name, count in shapes.most_common())}")
        rejected.tell(total, findings)


def shape(value: Any) -> str | None:
    """Return which published shape a row has: alpaca, messages, sharegpt, firefly, prompt-completion."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("conversation"), list):
        return "firefly"
    turns = value.get("messages", value.get("conversations"))
    if isinstance(turns, list):
        return "messages" if turns and isinstance(turns[0], dict) and "role" in turns[0] else "sharegpt"
    if "instruction" in value and ("output" in value or "response" in value):
        return "alpaca"
    return "prompt-completion" if _asked(value) is not None else None


def _asked(value: dict[str, Any]) -> tuple[str, str] | None:
    """Return the keys of a question and its answer, by the names that people publish them under."""
    return next((pair for pair in _PAIRS if all(name in value for name in pair)), None)


def parse(value: Any) -> tuple[Message, ...]:
    """Turn one row of any known shape into checked messages."""
    form = shape(value)
    if form is None:
        keys = f" (its keys: {', '.join(map(str, list(value)[:6]))})" if isinstance(value, dict) else ""
        raise Unusable(f"no known shape of conversation{keys}")
    system = _optional(value, "system")
    if form == "alpaca":
        asked = _text(value["instruction"], "instruction")
        given = _optional(value, "input")
        answer = _text(value.get("output", value.get("response")), "output")
        turns = _history(value)
        turns += [Message("user", f"{asked}\n{given}" if given.strip() else asked), Message("assistant", answer)]
    elif form == "prompt-completion":
        asked, said = _asked(value) or _PAIRS[0]
        turns = [*_side(value[asked], "user", asked), *_side(value[said], "assistant", said)]
    elif form == "firefly":
        turns = [m for pair in value["conversation"] for m in _pair(pair)]
    else:
        turns = [turn(item) for item in value.get("messages", value.get("conversations"))]
    if system.strip() and not (turns and turns[0].role == "system"):
        turns = [Message("system", system), *turns]
    _check(turns)
    return tuple(turns)


def _check(turns: Sequence[Message]) -> None:
    body = [m for i, m in enumerate(turns) if not (i == 0 and m.role == "system")]
    if not any(m.role == "assistant" for m in body):
        raise Unusable("no answer in it")
    for number, message in enumerate(body):
        if message.role == "system":
            raise Unusable("a system line after the first turn")
        if message.role != ("user", "assistant")[number % 2]:
            raise Unusable(f"turn {number + 1} is {message.role}'s: user and assistant take turns")
        if not message.content.strip():
            raise Unusable("an empty answer" if message.role == "assistant" else "an empty question")
    if body[-1].role != "assistant":
        raise Unusable("the last question has no answer")


def turn(turn: Any) -> Message:
    """Read one turn of messages or ShareGPT."""
    if not isinstance(turn, dict):
        raise Unusable("a turn that is not an object")
    role = turn.get("role", turn.get("from"))
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise Unusable(f"unknown role {role!r}")
    return Message(known, _text(turn.get("content", turn.get("value")), "content"))


def _pair(pair: Any) -> list[Message]:
    if not isinstance(pair, dict):
        raise Unusable("a turn that is not an object")
    return [
        Message("user", _text(pair.get("human"), "human")),
        Message("assistant", _text(pair.get("assistant"), "assistant")),
    ]


def _side(value: Any, role: str, name: str) -> list[Message]:
    if isinstance(value, list):
        return [turn(turn) for turn in value]
    return [Message(role, _text(value, name))]


def _history(value: dict[str, Any]) -> list[Message]:
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(p, list) and len(p) == 2 for p in history):
        raise Unusable("`history` is not a list of [question, answer]")
    pairs = [{"human": asked, "assistant": said} for asked, said in history]
    return [message for pair in pairs for message in _pair(pair)]


def _optional(value: dict[str, Any], name: str) -> str:
    return "" if value.get(name) is None else _text(value[name], name)


def _text(value: Any, name: str) -> str:
    if value is None:
        raise Unusable(f"`{name}` is missing")
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        value = "".join(part["text"] for part in value)  # the parts of OpenAI's messages; an image is no text
    if not isinstance(value, str):
        raise Unusable(f"`{name}` is not text")
    return value
