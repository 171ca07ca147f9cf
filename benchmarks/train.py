"""How fast and how small training is: lingraft against a padded loop, the Trainer with peft, and trl, in one run.

    python benchmarks/train.py instructions.json [--rows 64] [--updates 8] [--peers PYTHON] [--only NAME] [--plot FILE]

The same model (SmolLM2-135M unless --base), rows, tokens, LoRA (r=8, all linear layers), fp32, constant learning rate
and number of updates for all. Every contestant is a process of its own, one after another; PYTHON is that of an
environment with torch, transformers, peft, trl and datasets (without it: this one's):

    python -m venv peers && peers/bin/pip install torch transformers peft trl datasets

Seconds are those of training alone, imports and loading left out; tokens are real ones, padding is none; memory is the
peak of a process's anonymous memory, measured from outside. `plain` gets the very rows of each of lingraft's updates,
so their losses can be laid over one another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from lingraft.models import load_tokenizer, locate

PEERS = Path(__file__).with_name("train_peers.py")
NAMES = ("lingraft", "plain", "trainer", "trl-padded", "trl-packed")
SEED, RATE, RANK = 42, 5e-4, 8


def recipe(base: Path, data: Path, work: Path, length: int, updates: int, per_update: int) -> dict[str, Any]:
    """Return what lingraft trains: two blocks a forward, as it does by default at this length on a CPU."""
    trainer = {
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "bf16": False,
        "max_steps": updates,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": per_update // 2,
    }
    technique = {"kind": "lora", "r": RANK, "alpha": 2 * RANK}
    return {
        "name": "bench",
        "base": str(base),
        "out": str(work / "run"),
        "seed": SEED,
        "sft": {"data": str(data), "length": length, "techniques": [technique], "trainer": trainer},
    }


def blocks_of(given: dict[str, Any], base: Path) -> list[list[dict[str, list[int]]]]:
    """Return lingraft's packed blocks in the order of training, each a list of rows."""
    from lingraft.pipeline import Run
    from lingraft.problems import Findings
    from lingraft.recipe import parse
    from lingraft.stages import stage_of
    from lingraft.train.distributed.even import Even, Order
    from lingraft.train.sft import prepare

    stage = stage_of(Run(parse(given), base, Findings()), "sft")
    packed = prepare(stage, load_tokenizer(base)).train
    return [_rows(packed[i]) for i in Order(Even(packed, 1), SEED)]


def _rows(block: Any) -> list[dict[str, list[int]]]:
    starts = [i for i, position in enumerate(block["position_ids"]) if position == 0]
    edges = [*starts, len(block["position_ids"])]
    return [{key: list(map(int, block[key][a:b])) for key in ("input_ids", "labels")} for a, b in pairwise(edges)]


def task(blocks: list[Any], per_update: int, updates: int, base: Path, work: Path, given: Any) -> dict[str, Any]:
    """Return what the peers are told: rows, the rows of each update, and the settings."""
    rows, taken = [], []
    for update in range(updates):
        inside = [row for block in blocks[update * per_update : (update + 1) * per_update] for row in block]
        taken.append(list(range(len(rows), len(rows) + len(inside))))
        rows += inside
    tokenizer = load_tokenizer(base)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {
        "base": str(base),
        "rows": rows,
        "updates": taken,
        "pad": pad,
        "batch": given.batch,
        "blocks": per_update,
        "length": given.length,
        "r": RANK,
        "rate": RATE,
        "seed": SEED,
        "threads": given.threads,
        "scratch": str(work / "scratch"),
    }


