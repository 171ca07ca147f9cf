"""A Hugging Face tokenizer's files as the metadata that llama.cpp reads: tokens, merges or scores, kinds, template.

llama.cpp knows byte-level BPE by the name of its split (`gguf_pre`) and SentencePiece by its scores. A tokenizer
that is neither is refused: a GGUF file that tokenises otherwise than the model was trained is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lingraft.problems import refuse
from lingraft.weights.gguf_pre import CLASSES, name_of
from lingraft.weights.gguf_tokenizer import ROLES, Kind
from lingraft.weights.sentencepieces import read_pieces

REMEDY = "use a model with a byte-level BPE or a SentencePiece tokenizer, or export with llama.cpp's own converter"
LOWEST = -1000.0  # the score of a token that no merge may build


@dataclass
class Vocabulary:
    """What goes into a GGUF file's tokenizer keys."""

    model: str  # gpt2 or llama
    tokens: list[str]
    kinds: list[Kind]
    pre: str | None = None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False

    def add(self, number: int, token: str, kind: Kind) -> None:
        """Put an added token at its id, filling a gap with unused tokens."""
        while len(self.tokens) <= number:
            self.tokens.append(f"[PAD{len(self.tokens)}]")
            self.kinds.append(Kind.UNUSED)
            if self.model == "llama":
                self.scores.append(LOWEST)
        self.tokens[number] = token
        if self.kinds[number] != Kind.UNKNOWN:
            self.kinds[number] = kind


def vocabulary(files: Mapping[str, bytes], rows: int) -> Vocabulary | None:
    """Return the tokenizer among a model's side files, padded to the embedding's ``rows``; None where there is none.

    Errors: `unknown-format` for a tokenizer that llama.cpp has no name for, `vocab-mismatch` where it has more
    tokens than the embedding has rows.
    """
    fast = json.loads(files["tokenizer.json"]) if "tokenizer.json" in files else None
    if fast is None and "vocab.json" in files and "merges.txt" in files:
        fast = _from_vocab_and_merges(files)
    if fast is not None and _is_byte_level(fast):
        found = _byte_bpe(fast)
    elif "tokenizer.model" in files and not _is_behind(files["tokenizer.model"], fast):
        found = _sentencepiece(files["tokenizer.model"])
    elif fast is not None:
        found = _scored(fast)
    else:
        return None
    for number, token, special in _added(files, fast):
        found.add(number, token, Kind.CONTROL if special else Kind.USER)
    if len(found.tokens) > rows:
        refuse(
            "vocab-mismatch",
            f"the tokenizer has {len(found.tokens):,} tokens, the embedding {rows:,} rows",
            "give the tokenizer that belongs to these weights",
        )
    if rows > len(found.tokens):
        found.add(rows - 1, f"[PAD{rows - 1}]", Kind.UNUSED)
    return found


