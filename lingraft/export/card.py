"""The model card that `lingraft push` writes: YAML that the Hub accepts, and what the receipts say, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lingraft.export.origin import Origin, shareable

MEASURES = (
    ("bits_per_character", "bits per character, held-out text"),
    ("english_bits_per_character", "bits per character, held-out English"),
    ("tokens_per_character", "tokens per character"),
)
TRAINING = ("pretrain", "sft", "prefer")
GGUF = "FILE.gguf"


def card(origin: Origin, repo: str, files: Sequence[str], languages: Sequence[str] = ()) -> str:
    """Return README.md: front matter by huggingface_hub's own ModelCardData, then the text."""
    from huggingface_hub import ModelCard, ModelCardData

    licence = origin.licence
    data = ModelCardData(
        base_model=origin.base,
        language=list(languages) or None,
        library_name={"model": "transformers", "adapter": "peft", "gguf": "gguf"}[origin.kind],
        license=licence.id if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        pipeline_tag="text-generation",
        tags=["lingraft", *(["lora"] if origin.config.get("peft_type") == "LORA" else [])],
        base_model_relation={"model": "finetune", "adapter": "adapter", "gguf": "quantized"}[origin.kind]
        if origin.base
        else None,
    )
    sections = [
        _title(origin, repo),
        _base(origin),
        _training(origin),
        _results(origin),
        _checks(origin),
        _loading(origin, repo, files),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(s for s in sections if s) + "\n"))


def _title(origin: Origin, repo: str) -> str:
    what = {"model": "A language model", "adapter": "A peft adapter", "gguf": "GGUF files for llama.cpp"}[origin.kind]
    return f"# {repo.rpartition('/')[2]}\n\n{what}, made with lingraft from {origin.base_shown}."


def _base(origin: Origin) -> str:
    licence = origin.licence
    says = (
        f"{licence.name or licence.id}, inherited from the base"
        if licence
        else "**unknown**: the base does not tell; find out before you use or share this"
    )
    return f"## Base and licence\n\n- Base: {origin.base_shown}\n- Licence: {says}"


def _training(origin: Origin) -> str:
    recipe = origin.recipe
    lines = []
    for name, result in origin.steps:
        block = recipe.get(name) or {}
        lines.append(f"- **{name}**: {_told(name, result)}" + (f"; data: {_data(block)}" if _data(block) else ""))
        if name in TRAINING and block:
            lines += [
                f"  - techniques: {_inline(block.get('techniques') or [])}",
                f"  - length {block.get('length')}; {_inline(block.get('trainer') or {})}",
            ]
    if not lines:
        lines = [
            f"- **{name}**: data: {_data(recipe[name])}; {_inline(recipe[name].get('techniques') or [])}"
            for name in TRAINING
            if isinstance(recipe.get(name), Mapping)
        ]
    return "## Training\n\n" + "\n".join([*lines, f"- seed {recipe.get('seed')}"]) if lines else ""


def _told(name: str, result: Mapping[str, Any]) -> str:
    if name == "vocab":
        return f"{result.get('new_pieces'):,} new pieces, {result.get('new_size'):,} in all"
    first, last = result.get("loss_first"), result.get("loss_last")
    loss = f", loss {first:.3f} → {last:.3f}" if isinstance(first, float) and isinstance(last, float) else ""
    return f"{result.get('steps')} steps, {result.get('tokens') or 0:,} tokens{loss}"


def _data(block: Mapping[str, Any]) -> str:
    mixed = [f"{item['path']} ({item['weight']:g})" for item in block.get("mix") or []]
    given = block.get("data") or block.get("corpus") or mixed
    return ", ".join(str(shareable(item)) for item in ([given] if isinstance(given, str) else given))


def _inline(value: Any) -> str:
    """Return settings as `key: value` pairs on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {shareable(v)}" for k, v in value.items() if v not in (None, [], "", 0.0))
    return "; ".join(_inline(item) if isinstance(item, Mapping) else str(item) for item in value)


def _results(origin: Origin) -> str:
    models = origin.results
    rows = [(label, [m.get(key) for m in models]) for key, label in MEASURES]
    for task in dict.fromkeys(t for m in models for t in m.get("tasks") or {}):
        for metric in dict.fromkeys(k for m in models for k in (m.get("tasks") or {}).get(task, {})):
            rows.append((f"{task}: {metric}", [((m.get("tasks") or {}).get(task) or {}).get(metric) for m in models]))
    told = [(label, values) for label, values in rows if any(isinstance(v, int | float) for v in values)]
    if not told:
        return ""
    heads = [str(shareable(m.get("model"))) for m in models]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines += [f"| {label} | " + " | ".join(_number(v) for v in values) + " |" for label, values in told]
    return (
        "## Results\n\n" + "\n".join(lines) + "\n\nLower bits per character are better; they can be compared "
        "across tokenizers."
    )


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _checks(origin: Origin) -> str:
    known = origin.known
    lines = [f"- fingerprint: `{known.fingerprint}`"] if known.fingerprint else []
    lines.append(
        "- verified against base and adapters, tensor by tensor"
        if known.verified
        else "- **not verified**: no record of `lingraft verify`"
    )
    lines.append("- evaluated" if known.evaluated else "- **not evaluated**: no record of `lingraft evaluate`")
    return "## What was checked\n\n" + "\n".join(lines)


def _loading(origin: Origin, repo: str, files: Sequence[str]) -> str:
    return (
        "## How to load it\n\n"
        + {"model": _transformers(repo), "adapter": _peft(origin, repo), "gguf": _llama_cpp(repo, files)}[origin.kind]
    )


def _transformers(repo: str) -> str:
    return (
        f"```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n```\n\n'
        f"For llama.cpp: `lingraft export {repo} --to gguf --type Q8_0 --out model.gguf`."
    )


def _peft(origin: Origin, repo: str) -> str:
    base = origin.onto or "BASE"
    notes = (
        []
        if origin.onto
        else [f"BASE is {origin.onto_shown}, the model that the adapter was trained on; it has no public name here."]
    )
    if origin.below:
        notes.append(
            f"It was trained on top of {', '.join(origin.below)}: merge those into the base first "
            "(`PeftModel.from_pretrained(…).merge_and_unload()`), in this order."
        )
    return (
        f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(model, "{repo}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n```' + "".join(f"\n\n{n}" for n in notes)
    )


def _llama_cpp(repo: str, files: Sequence[str]) -> str:
    file = next((name for name in files if name.endswith(".gguf")), GGUF)
    return f"```\nhf download {repo} {file} --local-dir .\nllama-server -m {file}\n```"
