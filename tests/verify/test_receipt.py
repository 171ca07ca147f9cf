"""The receipt beside a merged model: what was written is what still lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_models import Merge

from lingraft.merge.run import merge as merge_to
from lingraft.problems import Findings, Refusal
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
    assert [p.code for p in findings.problems] == ["fingerprint-mismatch"]


def test_without_a_receipt_there_is_nothing_to_hold_against(tiny_llama: Path) -> None:
    with pytest.raises(Refusal, match="manifest"):
        verify_receipt(tiny_llama, Findings())
