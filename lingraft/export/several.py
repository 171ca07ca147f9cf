"""The export stage of a recipe: every file that its `export:` list asks for, into one folder.

export: [{to: gguf, type: Q8_0}, {to: gguf, type: Q4_K_M}, {to: gguf-adapter}, {to: bnb, type: nf4}]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lingraft.export.run import export
from lingraft.models import Stack
from lingraft.problems import Findings


class Item(Protocol):
    """One entry of the list."""

    @property
    def to(self) -> str: ...
    @property
    def type(self) -> str | None: ...
    @property
    def data(self) -> Sequence[str]: ...


def export_all(
    final: Path,
    live: Stack,
    folder: Path,
    name: str,
    wanted: Sequence[Item],
    findings: Findings,
    command: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Export the run's final model (for `gguf-adapter`, each of its adapters) and return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for item in wanted:
        sources = live.adapters if item.to == "gguf-adapter" else (final,)
        for source in sources:
            told.append(
                export(
                    source,
                    folder / _name(name, item, source),
                    to=item.to,
                    type=item.type,
                    data=item.data,
                    overwrite=True,
                    findings=findings,
                    command=command,
                )
            )
    return told


def _name(name: str, item: Item, source: Path) -> str:
    if item.to == "gguf":
        return f"{name}-{item.type or 'Q8_0'}.gguf"
    if item.to == "gguf-adapter":
        return f"{name}-{source.name}-lora.gguf"
    return f"{name}-{item.to}" + (f"-{item.type}" if item.type else "")
