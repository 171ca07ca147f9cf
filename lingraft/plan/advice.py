"""Which way of training to choose, and why, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lingraft.plan.hardware import GB, Hardware
from lingraft.plan.memory import Cost, Model

_SHARE = 0.95  # a recommendation leaves some room: what is planned may be some per cent short


@dataclass(frozen=True)
class Aim:
    """What the training is for: new tokens that must be learnt, or so much text that every weight may move."""

    new_tokens: bool = False
    supervised_tokens: int | None = None


def recommend(costs: Mapping[str, Cost], model: Model, hardware: Hardware, aim: Aim) -> tuple[str | None, str]:
    """Return the name of the way to choose, None where none fits, and the reason."""
    order = _order(model, aim)
    roomy = [name for name in order if costs[name].total <= _SHARE * hardware.memory]
    chosen = roomy[0] if roomy else next((name for name in order if fits(costs[name], hardware)), None)
    if chosen is None:
        least = min(costs, key=lambda name: costs[name].total)
        return None, (
            f"Nothing fits: even {least} needs {gb(costs[least].total)} of the {gb(hardware.memory)} there "
            f"are, {gb(costs[least].weights)} of it for the weights alone; choose a smaller model or "
            "gradient_checkpointing: true and a shorter length."
        )
    return chosen, f"{_reason(chosen, costs, hardware, aim)} {_rest(chosen, costs, hardware)}".strip()


def fits(cost: Cost, hardware: Hardware) -> bool:
    """Tell whether a way of training fits into the memory."""
    return cost.total <= hardware.memory


def gb(nbytes: float) -> str:
    """Write bytes as GB of 10⁹."""
    if nbytes < GB / 10:
        return f"{nbytes / 1e6:.1f} MB"
    return f"{nbytes / GB:.1f} GB" if nbytes < 100 * GB else f"{nbytes / GB:.0f} GB"


def _order(model: Model, aim: Aim) -> Sequence[str]:
    """Return the ways from the most to the least wanted."""
    if aim.supervised_tokens is not None and aim.supervised_tokens >= model.parameters:
        return ("full", "lora+embed", "lora", "qlora+embed", "qlora", "freeze")
    if aim.new_tokens:
        return ("lora+embed", "qlora+embed", "lora", "qlora", "freeze")
    return ("lora", "qlora", "freeze")


def _reason(chosen: str, costs: Mapping[str, Cost], hardware: Hardware, aim: Aim) -> str:
    needs = f"{gb(costs[chosen].total)} of {gb(hardware.memory)}"
    if chosen == "full":
        return f"There is text enough to move every weight, and full training fits with {needs}."
    if chosen == "freeze":
        return f"Only training the last blocks fits, with {needs}."
    if chosen.endswith("+embed"):
        low = "4-bit weights" if chosen.startswith("q") else "LoRA"
        return f"New tokens need their embedding and head trained, and with {low} that fits: {needs}."
    if aim.new_tokens:
        whole = costs["qlora+embed" if chosen == "qlora" else "lora+embed"]
        return (
            f"A whole trained embedding and head ({gb(whole.ends)}) do not fit beside the rest; {chosen} does with "
            f"{needs}: train the new rows only (rows: new)."
        )
    if chosen == "qlora":
        return f"LoRA over 16- or 32-bit weights needs {gb(costs['lora'].total)}; over 4-bit weights it fits, {needs}."
    return f"LoRA fits with {needs}, keeps what the model knows better than full training, and leaves a small file."


def _rest(chosen: str, costs: Mapping[str, Cost], hardware: Hardware) -> str:
    """Say what the next larger way would need."""
    full, ends = costs["full"], costs["qlora+embed" if chosen.startswith("q") else "lora+embed"]
    if chosen != "full" and not fits(full, hardware):
        beside = ""
        if "embed" not in chosen and not fits(ends, hardware) and fits(costs[chosen], hardware):
            beside = f", and embedding and head in full would take it to {gb(ends.total)}"
        return f"Full training would need {gb(full.total)}{beside}."
    if chosen == "lora" and fits(full, hardware):
        return f"Full training would fit too ({gb(full.total)}): worth it with about as many tokens as parameters."
    return ""
