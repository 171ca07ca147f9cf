"""Grow the vocabulary of a model: base directory in, complete larger directory out.

    lingraft vocab BASE (--corpus FILE… [--size N|auto] | --unite TOKENIZER [--all-pieces]) --out DIR

Learn pieces, extend the tokenizer, start the new rows, write weights, config and tokenizer, and a receipt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers

from lingraft import __version__
from lingraft.output import check_free, output_directory, require_space, write_json
from lingraft.problems import Findings, refuse
from lingraft.progress import say, track
from lingraft.vocab import base_tokenizer
from lingraft.vocab import unite as unite_with
from lingraft.vocab.base_tokenizer import BaseTokenizer
from lingraft.vocab.budget import Choice, choose, most
from lingraft.vocab.corpus import Sample, sample
from lingraft.vocab.grown import Grown, Rows
from lingraft.vocab.learn import Pieces
from lingraft.vocab.learn_words import Word
from lingraft.vocab.measure import tokens_per_character
from lingraft.vocab.rows import MULTIPLE, embedding_name, grow, is_tied, start_of
from lingraft.weights import hf
from lingraft.weights.fingerprint import HEAD, fingerprint
from lingraft.weights.tensors import Checkpoint, header

SHOWN = 24  # examples in the answer
SHIPPED = Path(__file__).parents[1] / "text" / "zh.jsonl"  # what a union, which has no corpus, is measured on


@dataclass(frozen=True)
class Settings:
    """What the caller asked for, as the receipt records it."""

    corpus: tuple[Path, ...]
    unite: Path | None
    size: int | Literal["auto"]
    init: str
    all_pieces: bool
    budget_tokens: int | None
    seed: int

    def as_json(self) -> dict[str, Any]:
        return {
            "corpus": [str(p) for p in self.corpus],
            "unite": None if self.unite is None else str(self.unite),
            "size": self.size,
            "init": self.init,
            "all_pieces": self.all_pieces,
            "budget_tokens": self.budget_tokens,
            "seed": self.seed,
        }


def extend(
    base: Path,
    out: Path,
    *,
    corpus: Sequence[Path] = (),
    unite: Path | None = None,
    size: int | Literal["auto"] = "auto",
    init: str = "pieces",
    all_pieces: bool = False,
    budget_tokens: int | None = None,
    seed: int = 42,
    overwrite: bool = False,
    findings: Findings,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Write ``base`` with a larger vocabulary to ``out`` and return the JSON answer of the contract.

    Errors: `output-exists`, `config-mismatch` (not a causal language model), `tokenizer-mismatch`, `data-invalid`,
    `no-space`, and what reading the weights refuses.
    """
    began = time.monotonic()
    settings = Settings(tuple(map(Path, corpus)), unite, size, init, all_pieces, budget_tokens, seed)
    start = start_of(init)
    check_free(out, overwrite, [base])
    checkpoint = _causal(base)
    old = base_tokenizer.read(base)
    _require_rows(checkpoint, old.size)
    text = sample(settings.corpus or (SHIPPED,), findings, seed=seed)
    pieces, choice = _pieces(old, text, settings)
    if not pieces and size != "auto":
        findings.warn(
            "data-invalid",
            f"no new piece was found in {text.characters:,} characters of text: the vocabulary stays as it is",
            "give more text of the language that the base's tokenizer cuts into many tokens",
            corpus[0] if corpus else unite,
        )
    _require_room(checkpoint, out, len(pieces))
    with output_directory(out, overwrite) as partial:
        old.write(partial, checkpoint.side_files, pieces)
        rows = start(_grown(checkpoint, old, partial, pieces, text, seed)) if pieces else _no_rows(checkpoint)
        larger = grow(checkpoint, rows, old.size, old.size + len(pieces))
        with track("writing the larger model", _bytes(larger)) as progress:
            digest = hf.write(larger, partial, progress=progress).fingerprint
        result = _result(old, partial, out, text, pieces, choice)
        _receipt(partial, checkpoint, digest, settings, result, time.monotonic() - began, command)
    say(
        f"vocab: {result['new_pieces']:,} new pieces; tokens per character "
        f"{result['tokens_per_character']['before']:.3f} → {result['tokens_per_character']['after']:.3f}"
    )
    return result


def as_text(result: dict[str, Any]) -> str:
    """Return what `extend` answered as a person reads it in a terminal."""
    before, after = result["tokens_per_character"]["before"], result["tokens_per_character"]["after"]
    lines = [
        f"new pieces: {result['new_pieces']:,}, such as {' '.join(result['examples']) or '-'}",
        f"tokenizer: {result['old_size']:,} → {result['new_size']:,} tokens, {result['rows']:,} rows in the model",
        f"tokens/char: {before:.3f} → {after:.3f} ({after / before - 1:+.1%})",
        f"why: {result['why']}",
        f"out: {result['out']}",
    ]
    return "\n".join(lines)


