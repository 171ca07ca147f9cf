"""Collect what lingraft says from its source: the templates of problems, remedies, progress lines and help texts.

`python tests/language/messages_in.py` prints those that have no Chinese yet, as JSON to fill in.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import lingraft
from lingraft.language.catalogue import HOLE, shipped

ROOT = Path(lingraft.__file__).parent
TOLD = {
    "refuse": (1, 2),
    "problem": (1, 2),
    "warn": (1, 2),
    "Problem": (1, 2),
    "say": (0,),
    "track": (0,),
    "BadParameter": (0,),
}
Scope = dict[str, list[ast.expr]]


def collect(root: Path = ROOT) -> dict[str, str]:
    """Return every template with the file that says it."""
    found: dict[str, str] = {}
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for text in (*_messages(tree), *_helps(tree, file)):
            if _has_words(text):
                found.setdefault(text, str(file.relative_to(root)))
    return found


def missing() -> dict[str, str]:
    """Return the templates that have no Chinese."""
    known = shipped().entries
    return {text: file for text, file in collect().items() if text not in known}


def _messages(tree: ast.Module) -> Iterator[str]:
    module = _assigned(tree.body)
    scopes = [
        (node, {**module, **_assigned(ast.walk(node))}) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    for function, scope in scopes:
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and _name(call.func) in TOLD:
                yield from _told(call, scope)


def _told(call: ast.Call, scope: Scope) -> Iterator[str]:
    for place in TOLD[_name(call.func)]:
        if place < len(call.args):
            yield from _templates(call.args[place], scope)
    for word in call.keywords:
        if word.arg in ("message", "remedy"):
            yield from _templates(word.value, scope)


def _helps(tree: ast.Module, file: Path) -> Iterator[str]:
    """Yield what the command line's help says: `help=` of options, and the first paragraph of a verb."""
    if file.parent.name != "cli":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (
                k.value.value
                for k in node.keywords
                if k.arg == "help" and isinstance(k.value, ast.Constant) and isinstance(k.value.value, str)
            )
        if isinstance(node, ast.FunctionDef) and any(
            _name(getattr(d, "func", d)) == "command" for d in node.decorator_list
        ):
            yield " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _templates(node: ast.expr, scope: Scope, depth: int = 3) -> list[str]:
    """Return the texts that an expression can be, with numbered holes; sentences inside holes come on their own."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [
            _joined(node),
            *(
                text
                for part in node.values
                if isinstance(part, ast.FormattedValue)
                for text in _templates(part.value, scope, depth)
                if " " in text
            ),
        ]
    if isinstance(node, ast.IfExp):
        return [*_templates(node.body, scope, depth), *_templates(node.orelse, scope, depth)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _templates(value, scope, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [
            _renumbered(a + "\0" + b)
            for a in _templates(node.left, scope, depth) or ["{0}"]
            for b in _templates(node.right, scope, depth) or ["{0}"]
        ]
    if isinstance(node, ast.Name) and depth:
        return [text for value in scope.get(node.id, []) for text in _templates(value, scope, depth - 1)]
    return []


def _joined(node: ast.JoinedStr) -> str:
    parts = [value.value if isinstance(value, ast.Constant) else None for value in node.values]
    text, holes = "", 0
    for part in parts:
        if part is None:
            text, holes = f"{text}{{{holes}}}", holes + 1
        else:
            text += str(part)
    return text


def _renumbered(text: str) -> str:
    """Number the holes of two joined templates anew."""
    numbers = iter(range(100))
    return HOLE.sub(lambda _: f"{{{next(numbers)}}}", text.replace("\0", ""))


def _assigned(nodes: Iterable[ast.AST]) -> Scope:
    scope: Scope = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            scope.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            scope.setdefault(node.target.id, []).append(node.value)
    return scope


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _has_words(text: str) -> bool:
    return any(char.isalpha() for char in HOLE.sub("", text))


if __name__ == "__main__":
    by_file: dict[str, dict[str, str]] = {}
    for text, file in missing().items():
        by_file.setdefault(file, {})[text] = ""
    print(json.dumps(by_file, ensure_ascii=False, indent=1))
