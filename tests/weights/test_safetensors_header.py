"""A safetensors header that does not describe the file to the byte is refused; the safetensors package is the judge."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from lingraft.problems import Refusal
from lingraft.weights.safetensors_header import read_listing


def item(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def write(path: Path, listing: dict[str, Any], data: int) -> Path:
    raw = json.dumps(listing).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


@pytest.mark.parametrize(
    ("listing", "data"),
    [
        ({"a": item(0, 8), "b": item(12, 20)}, 20),  # a hole
        ({"a": item(0, 8), "b": item(4, 12)}, 12),  # one over the other
        ({"a": item(4, 12)}, 12),  # nothing at the start
        ({"a": item(0, 8)}, 12),  # bytes behind the last
        ({"a": item(0, 8, shape=(3,))}, 8),
        ({"a": item(0, 8, shape=(-1, -2))}, 8),
        ({"a": item(0, 8, dtype="F12")}, 8),
        ({"a": item(8, 0)}, 8),
        ({"a": {"dtype": "F32"}}, 8),
        ({"a": 1}, 8),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_corrupt(tmp_path: Path, listing: dict[str, Any], data: int) -> None:
    path = write(tmp_path / "m.safetensors", listing, data)
    with pytest.raises(SafetensorError):
        safe_open(path, "pt")
    with pytest.raises(Refusal) as refusal:
        read_listing(path)
    assert [problem.code for problem in refusal.value.problems] == ["corrupt-file"]


def test_one_that_fits_is_read_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"b": item(8, 16), "a": item(0, 8), "none": item(8, 8, shape=(0, 3))}, 16)
    assert set(read_listing(path).tensors) == set(safe_open(path, "pt").keys()) == {"a", "b", "none"}
