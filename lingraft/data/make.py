"""Make a stage's data: read, clean, hold out, keep leaks out, augment, tokenise, mix, pack, report.

Everything is a stream, so that memory does not depend on how much data there is. Held-out rows are chosen after
cleaning (a duplicate of one is no longer there to be trained on) and before augmenting (which only training rows are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lingraft.data import cache, conversations, store, text
from lingraft.data.answers import Turns, render
from lingraft.data.augment import Added, Paraphrase, augmentations, paraphrased
from lingraft.data.clean import Step, Told, clean
from lingraft.data.contradictions import Contradictions
from lingraft.data.conversations import Conversation
from lingraft.data.describe import describe
from lingraft.data.leakage import HeldOut, guard, without
from lingraft.data.mix import Part, draw
from lingraft.data.pack import pack
from lingraft.data.spool import Spool
from lingraft.data.store import Longs, Piece
from lingraft.data.tokens import Cuts, of_conversations, of_documents
from lingraft.output import write_json
from lingraft.problems import Findings, refuse
from lingraft.recipe import Data, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Items = Iterator[Any]  # of Document or Conversation, by the order's kind


@dataclass(frozen=True)
class Order:
    """What is wanted: a recipe's data block, its kind, and the Jinja text of the template for conversations.

    ``protected`` names held-out files elsewhere in the recipe, which the step ``leakage`` keeps out of the training.
    """

    block: Data
    kind: Literal["documents", "conversations"]
    seed: int
    template: str = ""
    turns: Turns = "all"
    protected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One source of a mixture, as streams that may be begun again: what to train on, and what is held out."""

    names: tuple[str, ...]
    weight: float
    train: Callable[[], Items]
    held: Callable[[], Items] = lambda: iter(())


@dataclass
class Tally:
    """What is counted while the data streams by."""

    told: list[Told]
    rows: int = 0
    held: int = 0
    added: list[Added] = field(default_factory=list)
    cuts: Cuts = field(default_factory=Cuts)
    twice: Contradictions = field(default_factory=Contradictions)


def make(
    order: Order, steps: Sequence[Step], tokenizer: PreTrainedTokenizerBase, allow: frozenset[str], out: Path
) -> None:
    """Write tokens, blocks and report into a folder. Errors: see `prepare.prepare`."""
    findings, tally = Findings(allow=allow), Tally([Told(step.name) for step in steps])
    sources = _sources(order, steps, findings, tally, out)
    ends: list[int] = []
    held_out = _guard(order, steps, sources, findings)
    store.write(_train(order, sources, held_out, tokenizer, findings, tally, ends), out / "train.arrow")
    tell_cuts(tally.cuts, order.block.length, findings)
    if order.block.validation is not None:
        _write_validation(order, sources, tokenizer, findings, tally, out)
    findings.settle()
    for spool in out.glob("spool-*"):
        spool.unlink()
    report = {"train": _report(order, sources, ends, tokenizer, tally, out), "validation": None}
    if order.block.validation is not None:
        report["validation"] = _pack(order, "validation", None, tokenizer, tally.held, out)
    notes = {"allowed": [p.as_json() for p in findings.allowed], "warnings": [p.as_json() for p in findings.warnings]}
    write_json(out / cache.REPORT, {**report, **notes})


def given(block: Data) -> list[str]:
    """Return the paths that a data block names."""
    if block.mix:
        return [m.path for m in block.mix]
    return [block.data] if isinstance(block.data, str) else list(block.data or [])


def guarded(order: Order, steps: Sequence[Step]) -> list[str]:
    """Return the files that the step ``leakage``, where it is chosen, keeps out of the training data."""
    late = next((step.late for step in steps if step.late is not None), None)
    return [] if late is None else [*order.protected, *late["against"]]


def augmentations_of(order: Order) -> list[Paraphrase]:
    """Return what the block asks for. Error: `recipe-invalid`."""
    if order.block.augment and order.kind == "documents":
        refuse("recipe-invalid", "augment: plain text has no instructions to paraphrase", "remove augment")
    return augmentations(order.block.augment)


def pieces_of(
    items: Items, tokenizer: PreTrainedTokenizerBase, length: int, template: str, turns: Turns, cuts: Cuts
) -> Iterator[Piece]:
    """Tokenise documents, or conversations where there is a template."""
    if not template:
        return of_documents(items, tokenizer, length)
    rendered = (r for item in items for r in render(item, tokenizer, template, turns))
    return of_conversations(rendered, tokenizer, length, cuts)


def tell_cuts(cuts: Cuts, length: int, findings: Findings) -> None:
    """Say which conversations lost all their labels (`nothing-supervised`), and which their end (a warning)."""
    if cuts.emptied:
        findings.problem(
            "nothing-supervised",
            f"{cuts.emptied} of {cuts.rendered} conversations have no answer left "
            f"within {length} tokens: {_names(cuts.emptied_first, cuts.emptied)}",
            "raise `length`, or leave them out knowingly with --allow nothing-supervised",
            cuts.emptied_first[0],
        )
    if cuts.cut:
        findings.warn(
            "data-invalid",
            f"{cuts.cut} of {cuts.rendered} conversations are longer than {length} tokens "
            f"and lose their end: {_names(cuts.cut_first, cuts.cut)}",
            "raise `length` to keep them whole",
            cuts.cut_first[0],
        )


