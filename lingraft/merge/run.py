"""`lingraft merge BASE ADAPTER [ADAPTER…] --out DIR`: adapters into the base, in the order given.

The result is written beside its final name and renamed at the end; `manifest.json` beside the weights is the receipt.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lingraft.merge.adapter import read_adapter
from lingraft.merge.lineage import versions
from lingraft.merge.ends import Tied
from lingraft.merge.merged import decide
from lingraft.output import check_free, output_directory, require_space, write_json
from lingraft.problems import Findings, refuse
from lingraft.progress import track
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.tensors import header

MANIFEST = "manifest.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def merge(
    base: Path,
    adapters: Sequence[Path],
    out: Path,
    *,
    dtype: str = "keep",
    shard_size: str = "5GB",
    to: str = "hf",
    tied: Tied = "auto",
    onto: Literal["original", "dequantised"] = "original",
    overwrite: bool = False,
    findings: Findings,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Merge adapters into a base and return `out`, `applied`, `fingerprint`, `seconds`, `peak_memory`."""
    started = time.monotonic()
    check_free(out, overwrite)
    checkpoint = hf.read(base) if hf.knows(base) else open_checkpoint(base)
    read = [read_adapter(path, findings) for path in adapters]
    decided = decide(checkpoint, read, findings, tied)
    result = decided.checkpoint
    wanted = DTYPES.get(dtype)
    total = sum(header(result.tensors, name).nbytes for name in result.tensors)
    require_space(out, total)
    with output_directory(out, overwrite) as partial, track("merge", total) as advance:
        digest = hf.write(result, partial, parse_size(shard_size),
                          lambda _, kept: wanted if wanted and kept.is_floating_point else kept, advance)
        answer = {"out": str(out), "applied": list(decided.model.applied), "fingerprint": digest,
                  "seconds": round(time.monotonic() - started, 3), "peak_memory": _peak()}
        write_json(partial / MANIFEST, {
            "schema": 1, "base": {"path": str(base), "fingerprint": fingerprint(checkpoint.tensors)},
            "adapters": [{"path": str(a.path), "fingerprint": f} for a, f in zip(read, decided.fingerprints, strict=True)],
            "fingerprint": digest, "applied": list(decided.model.applied), "versions": versions(), "command": list(command),
            "seconds": answer["seconds"], "peak_memory": answer["peak_memory"],
            "allowed": [p.as_json() for p in findings.allowed],
        })  # fmt: skip
    return answer


def parse_size(text: str) -> int:
    """Return a size such as 5GB, 500MB or 2GiB in bytes. Error: `recipe-invalid`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?B|)\s*", text.upper())
    if not found or float(found[1]) <= 0:
        refuse("recipe-invalid", f"shard size {text!r} is no size", "write it as 5GB, 500MB or 2GiB")
    return int(float(found[1]) * UNITS[found[2]])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
