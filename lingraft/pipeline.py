"""Run a recipe's stages in order, skipping what is done; the run folder says where everything is.

    out/manifest.json      the run: recipe, and per stage its key, seconds and result (this is what resuming reads)
    out/vocab/             base with the larger vocabulary            out/merged/      the model to use
    out/pretrain/, sft/ …  peft adapters with lineage                 out/report.html  what it came to
    out/work/STAGE/        checkpoints and logs; needed only to resume

A stage is done when its output is there and its key (recipe block, inputs, data by content, upstream keys) is
the one that made it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lingraft.models import Stack
from lingraft.output import write_json
from lingraft.problems import Findings, Refusal, refuse
from lingraft.progress import say
from lingraft.recipe import STAGES, Recipe
from lingraft.stage_keys import TRAINING, chain, key_of, merges, stages_of, training_block

SCHEMA = 1


@dataclass
class Run:
    """One run of a recipe: where it lies, what is done, and what the stages before have left.

    ``below`` are adapters that the recipe begins with: its ``base`` may be an adapter, which brings those below it.
    """

    recipe: Recipe
    base: Path
    findings: Findings
    command: Sequence[str] = ()
    state: dict[str, Any] = field(default_factory=dict)
    below: tuple[Path, ...] = ()

    @property
    def out(self) -> Path:
        return Path(self.recipe.out).expanduser()

    def stack(self, before: str | None = None) -> Stack:
        """The model and the adapters live on it before a stage (at the end for None), in training order.

        A stage that trains a whole model (full, freeze) leaves the base of those after it.
        """
        base = self.out / "vocab" if self.recipe.vocab is not None else self.base
        adapters: tuple[Path, ...] = self.below
        for name in chain(self.recipe, before):
            if training_block(self.recipe, name).leaves == "model":
                base, adapters = self.out / name, ()
            else:
                adapters = (*adapters, self.out / name)
        return Stack(base, adapters)

    @property
    def final(self) -> Path:
        """The model that the run ends with: merged, trained in full, or an adapter that only works live."""
        found = self.stack()
        return self.out / "merged" if merges(self.recipe) else next(reversed(found.adapters), found.base)

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage answered."""
        return dict(self.state.get("stages", {}).get(stage, {}).get("result", {}))


def run(
    recipe: Recipe,
    findings: Findings,
    command: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Run all stages (or ``first`` to ``last``, or ``only`` one) and return the contract's answer.

    Stages whose output is there are skipped; ``first`` and ``only`` run theirs again. Errors: `not-found` when
    a stage is asked for whose inputs were never made, and whatever a stage refuses.
    """
    wanted = _window(recipe, only or first, only or last)
    out = Path(recipe.out).expanduser()
    done = finished(recipe) if not (only or first or last) else None
    if done is not None:
        say(f"{recipe.name} is finished: {out / 'report.html'}")
        return done
    from lingraft.check import beforehand

    begun = beforehand(recipe, findings, wanted)
    this = Run(recipe, begun.base, findings, command, _read_state(out), begun.adapters)
    with _nothing_left(this), _locked(out), _clock(this):
        for stage in this.state.get("stages", {}).values():
            stage["skipped"] = True  # until it is run again
        for name in wanted:
            _one(this, name, again=bool(first or only))
        if wanted[-1] == stages_of(recipe)[-1] and only is None:
            this.state["finished"] = key_of(recipe, "finished", this.state)
    return answer(this.state, recipe)


def _window(recipe: Recipe, first: str | None, last: str | None) -> list[str]:
    names = stages_of(recipe)
    for name in (first, last):
        if name is not None and name not in names:
            refuse(
                "recipe-invalid",
                f"the recipe has no stage {name!r}; it has {', '.join(names)}",
                f"name one of them, or add a `{name}:` block" if name in STAGES else "name one of them",
            )
    start = names.index(first) if first else 0
    stop = names.index(last) + 1 if last else len(names)
    if start >= stop:
        refuse("recipe-invalid", f"{last} comes before {first}: nothing lies between", f"the order: {', '.join(names)}")
    return names[start:stop]


def _one(this: Run, name: str, again: bool) -> None:
    from lingraft.stages import OUTPUTS, RUNNERS

    stages = this.state.setdefault("stages", {})
    key = key_of(this.recipe, name, this.state)
    target = this.out / OUTPUTS[name]
    if not again and stages.get(name, {}).get("key") == key and target.exists():
        stages[name]["skipped"] = True
        say(f"{name}: done already ({target})")
        return
    _require_inputs(this, name)
    this.state["seconds"] = _so_far(this.out, this.state)  # the report shows it
    started = time.monotonic()
    before = stages.get(name, {}).get("seconds", 0.0) if stages.get(name, {}).get("begun") == key else 0.0
    stages[name] = {"begun": key, "seconds": before}
    write_json(this.out / "manifest.json", this.state)
    if target.is_dir():
        shutil.rmtree(target)
    _keep_work(this, name, "" if again else key)
    (this.out / "work" / name / "key").write_text(key)
    try:
        result = RUNNERS[name](this)
    finally:
        stages[name]["seconds"] = round(before + time.monotonic() - started, 2)
        _give_back()
    stages[name] |= {"key": key, "result": result, "skipped": False}
    this.state["manifest"] = SCHEMA
    write_json(this.out / "manifest.json", this.state)
    if target.is_dir() and not (target / "manifest.json").exists():
        write_json(target / "manifest.json", _stage_manifest(this, name, result))
    say(f"{name}: done in {stages[name]['seconds']:.1f} s")


def _give_back() -> None:
    """Return a stage's memory to the system: models lie in cycles, and glibc keeps what was freed."""
    gc.collect()
    with suppress(OSError, AttributeError):  # macOS, musl
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _require_inputs(this: Run, name: str) -> None:
    """Refuse (`not-found`) a stage whose inputs were never made."""
    names = stages_of(this.recipe)
    missing = [n for n in names[: names.index(name)] if "key" not in this.state.get("stages", {}).get(n, {})]
    if missing:
        refuse(
            "not-found",
            f"{name} needs what {missing[0]} makes, and {missing[0]} has not been run in {this.out}",
            f"run it first: lingraft run RECIPE --to {missing[-1]}",
            this.out,
        )


def _keep_work(this: Run, name: str, key: str) -> None:
    """Keep a stage's checkpoints only when they were made under this key."""
    work = this.out / "work" / name
    mark = work / "key"
    if not (mark.is_file() and mark.read_text() == key):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)


