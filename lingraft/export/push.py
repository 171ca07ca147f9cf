"""`lingraft push DIR REPO`: a model, adapter or folder of GGUF files to the Hub, with a card written from its receipts.

The files go up as they are; README.md is the card (one that somebody wrote stays), and the JSON receipts lose the
folders of this machine. `--dry-run` writes the card beside the model and lists what would be sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lingraft.export.card import card
from lingraft.export.origin import Origin, origin, shareable
from lingraft.known import never_checked
from lingraft.problems import Findings, refuse
from lingraft.progress import say
from lingraft.weights import adapter, hf
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.gguf_header import read_header

RECEIPTS = ("manifest.json", "lingraft.json")
TEMPLATE = "# Model Card for Model ID"  # what peft writes before anybody wrote anything
SKIPPED = ("checkpoint-", "optimizer", "rng_state", "training_args.bin", "scheduler")


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    base: str | None = None,
    licence: str | None = None,
    languages: Sequence[str] = (),
    overwrite: bool = False,
    findings: Findings,
) -> dict[str, Any]:
    """Upload ``folder`` to the Hub repository ``repo`` and return {repo, url, card, files, bytes, dry_run}.

    HF_ENDPOINT and HF_TOKEN are honoured by huggingface_hub. ``overwrite`` writes the card anew over one that is
    there. Errors: `not-found` (nothing to push, no network), `unreadable` (the Hub refuses), and damaged weights.
    """
    _require_name(repo)
    _require_model(folder, findings)
    known = origin(folder, base, licence)
    _warn(folder, known, findings)
    files = _files(folder)
    text, written = _text(folder, known, repo, [str(f.relative_to(folder)) for f in files], languages, overwrite)
    contents: dict[str, Path | bytes] = {f.relative_to(folder).as_posix(): f for f in files}
    contents |= {name: _shared(folder / name, known) for name in contents if name in (*RECEIPTS, adapter.CONFIG)}
    contents["README.md"] = text.encode()
    listed: list[dict[str, Any]] = [
        {"path": name, "bytes": _size(content)} for name, content in sorted(contents.items())
    ]
    told = {
        "repo": repo,
        "url": None,
        "card": text,
        "files": listed,
        "bytes": sum(f["bytes"] for f in listed),
        "dry_run": dry_run,
    }
    if dry_run:
        if written:
            (folder / "README.md").write_text(text, encoding="utf-8")
        return told
    return {**told, "url": _send(repo, contents, private)}


def _require_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined, unused-ignore]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        refuse(
            "not-found",
            f"{repo!r} is no name that the Hub takes: {str(error).splitlines()[0]}",
            "write OWNER/NAME in letters, digits, - _ and .",
            repo,
        )


def _require_model(folder: Path, findings: Findings) -> None:
    """Refuse a folder that holds no model, and damaged weights, by their headers."""
    if not folder.is_dir():
        refuse("not-found", f"{folder} is no directory", "name the directory of a model or an adapter", folder)
    ggufs = sorted(folder.glob("*.gguf"))
    for file in ggufs:
        read_header(file)
    if not ggufs and not adapter.knows(folder) and not hf.knows(folder):
        refuse(
            "not-found",
            f"{folder} holds no model, adapter or GGUF file",
            "name the directory that merge, export or a training stage wrote",
            folder,
        )
    if not ggufs:
        open_checkpoint(folder)
    findings.settle()


def _warn(folder: Path, known: Origin, findings: Findings) -> None:
    findings.warnings += [w for w in never_checked(folder) if w not in findings.warnings]
    if known.licence is None:
        findings.warn(
            "not-found",
            f"{folder}: the licence of its base ({known.base_shown}) is not known, and the card says so",
            "find it out and add --license ID (apache-2.0, llama2, other …)",
            folder,
        )
    if known.kind == "adapter" and known.onto is None:
        findings.warn(
            "not-found",
            f"{folder} is loaded onto {known.onto_shown}, a directory of this machine, which nobody else has",
            "push that, too, and add --base OWNER/NAME; or push the merged model",
            folder,
        )


def _files(folder: Path) -> list[Path]:
    """List what goes up: everything but hidden files, checkpoints and the optimizer's state."""
    found = (f for f in sorted(folder.rglob("*")) if f.is_file())
    hidden: tuple[str, ...] = (".", "__", *SKIPPED)
    return [f for f in found if not [part for part in f.relative_to(folder).parts if part.startswith(hidden)]]


def _text(
    folder: Path, known: Origin, repo: str, files: Sequence[str], languages: Sequence[str], overwrite: bool
) -> tuple[str, bool]:
    """Return the card, and whether it was written now: one that somebody wrote is kept."""
    own = folder / "README.md"
    if own.is_file() and not overwrite:
        text = own.read_text(encoding="utf-8", errors="replace")
        if text.strip() and TEMPLATE not in text:
            say(f"{own} is there and is kept as the card (--overwrite writes a new one)")
            return text, False
    return card(known, repo, files, languages), True


def _shared(path: Path, known: Origin) -> bytes:
    """Return a receipt, or adapter_config.json, as others may read it."""
    value: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if path.name == adapter.CONFIG:
        value = {**value, "base_model_name_or_path": known.onto or known.onto_shown}
    return (json.dumps(shareable(value), ensure_ascii=False, indent=2) + "\n").encode()


def _size(content: Path | bytes) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _send(repo: str, contents: Mapping[str, Path | bytes], private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        api = HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True).url
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.create_commit(
            url.partition(api.endpoint + "/")[2] or repo, operations, commit_message="Upload with lingraft"
        )
        return str(url)
    except (HFValidationError, LocalTokenNotFoundError) as error:
        _refuse(repo, error, "name it OWNER/NAME, and log in: hf auth login, or HF_TOKEN")
    except OfflineModeIsEnabled:
        refuse("not-found", f"{repo}: the Hub is switched off (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE", repo)
    except HfHubHTTPError as error:
        _refuse(repo, error, "log in with a token that may write there (hf auth login, or HF_TOKEN)")
    except OSError as error:
        _refuse(repo, error, "check the network (HF_ENDPOINT chooses a mirror)")
    except Exception as error:  # the client's HTTP library raises kinds of its own where there is no network
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3", "hf_xet")):
            raise
        _refuse(repo, error, "check the network (HF_ENDPOINT chooses a mirror)")


def _refuse(repo: str, error: Exception, remedy: str) -> NoReturn:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    refuse("unreadable", f"{repo} could not be pushed to {where}: {said.strip()}", remedy, repo)
