"""Which start makes new rows useful soonest? `python benchmarks/vocab.py --work DIR [--limit-minutes 7]`

A SmolLM2-135M with 2,000 learnt pieces, one run a start and seed, beside the same model without them, on the same
text: bits per character of held-out text against training. All starts are screened at 10,000 tokens; the best two and
the control go on to 50,000. Compute is equal at the end: a start that takes time before training (distilling) trains
that much less, and its curve begins as far to the right.

Work is cut into legs and every leg's end is kept in DIR, so that the benchmark can run in slices: `--limit-minutes`
stops it after the leg that is running, and the same command goes on. `--plot docs/vocab.png` draws what there is.
Text: the package's own prose, or `--text FILE… --heldout FILE`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocab_report import CONTROL, DECAY, FINAL, LATER, SCREEN, STARTS, plot, table

from lingraft.data.pack import Packed
from lingraft.evaluate.text import read_documents
from lingraft.models import fastest_dtype, locate
from lingraft.problems import Findings
from lingraft.recipe import Pretrain, resolve
from lingraft.train.assemble import to_compute_type
from lingraft.train.language import collate
from lingraft.train.linear import speed_up
from lingraft.train.pretrain import prepare
from lingraft.train.stage import Stage
from lingraft.train.supervised import Supervised
from lingraft.train.techniques import Setting
from lingraft.train.techniques.lora import Lora
from lingraft.vocab import base_tokenizer
from lingraft.vocab.corpus import sample
from lingraft.vocab.grown import Grown
from lingraft.vocab.rows import start_of
from lingraft.weights import hf

RATE, WARMUP = 2e-3, 2_000  # learning rate, and tokens until it is reached
LENGTH = 512


@dataclass(frozen=True)
class Asked:
    """What to compare, and on which text."""

    work: Path
    base: Path
    text: tuple[Path, ...]
    heldout: Path
    size: int
    seeds: tuple[int, ...]
    dtype: torch.dtype
    characters: int
    rows_rate: float
    rows_first: int
    starts: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """The base with its rows in place, and the seconds it took to find them."""

    folder: Path
    old_size: int
    rows: torch.Tensor | None
    seconds: float


def begin(asked: Asked, name: str) -> Start:
    """Learn the pieces and start their rows, or read what an earlier slice kept."""
    folder = asked.work / f"start-{name}"
    kept = folder / "rows.pt"
    if kept.is_file():
        found = torch.load(kept)
        return Start(folder if name != CONTROL else asked.base, found["old_size"], found["rows"], found["seconds"])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, old = hf.read(asked.base), base_tokenizer.read(asked.base)
    rows, seconds = None, 0.0
    if name != CONTROL:
        text = sample(asked.text, Findings())
        pieces = old.learn(text.runs(), asked.size)
        old.write(folder, checkpoint.side_files, pieces)
        before = tuple(old.old_pieces([piece.text for piece in pieces]))
        grown = Grown(
            asked.base, folder, checkpoint.tensors["model.embed_tokens.weight"], None, old.size, before, text.texts
        )
        began = time.perf_counter()
        rows = start_of(name)(grown).embedding
        seconds = time.perf_counter() - began
    torch.save({"old_size": old.size, "rows": rows, "seconds": seconds}, kept)
    return Start(folder if name != CONTROL else asked.base, old.size, rows, seconds)


def model_of(asked: Asked, start: Start, seed: int) -> Supervised:
    """Load the base, put the new rows in, and wrap it for LoRA on all linear layers and the new rows."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(asked.base, dtype=torch.float32)
    new = None
    if start.rows is not None:
        new = range(start.old_size, start.old_size + len(start.rows))
        model.resize_token_embeddings(new.stop, mean_resizing=False)
        model.get_input_embeddings().weight.data[new.start :] = start.rows
    model.requires_grad_(False)
    technique = Lora(r=16, alpha=32, rows="none" if new is None else "new")
    wrapped = technique.on_model(model, Setting(asked.base, None, asked.work, new))
    to_compute_type(wrapped, asked.dtype)
    speed_up(wrapped)
    return Supervised(wrapped, asked.dtype)


def examples(asked: Asked, start: Start) -> Packed:
    """Pack the training text in the start's own tokens."""
    block = Pretrain(data=[str(path) for path in asked.text], length=LENGTH)
    stage = Stage("pretrain", block, asked.base, (), asked.work, asked.work)
    return prepare(stage, AutoTokenizer.from_pretrained(start.folder)).train  # type: ignore[return-value]


