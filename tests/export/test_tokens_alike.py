"""llama.cpp must cut mixed Chinese and English text as transformers does, also into tokens that lingraft added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from export_judges import LlamaCpp
from tiny_models import make_llama
from transformers import AutoTokenizer

import lingraft
from lingraft.export.overlaps import conflicts
from lingraft.export.run import export
from lingraft.problems import Findings
from lingraft.vocab.run import extend

SHIPPED = Path(lingraft.__file__).parent / "text"
MIXED = [
    "没有关系，我们已经过去了。",
    "如果然后我们可以time 为什么样的 mixed text, 的地方 2024年",
    "Hello，世界！ I said 因为 it's 自己的。",
    "  两个月 没有  \n\n的时候\t人工智能AI",
    "",
]


def texts() -> list[str]:
    """Return the shipped Chinese and some English."""
    rows = (SHIPPED / "zh.jsonl").read_text("utf-8").splitlines() + (SHIPPED / "en.jsonl").read_text(
        "utf-8"
    ).splitlines()[:20]
    return [json.loads(row)["text"] for row in rows] + MIXED


def whole_characters(folder: Path) -> int:
    """Save a byte-level tokenizer that has every Han character of the texts whole, as Qwen's has; return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = pre_tokenizers.ByteLevel.alphabet()
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelled = sorted({split.pre_tokenize_str(c)[0][0] for text in texts() for c in text if "一" <= c <= "鿿"})
    merges = [*{(s[0], s[1]): None for s in spelled}, *((s[:2], s[2]) for s in spelled)]
    vocab = {token: i for i, token in enumerate([*sorted(letters), *(a + b for a, b in merges)])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    raw.pre_tokenizer, raw.decoder = split, decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    return len(vocab)


def cut_alike(model: Path, out: Path) -> tuple[int, list[str]]:
    """Export a model; return how many tokens the texts take, and the texts that the two cut differently."""
    findings = Findings()
    export(model, out, type="F32", findings=findings)
    assert not [w for w in findings.warnings if "added tokens overlap" in w.message]
    engine, judge = LlamaCpp(out), AutoTokenizer.from_pretrained(model)
    wanted = {text: judge(text).input_ids for text in texts()}
    return sum(map(len, wanted.values())), [text for text, ids in wanted.items() if engine.tokens(text) != ids]


def test_words_added_to_a_byte_level_tokenizer_are_cut_alike(tiny_llama: Path, tmp_path: Path) -> None:
    extend(tiny_llama, tmp_path / "m", corpus=[SHIPPED / "zh.jsonl"], size=150, init="mean", findings=Findings())
    before = sum(len(ids) for ids in AutoTokenizer.from_pretrained(tiny_llama)(texts()).input_ids)
    count, different = cut_alike(tmp_path / "m", tmp_path / "m.gguf")
    assert different == [] and count < before * 0.95


def test_merges_added_to_a_byte_level_tokenizer_are_cut_alike(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", rows=4000)
    size = whole_characters(base)
    extend(base, tmp_path / "m", corpus=[SHIPPED / "zh.jsonl"], size=100, init="mean", findings=Findings())
    described = json.loads((tmp_path / "m" / "tokenizer.json").read_text("utf-8"))
    assert len(described["model"]["vocab"]) == size + 100  # merges, not added tokens
    assert cut_alike(tmp_path / "m", tmp_path / "m.gguf")[1] == []


@pytest.mark.slow
def test_pieces_added_to_llama_2_are_cut_alike(test_data: Path, tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base", rows=32000)
    for name in ("tokenizer.json", "special_tokens_map.json", "chat_template.jinja"):
        (base / name).unlink(missing_ok=True)
    shutil.copy(test_data / "tokenizers" / "llama2.model", base / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    extend(base, tmp_path / "m", corpus=[SHIPPED / "zh.jsonl"], size=300, init="mean", findings=Findings())
    different = cut_alike(tmp_path / "m", tmp_path / "m.gguf")[1]
    # transformers puts no space before a text that begins with one; sentencepiece and llama.cpp do, for Llama-2 too.
    assert all(text.startswith(" ") for text in different)


def test_tokens_that_overlap_are_found_and_told(tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    judge = AutoTokenizer.from_pretrained(model)
    judge.add_tokens(["没有", "有关系", "上海"])
    judge.save_pretrained(model)
    findings = Findings()
    told = export(_taller(model), tmp_path / "m.gguf", type="F32", findings=findings)
    said = next(w.message for w in findings.warnings if "added tokens overlap" in w.message)
    assert told["overlaps"] == 1 and "没有关系" in said
    engine = LlamaCpp(tmp_path / "m.gguf")
    assert engine.tokens("没有关系") != judge("没有关系").input_ids  # the warning is true
    assert engine.tokens("上海没有") == judge("上海没有").input_ids


def test_only_overlaps_that_are_cut_differently_count() -> None:
    assert [pair[:2] for pair in conflicts(["没有", "有关"])] == [("没有", "有关")]
    assert conflicts(["没有关", "关系", "人人", "没有人"]) == []


def _taller(model: Path) -> Path:
    """Give a model rows for three more tokens."""
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_pretrained(model)
    live.resize_token_embeddings(403, mean_resizing=False)
    live.save_pretrained(model)
    return model
