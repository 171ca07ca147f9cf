"""Nothing is lost in packing, answers alone are supervised, and cuts are never silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lingraft.data.conversations import Conversation, Message
from lingraft.data.mix import Part, draw
from lingraft.data.pack import Packed, best_fit
from lingraft.data.prepare import pack_items
from lingraft.data.templates import resolve
from lingraft.data.text import Document
from lingraft.problems import Findings, Refusal


def _talk(*turns: str, source: str = "x.jsonl:1") -> Conversation:
    return Conversation(tuple(Message(("user", "assistant")[i % 2], t) for i, t in enumerate(turns)), source)


def pack_documents(documents: list[Document], tokenizer: Any, length: int) -> Packed:
    return pack_items(documents, tokenizer, length)


def pack_conversations(
    talks: list[Conversation], tokenizer: Any, template: str, length: int, turns: Any, findings: Findings
) -> Packed:
    return pack_items(talks, tokenizer, length, resolve(template, tokenizer), turns, findings)


def _supervised(packed: Packed, tokenizer: Any) -> str:
    labels = [t for i in range(len(packed)) for t in packed[i]["labels"] if t != -100]
    return str(tokenizer.decode(labels))


@pytest.mark.parametrize("seed", range(20))
def test_bins_hold_every_item_once_and_never_overflow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, capacity = rng.integers(1, 50, seed * 5).tolist(), 50 + seed
    bins = best_fit(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= capacity for b in bins)


def test_a_long_document_is_cut_into_pieces_and_no_tail_is_dropped(tokenizer: Any) -> None:
    text = "春天来了。" * 50
    packed = pack_documents([Document(text, "a")], tokenizer, 64)
    ids = [t for number in range(len(packed.segments)) for t in packed.segments.ids(number).tolist()]
    assert ids == [1, *tokenizer(text)["input_ids"], 2]
    assert packed.stats["tokens"] == len(ids) and all(len(packed[i]["input_ids"]) <= 64 for i in range(len(packed)))


def test_positions_restart_and_first_labels_are_unsupervised(tokenizer: Any) -> None:
    packed = pack_documents([Document("abc", "a"), Document("de", "b")], tokenizer, 64)
    (block,) = [packed[i] for i in range(len(packed))]
    starts = [i for i, p in enumerate(block["position_ids"]) if p == 0]
    assert len(starts) == 2 and all(block["labels"][i] == -100 for i in starts)
    assert packed.stats["supervised_tokens"] == packed.stats["tokens"] - 2


def test_only_answers_and_their_end_mark_are_supervised(tokenizer: Any) -> None:
    packed = pack_conversations([_talk("问一", "答一", "问二", "答二")], tokenizer, "auto", 256, "all", Findings())
    assert _supervised(packed, tokenizer) == "答一<|im_end|>答二<|im_end|>"


def test_the_last_turn_alone_is_supervised_when_asked(tokenizer: Any) -> None:
    packed = pack_conversations([_talk("问一", "答一", "问二", "答二")], tokenizer, "auto", 256, "last", Findings())
    assert _supervised(packed, tokenizer) == "答二<|im_end|>"


def test_the_mask_is_that_of_transformers_own_generation_mark(tokenizer: Any) -> None:
    marked = tokenizer.chat_template.replace(
        "{{ message.content }}<|im_end|>\n",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}",
    )
    talk = _talk("hello there", "好的，没问题", "and now", "再见")
    theirs = tokenizer.apply_chat_template(
        talk.as_dicts(), chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    packed = pack_conversations([talk], tokenizer, "auto", 256, "all", Findings())
    assert packed[0]["input_ids"] == theirs["input_ids"]
    assert [int(t != -100) for t in packed[0]["labels"]] == theirs["assistant_masks"]


def test_a_template_that_rewrites_earlier_turns_is_rendered_once_an_answer(tokenizer: Any) -> None:
    forgetful = "{% for m in messages %}{% if m.role == 'user' or loop.last %}<{{ m.content }}>{% endif %}{% endfor %}"
    packed = pack_conversations([_talk("q1", "a1", "q2", "a2")], tokenizer, forgetful, 256, "all", Findings())
    assert len(packed.segments) == 2 and "a1" in _supervised(packed, tokenizer)


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_named_templates_end_every_answer(tokenizer: Any, name: str) -> None:
    packed = pack_conversations([_talk("问", "答")], tokenizer, name, 256, "all", Findings())
    assert _supervised(packed, tokenizer) == "答<|im_end|>"


def test_a_template_whose_marks_the_tokenizer_lacks_is_refused(tokenizer: Any) -> None:
    with pytest.raises(Refusal) as refused:
        pack_conversations([_talk("问", "答")], tokenizer, "llama3", 256, "all", Findings())
    assert refused.value.problems[0].code == "tokenizer-mismatch"


def test_an_answer_beyond_the_length_is_refused_and_a_cut_is_told(tokenizer: Any) -> None:
    long = [_talk("问" * 90, "答", source="x.jsonl:7"), _talk("问", "答" * 90)]
    with pytest.raises(Refusal) as refused:
        pack_conversations(long, tokenizer, "auto", 64, "all", Findings())
    assert refused.value.problems[0].code == "nothing-supervised" and refused.value.problems[0].path == "x.jsonl:7"
    findings = Findings(allow=frozenset({"nothing-supervised"}))
    assert len(pack_conversations(long, tokenizer, "auto", 64, "all", findings).segments) == 1
    assert findings.warnings[0].code == "data-invalid"


def test_a_mixture_holds_its_sources_in_proportion_of_tokens_and_counts_repeats() -> None:
    lengths = np.full(93, 10, np.int32)
    chosen, told = draw([Part("zh", 9.0, np.arange(90)), Part("en", 1.0, np.arange(90, 93))], lengths, seed=0)
    assert (chosen < 90).sum() == 90 and (chosen >= 90).sum() == 10
    assert [t["share"] for t in told] == [0.9, 0.1] and [t["epochs"] for t in told] == [1.0, round(10 / 3, 3)]
    assert np.bincount(chosen)[90:].tolist() in ([3, 3, 4], [3, 4, 3], [4, 3, 3])


def test_a_thousand_instructions_pack_with_less_than_two_percent_padding(tokenizer: Any, test_data: Path) -> None:
    from lingraft.data.conversations import conversations

    rows = conversations([test_data / "instructions" / "alpaca-zh-1k.json"], Findings())
    findings = Findings(allow=frozenset({"nothing-supervised"}))
    assert pack_conversations(rows, tokenizer, "auto", 1024, "all", findings).stats["padding_share"] < 0.02


def test_a_text_goes_where_it_leaves_the_least_room() -> None:
    assert best_fit([7, 6, 3, 2, 2], 10) == ((0, 2), (1, 3, 4))  # into the emptiest block it would take three
