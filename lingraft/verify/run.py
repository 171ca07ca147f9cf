"""`lingraft verify`: choose the proof that fits what a path is.

An adapter: proof of update against its base. A model with ``--adapter``: the merge, recomputed. A model alone:
its receipt's fingerprint, and with ``--base`` the adapters that the receipt names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.known import note
from lingraft.models import is_adapter, locate, stack
from lingraft.problems import Findings, refuse


def verify(path: str, base: str | None, adapters: Sequence[str], findings: Findings) -> dict[str, Any]:
    """Return the contract's `verify` answer; problems found are left in ``findings``."""
    here = locate(path)
    if is_adapter(here):
        from lingraft.verify.live import is_live, verify_live
        from lingraft.verify.update import verify_adapter

        if adapters:
            refuse(
                "unsupported-adapter",
                f"{path} is an adapter; --adapter goes with a merged model",
                "verify one adapter at a time: lingraft verify ADAPTER --base BASE",
                path,
            )
        check = verify_live if is_live(here) else verify_adapter
        return check(here, stack(here, base).base, findings)
    if base is not None or adapters:
        from lingraft.verify.merged import verify_merged

        if base is None:
            refuse("base-mismatch", f"no base was given to hold {path} against", "add --base MODEL", path)
        told = verify_merged(here, locate(base), [locate(a) for a in adapters] or _of_receipt(here), findings)
    else:
        from lingraft.verify.receipt import verify_receipt

        told = verify_receipt(here, findings)
    if not findings.problems:
        note("verified", here)
    return told


def _of_receipt(model: Path) -> list[Path]:
    """Return the adapters that a merged model's receipt names, where they still lie."""
    from lingraft.weights.hf import read_json

    receipt = model / "manifest.json"
    named = [Path(item["path"]) for item in read_json(receipt).get("adapters", [])] if receipt.is_file() else []
    missing = [str(p) for p in named if not p.exists()]
    if not named or missing:
        what = f"its adapters are gone: {', '.join(missing)}" if missing else "no adapter was given"
        refuse(
            "not-found",
            f"{model}: {what}",
            "add --adapter ADAPTER (repeatable, in order); a model trained in full "
            "is held against its base by `lingraft compare`",
            model,
        )
    return named
