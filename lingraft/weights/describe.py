"""Write an `inspect` answer for people: a few lines of facts, and a table of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingraft.weights.contents import gigabytes

NAMES = {
    "hf-model": "a Hugging Face model",
    "peft-adapter": "a peft adapter",
    "training-run": "a training run",
    "trainer-checkpoint": "a Trainer's checkpoint",
    "deepspeed-state": "a DeepSpeed training state",
    "meta-checkpoint": "weights in Meta's layout",
    "gguf": "a GGUF model (llama.cpp)",
    "llama2c": "a llama2.c model",
    "state-dict": "bare weights, no config",
    "tokenizer": "a tokenizer",
    "unknown": "nothing that lingraft knows",
}
MOST = 60  # rows of the table; JSON has them all


def describe(answer: Mapping[str, Any]) -> str:
    """Return an `inspect` answer as plain text."""
    lines = [f"{answer['path']}: {NAMES[answer['kind']]}, {gigabytes(answer['bytes'])}"]
    lines += [fact(label, value) for label, value in _facts(answer)]
    return "\n".join([*lines, "", *_table(answer["contents"])])


def fact(label: str, value: str) -> str:
    """Return a line of facts, as every answer about weights has them."""
    return f"  {label:<16}{value}"


def _facts(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if answer["parameters"]:
        dtypes = ", ".join(f"{dtype} {count:,}" for dtype, count in answer["dtypes"].items())
        rows.append(("parameters", f"{answer['parameters']:,} in {answer['tensors']:,} tensors ({dtypes})"))
    if answer["architecture"]:
        rows.append(("architecture", answer["architecture"]))
    if answer["adapter"]:
        rows.append(("adapter", ", ".join(f"{k} {v}" for k, v in answer["adapter"].items() if v is not None)))
    if answer["vocab_size"]:
        rows.append(("vocabulary", f"{answer['vocab_size']:,} rows"))
    if answer["tokenizer_size"]:
        rows.append(("tokenizer", f"{answer['tokenizer_size']:,} tokens"))
    if answer["tied"] is not None:
        rows.append(("head", "tied to the embedding" if answer["tied"] else "its own weights"))
    if answer["fingerprint"]:
        rows.append(("fingerprint", answer["fingerprint"]))
    if answer["use"]:
        rows.append(("use next", answer["use"] + (f"   ({answer['why']})" if answer["why"] else "")))
    removable = sum(part["bytes"] for part in answer["contents"] if part["removable"])
    if removable:
        rows.append(("may be deleted", gigabytes(removable)))
    return rows


def _table(parts: list[Mapping[str, Any]]) -> list[str]:
    shown = sorted(parts, key=lambda part: -part["bytes"])[:MOST]
    shown = [part for part in parts if part in shown]
    width = min(60, max((len(part["path"]) for part in shown), default=0))
    lines = [
        f"  {part['path']:<{width}}  {gigabytes(part['bytes']):>12}  "
        f"{'may go' if part['removable'] else 'keep':<6}  {part['role']}; {part['needed_for']}"
        for part in shown
    ]
    more = len(parts) - len(shown)
    return [*lines, *([f"  … and {more} smaller files"] if more else [])]
