"""Whether weights and config make a whole model, judged by transformers' own class before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lingraft.adopt.probe import build, live_name
from lingraft.adopt.refusals import some
from lingraft.problems import Findings, refuse
from lingraft.weights.tensors import Entry

SPARE = (
    "pooler.",
    "cls.seq_relationship",
    "lm_head.bias",
    "cls.predictions.bias",
    "predictions.decoder.bias",
    "position_ids",
    "rotary_emb",
)


def check_complete(path: Path, config: Mapping[str, Any], entries: Mapping[str, Entry], findings: Findings) -> None:
    """Compare names and shapes with those of the class that the config names.

    Problems: `missing-shard` for tensors that are not there, `unknown-format` for those without a place,
    `config-mismatch` for another shape.
    """
    model = _built(path, config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    entries = {live_name(name, wanted): entry for name, entry in entries.items()}
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.get("tie_word_embeddings") else set()
    kind = config["architectures"][0]
    missing = [name for name in wanted if name not in entries and name not in tied and not _spare(name)]
    strange = [name for name in entries if name not in wanted and not _spare(name)]
    if missing:
        findings.problem(
            "missing-shard",
            f"{path} lacks {len(missing)} tensors of a {kind}: {some(missing)}",
            "download the missing files",
            path,
            missing[0],
        )
    if strange:
        findings.problem(
            "unknown-format",
            f"{path}: {len(strange)} tensors have no place in a {kind}: {some(strange)}",
            "check that the files are of one model, and of this family",
            path,
            strange[0],
        )
    for name in wanted.keys() & entries.keys():
        if wanted[name] != entries[name].shape:
            findings.problem(
                "config-mismatch",
                f"{path}: {name} is {list(entries[name].shape)}; a {kind} of the "
                f"inferred sizes has {list(wanted[name])}",
                "take all files from one download",
                path,
                name,
            )


def check_given(path: Path, config: Mapping[str, Any], given: Mapping[str, Any], findings: Findings) -> None:
    """Hold the finished config against --set and against transformers, which has to build a model by it.

    Problem: `config-mismatch` for a field that the class does not have, or that the tensors make another.
    """
    model = _built(path, config)
    plain = type(model.config)()
    fields = {*plain.to_dict(), *plain.attribute_map, "head_dim", "rope_theta", "rope_scaling"}
    for name, value in given.items():
        if name not in fields and not hasattr(plain, name):
            near = get_close_matches(name, sorted(fields), 1)
            findings.problem(
                "config-mismatch",
                f"--set {name}: a {config['architectures'][0]} has no such field",
                f"did you mean {near[0]}?" if near else "leave it out",
                path,
            )
        elif name in config and config[name] != value:
            findings.problem(
                "config-mismatch",
                f"--set {name}={value}: the tensors make it {config[name]}",
                f"leave {name} out, or give what it follows from",
                path,
            )


def _built(path: Path, config: Mapping[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    try:
        return build(config)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        refuse(
            "config-mismatch",
            f"{path}: transformers builds no {config['architectures'][0]} from this config: "
            f"{type(error).__name__}: {error}",
            "correct config.json, or remove it to have it made anew",
            path,
        )


def _spare(name: str) -> bool:
    return any(part in name for part in SPARE)
