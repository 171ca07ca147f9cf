"""What is handed on without ever having been verified or evaluated is said so, by its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lingraft.export.run import export
from lingraft.known import look_up, never_checked, note
from lingraft.merge.run import merge
from lingraft.problems import Findings

Make = Callable[..., Path]


def a_run(tiny: Path, adapter: Make, **stages: object) -> Path:
    """A run folder with an adapter, a merged model, and a manifest that says which stages are done."""
    made = adapter(tiny, "pretrain")
    run = made.parent
    told = merge(tiny, [made], run / "merged", findings=Findings())
    done = {"merge": {"key": "k", "result": {"fingerprint": told["fingerprint"]}}, **stages}
    (run / "manifest.json").write_text(json.dumps({"stages": done}))
    return run


def test_a_model_that_nobody_checked_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    findings = Findings()
    export(tiny_llama, tmp_path / "m.gguf", findings=findings)
    assert "verified or evaluated" in findings.warnings[0].message and not findings.problems


def test_a_run_that_verified_and_evaluated_is_enough(tiny_llama: Path, adapter: Make) -> None:
    run = a_run(tiny_llama, adapter, verify={"key": "k"}, evaluate={"key": "k"})
    assert never_checked(run / "merged") == []


def test_base_and_adapters_count_as_the_merged_model_of_the_run(tiny_llama: Path, adapter: Make) -> None:
    run = a_run(tiny_llama, adapter, verify={"key": "k"}, evaluate={"key": "k"})
    findings = Findings()
    export(run / "pretrain", run / "m.gguf", base=str(tiny_llama), findings=findings)
    assert findings.warnings == []
    assert look_up(run / "m.gguf").verified and look_up(run / "m.gguf").evaluated  # its receipt says so


def test_a_stage_that_began_and_was_refused_is_no_proof(tiny_llama: Path, adapter: Make) -> None:
    run = a_run(tiny_llama, adapter, verify={"begun": "k"}, evaluate={"key": "k"})
    assert "ever verified" in never_checked(run / "merged")[0].message


def test_other_weights_in_the_same_place_are_not_the_ones_that_were_checked(tiny_llama: Path, adapter: Make) -> None:
    run = a_run(tiny_llama, adapter, verify={"key": "k"}, evaluate={"key": "k"})
    assert never_checked(run / "merged", fingerprint="0" * 64)


def test_a_note_is_remembered_by_fingerprint(tiny_llama: Path, adapter: Make) -> None:
    run = a_run(tiny_llama, adapter)
    (run / "manifest.json").unlink()
    note("verified", run / "merged")
    assert "ever evaluated" in never_checked(run / "merged")[0].message
    (run / "merged").rename(run / "moved")
    note("evaluated", run / "moved")
    assert never_checked(run / "moved") == []


def test_a_broken_receipt_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[")
    assert len(never_checked(tmp_path)) == 1
