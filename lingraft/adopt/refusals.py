"""What cannot be adopted, told by the names and types that give it away, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lingraft.adopt.names import Named, known_families
from lingraft.problems import Findings
from lingraft.weights.tensors import Entry

QUANTISED = {
    "GPTQ or AWQ": r".*\.(qweight|qzeros|g_idx)",
    "bitsandbytes": r".*\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)|.*\.quant_state\..*",
    "FP8 with scales": r".*\.(weight_scale|weight_scale_inv|input_scale|activation_scale)",
    "compressed-tensors": r".*\.(weight_packed|weight_shape|weight_zero_point|weight_global_scale)",
    "AQLM": r".*\.(codes|codebooks)",
    "MXFP4": r".*_(blocks|scales)",
    "HQQ": r".*\.(W_q|meta)",
}
VISION = (
    r"(.*\.)?(vision_tower|vision_model|visual|vision_encoder|vision_embed_tokens|image_newline|patch_embed"
    r"|patch_embedding|multi_modal_projector|mm_projector|audio_tower|embed_vision)(\..*|$)"
)
EXPERTS = r".*\.(experts\.\d+|experts\.gate_up_proj|block_sparse_moe|router)\..*|.*\.experts\..*"
ADAPTER = r".*\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(\..*|$)"
# Models that lingraft does not adopt, by a tensor that only they have; told so that nobody looks for a fault.
STRANGERS = {
    "DistilBERT": r".*transformer\.layer\.\d+\.attention\.q_lin\..*",
    "OPT": r".*decoder\.layers\.\d+\.fc1\..*",
    "Phi": r".*layers\.\d+\.self_attn\.dense\..*",
    "Phi-3 or GLM": r".*layers\.\d+\.mlp\.gate_up_proj\..*",
    "BLOOM or Falcon": r".*\.self_attention\.query_key_value\..*",
    "T5": r".*\.SelfAttention\.q\.weight",
    "GPT-J": r".*h\.\d+\.attn\.out_proj\..*",
    "ALBERT": r".*albert_layer_groups\..*",
    "DeBERTa": r".*attention\.self\.(query_proj|in_proj)\..*",
    "StarCoder 2": r".*layers\.\d+\.mlp\.c_fc\..*",
    "OLMo 2": r".*layers\.\d+\.post_feedforward_layernorm\..*",
    "StableLM": r".*layers\.\d+\.input_layernorm\.bias",
    "BART or Whisper": r".*\.encoder_attn\..*",
    "Mamba": r".*\.mixer\.A_log",
}
SHOWN = 4


def refuse_unreadable(path: Path, entries: Mapping[str, Entry], findings: Findings) -> None:
    """Note what no config could make a model of: quantised weights, a vision tower, experts, an adapter.

    Problems: `unknown-format`, `unsupported-adapter`, `empty-tensor`.
    """
    for kind, pattern in QUANTISED.items():
        if found := _matching(entries, pattern):
            findings.problem(
                "unknown-format",
                f"{path} holds quantised weights ({kind}), which cannot be read as numbers: {some(found)}",
                "adopt the unquantised original",
                path,
                found[0],
            )
            return
    for what, pattern in (("a vision or audio tower", VISION), ("a mixture of experts", EXPERTS)):
        if found := _matching(entries, pattern):
            findings.problem(
                "unknown-format",
                f"{path} holds {what}: {some(found)}",
                "lingraft adopts language models of one backbone; keep the config that came with it",
                path,
                found[0],
            )
    if found := _matching(entries, ADAPTER):
        findings.problem(
            "unsupported-adapter",
            f"{path} holds an adapter's tensors: {some(found)}",
            "merge the adapter into its base first",
            path,
            found[0],
        )
    if empty := [name for name, entry in entries.items() if 0 in entry.shape]:
        findings.problem(
            "empty-tensor",
            f"{path}: {len(empty)} of {len(entries)} tensors hold nothing: {some(empty)}",
            "save again with the parameters gathered",
            path,
            empty[0],
        )
    whole = [
        name
        for name, e in entries.items()
        if not e.dtype.is_floating_point and len(e.shape) == 2 and e.dtype != torch.bool and name.endswith(".weight")
    ]
    if short := [name for name, e in entries.items() if e.dtype.is_floating_point and e.dtype.itemsize == 1]:
        findings.problem(
            "unknown-format",
            f"{path} holds weights of {entries[short[0]].dtype} without the scales "
            f"that they were divided by: {some(short)}",
            "adopt the unquantised original",
            path,
            short[0],
        )
    if whole:
        findings.problem(
            "unknown-format",
            f"{path} holds weights of integers ({entries[whole[0]].dtype}): {some(whole)}",
            "adopt the unquantised original",
            path,
            whole[0],
        )


def refuse_mixed(path: Path, named: Named, findings: Findings) -> None:
    """Note several models in one checkpoint, layers that are missing or of another size, and unknown names.

    Problems: `config-mismatch` (mixed), `missing-shard` (gaps), `unknown-format` (no family).
    """
    if len(named.models) > 1:
        findings.problem(
            "config-mismatch",
            f"{path} holds {len(named.models)} models: {some(list(named.models))}",
            "adopt one model at a time",
            path,
            named.models[-1],
        )
    elif not named.families:
        kind, given_away = next(
            (
                (kind, matching)
                for kind, pattern in STRANGERS.items()
                if (matching := _matching(named.entries, pattern))
            ),
            ("", list(named.entries)),
        )
        told = f"looks like {kind}: {some(given_away)}" if kind else f"no family has tensors such as {some(given_away)}"
        findings.problem(
            "unknown-format",
            f"{path}: {told}; lingraft adopts {', '.join(known_families())}",
            "keep the config that came with it" if kind else "check that these are a language model's weights",
            path,
            next(iter(given_away), None),
        )
    if findings.problems or not named.families:
        return
    layers: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, entry in named.entries.items():
        if found := re.fullmatch(rf"{re.escape(named.families[0].body)}((?:\w+\.)*?)(\d+)\.(.+)", name):
            layers.setdefault(f"{found[1]}*.{found[3]}", {})[int(found[2])] = entry.shape
    _refuse_uneven(path, named.families[0].body, layers, findings)


def _refuse_uneven(
    path: Path, body: str, layers: Mapping[str, Mapping[int, tuple[int, ...]]], findings: Findings
) -> None:
    count = max((max(found) for found in layers.values()), default=-1) + 1
    gaps = {leaf: sorted(set(range(count)) - set(found)) for leaf, found in layers.items()}
    for leaf, found in layers.items():
        usual = max(set(found.values()), key=list(found.values()).count)
        odd = [number for number, shape in found.items() if shape != usual]
        if odd:
            name = body + leaf.replace("*", str(odd[0]))
            findings.problem(
                "config-mismatch",
                f"{path}: {name} is {list(found[odd[0]])}, in other layers "
                f"{list(usual)}: tensors of several models ({len(odd)} of {len(found)} layers)",
                "take all files from one download",
                path,
                name,
            )
    missing = [body + leaf.replace("*", str(number)) for leaf, numbers in gaps.items() for number in numbers]
    if missing:
        findings.problem(
            "missing-shard",
            f"{path} has {count} layers, and {len(missing)} tensors are missing: {some(missing)}",
            "download the missing files",
            path,
            missing[0],
        )


def _matching(names: Mapping[str, Entry], pattern: str) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]


def some(names: Sequence[str]) -> str:
    """List the first names and count the rest."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
