"""Bases that were quantised while an adapter was trained on them (QLoRA): which base did the adapter see?

The live model was dequantise(quantise(W)) + delta. `--onto original` adds the delta to W: a better base, but not the
model that was trained. `--onto dequantised` rebuilds what the adapter saw. The receipt says how far each is from the
live model.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lingraft.problems import refuse
from lingraft.weights.tensors import Entry, Lazy, Tensor

LAYER = re.compile(r"\.\d+\..*\.weight$")
METHODS = {"nf4": "nf4", "fp4": "fp4", "int8": "int8", "4bit": "nf4", "8bit": "int8"}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# `--onto` for an adapter that does not say what it saw: peft keeps no note of it.
SAID = ("nf4", "nf4-double", "fp4", "fp4-double", "int8")
SAMPLE = 8  # matrices whose error is measured


@dataclass(frozen=True)
class Quantisation:
    """How a base was quantised: nf4, fp4 or int8, with double quantisation, in which dtype, and which tensors."""

    method: str
    double: bool = True
    dtype: torch.dtype = torch.bfloat16
    names: frozenset[str] = frozenset()  # the modules' names where they are known; else every matrix of a block

    def covers(self, name: str, entry: Entry) -> bool:
        """Tell whether a tensor was quantised: a matrix inside a block, never embedding, head or norm."""
        if self.names:
            return name.removesuffix(".weight") in self.names
        return len(entry.shape) == 2 and LAYER.search(name) is not None


def parse(value: Mapping[str, Any]) -> Quantisation:
    """Read lineage's `quantisation`. Error: `config-mismatch`."""
    method = METHODS.get(str(value.get("method", value.get("quant_type", ""))).lower())
    if method is None:
        refuse(
            "config-mismatch",
            f"lingraft.json names the quantisation {dict(value)}, which is not known here",
            "update lingraft, or merge with --onto original",
            None,
        )
    dtype = DTYPES.get(str(value.get("dtype", "bfloat16")).removeprefix("torch."), torch.bfloat16)
    return Quantisation(method, bool(value.get("double", True)), dtype, frozenset(map(str, value.get("modules") or ())))


def said(onto: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a word of `SAID` says, in the form of a lineage; the model was loaded in the base's dtype."""
    method, _, double = onto.partition("-")
    return {"method": method, "double": bool(double), "dtype": str(dtype).removeprefix("torch.")}


@dataclass
class _Latest:
    """Keeps the last few whole matrices, since every block of one asks for it."""

    size: int = 2
    kept: OrderedDict[int, tuple[Entry, Tensor]] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, entry: Entry, make: Callable[[], Tensor]) -> Tensor:
        with self.lock:
            if id(entry) not in self.kept:
                self.kept[id(entry)] = (entry, make())
                while len(self.kept) > self.size:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(id(entry))
            return self.kept[id(entry)][1]


def dequantised(weights: Lazy, how: Quantisation) -> Lazy:
    """Return the weights as an adapter saw them: quantised and dequantised again, one matrix at a time."""
    latest = _Latest()
    return Lazy(
        {
            name: _seen(entry, how, latest) if how.covers(name, entry) else entry
            for name, entry in weights.entries.items()
        }
    )


def _seen(entry: Entry, how: Quantisation, latest: _Latest) -> Entry:
    def read(start: int, stop: int | None) -> Tensor:
        return latest.get(entry, lambda: round_trip(entry.read(0, None), how))[start:stop]

    return Entry(how.dtype, entry.shape, read)


def round_trip(weight: Tensor, how: Quantisation) -> Tensor:
    """Quantise a matrix and dequantise it again, as bitsandbytes does. Error: `not-found` without bitsandbytes."""
    try:
        from bitsandbytes import functional
    except ImportError:
        refuse(
            "not-found",
            "the base was quantised with bitsandbytes, which is not installed",
            "pip install bitsandbytes, or merge with --onto original",
        )
    weight = weight.to(how.dtype).contiguous()
    if how.method == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        return functional.int8_vectorwise_dequant(codes, scales).to(how.dtype)  # type: ignore[no-any-return]
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=how.double, quant_type=how.method
    )
    return functional.dequantize_4bit(packed, state).to(how.dtype)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Errors:
    """How far a merge onto either base is from the model that was trained, relative to its weights."""

    original: float
    dequantised: float
    matrices: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields, as the receipt writes them."""
        return {"original": self.original, "dequantised": self.dequantised, "matrices": self.matrices}


def errors(
    base: Lazy, how: Quantisation, above: Callable[[Lazy], Lazy], stored: Callable[[str], torch.dtype]
) -> Errors:
    """Measure both choices on an even sample of the quantised matrices.

    ``above`` puts the adapters on a base; ``stored`` tells the dtype in which a tensor is stored.
    """
    names = [name for name, entry in base.entries.items() if how.covers(name, entry)]
    names = names[:: max(1, len(names) // SAMPLE)]
    few = Lazy({name: base.entries[name] for name in names})
    live, other = above(dequantised(few, how)), above(few)
    squares = {"original": 0.0, "dequantised": 0.0, "all": 0.0}
    for name in names:
        exact = live.entries[name].read(0, None).float()
        squares["all"] += float(exact.square().sum())
        squares["dequantised"] += float((exact.to(stored(name)).float() - exact).square().sum())
        original = other.entries[name].read(0, None).to(stored(name)).float()
        squares["original"] += float((original - exact).square().sum())
    scale = max(squares["all"], 1e-30)
    return Errors((squares["original"] / scale) ** 0.5, (squares["dequantised"] / scale) ** 0.5, len(names))
