"""Keep what was tokenised: a second run with the same data, tokenizer and settings begins at once.

A folder a key below ``~/.cache/lingraft/tokens`` (or ``LINGRAFT_CACHE``): ``train.arrow`` and ``validation.arrow`` hold
the tokens, ``*.blocks.npz`` which lie in which block, ``report.json`` what is to be told. Content decides the key, so
that no file name and no date can serve stale tokens. The folders used longest ago go when there is more than
``LINGRAFT_CACHE_GB`` (50) of them.
"""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from filelock import FileLock

from lingraft.cache import cache, prune, touch
from lingraft.data.files import Source
from lingraft.data.hub import Hub
from lingraft.output import output_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA = 1  # raise it when what is made of the same data changes
REPORT = "report.json"


def home() -> Path:
    """Return where tokens are kept."""
    return cache("tokens")


def key_of(depends_on: Any) -> str:
    """Digest everything that the tokens depend on."""
    text = json.dumps([SCHEMA, depends_on], sort_keys=True, ensure_ascii=True, default=str)
    return str(blake3(text.encode()).hexdigest())[:32]


def content_of(sources: Sequence[Source]) -> list[list[str]]:
    """Return the name and a digest of the content of each source."""
    return [[str(source), source.mark if isinstance(source, Hub) else _digest(source)] for source in sources]


def tokenizer_mark(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest what a tokenizer does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    marks = json.dumps([type(tokenizer).__name__, tokenizer.special_tokens_map], sort_keys=True, default=str)
    return str(blake3((known + marks).encode()).hexdigest())


def remembered(key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """Return the folder of a key and whether it was there; ``make`` fills it, once, whoever comes first.

    Where the cache cannot be written, a temporary folder serves this process.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        with FileLock(home() / f".{key}.lock"):  # the processes of a distributed run all ask for the same
            return _made(home() / key, make)
    except OSError as error:
        if error.errno not in (None, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _made(Path(tempfile.mkdtemp(prefix="lingraft-tokens-")) / key, make)


def _made(folder: Path, make: Callable[[Path], None]) -> tuple[Path, bool]:
    if (folder / REPORT).is_file():
        touch(folder)
        return folder, True
    with output_directory(folder, overwrite=True) as partial:
        make(partial)
    prune(report.parent for report in home().glob(f"*/{REPORT}"))
    return folder, False


def _digest(path: Path) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(str(path))
    return str(hasher.hexdigest())
