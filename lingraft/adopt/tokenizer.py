"""Adopt a tokenizer in any usual shape: as the files that Hugging Face keeps beside a model.

`.model` (SentencePiece), `tokenizer.json`, `vocab.json` + `merges.txt`, `vocab.txt`, a GGUF file's metadata, or
llama2.c's tok.bin. What tokenizer_config.json would say is told by the pieces themselves, where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.weights import gguf, hf, llama2c_tokenizer
from lingraft.weights.sentencepieces import read_pieces

SETTINGS = "tokenizer_config.json"
MAIN = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# What special tokens are called in published tokenizers, the most telling first.
ROLES: dict[str, tuple[str, ...]] = {
    "bos_token": ("<|begin_of_text|>", "<bos>", "<s>", "<|im_start|>", "<|startoftext|>", "<|endoftext|>"),
    "eos_token": ("<|eot_id|>", "<eos>", "</s>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"),
    "unk_token": ("<unk>", "[UNK]"),
    "pad_token": ("<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>"),
}
CLASSES = {"roberta": "RobertaTokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}


def files_of(path: Path, context: int) -> dict[str, bytes]:
    """Return a tokenizer's files by name, from a folder or from any one of its files.

    Errors: `not-found`, `unknown-format` for a file that is no tokenizer.
    """
    if path.is_dir():
        found = {file.name: file.read_bytes() for file in hf.side_files(path)}
        if not has_tokenizer(found):
            found |= next((files_of(file, context) for file in _loose(path)), {})
        if not has_tokenizer(found):
            refuse("not-found", f"{path} holds no tokenizer", f"give one of {', '.join(MAIN)}, a GGUF or tok.bin", path)
        return found
    if not path.is_file():
        refuse("not-found", f"{path} does not exist", "check the path", path)
    if gguf.knows(path):
        return dict(gguf.read(path).made())
    if path.suffix == ".bin":
        return llama2c_tokenizer.tokenizer_files(path, context)
    beside = {
        name: path.with_name(name).read_bytes()
        for name in (SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
        if path.with_name(name).is_file()
    }
    return beside | _one(path)


def _loose(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix == ".model")


def _one(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    if path.suffix == ".model":
        from google.protobuf.message import DecodeError

        try:
            read_pieces(raw)
        except DecodeError as error:
            refuse("unknown-format", f"{path} is no SentencePiece model: {error}", "give tokenizer.json instead", path)
        return {"tokenizer.model": raw}
    if path.name.endswith("merges.txt") or (path.suffix == ".json" and b'"model"' not in raw[: 1 << 20]):
        vocab, merges = (path.with_name(name) for name in ("vocab.json", "merges.txt"))
        if not vocab.is_file() or not merges.is_file():
            refuse("not-found", f"{path}: vocab.json and merges.txt belong together", "put both into one folder", path)
        return {"vocab.json": vocab.read_bytes(), "merges.txt": merges.read_bytes()}
    if path.suffix == ".json":
        return {"tokenizer.json": raw}
    if path.suffix == ".txt":
        return {"vocab.txt": raw}
    return refuse(
        "unknown-format", f"{path} is no tokenizer that lingraft reads", f"give one of {', '.join(MAIN)}", path
    )


def has_tokenizer(files: Mapping[str, bytes]) -> bool:
    """Tell whether files hold a tokenizer, and not its settings alone."""
    return any(name in files for name in MAIN)


def completed(files: Mapping[str, bytes], model_type: str) -> dict[str, bytes]:
    """Add tokenizer_config.json where it is missing, from what the pieces tell."""
    if SETTINGS in files or not has_tokenizer(files):
        return dict(files)
    settings: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    if "tokenizer.json" in files:
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", **_roles(_added(files["tokenizer.json"]))}
    elif "tokenizer.model" in files:
        pieces, _ = read_pieces(files["tokenizer.model"])
        gemma = model_type.startswith("gemma")
        settings |= {
            "tokenizer_class": "GemmaTokenizer" if gemma else "LlamaTokenizer",
            "add_bos_token": True,
            "legacy": False,
            **_roles([p.text for p in pieces if p.kind in (2, 3, 4)]),
        }
    elif "vocab.json" in files:
        settings |= {"tokenizer_class": CLASSES.get(model_type, "GPT2Tokenizer")}
        settings |= {} if model_type == "roberta" else _roles(json.loads(files["vocab.json"]))
    else:
        pieces_ = files["vocab.txt"].decode("utf-8", "replace").split("\n")
        cased = any(piece.isalpha() and piece.isascii() and piece != piece.lower() for piece in pieces_)
        settings |= {"tokenizer_class": "BertTokenizer", "do_lower_case": not cased, **_roles(pieces_)}
    return {**files, SETTINGS: (json.dumps(settings, indent=2) + "\n").encode()}


def _added(raw: bytes) -> list[str]:
    return [str(token["content"]) for token in json.loads(raw).get("added_tokens", [])]


def _roles(tokens: Iterable[str]) -> dict[str, str]:
    known = set(tokens)
    return {
        role: next(name for name in names if name in known)
        for role, names in ROLES.items()
        if any(name in known for name in names)
    }


def write(files: Mapping[str, bytes], out: Path) -> Any:
    """Write the files and return the tokenizer as transformers loads it. Error: `tokenizer-mismatch`."""
    for name, content in files.items():
        (out / name).write_bytes(content)
    from lingraft.models import load_tokenizer

    return load_tokenizer(out)


def context_of(files: Mapping[str, bytes]) -> int | None:
    """Return the context that tokenizer_config.json names, where it names a real one."""
    value = json.loads(files.get(SETTINGS, b"{}")).get("model_max_length")
    return int(value) if isinstance(value, int | float) and 16 <= value <= 1 << 22 else None
