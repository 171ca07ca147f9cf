"""A model as one GGUF file: written beside its final name, read again, and only then put into place.

The eight types that the gguf package encodes are written tensor by tensor (`weights/gguf_write.py`); K-quants go
through an unquantised file beside the output and llama.cpp's llama-quantize.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.export import kquants, overlaps
from lingraft.output import require_space
from lingraft.problems import Findings, refuse
from lingraft.progress import say, track
from lingraft.weights import gguf, gguf_tokenizer_write, gguf_write
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.gguf_header import read_header
from lingraft.weights.hf import dtype_of
from lingraft.weights.safetensors import DTYPE_NAMES
from lingraft.weights.tensors import Checkpoint, header

TYPES = (*gguf_write.TYPES, *kquants.TYPES)
BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0}
TOKENIZERS = {"tokenizer.json", "tokenizer.model", "merges.txt"}
OWN = 1 << 20  # header and tokenizer, about


def kind_of(kind: str | None) -> str:
    """Return a type as GGUF spells it, Q8_0 where none is asked for. Error: `unknown-format`."""
    name = (kind or "Q8_0").upper()
    if name not in TYPES:
        refuse(
            "unknown-format", f"{kind!r} is not a type that GGUF is written in here", f"use one of {', '.join(TYPES)}"
        )
    return name


def write(checkpoint: Checkpoint, out: Path, kind: str, digest: str, findings: Findings) -> dict[str, Any]:
    """Write ``checkpoint``, whose fingerprint is ``digest``, to the file ``out`` as ``kind``, and read it again.

    Returns {"type", "exact", "types": how many tensors have which type, "overlaps"}. Errors: those of
    `gguf_write.write`, `unknown-format` for a K-quant without llama-quantize, `fingerprint-mismatch`.
    """
    program = kquants.require(kind) if kind in kquants.TYPES else None
    files = checkpoint.side_content()
    pairs = _look_at_tokenizer(checkpoint, files, findings)
    findings.settle()
    parameters = sum(
        header(checkpoint.tensors, n).nbytes // header(checkpoint.tensors, n).dtype.itemsize for n in checkpoint.tensors
    )
    whole = kind if program is None else DTYPE_NAMES.get(dtype_of(checkpoint.tensors), "F32")
    require_space(out, int(parameters * (BITS.get(whole, 32.0) + (6.6 if program else 0)) / 8) + OWN)
    stem, _, process = out.name.rpartition("-")  # .NAME.partial-PID: a killed run's leftovers are known by that
    first = out if program is None else out.with_name(f"{stem}-{whole}-{process}")
    try:
        told = _plain(checkpoint, first, whole, digest)
        if program is not None:
            say(f"{program.name}: {kind} …")
            kquants.quantise(program, first, out, kind)
            told |= {"type": kind, "exact": False}
    finally:
        if first != out:
            first.unlink(missing_ok=True)
    types = Counter(info.type.name for info in read_header(out).tensors.values())
    _tell_fallback(kind, types, checkpoint, findings)
    return {**told, "types": dict(types), "overlaps": pairs}


def _plain(checkpoint: Checkpoint, out: Path, kind: str, digest: str) -> dict[str, Any]:
    total = sum(header(checkpoint.tensors, name).nbytes for name in checkpoint.tensors)
    with track(f"export: GGUF {kind}", total) as advance:
        told = gguf_write.write(checkpoint, out, kind, advance)
    if told["exact"] and fingerprint(gguf.read(out).tensors) != digest:
        refuse(
            "fingerprint-mismatch",
            f"what {out} holds, read again, is not what was written to it",
            "export again; if it stays, check the disk and the memory",
            out,
        )
    return told


def _look_at_tokenizer(checkpoint: Checkpoint, files: Mapping[str, bytes], findings: Findings) -> int:
    """Refuse a model that llama.cpp could not run for want of a tokenizer; warn of tokens that it cuts otherwise."""
    if not TOKENIZERS & set(files):
        findings.problem(
            "tokenizer-mismatch",
            f"{checkpoint.path} has no tokenizer; llama.cpp cannot run without one",
            "copy tokenizer.json (or tokenizer.model) and tokenizer_config.json beside the weights",
            checkpoint.path,
        )
    if gguf_tokenizer_write.chat_template(files) is None:
        findings.warn(
            "tokenizer-mismatch",
            f"{checkpoint.path} has no chat template; llama.cpp will take ChatML",
            "put the template into chat_template.jinja beside the model",
            checkpoint.path,
        )
    if "tokenizer.json" not in files:
        return 0
    return overlaps.warn(json.loads(files["tokenizer.json"]), str(checkpoint.path), findings)


def _tell_fallback(kind: str, types: Mapping[str, int], checkpoint: Checkpoint, findings: Findings) -> None:
    """Warn where hardly any tensor has the type asked for, because no block of it divides the rows."""
    family = kind.rsplit("_", 1)[0] if kind.endswith(("_S", "_M", "_L")) else kind
    if kind in ("F32", "F16", "BF16") or types.get(family, 0) * 2 > sum(n for t, n in types.items() if t != "F32"):
        return
    width = header(checkpoint.tensors, "model.embed_tokens.weight").shape[-1]
    stored = ", ".join(f"{n} × {t}" for t, n in types.items())
    findings.warn(
        "config-mismatch",
        f"{checkpoint.path}: rows of {width} are no whole blocks of {family}; stored as {stored}",
        "Q8_0 or Q5_1, whose blocks are of 32, suit this model",
        checkpoint.path,
    )
