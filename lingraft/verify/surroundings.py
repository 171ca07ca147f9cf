"""What goes with the weights: does a merged model carry the config and the tokenizer that belong to it?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.weights.tensors import Checkpoint

# Fields that say nothing about what the model computes.
IGNORED = {
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures",
    "quantization_config", "id2label", "label2id", "finetuning_task", "task_specific_params", "pad_token_id",
    "_attn_implementation", "attn_implementation", "output_attentions", "output_hidden_states",
    "chunk_size_feed_forward",
}  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def check_config(model: Checkpoint, expected: Checkpoint, same_ends: bool, findings: Findings) -> list[str]:
    """Note `config-mismatch` for every field that differs from the base's (after what the merge changes); list them.

    Both sides pass through transformers first, so that a default left out or an older spelling is no difference;
    neither is how the tie is spelled where head and embedding are the same (``same_ends``).
    """
    want, found = _normal(expected.config), _normal(model.config)
    wrong = sorted(key for key in want.keys() | found.keys() if key not in IGNORED and want.get(key) != found.get(key)
                   and not (same_ends and key == "tie_word_embeddings"))
    for key in wrong:
        findings.problem("config-mismatch", f"{model.path / 'config.json'} says {key} {found.get(key)}; base + "
                         f"adapters give {want.get(key)}", "restore it from the base's config.json, or merge again",
                         model.path / "config.json")
    return wrong


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made: dict[str, Any] = AutoConfig.for_model(str(config.get("model_type")), **fields).to_dict()
        return made
    except Exception:  # an unknown model type, or fields that its class refuses: compare what is written
        return dict(config)


def check_tokenizer(model: Path, expected: Checkpoint, findings: Findings) -> None:
    """Note `tokenizer-mismatch` where the tokenizer is not the last adapter's (or the base's), or is absent."""
    content = expected.side_content()
    for name in (n for n in TOKENIZERS if n in content):
        file = model / name
        if not file.is_file():
            if not any((model / other).is_file() for other in TOKENIZERS):
                findings.problem("tokenizer-mismatch", f"{model} has no tokenizer; {name} belongs to it",
                                 "copy the last adapter's tokenizer, or the base's, into it", file)
            continue
        if file.read_bytes() != content[name] and _meaning(name, file.read_bytes()) != _meaning(name, content[name]):
            findings.problem("tokenizer-mismatch", f"{file} is not the tokenizer that the last adapter (or the base) "
                             "was trained with", "copy that tokenizer into the model", file)
    for name in (n for n in TEMPLATES if n in content):
        if not (model / name).is_file() or (model / name).read_bytes() != content[name]:
            findings.warn("tokenizer-mismatch", f"{model / name} is not the chat template that belongs to the model",
                          "copy the last adapter's, or the base's", model / name)


def _meaning(name: str, content: bytes) -> Any:
    """Return what a tokenizer file says, without what saving it anew may change."""
    if not name.endswith(".json"):
        return content
    import json

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
