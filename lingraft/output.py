"""Write outputs completely or not at all: beside their final name, renamed at the end."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lingraft.problems import refuse

# A full disk, a file that may not grow further, an exhausted quota (Windows has no name for the last).
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def check_free(out: Path, overwrite: bool, made_from: Iterable[Path] = ()) -> None:
    """Refuse an output that exists already (`output-exists`) unless it is empty or may be overwritten.

    What the output is made from is never overwritten: neither the folder itself, nor one around it.
    """
    there = out.resolve()
    for path in made_from if out.exists() else ():
        if there in ((here := path.resolve()), *here.parents):
            refuse(
                "output-exists",
                f"{out} holds {path}, which the result is made from: writing it would delete that",
                "choose another --out",
                out,
            )
    if overwrite or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    refuse(
        "output-exists",
        f"{out} exists already and is not empty",
        "choose another --out, or add --overwrite to replace it",
        out,
    )


def require_space(out: Path, nbytes: int) -> None:
    """Refuse (`no-space`) before a byte is written when the disk below ``out`` cannot hold ``nbytes``."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < nbytes:
        refuse(
            "no-space",
            f"{out} needs {nbytes:,} bytes; {free:,} are free on its disk",
            "free some space, or choose an --out on another disk",
            out,
        )


def check_file_place(out: Path) -> None:
    """Make the folder that a file will lie in; refuse (`output-exists`) a name that is a folder's."""
    if out.is_dir():
        refuse("output-exists", f"{out} is a folder, and a file is due", "name a file in it", out)
    out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def output_directory(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside ``out``; rename it to ``out`` on success, remove it on any failure.

    Leftovers of a killed run (same name, dead process) are removed first. Errors: `output-exists`, `no-space`.
    """
    check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        _replace(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        _explain(error, out)
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def output_file(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path beside ``out`` to write to; rename it on success, remove it on any failure."""
    if out.exists() and not overwrite:
        refuse("output-exists", f"{out} exists already", "choose another name, or add --overwrite", out)
    check_file_place(out)
    _sweep(out)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        yield partial
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        _explain(error, out)
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that is complete or absent."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _replace(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.replace(out)
        return
    # A directory cannot be renamed over a non-empty one: the old one steps aside and goes last.
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    out.replace(old)
    partial.replace(out)
    shutil.rmtree(old) if old.is_dir() else old.unlink()


def _sweep(out: Path) -> None:
    for left in out.parent.glob(f".{out.name}.partial-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _alive(pid: int) -> bool:
    import psutil

    return pid != os.getpid() and bool(psutil.pid_exists(pid))


def _explain(error: OSError, out: Path) -> None:
    if error.errno in FULL:
        refuse(
            "no-space",
            f"no room to write {out} to its end ({error.strerror}); nothing was left behind",
            "free some space, or choose an --out on another disk",
            out,
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        refuse("unreadable", f"{out} cannot be written: {error.strerror}", "choose another --out", out)
