"""How fast are bits per character? `python benchmarks/evaluate.py MODEL [--kilobytes 200] [--shape articles]`

Over the same Chinese text, side by side in one run:

    ours         lingraft.evaluate.bits.score, in the compute type that `evaluate` takes on this machine
    bare         the forward passes that this needs and nothing else: the same batches through the body, the head's
                 product at the positions that are scored, no log-probabilities, no bookkeeping
    one by one   document by document with batch 1, as a plain script does: from_pretrained, model(ids).logits,
                 log_softmax, gather, in the type that the weights are stored in
    same type    the same script in our compute type: what batching alone brings

The text comes as articles of 500 characters, as lines of 50, or whole as one document. Times are CPU seconds of all
threads. Goals: ours ≤ 1.2 × bare, and at least 2 × faster than one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lingraft import models
from lingraft.evaluate import bits
from lingraft.evaluate.text import read_documents
from lingraft.evaluate.windows import batches, cut

TEXT = Path(__file__).parents[1] / "lingraft" / "text" / "zh.jsonl"


SHAPES = ("articles", "lines", "whole")
LINE = 50  # characters


def text_of(kilobytes: int, shape: str) -> list[str]:
    """Return about so many kilobytes of the shipped Chinese, in one of the shapes."""
    articles = read_documents(TEXT)
    found: list[str] = []
    while sum(len(one.encode()) for one in found) < kilobytes * 1000:
        found.append(articles[len(found) % len(articles)])
    if shape == "lines":
        return [one[i : i + LINE] for one in found for i in range(0, len(one), LINE)]
    return ["\n".join(found)] if shape == "whole" else found


def bare(model: Any, tokenizer: Any, documents: Sequence[str]) -> None:
    """Run the forward passes alone."""
    size = bits.context(model)
    encoded = [[tokenizer.bos_token_id, *ids] for ids in bits.token_ids(tokenizer, documents)]
    windows = [w for i, ids in enumerate(encoded) for w in cut(i, len(ids), size)]
    head = model.get_output_embeddings()
    with torch.inference_mode():
        for batch in batches(windows, bits.batch_bound(model, size)):
            inputs = torch.zeros(len(batch), batch[0].inputs, dtype=torch.long)
            for row, w in enumerate(batch):
                inputs[row, : w.inputs] = torch.tensor(encoded[w.document][w.start : w.stop - 1])
            states = model.model(input_ids=inputs, use_cache=False).last_hidden_state
            for row, w in enumerate(batch):
                head(states[row, w.first - w.start - 1 : w.inputs])


def one_by_one(model: Any, tokenizer: Any, documents: Sequence[str]) -> float:
    """Score as a plain script does; return the bits."""
    total, size = 0.0, bits.context(model)
    with torch.inference_mode():
        for ids in bits.token_ids(tokenizer, documents):
            row = [tokenizer.bos_token_id, *ids]
            for w in cut(0, len(row), size):
                part = torch.tensor([row[w.start : w.stop]])
                found = model(input_ids=part).logits[0].float().log_softmax(-1)
                places = torch.arange(w.first - w.start, w.stop - w.start)
                total -= float(found[places - 1, part[0, places]].sum()) / math.log(2)
    return total


def clock(call: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes, all threads together: steady on a busy machine."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Print one table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--kilobytes", type=int, default=200)
    parser.add_argument("--type", default=str(models.fastest_dtype()).removeprefix("torch."))
    parser.add_argument("--shape", choices=SHAPES, default="articles")
    parser.add_argument("--without", nargs="*", default=[], help="ways to leave out: the plain script takes minutes")
    asked = parser.parse_args()
    model, tokenizer = models.load(asked.model, dtype=getattr(torch, asked.type))
    documents = text_of(asked.kilobytes, asked.shape)
    bits.score(model, tokenizer, [documents[0][:500]])  # warm up

    def plain() -> float:
        stored: Any = AutoModelForCausalLM.from_pretrained(models.locate(asked.model)).eval()
        print(f"stored in {stored.dtype}")
        return one_by_one(stored, tokenizer, documents)

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: bits.score(model, tokenizer, documents),
        "bare": lambda: bare(model, tokenizer, documents),
        "same type": lambda: one_by_one(model, tokenizer, documents),
        "one by one": plain,
    }
    seconds: dict[str, float] = {}
    for name in [name for name in ways if name not in asked.without]:
        seconds[name] = clock(ways[name])
        print(f"{name:12} {seconds[name]:8.1f} s   {seconds[name] / seconds['ours']:5.2f} × ours", flush=True)
    print(
        json.dumps(
            {
                "type": asked.type,
                "kilobytes": asked.kilobytes,
                "shape": asked.shape,
                "seconds": seconds,
                "documents": len(documents),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
