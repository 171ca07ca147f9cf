"""GGUF adapters for llama.cpp out of peft's: small files beside a shared base, made once and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from lingraft.cache import touch
from lingraft.export import adapter as gguf_adapter
from lingraft.export.source import open_source
from lingraft.merge.lineage import adapter_fingerprint, home
from lingraft.output import output_file
from lingraft.problems import Findings, Refusal
from lingraft.serve.gguf_cache import VERSION, folder
from lingraft.weights.hf import read_json

CANNOT = {"unsupported-adapter", "unknown-format"}  # what a GGUF adapter has no place for


def loras_for(base: Path, below: Sequence[Path], chain: Sequence[Path], findings: Findings) -> tuple[Path, ...] | None:
    """Return one GGUF adapter for each of a chain, or None where one of them is more than low-rank matrices.

    Errors: everything else that refuses a merge of this chain on this base.
    """
    made = []
    for number in range(len(chain)):
        try:
            made.append(_one(base, [*below, *chain[: number + 1]], findings))
        except Refusal as refusal:
            if {p.code for p in refusal.problems} <= CANNOT:
                return None
            raise
    return tuple(made)


def _one(base: Path, adapters: Sequence[Path], findings: Findings) -> Path:
    last = adapters[-1]
    told = [
        VERSION,
        adapter_fingerprint(last),
        read_json(home(last) / "adapter_config.json"),
        read_json(base / "config.json"),
    ]
    target = folder() / f"{blake3(json.dumps(told, sort_keys=True).encode()).hexdigest()[:40]}-lora.gguf"
    if target.is_file():
        touch(target)
        return target
    looking = Findings(findings.allow)  # what it lacks as a file of its own (its chain) is given to llama.cpp beside it
    made = gguf_adapter.plan(open_source(base, None, list(adapters), looking), looking)
    target.parent.mkdir(parents=True, exist_ok=True)
    with output_file(target, overwrite=True) as partial:
        gguf_adapter.write(made, partial, "F32")
    return target
