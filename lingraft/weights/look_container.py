"""Look at a model in another container than Hugging Face's: Meta's shards, a GGUF, a llama2.c file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal
from lingraft.weights.fits import check_tokenizer
from lingraft.weights.headers import Header, of_llama2c
from lingraft.weights.kinds import META, is_llama2c, names_in
from lingraft.weights.look_model import Facts, config_of, count
from lingraft.weights.shards import Read
from lingraft.weights.tokenizer_size import tokenizer_of


def look_at_meta(path: Path, read: Read, findings: Findings) -> Facts:
    """Look at Meta's consolidated.NN.pth, cut into shards along one dimension of every matrix."""
    folder = path if path.is_dir() else path.parent
    files = {int(m[1]): folder / n for n in names_in(folder) if (m := META.fullmatch(n))}
    parts = [read(file) for _, file in sorted(files.items())]
    params = config_of(folder, findings, "params.json")
    if params is None:
        findings.problem(
            "config-mismatch",
            f"{folder} has no readable params.json: heads and layers cannot be told",
            "copy it from the model's source",
            folder / "params.json",
        )
    needed = max([_meta_shards(params or {}, parts), *(number + 1 for number in files)])
    missing = [f"consolidated.{i:02d}.pth" for i in range(needed) if i not in files]
    if missing:
        findings.problem(
            "missing-shard",
            f"{folder}: the matrices are cut into {needed} shards; {len(missing)} are missing: {', '.join(missing)}",
            "download the missing shards",
            folder / missing[0],
        )
    counted = [count({n: h for n, h in part.items() if len(h.shape) > 1 or i == 0}) for i, part in enumerate(parts)]
    dtypes: Counter[str] = Counter()
    for item in counted:
        dtypes.update(item.dtypes)
    rows = _meta_rows(parts)
    tokenizer = next((t for t in (tokenizer_of(folder, findings), tokenizer_of(folder.parent, Findings())) if t), None)
    if tokenizer and rows and not missing:
        check_tokenizer(tokenizer.file, tokenizer.size, rows, "tok_embeddings.weight", findings)
    return Facts(
        tensors=len(parts[0]) if parts else 0,
        parameters=sum(c.parameters for c in counted),
        dtypes=dict(dtypes),
        architecture="LlamaForCausalLM",
        vocab_size=rows,
        tokenizer_size=tokenizer.size if tokenizer else None,
        tied=bool(parts) and "output.weight" not in parts[0],
    )


def _meta_shards(params: Mapping[str, Any], parts: Iterable[Mapping[str, Header]]) -> int:
    """Return how many shards there must be: wo is (dim, dim / shards)."""
    dim = params.get("dim")
    for part in parts:
        name = "layers.0.attention.wo.weight"
        if isinstance(dim, int) and name in part and len(part[name].shape) == 2 and part[name].shape[1]:
            return max(1, round(dim / part[name].shape[1]))
    return 0


def _meta_rows(parts: list[Mapping[str, Header]]) -> int | None:
    """Return the vocabulary: Llama 1 and 2 cut the embedding by columns, Llama 3 by rows; the head is cut by rows."""
    heads = [part["output.weight"].shape[0] for part in parts if "output.weight" in part]
    if heads:
        return sum(heads)
    return next((part["tok_embeddings.weight"].shape[0] for part in parts if "tok_embeddings.weight" in part), None)


def look_at_gguf(path: Path, read: Read, findings: Findings) -> Facts:
    """Look at a GGUF file, or a folder of them (the largest stands for the model)."""
    from lingraft.weights.gguf_header import read_header

    files = [path] if path.is_file() else sorted(path.glob("*.gguf"), key=lambda f: -f.stat().st_size)
    _gguf_parts(files, findings)
    headers = {name: item for item_file in _same_model(files) for name, item in read(item_file).items()}
    try:
        metadata = read_header(files[0]).metadata
    except Refusal:
        return count(headers)  # told by read already
    for file in files[1:]:
        read(file)
    tokens = metadata.get("tokenizer.ggml.tokens")
    size = len(tokens) if isinstance(tokens, list) else None
    rows = headers["token_embd.weight"].shape[0] if "token_embd.weight" in headers else None
    if size is not None and rows is not None:
        check_tokenizer(files[0], size, rows, "token_embd.weight", findings)
    name = metadata.get("general.architecture")
    vocab = metadata.get(f"{name}.vocab_size", rows)
    return replace(
        count(headers),
        architecture=str(name) if name else None,
        vocab_size=vocab,
        tokenizer_size=size,
        tied=None if rows is None else "output.weight" not in headers,
    )


def _same_model(files: list[Path]) -> list[Path]:
    """Return the first file, and with it the other parts of a split GGUF."""
    found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", files[0].name)
    if not found:
        return files[:1]
    whole = sorted(files[0].parent.glob(f"{found[1]}-*-of-{found[2]}.gguf"))
    return [files[0], *(file for file in whole if file != files[0])]


def _gguf_parts(files: list[Path], findings: Findings) -> None:
    for file in files:
        if found := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.gguf", file.name):
            names = [f"{found[1]}-{i:05d}-of-{found[2]}.gguf" for i in range(1, int(found[2]) + 1)]
            lost = [name for name in names if not (file.parent / name).is_file()]
            if lost:
                findings.problem(
                    "missing-shard",
                    f"{file.parent}: {len(lost)} of {len(names)} parts are missing: {', '.join(lost)}",
                    "download the missing parts",
                    file.parent / lost[0],
                )


def look_at_llama2c(path: Path, _: Read, findings: Findings) -> Facts:
    """Look at a llama2.c .bin (v0, v1, v2)."""
    file = path if path.is_file() else next(f for f in sorted(path.glob("*.bin")) if is_llama2c(f))
    found = of_llama2c(file)
    assert found is not None  # the kind was told by it
    size = file.stat().st_size
    if size < found.nbytes:
        findings.problem(
            "truncated-file",
            f"{file} has {size:,} of {found.nbytes:,} bytes: {found.nbytes - size:,} are missing",
            "download the file again",
            file,
        )
    dtypes = {"Q8_0" if found.version == 2 else "F32": found.parameters}
    return Facts(
        found.layers * 9 + 2 + (not found.tied),
        found.parameters,
        dtypes,
        "LlamaForCausalLM",
        found.vocab,
        None,
        found.tied,
    )
