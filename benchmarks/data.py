"""How fast text becomes packed tokens: lingraft against the bare tokenizer and against run_clm's recipe, in one run.

    python benchmarks/data.py CORPUS --tokenizer DIR [--alpaca FILE] [--rounds 3] [--memory MB]

CORPUS: a folder of .txt files, each one document. Contestants, in turn, the best time of each counts:

- bare: ``tokenizers.Tokenizer.encode_batch`` of the same documents, once whole and once line by line (which lets all
  cores work; the faster of the two is what lingraft is held against);
- run_clm: ``load_dataset("text")``, ``map(tokenize, batched=True)``, ``map(group_texts, batched=True)``, as the
  documentation of transformers describes it, with a process per core and with its caches empty;
- lingraft: read, cut, tokenise, write Arrow, pack, describe; its cache empty, too.

Tokenizers' parallelism is on for all. ``--memory`` writes a text of that many megabytes and measures, in a process of
its own, the peak of anonymous memory above that of the imports, and the peak for a tenth of the text beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "true"
LENGTH = 1024
READ = """
import sys, threading, time
from pathlib import Path
corpus, tokenizer, length = sys.argv[1:]
from transformers import AutoTokenizer
from lingraft.data.make import Order
from lingraft.data.prepare import prepare
from lingraft.problems import Findings
from lingraft.recipe import Pretrain
known = AutoTokenizer.from_pretrained(tokenizer)
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
before = peak = anonymous()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
started = time.monotonic()
found = prepare(Order(Pretrain(data=corpus, length=int(length)), "documents", 0), known, Findings())
print(peak - before, time.monotonic() - started, found.train.stats["tokens"])
"""


def lingraft(corpus: Path, tokenizer: Any, scratch: Path) -> tuple[int, float]:
    """Tokenise and pack with an empty cache; return tokens and padding share."""
    from lingraft.data.make import Order
    from lingraft.data.prepare import prepare
    from lingraft.problems import Findings
    from lingraft.recipe import Pretrain

    os.environ["LINGRAFT_CACHE"] = str(scratch / "lingraft")
    block = Pretrain(data=str(corpus), length=LENGTH)
    stats = prepare(Order(block, "documents", 0), tokenizer, Findings()).train.stats
    return stats["tokens"], stats["padding_share"]


def run_clm(corpus: Path, tokenizer: Any, scratch: Path) -> tuple[int, float]:
    """Do what transformers documents for causal language modelling: tokenise, then group into blocks."""
    import datasets

    datasets.disable_progress_bars()
    raw = datasets.load_dataset(
        "text",
        data_files=[str(p) for p in sorted(corpus.glob("*.txt"))],
        split="train",
        keep_linebreaks=True,
        cache_dir=str(scratch / "datasets"),
    )
    cores = len(os.sched_getaffinity(0))

    def tokenise(rows: dict[str, list[str]]) -> Any:
        return tokenizer(rows["text"])

    def group(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {key: list(chain(*rows[key])) for key in rows}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        found = {key: [ids[at : at + LENGTH] for at in range(0, total, LENGTH)] for key, ids in joined.items()}
        found["labels"] = found["input_ids"].copy()
        return found

    tokenised = raw.map(tokenise, batched=True, num_proc=cores, remove_columns=["text"])
    return len(tokenised.map(group, batched=True, num_proc=cores)) * LENGTH, 0.0


def bare(tokenizer: Any, texts: list[str]) -> tuple[int, float]:
    """Encode and do nothing else."""
    return sum(len(e) for e in tokenizer.encode_batch(texts, add_special_tokens=False)), 0.0


def contest(corpus: Path, folder: str, rounds: int) -> dict[str, dict[str, float]]:
    """Let each contestant run in turn; return its best time."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    texts = [p.read_text(encoding="utf-8") for p in sorted(corpus.glob("*.txt"))]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    scratch = Path(tempfile.mkdtemp(prefix="data-benchmark-"))
    runs: dict[str, Callable[[], tuple[int, float]]] = {
        "bare, documents": lambda: bare(alone, texts),
        "bare, lines": lambda: bare(alone, lines),
        "lingraft": lambda: lingraft(corpus, tokenizer, scratch),
        "run_clm": lambda: run_clm(corpus, tokenizer, scratch),
    }
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            started = time.monotonic()
            tokens, padding = run()
            seconds = time.monotonic() - started
            before = found.get(name, {}).get("seconds", float("inf"))
            found[name] = {"seconds": min(before, seconds), "tokens": tokens, "padding": padding}
            print(f"  {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return found


def padding(alpaca: Path, folder: str) -> float:
    """Return the padding share of a file of instructions, packed to LENGTH."""
    from transformers import AutoTokenizer

    from lingraft.data.conversations import conversations
    from lingraft.data.prepare import pack_items
    from lingraft.data.templates import resolve
    from lingraft.problems import Findings

    tokenizer = AutoTokenizer.from_pretrained(folder)
    findings = Findings(allow=frozenset({"nothing-supervised"}))
    rows = conversations([alpaca], findings)
    packed = pack_items(rows, tokenizer, LENGTH, resolve("auto", tokenizer), "all", findings)
    return float(packed.stats["padding_share"])


def memory(corpus: Path, folder: str, megabytes: int) -> dict[str, Any]:
    """Measure the peak of anonymous memory (MB, above the imports) for a text and for a tenth of it."""
    sample = "".join(p.read_text(encoding="utf-8") for p in sorted(corpus.glob("*.txt"))).encode()
    found: dict[str, Any] = {}
    for size in (megabytes // 10, megabytes):
        with tempfile.TemporaryDirectory(prefix="data-benchmark-") as scratch:
            path = Path(scratch) / "large.txt"
            with path.open("wb") as file:
                while file.tell() < size * 1_000_000:
                    file.write(sample)
            environment = {**os.environ, "LINGRAFT_CACHE": str(Path(scratch) / "cache")}
            command = [sys.executable, "-c", READ, str(path), folder, str(LENGTH)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            peak, seconds, tokens = done.stdout.split()
            found[f"{path.stat().st_size / 1e6:.0f} MB"] = {
                "peak": float(peak),
                "seconds": float(seconds),
                "tokens": int(tokens),
            }
    return found


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", required=True, help="a folder with tokenizer.json")
    parser.add_argument("--alpaca", type=Path, help="instructions whose padding share is told")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, help="megabytes of text for the memory measurement")
    given = parser.parse_args()
    result: dict[str, Any] = {}
    if given.rounds:
        result["times"] = times = contest(given.corpus, given.tokenizer, given.rounds)
        best = min(times["bare, documents"]["seconds"], times["bare, lines"]["seconds"])
        ours = times["lingraft"]["seconds"]
        for name, one in times.items():
            print(f"{name:16} {one['seconds']:7.2f} s {one['seconds'] / best:6.2f} × bare {one['tokens']:>12,} tokens")
        result |= {"over_bare": ours / best, "faster_than_run_clm": times["run_clm"]["seconds"] / ours}
        print(
            f"lingraft takes {ours / best:.2f} × the bare encode (wanted: at most 1.3) and is "
            f"{times['run_clm']['seconds'] / ours:.1f} × faster than run_clm (wanted: 2)"
        )
    if given.alpaca:
        result["padding"] = padding(given.alpaca, given.tokenizer)
        print(f"padding of {given.alpaca.name} packed to {LENGTH}: {result['padding']:.2%} (wanted: under 2 %)")
    if given.memory:
        result["memory"] = memory(given.corpus, given.tokenizer, given.memory)
        for name, one in result["memory"].items():
            print(
                f"{name}: peak {one['peak']:.0f} MB above the imports, {one['seconds']:.0f} s, {one['tokens']:,} tokens"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
