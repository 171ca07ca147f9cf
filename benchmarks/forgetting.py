"""What going on with an adapter forgets, with and without replay: docs/forgetting.png.

    python benchmarks/forgetting.py [--base lingraft:SmolLM2-135M-Instruct] [--steps 60] [--plot docs/forgetting.png]

An adapter learns Chinese text; then the same adapter goes on with English text, once on that alone and once
with a share of the Chinese mixed in (`continue:` and `mix:`). Held-out Chinese text is measured after each: bits per
character. Same seed, same steps, same rate for both ways.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from lingraft.evaluate.run import evaluate
from lingraft.models import locate
from lingraft.problems import Findings
from lingraft.recipe import Pretrain, resolve
from lingraft.train import pretrain
from lingraft.train.stage import Stage

OLD, NEW = "lingraft:zh.jsonl", "lingraft:en.jsonl"


def train(base: Path, out: Path, steps: int, length: int, rate: float, **block: Any) -> Path:
    """Train one adapter and return where it lies."""
    trainer = {
        "max_steps": steps,
        "learning_rate": rate,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    made = Pretrain(length=length, techniques=[{"kind": "lora", "r": 16}], trainer=trainer, **block)
    stage = Stage("pretrain", made, base, (), out, out.with_name(f"{out.name}-work"))
    pretrain.run(stage)
    return out


def measure(models: list[Path], limit: int) -> list[dict[str, float]]:
    """Return bits per character of held-out Chinese and English text for each model."""
    answer = evaluate(
        [str(m) for m in models],
        text=resolve("lingraft:zh-heldout.jsonl"),
        english=resolve("lingraft:en-heldout.jsonl"),
        tasks=[],
        prompts=[],
        limit=limit,
        findings=Findings(),
    )
    return [{"zh": m["bits_per_character"], "en": m["english_bits_per_character"]} for m in answer["models"]]


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Draw held-out Chinese beside held-out English, a point a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 2.8), constrained_layout=True, sharey=True)
    for axis, key, title in zip(axes, ("zh", "en"), ("Chinese, learnt first", "English, learnt then"), strict=True):
        values = [row[key] for row in rows.values()]
        for name, value, color in zip(rows, values, ("#9aa5b1", "#3b6ea5", "#c8553d", "#3f8f5f"), strict=True):
            axis.plot(value, name, "o", color=color, markersize=9)
            axis.annotate(f"{value:.3f}", (value, name), xytext=(8, 4), textcoords="offset points")
        axis.set_title(title, fontsize=10)
        margin = 0.25 * (max(values) - min(values))
        axis.set_xlim(min(values) - margin / 2, max(values) + 2 * margin)
        axis.set_xlabel("bits per character, held-out text")
        axis.margins(y=0.2)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train three adapters, measure four models, draw, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="lingraft:SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--replay", type=float, default=0.2)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    base = locate(given.base)
    with tempfile.TemporaryDirectory() as scratch:
        home, same = Path(scratch), (given.steps, given.length, given.rate)
        first = train(base, home / "first", *same, data=OLD)
        go_on = {"continue": str(first)}
        alone = train(base, home / "alone", *same, data=NEW, **go_on)
        mixed = train(
            base,
            home / "mixed",
            *same,
            **go_on,
            mix=[{"path": NEW, "weight": 1 - given.replay}, {"path": OLD, "weight": given.replay}],
        )
        figures = measure([base, first, alone, mixed], given.limit)
    names = ["base", "after Chinese", "then English alone", f"then English, {given.replay:.0%} replay"]
    rows = dict(zip(names, figures, strict=True))
    print(json.dumps({"steps": given.steps, "length": given.length, "rate": given.rate, "models": rows}, indent=2))
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
