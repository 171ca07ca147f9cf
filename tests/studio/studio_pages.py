"""What the studio's tests share: the server under test, and how they drive its page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import warm


@dataclass
class Studio:
    """A studio that runs, and the folders it shows."""

    address: str
    runs: Path
    base: Path
    adapter: Path


@dataclass
class Seen:
    """What a browser tab did besides showing the page."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def verb(*words: str | Path) -> dict[str, Any]:
    """Return what `lingraft … --json` prints."""
    found: dict[str, Any] = json.loads(warm.lingraft(*words, "--json").stdout)
    return found


def open_page(tab: Any, name: str) -> None:
    place = ["runs", "weights", "vocabulary", "chat"].index(name)
    tab.locator("#pages > .tab-wrapper button[role=tab]").nth(place).click()
    tab.locator(f"#page-{name}").wait_for(state="visible")


def inner(tab: Any, name: str) -> None:
    place = ["inspect", "verify", "merge"].index(name)
    tab.locator("#verb label").nth(place).click()


def write(tab: Any, field: str, text: str) -> None:
    tab.locator(f"#{field} :is(input, textarea)").fill(text)


def drop(tab: Any, *folders: Path) -> None:
    """Let go of folders over the page, as a file manager does: through Chromium's own protocol."""
    tab.locator("#drop-zone").scroll_into_view_if_needed()
    box = tab.locator("#drop-zone").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] - 5}
    data = {"items": [], "files": [str(folder) for folder in folders], "dragOperationsMask": 1}
    session = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def answered(tab: Any, place: str) -> dict[str, Any]:
    """Return the JSON that stands on the page below an answer."""
    tab.wait_for_selector(f"#{place} .outcome pre.json", state="attached")
    found: dict[str, Any] = json.loads(tab.locator(f"#{place} pre.json").text_content())
    return found


def value(tab: Any, place: str, field: str) -> Any:
    return json.loads(tab.locator(f"#{place} [data-field='{field}'] [data-value]").get_attribute("data-value"))


def without_time(found: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in found.items() if key not in ("seconds", "peak_memory", "out")}
