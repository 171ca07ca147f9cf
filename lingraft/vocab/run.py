"""Grow the vocabulary of a model: base directory in, complete larger directory out.

    lingraft vocab BASE --corpus FILE… [--size N|auto] --out DIR

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
from lingraft.vocab.budget import Choice, choose
from lingraft.vocab.corpus import Sample, sample
from lingraft.vocab.extend_bpe import is_byte_bpe, read_description, size_of, write_tokenizer
from lingraft.vocab.grown import Grown, Rows
from lingraft.vocab.learn import Pieces, learn, old_pieces
from lingraft.vocab.measure import tokens_per_character
from lingraft.vocab.rows import embedding_name, grow, is_tied, start_of
from lingraft.weights import hf
from lingraft.weights.fingerprint import HEAD, fingerprint
from lingraft.weights.tensors import Checkpoint, header

MOST = 10_000  # pieces that `size: auto` looks at
SHOWN = 24


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
        return {"corpus": [str(p) for p in self.corpus], "unite": None if self.unite is None else str(self.unite),
                "size": self.size, "init": self.init, "all_pieces": self.all_pieces,
                "budget_tokens": self.budget_tokens, "seed": self.seed}  # fmt: skip


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
    check_free(out, overwrite)
    checkpoint = _causal(base)
    description = read_description(base)
    if not is_byte_bpe(description):
        refuse("tokenizer-mismatch", f"{base / 'tokenizer.json'} is not a byte-level BPE tokenizer",
               "name a base with a byte-level BPE tokenizer", base / "tokenizer.json")  # fmt: skip
    text = sample(settings.corpus, findings, seed=seed)
    pieces, choice = _pieces(base, text, settings)
    old_size = size_of(description)
    new_size = old_size + len(pieces)
    name = embedding_name(checkpoint.tensors)
    require_space(out, sum(header(checkpoint.tensors, key).nbytes for key in checkpoint.tensors)
                  + len(pieces) * 8 * header(checkpoint.tensors, name).shape[1])  # fmt: skip
    with output_directory(out, overwrite) as partial:
        write_tokenizer(base, partial, checkpoint.side_files, pieces)
        rows = start(_grown(checkpoint, partial, pieces, old_size, text, seed)) if pieces else _no_rows(checkpoint)
        larger = grow(checkpoint, rows, old_size, new_size, {})
        total = sum(header(larger.tensors, key).nbytes for key in larger.tensors)
        with track("vocab: writing the larger model", total) as progress:
            digest = hf.write(larger, partial, progress=progress)
        result = _result(base, partial, out, text, pieces, choice, old_size, new_size)
        _receipt(partial, checkpoint, digest, settings, result, time.monotonic() - began, command)
    say(f"vocab: {result['new_pieces']} new pieces; tokens per character "
        f"{result['tokens_per_character']['before']:.3f} → {result['tokens_per_character']['after']:.3f}")  # fmt: skip
    return result


def _causal(base: Path) -> Checkpoint:
    if not base.exists():
        refuse("not-found", f"{base} does not exist", "check the path", base)
    if not hf.knows(base):
        refuse("unknown-format", f"{base} is not a Hugging Face model directory",
               "turn it into one first: lingraft convert SRC DST --to hf", base)  # fmt: skip
    checkpoint = hf.read(base)
    names = checkpoint.config.get("architectures") or []
    if not checkpoint.config or not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        what = ", ".join(map(str, names)) or "a model without `architectures`"
        refuse("config-mismatch", f"{base / 'config.json'} names {what}, not a causal language model",
               "name the directory of a causal language model", base / "config.json")  # fmt: skip
    return checkpoint


def _pieces(base: Path, text: Sample, settings: Settings) -> tuple[Pieces, Choice]:
    tokenizer = _tokenizer(base)
    if settings.size != "auto":
        pieces = learn(text.runs(), tokenizer, settings.size)
        fewer = "" if len(pieces) == settings.size else f"; {settings.size:,} were asked for, the corpus has no more"
        return pieces, Choice(len(pieces), f"{len(pieces):,} new pieces, as asked{fewer}")
    pieces = learn(text.runs(), tokenizer, MOST)
    tokens = round(tokens_per_character(tokenizer, text.texts) * text.characters)
    return choose(pieces, tokens, settings.budget_tokens, text.share)


def _tokenizer(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def _grown(base: Checkpoint, folder: Path, pieces: Pieces, old_size: int, text: Sample, seed: int) -> Grown:
    head = None if is_tied(base) else base.tensors[HEAD]
    old = old_pieces([piece.text for piece in pieces], _tokenizer(base.path))
    return Grown(base.path, folder, base.tensors[embedding_name(base.tensors)], head, old_size, tuple(old),
                 text.texts, seed)  # fmt: skip


def _no_rows(base: Checkpoint) -> Rows:
    width = header(base.tensors, embedding_name(base.tensors)).shape[1]
    return Rows(torch.empty(0, width), None if is_tied(base) else torch.empty(0, width))


def _result(base: Path, folder: Path, out: Path, text: Sample, pieces: Pieces, choice: Choice,
            old_size: int, new_size: int) -> dict[str, Any]:  # fmt: skip
    before, after = (tokens_per_character(_tokenizer(place), text.texts) for place in (base, folder))
    return {
        "new_pieces": len(pieces), "old_size": old_size, "new_size": new_size,
        "rows": hf.read_config(folder)["vocab_size"],
        "tokens_per_character": {"before": before, "after": after}, "out": str(out), "why": choice.why,
        "examples": [piece.text for piece in pieces[:SHOWN]],
    }  # fmt: skip


def _receipt(folder: Path, base: Checkpoint, digest: str, settings: Settings, result: dict[str, Any],
             seconds: float, command: Sequence[str]) -> None:  # fmt: skip
    write_json(folder / "manifest.json", {
        "schema": 1, "stage": "vocab", "command": list(command), "settings": settings.as_json(),
        "base": {"path": str(base.path), "fingerprint": fingerprint(base.tensors)}, "fingerprint": digest,
        "result": result, "seconds": round(seconds, 2),
        "versions": {"lingraft": __version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__,
                     "transformers": transformers.__version__},
    })  # fmt: skip
