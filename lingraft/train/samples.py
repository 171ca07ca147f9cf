"""What the model answers, written down at each evaluation: a few validation prompts, greedily, into samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from lingraft.data.pack import Packed
from lingraft.train import attention
from lingraft.train.supervised import IGNORED

_NEW_TOKENS = 48
_PROMPT_TOKENS = 512  # of a long prompt the end is kept
_START_TOKENS = 32  # of a plain text that is to be continued


@dataclass(frozen=True)
class Prompt:
    """The tokens before an answer, and the answer that the data gives."""

    ids: tuple[int, ...]
    wanted: str


def prompts_of(validation: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Prompt]:
    """Return the first ``count`` prompts of packed validation data: what stands before an answer, or a text's start."""
    if not isinstance(validation, Packed):
        return []
    found = []
    for ids, labels in islice(_texts(validation), count):
        at = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
        at = min(_START_TOKENS, len(ids) // 2) if at < 2 else at
        wanted = [token for token, label in zip(ids[at:], labels[at:], strict=True) if label != IGNORED]
        if at:
            found.append(Prompt(tuple(ids[:at][-_PROMPT_TOKENS:]), str(tokenizer.decode(wanted[:_NEW_TOKENS]))))
    return found


def _texts(packed: Packed) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens and labels of each text, block by block."""
    for number in range(len(packed)):
        block = packed[number]
        starts = [i for i, position in enumerate(block["position_ids"]) if position == 0]
        for a, b in pairwise([*starts, len(block["input_ids"])]):
            yield block["input_ids"][a:b], block["labels"][a:b]


class Samples(TrainerCallback):  # type: ignore[misc]
    """Answer the prompts after every evaluation; a row is {"step", "prompt", "answer", "wanted"}."""

    def __init__(self, path: Path, prompts: Sequence[Prompt], tokenizer: Any, dtype: torch.dtype) -> None:
        self.path = path
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.dtype = dtype

    def on_evaluate(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        """Append this step's answers; neither the random state nor the mode of the model changes."""
        model = more["model"]
        training, random = model.training, torch.get_rng_state()
        model.eval()
        try:
            with torch.no_grad(), _generating(model) as causal:
                rows = [self._row(causal, prompt, state.global_step) for prompt in self.prompts]
        finally:
            model.train(training)
            torch.set_rng_state(random)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _row(self, model: Any, prompt: Prompt, step: int) -> dict[str, Any]:
        ids = torch.tensor([prompt.ids], device=model.device)
        with torch.autocast(ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id or 0,
            )
        answer = made[0, ids.shape[1] :].tolist()
        return {
            "step": step,
            "prompt": str(self.tokenizer.decode(list(prompt.ids))),
            "answer": str(self.tokenizer.decode(answer, skip_special_tokens=True)),
            "wanted": prompt.wanted,
        }


@contextmanager
def _generating(model: Any) -> Iterator[Any]:
    """Yield the model that can generate; its attention knows a cache, which the one for packed texts does not."""
    inner = getattr(model, "model", model) if hasattr(model, "short_head") else model
    causal = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    before = causal.config._attn_implementation
    if before == attention.NAME:
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    try:
        yield inner
    finally:
        if before == attention.NAME:
            causal.set_attn_implementation(before)
