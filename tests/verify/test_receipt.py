"""The receipt beside a merged model: what was written is what still lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verify_models import Merge

from lingraft.merge.run import merge as merge_to
from lingraft.problems import Findings, Refusal
from lingraft.verify.merged import verify_merged
from lingraft.verify.receipt import verify_receipt


@pytest.fixture
def written(merge: Merge, tmp_path: Path) -> Path:
    merge_to(merge.base, merge.adapters, tmp_path / "out", findings=Findings())
    return tmp_path / "out"


def test_what_merge_wrote_matches_its_receipt(written: Path) -> None:
    findings = Findings()
    assert verify_receipt(written, findings)["match"] and not findings.problems


def test_one_flipped_bit_breaks_the_receipt(written: Path) -> None:
    file = next(written.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    findings = Findings()
    assert not verify_receipt(written, findings)["match"]
    assert [(p.code, p.tensor) for p in findings.problems] == [("fingerprint-mismatch", _last_tensor(file))]


def _last_tensor(file: Path) -> str:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    return max(header, key=lambda name: header[name]["data_offsets"][1])


def test_a_single_file_has_its_receipt_beside_it(merge: Merge, tmp_path: Path) -> None:
    merge_to(merge.base, merge.adapters, tmp_path / "m.gguf", to="gguf", findings=Findings())
    findings = Findings()
    assert verify_receipt(tmp_path / "m.gguf", findings)["match"]
    verify_merged(tmp_path / "m.gguf", merge.base, merge.adapters, findings)
    assert not findings.problems and not findings.warnings


def test_without_a_receipt_there_is_nothing_to_hold_against(tiny_llama: Path) -> None:
    with pytest.raises(Refusal, match="manifest"):
        verify_receipt(tiny_llama, Findings())