def anonymous(pid: int) -> int:
    """Return the anonymous memory of a process in bytes, 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def watched(command: list[str], threads: int) -> tuple[str, int]:
    """Run a process; return its stdout and the peak of its anonymous memory in bytes."""
    peak, environment = 0, {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=log)
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[:4]} failed:\n{log.read().decode()[-3000:]}")
        out.seek(0)
        return out.read().decode(), peak


def ours(work: Path, threads: int) -> dict[str, Any]:
    """Train with the command line, as a user does."""
    command = [sys.executable, "-m", "lingraft", "sft", str(work / "recipe.yaml"), "--json"]
    told, peak = watched(command, threads)
    answer = json.loads(told.splitlines()[-1])
    losses = [row["loss"] for row in answer["log"] if "loss" in row]
    return {"tokens_per_second": answer["tokens_per_second"], "peak": peak, "losses": losses}


def peer(name: str, python: str, work: Path, threads: int) -> dict[str, Any]:
    """Let a peer train in its own environment."""
    answer = work / f"{name}.json"
    peak = watched([python, str(PEERS), name, str(work / "task.json"), str(answer)], threads)[1]
    told = json.loads(answer.read_text())
    return {"tokens_per_second": told["tokens"] / told["seconds"], "peak": peak, "losses": told["losses"]}


def plot(results: dict[str, Any], file: Path) -> None:
    """Draw the loss curves over one another: those of lingraft and the padded loop should be one line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    styles = {"lingraft": {"lw": 4, "alpha": 0.5}, "plain": {"ls": "--", "lw": 1.5, "color": "black"}}
    for name, result in results.items():
        steps = range(1, len(result["losses"]) + 1)
        axes.plot(
            steps,
            result["losses"],
            label=f"{name} ({result['tokens_per_second']:.0f} tokens/s)",
            **styles.get(name, {"lw": 1, "alpha": 0.7}),
        )
    axes.set(xlabel="update", ylabel="loss (nats per supervised token)")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def show(results: dict[str, Any]) -> None:
    """Print the table, the ratios and how far the losses of lingraft and the padded loop lie apart."""
    mine = results.get("lingraft")
    print(f"{'':12} {'tokens/s':>9} {'peak GB':>8}" + ("  lingraft is" if mine else ""))
    for name, result in results.items():
        ratio = (
            f"  {mine['tokens_per_second'] / result['tokens_per_second']:.2f} × as fast, "
            f"{mine['peak'] / result['peak']:.2f} of the memory"
            if mine and name != "lingraft"
            else ""
        )
        print(f"{name:12} {result['tokens_per_second']:9.1f} {result['peak'] / 1e9:8.2f}{ratio}")
    if mine and "plain" in results:
        pairs = list(zip(mine["losses"], results["plain"]["losses"], strict=True))
        print(
            f"losses against plain: at most {100 * max(abs(a - b) / b for a, b in pairs):.3f} % apart in "
            f"{len(pairs)} updates"
        )
    print(json.dumps(results))


def main() -> None:
    """Prepare the rows, let every contestant train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="instructions: JSON or JSONL")
    parser.add_argument("--base", default="lingraft:SmolLM2-135M-Instruct")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--updates", type=int, default=8, help="of which the rows fill eight: fewer see fewer rows")
    parser.add_argument("--batch", type=int, default=8, help="rows that a padded forward takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", default=sys.executable, help="the peers' Python")
    parser.add_argument("--only", action="append", choices=NAMES, help="a contestant; repeatable")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--dir", type=Path, help="where to work, and where finished contestants are found again")
    given = parser.parse_args()
    work = given.dir or Path(tempfile.mkdtemp(prefix="train-benchmark-"))
    work.mkdir(parents=True, exist_ok=True)
    base, data = locate(given.base).absolute(), work / "rows.json"
    text = given.data.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    data.write_text(json.dumps(rows[: given.rows], ensure_ascii=False), encoding="utf-8")
    blocks = blocks_of(recipe(base, data, work, given.length, 1, 2), base)
    per_update = -(-len(blocks) // 16) * 2
    updates = min(given.updates, -(-len(blocks) // per_update))
    chosen = recipe(base, data, work, given.length, updates, per_update)
    (work / "recipe.yaml").write_text(json.dumps(chosen))  # JSON is YAML
    (work / "task.json").write_text(json.dumps(task(blocks, per_update, updates, base, work, given)))
    results: dict[str, Any] = {}
    for name in given.only or NAMES:
        done = work / f"result-{name}.json"
        if not done.exists():
            result = ours(work, given.threads) if name == "lingraft" else peer(name, given.peers, work, given.threads)
            done.write_text(json.dumps(result))
        results[name] = json.loads(done.read_text())
        print(f"  {name}: {results[name]['tokens_per_second']:.1f} tokens/s", file=sys.stderr, flush=True)
    show(results)
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
