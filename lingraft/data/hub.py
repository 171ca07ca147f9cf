"""Data sets of the Hugging Face Hub by id, and folders that `datasets` has saved, read through `datasets`.

An id is ``owner/name``, with ``:configuration`` and ``@split`` where the data set has several; ``hub:name`` for those
without an owner. ``train`` is the split where none is named. No code of a data set is ever run (`datasets` cannot).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lingraft.problems import refuse

_ID = re.compile(r"^(?:hub:)?(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.+-]+))?(?:@(?P<split>[\w.+\[\]:%-]+))?$")
_FILE = re.compile(r"\.(txt|md|jsonl|json|parquet|csv|tsv|gz|yaml|zip|arrow|xlsx?)$", re.IGNORECASE)
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves beside the data


@dataclass(frozen=True)
class Hub:
    """A data set that `datasets` opens: an id of the Hub, or a folder that `save_to_disk` wrote."""

    given: str
    name: str
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return self.given

    def rows(self) -> Iterator[Any]:
        """Yield the rows, from the disk."""
        yield from self.table

    @property
    def mark(self) -> str:
        """Return what changes when the data set does."""
        return str(self.table._fingerprint)

    @cached_property
    def table(self) -> Any:
        """Return the `datasets.Dataset`. Errors: `not-found`, `unreadable`."""
        from datasets import DatasetDict

        found = _open(self)
        if isinstance(found, DatasetDict):
            wanted = self.split or ("train" if "train" in found else next(iter(found)))
            if wanted not in found:
                refuse(
                    "not-found",
                    f"{self} has no split {wanted!r}; it has {', '.join(found)}",
                    f"name one: {self.name}@{next(iter(found))}",
                    self.given,
                )
            return found[wanted]
        return found


def hub_of(given: str) -> Hub | None:
    """Return the data set that a data path means, or None where it means files."""
    path = Path(given)
    if path.is_dir():
        return Hub(given, given) if any((path / name).is_file() for name in _SAVED) else None
    match = _ID.match(given)
    explicit = given.startswith("hub:")
    if match is None or path.exists() or (not explicit and "/" not in match["name"]):
        return None
    # data/zh.jsonl and data/zh below an existing folder are paths that are not there, not ids.
    if not explicit and (_FILE.search(given) or path.parent.is_dir() or given.startswith(".")):
        return None
    return Hub(given, match["name"], match["config"], match["split"])


def _open(hub: Hub) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        if Path(hub.name).is_dir():
            return datasets.load_from_disk(hub.name)
        return datasets.load_dataset(hub.name, hub.config, split=hub.split)
    except FileNotFoundError as error:  # DatasetNotFoundError is one
        refuse(
            "not-found",
            f"{hub} is neither a file here nor a data set of the Hub: {_line(error)}",
            "check the name, HF_TOKEN for a gated one, and HF_ENDPOINT for a mirror",
            hub.given,
        )
    except (ConnectionError, OSError) as error:
        refuse(
            "not-found",
            f"{hub} is no file here, and the Hub cannot be reached: {_line(error)}",
            "go online (HF_HUB_OFFLINE, HF_ENDPOINT), or name a local path",
            hub.given,
        )
    except (ValueError, RuntimeError, DatasetsError) as error:
        refuse(
            "unreadable",
            f"{hub} cannot be opened: {_line(error)}",
            "name its configuration and split: owner/name:configuration@split",
            hub.given,
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