def _sources(order: Order, steps: Sequence[Step], findings: Findings, tally: Tally, out: Path) -> list[Source]:
    block = order.block
    listed = [((m.path,), m.weight) for m in block.mix] if block.mix else [(tuple(given(block)), 1.0)]
    found = []
    for number, (names, weight) in enumerate(listed):

        def cleaned(names: tuple[str, ...] = names) -> Items:
            return clean(_counted(_read(order, names, findings), tally), steps, tally.told)

        if isinstance(block.validation, float | int):
            spool: Spool[Any] = Spool(cleaned(), out / f"spool-{number}")
            held = spool.hold_out(float(block.validation), order.seed + number, names[0])
            found.append(Source(names, weight, spool.rest(held), spool.chosen(held)))
        else:
            found.append(Source(names, weight, cleaned))
    return found


def _read(order: Order, names: Sequence[str], findings: Findings) -> Items:
    stream: Callable[..., Items] = conversations.stream if order.kind == "conversations" else text.stream
    return stream([resolve(name) for name in names], findings)


def _counted(items: Items, tally: Tally) -> Items:
    for item in items:
        tally.rows += not getattr(item, "more", False)
        yield item


def _train(
    order: Order,
    sources: Sequence[Source],
    held_out: HeldOut | None,
    tokenizer: PreTrainedTokenizerBase,
    findings: Findings,
    tally: Tally,
    ends: list[int],
) -> Iterator[Piece]:
    """Yield the pieces of every source to train on, noting in ``ends`` where each ends."""
    chosen = augmentations_of(order)
    tally.added = [Added("paraphrase", 0, 0, []) for _ in chosen]
    count = 0
    for source in sources:
        items = source.train()
        if held_out is not None:
            items = without(items, held_out, next(told for told in tally.told if told.step == "leakage"))
        for one, added in zip(chosen, tally.added, strict=True):
            items = paraphrased(items, one, order.seed, added)
        before, items = count, _compared(items, tally.twice)
        for piece in pieces_of(items, tokenizer, order.block.length, order.template, order.turns, tally.cuts):
            count += 1
            yield piece
        if count == before:
            _nothing(order, source.names, findings, tally)
        ends.append(count)


def _compared(items: Items, twice: Contradictions) -> Items:
    for item in items:
        if isinstance(item, Conversation):
            twice.add(str(item.messages[:-1]), item.messages[-1].content, item.source)
        yield item


def _nothing(order: Order, names: Sequence[str], findings: Findings, tally: Tally) -> None:
    """Refuse a source of which nothing is left to train on."""
    tell_cuts(tally.cuts, order.block.length, findings)
    findings.settle()
    if tally.cuts.emptied:
        refuse(
            "nothing-supervised",
            f"{', '.join(names)}: no conversation has a label left to learn from",
            "raise `length`",
            names[0],
        )
    what = f"no {order.kind} in it" if not tally.rows else "cleaning left nothing of it"
    refuse("data-invalid", f"{', '.join(names)}: {what}", "clean less, or name other files", names[0])


def _write_validation(
    order: Order,
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    findings: Findings,
    tally: Tally,
    out: Path,
) -> None:
    path = order.block.validation
    own = _read(order, [path], findings) if isinstance(path, str) else iter(())
    rows = Tally([])
    cuts = Cuts()
    items = _counted(chain(own, *(source.held() for source in sources)), rows)
    store.write(
        pieces_of(items, tokenizer, order.block.length, order.template, order.turns, cuts), out / "validation.arrow"
    )
    tell_cuts(cuts, order.block.length, findings)
    tally.held = rows.rows
    if not isinstance(path, str):
        tally.rows -= rows.rows


def _guard(order: Order, steps: Sequence[Step], sources: Sequence[Source], findings: Findings) -> HeldOut | None:
    """Return what must not be trained on where ``leakage`` is chosen: validation data and every protected file."""
    late = next((step.late for step in steps if step.late is not None), None)
    if late is None:
        return None
    path = order.block.validation
    files = [_read(order, [path], Findings(allow=findings.allow))] if isinstance(path, str) else []
    files.append(text.stream([resolve(name) for name in guarded(order, steps)], findings))
    return guard(late, chain(*files, *(source.held() for source in sources)))


def _report(
    order: Order,
    sources: Sequence[Source],
    ends: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
    out: Path,
) -> dict[str, Any]:
    """Mix and pack what was written, and return the training data's report."""
    mixed: list[dict[str, Any]] = []
    chosen: Longs | None = None
    if order.block.mix:
        parts = [
            Part(", ".join(source.names), source.weight, np.arange(a, b))
            for source, a, b in zip(sources, [0, *ends[:-1]], ends, strict=True)
        ]
        chosen, mixed = draw(parts, store.read(out / "train.arrow").lengths, order.seed)
    stats = _pack(order, "train", chosen, tokenizer, tally.rows, out)
    stats |= {"cut": tally.cuts.cut, "left_out": tally.cuts.emptied, "held_out": tally.held}
    stats |= {"clean": [asdict(told) for told in tally.told]} if tally.told else {}
    stats |= {"augment": [asdict(added) for added in tally.added]} if tally.added else {}
    stats |= {"contradictions": tally.twice.as_json()} if order.kind == "conversations" else {}
    return stats | ({"mix": mixed} if mixed else {})


def _pack(
    order: Order, name: str, chosen: Longs | None, tokenizer: PreTrainedTokenizerBase, rows: int, out: Path
) -> dict[str, Any]:
    segments = store.read(out / f"{name}.arrow")
    numbers = np.arange(len(segments)) if chosen is None else chosen
    blocks = pack(segments.lengths, numbers, order.block.length)
    np.savez(out / f"{name}.blocks.npz", members=blocks.members, edges=blocks.edges)
    return describe(segments, numbers, blocks, tokenizer, order.block.length, rows)


def _names(first: Sequence[str], count: int) -> str:
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
