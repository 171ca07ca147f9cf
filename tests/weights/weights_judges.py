"""What the tests of the formats judge by: equality of tensors, problem codes, llama.cpp on a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch

from lingraft.problems import Refusal

ZERO_CASES = ("1-lora-fp32", "2-lora-fp32", "3-lora-fp32", "1-full-bf16", "2-full-fp32", "3-full-bf16")


def every_dtype() -> dict[str, torch.Tensor]:
    """Tensors of many dtypes and layouts, as state dicts hold them."""
    torch.manual_seed(0)
    base = torch.randn(5, 7)
    return {
        "float32": base,
        "view": base.view(-1)[3:20],
        "transposed": torch.randn(8, 6).t(),
        "scalar": torch.tensor(3.0),
        "bfloat16": torch.randn(3, 3).bfloat16(),
        "float16": torch.randn(4).half(),
        "int64": torch.arange(6),
        "uint8": torch.arange(9, dtype=torch.uint8),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "bool": torch.tensor([True, False]),
    }


def same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether two sets of tensors have the same names, dtypes, shapes and values."""
    return set(found) == set(wanted) and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name].detach()) for name in wanted
    )


def codes(refusal: pytest.ExceptionInfo[Refusal]) -> list[str]:
    return [problem.code for problem in refusal.value.problems]


class LlamaCpp:
    """llama.cpp on one GGUF file, through xllamacpp's server."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.warmup, params.verbosity = 256, 1, 0, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.endpoint_metrics = True
        self.server = xllamacpp.Server(params)
        self.server.handle_metrics()  # its loop runs now: closed before it began, the server would wait for ever

    def post(self, route: str, body: dict[str, Any]) -> Any:
        url = self.server.listening_address + route
        request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": True}
        return [int(token) for token in self.post("/tokenize", body)["tokens"]]

    def next_token(self, ids: list[int]) -> dict[int, float]:
        """Return log probabilities of the likeliest next tokens."""
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 5}
        row = self.post("/completion", body)["completion_probabilities"][0]
        return {item["id"]: item["logprob"] for item in row["top_logprobs"]}

    def answer(self, question: str) -> str:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 24}
        return str(self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])
