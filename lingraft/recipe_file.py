"""Read a recipe from its YAML file, with ``--set a.b=c`` on top: 2e-4 is a number, and no key stands twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lingraft.problems import refuse
from lingraft.recipe import Recipe, parse


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, reading 2e-4 as the number it is (YAML 1.2) and refusing a key given twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file, with ``a.b=c`` overrides.

    Errors: `not-found`, and `recipe-invalid` for every wrong key or value at once, named by its path.
    """
    if not path.is_file():
        refuse("not-found", f"{path} does not exist", "check the path, or make one with `lingraft new`", path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        refuse(
            "recipe-invalid",
            f"{path} is not readable YAML: {' '.join(str(error).split())}",
            "mend the line named",
            path,
        )
    if not isinstance(raw, dict):
        refuse("recipe-invalid", f"{path} holds no keys", "begin from `lingraft new quickstart FILE`", path)
    for item in overrides:
        _override(raw, item, path)
    return parse(raw, path)


def _override(raw: dict[str, Any], item: str, path: Path) -> None:
    key, equals, value = item.partition("=")
    if not equals or not key:
        refuse("recipe-invalid", f"--set {item!r} has no value", "write --set a.b=c", path)
    *parents, last = key.split(".")
    here: Any = raw
    for parent in parents:
        here = (
            here[int(parent)]
            if isinstance(here, list) and parent.isdigit() and int(parent) < len(here)
            else (here.setdefault(parent, {}) if isinstance(here, dict) else None)
        )
        if not isinstance(here, dict | list):
            refuse("recipe-invalid", f"--set {key}: {parent!r} is not a block of {path}", "check the path", path)
    try:
        parsed = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        refuse(
            "recipe-invalid", f"--set {item!r} is not readable YAML: {' '.join(str(error).split())}", "mend it", path
        )
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            refuse("recipe-invalid", f"--set {key}: the list has {len(here)} items", "check the number", path)
        here[int(last)] = parsed
    elif parsed is None and here is raw:
        raw.pop(last, None)  # --set evaluate=null drops a block
    else:
        here[last] = parsed
