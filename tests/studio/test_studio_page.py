"""The studio in a real browser: clicked and typed into; what it shows equals what the verbs answer as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from studio_pages import Studio, answered, drop, inner, open_page, value, verb, without_time, write

pytestmark = pytest.mark.slow
SAYS = "([id, words]) => document.querySelector(id).innerText.replace(/\\s+/g, ' ').includes(words)"
PHONE = (390, 844, "zh-CN")


def test_a_run_shows_its_curve_and_the_last_line_of_its_log(tab: Any) -> None:
    assert tab.locator("[data-curve=pretrain]").get_attribute("data-points") == "30"
    assert "1.5000" in tab.locator("[data-log=pretrain] table.log tr").last.inner_text()
    assert tab.locator(".run [data-field=tokens_per_character]").inner_text().startswith("1.750 → 1.250")


def test_a_curve_grows_while_the_run_writes(tab: Any, run: Path) -> None:
    log = run / "work" / "pretrain" / "log.jsonl"
    kept = log.read_text()
    try:
        with log.open("a") as file:
            file.write(json.dumps({"step": 31, "loss": 1.25}) + "\n" + '{"step": 32, "lo')
        tab.wait_for_selector("[data-curve=pretrain][data-points='31']")
    finally:
        log.write_text(kept)


def test_inspect_on_the_page_is_inspect_on_the_command_line(tab: Any, studio: Studio) -> None:
    open_page(tab, "weights")
    write(tab, "inspect-path", str(studio.adapter))
    tab.locator("#inspect-go").click()
    told = verb("inspect", studio.adapter)
    assert answered(tab, "inspect-answer") == told
    assert value(tab, "inspect-answer", "parameters") == told["parameters"]
    assert value(tab, "inspect-answer", "bytes") == told["bytes"]


def test_verify_on_the_page_is_verify_on_the_command_line(tab: Any, studio: Studio) -> None:
    open_page(tab, "weights")
    inner(tab, "verify")
    write(tab, "verify-path", str(studio.adapter))
    write(tab, "verify-base", str(studio.base))
    write(tab, "verify-adapters", "")
    tab.locator("#verify-go").click()
    told = verb("verify", studio.adapter, "--base", studio.base)
    assert answered(tab, "verify-answer") == told
    moved = sum(m["changed"] for m in told["modules"])
    assert tab.locator("[data-field='modules.changed']").inner_text() == f"{moved} / {len(told['modules'])}"


def test_a_merge_shows_its_receipt_and_is_the_one_the_command_line_makes(
    tab: Any, studio: Studio, tmp_path: Path
) -> None:
    open_page(tab, "weights")
    inner(tab, "merge")
    write(tab, "merge-base", str(studio.base))
    write(tab, "merge-adapters", str(studio.adapter))
    write(tab, "merge-out", str(tmp_path / "page"))
    tab.locator("#merge-go").click()
    here = answered(tab, "merge-answer")
    told = verb("merge", studio.base, studio.adapter, "--out", tmp_path / "verb")
    assert without_time(here) == without_time(told)
    assert tab.locator("#merge-answer .receipt [data-field=fingerprint]").inner_text() == told["fingerprint"]
    assert json.loads((tmp_path / "page" / "manifest.json").read_text())["fingerprint"] == told["fingerprint"]


def test_a_refusal_shows_code_message_and_remedy_as_the_command_line_tells_them(tab: Any, studio: Studio) -> None:
    open_page(tab, "weights")
    write(tab, "inspect-path", "/no/such/<b>folder</b>")
    tab.locator("#inspect-go").click()
    [problem] = answered(tab, "inspect-answer")["problems"]
    assert [problem] == verb("inspect", "/no/such/<b>folder</b>")["problems"]
    for field in ("code", "message", "remedy"):
        assert tab.locator(f"#inspect-answer .problem [data-field={field}]").inner_text() == problem[field]


def test_a_folder_that_is_dropped_is_inspected_and_merged(tab: Any, studio: Studio, tmp_path: Path) -> None:
    folder = shutil.copytree(studio.adapter, tmp_path / "适配器 one")
    shutil.copytree(studio.adapter, folder / "checkpoint-5")
    open_page(tab, "weights")
    drop(tab, folder)
    here, told = answered(tab, "inspect-answer"), verb("inspect", folder)
    assert {k: here[k] for k in ("kind", "bytes", "adapter", "tensors")} == {
        k: told[k] for k in ("kind", "bytes", "adapter", "tensors")
    }
    assert [p["path"] for p in here["contents"]] == [p["path"] for p in told["contents"]]
    inner(tab, "merge")
    assert tab.locator("#merge-base :is(input, textarea)").input_value() == str(studio.base)
    write(tab, "merge-out", str(tmp_path / "merged"))
    tab.locator("#merge-go").click()
    assert answered(tab, "merge-answer")["fingerprint"] == verb("verify", tmp_path / "merged")["fingerprint"]


def test_base_and_adapter_that_are_dropped_together_find_their_fields(tab: Any, studio: Studio) -> None:
    open_page(tab, "weights")
    drop(tab, studio.base, studio.adapter)
    answered(tab, "inspect-answer")
    inner(tab, "merge")
    filled = [Path(tab.locator(f"#merge-{name} :is(input, textarea)").input_value()) for name in ("base", "adapters")]
    assert [p.name for p in filled] == [studio.base.name, studio.adapter.name]
    assert filled[0].parent == filled[1].parent != studio.base.parent


def test_a_sentence_is_cut_as_transformers_cuts_it(tab: Any, studio: Studio) -> None:
    from transformers import AutoTokenizer

    open_page(tab, "vocabulary")
    write(tab, "cut-before", str(studio.base))
    text = "The wall 长城 is long.\n"
    write(tab, "cut-text", text)
    ids = AutoTokenizer.from_pretrained(studio.base)(text, add_special_tokens=False)["input_ids"]
    place = "#cut-view [data-side=before]"
    tab.wait_for_selector(f"{place} [data-field=tokens] [data-value='{len(ids)}']")
    shown = tab.locator(f"{place} .piece").evaluate_all("all => all.map(e => +e.dataset.id)")
    assert shown == ids
    assert value(tab, "cut-view [data-side=before]", "tokens_per_character") == len(ids) / len(text)


def test_base_and_adapted_answer_side_by_side_as_they_do_alone(tab: Any, studio: Studio) -> None:
    from lingraft.studio.talk import Loaded, answers

    names = (str(studio.base), f"{studio.base}\n{studio.adapter}")
    question = [{"role": "user", "content": "The wall"}]
    heard = ["", ""]
    for side, piece in answers(Loaded(), names, [question, question], 16):
        heard[side] += str(piece)
    open_page(tab, "chat")
    for field, name in zip(("chat-base", "chat-adapted"), names, strict=True):
        write(tab, field, name)
    tab.get_by_text("Settings").click()
    tab.locator("#chat-most input[type=number]").fill("16")
    write(tab, "chat-question", "The wall")
    tab.locator("#chat-question :is(input, textarea)").press("Enter")
    for name, told in zip(("base", "adapted"), heard, strict=True):
        tab.wait_for_function(SAYS, arg=[f"#talk-{name}", " ".join(told.split())])
    assert heard[0] != heard[1]


def test_the_page_speaks_the_browsers_language_and_switches(browser: Any, studio: Studio) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(studio.address)
    page.get_by_role("tab", name="词表").wait_for()
    assert "继续预训练" in page.locator("#run-view").inner_text()
    page.locator("#language label").first.click()
    page.get_by_role("tab", name="Vocabulary").wait_for()
    assert "Continued pre-training" in page.locator("#run-view").inner_text()
    context.close()


@pytest.mark.parametrize("tab", [(1280, 900, "en-GB"), PHONE], indirect=True, ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["runs", "weights", "vocabulary", "chat"])
def test_no_page_is_wider_than_the_screen(tab: Any, name: str) -> None:
    open_page(tab, name)
    wide, screen = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen
