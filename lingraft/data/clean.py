"""Cleaning as chosen steps of a recipe, each reporting what it removed or changed, with three examples.

``clean: [tags, control, mojibake, {step: length, min: 20}, duplicates, near_duplicates]`` runs them in that order.
The hard parts are other people's: ftfy mends mojibake, opencc converts scripts, datasketch finds near duplicates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lingraft.data.conversations import Conversation
from lingraft.data.text import Document
from lingraft.problems import refuse

Item = TypeVar("Item", Document, Conversation)
Mend = Callable[[str], str]
Judge = Callable[[Sequence[str]], list[bool]]  # which of the texts stay
_EXAMPLES = 3
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>")
# C0 and C1 controls but tab and newline, zero-width marks, byte order marks; joiners of emoji and Indic stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff]")
_RADICAL = re.compile("[\u2e80-\u2fdf\uf900-\ufaff]")


@dataclass(frozen=True)
class Step:
    """One step: it mends texts one by one, or judges them all together."""

    name: str
    mend: Mend | None = None
    judge: Judge | None = None


@dataclass(frozen=True)
class Told:
    """What a step did: texts in, removed and changed, and a few examples of them."""

    step: str
    rows_in: int
    removed: int = 0
    changed: int = 0
    examples: tuple[str, ...] = field(default=())


def steps_of(chosen: Sequence[Any], where: str = "clean") -> list[Step]:
    """Turn a recipe's list into steps. Error: `recipe-invalid` by path for an unknown step, setting or library."""
    found = []
    for number, item in enumerate(chosen):
        settings = {"step": item} if isinstance(item, str) else dict(item)
        name = settings.pop("step", settings.pop("kind", None))
        if name not in STEPS:
            refuse("recipe-invalid", f"{where}.{number}: {name!r} is no step; known: {', '.join(sorted(STEPS))}",
                   f"mend {where}.{number} in the recipe")  # fmt: skip
        try:
            found.append(STEPS[name](**settings))
        except TypeError as error:
            refuse("recipe-invalid", f"{where}.{number}: {error}", f"mend {where}.{number} in the recipe")
        except ImportError as error:
            refuse("recipe-invalid", f"{where}.{number}: {name} needs {error.name}", f"pip install {error.name}")
    return found


def clean(items: Sequence[Item], steps: Sequence[Step]) -> tuple[list[Item], list[Told]]:
    """Run the steps over documents or conversations; a text mended to nothing is removed."""
    here, told = list(items), []
    for step in steps:
        before = len(here)
        if step.judge is not None:
            stays = step.judge([text_of(item) for item in here])
            gone = [text_of(item) for item, stay in zip(here, stays, strict=True) if not stay]
            here = [item for item, stay in zip(here, stays, strict=True) if stay]
            told.append(Told(step.name, before, removed=len(gone), examples=_shorten(gone)))
        elif step.mend is not None:
            mended = [_mended(item, step.mend) for item in here]
            changed = [text_of(a) for a, b in zip(here, mended, strict=True) if a != b]
            here = [item for item in mended if _whole(item)]
            told.append(Told(step.name, before, before - len(here), len(changed), _shorten(changed)))
    return here, told


def text_of(item: Document | Conversation) -> str:
    """Return all of an item's text."""
    return item.text if isinstance(item, Document) else "\n".join(m.content for m in item.messages)


def _mended(item: Any, mend: Mend) -> Any:
    if isinstance(item, Document):
        return replace(item, text=mend(item.text))
    return replace(item, messages=tuple(replace(m, content=mend(m.content)) for m in item.messages))


def _whole(item: Document | Conversation) -> bool:
    texts = [item.text] if isinstance(item, Document) else [m.content for m in item.messages]
    return all(text.strip() for text in texts)


def _shorten(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text[:80] for text in texts[:_EXAMPLES])


def _tags() -> Step:
    return Step("tags", mend=lambda text: _TAG.sub("", text))


def _control() -> Step:
    return Step("control", mend=lambda text: _CONTROL.sub("", text.replace("\r\n", "\n")))


def _radicals() -> Step:
    """NFKC for Kangxi radicals and compatibility ideographs alone: Chinese punctuation stays as it is."""
    return Step("radicals", mend=lambda text: _RADICAL.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text))


def _mojibake() -> Step:
    import ftfy

    # Only what was decoded wrongly: full-width forms, quotes and ligatures of Chinese text are not errors.
    settings = ftfy.TextFixerConfig(unescape_html=False, fix_latin_ligatures=False, fix_character_width=False,
                                    uncurl_quotes=False, normalization=None)  # fmt: skip
    return Step("mojibake", mend=lambda text: ftfy.fix_text(text, settings))


def _script(name: str, table: str) -> Step:
    import opencc

    converter = opencc.OpenCC(table)
    return Step(name, mend=lambda text: str(converter.convert(text)))


def _length(min: int = 1, max: int | None = None) -> Step:
    """Keep texts of ``min`` to ``max`` characters."""
    return Step("length", judge=lambda texts: [min <= len(t) <= (max or len(t)) for t in texts])


def _repetition(max: float = 0.3, n: int = 10) -> Step:
    """Drop texts of which more than the share ``max`` are repeats of runs of ``n`` characters."""

    def fine(text: str) -> bool:
        runs = [text[i : i + n] for i in range(len(text) - n + 1)]
        return not runs or 1 - len(set(runs)) / len(runs) <= max

    return Step("repetition", judge=lambda texts: [fine(t) for t in texts])


def _duplicates() -> Step:
    def first(texts: Sequence[str]) -> list[bool]:
        seen: set[str] = set()
        return [not (t.strip() in seen or seen.add(t.strip())) for t in texts]  # type: ignore[func-returns-value]

    return Step("duplicates", judge=first)


def _near_duplicates(threshold: float = 0.8, n: int = 5) -> Step:
    """Drop texts whose runs of ``n`` characters overlap an earlier text's by a Jaccard share above ``threshold``."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped, unused-ignore]

    def first(texts: Sequence[str]) -> list[bool]:
        index, stays = MinHashLSH(threshold=threshold, num_perm=128), []
        for number, text in enumerate(texts):
            sketch = MinHash(num_perm=128)
            sketch.update_batch([text[i : i + n].encode() for i in range(max(1, len(text) - n + 1))])
            stays.append(not index.query(sketch))
            if stays[-1]:
                index.insert(str(number), sketch)
        return stays

    return Step("near_duplicates", judge=first)


STEPS: Mapping[str, Callable[..., Step]] = {
    "tags": _tags, "control": _control, "radicals": _radicals, "mojibake": _mojibake,
    "simplified": lambda: _script("simplified", "t2s"), "traditional": lambda: _script("traditional", "s2t"),
    "length": _length, "repetition": _repetition, "duplicates": _duplicates, "near_duplicates": _near_duplicates,
}  # fmt: skip
