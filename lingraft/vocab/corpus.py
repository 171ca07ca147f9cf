"""Read a corpus of any size as a stream, and keep what learning needs: a fair sample that fits into memory.

Documents come from the data room (text, rows, gzip, Hub data sets); long ones are cut at line ends, so that the draw is
even whatever the files are like.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingraft.data.text import stream
from lingraft.problems import Findings, refuse
from lingraft.vocab.han import HAN, HAN_RUN

SAMPLE = 5_000_000  # characters that learning looks at; a larger corpus is sampled evenly
_PART = 20_000  # characters, to the end of the line


@dataclass(frozen=True)
class Sample:
    """Texts drawn evenly from a corpus, and how large the whole is (in characters)."""

    texts: tuple[str, ...]
    characters: int
    han: int
    share: float  # of the corpus' texts that are in the sample

    def runs(self) -> Counter[str]:
        """Count the maximal runs of Han characters."""
        return Counter(run for text in self.texts for run in HAN_RUN.findall(text))


def texts(paths: Sequence[Path], findings: Findings) -> Iterator[str]:
    """Yield the texts of a corpus: documents, or parts of a long text file cut at line ends.

    Errors: `not-found`, `unknown-format`, `data-invalid`.
    """
    for document in stream(paths, findings):
        yield from _parts(document.text)
    findings.settle()


def sample(paths: Sequence[Path], findings: Findings, limit: int = SAMPLE, seed: int = 42) -> Sample:
    """Read a whole corpus once and keep at most about ``limit`` characters of it, drawn evenly.

    When the sample overflows, each text stays with probability one half, and from then on texts are taken with
    half the probability: memory is flat, the draw is even and the seed decides it.
    Errors: `data-invalid` for a corpus without Han characters, and what reading refuses.
    """
    draw = random.Random(seed)
    kept: list[str] = []
    share, size, characters, han = 1.0, 0, 0, 0
    for text in texts(paths, findings):
        characters += len(text)
        han += len(HAN.findall(text))
        if share < 1.0 and draw.random() >= share:
            continue
        kept.append(text)
        size += len(text)
        if size > limit and len(kept) > 1:
            kept = [item for item in kept if draw.random() < 0.5]
            share, size = share / 2, sum(map(len, kept))
    if not han:
        refuse(
            "data-invalid",
            f"{', '.join(map(str, paths))}: no Chinese character in it",
            "name a corpus with Chinese text",
            str(paths[0]) if paths else None,
        )
    return Sample(tuple(kept), characters, han, share)


def _parts(text: str) -> Iterator[str]:
    at = 0
    while len(text) - at > _PART:
        end = text.find("\n", at + _PART) + 1 or len(text)
        yield text[at:end]
        at = end
    if at < len(text):
        yield text[at:]
