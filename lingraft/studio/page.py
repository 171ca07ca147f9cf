"""The page put together: name and language above, four tabs below, each built by its own file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import gradio as gr

from lingraft.language import language
from lingraft.studio import chat, runs, vocabulary, weights
from lingraft.studio.drop import Drops
from lingraft.studio.words import CHOICES, Both, Words

STYLE = Path(__file__).with_name("look.css")
FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")
PAGES = (
    ("runs", Both("Runs", "训练")),
    ("weights", Both("Weights", "权重")),
    ("vocabulary", Both("Vocabulary", "词表")),
    ("chat", Both("Chat", "对话")),
)
KEY = "lingraft-language"
# What was chosen before, else Chinese where browser or server ask for it.
REMEMBER = (
    "() => localStorage.getItem('%s') || ((navigator.language || '').startsWith('zh') || %s ? '中文' : 'English')"
)
FOLLOW = (
    "(choice) => { document.documentElement.lang = choice === '中文' ? 'zh' : 'en'; "
    f"localStorage.setItem('{KEY}', choice); return choice; }}"
)


def build(root: Path, drops: Drops) -> gr.Blocks:
    """Return the page for the runs below ``root``; what is dropped on it goes to ``drops``."""
    spoken = language()
    words = Words(spoken)
    makers: dict[str, Callable[[Words, Path], None]] = {
        "runs": runs.page,
        "weights": partial(weights.page, drops=drops),
        "vocabulary": vocabulary.page,
        "chat": chat.page,
    }
    page: gr.Blocks = gr.Blocks(title="lingraft studio", analytics_enabled=False, fill_width=True)
    with page:
        with gr.Row(elem_id="top"):
            gr.HTML('<h1 class="brand">lingraft <small>studio</small></h1>')
            choice = gr.Radio(
                list(CHOICES.values()),
                value=CHOICES[spoken],
                show_label=False,
                container=False,
                elem_id="language",
                label="Language 语言",
            )
        with gr.Tabs(elem_id="pages"):
            for name, label in PAGES:
                with words.make(gr.Tab, label=label, id=name, elem_id=f"page-{name}"):
                    makers[name](words, root)
        choice.change(words.switch, choice, words.components(), js=FOLLOW, show_progress="hidden", queue=False)
        page.load(None, None, choice, js=REMEMBER % (KEY, "true" if spoken == "zh" else "false"))
    return page


def theme() -> gr.themes.Base:
    """Return the look of gradio's own parts: fonts that every machine has, so that none is fetched."""
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        radius_size="md",
        text_size="md",
        font=list(FONTS),
        font_mono=list(MONO),
    )
