"""Look at a model: a Hugging Face folder, a bare state dict, a tokenizer, or nothing that is known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.weights.fits import (
    check_config,
    check_tokenizer,
    check_vocabulary,
    embedding_of,
    head_of,
    text_config,
)
from lingraft.weights.foreign import below, foreign
from lingraft.weights.headers import PICKLES, Header, refuse_pointer
from lingraft.weights.json_file import read_json
from lingraft.weights.kinds import TOKENIZER_FILES, has_model, kind_of, names_in
from lingraft.weights.peft_names import is_peft_state
from lingraft.weights.shards import Read, check_index, few, shards_of
from lingraft.weights.tokenizer_size import size_of_file, tokenizer_of

BUFFERS = ("inv_freq", "masked_bias", "rope.freqs", "rope_freqs.weight")
TORCHTUNE = re.compile(r"(?:hf_model_\d{4}|meta_model)_(\d+)\.pt")
INTEGERS = ("I64", "I32", "I16", "U64", "U32", "U16", "BOOL")


@dataclass(frozen=True)
class Facts:
    """What looking at one artefact told: the contract's fields."""

    tensors: int = 0
    parameters: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)  # parameters by dtype
    architecture: str | None = None
    vocab_size: int | None = None
    tokenizer_size: int | None = None
    tied: bool | None = None
    adapter: Mapping[str, Any] | None = None


def count(headers: Mapping[str, Header], tied_head: bool = False) -> Facts:
    """Count tensors and parameters: a storage that several names share once, buffers and a tied head not at all."""
    dtypes: Counter[str] = Counter()
    seen: set[tuple[str, tuple[int, ...]]] = set()
    head = head_of(headers) if tied_head and embedding_of(headers) else None
    for name, item in headers.items():
        if name.endswith(BUFFERS) or name == head or (item.shared and (item.shared, item.shape) in seen):
            continue
        seen.add((item.shared, item.shape))
        dtypes[item.dtype] += item.count
    parameters = sum(n for dtype, n in dtypes.items() if dtype not in INTEGERS)
    return Facts(tensors=len(headers), parameters=parameters, dtypes=dict(dtypes))


def note_empty(path: Path, headers: Mapping[str, Header], findings: Findings) -> None:
    """Note `empty-tensor` where tensors have a dimension of 0, as a save under ZeRO-3 without gathering leaves them."""
    empty = [name for name, item in headers.items() if 0 in item.shape]
    if empty:
        findings.problem(
            "empty-tensor",
            f"{path}: {len(empty)} of {len(headers)} tensors hold nothing (shape "
            f"{list(headers[empty[0]].shape)}): {few(empty)}",
            "save again with the parameters gathered "
            "(ZeRO-3: stage3_gather_16bit_weights_on_model_save), or take them out of the DeepSpeed state",
            path,
            empty[0],
        )


def look_at_model(folder: Path, read: Read, findings: Findings) -> Facts:
    """Look at a Hugging Face model folder, or one without a config.json."""
    shards = shards_of(folder, findings)
    check_index(shards, read, findings)
    headers = {name: item for file in shards.files for name, item in read(file).items()}
    config = config_of(folder, findings)
    if not shards.files and not shards.missing:
        findings.problem("missing-shard", f"{folder} has a config.json and no weights", "download the weights", folder)
    note_empty(folder, headers, findings)
    _note_other_results(folder, findings)
    if is_peft_state(headers):
        findings.problem(
            "unsupported-adapter",
            f"{folder} holds a base and its adapter under the names of the live model, as accelerate's save_state "
            "leaves them: nothing loads it as a model",
            f"lingraft convert {folder} DIR --to adapter (with the run's adapter_config.json in it or above it)",
            folder,
        )
    elif config is None:
        findings.problem(
            "config-mismatch",
            f"{folder} has weights and no readable config.json",
            "copy it from the model's source, or run `lingraft adopt` to infer it",
            folder / "config.json",
        )
    whole = bool(headers) and not shards.missing and all(read(file) for file in shards.files)
    config = config or {}
    if whole and config:
        check_config(folder / "config.json", config, headers, findings)
        check_vocabulary(folder / "config.json", config, headers, findings)
    return _finish(folder, config, headers, findings)


def _note_other_results(folder: Path, findings: Findings) -> None:
    """Warn where torchtune wrote its results (hf_model_0001_0.pt) among the files of the base."""
    results = sorted((int(m[1]), name) for name in names_in(folder) if (m := TORCHTUNE.fullmatch(name)))
    if results:
        findings.warn(
            "unknown-format",
            f"{folder / results[-1][1]} is torchtune's result of epoch {results[-1][0]}; the weights that load from "
            "this folder are those it started from",
            "move the result into a folder of its own with config.json and tokenizer, and use that one",
            folder / results[-1][1],
        )


