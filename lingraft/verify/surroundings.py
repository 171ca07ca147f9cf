"""What goes with the weights: does a merged model carry the config and the tokenizer that belong to it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lingraft.problems import Findings
from lingraft.weights.tensors import Checkpoint

# Fields that say nothing about what the model computes.
IGNORED = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "architectures",
    "quantization_config",
    "id2label",
    "label2id",
    "finetuning_task",
    "task_specific_params",
    "pad_token_id",
    "_attn_implementation",
    "attn_implementation",
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
GENERATION = "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def check_config(model: Checkpoint, expected: Checkpoint, same_ends: bool, findings: Findings) -> list[str]:
    """Note `config-mismatch` for every field that differs from the base's (after what the merge changes); list them.

    Both sides pass through transformers first, so that a default left out or an older spelling is no difference;
    neither is how the tie is spelled where head and embedding are the same (``same_ends``).
    """
    want, found = _normal(expected.config), _normal(model.config)
    wrong = sorted(
        key
        for key in want.keys() | found.keys()
        if key not in IGNORED and want.get(key) != found.get(key) and not (same_ends and key == "tie_word_embeddings")
    )
    for key in wrong:
        findings.problem(
            "config-mismatch",
            f"{model.path / 'config.json'} says {key} {found.get(key)}; base + adapters give {want.get(key)}",
            "restore it from the base's config.json, or merge again",
            model.path / "config.json",
        )
    return wrong


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made: dict[str, Any] = AutoConfig.for_model(str(config.get("model_type")), **fields).to_dict()
        return made
    except Exception:  # an unknown model type, or fields that its class refuses: compare what is written
        return dict(config)


def check_tokenizer(model: Checkpoint, expected: Checkpoint, findings: Findings) -> None:
    """Note `tokenizer-mismatch` where the tokenizer is not the last adapter's (or the base's), or is absent.

    A container with a tokenizer of its own (GGUF) spells it differently: its pieces are compared.
    """
    want, held, made = expected.side_content(), model.side_content(), set(model.made())
    for name in (n for n in TOKENIZERS if n in want):
        if name not in held:
            if not any(other in held for other in TOKENIZERS):
                findings.problem(
                    "tokenizer-mismatch",
                    f"{model.path} has no tokenizer; {name} belongs to it",
                    "copy the last adapter's tokenizer, or the base's, into it",
                    model.path / name,
                )
            continue
        meaning = _pieces if name in made and name.endswith(".json") else _meaning
        if held[name] != want[name] and meaning(name, held[name]) != meaning(name, want[name]):
            findings.problem(
                "tokenizer-mismatch",
                f"{_where(model, name)} is not the tokenizer that the last adapter (or the base) was trained with",
                "copy that tokenizer into the model",
                model.path,
            )
    template = _template(want)
    if template is not None and _template(held) != template:
        findings.warn(
            "tokenizer-mismatch",
            f"{model.path}: its chat template is not the one that belongs to the model",
            "copy the last adapter's, or the base's",
            model.path,
        )


def _template(files: Mapping[str, bytes]) -> str | None:
    """Return the chat template, wherever it is kept: in a file of its own, or in tokenizer_config.json."""
    if TEMPLATES[0] in files:
        return files[TEMPLATES[0]].decode(errors="replace").strip()
    for name in (TEMPLATES[1], "tokenizer_config.json"):
        said = _json(files.get(name, b"")).get("chat_template")
        if said:
            return str(said).strip()
    return None


def check_generation(model: Checkpoint, expected: Checkpoint, findings: Findings) -> None:
    """Warn where generation_config.json, which decides how a model samples and stops, is not the base's."""
    want, held = (_json(c.side_content().get(GENERATION, b"")) for c in (expected, model))
    wrong = sorted(key for key in want.keys() | held.keys() if key not in IGNORED and want.get(key) != held.get(key))
    if want and held and wrong and GENERATION not in model.made():
        findings.warn(
            "config-mismatch",
            f"{model.path / GENERATION} differs from the one that belongs to the model: {', '.join(wrong)}",
            "copy the last adapter's, or the base's",
            model.path / GENERATION,
        )


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _where(model: Checkpoint, name: str) -> str:
    return str(model.path / name) if model.path.is_dir() else f"{model.path} ({name})"


def _pieces(name: str, content: bytes) -> Any:
    """Return every piece of a tokenizer.json by its id, added ones too, and the order of merges."""
    said = _meaning(name, content)
    if not isinstance(said, tuple):
        return said
    vocab, merges, added, *_ = said
    listed = vocab.items() if isinstance(vocab, dict) else ((entry[0], i) for i, entry in enumerate(vocab or []))
    return {number: piece for piece, number in listed} | dict(added), merges


def _meaning(name: str, content: bytes) -> Any:
    """Return what a tokenizer file says, without what saving it anew may change."""
    if not name.endswith(".json"):
        return content
    try:
        value = json.loads(content)
    except ValueError:
        return content
    if not isinstance(value, dict) or "model" not in value:
        return value
    model = value["model"] if isinstance(value["model"], dict) else {}
    merges = [" ".join(m) if isinstance(m, list) else m for m in model.get("merges") or []]
    added = sorted((t.get("id"), t.get("content")) for t in value.get("added_tokens") or [])
    return model.get("vocab"), merges, added, value.get("normalizer"), value.get("pre_tokenizer")
