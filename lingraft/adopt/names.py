"""Bring a bare checkpoint's tensors under Hugging Face names, whatever prefix its trainer left on them.

The prefix of the backbone is found by an anchor, a name that every layer has (`layers.0.self_attn.q_proj.weight`):
what stands before it is replaced by the family's own. Two prefixes with an anchor each are two models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lingraft.adopt import encoders, gpts, llamas
from lingraft.adopt.family import Family
from lingraft.weights.fingerprint import is_buffer
from lingraft.weights.tensors import Entry

FAMILIES: tuple[Family, ...] = (*llamas.FAMILIES, *gpts.FAMILIES, *encoders.FAMILIES)
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # wrappers of single layers
# Buffers that older releases saved: masks and positions, computed anew by every model class.
BUFFERS = re.compile(
    r".*\.(attn\.bias|attention\.bias|position_ids|embeddings\.token_type_ids)|.*rope\.freqs"
    r"|.*freqs_cis|.*\.rotary_emb\.inv_freq"
)
OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
LIVE = {"embed_out.weight": "lm_head.weight"}  # on disk → in transformers 5's class


@dataclass(frozen=True)
class Named:
    """Tensors under the names of one backbone, the buffers among them apart, and the families that fit the names."""

    entries: Mapping[str, Entry]
    buffers: Mapping[str, Entry]
    families: tuple[Family, ...]
    models: tuple[str, ...]  # one tensor of every backbone: more than one are several models


def canonical(entries: Mapping[str, Entry]) -> Named:
    """Rename a checkpoint to Hugging Face names; `families` is empty where no family fits."""
    plain = {_plain(name): entry for name, entry in entries.items()}
    found: list[tuple[Family, dict[str, Entry]]] = []
    for family in FAMILIES:
        for prefix in _prefixes(plain, family)[:1]:
            renamed = {_renamed(name, prefix, family): entry for name, entry in plain.items()}
            shapes = {name: entry.shape for name, entry in renamed.items()}
            if not _is_anothers(prefix, family) and len(shapes.get(family.embedding, ())) == 2 and family.fits(shapes):
                found.append((family, renamed))
    if not found:
        return Named(plain, {}, (), _models(plain))
    renamed = found[0][1]
    fitting = tuple(family for family, _ in found if family.body == found[0][0].body)
    return Named(
        {name: entry for name, entry in renamed.items() if not _is_buffer(name, entry)},
        {name: entry for name, entry in renamed.items() if _is_buffer(name, entry)},
        fitting,
        _models(plain),
    )


def _plain(name: str) -> str:
    for wrapper in INSIDE:
        name = name.replace(wrapper, "")
    for old, new in OLD.items():
        name = name.replace(old, new)
    return name


def _prefixes(names: Mapping[str, Entry], family: Family) -> tuple[str, ...]:
    found = [re.fullmatch(r"(.*?)" + family.anchor, name) for name in names]
    return tuple(sorted({match[1] for match in found if match and (not match[1] or match[1].endswith("."))}, key=len))


def _models(names: Mapping[str, Entry]) -> tuple[str, ...]:
    """Name every backbone in a file by one of its tensors."""
    anchors = {family.anchor: family for family in FAMILIES}
    found = [name for name in names for anchor in anchors if re.fullmatch(r"(?:.*\.)?" + anchor, name)]
    return tuple(sorted(found))


def _is_anothers(prefix: str, family: Family) -> bool:
    """A prefix that names a family decides where two share everything else (BERT and RoBERTa)."""
    return any(
        prefix.endswith(other.body) for other in FAMILIES if other.anchor == family.anchor and other.body != family.body
    )


def _renamed(name: str, prefix: str, family: Family) -> str:
    if name.startswith(prefix) and (prefix or name.split(".")[0] not in family.outside):
        return family.body + name.removeprefix(prefix)
    if family.model_type == "gpt_neox" and name == "lm_head.weight":
        return "embed_out.weight"
    outer = prefix.removesuffix(family.body) if prefix.endswith(family.body) else ""
    return name.removeprefix(outer)


def _is_buffer(name: str, entry: Entry) -> bool:
    mask = name.endswith((".attn.bias", ".attention.bias"))
    return is_buffer(name) or (BUFFERS.fullmatch(name) is not None and (not mask or len(entry.shape) == 4))


def known_families() -> Sequence[str]:
    """List the model types that can be adopted."""
    return [family.model_type for family in FAMILIES]
