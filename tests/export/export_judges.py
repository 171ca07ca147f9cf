"""What the export's tests judge by: llama.cpp with adapters, transformers' greedy answer, a lively tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch


class LlamaCpp:
    """llama.cpp on one GGUF file (and LoRA adapters), through xllamacpp's server."""

    def __init__(self, path: Path, adapters: Sequence[Path] = (), context: int = 256) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.warmup, params.verbosity = context, 1, 0, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.lora_adapters = [_lora(xllamacpp, adapter) for adapter in adapters]
        params.endpoint_metrics = True
        self.server = xllamacpp.Server(params)
        self.server.handle_metrics()  # its loop runs now: closed before it began, the server would wait for ever

    def post(self, route: str, body: dict[str, Any]) -> Any:
        url = self.server.listening_address + route
        with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": True}
        return [int(token) for token in self.post("/tokenize", body)["tokens"]]

    def greedy(self, ids: list[int], count: int) -> list[int]:
        body = {"prompt": ids, "n_predict": count, "temperature": 0, "return_tokens": True, "ignore_eos": True}
        return [int(token) for token in self.post("/completion", body)["tokens"]]

    def next_token(self, ids: list[int], lora: dict[int, float] | None = None) -> dict[int, float]:
        """Return log probabilities of the likeliest next tokens, under the given adapters by number and scale."""
        body: dict[str, Any] = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False}
        if lora is not None:
            body["lora"] = [{"id": number, "scale": scale} for number, scale in lora.items()]
        row = self.post("/completion", body)["completion_probabilities"][0]
        return {item["id"]: item["logprob"] for item in row["top_logprobs"]}


def _lora(xllamacpp: Any, path: Path) -> Any:
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = str(path), 0.0
    return info


def next_token(model: Any, ids: list[int]) -> torch.Tensor:
    """Return transformers' log probabilities of the next token."""
    with torch.no_grad():
        answer: torch.Tensor = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    return answer


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """Return transformers' greedy continuation, past any end of text."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            repetition_penalty=1.0,
            pad_token_id=0,
        )
    return [int(token) for token in out[0, len(ids) :]]


def agree(theirs: torch.Tensor, told: dict[int, float], within: float = 2e-3) -> bool:
    """Tell whether llama.cpp's likeliest tokens have transformers' log probabilities."""
    return len(told) == 5 and all(abs(float(theirs[token]) - value) < within for token, value in told.items())


def wide(folder: Path) -> Path:
    """Save a random Llama whose rows are whole K-quant blocks of 256."""
    from tiny_models import make_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).save_pretrained(folder)
    make_tokenizer(folder)
    return folder
