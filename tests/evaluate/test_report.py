"""report.html in a real browser: what a reader sees equals the JSON, at desk and phone width; nothing in it runs."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, FLAGS, PATIENCE

from lingraft.evaluate import charts, figures
from lingraft.evaluate.report import render, short_names, write_report

BASE, MERGED = "/models/SmolLM2 ~ instruct", "/runs/zh/merged"
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{ 7*7 }} </script> 长城"


def log(steps: int, start: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": i, "loss": start / (1 + i / 50) + 0.1 * (i % 3), "seconds": i * 1.0} for i in range(1, steps + 1)
    ]
    return [*rows, {"step": steps, "eval_loss": 2.25}]


def row(name: str, bits: float, english: float) -> dict[str, Any]:
    return {
        "model": name,
        "bits_per_character": bits,
        "english_bits_per_character": english,
        "token_perplexity": 11.2,
        "tokens_per_character": 1.8,
        "bytes": 2.7e8,
        "generation": {"greedy": {"characters": 9.5, "han": 0.1, "repetition": 0.05, "stopped": 1.0}},
        "bits_per_byte": bits / 3,
        "tasks": {"ceval": {"acc": 0.27, "subject/law": 0.3}},
    }


FACTS: dict[str, Any] = {
    "name": "quickstart & more",
    "base": BASE,
    "model": MERGED,
    "seconds": 312.4,
    "stages": [
        {"name": "vocab", "seconds": 9.13, "skipped": False},
        {"name": "sft", "seconds": 128.2, "skipped": True},
    ],
    "vocab": {
        "new_pieces": 300,
        "old_size": 49152,
        "new_size": 49452,
        "rows": 49472,
        "why": "Few & good.",
        "tokens_per_character": {"before": 1.807, "after": 1.5123},
        "examples": ["我们", "<b>", "中国"],
    },
    "pretrain": {"loss_first": 3.1, "loss_last": 2.31, "steps": 120, "tokens": 491520, "log": log(120, 3.1)},
    "sft": {
        "loss_first": 2.9,
        "loss_last": math.nan,
        "steps": 700,
        "log": log(700, 2.9),
        "data": {
            "rows_in": 200,
            "rows_out": 190,
            "padding_share": 0.0312,
            "lengths": [{"from": 0, "to": 50, "rows": 4}, {"from": 50, "to": 100, "rows": 8}],
            "examples": ["user\n怎样学好数学？\nassistant\n⟦先弄懂<概念>。⟧"],
        },
    },
    "merge": {
        "applied": [{"adapter": "sft", "tensors": 422, "low_rank": 210, "replaced": 0, "rows": 300}],
        "fingerprint": "9c" * 32,
    },
    "verify": {"max_abs_error": 0.0, "logits": {"max_abs": 3.1e-5, "kl": 1.2e-9, "argmax_agreement": 1.0}},
    "evaluate": {
        "models": [row(BASE, 6.2952, 1.1659), row(MERGED, 5.1411, 1.2459)],
        "differences": [
            {
                "model": MERGED,
                "reference": BASE,
                "measure": "bits_per_character",
                "difference": -1.1541,
                "relative": -0.1833,
                "low": -1.21,
                "high": -1.09,
                "significant": False,
                "unit": "document",
                "units": 50,
            }
        ],
        "text": {"documents": 50, "characters": 24000},
        "english": None,
        "contamination": {"share": 0.0125, "text": {"share": 0.0125, "n": 13, "ngrams": 900, "documents": 2}},
        "sampling": {"temperature": 0.7, "top_p": 0.9},
        "answers": [
            {
                "prompt": "介绍<长城>。",
                "answers": {BASE: "The wall.", MERGED: EVIL},
                "counts": {BASE: {"characters": 9, "han": 0.0, "repetition": 0.5, "stopped": True}},
                "sampled": {BASE: "A wall.", MERGED: EVIL},
                "sampled_counts": {
                    name: {"characters": 7, "han": 0.25, "repetition": 0.1, "stopped": False} for name in (BASE, MERGED)
                },
            }
        ],
    },
    "targets": [
        {"name": "bits_per_character", "wanted": "at least 10 % lower", "reached": "-18.3%", "met": True},
        {"name": "english_bits_per_character", "wanted": "at most 5 % higher", "reached": "+6.9%", "met": False},
    ],
    "folders": [{"path": MERGED, "what_en": "the model to use", "what_zh": "最终模型"}],
    "next": [f"lingraft chat {MERGED}"],
    "hardware": {"cores": 2},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_report(path, FACTS)
        width, height = request.param
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
        context.set_default_timeout(PATIENCE)
        opened = context.new_page()
        opened.requests = []
        opened.on("request", lambda r: opened.requests.append(r.url))
        opened.goto(path.as_uri())
        yield opened
        context.close()


def seen(page: Any) -> list[dict[str, Any]]:
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    found: list[dict[str, Any]] = page.evaluate(
        "() => [...document.querySelectorAll('data')].map(e => ({key: e.dataset.key, change: e.dataset.change,"
        " value: Number(e.dataset.value), text: e.innerText, shown: e.getClientRects().length > 0}))"
    )
    return found


def read(text: str) -> float:
    """Read a figure as a person does."""
    plain = text.replace("\u2212", "-").replace("\u00a0", " ").replace(",", "")
    clock = re.fullmatch(r"(\d+) min (\d+) s", plain)
    if clock:
        return int(clock[1]) * 60 + int(clock[2])
    scale = {"GB": 1e9, "MB": 1e6, "kB": 1e3}.get(plain.rpartition(" ")[2], 1.0)
    number = scale * float(re.match(r"[-+]?[\d.]+(e[-+]\d+)?", plain)[0])  # type: ignore[index]
    return number / 100 if plain.endswith("%") else number


def test_every_figure_on_the_page_equals_the_json(page: Any) -> None:
    figures_seen = [one for one in seen(page) if one["key"]]
    assert len(figures_seen) > 50
    for one in figures_seen:
        true = figures.at(FACTS, one["key"])
        assert one["value"] == true, one
        assert read(one["text"]) == pytest.approx(true, rel=0.05, abs=0.051 if "%" not in one["text"] else 6e-4), one


def test_the_headline_figures_are_shown_with_their_digits(page: Any) -> None:
    text = page.inner_text("body")
    for wanted in ("6.295", "5.141", "1.166", "1.246", "1.807", "1.512", "49,452", "5 min 12 s", "2 min 8 s"):
        assert wanted in text.replace("\u00a0", " ")


def test_changes_are_those_between_the_figures_they_name(page: Any) -> None:
    changes = [one for one in seen(page) if one["change"]]
    assert len(changes) == 3
    for one in changes:
        before, after = (figures.at(FACTS, key) for key in one["change"].split(" "))
        assert read(one["text"]) == pytest.approx(after / before - 1, abs=6e-4)


def test_the_json_inside_the_page_is_the_run(page: Any) -> None:
    inside = json.loads(page.evaluate("document.getElementById('facts').textContent"))
    assert inside["evaluate"] == FACTS["evaluate"]
    assert inside["sft"]["loss_last"] is None  # NaN is no JSON


def test_bars_are_as_long_as_their_figures(page: Any) -> None:
    lengths = page.evaluate(
        "[...document.querySelectorAll('#bits .bars')].map(b => [...b.querySelectorAll('i')]"
        ".map(i => i.getBoundingClientRect().width))"
    )
    assert lengths[0][1] / lengths[0][0] == pytest.approx(5.1411 / 6.2952, rel=0.02)
    assert lengths[1][0] / lengths[1][1] == pytest.approx(1.1659 / 1.2459, rel=0.02)


def test_curves_are_drawn_from_every_row_with_a_loss(page: Any) -> None:
    found = page.evaluate(
        "[...document.querySelectorAll('[data-curve]')].map(e => [e.dataset.curve, +e.dataset.points,"
        " e.querySelector('.smooth').getBoundingClientRect().width > 200])"
    )
    assert found == [["pretrain", 120, True], ["sft", 700, True]]


def test_a_missed_target_is_said_as_missed(page: Any) -> None:
    rows = page.evaluate("[...document.querySelectorAll('tr[data-target]')].map(e => [e.dataset.target, e.innerText])")
    assert [("missed" in text, "met" in text.split()) for _, text in rows] == [(False, True), (True, False)]


def test_nothing_is_fetched_and_nothing_a_model_says_is_run(page: Any) -> None:
    assert [url for url in page.requests if not url.startswith("file:")] == []
    assert len(page.requests) == 1
    assert page.title() == "quickstart & more · report"
    answers = page.evaluate("[...document.querySelectorAll('[data-answer]')].map(e => e.textContent)")
    assert answers == ["The wall.", EVIL]
    assert page.evaluate("[...document.querySelectorAll('[data-sampled]')].map(e => e.textContent)")[1] == EVIL


def test_the_page_fits_its_width_and_speaks_both_languages(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "What was wanted" in page.inner_text("body") and "目标与结果" not in page.inner_text("body")
    page.click("text=中文")
    assert "目标与结果" in page.inner_text("body") and "What was wanted" not in page.inner_text("body")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("text=English")


def test_the_supervised_part_of_an_example_is_marked(page: Any) -> None:
    assert page.evaluate("document.querySelector('pre.example mark').textContent") == "先弄懂<概念>。"


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"evaluate": FACTS["evaluate"]},
        {"models": [row("a", 1.0, 2.0)]},
        {"pretrain": {"log": []}},
        {"vocab": {}},
        {"verify": {"modules": []}},
    ],
)
def test_every_block_is_optional(facts: dict[str, Any]) -> None:
    page = render(facts)
    assert page.rstrip().endswith("</html>")
    assert ('id="bits"' in page) == bool(facts.get("evaluate") or facts.get("models"))


def test_short_names_tell_models_apart() -> None:
    assert short_names(["/a/x/merged", "/a/y/merged", "hub/base"]) == {
        "/a/x/merged": "x/merged",
        "/a/y/merged": "y/merged",
        "hub/base": "base",
    }


def test_nice_ticks_span_the_values() -> None:
    assert charts.nice([2.21, 3.18]) == [2.0, 2.5, 3.0, 3.5]
    assert charts.nice([1.0, 1.0])[0] < 1.0 < charts.nice([1.0, 1.0])[-1]


def test_a_log_without_losses_has_no_curve() -> None:
    assert charts.curve([{"step": 1, "loss": math.nan}, {"step": 2}]) is None
