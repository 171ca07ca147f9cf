"""Learn new pieces for a byte-level BPE tokenizer, in the way that suits how it spells Chinese.

Where Han characters are whole tokens already, more merges (`learn_bpe`); where they are broken into bytes, whole
words (`learn_words`), which become added tokens: one row a word, and none for the halves on the way to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from lingraft.vocab import learn_bpe, learn_words
from lingraft.vocab.learn_bpe import Merge
from lingraft.vocab.learn_words import Word

WHOLE = 0.8  # of the corpus' Han characters, as they occur, from which on merges need hardly any detour
Pieces = Sequence[Merge | Word]


def learn(runs: Mapping[str, int], tokenizer: Tokenizer, size: int, merges: bool = False) -> Pieces:
    """Return at most ``size`` new pieces, the most useful first; ``runs`` counts the corpus' runs of Han characters.

    ``merges`` where words cannot be added tokens.
    """
    if merges or whole_share(runs, tokenizer) >= WHOLE:
        return learn_bpe.learn(runs, tokenizer, size)
    return learn_words.learn(runs, lambda texts: [len(ids) for ids in old_pieces(texts, tokenizer)], size)


def whole_share(runs: Mapping[str, int], tokenizer: Tokenizer) -> float:
    """Return which share of the Han characters, as they occur, the tokenizer has as tokens of their own."""
    counts: dict[str, int] = {}
    for run, times in runs.items():
        for char in run:
            counts[char] = counts.get(char, 0) + times
    chars = sorted(counts)
    whole = sum(counts[char] for char, ids in zip(chars, old_pieces(chars, tokenizer), strict=True) if len(ids) == 1)
    return whole / max(1, sum(counts.values()))


def old_pieces(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return the old ids that each text takes."""
    return [tuple(item.ids) for item in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
