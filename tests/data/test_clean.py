"""Each cleaning step removes what it names, leaves the rest alone, and reports it."""

from __future__ import annotations

from typing import Any

import pytest

from lingraft.data.clean import Told, clean, steps_of
from lingraft.data.conversations import Conversation, Message
from lingraft.data.text import Document
from lingraft.problems import Refusal


def _clean(items: list[Any], steps: list[Any]) -> tuple[list[Any], list[Told]]:
    chosen = steps_of(steps)
    told = [Told(step.name) for step in chosen]
    return list(clean(items, chosen, told)), told


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("tags", "他说：<strong>好</strong>，3<5 且 7>2。", "他说：好，3<5 且 7>2。"),
        ("control", "一\x00二\u200b三\r\n四", "一二三\n四"),
        ("radicals", "⼈⼯智能，（全角）！", "人工智能，（全角）！"),
        ("mojibake", "æ˜¥å¤©来了，“引号”（全角）。", "春天来了，“引号”（全角）。"),
        ("simplified", "漢字與臺灣", "汉字与台湾"),
        ("traditional", "汉字", "漢字"),
    ],
)
def test_a_mending_step_changes_only_what_it_means(step: str, before: str, after: str) -> None:
    if step == "mojibake":
        pytest.importorskip("ftfy")
    if step in ("simplified", "traditional"):
        pytest.importorskip("opencc")
    (found,), (told,) = _clean([Document(before, "x")], [step])
    assert found.text == after and told.changed == 1 and told.removed == 0


LONG = "春天来了，小河的冰化了，柳树发出新芽，孩子们在草地上放风筝。"


@pytest.mark.parametrize(
    ("step", "texts", "left"),
    [
        ("duplicates", [LONG, "别的", LONG + " "], 2),
        ({"step": "length", "min": 3, "max": 10}, ["一", "一二三四", LONG], 1),
        ("repetition", [LONG, "哈哈哈" * 50], 1),
        ("near_duplicates", [LONG * 3, LONG * 3 + "！", "完全不同的另一段文字，讲的是海上的风和远方的船。"], 2),
    ],
)
def test_a_judging_step_drops_rows_and_counts_them(step: Any, texts: list[str], left: int) -> None:
    if step == "near_duplicates":
        pytest.importorskip("rensa")
    found, (told,) = _clean([Document(t, "x") for t in texts], [step])
    assert len(found) == left and told.removed == len(texts) - left and told.examples


def test_conversations_are_mended_message_by_message_and_dropped_when_emptied() -> None:
    talks = [
        Conversation((Message("user", "<b>问</b>"), Message("assistant", "答")), "x"),
        Conversation((Message("user", "问"), Message("assistant", "<br>")), "y"),
    ]
    found, (told,) = _clean(talks, ["tags"])
    assert [m.content for m in found[0].messages] == ["问", "答"] and told.removed == 1


@pytest.mark.parametrize("item", ["tagz", {"step": "length", "most": 3}])
def test_unknown_steps_and_settings_are_refused_by_path(item: Any) -> None:
    with pytest.raises(Refusal) as refused:
        steps_of(["tags", item])
    assert refused.value.problems[0].message.startswith("clean.1")
