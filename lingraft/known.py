"""Was this model ever verified or evaluated? What the receipts and run folders beside it say.

A model that is handed on (export, push, serve) without either is told of, never refused. A fingerprint names the
weights: a run folder's manifest.json says what its own stages found, and `note` remembers what the verbs
`verify` and `evaluate` found on bare paths (~/.cache/lingraft/known, or LINGRAFT_CACHE).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from lingraft.cache import cache
from lingraft.output import write_json
from lingraft.problems import Problem
from lingraft.weights.json_file import json_or_nothing

MANIFEST = "manifest.json"
What = Literal["verified", "evaluated"]
REMEDIES = {"verified": "lingraft verify {path}", "evaluated": "lingraft evaluate {path} --text HELDOUT"}


@dataclass(frozen=True)
class Known:
    """What is on record for some weights; ``fingerprint`` is None where nothing names them."""

    fingerprint: str | None
    verified: bool = False
    evaluated: bool = False


def never_checked(path: Path, fingerprint: str | None = None) -> list[Problem]:
    """Return warnings where nothing says that the weights at ``path`` were verified, or evaluated.

    ``fingerprint`` is that of the weights, where the caller knows it; else their receipt's. Nothing heavy is read.
    """
    known = look_up(path, fingerprint)
    missing = [what for what, done in (("verified", known.verified), ("evaluated", known.evaluated)) if not done]
    if not missing:
        return []
    which = f"fingerprint {known.fingerprint[:12]}" if known.fingerprint else f"no {MANIFEST} beside it"
    return [
        Problem(
            "not-found",
            f"{path} ({which}): no record that it was ever {' or '.join(missing)}",
            ", ".join(REMEDIES[what].format(path=quote(str(path))) for what in missing),
            str(path),
        )
    ]


def look_up(path: Path, fingerprint: str | None = None) -> Known:
    """Return what is on record for the weights at ``path`` (a directory, a file, an adapter)."""
    receipt = receipt_of(path)
    found = fingerprint or recorded(receipt)
    runs = [json_or_nothing(folder / MANIFEST).get("stages") for folder in (path.absolute().parent, path)]
    states = [stages for stages in runs if isinstance(stages, dict) and _made(stages, path, found)]
    noted = json_or_nothing(_note(found)) if found else {}
    checked = receipt.get("checked")
    checked = checked if isinstance(checked, dict) else {}
    return Known(
        found,
        verified=any(_done(s, "verify") for s in states) or bool(noted.get("verified") or checked.get("verified")),
        evaluated=any(_done(s, "evaluate") for s in states) or bool(noted.get("evaluated") or checked.get("evaluated")),
    )


def receipt_of(path: Path) -> dict[str, Any]:
    """Return the receipt that lies beside some weights, or nothing."""
    return json_or_nothing(path / MANIFEST if path.is_dir() else path.with_name(f"{path.name}.{MANIFEST}"))


def recorded(receipt: dict[str, Any]) -> str | None:
    """Return the fingerprint that a receipt records."""
    for holder in (receipt, receipt.get("result"), receipt.get("source")):
        if isinstance(holder, dict) and isinstance(holder.get("fingerprint"), str):
            return str(holder["fingerprint"])
    return None


def note(what: What, path: Path) -> None:
    """Remember that the weights at ``path`` were verified or evaluated, by their receipt's fingerprint."""
    found = recorded(receipt_of(path))
    if found is None:
        return
    file = _note(found)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**json_or_nothing(file), what: True})
    except OSError:  # a cache that cannot be written is no reason to fail
        return


def _note(fingerprint: str) -> Path:
    return cache("known") / f"{fingerprint}.json"


def _made(stages: dict[str, Any], path: Path, fingerprint: str | None) -> bool:
    """Tell whether a run folder's stages are about these weights."""
    merged = _result(stages, "merge").get("fingerprint")
    if merged is not None and fingerprint is not None:
        return bool(merged == fingerprint)
    models = [m.get("model") for m in _result(stages, "evaluate").get("models") or [] if isinstance(m, dict)]
    named = [*models, *(_result(stages, "verify").get("adapters") or [])]
    return any(Path(str(name)).absolute() == path.absolute() for name in named)


def _done(stages: dict[str, Any], name: str) -> bool:
    """Tell whether a stage ended well: it has a key only then."""
    return isinstance(stages.get(name), dict) and "key" in stages[name]


def _result(stages: dict[str, Any], name: str) -> dict[str, Any]:
    value = stages.get(name)
    result = value.get("result") if isinstance(value, dict) else None
    return result if isinstance(result, dict) else {}
