"""The export verb: a model, or base + adapters that nobody merged, as a file or folder for another runtime.

    lingraft export MODEL [--adapter A]… [--base B] --to gguf --type Q8_0 --out FILE

TARGETS is the table: one function a target. A receipt lies beside a file (FILE.manifest.json) and inside a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from lingraft.export import adapter, gguf, kquants, quantised
from lingraft.export.source import Source, check_base, open_source
from lingraft.known import look_up, never_checked
from lingraft.merge.ends import Tied
from lingraft.merge.lineage import versions
from lingraft.output import check_free, output_directory, output_file, require_space, write_json
from lingraft.problems import Findings, refuse
from lingraft.weights.fingerprint import fingerprint

SCHEMA = 1
FILES = ("gguf", "gguf-adapter")  # targets that are one file
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Wish:
    """What is asked of a target."""

    out: Path
    type: str | None
    overwrite: bool
    findings: Findings
    command: tuple[str, ...]
    data: tuple[str, ...] = ()


def export(
    model: str | Path,
    out: Path,
    *,
    to: str = "gguf",
    type: str | None = None,
    base: str | None = None,
    adapters: Sequence[str | Path] = (),
    tied: Tied = "auto",
    data: Sequence[str] = (),
    overwrite: bool = False,
    findings: Findings,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Export a model to ``out`` and return what was written: `out`, `to`, `type`, `bytes`, `fingerprint`, …

    ``data`` is calibration text, for the targets that want some. Errors: `not-found`, `output-exists`, `no-space`,
    `unknown-format`, what refuses a merge, and those of the target.
    """
    started = time.monotonic()
    check(to, type, data, findings)
    if to in FILES and out.is_dir():
        refuse("output-exists", f"{out} is a folder, and {to} is one file", "name a file: --out FILE.gguf", out)
    check_free(out, overwrite)
    wish = Wish(out, type, overwrite, findings, tuple(command), tuple(data))
    told = TARGETS[to](lambda: open_source(model, base, adapters, findings, tied), wish)
    return {"out": str(out), "to": to, **told, "seconds": round(time.monotonic() - started, 3)}


def check(to: str, type: str | None, data: Sequence[str], findings: Findings) -> None:
    """Refuse what can be refused before a model is there: an unknown target or type, a library that is missing."""
    if to not in TARGETS:
        refuse("unknown-format", f"{to!r} is nothing that lingraft exports to", f"use one of {', '.join(TARGETS)}")
    if to == "gguf" and (kind := gguf.kind_of(type)) in kquants.TYPES:
        kquants.require(kind)
    elif to == "gguf-adapter":
        adapter.kind_of(type)
    elif to in ("bnb", "awq", "gptq"):
        quantised.settings(to, type, data, findings)


def _gguf(opened: Callable[[], Source], wish: Wish) -> dict[str, Any]:
    kind = gguf.kind_of(wish.type)
    source = opened()
    digest = _digest(source, wish.findings)
    with output_file(wish.out, wish.overwrite) as partial:
        told = gguf.write(source.checkpoint, partial, kind, digest, wish.findings)
        size, held = partial.stat().st_size, blake3(max_threads=blake3.AUTO).update_mmap(str(partial)).hexdigest()
    told |= {"bytes": size, "fingerprint": digest}
    _receipt(wish, "gguf", source, told, {"file": {"name": wish.out.name, "bytes": size, "blake3": held}})
    return {**told, "applied": source.as_json()["applied"], "manifest": str(_beside(wish.out))}


def _gguf_adapter(opened: Callable[[], Source], wish: Wish) -> dict[str, Any]:
    kind = adapter.kind_of(wish.type)
    source = opened()
    made = adapter.plan(source, wish.findings)
    _warn_unchecked(source, None, wish.findings)
    check_base(source, wish.findings)
    require_space(wish.out, made.nbytes)
    with output_file(wish.out, wish.overwrite) as partial:
        told = adapter.write(made, partial, kind)
        size = partial.stat().st_size
    told |= {"bytes": size}
    _receipt(wish, "gguf-adapter", source, told, {"file": {"name": wish.out.name, "bytes": size}})
    return {**told, "manifest": str(_beside(wish.out))}


def _hf(opened: Callable[[], Source], wish: Wish) -> dict[str, Any]:
    from lingraft.merge.run import merge

    source = opened()
    if not source.adapters:
        refuse(
            "unknown-format",
            f"{source.path} is a model already: there is no adapter to merge",
            "name an adapter, add --adapter, or use `lingraft convert SRC DST --to hf`",
            source.path,
        )
    return merge(
        source.stack.base,
        source.stack.adapters,
        wish.out,
        dtype=wish.type or "keep",
        overwrite=wish.overwrite,
        findings=wish.findings,
        command=wish.command,
    )


def _quantised(to: str) -> Callable[[Callable[[], Source], Wish], dict[str, Any]]:
    def run(opened: Callable[[], Source], wish: Wish) -> dict[str, Any]:
        settings = quantised.settings(to, wish.type, wish.data, wish.findings)
        source = opened()
        digest = _digest(source, wish.findings)
        with output_directory(wish.out, wish.overwrite) as partial:
            told: dict[str, Any] = quantised.write(source, partial, settings)
            told |= {"bytes": sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())}
            manifest = _manifest(wish, to, source, digest, told)
            write_json(partial / MANIFEST, {"fingerprint": told["fingerprint"], **manifest})
        return told

    return run


TARGETS: dict[str, Callable[[Callable[[], Source], Wish], dict[str, Any]]] = {
    "gguf": _gguf,
    "gguf-adapter": _gguf_adapter,
    "hf": _hf,
    "bnb": _quantised("bnb"),
    "awq": _quantised("awq"),
    "gptq": _quantised("gptq"),
}


def _digest(source: Source, findings: Findings) -> str:
    """Return the fingerprint of what is exported, and say where nothing is on record for it."""
    check_base(source, findings)
    digest = fingerprint(source.checkpoint.tensors)
    _warn_unchecked(source, digest, findings)
    return digest


def _warn_unchecked(source: Source, digest: str | None, findings: Findings) -> None:
    findings.warnings += [w for w in never_checked(source.path, digest) if w not in findings.warnings]


def _receipt(wish: Wish, to: str, source: Source, told: dict[str, Any], more: dict[str, Any]) -> None:
    digest = told.get("fingerprint")
    write_json(_beside(wish.out), {**_manifest(wish, to, source, digest, told), **more})


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.{MANIFEST}")


def _manifest(wish: Wish, to: str, source: Source, digest: str | None, told: dict[str, Any]) -> dict[str, Any]:
    known = look_up(source.path, digest)
    return {
        "schema": SCHEMA,
        "export": to,
        "source": {"path": str(source.path), "fingerprint": digest, **source.as_json()},
        "result": told,
        "checked": {"verified": known.verified, "evaluated": known.evaluated},
        "versions": versions(),
        "command": list(wish.command),
        "allowed": [p.as_json() for p in wish.findings.allowed],
        "warnings": [w.as_json() for w in wish.findings.warnings],
    }
