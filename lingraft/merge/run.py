"""`lingraft merge BASE ADAPTER [ADAPTER…] --out DIR`: adapters into the base, in the order given.

The result is written beside its final name and renamed at the end; `manifest.json` beside the weights is the receipt.
The base is fingerprinted while it is merged: a base that the adapters' lineage does not know is refused at the end at
the latest, and nothing is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lingraft.merge import order
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Tied
from lingraft.merge.memory import Peak
from lingraft.merge.merged import Merged, Onto, decide
from lingraft.merge.receipt import FILE, Cost, Pace, manifest
from lingraft.output import check_free, output_directory, require_space, write_json
from lingraft.problems import Findings, refuse
from lingraft.progress import Advance, track
from lingraft.sizes import parse_size
from lingraft.weights import hf
from lingraft.weights.fingerprint import Listing, fingerprint, listing
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.stream import single_threaded
from lingraft.weights.tensors import Checkpoint, header

# Beside a quantised matrix: bitsandbytes, GPTQ and AWQ, FP8 (DeepSeek's and compressed-tensors'), HQQ.
PACKED = (".absmax", ".SCB", ".qweight", ".weight_scale_inv", ".weight_scale", ".weight_packed", ".W_q")
DTYPES = {"keep": None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def merge(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    dtype: str = "keep",
    shard_size: str = "5GB",
    to: str = "hf",
    tied: Tied = "auto",
    onto: Onto = "original",
    overwrite: bool = False,
    findings: Findings,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Merge adapters into a base and return `out`, `applied`, `fingerprint`, `seconds`, `peak_memory`.

    ``dtype`` is keep, float32, float16 or bfloat16; ``shard_size`` a size such as 5GB. Errors: see the problem codes
    of `decide`, and `no-space`, `output-exists`, `non-finite` for a value that the dtype cannot hold.
    """
    started = time.monotonic()
    cast, size, place = dtype_named(dtype), _shard_size(shard_size), _place(to)
    check_free(out, overwrite, (base, *adapters))
    checkpoint = open_base(base)
    read = [read_adapter(path, findings) for path in adapters]
    with Peak() as peak, single_threaded():
        decided = decide(checkpoint, read, findings, tied, onto)
        result = _stored(decided, cast)
        total = sum(header(result.tensors, name).nbytes for name in result.tensors)
        require_space(out, total + sum(file.stat().st_size for file in result.side_files))
        with place(out, overwrite) as partial:
            with _fingerprinting(checkpoint, total) as (base_digest, advance):
                written = (
                    hf.write(result, partial, size, progress=advance)
                    if to == "hf"
                    else _convert(result, partial, to, out, findings, advance)
                )
            _check_base(base, decided, read, base_digest.result(), findings)
            cost = Cost(round(time.monotonic() - started, 3), peak.bytes)
            choices = {"dtype": dtype, "shard_size": shard_size, "to": to, "tied": tied, "onto": onto}
            told = manifest(
                decided, read, base, base_digest.result(), result.tensors, written, choices, command, cost, findings
            )
            if partial.is_dir():
                write_json(partial / FILE, told)
    if out.is_file():
        write_json(out.with_name(f"{out.name}.{FILE}"), told)
    return {
        "out": str(out),
        "applied": list(decided.model.applied),
        "fingerprint": written.fingerprint,
        "seconds": cost.seconds,
        "peak_memory": cost.peak_memory,
    }


def _stored(decided: Merged, dtype: torch.dtype | None) -> Checkpoint:
    """Return the result in the dtype to store, with a config that says so."""
    config = dict(decided.checkpoint.config)
    if dtype is not None and config:
        for field in {"torch_dtype", "dtype"} & config.keys() or {"dtype"}:  # an older and a newer name of one thing
            config[field] = str(dtype).removeprefix("torch.")
    return replace(decided.checkpoint, tensors=decided.cast(dtype), config=config)


def _place(to: str) -> Callable[[Path, bool], AbstractContextManager[Path]]:
    """Return how the output of a format comes into place. Error: `unknown-format`."""
    if to == "hf":
        return output_directory
    from lingraft.weights.convert import ALIASES, WRITERS

    kind = ALIASES.get(to, to)
    if kind not in WRITERS or kind == "adapter":
        refuse("unknown-format", f"a merged model is not written as {to!r}", f"use one of {', '.join(WRITERS)}")
    return WRITERS[kind][1]


def _convert(result: Checkpoint, partial: Path, to: str, out: Path, findings: Findings, advance: Advance) -> Listing:
    """Write another format than Hugging Face's and return the digests of the weights."""
    from lingraft.weights.convert import ALIASES, WRITERS, Job

    WRITERS[ALIASES.get(to, to)][0](result, partial, Job(out, None, None, findings, advance))
    findings.settle()
    return listing(result.tensors)


def open_base(base: Path) -> Checkpoint:
    """Open a base of any readable format lazily; an adapter is no base."""
    beside = (base / "config.json").is_file() and hf.has_weights(base)  # a model, also where an adapter lies beside it
    checkpoint = hf.read(base) if beside or hf.knows(base) else open_checkpoint(base)
    packed = [n for n in checkpoint.tensors if n.endswith(PACKED)]
    if packed:
        refuse(
            "unknown-format",
            f"{base} holds quantised weights ({packed[0]}); a merge needs the weights they were made from",
            "take the unquantised model",
            base,
            packed[0],
        )
    if checkpoint.format == "adapter":
        refuse(
            "unknown-format",
            f"{base} is an adapter, not a model",
            "name the base first: lingraft merge BASE ADAPTER",
            base,
        )
    return checkpoint


def dtype_named(name: str) -> torch.dtype | None:
    """Return the dtype to store, None for keep. Error: `recipe-invalid`."""
    if name not in DTYPES:
        refuse("recipe-invalid", f"dtype {name!r} is none of {', '.join(DTYPES)}", "choose one of them")
    return DTYPES[name]


def _shard_size(text: str) -> int:
    """Return a shard's size in bytes. Error: `recipe-invalid`."""
    try:
        return parse_size(text)
    except ValueError:
        refuse("recipe-invalid", f"shard size {text!r} is no size", "write it as 5GB, 500MB or 2GiB")


@contextmanager
def _fingerprinting(base: Checkpoint, total: int) -> Iterator[tuple[Future[str], Any]]:
    """Fingerprint the base in a thread of its own, just ahead of the one that writes, and show how far that is."""
    pace = Pace()
    with ThreadPoolExecutor(1) as pool, track("merge", total) as advance:

        def written(nbytes: int) -> None:
            advance(nbytes)
            pace.worked(nbytes)

        future = pool.submit(fingerprint, base.tensors, pace.read)
        try:
            yield future, written
        finally:
            pace.finish()


def _check_base(base: Path, decided: Merged, adapters: Sequence[Adapter], found: str, findings: Findings) -> None:
    """Hold the base's fingerprint, known only now, against its own receipt and what the adapters were trained on."""
    recorded = decided.inside.fingerprint
    if recorded not in (None, found):
        findings.problem(
            "fingerprint-mismatch",
            f"{base} is not what its {FILE} says: its weights are {found[:12]}, the receipt says {str(recorded)[:12]}",
            "restore the base, or delete the stale receipt",
            base / FILE,
        )
    known = replace(decided.inside, fingerprint=found)
    given = [order.Given(a.path, f, a.lineage) for a, f in zip(adapters, decided.fingerprints, strict=True)]
    order.check(base, known, given, findings)
    findings.settle()
