"""Who may import whom: the house stays a house."""

import ast
import re
from pathlib import Path

import pytest

import lingraft

ROOT = Path(lingraft.__file__).parent
ROOMS = (
    "weights",
    "merge",
    "verify",
    "adopt",
    "vocab",
    "data",
    "train",
    "plan",
    "evaluate",
    "serve",
    "export",
    "quickstart",
    "language",
    "studio",
)
FOUNDATION = {"problems", "output", "cache", "accelerator", "progress", "sizes", "language"}
# A room may import itself, the foundation, and these.
MAY = {
    "weights": set(),
    "merge": {"weights"},
    "verify": {"weights", "merge", "models", "known"},
    "adopt": {"weights", "models"},
    "data": {"recipe"},
    "vocab": {"weights", "data", "models"},
    "train": {"weights", "merge", "data", "models", "recipe"},
    "plan": {"weights", "data", "models", "recipe", "train"},  # it traces the very loop that trains
    "evaluate": {"weights", "merge", "data", "models", "known"},
    "serve": {"weights", "merge", "models", "known", "export"},
    "export": {"weights", "merge", "data", "models", "known"},
    "language": set(),
    "studio": {"weights", "merge", "verify", "vocab", "evaluate", "serve", "models", "quickstart", "outcome"},  # as cli
    "quickstart": {"weights", "models", "recipe", "recipe_file", "pipeline"},
}


def imported_rooms(file: Path) -> set[str]:
    """Return the top-level names inside lingraft that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("lingraft.")}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_plan_allows(room: str) -> None:
    allowed = MAY[room] | FOUNDATION | {room}
    broken = {
        str(file.relative_to(ROOT)): sorted(imported_rooms(file) - allowed)
        for file in (ROOT / room).rglob("*.py")
        if imported_rooms(file) - allowed
    }
    assert not broken


def test_every_module_opens_by_saying_what_it_is() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_remote_code_is_never_trusted() -> None:
    trusting = [
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if re.search(r"trust_remote_code[\"']?\s*[=:]\s*True", file.read_text(encoding="utf-8"))
    ]
    assert not trusting
