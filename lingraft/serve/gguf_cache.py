"""A GGUF for whatever a user names: the file itself, or one converted once and kept.

The cached file lies under the fingerprints of everything inside it (base, adapters, tokenizer, config) and its type,
so that a changed model is converted anew and a moved one is found again. Those used longest ago go when there are too
many (`cache.prune`).
"""

from __future__ import annotations

import json
from pathlib import Path

from blake3 import blake3

from lingraft import models
from lingraft.cache import cache, prune, touch
from lingraft.merge.lineage import adapter_fingerprint
from lingraft.merge.merged import merged
from lingraft.merge.run import open_base
from lingraft.output import output_file, require_space
from lingraft.problems import Findings
from lingraft.progress import say, track
from lingraft.serve.suits import base_fingerprint
from lingraft.weights import gguf_write
from lingraft.weights.convert import nbytes
from lingraft.weights.gguf_header import is_gguf
from lingraft.weights.tensors import Checkpoint

TYPES = {None: "Q8_0", 4: "Q4_0", 8: "Q8_0", 16: "F16", 32: "F32"}
VERSION = 1  # raise it when the writer changes: older files are then never found


def gguf_for(stack: models.Stack, bits: int | None, findings: Findings) -> Path:
    """Return a GGUF of base and adapters, converting where there is none yet.

    Errors: everything that refuses a merge or a conversion; `no-space`.
    """
    if not stack.adapters and is_gguf(stack.base):
        return stack.base
    kind = TYPES[bits]
    base = open_base(stack.base)
    target = folder() / f"{_key(base, stack.adapters, kind)}.gguf"
    if target.is_file():
        touch(target)
        return target
    checkpoint = merged(base, list(stack.adapters), findings) if stack.adapters else base
    findings.settle()
    target.parent.mkdir(parents=True, exist_ok=True)
    size = nbytes(checkpoint.tensors)
    require_space(target, size)
    say(f"converting {models.label(stack)} to GGUF {kind}, once; kept as {target}")
    with output_file(target, overwrite=True) as partial, track("convert", size) as advance:
        gguf_write.write(checkpoint, partial, kind, advance)
    prune(folder().glob("*.gguf"))
    return target


def _key(base: Checkpoint, adapters: tuple[Path, ...], kind: str) -> str:
    """Digest everything that goes into a GGUF."""
    beside = [
        base.side_content(),
        *({f.name: f.read_bytes() for f in sorted(a.iterdir()) if _tells(f)} for a in adapters),
    ]
    told = [
        VERSION,
        kind,
        base_fingerprint(base.path),
        [adapter_fingerprint(a) for a in adapters],
        dict(base.config),
        [{name: blake3(content).hexdigest() for name, content in files.items()} for files in beside],
    ]
    return blake3(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:40] + f"-{kind}"


def _tells(file: Path) -> bool:
    """Tell whether an adapter's file says how it is applied or read, other than its tensors and papers."""
    return file.is_file() and file.suffix not in (".safetensors", ".bin", ".md", ".pt") and file.name != "manifest.json"


def folder() -> Path:
    """Return where converted models are kept."""
    return cache("gguf")
