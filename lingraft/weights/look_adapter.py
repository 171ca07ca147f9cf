"""Look at a peft adapter folder: what kind it is, whether it holds what its config promises, and on which base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.weights.fits import check_tokenizer, text_config
from lingraft.weights.foreign import MLX_REMEDY
from lingraft.weights.headers import Header
from lingraft.weights.json_file import read_json
from lingraft.weights.kinds import ADAPTER_FILES
from lingraft.weights.look_model import Facts, config_of, count, note_empty
from lingraft.weights.shards import Read, few
from lingraft.weights.tokenizer_size import tokenizer_of

EMBEDDING = re.compile(
    r"(?:.*\.)?(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)"
    r"(?:\.modules_to_save(?:\.[^.]+)?)?\.weight"
)
HEAD = re.compile(r"(?:.*\.)?(lm_head|embed_out)(?:\.modules_to_save(?:\.[^.]+)?)?\.weight")
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
LORA_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.[^.]+)?")
NOT_LORA = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")


def adapter_file(folder: Path) -> Path | None:
    """Return an adapter's weight file; safetensors before .bin, as peft loads them."""
    return next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)


def look_at_adapter(folder: Path, read: Read, findings: Findings) -> Facts:
    """Look at an adapter folder; problems name what its config promises and its file has not."""
    file = adapter_file(folder)
    if file is None:
        findings.problem(
            "not-found",
            f"{folder} has an adapter_config.json and no adapter_model.safetensors",
            "save the adapter again, or take it from the last checkpoint",
            folder,
        )
    headers = read(file) if file else {}
    config = config_of(folder, findings, "adapter_config.json")
    if config is None and not (folder / "adapter_config.json").is_file():
        findings.problem(
            "config-mismatch",
            f"{folder} has no adapter_config.json: rank scaling and base are unknown",
            "copy it from the checkpoint or the repository that the adapter came from",
            folder / "adapter_config.json",
        )
    elif config is not None and "peft_type" not in config:
        findings.problem(
            "unsupported-adapter",
            f"{folder / 'adapter_config.json'} names no peft_type: it is not peft's",
            MLX_REMEDY if "lora_parameters" in config else "restore the adapter_config.json that peft saved",
            folder / "adapter_config.json",
        )
    if file is not None and _sound(file, headers, findings) and config is not None:
        _check_ranks(file, config, headers, findings)
        _check_promises(file, config, headers, findings)
        _check_tie(folder, config, headers, findings)
    rows = next((h.shape[0] for name, h in headers.items() if EMBEDDING.fullmatch(name) and h.shape), None)
    tokenizer = tokenizer_of(folder, findings)
    if tokenizer is not None:
        _check_tokenizer(tokenizer.file, tokenizer.size, rows, config or {}, headers, findings)
    return replace(
        count(headers),
        vocab_size=rows,
        tokenizer_size=tokenizer.size if tokenizer else None,
        adapter=_described(config or {}),
    )


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    targets = config.get("target_modules")
    return {
        "type": config.get("peft_type"),
        "r": config.get("r"),
        "target_modules": sorted(targets) if isinstance(targets, list) else targets,
        "modules_to_save": config.get("modules_to_save"),
        "base": config.get("base_model_name_or_path"),
    }


def _sound(file: Path, headers: Mapping[str, Header], findings: Findings) -> bool:
    """Tell whether the file has tensors with something in them."""
    if not headers:
        if not any(p.path == str(file) for p in findings.problems):
            findings.problem(
                "empty-tensor",
                f"{file} has {file.stat().st_size:,} bytes and holds no tensor",
                "save the adapter again: peft and ZeRO-3 are known to write such files when the state "
                "dict was not gathered",
                file,
            )
        return False
    note_empty(file, headers, findings)
    return not any(0 in item.shape for item in headers.values())


def _ranks(config: Mapping[str, Any], module: str) -> int | None:
    pattern = config.get("rank_pattern") or {}
    for key, rank in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", module) and isinstance(rank, int):
            return rank
    rank = config.get("r")
    return rank if isinstance(rank, int) else None