def _finish(folder: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> Facts:
    tied = _tied(folder, config, headers, findings)
    tokenizer = tokenizer_of(folder, findings)
    name = embedding_of(headers)
    rows = headers[name].shape[0] if name is not None and len(headers[name].shape) == 2 else None
    if tokenizer is not None and name is not None and rows is not None:
        check_tokenizer(tokenizer.file, tokenizer.size, rows, name, findings)
    size = text_config(config).get("vocab_size")
    architectures = config.get("architectures")
    return replace(
        count(headers, tied_head=bool(tied)),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        vocab_size=size if isinstance(size, int) else rows,
        tokenizer_size=tokenizer.size if tokenizer else None,
        tied=tied,
    )


def _tied(folder: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> bool | None:
    """Tell whether the head is the embedding; a causal model without a head of its own can only be tied."""
    embedding, head = embedding_of(headers), head_of(headers)
    said = config.get("tie_word_embeddings", text_config(config).get("tie_word_embeddings"))
    causal = any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in config.get("architectures") or [])
    if embedding is None or (head is None and not causal and said is None):
        return None
    if head is None:
        if said is False and causal:
            findings.problem(
                "config-mismatch",
                f"{folder / 'config.json'} says tie_word_embeddings false; no tensor "
                "is a head: it would start at random",
                "set tie_word_embeddings to true, or add lm_head.weight",
                folder / "config.json",
                "lm_head.weight",
            )
        return True
    one = bool(headers[head].shared) and headers[head].shared == headers[embedding].shared
    if said is True and not one:
        findings.warn(
            "tied-head-conflict",
            f"{folder / 'config.json'} ties the head to the embedding, yet {head} is "
            "saved apart: loaders differ in which they take",
            "run `lingraft inspect --fingerprint`, or set tie_word_embeddings to what was trained",
            folder / "config.json",
            head,
        )
    return bool(said) if said is not None else one


def config_of(folder: Path, findings: Findings, name: str = "config.json") -> dict[str, Any] | None:
    """Read a folder's config, or None where there is none; an unreadable one is a `corrupt-file`."""
    if not (folder / name).is_file():
        return None
    try:
        return read_json(folder / name)
    except Refusal as refusal:
        findings.absorb(refusal)
        return None


def look_at_state_dict(path: Path, read: Read, findings: Findings) -> Facts:
    """Look at one weight file, or at a folder of weight files that no config describes."""
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in (".safetensors", *PICKLES))
    headers = {name: item for file in files for name, item in read(file).items()} or _distributed(path, findings)
    note_empty(path, headers, findings)
    name, head = embedding_of(headers), head_of(headers)
    rows = headers[name].shape[0] if name and headers[name].shape else None
    tokenizer = tokenizer_of(path, findings) if path.is_dir() else None
    if tokenizer and name and rows is not None:
        check_tokenizer(tokenizer.file, tokenizer.size, rows, name, findings)
    return replace(
        count(headers),
        vocab_size=rows,
        tokenizer_size=tokenizer.size if tokenizer else None,
        tied=None if name is None else head is None,
    )


def _distributed(path: Path, findings: Findings) -> dict[str, Header]:
    """Return the headers of torch's distributed checkpoint, or none where a path is something else."""
    if not path.is_dir() or not (path / ".metadata").is_file():
        return {}
    from lingraft.weights import dcp  # brings torch, which nothing else here needs
    from lingraft.weights.safetensors import DTYPE_NAMES
    from lingraft.weights.tensors import header

    try:
        tensors = dcp.read(path).tensors
    except Refusal as refusal:
        findings.absorb(refusal)
        return {}
    entries = ((name, header(tensors, name)) for name in tensors)
    return {name: Header(DTYPE_NAMES[e.dtype], e.shape, e.nbytes) for name, e in entries}


def look_at_tokenizer(path: Path, _: Read, findings: Findings) -> Facts:
    """Look at a tokenizer file or a folder with nothing else."""
    try:
        found = tokenizer_of(path, findings) if path.is_dir() else None
        size = size_of_file(path) if path.is_file() else found.size if found else None
    except Refusal as refusal:
        findings.absorb(refusal)
        size = None
    return Facts(tokenizer_size=size, vocab_size=size)


def look_at_unknown(path: Path, _: Read, findings: Findings) -> Facts:
    """Say that a path is nothing known; a pointer or an empty file says why."""
    try:
        if path.is_file():
            refuse_pointer(path)
    except Refusal as refusal:
        findings.absorb(refusal)
        return Facts()
    if path.is_dir() and has_model(names_in(path)):
        return Facts()
    told, nearby = foreign(path), below(path) if path.is_dir() else []
    known = ", ".join((*TOKENIZER_FILES[:2], "*.safetensors", "*.bin", "*.gguf", "adapter_config.json"))
    what = "holds no weights, adapter or tokenizer that lingraft knows"
    remedy = f"give a path with {known}"
    if path.is_file() and path.stat().st_size == 0:
        what = "is empty"
    elif told:
        what = f"is {told[0]}, which lingraft does not read"
        remedy = told[1]
    elif path.is_file() and kind_of(path.parent) != "unknown":
        remedy = f"name the folder that it belongs to: {path.parent}"
    elif nearby:
        what = f"holds {len(nearby)} things and is none itself: {few([f'{p} ({kind})' for p, kind in nearby], 8)}"
        remedy = "name the one that you mean"
    findings.problem("unknown-format", f"{path} {what}", remedy, path)
    return Facts()
