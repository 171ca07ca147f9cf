"""Take in what is dropped on the page: whole folders, which the browser (drop.js) walks and sends file by file.

gradio's own field takes files alone and forgets which folder each lay in. What arrives lies in a temporary folder for
as long as the studio runs.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lingraft.problems import Refusal
from lingraft.studio.html import tag
from lingraft.studio.words import Both

SCRIPT = Path(__file__).with_name("drop.js")
BATCH = re.compile(r"[0-9a-f]{16}")
SPARE = 100_000_000  # bytes that stay free on the disk


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lingraft-dropped-", ignore_cleanup_errors=True)


@dataclass(frozen=True)
class Drops:
    """What was dropped, a folder a time; removed with this value, at the latest when the studio ends."""

    held: tempfile.TemporaryDirectory[str] = field(default_factory=_folder)

    async def take(self, request: Request) -> Response:
        """POST /drop/BATCH?path=NAME/FILE: keep one file. 400 for a path that leads elsewhere, 507 for a full disk."""
        target = self.place(request.path_params["batch"], request.query_params.get("path", ""))
        if target is None:
            return PlainTextResponse("this is no path of a dropped file", 400)
        told = request.headers.get("content-length", "")
        if int(told if told.isdigit() else 0) + SPARE > shutil.disk_usage(self.held.name).free:
            return PlainTextResponse("the disk is too full for a copy: type the folder's path instead", 507)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        return Response(status_code=204)

    def place(self, batch: str, name: str) -> Path | None:
        """Return where a file of a batch goes, None for a name that leads out of it."""
        parts = PurePosixPath(name).parts
        odd = any(p in ("..", "/") or set(p) & set("\\:\0") or len(p.encode()) > 255 for p in parts)
        if not BATCH.fullmatch(batch) or not parts or odd:
            return None
        return Path(self.held.name, batch, *parts)

    def whole(self, batch: str) -> Path:
        """Return the folder of a batch that has arrived: what was dropped, where that was one folder."""
        folder = Path(self.held.name, batch if BATCH.fullmatch(batch) else "none")
        inside = list(folder.iterdir()) if folder.is_dir() else []
        return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


@dataclass(frozen=True)
class Dropped:
    """What a dropped folder is to the forms: an adapter (or several) and a base, as far as they are there."""

    path: Path
    adapters: tuple[Path, ...]
    base: str

    @property
    def out(self) -> str:
        """A new folder for their merge, where the studio was started."""
        return str(Path.cwd() / f"{self.adapters[-1].name}-merged") if self.adapters else ""


def look_at(folder: Path) -> Dropped:
    """Return which of a folder (itself, else the folders in it) are adapters, and which base belongs to them.

    The base is one that was dropped with them, else the one that a single adapter names, with the adapters that were
    live below it, where those are on this machine.
    """
    own = (
        [folder]
        if _is(folder, "adapter_config.json", "config.json")
        else sorted(f for f in folder.iterdir() if f.is_dir())
        if folder.is_dir()
        else []
    )
    adapters = tuple(f for f in own if _is(f, "adapter_config.json"))
    bases = [f for f in own if f not in adapters and _is(f, "config.json")]
    if bases or len(adapters) != 1:
        return Dropped(folder, adapters, str(bases[0]) if bases else "")
    from lingraft import models

    try:
        found = models.stack(adapters[0])
    except Refusal:
        return Dropped(folder, adapters, "")
    return Dropped(folder, tuple(a for a in found.adapters if a.exists()), str(found.base))


def _is(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def zone() -> Markup:
    """Return the place to drop at; drop.js finds it by its id."""
    pick = Both("choose a folder", "选择文件夹")
    return tag(
        "div",
        tag(
            "p",
            Both("Drop a folder or files here, or ", "将文件夹或文件拖到这里，或"),
            tag("button", pick, type="button", class_="pick"),
            class_="ask",
        ),
        tag(
            "p",
            Both("It is copied: type the path of a large model.", "内容会被复制：大模型请直接填路径。"),
            class_="soft",
        ),
        tag("p", class_="state-line", role="status"),
        id="drop-zone",
    )
