"""One short function per stage: take the run, call the room, return what it answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.models import Stack
from lingraft.pipeline import Run
from lingraft.recipe import resolve
from lingraft.stage_keys import chain, data_paths, training_block

if TYPE_CHECKING:
    from lingraft.train.stage import Stage

OUTPUTS = {
    "vocab": "vocab",
    "pretrain": "pretrain",
    "sft": "sft",
    "prefer": "prefer",
    "classify": "classify",
    "merge": "merged",
    "verify": "verify.json",
    "evaluate": "evaluate.json",
    "export": "export",
    "report": "report.html",
}


def vocab(this: Run) -> dict[str, Any]:
    """Grow the vocabulary of the base."""
    from lingraft.vocab.run import extend

    block = this.recipe.vocab
    assert block is not None
    corpus = [block.corpus] if isinstance(block.corpus, str) else list(block.corpus or [])
    return extend(
        this.base,
        this.out / "vocab",
        corpus=[resolve(path) for path in corpus],
        unite=None if block.unite is None else resolve(block.unite),
        size=block.size,
        init=block.init,
        all_pieces=block.all_pieces,
        budget_tokens=_budget(this),
        seed=this.recipe.seed,
        overwrite=True,
        findings=this.findings,
    )


def _budget(this: Run) -> int | None:
    """Return how many tokens the training stages will see, where their time is bounded."""
    minutes = [training_block(this.recipe, n).minutes for n in ("pretrain", "sft") if getattr(this.recipe, n)]
    if not minutes or None in minutes:
        return None
    from lingraft.train.speed import tokens_per_second

    return round(sum(m for m in minutes if m) * 60 * tokens_per_second(this.base))


def stage_of(this: Run, name: str, adapters: tuple[Path, ...] | None = None) -> Stage:
    """Return what a training stage needs to know; with ``adapters`` given it stands on the bare base and them."""
    from lingraft.train.stage import Stage

    found = this.stack(before=name) if adapters is None else Stack(this.base, adapters)
    return Stage(  # absolute paths: they are recorded in the adapter's lineage
        name=name,
        block=training_block(this.recipe, name),
        base=found.base.absolute(),
        adapters=tuple(path.absolute() for path in found.adapters),
        out=this.out / name,
        work=this.out / "work" / name,
        seed=this.recipe.seed,
        recipe=this.recipe.as_json(),
        findings=this.findings,
        distributed=this.recipe.distributed,
    )


def train(name: str) -> Callable[[Run], dict[str, Any]]:
    """Return the runner of a training stage."""

    def runner(this: Run) -> dict[str, Any]:
        from lingraft.train.distributed import launch

        stage = stage_of(this, name)
        launch.call(stage)
        result: dict[str, Any] = import_module(f"lingraft.train.{name}").run(stage)
        return result

    return runner


def merge(this: Run) -> dict[str, Any]:
    """Merge the adapters in training order into the model they were trained on."""
    from lingraft.merge.run import merge as merge_to

    block, found = this.recipe.merge, this.stack()
    return merge_to(
        found.base,
        found.adapters,
        this.out / "merged",
        dtype=block.dtype,
        shard_size=block.shard_size,
        onto=block.onto,
        tied=block.tied,
        overwrite=True,
        findings=this.findings,
        command=list(this.command),
    )


def verify(this: Run) -> dict[str, Any]:
    """Hold the merged model against base and adapters, and each adapter against its base."""
    from lingraft.output import write_json
    from lingraft.verify.merged import verify_merged

    found = this.stack()
    result = verify_merged(this.out / "merged", found.base, found.adapters, this.findings)
    this.findings.settle(result)
    write_json(this.out / "verify.json", result)
    return result


def evaluate(this: Run) -> dict[str, Any]:
    """Measure base and result side by side."""
    from lingraft.evaluate.run import evaluate as measure
    from lingraft.output import write_json

    block = this.recipe.evaluate
    assert block is not None
    result = measure(
        [this.recipe.base, *([str(this.final)] if chain(this.recipe) else [])],
        text=None if block.text is None else resolve(block.text),
        english=None if block.english is None else resolve(block.english),
        tasks=block.tasks,
        shots=block.shots,
        prompts=block.prompts,
        samples=block.samples,
        limit=block.limit,
        train=_trained_on(this),
        findings=this.findings,
    )
    write_json(this.out / "evaluate.json", result)
    return result


def _trained_on(this: Run) -> list[Path]:
    """Return the files that the training stages read, in which no held-out text should stand."""
    blocks = [getattr(this.recipe, name) for name in ("pretrain", "sft", "prefer")]
    return [
        resolve(path) for block in blocks if block is not None for path in data_paths(block) if path != block.validation
    ]


def export(this: Run) -> dict[str, Any]:
    """Write the files for other runtimes."""
    from lingraft.export.several import export_all

    return {
        "files": export_all(
            this.final,
            this.stack(),
            this.out / "export",
            this.recipe.name,
            this.recipe.export,
            this.findings,
            this.command,
        )
    }


def report(this: Run) -> dict[str, Any]:
    """Write report.html out of what the stages answered."""
    from lingraft.evaluate.report import write_report
    from lingraft.facts import facts

    target = this.out / "report.html"
    write_report(target, facts(this))
    return {"report": str(target)}


def log_of(this: Run, name: str) -> list[dict[str, Any]]:
    """Return a training stage's log rows."""
    path = this.out / "work" / name / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines() if row.strip()]


RUNNERS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "vocab": vocab,
    "pretrain": train("pretrain"),
    "sft": train("sft"),
    "prefer": train("prefer"),
    "classify": train("classify"),
    "merge": merge,
    "verify": verify,
    "evaluate": evaluate,
    "export": export,
    "report": report,
}
