"""The answers of inspect, verify and merge as HTML: what was found, what is wrong and what to do, and the JSON itself.

Every figure stands in an element with ``data-field``, the name it has in the JSON of the verb.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lingraft.language import chinese
from lingraft.outcome import Outcome
from lingraft.problems import Problem
from lingraft.studio.html import figures, join, table, tag
from lingraft.studio.words import Both
from lingraft.weights.contents import gigabytes
from lingraft.weights.describe import NAMES

FIRST = 14  # rows of a table that stand open; the rest is a click away
Show = Callable[[Mapping[str, Any]], Markup]


def shown(outcome: Outcome, show: Show) -> str:
    """Return an outcome: the verdict, its problems and warnings, the result, and the JSON that the verb prints."""
    if outcome.bug is not None:
        return str(
            tag(
                "div",
                tag("p", Both("lingraft failed, which is a bug", "lingraft 出错了，这是一个缺陷"), ": ", outcome.bug),
                class_="notice bad",
                data_ok="false",
            )
        )
    told = json.dumps(outcome.as_json(), ensure_ascii=False, indent=2, default=str)
    return str(
        tag(
            "div",
            _verdict(outcome),
            *(problem("problem", p) for p in outcome.problems),
            *(problem("warning", p) for p in outcome.warnings),
            show(outcome.result) if outcome.result else None,
            tag("details", tag("summary", "JSON"), tag("pre", told, class_="json", tabindex="0")),
            class_="outcome",
            data_ok=json.dumps(outcome.ok),
        )
    )


def _verdict(outcome: Outcome) -> Markup:
    if outcome.ok:
        many = len(outcome.warnings)
        return tag(
            "p",
            tag("span", Both("fine", "通过"), class_="met"),
            " ",
            Both("nothing is wrong", "没有发现问题")
            if not many
            else Both(f"done, with {many} warning{'s' * (many > 1)}", f"完成，有 {many} 条警告"),
            class_="verdict",
        )
    many = len(outcome.problems)
    return tag(
        "p",
        tag("span", Both("refused", "已拒绝"), class_="missed"),
        " ",
        Both(f"{many} problem{'s' * (many > 1)}", f"{many} 个问题"),
        class_="verdict",
    )


def problem(kind: str, found: Problem) -> Markup:
    """Return a problem or a warning: its code, what happened, and what to do."""
    return tag(
        "div",
        tag("code", found.code, data_field="code"),
        tag("p", Both(found.message, chinese(found.message)), data_field="message"),
        tag(
            "p",
            tag("b", Both("What to do: ", "怎么办：")),
            tag("span", Both(found.remedy, chinese(found.remedy)), data_field="remedy"),
        ),
        class_=f"problem {kind}",
    )


def inspected(result: Mapping[str, Any]) -> Markup:
    """Show what `inspect` answers."""
    adapter = result.get("adapter")
    tied = result.get("tied")
    rows = [
        ("kind", Both("What it is", "类型"), tag("span", result["kind"], title=NAMES.get(result["kind"], ""))),
        ("bytes", Both("Size", "大小"), tag("span", gigabytes(result["bytes"]), data_value=result["bytes"])),
        ("parameters", Both("Parameters", "参数量"), count(result.get("parameters"))),
        ("tensors", Both("Tensors", "张量数"), count(result.get("tensors"))),
        ("dtypes", Both("Number formats", "数值格式"), "、".join(result.get("dtypes") or {}) or None),
        ("architecture", Both("Architecture", "架构"), result.get("architecture")),
        ("vocab_size", Both("Vocabulary rows", "词表行数"), count(result.get("vocab_size"))),
        ("tokenizer_size", Both("Tokens in the tokenizer", "分词器词元数"), count(result.get("tokenizer_size"))),
        (
            "tied",
            Both("Head", "输出层"),
            None
            if tied is None
            else Both("tied to the embedding", "与嵌入共享")
            if tied
            else Both("its own weights", "独立权重"),
        ),
        ("adapter", Both("Adapter", "适配器"), adapter and f"{adapter.get('type')} r={adapter.get('r')}"),
    ]
    use = result.get("use")
    return join(
        [
            figures(rows),
            None
            if not use
            else tag(
                "p",
                Both("Work with this path next: ", "接下来使用的路径："),
                tag("code", use, data_field="use"),
                class_="next",
            ),
            _wide("fingerprint", Both("Fingerprint", "指纹"), result.get("fingerprint")),
            _contents(result["contents"]),
        ]
    )


def _contents(parts: Sequence[Mapping[str, Any]]) -> Markup | None:
    rows = [
        (
            tag("code", p["path"]),
            gigabytes(p["bytes"]),
            Both(p["role"], chinese(p["role"])),
            Both(p["needed_for"], chinese(p["needed_for"])),
            tag("span", Both("may be deleted", "可以删除"), class_="soft") if p["removable"] else Both("keep", "保留"),
        )
        for p in sorted(parts, key=lambda p: -p["bytes"])
    ]
    heads = [Both("File", "文件"), Both("Size", "大小"), Both("What it is", "是什么"), Both("Needed for", "用途"), ""]
    return _long(heads, rows, numbers=[1], class_="contents") if rows else None


def verified(result: Mapping[str, Any]) -> Markup:
    """Show what `verify` answers: an adapter's proof, a merged model, or a receipt."""
    logits = result.get("logits") or {}
    rows: list[tuple[str, Any, Any]] = [
        ("max_abs_error", Both("Largest difference of a weight", "权重最大差异"), result.get("max_abs_error")),
        ("logits.max_abs", Both("Largest difference of a logit", "logits 最大差异"), logits.get("max_abs")),
        ("logits.kl", Both("KL divergence", "KL 散度"), logits.get("kl")),
        ("logits.argmax_agreement", Both("Same next token", "下一词元一致"), logits.get("argmax_agreement")),
        ("tensors", Both("Tensors recomputed", "重算的张量"), count(result.get("tensors"))),
        (
            "match",
            Both("Weights match the receipt", "权重与凭据一致"),
            None if result.get("match") is None else Both("yes", "是") if result["match"] else Both("no", "否"),
        ),
    ]
    return join(
        [
            figures(rows),
            _wide("fingerprint", Both("Fingerprint", "指纹"), result.get("fingerprint")),
            _embeddings(result.get("embeddings") or []),
            _modules(result.get("modules") or []),
        ]
    )


