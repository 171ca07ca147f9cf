"""Growing the vocabulary of a byte-level BPE model, judged by transformers and by the old tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocab_texts import CHINESE, MIXED, WITHOUT_HAN

from lingraft.problems import Findings, Refusal
from lingraft.vocab.han import has_han
from lingraft.vocab.run import extend

Base = Callable[..., Path]


def grown(base: Path, corpus: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out = base.parent / "larger"
    return out, extend(base, out, corpus=[corpus], findings=Findings(), **{"size": 20, "init": "pieces", **settings})


@pytest.mark.parametrize("whole", [False, True])
def test_text_without_han_encodes_exactly_as_before(make_base: Base, corpus: Path, whole: bool) -> None:
    base = make_base(whole=whole)
    out, _ = grown(base, corpus)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    for text in WITHOUT_HAN:
        assert not has_han(text)
        assert new(text).input_ids == old(text).input_ids


@pytest.mark.parametrize("whole", [False, True])
def test_chinese_takes_fewer_tokens_and_decodes_to_itself(make_base: Base, corpus: Path, whole: bool) -> None:
    base = make_base(whole=whole)
    out, answer = grown(base, corpus)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    for text in [*CHINESE, MIXED, *WITHOUT_HAN]:
        assert new.decode(new(text).input_ids, clean_up_tokenization_spaces=False) == text
    assert sum(len(new(t).input_ids) for t in CHINESE) < 0.8 * sum(len(old(t).input_ids) for t in CHINESE)
    assert answer["tokens_per_character"]["after"] < answer["tokens_per_character"]["before"]


@pytest.mark.parametrize("whole", [False, True])
def test_old_ids_stay_and_new_ones_follow_the_special_tokens(make_base: Base, corpus: Path, whole: bool) -> None:
    base = make_base(whole=whole)
    out, answer = grown(base, corpus)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    assert {token: new.get_vocab()[token] for token in old.get_vocab()} == old.get_vocab()
    assert sorted(set(new.get_vocab().values()) - set(old.get_vocab().values())) == list(
        range(answer["old_size"], answer["new_size"])
    )
    assert answer["old_size"] == len(old) and answer["new_size"] == len(new) == len(old) + 20


@pytest.mark.parametrize("whole", [False, True])
def test_template_and_special_tokens_are_kept(make_base: Base, corpus: Path, whole: bool) -> None:
    base = make_base(whole=whole)
    out, _ = grown(base, corpus)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    assert new.special_tokens_map == old.special_tokens_map and new.all_special_ids == old.all_special_ids
    talk = [{"role": "user", "content": "hello"}]
    assert new.apply_chat_template(talk, tokenize=False) == old.apply_chat_template(talk, tokenize=False)


@pytest.mark.parametrize("tied", [True, False])
def test_the_larger_model_gives_old_text_the_old_logits(make_base: Base, corpus: Path, tied: bool) -> None:
    base = make_base(tied=tied)
    out, answer = grown(base, corpus)
    old, new = AutoModelForCausalLM.from_pretrained(base), AutoModelForCausalLM.from_pretrained(out)
    ids = AutoTokenizer.from_pretrained(out)("The river runs", return_tensors="pt").input_ids
    size = answer["old_size"]
    torch.testing.assert_close(new(ids).logits[..., :size], old(ids).logits[..., :size])
    assert new.config.vocab_size == answer["rows"] == new.get_input_embeddings().weight.shape[0]
    assert answer["rows"] % 64 == 0 and answer["rows"] >= answer["new_size"]


def test_new_ids_begin_after_the_tokens_not_after_the_padded_rows(make_base: Base, corpus: Path) -> None:
    base = make_base(rows=512)
    _, answer = grown(base, corpus)
    assert answer["old_size"] == len(AutoTokenizer.from_pretrained(base)) < 512
    assert answer["rows"] == 512


def test_new_rows_are_the_mean_of_the_old_pieces(make_base: Base, corpus: Path) -> None:
    base = make_base(tied=False)
    out, answer = grown(base, corpus)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    before, after = (AutoModelForCausalLM.from_pretrained(p) for p in (base, out))
    word = next(text for text in answer["examples"] if len(new(text).input_ids) == 1)
    (row,) = new(word).input_ids
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        mean = getattr(before, matrix)().weight[old(word).input_ids].mean(0)
        torch.testing.assert_close(getattr(after, matrix)().weight[row], mean)


def test_the_same_corpus_gives_the_same_directory(make_base: Base, corpus: Path) -> None:
    base = make_base()
    first, _ = grown(base, corpus, init="random")
    kept = {f.name: f.read_bytes() for f in first.iterdir() if f.name != "manifest.json"}
    second, _ = grown(base, corpus, init="random", overwrite=True)
    assert {f.name: f.read_bytes() for f in second.iterdir() if f.name != "manifest.json"} == kept


def test_the_receipt_names_both_fingerprints(make_base: Base, corpus: Path) -> None:
    from lingraft.weights import hf
    from lingraft.weights.fingerprint import fingerprint

    base = make_base()
    out, answer = grown(base, corpus)
    receipt = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert receipt["base"]["fingerprint"] == fingerprint(hf.read(base).tensors)
    assert receipt["fingerprint"] == fingerprint(hf.read(out).tensors)
    assert receipt["result"] == answer and receipt["stage"] == "vocab"


def refused(base: Path, corpus: Path, **settings: Any) -> tuple[str, ...]:
    with pytest.raises(Refusal) as caught:
        grown(base, corpus, **settings)
    assert not (base.parent / "larger").exists()
    return tuple(problem.code for problem in caught.value.problems)


def test_a_corpus_without_chinese_is_refused(make_base: Base, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("nothing here", encoding="utf-8")
    assert refused(make_base(), tmp_path / "en.txt") == ("data-invalid",)


def test_an_empty_corpus_is_refused(make_base: Base, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    assert refused(make_base(), tmp_path / "empty.txt") == ("data-invalid",)


def test_a_base_without_a_tokenizer_is_refused(make_base: Base, corpus: Path) -> None:
    base = make_base()
    (base / "tokenizer.json").unlink()
    assert refused(base, corpus) == ("tokenizer-mismatch",)


def test_a_base_that_is_no_causal_model_is_refused(make_base: Base, corpus: Path) -> None:
    base = make_base()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}), encoding="utf-8")
    assert refused(base, corpus) == ("config-mismatch",)


def test_an_unknown_start_is_refused_with_the_known_ones(make_base: Base, corpus: Path) -> None:
    assert refused(make_base(), corpus, init="magic") == ("recipe-invalid",)


@pytest.mark.parametrize(("whole", "grows"), [(True, "merges"), (False, "added_tokens")])
def test_whole_characters_get_merges_and_broken_ones_whole_words(
    make_base: Base, corpus: Path, whole: bool, grows: str
) -> None:
    base = make_base(whole=whole)
    out, _ = grown(base, corpus)
    old, new = (json.loads((p / "tokenizer.json").read_text(encoding="utf-8")) for p in (base, out))
    more = {
        "merges": len(new["model"]["merges"]) - len(old["model"]["merges"]),
        "added_tokens": len(new["added_tokens"]) - len(old["added_tokens"]),
    }
    assert more == {"merges": 0, "added_tokens": 0, grows: 20}


def test_a_base_with_fewer_rows_than_tokens_is_refused(make_base: Base, corpus: Path, tmp_path: Path) -> None:
    base = make_base(rows=300)
    with pytest.raises(Refusal) as refused:
        extend(base, tmp_path / "out", corpus=[corpus], size=8, findings=Findings())
    assert refused.value.problems[0].code == "vocab-mismatch" and not (tmp_path / "out").exists()


def _spacing(base: Path) -> Path:
    """Let a tokenizer put a space before every text."""
    file = base / "tokenizer.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"add_prefix_space": false', '"add_prefix_space": true', 1)
    )
    return base


def test_a_tokenizer_that_spaces_every_text_gets_merges_and_loses_no_character(
    make_base: Base, corpus: Path, tmp_path: Path
) -> None:
    base = _spacing(make_base())
    extend(base, tmp_path / "larger", corpus=[corpus], size=40, init="mean", findings=Findings())
    old, new = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (base, tmp_path / "larger"))
    for text in CHINESE:
        before, after = (each.encode(text, add_special_tokens=False) for each in (old, new))
        assert new.decode(after.ids) == old.decode(before.ids) and len(after.ids) < len(before.ids)
    with pytest.raises(Refusal, match="add_prefix_space"):
        extend(base, tmp_path / "united", unite=tmp_path / "larger", findings=Findings())


def test_a_corpus_without_a_new_piece_is_warned_of(make_base: Base, tmp_path: Path) -> None:
    corpus, found = tmp_path / "one.txt", []
    corpus.write_text("好\n" * 50, encoding="utf-8")
    for base, out in ((make_base(), tmp_path / "once"), (tmp_path / "once", tmp_path / "twice")):
        findings = Findings()
        answer = extend(base, out, corpus=[corpus], size=20, init="mean", findings=findings)
        found.append((answer["new_pieces"], [w.code for w in findings.warnings]))
    assert found == [(1, []), (0, ["data-invalid"])]
