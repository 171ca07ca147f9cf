"""A plan as a person reads it: one table, the recommendation, and what a recipe's stages need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingraft.plan.advice import gb

_COLUMNS = ("weights", "gradients", "optimizer", "activations", "total")


def table(result: Mapping[str, Any]) -> str:
    """Return the plan as plain text."""
    place = result["hardware"]
    checkpointing = ", gradient checkpointing" if result["gradient_checkpointing"] else ""
    lines = [
        f"{result['model']}: {result['parameters']:,} parameters; {place['name']} with {gb(place['memory'])}, "
        f"{place['dtype']}; {result['length']} tokens a text, {result['tokens_at_once']} at once{checkpointing}",
        "",
        f"{'':12}" + "".join(f"{name:>13}" for name in (*_COLUMNS, "s/1k tokens")) + "  fits",
        *(_row(s["name"], s) for s in result["strategies"]),
        "",
    ]
    ends = next((s for s in result["strategies"] if s["name"] == "lora+embed"), None)
    if ends is not None:
        parts = ends["parts"]
        lines.append(
            f"Of lora+embed, the trained embedding takes {gb(parts['trained_embedding'])}, the trained head "
            f"{gb(parts['trained_head'])}, logits {gb(parts['logits'])}."
        )
    lines.append(f"Times are {place['speed']}{'' if place['speed'] == 'measured' else ', not measured'}.")
    for stage in result.get("stages", ()):
        lines += ["", "As the recipe says:", _row(stage["stage"], stage)]
        lines += [stage["advice"]] if "advice" in stage else []
    return "\n".join([*lines, "", f"Recommended: {result['recommended'] or 'none'}. {result['why']}"])


def _row(name: str, item: Mapping[str, Any]) -> str:
    sizes = "".join(f"{gb(item['memory'][column]):>13}" for column in _COLUMNS)
    return f"{name:12}{sizes}{item['seconds_per_1k_tokens']:>13.3g}  {'yes' if item['fits'] else 'no'}"
