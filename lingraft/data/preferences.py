"""Read preferences in the two common shapes: a prompt with a chosen and a rejected answer.

``{"prompt", "chosen", "rejected"}`` with strings or message lists, and LLaMA-Factory's ``{"conversations", "chosen",
"rejected"}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.data.conversations import Message, Unusable, turn
from lingraft.data.files import ROWS, expand, reject, rows
from lingraft.problems import Findings, refuse


@dataclass(frozen=True)
class Preference:
    """What was asked (ending with the user), the better and the worse answer; ``source`` is ``file:line``."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str


def preferences(paths: Sequence[Path | str], findings: Findings) -> list[Preference]:
    """Read every preference below ``paths``.

    Errors: `not-found`, `unknown-format`, `unreadable`, `data-invalid` by file and line (left out where allowed).
    """
    found: list[Preference] = []
    for path in expand(paths, ROWS):
        bad: list[tuple[int, str]] = []
        total = 0
        for row in rows(path):
            total += 1
            try:
                if row.error is not None:
                    raise Unusable(row.error)
                found.append(_parse(row.value, f"{path}:{row.line}"))
            except Unusable as why:
                bad.append((row.line, str(why)))
        reject(path, bad or ([] if total else [(1, "the file holds no rows")]), total, findings)
    findings.settle()
    if not found:
        refuse("data-invalid", f"{', '.join(map(str, paths))}: no preference in it", "name files that hold some")
    return found


def _parse(value: Any, source: str) -> Preference:
    if not isinstance(value, dict) or "chosen" not in value or "rejected" not in value:
        raise Unusable("no `chosen` and `rejected` in it")
    asked = value.get("prompt", value.get("conversations", value.get("messages")))
    sides = [value["chosen"], value["rejected"]]
    if asked is None and all(isinstance(s, list) and len(s) > 1 for s in sides):
        asked, sides = sides[0][:-1], [s[-1:] for s in sides]
    if isinstance(asked, str):
        prompt: tuple[Message, ...] = (Message("user", asked),)
    elif isinstance(asked, list) and asked:
        prompt = tuple(turn(item) for item in asked)
    else:
        raise Unusable("no prompt in it")
    if prompt[-1].role != "user" or not prompt[-1].content.strip():
        raise Unusable("the prompt does not end with a question")
    chosen, rejected = (_answer(side) for side in sides)
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same")
    return Preference(prompt, chosen, rejected, source)


def _answer(side: Any) -> str:
    if isinstance(side, list) and side:
        side = side[-1]
    text = turn(side).content if isinstance(side, dict) else side
    if not isinstance(text, str) or not text.strip():
        raise Unusable("an empty answer")
    return text
