"""Chinese messages: how texts find their templates, that most are there, and that the command line uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages_in import collect, missing

from lingraft.language import chinese, language
from lingraft.language.catalogue import HOLE, HOME, Catalogue, shipped
from lingraft.language.help import cells, lines, noted
from lingraft.language.summary import summary

SHARE = 0.9  # of what the package says; rooms add messages while others translate


def lingraft(*words: str, lang: str = "zh_CN.UTF-8") -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if k not in ("LINGRAFT_LANG", "LC_ALL", "LC_MESSAGES")}
    return subprocess.run(
        [sys.executable, "-m", "lingraft", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**outside, "LANG": lang, "PYTHONUTF8": "1"},
    )


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LC_ALL": "C", "LINGRAFT_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN", "LINGRAFT_LANG": "en"}, "en"),
    ],
)
def test_the_language_is_what_the_first_setting_says(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], wanted: str
) -> None:
    for name in ("LINGRAFT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert language() == wanted


def test_nine_of_ten_texts_have_chinese() -> None:
    said, lacking = collect(), missing()
    assert len(said) > 900
    assert len(lacking) <= (1 - SHARE) * len(said), json.dumps(lacking, ensure_ascii=False, indent=1)


def test_every_translation_fills_the_holes_of_its_template() -> None:
    for file in HOME.glob("*.json"):
        for english, there in json.loads(file.read_text(encoding="utf-8")).items():
            if sorted(HOLE.findall(english)) != sorted(HOLE.findall(there)):
                pytest.fail(f"{file.name}: {english!r} → {there!r}")


def test_every_template_is_found_again_by_what_it_says() -> None:
    lost = []
    for english, there in shipped().entries.items():
        values = iter(f"<{i}>" for i in range(20))
        said = HOLE.sub(lambda _, values=values: next(values), english)
        if HOLE.sub(lambda hole: f"<{hole[0][1:-1]}>", there) != chinese(said):
            lost.append(english)
    assert len(lost) <= 3, lost  # two sentences that differ by nothing but their holes


def test_a_text_that_nobody_translated_stays_as_it_is() -> None:
    assert chinese("the wall is long and nobody minds") == "the wall is long and nobody minds"


def test_a_reason_inside_a_message_is_translated_and_a_path_is_not() -> None:
    both = Catalogue({"{0}: {1}, says the index": "{0}：{1}（索引）", "no shard is here": "没有分片", "a b": "甲乙"})
    assert both.translate("/a b/c: no shard is here, says the index") == "/a b/c：没有分片（索引）"


def test_of_two_templates_that_fit_the_one_with_more_words_wins() -> None:
    both = Catalogue({"{0} is missing": "缺{0}", "{0} of {1} is missing": "{1} 缺 {0}"})
    assert both.translate("row 3 of the head is missing") == "the head 缺 row 3"


def test_a_short_template_does_not_catch_a_sentence_that_only_looks_alike() -> None:
    assert (
        Catalogue({"{0} has {1}": "{0} 有 {1}"}).translate("the wall has many long stones")
        == "the wall has many long stones"
    )


def test_a_problem_is_told_in_chinese_under_its_english_code() -> None:
    done = lingraft("inspect", "/no/such")
    assert done.returncode == 1
    assert done.stderr.strip() == "问题 not-found: /no/such 不存在 — 请检查路径；Hub 名称的形式为 owner/name"


def test_json_keeps_codes_and_keys_and_tells_the_rest_in_the_users_language() -> None:
    [here] = json.loads(lingraft("inspect", "/no/such", "--json").stdout)["problems"]
    [there] = json.loads(lingraft("inspect", "/no/such", "--json", lang="C").stdout)["problems"]
    assert (here["code"], here["path"]) == (there["code"], there["path"])
    assert (here["message"], there["message"]) == ("/no/such 不存在", "/no/such does not exist")


def test_help_and_wrong_usage_are_in_chinese_with_their_exit_codes() -> None:
    shown = lingraft("merge", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("用法：")
    assert "按给定顺序把适配器合并进底座" in shown.stdout
    wrong = lingraft("merge", "--nosuch")
    assert wrong.returncode == 2
    assert "错误：" in wrong.stderr


def test_english_stays_english() -> None:
    assert not any("\u4e00" <= char <= "\u9fff" for char in lingraft("--help", lang="C").stdout)


def test_lines_break_where_a_terminal_ends_and_never_before_a_comma() -> None:
    broken = lines("流式处理并逐项检查，按给定顺序 merge adapters into a base", 18)
    assert all(cells(line) <= 20 for line in broken)
    assert not any(line.startswith("，") for line in broken)
    assert "".join(broken).replace(" ", "") == "流式处理并逐项检查，按给定顺序mergeadaptersintoabase"


def test_the_note_behind_an_option_is_translated_with_it() -> None:
    assert noted("The folder of runs, or one run.  [default: runs]").endswith("[默认：runs]")


def test_a_folder_named_like_a_stage_keeps_its_name() -> None:
    assert summary("  use next        pretrain").split() == ["接下来使用", "pretrain"]
    assert summary("pretrain    3.0 s").split()[0] == "继续预训练"


def test_a_summary_keeps_names_figures_and_columns() -> None:
    told = summary("vocab           37.0 s  (done before)\ntotal           40.0 s\nmodel: /tmp/my model")
    assert told == "扩充词表        37.0 s  （先前已完成）\n合计            40.0 s\n模型：/tmp/my model"


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8"])
def test_help_loads_nothing_heavy(lang: str) -> None:
    code = (
        "import sys; sys.argv = ['lingraft', '--help']\ntry:\n from lingraft.cli import main; main()\n"
        "except SystemExit: pass\nprint(sorted({'torch', 'transformers', 'gradio', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LANG": lang, "LC_ALL": lang},
    )
    assert done.stdout.strip().endswith("[]")


def test_a_message_is_found_in_a_hundredth_of_a_second() -> None:
    chinese("warm up the catalogue, please")
    began = time.process_time()
    for _ in range(10):
        chinese(f"{Path('/no/such')} needs 5 bytes; 4 are free on its disk, or so")
    assert time.process_time() - began < 0.5
