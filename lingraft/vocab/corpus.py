"""Read a corpus of any size as a stream, and keep what learning needs: a fair sample that fits into memory.

Text files are read line by line; everything else comes as documents from the data room.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingraft.data.files import TEXT, expand
from lingraft.data.text import stream
from lingraft.problems import Findings, refuse
from lingraft.vocab.han import HAN, HAN_RUN

SAMPLE = 5_000_000  # characters that learning looks at; a larger corpus is sampled evenly
_PART = 20_000  # characters read at once from a text file, to the end of the line


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
    for path in expand(paths, (".txt", ".md", ".jsonl", ".json", ".parquet")):
        if path.suffix.lower() in TEXT:
            yield from _parts(path)
        else:
            yield from (document.text for document in stream([path], findings))
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
        refuse("data-invalid", f"{', '.join(map(str, paths))}: no Chinese character in it",
               "name a corpus with Chinese text", str(paths[0]) if paths else None)  # fmt: skip
    return Sample(tuple(kept), characters, han, share)


def _parts(path: Path) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in _lines(path):
        lines.append(line)
        size += len(line)
        if size >= _PART:
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def _lines(path: Path) -> Iterable[str]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (the error names it)
                yield line
    except UnicodeDecodeError:
        refuse("data-invalid", f"{path}: after line {number}: this is not UTF-8 text",
               f"convert it: iconv -f GB18030 -t UTF-8 {path}", f"{path}:{number + 1}")  # fmt: skip
    except OSError as error:
        refuse("unreadable", f"{path} cannot be read: {error.strerror}", "check the file", path)
