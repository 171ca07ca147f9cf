"""The difference of two models, sorted by what an adapter can hold: low rank, whole tensors, or rows.

Matrices of linear layers become low rank; embeddings and heads that grew or changed become rows or whole modules;
norms, biases and new heads are saved whole. A tied model's rows are saved once, as trainable tokens, which is the one
form that peft keeps tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lingraft.merge import ends as model_ends
from lingraft.merge.names import embeds
from lingraft.problems import Findings
from lingraft.weights.fingerprint import is_buffer
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, header, row_blocks

BLOCK = 32 << 20
NEW_HEADS = ("score", "classifier", "qa_outputs")
TABLES = ("wpe", "position_embeddings", "token_type_embeddings")  # nn.Embedding that holds no tokens


@dataclass(frozen=True)
class Difference:
    """Names (on disk) of what changed, by how it is kept; `rows` maps an embedding or head to its changed rows."""

    base: Mapping[str, Entry]
    tuned: Mapping[str, Entry]
    low_rank: tuple[str, ...]
    whole: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    tied: bool

    @property
    def nothing(self) -> bool:
        return not (self.low_rank or self.whole or self.rows)


def difference(tuned: Checkpoint, base: Checkpoint, findings: Findings) -> Difference:
    """Sort what differs. Problem: `base-mismatch` where the two are no models of one shape."""
    old, new = _entries(base), _entries(tuned)
    old_ends = model_ends.find(Lazy(old), base.config)
    new_ends = model_ends.find(Lazy(new), tuned.config)
    tied = old_ends.tied and (new_ends.tied or not new_ends.head)
    ends = {name for name in (new_ends.embedding, new_ends.head) if name}
    for these, theirs in ((old, old_ends), (new, new_ends)):
        if theirs.tied and not tied and theirs.head and theirs.embedding:
            these.setdefault(theirs.head, these[theirs.embedding])
        elif tied and theirs.head and theirs.head != theirs.embedding:
            these.pop(theirs.head, None)
    _check(tuned.path, base.path, old, new, ends, findings)
    classifiers = {
        _head(name)
        for name, entry in new.items()  # peft saves their heads whole
        if _head(name) in NEW_HEADS and (name not in old or not _equal(entry, old[name]))
    }
    low_rank: list[str] = []
    whole: list[str] = []
    rows: dict[str, tuple[int, ...]] = {}
    for name, entry in new.items():
        below = old.get(name)
        if below is None or _head(name) in classifiers:
            whole.append(name)
        elif name in ends:
            if changed := _changed_rows(entry, below):
                rows[name] = changed
        elif not _equal(entry, below):
            linear = len(entry.shape) == 2 and name.endswith(".weight") and not embeds(name.removesuffix(".weight"))
            (low_rank if linear and name.split(".")[-2] not in TABLES else whole).append(name)
    if (
        new_ends.head in rows
        and not tied
        and new[new_ends.head].shape == old[new_ends.head].shape
        and len(rows[new_ends.head]) > new[new_ends.head].shape[0] // 2
    ):
        del rows[new_ends.head]  # a head that changed all over is a linear layer like another
        low_rank.append(str(new_ends.head))
    if old_ends.tied and not tied:  # the adapter that unties brings both ends whole
        whole += [name for name in ends if name not in whole]
        rows, low_rank = {}, [name for name in low_rank if name not in ends]
    return Difference(old, new, tuple(low_rank), tuple(whole), rows, tied)


def _head(name: str) -> str:
    return name.split(".")[0]


def _entries(checkpoint: Checkpoint) -> dict[str, Entry]:
    return {name: header(checkpoint.tensors, name) for name in checkpoint.tensors if not is_buffer(name)}


def _check(
    tuned: Path, base: Path, old: Mapping[str, Entry], new: Mapping[str, Entry], ends: set[str], findings: Findings
) -> None:
    remedy = "give the model that the fine-tune began from"
    lost = [name for name in old if name not in new]
    strange = [name for name in new if name not in old and name.split(".")[0] not in NEW_HEADS]
    for names, where in ((lost, tuned), (strange, base)):
        if names:
            findings.problem(
                "base-mismatch",
                f"{where} lacks {len(names)} tensors that the other has: {', '.join(sorted(names)[:4])}",
                remedy,
                where,
                sorted(names)[0],
            )
    for name in new.keys() & old.keys():
        grown = name in ends and new[name].shape[1:] == old[name].shape[1:] and new[name].shape[0] >= old[name].shape[0]
        if new[name].shape != old[name].shape and not grown:
            findings.problem(
                "base-mismatch",
                f"{name} is {list(new[name].shape)} in {tuned} and {list(old[name].shape)} in {base}",
                remedy,
                base,
                name,
            )
        elif not new[name].dtype.is_floating_point or not old[name].dtype.is_floating_point:
            findings.problem(
                "unknown-format",
                f"{name} holds integers: quantised weights have no difference",
                "extract from the unquantised models",
                base,
                name,
            )
    findings.settle()


def _equal(one: Entry, other: Entry) -> bool:
    return all(
        torch.equal(one.read(a, b).float(), other.read(a, b).float()) for a, b in row_blocks(one.shape, 4, BLOCK)
    )


def _changed_rows(new: Entry, old: Entry) -> tuple[int, ...]:
    """Return the rows that differ, and those past the end of the base."""
    found: list[int] = []
    for start, stop in row_blocks((old.shape[0], *old.shape[1:]), 4, BLOCK):
        stop = old.shape[0] if stop is None else stop
        differ = (new.read(start, stop).float() != old.read(start, stop).float()).any(dim=1)
        found += (start + torch.nonzero(differ).flatten()).tolist()
    return (*found, *range(old.shape[0], new.shape[0]))
