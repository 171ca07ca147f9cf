"""The page of runs: how far each is, its loss curves while it trains, and the last lines of its logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lingraft.evaluate.charts import Curve, curve
from lingraft.studio.folders import RunFolder, Stage, find_runs, look, stamp
from lingraft.studio.html import figures, join, table, tag
from lingraft.studio.words import Both, Words

EVERY = 2.0  # seconds between two looks
TAIL = 8  # lines of a log
STATES = {
    "running": Both("running", "进行中"),
    "finished": Both("finished", "已完成"),
    "stopped": Both("not finished", "未完成"),
}
NAMES = {
    "vocab": Both("Vocabulary", "扩充词表"),
    "pretrain": Both("Continued pre-training", "继续预训练"),
    "sft": Both("Instruction tuning", "指令微调"),
    "prefer": Both("Preference training", "偏好训练"),
    "classify": Both("Classification", "分类训练"),
    "merge": Both("Merge", "合并"),
    "verify": Both("Verify", "验证"),
    "evaluate": Both("Evaluate", "评测"),
    "export": Both("Export", "导出"),
    "report": Both("Report", "报告"),
}


def page(words: Words, root: Path) -> None:
    """Build the page; it looks at the chosen folder again every two seconds."""
    found = find_runs(root)
    start = str(found[0]) if found else None
    with gr.Row(elem_classes="controls"):
        chosen = words.make(
            gr.Dropdown,
            label=Both("Run", "训练"),
            choices=_choices(found),
            value=start,
            elem_id="run-choice",
            filterable=False,
        )
        again = words.make(
            gr.Button, value=Both("Look again", "刷新"), elem_id="run-refresh", scale=0, min_width=110, size="sm"
        )
    view = gr.HTML(render(start, root), elem_id="run-view")
    seen = gr.State(None)
    gr.Timer(EVERY).tick(
        lambda run, before: _tick(run, before, root), [chosen, seen], [view, seen], show_progress="hidden", queue=False
    )
    chosen.change(lambda run: render(run, root), chosen, view, show_progress="hidden")
    again.click(lambda run: _again(run, root), chosen, [chosen, view], show_progress="hidden")


def _choices(found: list[Path]) -> list[tuple[str, str]]:
    names = [p.name for p in found]
    return [(p.name if names.count(p.name) == 1 else f"{p.parent.name}/{p.name}", str(p)) for p in found]


def _again(run: str | None, root: Path) -> tuple[Any, str]:
    found = find_runs(root)
    chosen = run if run and Path(run) in found else str(found[0]) if found else None
    return gr.Dropdown(choices=_choices(found), value=chosen), render(chosen, root)


def _tick(run: str | None, before: Any, root: Path) -> tuple[Any, Any]:
    now = stamp(Path(run)) if run else None
    if run is None or (now == before and look(Path(run)).state != "running"):
        return gr.skip(), gr.skip()
    return render(run, root), now


def render(run: str | None, root: Path) -> str:
    """Return a run as HTML."""
    if run is None:
        return str(
            tag(
                "div",
                tag("p", Both("There is no run below ", "此处没有训练："), tag("code", str(root))),
                tag(
                    "p",
                    Both("Make one: ", "创建一个："),
                    tag("code", "lingraft quickstart"),
                    Both(", or start the studio with --runs DIR", "，或用 --runs DIR 启动 studio"),
                ),
                class_="notice",
            )
        )
    this = look(Path(run))
    training = [stage for stage in this.stages if stage.log]
    return str(
        tag(
            "div",
            _head(this),
            _bar(this),
            _results(this),
            tag("div", *(_plot(stage) for stage in training), class_="plots"),
            class_="run",
            data_state=this.state,
        )
    )


def _head(this: RunFolder) -> Markup:
    return tag(
        "p",
        tag("span", STATES[this.state], class_=f"state {this.state}"),
        " ",
        tag("code", str(this.path), data_field="path"),
        " · ",
        tag("span", _time(this.seconds), data_field="seconds", data_value=this.seconds),
        class_="run-head",
    )


def _bar(this: RunFolder) -> Markup:
    """Show the stages as steps in a row: done, being done, to come."""
    now = "now" if this.state == "running" else "open"
    return tag(
        "ol",
        *(
            tag(
                "li",
                tag("b", NAMES[stage.name]),
                tag("span", _time(stage.seconds) if stage.seconds else "…"),
                class_="done" if stage.done else now,
                data_stage=stage.name,
            )
            for stage in this.stages
        ),
        class_="steps",
    )


def _results(this: RunFolder) -> Markup:
    """Show what the run came to: first model against last, as the report does."""
    vocab = this.result("vocab").get("tokens_per_character") or {}
    models = this.result("evaluate").get("models") or []
    first, last = (models[0], models[-1]) if len(models) > 1 else ({}, {})
    verified = this.result("verify")
    return figures(
        [
            (
                "bits_per_character",
                Both("Bits per character, Chinese", "中文每字符比特数"),
                _change(first, last, "bits_per_character"),
            ),
            (
                "english_bits_per_character",
                Both("Bits per character, English", "英文每字符比特数"),
                _change(first, last, "english_bits_per_character"),
            ),
            (
                "tokens_per_character",
                Both("Tokens per character", "每字符词元数"),
                _change({"it": vocab.get("before")}, {"it": vocab.get("after")}, "it"),
            ),
            ("new_pieces", Both("New pieces", "新增词元"), this.result("vocab").get("new_pieces")),
            (
                "max_abs_error",
                Both("Merged against base + adapters", "合并结果与底座 + 适配器之差"),
                verified.get("max_abs_error"),
            ),
        ]
    )


def _change(first: Mapping[str, Any], last: Mapping[str, Any], key: str) -> Markup | None:
    before, after = first.get(key), last.get(key)
    if not isinstance(before, int | float) or not isinstance(after, int | float) or not before:
        return None
    return join([f"{before:.3f} → {after:.3f} ", tag("small", f"{after / before - 1:+.1%}")])


def _plot(stage: Stage) -> Markup:
    drawn = curve(stage.log)
    last = stage.log[-1]
    return tag(
        "section",
        tag("h3", NAMES[stage.name]),
        _chart(stage.name, drawn) if drawn else tag("p", Both("no loss yet", "还没有损失值"), class_="soft"),
        tag(
            "div",
            tag("span", tag("i"), Both("training loss by step", "各步训练损失")),
            tag("span", tag("i", class_="dot"), Both("validation loss", "验证损失")) if drawn and drawn.marks else None,
            class_="legend",
        ),
        _log(stage),
        class_="stage",
        data_log=stage.name,
        data_step=last.get("step"),
    )


def _chart(name: str, drawn: Curve) -> Markup:
    """Draw a curve as the report does: SVG holds lines alone; labels are HTML and keep their size."""
    y = tag("div", *(tag("span", t.label, style=f"top:{t.place:.2f}%") for t in drawn.y_ticks), class_="y")
    x = tag(
        "div",
        *(
            tag(
                "span",
                t.label,
                style=f"left:{t.place:.2f}%",
                class_="first" if t.place < 4 else "last" if t.place > 96 else None,
            )
            for t in drawn.x_ticks
        ),
        class_="x",
    )
    grid = [
        tag("line", class_="grid", x1=0, x2=1000, y1=f"{t.place * 3:.1f}", y2=f"{t.place * 3:.1f}")
        for t in drawn.y_ticks
    ]
    raw = tag("path", class_="raw", d=drawn.raw) if drawn.raw != drawn.smooth else None
    lines = tag(
        "svg",
        *grid,
        raw,
        tag("path", class_="smooth", d=drawn.smooth),
        viewBox="0 0 1000 300",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    checks = [tag("span", class_="check", style=f"left:{a:.2f}%;top:{b:.2f}%") for a, b in drawn.marks]
    return tag(
        "div",
        y,
        tag("div", lines, *checks, class_="area"),
        x,
        class_="plot",
        role="img",
        aria_label=f"loss: {drawn.first:.3f} → {drawn.last:.3f}",
        data_curve=name,
        data_points=drawn.points,
        data_last=f"{drawn.last:.4f}",
    )


def _log(stage: Stage) -> Markup:
    rows = [
        (
            row.get("step", ""),
            _loss(row),
            f"{row['learning_rate']:.2e}" if _is(row, "learning_rate") else "",
            f"{row['tokens']:,}" if _is(row, "tokens") else "",
            _time(row["seconds"]) if _is(row, "seconds") else "",
        )
        for row in stage.log[-TAIL:]
    ]
    heads = [
        Both("step", "步"),
        Both("loss", "损失"),
        Both("learning rate", "学习率"),
        Both("tokens", "词元"),
        Both("time", "用时"),
    ]
    return table(heads, rows, numbers=range(5), class_="log")


def _loss(row: Mapping[str, Any]) -> Any:
    if _is(row, "loss"):
        return f"{row['loss']:.4f}"
    return join([Both("validation ", "验证 "), f"{row['eval_loss']:.4f}"]) if _is(row, "eval_loss") else ""


def _is(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
