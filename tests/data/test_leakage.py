"""What counts as leaked: runs of words, whatever their case, over line breaks too; whole lines go with them."""

from __future__ import annotations

from lingraft.data.clean import Told
from lingraft.data.leakage import HeldOut, without
from lingraft.data.text import Document

HELD = HeldOut(["the cat sat on the old mat"], 5)


def cut(text: str) -> tuple[str, Told]:
    told = Told("leakage")
    return "".join(item.text for item in without([Document(text, "a:1")], HELD, told)), told


def test_a_run_that_goes_over_a_line_break_takes_both_lines() -> None:
    left, told = cut("first line\nhere the cat sat\non the mat, again\nlast line\n")
    assert left == "first line\nlast line\n" and (told.changed, told.removed) == (1, 0)


def test_case_and_punctuation_do_not_hide_a_run() -> None:
    assert cut("The CAT sat -- on, The floor.\nother words\n")[0] == "other words\n"


def test_four_words_of_five_are_no_run() -> None:
    assert cut("the cat sat on a mat\n")[0] == "the cat sat on a mat\n"


def test_a_text_of_which_nothing_is_left_is_counted_as_removed() -> None:
    left, told = cut("the cat sat on the mat")
    assert left == "" and (told.rows_in, told.changed, told.removed) == (1, 1, 1)
