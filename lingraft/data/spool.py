"""Lay items aside on the disk until it is known how many there are, and go through them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from lingraft.data.conversations import Conversation, Message
from lingraft.data.gather import Mask, hold_out
from lingraft.data.text import Document

Item = TypeVar("Item", Document, Conversation)


class Spool(Generic[Item]):
    """Items in a file; the blocks of one document count as one row."""

    def __init__(self, items: Iterable[Item], path: Path) -> None:
        self.path = path
        self.rows = 0
        with path.open("w", encoding="utf-8") as file:
            for item in items:
                file.write(json.dumps(asdict(item)) + "\n")
                self.rows += not getattr(item, "more", False)

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Yield each item with the number of its row."""
        number = 0
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                item: Any = _item(json.loads(line))
                yield number, item
                number += not getattr(item, "more", False)

    def hold_out(self, share: float, seed: int, name: str) -> Mask:
        """Choose a random ``share`` of the rows: bool [rows]. Error: `data-invalid`."""
        return hold_out(self.rows, share, seed, name)

    def chosen(self, rows: Mask) -> Callable[[], Iterator[Item]]:
        """Return a stream of the items of the rows that ``rows`` holds true, to be begun at will."""
        return lambda: (item for number, item in self if rows[number])

    def rest(self, rows: Mask) -> Callable[[], Iterator[Item]]:
        """Return a stream of the others."""
        return self.chosen(~rows)


def _item(value: dict[str, Any]) -> Document | Conversation:
    if "messages" in value:
        return Conversation(tuple(Message(**m) for m in value["messages"]), value["source"])
    return Document(**value)
