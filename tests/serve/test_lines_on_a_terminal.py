"""Typing into a real pseudo-terminal: Chinese, backspace over wide characters, pasted lines, Alt-Enter, Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect")
LOOP = """
import sys
from lingraft.serve.lines import questions, reader
for text in questions(reader(sys.stdin)):
    print("HEARD", ascii(text), flush=True)
print("ENDED", flush=True)
"""


@pytest.fixture
def terminal() -> Iterator[Any]:
    child = pexpect.spawn(
        sys.executable,
        ["-c", LOOP],
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 80),
        env={"TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )
    child.expect("›")
    yield child
    child.close(force=True)


def heard(terminal: Any, typed: str) -> str:
    terminal.send(typed)
    terminal.expect(r"HEARD (.*?)\r\n")
    return str(terminal.match.group(1))


def test_chinese_arrives_as_it_was_typed(terminal: Any) -> None:
    assert heard(terminal, "你好，世界！\r") == ascii("你好，世界！")


def test_backspace_takes_one_wide_character(terminal: Any) -> None:
    assert heard(terminal, "天气很号\x7f好吗\x7f\x7f棒\r") == ascii("天气很棒")


def test_the_arrow_keys_move_by_whole_characters(terminal: Any) -> None:
    assert heard(terminal, "北京\x1b[D\x1b[D在\x1b[C\x7f\r") == ascii("在京")


def test_the_screen_shows_what_is_left_after_a_backspace(terminal: Any) -> None:
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(80, 24)
    stream = pyte.Stream(screen)
    terminal.send("汉字错\x7f对")
    while "对" not in "".join(screen.display):
        stream.feed(terminal.read_nonblocking(4096, timeout=120))
    shown = next(line for line in screen.display if "对" in line)
    assert "".join(shown.split()).endswith("汉字对") and "错" not in shown
    assert screen.cursor.x - 6 in (0, 2)  # three characters take six columns, behind the prompt where it is on screen


def test_pasted_lines_stay_one_question(terminal: Any) -> None:
    assert heard(terminal, "\x1b[200~第一行\n第二行\x1b[201~\r") == ascii("第一行\n第二行")


def test_alt_enter_makes_a_new_line(terminal: Any) -> None:
    assert heard(terminal, "一\x1b\r二\r") == ascii("一\n二")


def test_an_arrow_up_brings_the_last_question_back(terminal: Any) -> None:
    assert heard(terminal, "问题\r") == heard(terminal, "\x1b[A\r") == ascii("问题")


def test_ctrl_c_throws_a_line_away_and_ctrl_d_ends(terminal: Any) -> None:
    assert heard(terminal, "不要\x03") == ascii("")
    terminal.expect("›")
    assert heard(terminal, "要\r") == ascii("要")
    terminal.expect("›")
    terminal.send("\x04")
    terminal.expect("ENDED")