def metadata(files: Mapping[str, bytes], found: Vocabulary, config: Mapping[str, Any]) -> dict[str, int | bool]:
    """Return the ids of the special tokens and what is put around a text, by GGUF key below tokenizer.ggml."""
    settings = _object(files, "tokenizer_config.json")
    special = {**_object(files, "special_tokens_map.json"), **settings}
    numbers = {token: i for i, token in enumerate(found.tokens)}
    answer: dict[str, int | bool] = {}
    for role, hf in ROLES.items():
        token = special.get(f"{hf}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = numbers.get(str(token)) if token is not None else config.get(f"{hf}_token_id")
        if isinstance(number, int) and 0 <= number < len(found.tokens):
            answer[f"{role}_token_id"] = number
    ends = _object(files, "generation_config.json").get("eos_token_id")
    turns = [n for n in ends if n != answer.get("eos_token_id")] if isinstance(ends, list) else []
    if turns:
        answer["eot_token_id"] = turns[0]
    before, after = _around(files, settings, found)
    return {**answer, "add_bos_token": before, "add_eos_token": after, "add_space_prefix": found.add_space_prefix}


def chat_template(files: Mapping[str, bytes]) -> str | None:
    """Return the chat template, from its own file or from tokenizer_config.json (the one named default)."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    told = _object(files, "tokenizer_config.json").get("chat_template")
    if isinstance(told, list):
        told = next((item.get("template") for item in told if item.get("name") == "default"), None)
    return told if isinstance(told, str) else None


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    value = json.loads(files[name]) if name in files else {}
    return value if isinstance(value, dict) else {}


def _is_byte_level(fast: Mapping[str, Any]) -> bool:
    decoder = fast.get("decoder") or {}
    kinds = [part.get("type") for part in decoder.get("decoders", [decoder])]
    return fast["model"].get("type") == "BPE" and "ByteLevel" in kinds


def _byte_bpe(fast: Mapping[str, Any]) -> Vocabulary:
    pre = name_of(fast.get("pre_tokenizer"), bool(fast["model"].get("ignore_merges")))
    normal = (fast.get("normalizer") or {}).get("type", "NFC")  # llama.cpp leaves NFC out, which few texts need
    if pre is None or normal != "NFC":
        refuse("unknown-format", "llama.cpp has no name for the way this tokenizer splits or changes text", REMEDY)
    found = Vocabulary("gpt2", [], [], pre)
    _fill(found, fast["model"]["vocab"])
    found.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fast["model"]["merges"]]
    return found


def _fill(found: Vocabulary, vocab: Mapping[str, int]) -> None:
    for token, number in sorted(vocab.items(), key=lambda item: item[1]):
        found.add(number, token, Kind.NORMAL)


def _sentencepiece(content: bytes) -> Vocabulary:
    pieces, prefix = read_pieces(content)
    if not pieces:
        refuse("unknown-format", "tokenizer.model is not a SentencePiece model", REMEDY)
    return Vocabulary(
        "llama",
        [p.text for p in pieces],
        [Kind(p.kind) for p in pieces],
        scores=[p.score for p in pieces],
        add_space_prefix=prefix,
    )


def _is_behind(model: bytes, fast: Mapping[str, Any] | None) -> bool:
    """Tell whether tokenizer.json, which transformers goes by, has pieces that tokenizer.model does not have."""
    vocab = (fast or {}).get("model", {}).get("vocab", {})
    added = {item["content"] for item in (fast or {}).get("added_tokens", [])}
    return isinstance(vocab, dict) and bool(set(vocab) - {piece.text for piece in read_pieces(model)[0]} - added)


def _scored(fast: Mapping[str, Any]) -> Vocabulary:
    """Return a SentencePiece vocabulary out of a BPE with byte fallback: an earlier merge is a higher score."""
    model = fast["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        refuse("unknown-format", f"a tokenizer of the kind {model.get('type')} has no place in GGUF here", REMEDY)
    found = Vocabulary("llama", [], [], add_space_prefix=_prepends(fast))
    _fill(found, model["vocab"])
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    found.scores = [-float(ranks[token]) if token in ranks else LOWEST - len(ranks) for token in found.tokens]
    for i, token in enumerate(found.tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            found.kinds[i] = Kind.BYTE
        elif token == model.get("unk_token"):
            found.kinds[i] = Kind.UNKNOWN
    return found


def _prepends(fast: Mapping[str, Any]) -> bool:
    parts = []
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        part = fast.get(key) or {}
        parts += part.get(inner, [part])
    return any(
        part.get("type") == "Prepend"
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _added(files: Mapping[str, bytes], fast: Mapping[str, Any] | None) -> list[tuple[int, str, bool]]:
    """List added tokens as (id, text, special); the later source overrides: .json of ids, tokenizer.json, decoder."""
    found: dict[int, tuple[str, bool]] = {}
    for token, number in _object(files, "added_tokens.json").items():
        found[int(number)] = (token, False)
    for item in (fast or {}).get("added_tokens", []):
        found[item["id"]] = (item["content"], bool(item.get("special")))
    for number, item in _object(files, "tokenizer_config.json").get("added_tokens_decoder", {}).items():
        found[int(number)] = (item["content"], bool(item.get("special")))
    return [(number, token, special) for number, (token, special) in sorted(found.items())]


def _around(files: Mapping[str, bytes], settings: Mapping[str, Any], found: Vocabulary) -> tuple[bool, bool]:
    """Tell whether BOS goes before and EOS after a text: by tokenizer.json's own template, else by the settings."""
    fast = _object(files, "tokenizer.json")
    processor = fast.get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        if part.get("type") == "TemplateProcessing":
            items = part.get("single", [])
            return bool(items) and "SpecialToken" in items[0], bool(items) and "SpecialToken" in items[-1]
    if fast and found.model == "gpt2":
        return False, False
    return bool(settings.get("add_bos_token", found.model == "llama")), bool(settings.get("add_eos_token", False))


def _from_vocab_and_merges(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the tokenizer.json that vocab.json and merges.txt stand for; the class tells the split."""
    name = str(_object(files, "tokenizer_config.json").get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if name not in CLASSES:
        refuse("unknown-format", f"lingraft does not know how {name} splits text", REMEDY)
    merges = [line for line in files["merges.txt"].decode().splitlines() if line and not line.startswith("#version")]
    return {
        "model": {"type": "BPE", "vocab": _object(files, "vocab.json"), "merges": merges},
        "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": CLASSES[name],
    }