def _embeddings(found: Sequence[Mapping[str, Any]]) -> Markup | None:
    rows = [
        (
            tag("code", e["name"]),
            f"{e['new_rows_changed']:,} / {e['new_rows']:,}",
            f"{e['old_rows_changed']:,} / {e['old_rows']:,}",
        )
        for e in found
    ]
    heads = [Both("Embedding", "嵌入"), Both("New rows changed", "改变的新行"), Both("Old rows changed", "改变的旧行")]
    return table(heads, rows, numbers=[1, 2], class_="embeddings") if rows else None


def _modules(found: Sequence[Mapping[str, Any]]) -> Markup | None:
    changed = sum(bool(m["changed"]) for m in found)
    rows = [
        (
            tag("code", m["name"]),
            tag("span", Both("moved", "已更新"), class_="met")
            if m["changed"]
            else tag("span", Both("not moved", "未更新"), class_="missed"),
            f"{m['max_abs']:.3g}",
            f"{m['rel_norm']:.3%}",
        )
        for m in found
    ]
    heads = [Both("Module", "模块"), "", Both("Largest change", "最大变化"), Both("Relative", "相对变化")]
    return (
        join(
            [
                tag(
                    "p",
                    tag("b", f"{changed:,} / {len(found):,}", data_field="modules.changed"),
                    " ",
                    Both("modules moved", "个模块已更新"),
                ),
                _long(heads, rows, numbers=[2, 3], class_="modules"),
            ]
        )
        if found
        else None
    )


def merged(result: Mapping[str, Any]) -> Markup:
    """Show what `merge` answers: the receipt in short."""
    rows = [
        (tag("code", a["adapter"]), f"{a['tensors']:,}", f"{a['low_rank']:,}", f"{a['replaced']:,}", f"{a['rows']:,}")
        for a in result.get("applied") or []
    ]
    heads = [
        Both("Adapter, in this order", "适配器（按此顺序）"),
        Both("Tensors used", "用到的张量"),
        Both("Low-rank updates", "低秩更新"),
        Both("Replaced", "整体替换"),
        Both("Rows", "行"),
    ]
    memory = result.get("peak_memory")
    return tag(
        "div",
        tag("h3", Both("Receipt", "合并凭据")),
        figures(
            [
                ("out", Both("Written to", "写入"), tag("code", result.get("out", ""))),
                ("seconds", Both("Seconds", "秒"), result.get("seconds")),
                (
                    "peak_memory",
                    Both("Peak memory", "内存峰值"),
                    None if memory is None else tag("span", gigabytes(memory), data_value=memory),
                ),
            ]
        ),
        table(heads, rows, numbers=[1, 2, 3, 4], class_="applied"),
        _wide("fingerprint", Both("Fingerprint of the result", "结果的指纹"), result.get("fingerprint")),
        class_="receipt",
    )


def _long(heads: Sequence[Any], rows: Sequence[Sequence[Any]], **how: Any) -> Markup:
    """Return a table whose first rows stand open."""
    more = len(rows) - FIRST
    if more < 3:
        return table(heads, rows, **how)
    return join(
        [
            table(heads, rows[:FIRST], **how),
            tag("details", tag("summary", Both(f"{more} more", f"其余 {more} 行")), table(heads, rows[FIRST:], **how)),
        ]
    )


def count(value: int | None) -> Markup | None:
    """Return a whole number with its thousands apart, and as it is for scripts."""
    return None if value is None else tag("span", f"{value:,}", data_value=value)


def _wide(field: str, label: Both, value: Any) -> Markup | None:
    return None if not value else tag("p", label, ": ", tag("code", value, data_field=field), class_="wide")
