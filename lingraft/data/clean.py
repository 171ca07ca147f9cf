"""Cleaning as chosen steps of a recipe, each reporting what it removed or changed, with three examples.

``clean: [tags, control, mojibake, {step: length, min: 20}, duplicates, near_duplicates, leakage]`` runs them in that
order, over a stream: what a step must remember of a text to know it again is a few bytes.
The hard parts are other people's: ftfy mends mojibake, opencc converts scripts, rensa knows near duplicates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, Self, TypeVar

from lingraft.data.text import Document
from lingraft.problems import refuse

Mend = Callable[[str], str]
Judge = Callable[[str], bool]  # whether a text stays; it may remember those before
_EXAMPLES = 3
_SHOWN = 80  # characters of an example
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>")
# C0 and C1 controls but tab and newline, zero-width marks, byte order marks; joiners of emoji and Indic stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff]")
_RADICAL = re.compile("[\u2e80-\u2fdf\uf900-\ufaff]")


class Readable(Protocol):
    """What can be cleaned: a document, a conversation, a preference, a labelled text."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts, each mended by itself."""

    @property
    def whole(self) -> bool:
        """Whether anything can be learnt from it."""

    def saying(self, texts: Sequence[str]) -> Self:
        """Return it with other texts."""


Item = TypeVar("Item", bound=Readable)


@dataclass(frozen=True)
class Step:
    """One step: it mends texts one by one, or judges them; ``late`` steps wait until data is held out (leakage)."""

    name: str
    mend: Mend | None = None
    judge: Judge | None = None
    late: Mapping[str, Any] | None = None


@dataclass
class Told:
    """What a step did: texts in, removed and changed, and a few examples of them."""

    step: str
    rows_in: int = 0
    removed: int = 0
    changed: int = 0
    examples: list[str] = field(default_factory=list)

    def show(self, before: str, after: str | None = None) -> None:
        """Keep an example: a text that goes, or the place where one is changed."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(before[:_SHOWN] if after is None else _where(before, after))


def steps_of(chosen: Sequence[Any], where: str = "clean") -> list[Step]:
    """Turn a recipe's list into steps. Error: `recipe-invalid` by path for an unknown step, setting or library."""
    found = []
    for number, item in enumerate(chosen):
        settings = {"step": item} if isinstance(item, str) else dict(item)
        name = settings.pop("step", settings.pop("kind", None))
        if name not in STEPS:
            refuse(
                "recipe-invalid",
                f"{where}.{number}: {name!r} is no step; known: {', '.join(sorted(STEPS))}",
                f"mend {where}.{number} in the recipe",
            )
        try:
            found.append(STEPS[name](**settings))
        except (TypeError, ValueError) as error:
            refuse("recipe-invalid", f"{where}.{number}: {error}", f"mend {where}.{number} in the recipe")
        except ImportError as error:
            refuse("recipe-invalid", f"{where}.{number}: {name} needs {error.name}", "pip install 'lingraft[clean]'")
    return found


def clean(items: Iterable[Item], steps: Sequence[Step], told: Sequence[Told]) -> Iterator[Item]:
    """Run the steps over a stream; what is mended to nothing is removed.

    ``told`` holds one count a step. A long document comes in blocks, which are cleaned one by one.
    """
    return kept((item, _through(item, steps, told)) for item in items)


def kept(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield what became of each item, where anything did; a document whose last block went is ended all the same."""
    begun = False  # a block of the document at hand was yielded, and its end was not
    for item, found in pairs:
        if isinstance(item, Document):
            last = not item.more
            if found is None and begun and last:
                yield Document("", item.source)
            begun = not last and (begun or found is not None)
        if found is not None:
            yield found


def text_of(item: Readable) -> str:
    """Return all of an item's text."""
    return "\n".join(item.texts)


def _through(item: Any, steps: Sequence[Step], told: Sequence[Told]) -> Any:
    for step, count in zip(steps, told, strict=True):
        if step.mend is None and step.judge is None:
            continue
        count.rows_in += 1
        if step.judge is not None and not step.judge(text_of(item)):
            count.removed += 1
            count.show(text_of(item))
            return None
        if step.mend is not None:
            mended = item.saying([step.mend(text) for text in item.texts])
            if mended != item:
                count.changed += 1
                count.show(text_of(item), text_of(mended))
            if not mended.whole:
                count.removed += 1
                return None
            item = mended
    return item


def _where(before: str, after: str) -> str:
    """Show a change at the place where it begins."""
    both = enumerate(zip(before, after, strict=False))
    start = max(0, next((i for i, (a, b) in both if a != b), min(len(before), len(after))) - 12)
    half = _SHOWN // 2
    return f"{before[start : start + half]!r} → {after[start : start + half]!r}"


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
    settings = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=None,
    )
    return Step("mojibake", mend=lambda text: ftfy.fix_text(text, settings))


def _script(name: str, table: str) -> Step:
    import opencc

    converter = opencc.OpenCC(table)
    return Step(name, mend=lambda text: str(converter.convert(text)))


def _length(min: int = 1, max: int | None = None) -> Step:
    """Keep texts of ``min`` to ``max`` characters."""
    return Step("length", judge=lambda text: min <= len(text) <= (max or len(text)))


def _repetition(max: float = 0.3, n: int = 10) -> Step:
    """Drop texts of which more than the share ``max`` are repeats of runs of ``n`` characters."""

    def fine(text: str) -> bool:
        runs = len(text) - n + 1
        return runs <= 0 or 1 - len({text[i : i + n] for i in range(runs)}) / runs <= max

    return Step("repetition", judge=fine)


def _duplicates() -> Step:
    """Drop texts that came before, but for spaces around them; each leaves 16 bytes in memory."""
    seen: set[bytes] = set()

    def new(text: str) -> bool:
        digest = blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
        before = len(seen)
        seen.add(digest)
        return len(seen) > before

    return Step("duplicates", judge=new)


def _near_duplicates(threshold: float = 0.8, n: int = 5) -> Step:
    from lingraft.data.near import Sketches

    return Step("near_duplicates", judge=Sketches(threshold, n).new)


def _leakage(n: int = 13, against: str | Sequence[str] = ()) -> Step:
    """Drop what shares runs of ``n`` words or characters with held-out text; runs when data has been held out."""
    if n < 2:
        raise ValueError(f"leakage: n is {n}, and must be at least 2")
    paths = [against] if isinstance(against, str) else list(against)
    return Step("leakage", late={"n": n, "against": paths})


STEPS: Mapping[str, Callable[..., Step]] = {
    "tags": _tags,
    "control": _control,
    "radicals": _radicals,
    "mojibake": _mojibake,
    "simplified": lambda: _script("simplified", "t2s"),
    "traditional": lambda: _script("traditional", "s2t"),
    "length": _length,
    "repetition": _repetition,
    "duplicates": _duplicates,
    "near_duplicates": _near_duplicates,
    "leakage": _leakage,
}
