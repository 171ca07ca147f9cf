"""Whether an adapter holds all that its config promises: every targeted module, every module to save.

peft loads a file that lacks half of its layers with a warning, and leaves those layers untrained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lingraft.merge.adapter import Adapter, some
from lingraft.merge.match import Renaming
from lingraft.merge.names import listed
from lingraft.problems import Findings
from lingraft.weights.tensors import Lazy

# peft adds these to modules_to_save by task, whether the model has them or not.
BY_TASK = {"SEQ_CLS": {"classifier", "score"}, "TOKEN_CLS": {"classifier", "score"}, "QUESTION_ANS": {"qa_outputs"}}


def check(adapter: Adapter, weights: Lazy, rename: Renaming, findings: Findings) -> None:
    """Find targeted modules and modules to save that have no tensor. Problem: `missing-adapter-tensors`."""
    modules = sorted(
        {rename.live(name).rpartition(".")[0] for name, entry in weights.entries.items() if len(entry.shape) >= 2}
    )
    held = {part.module for part in adapter.parts if part.role not in ("value", "original")}
    if adapter.kind in ("LORA", "IA3") and not adapter.config.get("target_parameters"):
        lost = [module for module in modules if module not in held and _targeted(adapter, module)]
        if lost:
            findings.problem(
                "missing-adapter-tensors",
                f"{adapter.path} targets {some(lost)}, and holds nothing for them",
                "take another checkpoint: this one is incomplete",
                adapter.path,
                lost[0],
            )
    _check_saved(adapter, modules, findings)


def _targeted(adapter: Adapter, module: str) -> bool:
    targets, excluded = adapter.config.get("target_modules"), adapter.config.get("exclude_modules")
    if not targets or targets == "all-linear" or listed(module, excluded):
        return False
    if any(listed(module, [name]) for name in adapter.config.get("modules_to_save") or ()):
        return False
    if module in targets if not isinstance(targets, str) else False:
        return True
    return listed(module, targets) and _layer_chosen(adapter, module)


def _layer_chosen(adapter: Adapter, module: str) -> bool:
    chosen = adapter.config.get("layers_to_transform")
    if chosen is None:
        return True
    patterns = adapter.config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found = next((m for p in patterns if (m := re.match(rf".*\.{p}\.(\d+)\.", module))), None)
    found = found if patterns else re.match(r".*\.[^.]*\.(\d+)\.", module)
    return found is not None and int(found[1]) in ([chosen] if isinstance(chosen, int) else chosen)


def _check_saved(adapter: Adapter, modules: Iterable[str], findings: Findings) -> None:
    held = {part.module for part in adapter.parts if part.role in ("value", "tokens")}
    by_task = BY_TASK.get(str(adapter.config.get("task_type")), set())
    lost = []
    for name in adapter.config.get("modules_to_save") or ():
        if any(listed(module, [name]) or f".{name}." in f".{module}." for module in held):
            continue
        in_base = any(listed(module, [name]) for module in modules)
        if name in by_task and not in_base and any(set(m.split(".")) & by_task for m in held):
            continue
        lost.append(str(name))
    if lost:
        findings.problem(
            "missing-adapter-tensors",
            f"{adapter.path}: adapter_config.json lists {some(lost)} in modules_to_save, and the file does not hold it",
            "save the adapter again: the trained module was lost",
            adapter.path,
            lost[0],
        )
