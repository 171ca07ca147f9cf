"""Gather what a run's report shows: figures, folders, targets and the next commands."""

from __future__ import annotations

import os
import platform
from shlex import quote
from typing import Any

from lingraft.language import chinese
from lingraft.pipeline import Run, answer
from lingraft.stage_keys import chain, merges
from lingraft.stages import log_of

FOLDERS = {
    "merged": ("the model to use: plain transformers loads it", "最终模型：直接用 transformers 加载"),
    "vocab": (
        "the base with the larger vocabulary: what the adapters belong to",
        "扩充词表后的底座模型：适配器以它为基础",
    ),
    "pretrain": (
        "the adapter of continued pre-training (peft), with its lineage",
        "继续预训练得到的适配器（peft），带谱系记录",
    ),
    "sft": (
        "the adapter of instruction tuning (peft), trained on top of pretrain",
        "指令微调得到的适配器（peft），在 pretrain 之上训练",
    ),
    "prefer": ("the adapter of preference training", "偏好训练得到的适配器"),
    "classify": ("the classifier", "分类模型"),
    "export": ("files for other runtimes (llama.cpp)", "供其他运行时使用的文件（llama.cpp）"),
    "work": (
        "checkpoints, logs and optimizer state: needed only to resume; may be deleted",
        "检查点、日志与优化器状态：仅用于续训，可以删除",
    ),
    "manifest.json": ("what every stage did, with settings, versions and seconds", "每个阶段的设置、版本与用时"),
}


def facts(this: Run) -> dict[str, Any]:
    """Return everything the report page shows about a run."""
    recipe, out = this.recipe, this.out
    found: dict[str, Any] = {**answer(this.state, recipe), "base": recipe.base, "recipe": recipe.as_json()}
    for name in ("vocab", "merge", "verify", "evaluate", "export"):
        if this.result(name):
            found[name] = this.result(name)
    if why := found.get("vocab", {}).get("why"):
        found["vocab"]["why"] = {"en": why, "zh": chinese(why)}
    for name in ("pretrain", "sft", "prefer", "classify"):
        if this.result(name):
            found[name] = {**this.result(name), "log": log_of(this, name)}
    found["targets"] = targets(found)
    found["folders"] = [
        {"path": str(out / name), "what_en": en, "what_zh": zh}
        for name, (en, zh) in FOLDERS.items()
        if (out / name).exists()
    ]
    found["next"] = next_commands(this)
    found["hardware"] = {"machine": platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
    return found


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures against what a good run reaches; a missed one is said as missed."""
    rows: list[dict[str, Any]] = []
    models = (found.get("evaluate") or {}).get("models") or []
    if len(models) > 1:
        before, after = models[0], models[-1]
        for key, wanted, limit in (
            ("bits_per_character", "at least 10 % lower", -0.10),
            ("english_bits_per_character", "at most 5 % higher", 0.05),
        ):
            if before.get(key) and after.get(key):
                change = after[key] / before[key] - 1
                rows.append({"name": key, "wanted": wanted, "reached": f"{change:+.1%}", "met": change <= limit})
    measured = (found.get("vocab") or {}).get("tokens_per_character")
    if measured:
        change = measured["after"] / measured["before"] - 1
        rows.append({"name": "tokens_per_character", "wanted": "lower", "reached": f"{change:+.1%}", "met": change < 0})
    return rows


def next_commands(this: Run) -> list[str]:
    """Return the commands that a user would run next."""
    merged, found = quote(str(this.final)), this.stack()
    look = f"lingraft inspect {quote(str(this.out))}"
    if not chain(this.recipe) and this.recipe.vocab is None:  # a classifier or a reward model: nothing to talk with
        return [look]
    commands = [f"lingraft chat {merged}", look]
    adapters = " ".join(f"--adapter {quote(str(path))}" for path in found.adapters)
    if merges(this.recipe):
        commands.append(f"lingraft verify {merged} --base {quote(str(found.base))} {adapters}")
    return [*commands, f"lingraft export {merged} --to gguf --type Q8_0 --out {this.recipe.name}.gguf"]