def order(packed: Packed, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield blocks for ever, shuffled anew each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for i in torch.randperm(len(packed), generator=generator).tolist():
            yield collate([packed[i]])


def rate_at(tokens: float, last: float) -> float:
    """Return the multiple of the learning rate: a warm-up, a plateau, a straight fall up to ``last``."""
    if tokens < WARMUP:
        return (tokens + 1) / WARMUP
    return min(1.0, max(0.0, (last - tokens) / ((1 - DECAY) * last)))


def may_take(start: Start, results: dict[str, Any]) -> int:
    """Return the tokens that a start may train on in all, its preparation paid for at the control's speed."""
    speed = results.get(f"{CONTROL}/0", {}).get("tokens_per_second", 0.0)
    return max(2 * SCREEN, round(FINAL - start.seconds * speed))


@torch.no_grad()
def bits_per_character(model: Supervised, asked: Asked, start: Start) -> float:
    """Score the held-out documents as the contract says: BOS first, newlines count."""
    tokenizer = AutoTokenizer.from_pretrained(start.folder)
    nats, characters = 0.0, 0
    model.eval()
    for text in read_documents(asked.heldout):
        if characters >= asked.characters:
            break
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
        nats += float(model(ids, ids, torch.arange(ids.shape[1])[None])["loss"]) * (ids.shape[1] - 1)
        characters += len(text)
    model.train()
    return nats / math.log(2) / characters


def run(asked: Asked, name: str, seed: int, screen: bool, results: dict[str, Any], stop: float) -> bool:
    """Train one start, to the screen or to the end, from where an earlier slice stopped; tell whether it got there."""
    key = f"{name}/{seed}"
    curve: list[dict[str, float]] = results.setdefault(key, {}).setdefault("curve", [])
    if len(curve) > (2 if screen else 2 + len(LATER)):
        return True
    start = begin(asked, name)
    last = may_take(start, results)
    legs = [SCREEN // 2, SCREEN, *([] if screen else [round(part * last) for part in LATER])][len(curve[1:]) :]
    model = model_of(asked, start, seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    solver = torch.optim.AdamW(
        [
            {"params": [p], "scale": asked.rows_rate if "trainable_tokens" in n else None}
            for n, p in model.named_parameters()
            if p.requires_grad
        ],
        lr=RATE,
        weight_decay=0.0,
    )
    if not curve:
        curve.append({"tokens": 0, "bits": bits_per_character(model, asked, start), "seconds": 0.0})
        save(asked, results)
    kept = asked.work / f"{name}-{seed}.pt"
    taken, seen, spent = resume(kept, trained, solver)
    blocks = order(examples(asked, start), seed)
    for _ in range(taken):
        next(blocks)
    for leg in legs:
        if time.monotonic() > stop:
            return False
        began = time.perf_counter()
        while seen < leg:
            batch = next(blocks)
            for group in solver.param_groups:
                waits = group["scale"] is None and seen < asked.rows_first
                group["lr"] = 0.0 if waits else RATE * (group["scale"] or 1.0) * rate_at(seen, last)
            model(**batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            solver.step()
            solver.zero_grad()
            taken, seen = taken + 1, seen + batch["input_ids"].shape[1]
        spent += time.perf_counter() - began
        curve.append({"tokens": leg, "bits": bits_per_character(model, asked, start), "seconds": round(spent, 1)})
        results[key] |= {"preparation": round(start.seconds, 1), "tokens_per_second": round(seen / spent, 1)}
        torch.save(
            {
                "rows": [p.detach() for p in trained],
                "solver": solver.state_dict(),
                "taken": taken,
                "seen": seen,
                "spent": spent,
            },
            kept,
        )
        save(asked, results)
        print(f"{key:12} {leg:6,} tokens  {curve[-1]['bits']:.3f} bits  {spent:.0f} s", flush=True)
    return True


def resume(kept: Path, trained: Sequence[torch.Tensor], solver: torch.optim.Optimizer) -> tuple[int, int, float]:
    """Put back what the last leg kept; return the blocks taken, the tokens seen and the seconds spent."""
    if not kept.is_file():
        return 0, 0, 0.0
    found = torch.load(kept)
    for parameter, value in zip(trained, found["rows"], strict=True):
        parameter.data.copy_(value)
    solver.load_state_dict(found["solver"])
    return found["taken"], found["seen"], found["spent"]


def save(asked: Asked, results: Mapping[str, Any]) -> None:
    """Write the results so far."""
    (asked.work / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def best_two(results: Mapping[str, Any], asked: Asked) -> list[str]:
    """Return the two starts with the lowest mean bits per character at the screen."""

    def at(name: str) -> float:
        return mean(p["bits"] for s in asked.seeds for p in results[f"{name}/{s}"]["curve"] if p["tokens"] == SCREEN)

    return sorted((name for name in asked.starts if name != CONTROL), key=at)[:2]


def everything(asked: Asked, results: dict[str, Any], stop: float) -> bool:
    """Do what is left to do until the time is up; tell whether all is done."""
    for seed in asked.seeds:
        for name in asked.starts:
            if time.monotonic() > stop or not run(asked, name, seed, True, results, stop):
                return False
    finalists = [CONTROL, *best_two(results, asked)]
    return all(
        time.monotonic() < stop and run(asked, name, seed, False, results, stop)
        for seed in asked.seeds
        for name in finalists
    )


def main() -> None:
    """Go on with the work, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", default="lingraft:SmolLM2-135M-Instruct")
    parser.add_argument("--text", type=Path, nargs="+", default=[resolve("lingraft:zh.jsonl")])
    parser.add_argument("--heldout", type=Path, default=resolve("lingraft:zh-heldout.jsonl"))
    parser.add_argument("--size", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--characters", type=int, default=2_500, help="of held-out text to score")
    parser.add_argument("--rows-rate", type=float, default=1.0, help="learning rate of new rows, as a multiple")
    parser.add_argument("--rows-first", type=int, default=0, help="training tokens during which only new rows learn")
    parser.add_argument("--starts", nargs="+", choices=STARTS[1:], default=STARTS[1:], help="compare these alone")
    parser.add_argument("--limit-minutes", type=float, default=math.inf)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    stop = time.monotonic() + 60 * given.limit_minutes
    given.work.mkdir(parents=True, exist_ok=True)
    asked = Asked(
        given.work,
        locate(given.base),
        tuple(given.text),
        given.heldout,
        given.size,
        tuple(range(given.seeds)),
        fastest_dtype(),
        given.characters,
        given.rows_rate,
        given.rows_first,
        (CONTROL, *given.starts),
    )
    file = given.work / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    done = everything(asked, results, stop)
    print(table(results), "" if done else "\nnot finished: run the same command again", sep="\n")
    if given.plot is not None:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
