"""More instructions out of the same ones: the question said in other words around it, the answer as it was.

``augment: [{kind: paraphrase, copies: 1, share: 0.5}]`` adds, for a share of the training conversations, copies whose
first question stands in another frame. Frames are chosen by the question's script; your own go in ``frames``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lingraft.data.conversations import Conversation
from lingraft.data.units import HAN
from lingraft.problems import refuse

_CHINESE = (
    "请回答下面的问题：\n{question}",
    "{question}\n请给出你的回答。",
    "我有一个请求：{question}",
    "请完成以下任务：\n{question}",
    "帮我看看这个：{question}",
    "指令：{question}",
)
_ENGLISH = (
    "Please answer the following.\n{question}",
    "{question}\nGive your answer.",
    "I have a request: {question}",
    "Complete this task:\n{question}",
    "Could you help me with this? {question}",
    "Instruction: {question}",
)


@dataclass(frozen=True)
class Paraphrase:
    """Say instructions in other frames: ``copies`` for a random ``share`` of the conversations."""

    copies: int = 1
    share: float = 1.0
    frames: Sequence[str] = ()


@dataclass
class Added:
    """What an augmentation did: rows it saw, rows it added, and examples."""

    step: str
    rows_in: int
    added: int
    examples: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as a report holds it."""
        return asdict(self)


def augmentations(chosen: Sequence[Any], where: str = "augment") -> list[Paraphrase]:
    """Turn a recipe's list into augmentations of conversations. Error: `recipe-invalid` by path."""
    found = []
    for number, item in enumerate(chosen):
        settings = {"kind": item} if isinstance(item, str) else dict(item)
        name = settings.pop("kind", settings.pop("step", None))
        if name != "paraphrase":
            refuse(
                "recipe-invalid",
                f"{where}.{number}: {name!r} is no augmentation of conversations; known: paraphrase",
                f"mend {where}.{number} in the recipe",
            )
        try:
            one = Paraphrase(**settings)
        except TypeError as error:
            refuse("recipe-invalid", f"{where}.{number}: {error}", f"mend {where}.{number} in the recipe")
        if one.copies < 1 or not 0 < one.share <= 1 or any("{question}" not in f for f in one.frames):
            refuse(
                "recipe-invalid",
                f"{where}.{number}: copies from 1 on, a share up to 1, and {{question}} in every frame",
                f"mend {where}.{number} in the recipe",
            )
        found.append(one)
    return found


def paraphrased(items: Iterable[Conversation], by: Paraphrase, seed: int, added: Added) -> Iterator[Conversation]:
    """Yield each conversation and, for a share of them, copies with the first question in other frames."""
    rng = np.random.default_rng((seed, 7))
    for item in items:
        added.rows_in += 1
        yield item
        if rng.random() >= by.share:
            continue
        at = next(i for i, m in enumerate(item.messages) if m.role == "user")
        asked = item.messages[at]
        frames = by.frames or (_CHINESE if HAN.search(asked.content) else _ENGLISH)
        for which in rng.permutation(len(frames))[: by.copies].tolist():
            said = replace(asked, content=frames[which].replace("{question}", asked.content))
            added.added += 1
            if len(added.examples) < 3:
                added.examples.append(said.content[:80])
            yield replace(item, messages=(*item.messages[:at], said, *item.messages[at + 1 :]))
