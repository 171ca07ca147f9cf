"""`lingraft export --to gguf`: one file that llama.cpp opens and answers from as transformers does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from export_judges import LlamaCpp, agree, greedy, next_token, wide
from transformers import AutoModelForCausalLM, AutoTokenizer

from lingraft.export import kquants
from lingraft.export.run import export
from lingraft.merge.run import merge
from lingraft.problems import Findings, Refusal
from lingraft.weights import gguf, hf
from lingraft.weights.fingerprint import fingerprint

IDS = [5, 77, 103, 8, 200, 31, 9, 44, 45, 300]
Make = Callable[..., Path]


def test_base_and_adapters_are_exported_as_they_would_be_merged(
    tiny_llama: Path, adapter: Make, tmp_path: Path
) -> None:
    one, two = adapter(tiny_llama, "one", scale=0.02), adapter(tiny_llama, "two", seed=2, scale=0.02)
    told = export(tiny_llama, tmp_path / "m.gguf", adapters=[one, two], type="F32", findings=Findings())
    merge(tiny_llama, [one, two], tmp_path / "merged", findings=Findings())
    theirs = fingerprint(hf.read(tmp_path / "merged").tensors)
    assert told["exact"] and told["fingerprint"] == theirs == fingerprint(gguf.read(tmp_path / "m.gguf").tensors)


def test_llama_cpp_answers_from_an_adapter_directory_as_peft_does(
    tiny_llama: Path, adapter: Make, tmp_path: Path
) -> None:
    from peft import PeftModel

    made = adapter(tiny_llama)
    export(made, tmp_path / "m.gguf", base=str(tiny_llama), type="F32", findings=Findings())
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), made)
    engine = LlamaCpp(tmp_path / "m.gguf")
    assert agree(next_token(live, IDS), engine.next_token(IDS))
    assert engine.greedy(IDS, 16) == greedy(live, IDS, 16)


def test_the_template_comes_along(tiny_llama: Path, tmp_path: Path) -> None:
    export(tiny_llama, tmp_path / "m.gguf", findings=Findings())
    messages = [{"role": "user", "content": "hi"}]
    theirs = AutoTokenizer.from_pretrained(tiny_llama).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert LlamaCpp(tmp_path / "m.gguf").post("/apply-template", {"messages": messages})["prompt"] == theirs


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "q4_0"])
def test_every_type_opens(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    told = export(tiny_llama, tmp_path / "m.gguf", type=kind, findings=Findings())
    assert told["type"] == kind.upper() and told["types"][kind.upper()] > 1
    assert LlamaCpp(tmp_path / "m.gguf").next_token(IDS)


def test_a_k_quant_is_written_by_llama_quantize(tmp_path: Path) -> None:
    if kquants.find() is None:
        pytest.skip("no llama-quantize on PATH, and ik-llama-cpp-python is not installed")
    told = export(wide(tmp_path / "wide"), tmp_path / "m.gguf", type="Q4_K_M", findings=Findings())
    assert told["types"]["Q4_K"] > 0 and not told["exact"]
    assert LlamaCpp(tmp_path / "m.gguf").next_token(IDS)
    assert sorted(p.name for p in tmp_path.glob("*gguf*")) == ["m.gguf", "m.gguf.manifest.json"]


def test_a_k_quant_without_a_quantiser_is_refused_with_the_way_to_get_one(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kquants, "find", lambda: None)
    with pytest.raises(Refusal) as refusal:
        export(tiny_llama, tmp_path / "m.gguf", type="Q4_K_M", findings=Findings())
    assert "ik-llama-cpp-python" in refusal.value.problems[0].remedy
    assert not list(tmp_path.glob("*gguf*"))


def test_the_receipt_says_what_the_file_was_made_of(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    made = adapter(tiny_llama)
    told = export(made, tmp_path / "m.gguf", base=str(tiny_llama), findings=Findings(), command=["lingraft", "export"])
    receipt = json.loads((tmp_path / "m.gguf.manifest.json").read_text())
    assert receipt["source"]["fingerprint"] == told["fingerprint"]
    assert receipt["source"]["adapters"][0]["path"] == str(made)
    assert receipt["file"]["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert receipt["checked"] == {"verified": False, "evaluated": False}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"to": "onnx"}, "unknown-format"),
        ({"type": "Q9"}, "unknown-format"),
        ({"adapters": ["./none"]}, "not-found"),
        ({"to": "gguf-adapter"}, "unsupported-adapter"),
        ({"to": "hf"}, "unknown-format"),
        ({"to": "awq"}, "data-invalid"),
        ({"to": "bnb", "type": "int3"}, "unknown-format"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_left(
    options: dict[str, str], code: str, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refusal) as refusal:
        export(tiny_llama, tmp_path / "x", **options, findings=Findings())  # type: ignore[arg-type]
    assert [p.code for p in refusal.value.problems] == [code]
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_there_is_not_overwritten_unasked(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(Refusal, match="output-exists"):
        export(tiny_llama, tmp_path / "m.gguf", findings=Findings())
    assert (tmp_path / "m.gguf").read_text() == "mine"
    export(tiny_llama, tmp_path / "m.gguf", overwrite=True, findings=Findings())
    assert (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"


def test_a_model_without_a_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    bare = shutil.copytree(tiny_llama, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    with pytest.raises(Refusal, match="tokenizer-mismatch"):
        export(bare, tmp_path / "m.gguf", findings=Findings())
