"""Keep what was measured: a second call is instant, an interrupted one goes on.

Content-addressed: a result lies under the digest of everything it depends on, so that no file name and no date can
serve a stale one. ~/.cache/lingraft, or LINGRAFT_CACHE.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.cache import cache
from lingraft.output import write_json

SCHEMA = 2  # raise it when a measure changes: older results are then never found


def folder() -> Path:
    """Return where results are kept."""
    return cache("evaluate")


def remembered(kind: str, depends_on: list[Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the cached result of ``measure`` for what it depends on, measuring where there is none.

    A cache that cannot be read or written is no reason to fail: the result is then measured again.
    """
    text = json.dumps([SCHEMA, kind, *depends_on], sort_keys=True, ensure_ascii=True, default=str)
    path = folder() / kind / f"{blake3(text.encode()).hexdigest()}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        value = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    except OSError:
        return value
    return value


def digest_of(value: Any) -> str:
    """Return a digest of frozen dataclasses, by their content as it is spelled."""
    return str(blake3(repr(value).encode("utf-8", "surrogatepass")).hexdigest())
