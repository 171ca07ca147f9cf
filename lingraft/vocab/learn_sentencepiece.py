"""Learn Chinese pieces for a SentencePiece tokenizer (Llama-2), with SentencePiece itself.

The trainer (Kudo & Richardson 2018) sees the corpus' runs of Han characters alone, so that every piece is Han. Its
pieces are ranked by the tokens that they save in this corpus, against what the base takes for them, and closed: a
piece is built by joining two pieces, so its parts have to be there before it (a character that the base spells in
bytes is one of them). Otherwise SentencePiece and the tokenizers library, which merge differently, would disagree.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

import sentencepiece

from lingraft.problems import refuse
from lingraft.vocab.learn_words import Word

LONGEST = 8  # characters in a piece
_SPARE = 1.3  # the base has some of the pieces already, and closing takes some


def learn(
    runs: Mapping[str, int],
    known: Container[str],
    old_tokens: Callable[[list[str]], list[int]],
    size: int,
    kind: str = "bpe",
) -> list[Word]:
    """Return at most ``size`` pieces, those that save most tokens first; for BPE the parts of each before it.

    ``known`` are the base's pieces, ``old_tokens`` tells how many tokens the base takes for each text, ``kind`` is
    SentencePiece's model type and the base's, ``bpe`` or ``unigram``.
    """
    trained = _train(runs, round(size * _SPARE) + 64, kind)
    used = _uses(trained, runs)
    texts = sorted(text for text in used if text not in known)
    chars = Counter({char: 0 for text in texts for char in text})
    for text, count in used.items():
        chars.update(dict.fromkeys(text, count))
    texts = sorted({*texts, *(char for char in chars if char not in known)})
    needed = dict(zip(texts, old_tokens(texts), strict=True))
    ranked = sorted(
        (Word(t, chars[t] if len(t) == 1 else used[t], needed[t]) for t in texts if needed[t] > 1),
        key=lambda word: (-word.saved, word.text),
    )
    return closed(ranked, known, size) if kind == "bpe" else ranked[:size]


def closed(ranked: Iterable[Word], known: Container[str], size: int) -> list[Word]:
    """Return the first ``size`` words such that each can be joined from two parts that stand before it."""
    words = {word.text: word for word in ranked}
    order: dict[str, Word] = {}
    for word in words.values():
        fresh = list(_parts(word.text, words, known, order))
        if fresh and len(order) + len(fresh) <= size:
            order.update((text, words[text]) for text in fresh)
    return list(order.values())


def _parts(text: str, words: Mapping[str, Word], known: Container[str], order: Container[str]) -> Iterator[str]:
    """Yield what is missing to build ``text``, itself last; nothing where it cannot be built."""
    missing = [char for char in dict.fromkeys(text) if char not in known and char not in order]
    if any(char not in words for char in missing) or text in order:
        return
    have = {*missing}
    grown = text[0]
    steps: list[str] = []
    for char in text[1:]:  # from the left, a character at a time: any other way to join it does as well
        grown += char
        if grown not in known and grown not in order and grown not in have:
            if grown not in words and grown != text:
                return
            steps.append(grown)
    yield from dict.fromkeys([*missing, *steps])


def _train(runs: Mapping[str, int], size: int, kind: str) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": kind,
        "character_coverage": 1.0,
        "byte_fallback": False,
        "split_by_whitespace": True,
        "add_dummy_prefix": False,
        "normalization_rule_name": "identity",
        "max_sentencepiece_length": LONGEST,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
        "input_sentence_size": 0,
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
    }
    characters = len({char for run in runs for char in run})
    sentences = (run for run in sorted(runs) for _ in range(runs[run]))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=model, vocab_size=size + characters, **settings
        )
    except RuntimeError as error:
        limit = _largest(str(error))
        if limit is None:
            refuse(
                "data-invalid",
                f"SentencePiece cannot learn from this corpus: {str(error).splitlines()[0]}",
                "give a larger corpus, or ask for fewer pieces",
            )
        return _train(runs, limit - characters, kind)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _largest(error: str) -> int | None:
    """Return the vocabulary size that the trainer says the corpus has at most."""
    _, found, rest = error.partition("<= ")
    number = rest.split(".")[0].strip()
    return int(number) if found and number.isdigit() else None


def _uses(trained: sentencepiece.SentencePieceProcessor, runs: Mapping[str, int]) -> Counter[str]:
    used: Counter[str] = Counter()
    order = sorted(runs)
    for run, pieces in zip(order, trained.encode(order, out_type=str), strict=True):
        for piece in pieces:
            used[piece] += runs[run]
    return used
