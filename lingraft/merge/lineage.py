"""lingraft.json: what an adapter was trained on, written beside it, so that no merge has to guess.

The chain names the base and the adapters that were live below this one, each by fingerprint: a later stage trains on
the live base + earlier adapters, not on a rounded intermediate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.output import write_json
from lingraft.problems import refuse
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.hf import read_json
from lingraft.weights.kinds import TOKENIZER_PARTS
from lingraft.weights.tensors import Lazy

FILE = "lingraft.json"
SCHEMA = 1
# The only fields of a base's config that an adapter may change: anything else (auto_map …) could bring code along.
CHANGEABLE = ("max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta")
PACKAGES = ("lingraft", "torch", "transformers", "peft", "safetensors", "tokenizers")


@dataclass(frozen=True)
class Link:
    """One adapter of a chain: its fingerprint says which, its path where it was."""

    fingerprint: str
    path: str


@dataclass(frozen=True)
class Lineage:
    """What an adapter was trained on: base, adapters live below it, quantisation, tokenizer, recipe, versions.

    ``quantisation`` is None or says what the base looked like in training: ``{"method": "nf4" | "fp4" | "int8",
    "double": bool, "dtype": "bfloat16"}``. ``config`` holds the fields of the base's config.json that training changed
    (a longer context: `CHANGEABLE` alone is read back); a merge writes them. ``tokenizer`` is a digest of the one
    trained with.
    """

    base: str
    base_path: str
    adapters: tuple[Link, ...] = ()
    quantisation: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def read_lineage(adapter: Path) -> Lineage | None:
    """Return an adapter's lineage, or None where it has no lingraft.json. Error: `corrupt-file`."""
    path = adapter / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        if int(value["schema"]) > SCHEMA:
            refuse(
                "corrupt-file",
                f"{path} has schema {value['schema']}; this lingraft reads up to {SCHEMA}",
                "update lingraft",
                path,
            )
        chain = value["chain"]
        return Lineage(
            base=str(chain["base"]),
            base_path=str(chain.get("base_path", "")),
            adapters=tuple(Link(str(a["fingerprint"]), str(a.get("path", ""))) for a in chain.get("adapters", ())),
            quantisation=value.get("quantisation"),
            tokenizer=value.get("tokenizer"),
            recipe=value.get("recipe") or {},
            config={name: item for name, item in (value.get("config") or {}).items() if name in CHANGEABLE},
            versions=value.get("versions") or {},
        )
    except (KeyError, TypeError, ValueError) as error:
        refuse(
            "corrupt-file",
            f"{path} is no lineage file: {error!r}",
            "restore it, or delete it to merge by evidence instead",
            path,
        )


def write_lineage(adapter: Path, lineage: Lineage) -> None:
    """Write lingraft.json into an adapter directory, complete or not at all."""
    write_json(
        adapter / FILE,
        {
            "schema": SCHEMA,
            "chain": {
                "base": lineage.base,
                "base_path": lineage.base_path,
                "adapters": [{"fingerprint": a.fingerprint, "path": a.path} for a in lineage.adapters],
            },
            "quantisation": None if lineage.quantisation is None else dict(lineage.quantisation),
            "tokenizer": lineage.tokenizer,
            "recipe": dict(lineage.recipe),
            **({"config": dict(lineage.config)} if lineage.config else {}),
            "versions": dict(lineage.versions or versions()),
        },
    )


def tokenizer_digest(folder: Path) -> str | None:
    """Digest the files of a folder's tokenizer by name and content; None where it holds none."""
    files = [folder / name for name in TOKENIZER_PARTS if (folder / name).is_file()]
    told = "".join(f"{file.name}\t{blake3(file.read_bytes()).hexdigest()}\n" for file in files)
    return str(blake3(told.encode()).hexdigest()) if files else None


def versions() -> dict[str, str]:
    """Return the installed versions of what a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "lingraft":
                from lingraft import __version__

                found[name] = __version__
    return found


def home(adapter: Path) -> Path:
    """Return the folder that holds adapter_config.json: the path itself, or its only such sub-folder.

    peft saves an adapter that is not called "default" into a sub-folder of its name. Error: `not-found`.
    """
    from lingraft.weights import adapter as container

    if found := container.home(adapter):
        return found
    below = sorted(file.parent for file in adapter.glob("*/adapter_config.json")) if adapter.is_dir() else []
    if below:
        refuse(
            "not-found",
            f"{adapter} holds {len(below)} adapters: {', '.join(p.name for p in below)}",
            f"name one of them, for example {_newest(below)}",
            adapter,
        )
    return refuse(
        "not-found",
        f"{adapter} holds no adapter_config.json",
        "give the directory that `save_pretrained` or the Trainer wrote",
        adapter,
    )


def _newest(folders: list[Path]) -> Path:
    return max(folders, key=lambda p: int(p.name.rpartition("-")[2]) if p.name.rpartition("-")[2].isdigit() else -1)


def open_adapter(adapter: Path) -> Lazy:
    """Map the tensors of an adapter directory under the names in its file. Errors: `not-found`, damaged files."""
    from lingraft.weights import adapter as container

    tensors = container.read(adapter).tensors
    assert isinstance(tensors, Lazy)
    return tensors


def adapter_fingerprint(adapter: Path) -> str:
    """Return the fingerprint of an adapter's tensors, as `chain.adapters` names it."""
    return fingerprint(open_adapter(adapter))


def adapter_rows(adapter: Path) -> int | None:
    """Return how many embedding rows an adapter brings or needs, or None where it says nothing about them."""
    from lingraft.merge.names import embeds, parse

    rows: list[int] = []
    for key, entry in open_adapter(adapter).entries.items():
        part = parse(key)
        if part is None or not embeds(part.module) or not entry.shape:
            continue
        if part.role in ("value", "base", "original") and part.parameter == "weight":
            rows.append(entry.shape[0])
        elif part.role == "embedding_A":
            rows.append(entry.shape[-1])
    indices = token_indices(read_json(home(adapter) / "adapter_config.json"))
    rows += [max(found) + 1 for found in indices.values() if found]
    return max(rows, default=None)


def token_indices(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the trainable token indices of an adapter_config.json by layer name ('' for the input embedding)."""
    if str(config.get("peft_type")) == "TRAINABLE_TOKENS":
        return {"": [int(i) for i in config.get("token_indices") or []]}
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        return {str(name): [int(i) for i in indices] for name, indices in given.items()}
    return {"": [int(i) for i in given]} if given else {}