def _check_ranks(file: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """Every lora_A wants its lora_B, and both the rank that the config says."""
    sides: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for name, item in headers.items():
        found = LORA.fullmatch(name) or LORA_EMBEDDING.fullmatch(name)
        if found is None:
            continue
        sides.setdefault(found["module"], {})[found["side"]] = name
        rank = _ranks(config, found["module"])
        axis = 0 if found["side"] == "A" else 1
        if rank is not None and axis < len(item.shape) and item.shape[axis] != rank and len(item.shape) == 2:
            wrong.append(name)
    if wrong and str(config.get("peft_type")) == "LORA":
        rank = headers[wrong[0]].shape[0 if "_A" in wrong[0] else 1]
        findings.problem(
            "config-mismatch",
            f"{file.parent / 'adapter_config.json'} says r {config.get('r')}; "
            f"{wrong[0]} has rank {rank} ({len(wrong)} tensors disagree)",
            "restore the adapter_config.json that was saved with these weights",
            file.parent / "adapter_config.json",
            wrong[0],
        )
    alone = [next(iter(pair.values())) for pair in sides.values() if len(pair) == 1]
    if alone:
        findings.problem(
            "missing-adapter-tensors",
            f"{file}: {len(alone)} LoRA tensors have no partner: {few(alone)}",
            "save the adapter again, or take it from the last checkpoint",
            file,
            alone[0],
        )


def _check_promises(file: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """Every module that the config lists by name must have a tensor."""
    targets = config.get("target_modules")
    promised = [(name, "target_modules") for name in targets] if isinstance(targets, list) else []
    promised += [(name, "modules_to_save") for name in config.get("modules_to_save") or []]
    lost = [(name, key) for name, key in promised if not any(_within(str(name), held) for held in headers)]
    if str(config.get("peft_type")) in NOT_LORA:
        return
    for name, key in lost:
        findings.problem(
            "missing-adapter-tensors",
            f"{file} holds no tensor of {name!r}, which adapter_config.json lists in {key}",
            "save the adapter again, or take it from the last checkpoint",
            file,
            name,
        )


def _within(module: str, held: str) -> bool:
    return f".{module}." in f".{held}."


def _check_tie(folder: Path, config: Mapping[str, Any], headers: Mapping[str, Header], findings: Findings) -> None:
    """Warn where only one of embedding and head was trained in full and the base, if it can be seen, ties them."""
    embedding = next((n for n in headers if EMBEDDING.fullmatch(n)), None)
    head = next((n for n in headers if HEAD.fullmatch(n)), None)
    base = base_config(folder, config)
    if base is None or bool(embedding) == bool(head):
        return
    if base.get("tie_word_embeddings", text_config(base).get("tie_word_embeddings")) is True:
        findings.warn(
            "tied-head-conflict",
            f"{folder} brings {embedding or head} alone; its base ties embedding and head, so the live model had two",
            "merge with --untie (as it ran) or --tie",
            folder,
            embedding or head,
        )


def base_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of an adapter's base where that is a local folder; a Hub id is not asked for."""
    base = config.get("base_model_name_or_path")
    for path in (Path(str(base)), folder / str(base)) if base else ():
        if (path / "config.json").is_file():
            try:
                return read_json(path / "config.json")
            except Refusal:
                return None
    return None


def _check_tokenizer(
    file: Path,
    size: int,
    rows: int | None,
    config: Mapping[str, Any],
    headers: Mapping[str, Header],
    findings: Findings,
) -> None:
    """A tokenizer must fit the rows that the adapter brings, or else those of the base where it can be seen."""
    if rows is not None:
        name = next(n for n in headers if EMBEDDING.fullmatch(n))
        check_tokenizer(file, size, rows, name, findings)
        return
    base = base_config(file.parent, config)
    vocab = text_config(base).get("vocab_size") if base else None
    brings_rows = any("trainable_tokens" in name or "lora_embedding" in name for name in headers)
    if isinstance(vocab, int) and not brings_rows:
        check_tokenizer(file, size, vocab, f"the base's embedding ({config.get('base_model_name_or_path')})", findings)
