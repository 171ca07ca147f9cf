"""Tokenizers and rows: which tokenizer goes with the result, and whether every token has a row that was trained.

The last tokenizer must extend the earlier ones: token for token the same ids, with new ones behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lingraft.merge.adapter import Adapter
from lingraft.merge.ends import Ends
from lingraft.merge.lineage import adapter_rows
from lingraft.merge.plan import Plan
from lingraft.merge.updates import Extend, LowRankEmbedding, Replace, Rows, Update
from lingraft.problems import Findings
from lingraft.weights.hf import read_json, side_files
from lingraft.weights.tensors import Entry, Lazy

TOKENIZER = ("tokenizer", "vocab", "merges", "spiece", "sentencepiece", "special_tokens_map", "added_tokens", "tekken")
SPARE = re.compile(r"[<\[]\|?[\w ]*?(?:pad|unused|reserved|placeholder|extra_id)[\w ]*\|?[>\]]", re.IGNORECASE)
MAIN = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Tokens:
    """A tokenizer as ids and pieces, with the folder that its files lie in."""

    folder: Path
    pieces: Mapping[int, str]

    @property
    def size(self) -> int:
        """The rows it needs: its highest id + 1."""
        return max(self.pieces, default=-1) + 1

    def first_difference(self, earlier: Tokens) -> int | None:
        """Return the first id that an earlier tokenizer reads differently, or None where this one extends it.

        A token that was kept free (reserved, unused, padding) may be given a meaning.
        """
        return next(
            (
                i
                for i, piece in sorted(earlier.pieces.items())
                if self.pieces.get(i) != piece and not (_spare(piece) and i in self.pieces)
            ),
            None,
        )


def read_tokens(folder: Path, only: str | None = None) -> Tokens | None:
    """Read the tokenizer of a folder from its files alone; None where there is none, or of an unknown form."""
    name = next((name for name in MAIN if only in (None, name) and (folder / name).is_file()), None)
    if name is None:
        return None
    pieces = _of_file(folder / name)
    if not pieces:
        return None
    if name != "tokenizer.json":
        pieces.update(_added(folder))
    return Tokens(folder, pieces)


def _of_file(file: Path) -> dict[int, str]:
    if file.name == "vocab.txt":
        return dict(enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines()))
    if file.name == "vocab.json":
        return {int(i): piece for piece, i in read_json(file).items()}
    if file.suffix == ".model":
        from lingraft.weights.sentencepieces import read_pieces

        try:
            return {i: piece.text for i, piece in enumerate(read_pieces(file.read_bytes())[0])}
        except Exception:  # a tiktoken file under the same name, or a damaged one: inspect says which
            return {}
    value = read_json(file)
    model = value.get("model")
    vocab: Any = model.get("vocab") if isinstance(model, dict) else None
    pieces = (
        {int(i): piece for piece, i in vocab.items()}
        if isinstance(vocab, dict)
        else {i: str(item[0]) for i, item in enumerate(vocab or [])}
    )
    pieces.update({int(item["id"]): str(item["content"]) for item in value.get("added_tokens") or []})
    return pieces


def _added(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    if (folder / "added_tokens.json").is_file():
        found.update({int(i): piece for piece, i in read_json(folder / "added_tokens.json").items()})
    if (folder / "tokenizer_config.json").is_file():
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        found.update({int(i): str(item.get("content")) for i, item in decoder.items()})
    return found


def files_for(base_files: Sequence[Path], adapters: Sequence[Path]) -> tuple[Path, ...]:
    """Choose the files that go with the result: the last adapter's tokenizer whole, else the base's.

    A chat template of the base stays only where the tokenizer's folder has none; generation_config.json is taken
    from the last folder that has one.
    """
    homes = [folder for folder in adapters if read_tokens(folder) is not None]
    if not homes:
        return tuple(base_files)
    chosen = [f for f in side_files(homes[-1]) if f.name != "generation_config.json"]
    names = {f.name for f in chosen}
    templated = any(n.startswith("chat_template") for n in names) or _has_template(homes[-1])
    for file in (*(f for home in reversed(homes) for f in side_files(home)), *base_files):
        wanted = file.name == "generation_config.json" or file.name.startswith("preprocessor")
        wanted = wanted or (file.name.startswith("chat_template") and not templated)
        if wanted and file.name not in names:
            chosen.append(file)
            names.add(file.name)
    return tuple(chosen)


def _has_template(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))


def check_chain(base: Path, adapters: Sequence[Path], findings: Findings) -> None:
    """Hold every tokenizer against the one before it.

    Problems: `wrong-order` where another order fits, else `tokenizer-mismatch`.
    """
    start = [base] if base.is_dir() else []
    broken = _broken([*start, *adapters])
    if broken is None:
        return
    earlier, later, at = broken
    shown = (
        f"the tokenizer of {later.folder} does not extend that of {earlier.folder}: id {at} is "
        f"{later.pieces.get(at, 'absent')!r} instead of {earlier.pieces[at]!r}"
    )
    ordered = sorted(adapters, key=lambda folder: tokens.size if (tokens := read_tokens(folder)) else 0)
    if ordered != list(adapters) and _broken([*start, *ordered]) is None:
        findings.problem(
            "wrong-order",
            f"{shown}; the other order fits",
            f"give them in this order: {' '.join(map(str, ordered))}",
            later.folder,
        )
    else:
        findings.problem("tokenizer-mismatch", shown, "merge adapters whose tokenizers extend each other", later.folder)


def _broken(chain: Sequence[Path]) -> tuple[Tokens, Tokens, int] | None:
    """Find the first tokenizer that does not extend the one before it; files of the same name are compared.

    (XLM-R's tokenizer.json and its SentencePiece model number the same pieces differently.)
    """
    known = [folder for folder in chain if any((folder / name).is_file() for name in MAIN)]
    for earlier, later in pairwise(known):
        name = next((name for name in MAIN if (earlier / name).is_file() and (later / name).is_file()), None)
        if name is None:
            continue
        one, other = read_tokens(earlier, name), read_tokens(later, name)
        if one is not None and other is not None and (at := other.first_difference(one)) is not None:
            return one, other, at
    return None


def check_rows_grow(adapters: Sequence[Path], findings: Findings) -> None:
    """Problem `wrong-order` where an adapter brings fewer embedding rows than one given before it."""
    rows = [(folder, found) for folder in adapters if (found := adapter_rows(folder)) is not None]
    ordered = [folder for folder, _ in sorted(rows, key=lambda pair: pair[1])]
    for (earlier, many), (later, few) in pairwise(rows):
        if few < many and not any(p.code == "wrong-order" for p in findings.problems):
            findings.problem(
                "wrong-order",
                f"{later} has {few:,} embedding rows and comes after {earlier}, which has {many:,}",
                f"give them in this order: {' '.join(map(str, ordered))}",
                later,
            )


def check_base(base: Path, config: Mapping[str, Any], weights: Lazy, ends: Ends, findings: Findings) -> None:
    """Problem `vocab-mismatch` where the base's config.json does not say how many rows its embedding has."""
    text = config.get("text_config")
    said = config.get("vocab_size", text.get("vocab_size") if isinstance(text, Mapping) else None)
    if ends.embedding is None or not isinstance(said, int) or said == weights.entries[ends.embedding].shape[0]:
        return
    findings.problem(
        "vocab-mismatch",
        f"{base / 'config.json'} says vocab_size {said:,}; {ends.embedding} has "
        f"{weights.entries[ends.embedding].shape[0]:,} rows",
        "restore the base's config.json",
        base,
    )


def check_rows(
    adapter: Adapter, earlier: Sequence[Path], below: Lazy, above: Lazy, ends: Ends, made: Plan, findings: Findings
) -> None:
    """Hold the adapter's tokenizer against the rows; ``earlier`` are the folders below it: the base, then adapters.

    Problems: `new-tokens-untrained` where its new tokens have no row, or rows that nothing trained; an untrained head
    alone, or padding tokens alone, are a warning. `tokenizer-mismatch` where an old token has no row.
    """
    mine = read_tokens(adapter.path)
    if mine is None or ends.embedding is None or ends.embedding not in above.entries:
        return
    known = (tokens for folder in reversed(earlier) if folder.is_dir() and (tokens := read_tokens(folder)))
    theirs = next(known, None)
    rows, before = above.entries[ends.embedding].shape[0], below.entries[ends.embedding].shape[0]
    old = min(theirs.size, before) if theirs else before
    new = [i for i in sorted(mine.pieces) if i >= old]
    if not new:
        return
    absent = [i for i in new if i >= rows]
    padding = only_spare(mine, old)
    if absent:
        findings.problem(
            "new-tokens-untrained",
            f"{adapter.path}: its tokenizer has {mine.size:,} tokens, {ends.embedding} {rows:,} rows: {len(absent):,} "
            f"new tokens ({mine.pieces[absent[0]]!r} …) have none",
            "train with the embedding saved (modules_to_save or trainable_token_indices)",
            adapter.path,
            ends.embedding,
        )
        return
    for name in dict.fromkeys(n for n in (ends.embedding, ends.head) if n in above.entries and n):
        if _trained(made.updates.get(name, ()), made.originals.get(name), below.entries[name], new):
            continue
        head = name == ends.head and not ends.tied
        tell = findings.warn if head or padding else findings.problem
        tell(
            "new-tokens-untrained",
            f"{adapter.path}: its tokenizer has {len(new):,} new tokens "
            f"({mine.pieces[new[0]]!r} …), and nothing trained their rows of {name}",
            "train with the embedding saved (modules_to_save or trainable_token_indices)",
            adapter.path,
            name,
        )


def only_spare(tokens: Tokens, old: int) -> bool:
    """Tell whether a tokenizer grew beyond ``old`` rows by padding and reserved tokens alone."""
    new = [piece for i, piece in tokens.pieces.items() if i >= old]
    return bool(new) and all(_spare(piece) for piece in new)


def _spare(piece: str) -> bool:
    """Tell whether a token means nothing by itself: padding, or one kept free for later."""
    return SPARE.fullmatch(piece) is not None


def _trained(updates: Sequence[Update], original: Entry | None, below: Entry, new: Sequence[int]) -> bool:
    """Tell whether any of the new rows was changed by training, as far as the adapter shows."""
    for update in updates:
        if isinstance(update, Rows) and set(new) & set(update.indices):
            return True
        if isinstance(update, LowRankEmbedding) and bool(update.a.read(0, None)[:, new[0] : new[-1] + 1].any()):
            return True
        if isinstance(update, Replace):
            first = original if original is not None and original.shape[0] > new[-1] else below
            return first.shape[0] <= new[0] or _differ(update.value, first, new)
        if not isinstance(update, Rows | LowRankEmbedding | Extend):
            return True
    return False


def _differ(one: Entry, other: Entry, rows: Sequence[int]) -> bool:
    start, stop = rows[0], min(rows[-1] + 1, one.shape[0], other.shape[0])
    a, b = one.read(start, stop), other.read(start, stop)
    return not torch.equal(a.float(), b.to(a.dtype).float())


def check_ends(weights: Lazy, ends: Ends, findings: Findings, who: str) -> None:
    """Problem `vocab-mismatch` where embedding and head of the result have different numbers of rows."""
    if ends.tied or ends.embedding not in weights.entries or ends.head not in weights.entries:
        return
    rows, others = (weights.entries[str(n)].shape[0] for n in (ends.embedding, ends.head))
    if rows != others:
        findings.problem(
            "vocab-mismatch",
            f"after {who}, {ends.embedding} has {rows:,} rows and {ends.head} {others:,}",
            "train and save both (modules_to_save: [embed_tokens, lm_head])",
            who,
            ends.head,
        )
