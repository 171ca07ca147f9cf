"""Save defects of peft that are known by version: an adapter that comes from one deserves a second look.

Found in peft's own issue tracker; the number is the issue or pull request there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lingraft.merge.adapter import Adapter
from lingraft.problems import Code, Findings

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Defect:
    """What went wrong from one peft version to before another, and for which adapters."""

    first: Version
    fixed: Version
    concerns: Callable[[Adapter], bool]
    code: Code
    what: str


def _starts_inside(adapter: Adapter) -> bool:
    return str(adapter.config.get("init_lora_weights")).lower().startswith(("pissa", "olora", "lora_ga"))


DEFECTS = (
    Defect(
        (0, 15, 0),
        (0, 15, 1),
        lambda a: bool(a.config.get("modules_to_save")),
        "module-not-updated",
        "may have lost its modules_to_save when it was saved under DeepSpeed ZeRO-3 (peft #2450)",
    ),
    Defect(
        (0, 17, 0),
        (0, 17, 1),
        lambda a: bool(a.config.get("target_parameters")),
        "missing-adapter-tensors",
        "may hold wrong target_parameters where several adapters were loaded (peft #2710)",
    ),
    Defect(
        (0, 18, 1),
        (0, 18, 2),
        _starts_inside,
        "module-not-updated",
        "may have stopped training at its first converted checkpoint (peft #3290)",
    ),
)


def warn(adapter: Adapter, findings: Findings) -> None:
    """Warn where an adapter comes from a version with a known save defect that concerns it."""
    version = saved_by(adapter)
    for defect in DEFECTS:
        if version is not None and defect.first <= version < defect.fixed and defect.concerns(adapter):
            findings.warn(
                defect.code,
                f"{adapter.path} was saved by peft {'.'.join(map(str, version))} and {defect.what}",
                "verify it: lingraft verify ADAPTER --base BASE",
                adapter.path,
            )


def saved_by(adapter: Adapter) -> Version | None:
    """Return the peft version that saved an adapter, by its config, lineage or model card."""
    named = adapter.config.get("peft_version") or (adapter.lineage.versions.get("peft") if adapter.lineage else None)
    return _parse(str(named)) if named else _by_card(adapter.path / "README.md")


def _by_card(card: Path) -> Version | None:
    if not card.is_file():
        return None
    found = re.search(r"^-\s*PEFT\s+(\d+\.\d+\.\d+)", card.read_text(encoding="utf-8", errors="replace"), re.M | re.I)
    return _parse(found[1]) if found else None


def _parse(text: str) -> Version | None:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
