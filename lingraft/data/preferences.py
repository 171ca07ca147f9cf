"""Read preferences in the two common shapes: a prompt with a chosen and a rejected answer.

``{"prompt", "chosen", "rejected"}`` with strings or message lists, and LLaMA-Factory's ``{"conversations", "chosen",
"rejected"}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lingraft.data.conversations import Message, Unusable, turn
from lingraft.data.files import ROWS, Rejected, expand
from lingraft.data.rows import rows
from lingraft.data.text import require_some
from lingraft.problems import Findings
from lingraft.progress import say


@dataclass(frozen=True)
class Preference:
    """What was asked (ending with the user), the better and the worse answer; ``source`` is ``file:line``."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what cleaning mends."""
        return (*(m.content for m in self.prompt), self.chosen, self.rejected)

    @property
    def whole(self) -> bool:
        """Tell whether there is anything to learn: a question, and two answers that differ."""
        said = all(m.content.strip() or m.role == "system" for m in self.prompt)
        return said and bool(self.chosen.strip() and self.rejected.strip()) and self.chosen != self.rejected

    def saying(self, texts: Sequence[str]) -> Preference:
        """Return it with other texts."""
        *asked, chosen, rejected = texts
        prompt = tuple(replace(m, content=t) for m, t in zip(self.prompt, asked, strict=True))
        return replace(self, prompt=prompt, chosen=chosen, rejected=rejected)


def preferences(paths: Sequence[Path | str], findings: Findings) -> list[Preference]:
    """Read every preference below ``paths``.

    Errors: `not-found`, `unknown-format`, `unreadable`, `data-invalid` by file and line (left out where allowed).
    """
    found: list[Preference] = []
    for source in expand(paths, ROWS):
        rejected = Rejected(source)
        total, before = 0, len(found)
        for row in rows(source):
            total += 1
            try:
                if row.error is not None:
                    raise Unusable(row.error)
                found.append(_parse(row.value, f"{source}:{row.line}"))
            except Unusable as why:
                rejected.add(row.line, str(why))
        if len(found) > before:
            say(f"{source}: {len(found) - before:,} preferences")
        rejected.tell(total, findings)
    findings.settle()
    require_some(bool(found), paths, "no preference in it")
    return found


def _parse(value: Any, source: str) -> Preference:
    if not isinstance(value, dict) or "chosen" not in value or "rejected" not in value:
        raise Unusable("no `chosen` and `rejected` in it")
    asked = next((value[k] for k in ("prompt", "question", "conversations", "messages") if k in value), None)
    sides = [value["chosen"], value["rejected"]]
    if asked is None and isinstance(value.get("instruction"), str):
        given = value.get("input")
        asked = f"{value['instruction']}\n{given}" if isinstance(given, str) and given.strip() else value["instruction"]
    elif asked is None and all(isinstance(s, list) and len(s) > 1 for s in sides):
        if sides[0][:-1] != sides[1][:-1]:
            raise Unusable("chosen and rejected do not begin with the same turns")
        asked, sides = sides[0][:-1], [s[-1:] for s in sides]
    if isinstance(asked, str):
        prompt: tuple[Message, ...] = (Message("user", asked),)
    elif isinstance(asked, list) and asked:
        prompt = tuple(turn(item) for item in asked)
    else:
        raise Unusable("no prompt in it")
    system = value.get("system")
    if isinstance(system, str) and system.strip() and prompt[0].role != "system":
        prompt = (Message("system", system), *prompt)
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
