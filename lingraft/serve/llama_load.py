"""What llama.cpp is told when a model is loaded: threads, context, stretched positions, adapters, a draft."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.serve.engine import DEFAULT_CONTEXT, Options
from lingraft.serve.gguf_facts import Facts

EMBEDDED = 2048  # tokens of a text that is embedded: they are read in one go


@dataclass(frozen=True)
class Load:
    """One GGUF to load."""

    gguf: Path
    loras: list[Path]
    options: Options
    context: int
    facts: Facts
    draft: Path | None
    embedding: bool


def parameters(load: Load, folder: Path) -> Any:
    """Return xllamacpp's CommonParams for a model."""
    import xllamacpp

    options = load.options
    params = xllamacpp.CommonParams()
    params.model.path = str(load.gguf)
    params.hostnames = [str(folder / "s.sock") if hasattr(socket, "AF_UNIX") else "127.0.0.1"]
    params.port, params.api_keys, params.ui, params.verbosity = 0, [secrets.token_hex(32)], False, -1
    params.endpoint_metrics = True  # asked once, at the start
    params.cache_ram_mib = 0  # a store of old prompts that grows up to 8 GB; a slot's own prompt is reused all the same
    slots = 1 if load.embedding else options.concurrency
    params.n_parallel, params.n_ctx = slots, load.context * slots
    threads = options.threads or _cores()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in load.loras]
    params.lora_init_without_apply = True
    if options.bits == 32:  # as exact as transformers: nothing is kept or multiplied in 16 bits
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    _stretch(params, load)
    if load.embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = min(load.context, EMBEDDED)
    elif load.draft is not None:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = str(load.draft)
    return params


def _stretch(params: Any, load: Load) -> None:
    """Stretch positions where the context is longer than the model was trained for."""
    import xllamacpp

    facts, kinds = load.facts, xllamacpp.llama_rope_scaling_type
    factor = load.context / facts.context
    if factor <= 1:
        return
    if load.options.rope == "ntk":
        params.rope_freq_base = facts.theta * factor ** (facts.width / (facts.width - 2))
        return
    params.rope_freq_scale = 1 / factor
    params.yarn_orig_ctx = facts.context
    params.rope_scaling_type = (
        kinds.LLAMA_ROPE_SCALING_TYPE_YARN if load.options.rope == "yarn" else kinds.LLAMA_ROPE_SCALING_TYPE_LINEAR
    )


def context_for(facts: Facts, options: Options) -> int:
    """Return the context asked for; else what model and memory allow: a quarter of what is free, for all answers."""
    import psutil

    if options.context is not None:
        return options.context
    room = psutil.virtual_memory().available // 4 // max(facts.token_bytes * options.concurrency, 1)
    return min(facts.context, DEFAULT_CONTEXT, max(512, int(room) // 256 * 256))


def _cores() -> int:
    """Return the physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(psutil.cpu_count(logical=False) or allowed), allowed))
