"""The page of weights: inspect, verify and merge what a path names, or what is dropped here, as the verbs do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lingraft.outcome import Outcome, attempt
from lingraft.problems import CODES, Findings, refuse
from lingraft.studio.drop import Drops, look_at, zone
from lingraft.studio.folders import find_runs, look
from lingraft.studio.local import local, locals_in
from lingraft.studio.shown import inspected, merged, shown, verified
from lingraft.studio.words import Both, Words

FORMS = [(Both("Inspect", "检查"), "inspect"), (Both("Verify", "验证"), "verify"), (Both("Merge", "合并"), "merge")]
PATH = Both("Folder or file", "文件夹或文件")
BASE = Both("Base", "底座模型")
ADAPTERS = Both("Adapters, one a line, in order", "适配器，每行一个，按顺序")


def page(words: Words, root: Path, drops: Drops) -> None:
    """Build the page: three forms, of which CSS shows the chosen one, each with its own answer below it."""
    runs = [str(p) for p in find_runs(root)]
    fill = words.make(
        gr.Dropdown,
        label=Both("Fill in the paths of a run", "填入某次训练的路径"),
        choices=runs,
        value=runs[0] if runs else None,
        elem_id="fill",
        filterable=False,
        visible=bool(runs),
    )
    gr.HTML(zone())
    arrived = gr.Textbox(elem_id="drop-done", show_label=False, container=False)  # out of sight; drop.js fills it
    verb = words.make(gr.Radio, choices=FORMS, value="inspect", show_label=False, container=False, elem_id="verb")
    verb.change(None, verb, None, js="verb => { document.documentElement.dataset.verb = verb }")
    inspected_here, path = _inspect(words)
    fields = [path, *_verify(words), *_merge(words)]
    arrived.change(lambda batch: _dropped(drops.whole(batch)), arrived, [*fields, inspected_here])
    fill.change(_filled, fill, fields, show_progress="hidden")
    if runs:
        for field, value in zip(fields, _filled(runs[0]), strict=True):
            field.value = value


def _inspect(words: Words) -> tuple[Any, Any]:
    with gr.Column(elem_classes="verb-form inspect"):
        path = words.text(
            label=PATH,
            elem_id="inspect-path",
            max_lines=1,
            placeholder=Both("a model, an adapter, a run, a file", "模型、适配器、训练目录或文件"),
        )
        everything = words.make(
            gr.Checkbox,
            label=Both("Read everything and fingerprint it", "读取全部内容并计算指纹"),
            elem_id="inspect-fingerprint",
        )
        go = words.make(gr.Button, value=Both("Inspect", "检查"), variant="primary", elem_id="inspect-go")
        answer = gr.HTML(elem_id="inspect-answer")
    for event in (go.click, path.submit):
        event(lambda p, f: shown(inspect(p, f), inspected), [path, everything], answer)
    return answer, path


def _verify(words: Words) -> list[Any]:
    with gr.Column(elem_classes="verb-form verify"):
        path = words.text(
            label=Both("Adapter or merged model", "适配器或合并后的模型"), max_lines=1, elem_id="verify-path"
        )
        with gr.Row():
            base = words.text(
                label=BASE,
                elem_id="verify-base",
                max_lines=1,
                min_width=240,
                placeholder=Both(
                    "empty: an adapter's own, or the receipt alone", "留空：适配器自带的底座，或只核对凭据"
                ),
            )
            adapters = words.text(
                label=ADAPTERS,
                elem_id="verify-adapters",
                lines=2,
                min_width=240,
                placeholder=Both("of a merged model", "仅用于合并后的模型"),
            )
        go = words.make(gr.Button, value=Both("Verify", "验证"), variant="primary", elem_id="verify-go")
        answer = gr.HTML(elem_id="verify-answer")
    go.click(lambda p, b, a: shown(verify(p, b, a), verified), [path, base, adapters], answer)
    return [path, base, adapters]


def _merge(words: Words) -> list[Any]:
    with gr.Column(elem_classes="verb-form merge"):
        with gr.Row():
            base = words.text(label=BASE, elem_id="merge-base", max_lines=1, min_width=240)
            adapters = words.text(label=ADAPTERS, elem_id="merge-adapters", lines=2, min_width=240)
        out = words.text(label=Both("Write to this new folder", "写入新文件夹"), max_lines=1, elem_id="merge-out")
        with words.make(gr.Accordion, label=Both("More choices", "更多选项"), open=False):
            with gr.Row():
                dtype = words.make(
                    gr.Dropdown,
                    label=Both("Number format", "数值格式"),
                    value="keep",
                    choices=["keep", "float32", "float16", "bfloat16"],
                    filterable=False,
                )
                tied = words.make(
                    gr.Dropdown,
                    value="auto",
                    choices=["auto", "tie", "untie"],
                    filterable=False,
                    label=Both("A tied head, trained by the adapter", "适配器训练了共享输出层时"),
                )
            allow = words.make(
                gr.Dropdown,
                label=Both("Override these refusals knowingly", "明知并放行这些拒绝"),
                choices=list(CODES),
                multiselect=True,
                elem_id="merge-allow",
            )
            overwrite = words.make(gr.Checkbox, label=Both("Replace what is in the folder", "覆盖文件夹中已有内容"))
        go = words.make(gr.Button, value=Both("Merge", "合并"), variant="primary", elem_id="merge-go")
        answer = gr.HTML(elem_id="merge-answer")
    go.click(
        lambda *given: shown(merge(*given), merged),
        [base, adapters, out, dtype, tied, allow, overwrite],
        answer,
        concurrency_limit=1,
    )
    return [base, adapters, out]


def _filled(run: str | None) -> list[str]:
    """Return the paths of a run, in the order of the fields: one of inspect, three of verify, three of merge."""
    if not run:
        return [""] * 7
    this = look(Path(run))
    base, adapters = str(this.base() or ""), "\n".join(map(str, this.adapters()))
    merged_there = (this.path / "merged").is_dir()
    result = str(this.model() or "")
    return [run, result, base, adapters if merged_there else "", base, adapters, str(this.path / "merged-again")]


def inspect(path: str, fingerprint: bool = False) -> Outcome:
    """Do what `lingraft inspect` does."""

    def call(findings: Findings) -> dict[str, Any]:
        from lingraft.weights.inspect import inspect as look_at

        return look_at(local(path), fingerprint, findings)

    return attempt(call)


def verify(path: str, base: str = "", adapters: str = "") -> Outcome:
    """Do what `lingraft verify` does."""

    def call(findings: Findings) -> dict[str, Any]:
        from lingraft.verify.run import verify as prove

        return prove(
            str(local(path)), str(local(base)) if base.strip() else None, [*map(str, locals_in(adapters))], findings
        )

    return attempt(call)


def merge(
    base: str,
    adapters: str,
    out: str,
    dtype: str = "keep",
    tied: str = "auto",
    allow: Sequence[str] = (),
    overwrite: bool = False,
) -> Outcome:
    """Do what `lingraft merge` does."""

    def call(findings: Findings) -> dict[str, Any]:
        from lingraft.merge.run import merge as merge_to

        named = locals_in(adapters)
        if not named:
            refuse("not-found", "no adapter is named", "name the adapters, one a line, in order")
        if not out.strip():
            refuse("not-found", "no output folder is named", "type the path of a new folder")
        return merge_to(
            local(base),
            named,
            Path(out.strip()).expanduser(),
            dtype=dtype,
            tied="tie" if tied == "tie" else "untie" if tied == "untie" else "auto",
            overwrite=overwrite,
            findings=findings,
            command=["lingraft", "studio"],
        )

    return attempt(call, frozenset(allow or ()))


def _dropped(folder: Path) -> list[Any]:
    """Return the fields of all forms for a folder that was dropped, and its inspection."""
    found = look_at(folder)
    one = str(found.adapters[-1] if found.adapters else folder)
    filled = [str(folder), one, found.base, "", found.base, "\n".join(map(str, found.adapters)), found.out]
    return [*filled, shown(inspect(str(folder)), inspected)]
