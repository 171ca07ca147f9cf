"""What is known of a model that is about to be shared: base, licence, recipe, results; out of its receipts.

Receipts hold paths of the machine that made them. `shareable` keeps their last part only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lingraft.known import Known, look_up
from lingraft.weights.json_file import read_json

Kind = Literal["model", "adapter", "gguf"]
PUBLISHED = {"lingraft:SmolLM2-135M-Instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub's metadata names it; ``name`` and ``link`` go with `other`."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Origin:
    """What the card is written from.

    ``base`` is the Hub id of the model that all began with, None where it has none that is known. An adapter is
    loaded onto ``onto``, which is another model where the vocabulary grew, and onto the adapters ``below`` it.
    """

    kind: Kind
    base: str | None
    base_shown: str
    onto: str | None
    onto_shown: str
    below: tuple[str, ...]
    licence: Licence | None
    config: Mapping[str, Any]
    receipt: Mapping[str, Any]
    known: Known
    recipe: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # what each training stage answered


def origin(folder: Path, base: str | None = None, licence: str | None = None) -> Origin:
    """Gather what is known of the model in ``folder``; ``base`` and ``licence`` override what is found."""
    receipt = _json(folder / "manifest.json")
    kind: Kind = (
        "adapter"
        if (folder / "adapter_config.json").is_file()
        else "model"
        if (folder / "config.json").is_file()
        else "gguf"
    )
    config = _json(folder / ("adapter_config.json" if kind == "adapter" else "config.json"))
    recipe = next((r for r in _recipes(folder, receipt) if r), {})
    direct = str(
        config.get("base_model_name_or_path")
        or (receipt.get("base") or {}).get("path")
        or config.get("_name_or_path")
        or ""
    )
    named = str(recipe.get("base") or "") or root(direct)
    named = base if base and kind != "adapter" else named
    hub, shown = hub_id(named)
    onto, onto_shown = hub_id(base or direct)
    below = _json(folder / "lingraft.json").get("chain", {}).get("adapters") or []
    stages = _json(folder.absolute().parent / "manifest.json").get("stages") or {}
    known = look_up(folder)
    results = ((stages.get("evaluate") or {}).get("result") or {}).get("models") or [] if known.evaluated else []
    steps = tuple(
        (name, stages[name]["result"])
        for name in ("vocab", "pretrain", "sft", "prefer")
        if isinstance(stages.get(name), dict) and stages[name].get("result")
    )
    return Origin(
        kind,
        hub,
        shown,
        onto,
        onto_shown,
        tuple(Path(str(link.get("path"))).name for link in below),
        Licence(licence) if licence else inherited(named),
        config,
        receipt,
        known,
        recipe,
        tuple(results),
        steps,
    )


def root(name: str) -> str:
    """Follow the receipts of models that lingraft made (grown, merged) down to the one that they began with."""
    for _ in range(8):
        below = (_json(Path(name) / "manifest.json").get("base") or {}).get("path") if name else None
        if not isinstance(below, str):
            break
        name = below
    shipped = f"lingraft:{Path(name).name}"
    return shipped if shipped in PUBLISHED and Path(name).parent.name == "lingraft" else name


def hub_id(name: str) -> tuple[str | None, str]:
    """Return a base's Hub id, or None for a local one, and how it is shown to others."""
    if name in PUBLISHED:
        return PUBLISHED[name][0], PUBLISHED[name][0]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists():
        return name, name
    told = _card(Path(name)).get("base_model") if name and Path(name).is_dir() else None
    return (told, told) if isinstance(told, str) else (None, Path(name).name or "unknown")


def inherited(name: str) -> Licence | None:
    """Return the licence of a base: from the card beside it, else from the Hub's metadata; None where neither tells."""
    if name in PUBLISHED:
        return Licence(PUBLISHED[name][1])
    if name and Path(name).is_dir():
        data = _card(Path(name))
    elif name.count("/") == 1:
        data = _hub_metadata(name)
    else:
        return None
    return (
        Licence(str(data["license"]), data.get("license_name"), data.get("license_link"))
        if data.get("license")
        else None
    )


def _hub_metadata(name: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    try:
        return dict(ModelCard.load(name).data.to_dict())
    except Exception:  # no network, gated, no card: many kinds, and the licence is then unknown
        return {}


def _card(folder: Path) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    try:
        return dict(ModelCard.load(folder / "README.md").data.to_dict())
    except Exception:  # no card, or one that is no card
        return {}


def _recipes(folder: Path, receipt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield receipt.get("recipe") or {}
    yield _json(folder / "lingraft.json").get("recipe") or {}
    for adapter in reversed(receipt.get("adapters") or []):
        path = Path(str(adapter.get("path")))
        for place in (path, folder.absolute().parent / path.name):
            yield _json(place / "lingraft.json").get("recipe") or {}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def shareable(value: Any) -> Any:
    """Return JSON without the folders of this machine: an absolute path keeps its last part."""
    if isinstance(value, Mapping):
        return {key: shareable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shareable(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~/")) and "\n" not in value:
        return Path(value).name
    return value
