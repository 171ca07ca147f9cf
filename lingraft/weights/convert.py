"""Convert any readable checkpoint to any writable format, and check what was written by reading it again.

lingraft convert SRC DST --to hf|gguf|meta|llama2c|adapter|state_dict
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lingraft.output import check_free, output_directory, output_file, require_space
from lingraft.problems import Findings, refuse
from lingraft.progress import Advance, track
from lingraft.weights import adapter, adapter_state, gguf_write, hf, llama2c_write, meta_write
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import module, open_checkpoint
from lingraft.weights.peft_names import is_peft_state
from lingraft.weights.safetensors import DTYPES
from lingraft.weights.state_dict_write import write as write_state_dict
from lingraft.weights.tensors import Checkpoint, Lazy, Weights, header
from lingraft.weights.tied import EMBEDDING, drop_tied_head

ALIASES = {
    "hf-model": "hf",
    "peft-adapter": "adapter",
    "meta-checkpoint": "meta",
    "state-dict": "state_dict",
    "safetensors": "hf",
}
FLOATS = {name: DTYPES[name] for name in ("F32", "F16", "BF16")}


@dataclass(frozen=True)
class Job:
    """What is asked of a writer."""

    dst: Path
    kind: str | None  # gguf: a type; hf: a dtype; llama2c: v0, v1, v2
    shards: int | None
    findings: Findings
    advance: Advance


Writer = Callable[[Checkpoint, Path, Job], dict[str, Any]]


def convert(
    src: Path,
    dst: Path,
    to: str,
    findings: Findings,
    overwrite: bool = False,
    type: str | None = None,
    shards: int | None = None,
) -> dict[str, Any]:
    """Convert ``src`` to the format ``to`` at ``dst``.

    Returns {"out", "format", "tensors", "bytes", "fingerprint", "exact", "seconds"} and what the writer adds;
    ``exact`` tells whether the result holds the same tensors bit for bit, which was checked by reading it again.
    Errors: those of the reader and the writer, `output-exists`, `no-space`, `unknown-format`, and
    `fingerprint-mismatch` where a conversion that loses nothing does not read back as it was written.
    """
    started = time.monotonic()
    name = ALIASES.get(to, to)
    if name not in WRITERS:
        refuse("unknown-format", f"{to!r} is not a format that lingraft writes", f"use one of {', '.join(WRITERS)}")
    writer, place = WRITERS[name]
    check_free(dst, overwrite, [src])
    checkpoint = _fitting(open_checkpoint(src), name, findings)
    findings.settle()
    total = nbytes(checkpoint.tensors)
    with place(dst, overwrite) as partial:
        require_space(dst, _output_bytes(checkpoint.tensors, type, name))
        with track(f"convert to {name}", total) as advance:
            told = writer(checkpoint, partial, Job(dst, type, shards, findings, advance))
        findings.settle()
        files = [f for f in partial.rglob("*") if f.is_file()] if partial.is_dir() else [partial]
        if "fingerprint" not in told:
            told["fingerprint"] = fingerprint(module(name).read(partial).tensors)
        if told["exact"] and told["fingerprint"] != fingerprint(checkpoint.tensors):
            refuse(
                "fingerprint-mismatch",
                f"what {dst} holds, read again, is not what was written to it",
                "convert again; if it stays, check the disk and the memory",
                dst,
            )
        size = sum(file.stat().st_size for file in files)
    if name == "llama2c":
        told |= _tokenizer_beside(checkpoint, dst, findings)
    return {
        "out": str(dst),
        "format": name,
        "tensors": len(checkpoint.tensors),
        "bytes": size,
        **told,
        "seconds": round(time.monotonic() - started, 3),
    }


def nbytes(weights: Weights) -> int:
    """Return how many bytes the tensors take as they are."""
    return sum(header(weights, name).nbytes for name in weights)


def _fitting(checkpoint: Checkpoint, to: str, findings: Findings) -> Checkpoint:
    """Hold what was read against the format asked for: adapters stay adapters, models stay models."""
    whole_state = is_peft_state(checkpoint.tensors)
    if to == "adapter":
        if checkpoint.format != "adapter" and not whole_state:
            refuse(
                "unsupported-adapter",
                f"{checkpoint.path} holds no adapter",
                "use `lingraft extract` to make one",
                checkpoint.path,
            )
        return checkpoint if checkpoint.format == "adapter" else adapter_state.adapter_of(checkpoint)
    if to != "state_dict" and (checkpoint.format == "adapter" or whole_state):
        refuse(
            "unsupported-adapter",
            f"{checkpoint.path} is an adapter, not a model",
            "merge it into its base first (`lingraft merge BASE ADAPTER`), or convert --to adapter",
            checkpoint.path,
        )
    if to != "state_dict" and not checkpoint.config:
        findings.warn(
            "config-mismatch",
            f"{checkpoint.path} has no config.json",
            "run `lingraft adopt` to make one",
            checkpoint.path,
        )
    if to not in ("hf", "state_dict") and not checkpoint.config:
        refuse(
            "config-mismatch",
            f"{to} needs the model's config, and {checkpoint.path} has none",
            "run `lingraft adopt` first",
            checkpoint.path,
        )
    kept = {name: header(checkpoint.tensors, name) for name in drop_tied_head(checkpoint.tensors, checkpoint.config)}
    return replace(checkpoint, tensors=Lazy(kept))


def _output_bytes(weights: Weights, kind: str | None, name: str) -> int:
    """Return about how many bytes the output takes; a quantised one at most as many as the tensors as they are."""
    wide = kind == "F32" or (name == "llama2c" and kind in (None, "v0", "v1"))
    if not wide:
        return nbytes(weights) if kind in (None, "F16", "BF16") else nbytes(weights) // 2
    return sum(header(weights, n).nbytes // header(weights, n).dtype.itemsize * 4 for n in weights)


def _tokenizer_beside(checkpoint: Checkpoint, dst: Path, findings: Findings) -> dict[str, str]:
    rows = header(checkpoint.tensors, EMBEDDING).shape[0]
    out = dst.with_name(f"{dst.name.removesuffix('.bin')}.tok{rows}.bin")
    if llama2c_write.write_tokenizer(checkpoint, out):
        return {"tokenizer": str(out)}
    findings.warn(
        "tokenizer-mismatch",
        f"{checkpoint.path} has no SentencePiece tokenizer; llama2.c can use no other",
        "the model runs on token ids alone",
        checkpoint.path,
    )
    return {}


def _hf(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    cast = _float(job.kind)
    size = -(-nbytes(checkpoint.tensors) // job.shards) if job.shards else 5_000_000_000
    if cast is None:
        return {"fingerprint": hf.write(checkpoint, out, size, progress=job.advance).fingerprint, "exact": True}
    config = {**checkpoint.config, "torch_dtype": str(cast).removeprefix("torch.")} if checkpoint.config else {}
    config.pop("dtype", None)

    def to_cast(_: str, dtype: torch.dtype) -> torch.dtype:
        return cast if dtype.is_floating_point else dtype

    written = hf.write(replace(checkpoint, config=config), out, size, to_cast, job.advance)
    same = {header(checkpoint.tensors, name).dtype for name in checkpoint.tensors} <= {cast}
    return {"fingerprint": written.fingerprint, "exact": same, "type": job.kind}


def _float(kind: str | None) -> torch.dtype | None:
    if kind is None:
        return None
    if kind not in FLOATS:
        refuse("unknown-format", f"{kind!r} is not a dtype to store here", f"use one of {', '.join(FLOATS)}")
    return FLOATS[kind]


def _adapter(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    return {"fingerprint": adapter.write(checkpoint, out, job.advance), "exact": True}


def _gguf(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    if not {"tokenizer.json", "tokenizer.model", "merges.txt"} & set(checkpoint.side_content()):
        job.findings.warn(
            "tokenizer-mismatch",
            f"{checkpoint.path} has no tokenizer; llama.cpp cannot run without one",
            "copy the model's tokenizer beside its weights and convert again",
            checkpoint.path,
        )
    return gguf_write.write(checkpoint, out, job.kind, job.advance)


def _meta(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    return {**meta_write.write(checkpoint, out, job.shards or 1, job.advance), "exact": True}


def _llama2c(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    version = {None: 0, "v0": 0, "v1": 1, "v2": 2, "F32": 1, "Q8_0": 2}.get(job.kind)
    if version is None:
        refuse("unknown-format", f"llama2.c has no type {job.kind!r}", "use v0, v1 (fp32) or v2 (Q8_0)")
    return llama2c_write.write(checkpoint, out, version, findings=job.findings, progress=job.advance)


def _state_dict(checkpoint: Checkpoint, out: Path, job: Job) -> dict[str, Any]:
    write_state_dict(checkpoint.tensors, out, job.dst.suffix, job.advance)
    return {"exact": True}


Place = Callable[[Path, bool], AbstractContextManager[Path]]
WRITERS: dict[str, tuple[Writer, Place]] = {
    "hf": (_hf, output_directory),
    "gguf": (_gguf, output_file),
    "meta": (_meta, output_directory),
    "llama2c": (_llama2c, output_file),
    "adapter": (_adapter, output_directory),
    "state_dict": (_state_dict, output_file),
}
