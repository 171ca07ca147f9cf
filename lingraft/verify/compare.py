"""`lingraft compare A B`: any two checkpoints of any formats, tensor by tensor and block by block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.verify.difference import difference
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.safetensors import DTYPE_NAMES
from lingraft.weights.tensors import Checkpoint, Weights, header
from lingraft.weights.tied import HEAD, is_copy


@dataclass
class Comparison:
    """What two checkpoints have in common and where they part."""

    only_in_a: list[str] = field(default_factory=list)
    only_in_b: list[str] = field(default_factory=list)
    different: list[dict[str, Any]] = field(default_factory=list)
    dtypes: list[dict[str, str]] = field(default_factory=list)
    non_finite: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0

    @property
    def equal(self) -> bool:
        return not (self.only_in_a or self.only_in_b or self.different)

    def as_json(self) -> dict[str, Any]:
        known = [row["max_abs"] for row in self.different]
        return {
            "equal": self.equal,
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "different": self.different,
            "max_abs": None if None in known else max(known, default=0.0),
            "dtypes": self.dtypes,
            "non_finite": self.non_finite,
            "compared": self.compared,
        }


def compare(a: Path, b: Path, findings: Findings) -> dict[str, Any]:
    """Return the contract's `compare` answer.

    ``equal`` is about names, shapes and values; tensors that hold the same values in another dtype are listed under
    ``dtypes`` alone. A head that is stored although it is the embedding counts as absent on both sides. ``max_abs``
    is None where a shape differs or a value is NaN or infinite. Problems: `non-finite`; `merged-differs` where they
    differ.
    """
    one, other = open_checkpoint(a), open_checkpoint(b)
    found = compare_weights(_names(one, other), one.tensors, other.tensors)
    for row in found.non_finite:
        findings.problem(
            "non-finite",
            f"{row['name']}: {row['a']:,} NaN or infinite values in {a}, {row['b']:,} in {b}",
            "restore the tensor from its source",
            b if row["b"] else a,
            row["name"],
        )
    if not found.equal:
        first = [row["name"] for row in found.different] + found.only_in_a + found.only_in_b
        findings.problem(
            "merged-differs",
            f"{a} and {b} differ: {len(found.different)} tensors have other values, "
            f"{len(found.only_in_a)} are only in the first, {len(found.only_in_b)} only in the second",
            "--json lists every tensor (`different`, `only_in_a`, `only_in_b`)",
            b,
            first[0],
        )
    return found.as_json()


def _names(one: Checkpoint, other: Checkpoint) -> tuple[list[str], list[str]]:
    """Return both sides' names, without a head that only one side stores although it is the embedding."""
    sides = []
    for mine, theirs in ((one.tensors, other.tensors), (other.tensors, one.tensors)):
        redundant = HEAD in mine and HEAD not in theirs and is_copy(mine)
        sides.append([name for name in mine if not (redundant and name == HEAD)])
    return sides[0], sides[1]


def compare_weights(names: tuple[list[str], list[str]], a: Weights, b: Weights) -> Comparison:
    """Compare two mappings over the given names of each side."""
    in_a, in_b = set(names[0]), set(names[1])
    found = Comparison(sorted(in_a - in_b), sorted(in_b - in_a))
    for name in (n for n in names[0] if n in in_b):
        one, other = header(a, name), header(b, name)
        found.compared += 1
        if one.dtype != other.dtype:
            found.dtypes.append({"name": name, "a": DTYPE_NAMES[one.dtype], "b": DTYPE_NAMES[other.dtype]})
        if one.shape != other.shape:
            found.different.append(
                {"name": name, "max_abs": None, "rel": None, "shapes": {"a": list(one.shape), "b": list(other.shape)}}
            )
            continue
        apart = difference(one, other)
        if not apart.finite:
            found.non_finite.append({"name": name, "a": apart.non_finite_a, "b": apart.non_finite_b})
        if not apart.equal:
            found.different.append(
                {"name": name, "max_abs": apart.max_abs, "rel": apart.rel, "first_row": apart.row, "rows": apart.rows}
            )
    return found
