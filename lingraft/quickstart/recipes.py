"""The recipes that ship with lingraft: `lingraft new NAME FILE`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from lingraft.output import output_file
from lingraft.problems import refuse

FOLDER = Path(__file__).parent.parent / "recipes"


def names() -> list[str]:
    """List the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def copy(name: str, file: Path, overwrite: bool = False) -> dict[str, Any]:
    """Copy a shipped recipe to FILE. Errors: `not-found` (lists the names), `output-exists`."""
    source = FOLDER / f"{name}.yaml"
    if name not in names():
        refuse("not-found", f"there is no recipe {name!r}", f"choose one of: {', '.join(names())}", name)
    with output_file(file, overwrite) as partial:
        partial.write_bytes(source.read_bytes())
    return {"recipe": name, "out": str(file), "next": f"lingraft check {quote(str(file))}"}