def _stage_manifest(this: Run, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    from lingraft.merge.lineage import versions

    return {
        "schema": SCHEMA,
        "stage": name,
        "command": list(this.command),
        "recipe": this.recipe.as_json(),
        "result": dict(result),
        "versions": versions(),
        "allowed": [p.as_json() for p in this.findings.allowed],
    }


def finished(recipe: Recipe) -> dict[str, Any] | None:
    """Return the answer of a run that is complete and unchanged, without loading anything heavy."""
    from lingraft.stages import OUTPUTS

    out = Path(recipe.out).expanduser()
    state = _read_state(out)
    for name in stages_of(recipe):
        stage = state.get("stages", {}).get(name, {})
        if stage.get("key") != key_of(recipe, name, state) or not (out / OUTPUTS[name]).exists():
            return None
        stage["skipped"] = True
    if state.get("finished") != key_of(recipe, "finished", state):
        return None
    return answer(state, recipe)


def answer(state: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the JSON of `run` and `quickstart`."""
    out = Path(recipe.out).expanduser()
    stages = state.get("stages", {})
    adapters = [str(out / n) for n in TRAINING if n in stages and (out / n / "adapter_config.json").is_file()]
    ways = [*(["merged"] if merges(recipe) else reversed(chain(recipe))), *reversed(TRAINING)]
    model = next((out / n for n in ways if (out / n).is_dir()), None)
    return {
        "name": recipe.name,
        "manifest": str(out / "manifest.json"),
        "model": None if model is None else str(model),
        "adapters": adapters,
        "report": str(out / "report.html") if (out / "report.html").is_file() else None,
        "seconds": round(float(state.get("seconds", 0.0)), 2),
        "stages": [
            {"name": n, "seconds": stages[n]["seconds"], "skipped": bool(stages[n].get("skipped"))}
            for n in stages_of(recipe)
            if n in stages and "key" in stages[n]
        ],
        "evaluate": stages.get("evaluate", {}).get("result"),
    }


def _read_state(out: Path) -> dict[str, Any]:
    path = out / "manifest.json"
    if not path.is_file():
        return {}
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        refuse("corrupt-file", f"{path} is not readable JSON", "remove it to run every stage again", path)
    return {**state, "seconds": _so_far(out, state)}


def _so_far(out: Path, state: Mapping[str, Any]) -> float:
    """Return the wall seconds that a run has taken, as far as its clock was noted."""
    clock = out / "work" / "seconds"
    noted = float(clock.read_text() or 0) if clock.is_file() else 0.0
    return max(float(state.get("seconds", 0.0)), noted)


@contextmanager
def _nothing_left(this: Run) -> Iterator[None]:
    """Remove a run folder that this call made when its very first stage is refused."""
    new = not this.out.exists()
    try:
        yield
    except Refusal:
        if new and not any("key" in stage for stage in this.state.get("stages", {}).values()):
            shutil.rmtree(this.out, ignore_errors=True)
        raise


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let one process at a time work in a run folder."""
    (out / "work").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "work" / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        refuse(
            "output-exists", f"another lingraft run is working in {out}", "wait for it, or choose another `out`", out
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _clock(this: Run) -> Iterator[None]:
    """Sum the wall time over interrupted runs: noted every second, so that a kill loses no more than that."""
    from psutil import Process

    began = Process().create_time()
    before = float(this.state.get("seconds", 0.0))
    stop = threading.Event()
    path = this.out / "work" / "seconds"

    def note() -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(f"{before + time.time() - began:.2f}")
        partial.replace(path)

    def tick() -> None:
        while not stop.wait(1.0):
            note()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        note()
        this.state["seconds"] = round(before + time.time() - began, 2)
        write_json(this.out / "manifest.json", this.state)