def _causal(base: Path) -> Checkpoint:
    if not base.exists():
        refuse("not-found", f"{base} does not exist", "check the path", base)
    if not hf.knows(base):
        refuse(
            "unknown-format",
            f"{base} is not a Hugging Face model directory",
            "turn it into one first: lingraft convert SRC DST --to hf",
            base,
        )
    checkpoint = hf.read(base)
    names = checkpoint.config.get("architectures") or []
    if not checkpoint.config or not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        what = ", ".join(map(str, names)) or "a model without `architectures`"
        refuse(
            "config-mismatch",
            f"{base / 'config.json'} names {what}, not a causal language model",
            "name the directory of a causal language model",
            base / "config.json",
        )
    return checkpoint


def _require_rows(base: Checkpoint, tokens: int) -> None:
    """Refuse (`vocab-mismatch`) a base with tokens that have no row: new ones would take the wrong places."""
    for name in {embedding_name(base.tensors), HEAD} & set(base.tensors):
        rows = header(base.tensors, name).shape[0]
        if rows < tokens:
            refuse(
                "vocab-mismatch",
                f"{base.path}: its tokenizer has {tokens:,} tokens, but {name} only {rows:,} rows",
                "take the tokens without a row out of the tokenizer, or give the model rows for them first",
                base.path,
                name,
            )


def _pieces(old: BaseTokenizer, text: Sample, settings: Settings) -> tuple[Pieces, Choice]:
    if settings.unite is not None:
        return _united(old, settings.unite, settings.all_pieces)
    if settings.size != "auto":
        pieces = old.learn(text.runs(), settings.size)
        asked = (
            "as asked"
            if len(pieces) == settings.size
            else f"all that the corpus has of the {settings.size:,} asked for"
        )
        return pieces, Choice(len(pieces), f"{len(pieces):,} new pieces, {asked}")
    tokens = round(tokens_per_character(old.fast, text.texts) * text.characters)
    candidates = old.learn(text.runs(), most(settings.budget_tokens or tokens))
    return choose(candidates, tokens, settings.budget_tokens, text.share)


def _united(old: BaseTokenizer, path: Path, all_pieces: bool) -> tuple[Pieces, Choice]:
    theirs, known = unite_with.pieces_of(path), old.known()
    chosen = unite_with.new_pieces(theirs, known, all_pieces)
    taken = old.reachable(chosen)
    left_out = len(unite_with.new_pieces(theirs, known, True)) - len(chosen)
    pieces = [Word(text, 0, len(ids)) for text, ids in zip(taken, old.old_pieces(taken), strict=True)]
    why = (
        f"{len(pieces):,} new pieces of {path.name}. {left_out:,} are left out, for they hold no Han character and "
        "would change how other text is encoded (--all-pieces takes them too)."
    )
    more = len(chosen) - len(taken)
    never = f" {more:,} hold a character that is no piece by itself, so that nothing joins them." if more else ""
    return pieces, Choice(
        len(pieces), (f"all {len(pieces):,} new pieces of {path.name}." if all_pieces else why) + never
    )


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(header(checkpoint.tensors, key).nbytes for key in checkpoint.tensors)


def _require_room(base: Checkpoint, out: Path, new: int) -> None:
    width = header(base.tensors, embedding_name(base.tensors)).shape[1]
    require_space(out, _bytes(base) + 2 * 4 * width * (new + MULTIPLE))


def _grown(base: Checkpoint, old: BaseTokenizer, folder: Path, pieces: Pieces, text: Sample, seed: int) -> Grown:
    head = None if is_tied(base) else base.tensors[HEAD]
    before = old.old_pieces([piece.text for piece in pieces])
    return Grown(
        base.path, folder, base.tensors[embedding_name(base.tensors)], head, old.size, tuple(before), text.texts, seed
    )


def _no_rows(base: Checkpoint) -> Rows:
    width = header(base.tensors, embedding_name(base.tensors)).shape[1]
    return Rows(torch.empty(0, width), None if is_tied(base) else torch.empty(0, width))


def _result(
    old: BaseTokenizer, folder: Path, out: Path, text: Sample, pieces: Pieces, choice: Choice
) -> dict[str, Any]:
    new = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        "new_pieces": len(pieces),
        "old_size": old.size,
        "new_size": old.size + len(pieces),
        "rows": hf.read_config(folder)["vocab_size"],
        "tokens_per_character": {
            "before": tokens_per_character(old.fast, text.texts),
            "after": tokens_per_character(new, text.texts),
        },
        "out": str(out),
        "why": choice.why,
        "examples": [piece.text for piece in pieces[:SHOWN]],
    }


def _receipt(
    folder: Path,
    base: Checkpoint,
    digest: str,
    settings: Settings,
    result: dict[str, Any],
    seconds: float,
    command: Sequence[str],
) -> None:
    write_json(
        folder / "manifest.json",
        {
            "schema": 1,
            "stage": "vocab",
            "command": list(command),
            "settings": settings.as_json(),
            "base": {"path": str(base.path), "fingerprint": fingerprint(base.tensors)},
            "fingerprint": digest,
            "result": result,
            "seconds": round(seconds, 2),
            "versions": {
                "lingraft": __version__,
                "torch": torch.__version__,
                "tokenizers": tokenizers.__version__,
                "transformers": transformers.__version__,
            },
        },
    )
