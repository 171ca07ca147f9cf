"""The page of conversations: one question, the base and the adapted model answer side by side as they think."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from lingraft.problems import Problem, Refusal
from lingraft.studio.folders import find_runs, look
from lingraft.studio.shown import problem
from lingraft.studio.talk import Loaded, Message, Warned, answers
from lingraft.studio.words import Both, Words

Talk = list[Message]
MOST = 512
HOW = Both("a model, or a base and below it one adapter a line", "一个模型；或先写底座，其下每行一个适配器")
QUESTION = Both("Ask both: 你好，请介绍一下自己。", "向两个模型提问：你好，请介绍一下自己。")


def page(words: Words, root: Path) -> None:
    """Build the page."""
    loaded = Loaded()
    before, after = _models(root)
    with gr.Row():
        one = words.text(
            label=Both("Base", "底座模型"), value=before, elem_id="chat-base", max_lines=3, info=HOW, min_width=240
        )
        two = words.text(
            label=Both("Adapted", "适配后的模型"),
            value=after,
            elem_id="chat-adapted",
            max_lines=5,
            info=HOW,
            min_width=240,
        )
    with gr.Row(elem_classes="talks"):
        talks = [
            gr.Chatbot(
                show_label=False,
                elem_id=f"talk-{name}",
                render_markdown=False,
                height=380,
                layout="bubble",
                buttons=["copy"],
                feedback_options=None,
                latex_delimiters=[],
            )
            for name in ("base", "adapted")
        ]
    notice = gr.HTML(elem_id="chat-notice")
    question = words.text(
        label=Both("Question", "问题"),
        placeholder=QUESTION,
        max_lines=8,
        elem_id="chat-question",
        show_label=False,
        submit_btn=True,
        stop_btn=True,
    )
    with words.make(gr.Accordion, label=Both("Settings", "设置"), open=False):
        system = words.text(label=Both("System message", "系统消息"), elem_id="chat-system")
        most = words.make(
            gr.Slider,
            label=Both("Longest answer, in tokens", "最长回答（词元）"),
            minimum=16,
            maximum=2048,
            step=16,
            value=MOST,
            elem_id="chat-most",
        )
    clear = words.make(gr.Button, value=Both("Begin anew", "重新开始"), elem_id="chat-clear", size="sm")

    def ask(text: str, names: tuple[str, str], said: list[Talk], system_text: str, tokens: float) -> Iterator[Any]:
        yield from _ask(loaded, text, names, said, system_text, int(tokens))

    asked = question.submit(
        lambda text, a, b, x, y, s, n: (yield from ask(text, (a, b), [x or [], y or []], s, n)),
        [question, one, two, *talks, system, most],
        [question, *talks, notice],
        show_progress="hidden",
        concurrency_limit=1,
    )
    question.stop(None, None, None, cancels=[asked])
    clear.click(lambda: ([], [], ""), None, [*talks, notice], cancels=[asked], show_progress="hidden")


def _models(root: Path) -> tuple[str, str]:
    """Return base and result of the newest run that has a result."""
    for folder in find_runs(root):
        this = look(folder)
        if this.model() is not None:
            return str(this.base() or ""), str(this.model())
    return "", ""


def _ask(
    loaded: Loaded, text: str, names: tuple[str, str], said: list[Talk], system: str, most: int
) -> Iterator[tuple[str, Talk, Talk, str]]:
    """Yield the question box, both conversations and a notice, again and again while the models answer."""
    if not text.strip():
        yield text, said[0], said[1], ""
        return
    talks = [_plain(talk) for talk in said]
    first: Talk = [{"role": "system", "content": system.strip()}] if system.strip() else []
    asked: Message = {"role": "user", "content": text.strip()}
    told = [[*first, *talk, asked] for talk in talks]
    for talk, name in zip(talks, names, strict=True):
        talk += [asked, {"role": "assistant", "content": "…"}] if name.strip() else []
    notice = ""
    yield "", talks[0], talks[1], notice
    heard = ["", ""]
    try:
        for side, piece in answers(loaded, names, told, most):
            if isinstance(piece, Warned):
                shown = str(problem("warning", piece.problem))
                notice += shown if shown not in notice else ""
            elif isinstance(piece, Problem):
                notice += str(problem("problem", piece))
            else:
                heard[side] += piece
                talks[side][-1] = {"role": "assistant", "content": heard[side]}
            yield "", talks[0], talks[1], notice
    except Refusal as refusal:
        notice += "".join(str(problem("problem", p)) for p in refusal.problems)
    for talk, answer in zip(talks, heard, strict=True):
        if talk and not answer:
            talk[-1] = {"role": "assistant", "content": "—"}
    yield "", talks[0], talks[1], notice


def _plain(talk: Talk) -> Talk:
    """Return a conversation as gradio hands it back, reduced to who said what."""
    return [{"role": str(m["role"]), "content": _text(m["content"])} for m in talk]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    return str(content.get("text", "")) if isinstance(content, dict) else str(content)
