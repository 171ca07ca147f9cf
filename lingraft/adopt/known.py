"""Sizes of published models: where candidates come from, and what is assumed where nothing can be probed.

A model is recognised by shapes alone; two models of the same shape (SmolLM and SmolLM2) both give candidates, and
the weights decide. Values are those of the config.json published with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Known:
    """One published model: shapes that it is recognised by, and the fields that shapes cannot tell."""

    name: str
    model_type: str
    layers: int
    width: int
    ffn: int
    head_dim: int
    kv_heads: int
    vocab: int  # smallest published vocabulary; grown ones match too
    fields: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, model_type: str, layers: int, width: int, ffn: int, kv_rows: int, vocab: int) -> bool:
        """Tell whether a model of these shapes may be this one, or one trained further from it."""
        sizes = (self.layers, self.width, self.ffn, self.head_dim * self.kv_heads)
        related = model_type == self.model_type or {model_type, self.model_type} == {"llama", "mistral"}
        return related and sizes == (layers, width, ffn, kv_rows) and vocab >= self.vocab - 512


def _rope(theta: float, context: int, eps: float = 1e-5, **more: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "max_position_embeddings": context, "rms_norm_eps": eps, **more}


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


KNOWN: tuple[Known, ...] = (
    Known("stories260K", "llama", 5, 64, 172, 8, 4, 512, _rope(1e4, 512)),
    Known("stories15M", "llama", 6, 288, 768, 48, 6, 32000, _rope(1e4, 256)),
    Known("stories42M", "llama", 8, 512, 1376, 64, 8, 32000, _rope(1e4, 1024)),
    Known("stories110M", "llama", 12, 768, 2048, 64, 12, 32000, _rope(1e4, 1024)),
    Known("SmolLM2-135M", "llama", 30, 576, 1536, 64, 3, 49152, _rope(1e5, 8192)),
    Known("SmolLM-135M", "llama", 30, 576, 1536, 64, 3, 49152, _rope(1e4, 2048)),
    Known("SmolLM2-360M", "llama", 32, 960, 2560, 64, 5, 49152, _rope(1e5, 8192)),
    Known("SmolLM-360M", "llama", 32, 960, 2560, 64, 5, 49152, _rope(1e4, 2048)),
    Known("SmolLM2-1.7B", "llama", 24, 2048, 8192, 64, 32, 49152, _rope(1.3e5, 8192)),
    Known("TinyLlama-1.1B", "llama", 22, 2048, 5632, 64, 4, 32000, _rope(1e4, 2048)),
    Known("Llama-2-7B", "llama", 32, 4096, 11008, 128, 32, 32000, _rope(1e4, 4096)),
    Known("Llama-7B", "llama", 32, 4096, 11008, 128, 32, 32000, _rope(1e4, 2048, 1e-6)),
    Known("CodeLlama-7B", "llama", 32, 4096, 11008, 128, 32, 32016, _rope(1e6, 16384)),
    Known("Yi-6B", "llama", 32, 4096, 11008, 128, 4, 64000, _rope(5e6, 4096)),
    Known("Llama-2-13B", "llama", 40, 5120, 13824, 128, 40, 32000, _rope(1e4, 4096)),
    Known("Llama-13B", "llama", 40, 5120, 13824, 128, 40, 32000, _rope(1e4, 2048, 1e-6)),
    Known("Llama-2-70B", "llama", 80, 8192, 28672, 128, 8, 32000, _rope(1e4, 4096)),
    Known("Llama-3-8B", "llama", 32, 4096, 14336, 128, 8, 128256, _rope(5e5, 8192)),
    Known("Llama-3.1-8B", "llama", 32, 4096, 14336, 128, 8, 128256, _rope(5e5, 131072, rope_scaling=_llama3(8.0))),
    Known("Llama-3-70B", "llama", 80, 8192, 28672, 128, 8, 128256, _rope(5e5, 8192)),
    Known("Llama-3.1-70B", "llama", 80, 8192, 28672, 128, 8, 128256, _rope(5e5, 131072, rope_scaling=_llama3(8.0))),
    Known("Llama-3.2-1B", "llama", 16, 2048, 8192, 64, 8, 128256, _rope(5e5, 131072, rope_scaling=_llama3(32.0))),
    Known("Llama-3.2-3B", "llama", 28, 3072, 8192, 128, 8, 128256, _rope(5e5, 131072, rope_scaling=_llama3(32.0))),
    Known("Mistral-7B-v0.1", "mistral", 32, 4096, 14336, 128, 8, 32000, _rope(1e4, 32768, sliding_window=4096)),
    Known("Mistral-7B-v0.3", "mistral", 32, 4096, 14336, 128, 8, 32768, _rope(1e6, 32768)),
    Known("Mistral-Nemo-12B", "mistral", 40, 5120, 14336, 128, 8, 131072, _rope(1e6, 131072)),
    Known("Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 64, 2, 151936, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-1.5B", "qwen2", 28, 1536, 8960, 128, 2, 151936, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-3B", "qwen2", 36, 2048, 11008, 128, 2, 151936, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-7B", "qwen2", 28, 3584, 18944, 128, 4, 152064, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-14B", "qwen2", 48, 5120, 13824, 128, 8, 152064, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-32B", "qwen2", 64, 5120, 27648, 128, 8, 152064, _rope(1e6, 32768, 1e-6)),
    Known("Qwen2.5-72B", "qwen2", 80, 8192, 29568, 128, 8, 152064, _rope(1e6, 32768, 1e-6)),
    Known("Qwen3-0.6B", "qwen3", 28, 1024, 3072, 128, 8, 151936, _rope(1e6, 40960, 1e-6)),
    Known("Qwen3-1.7B", "qwen3", 28, 2048, 6144, 128, 8, 151936, _rope(1e6, 40960, 1e-6)),
    Known("Qwen3-4B", "qwen3", 36, 2560, 9728, 128, 8, 151936, _rope(1e6, 40960, 1e-6)),
    Known("Qwen3-8B", "qwen3", 36, 4096, 12288, 128, 8, 151936, _rope(1e6, 40960, 1e-6)),
    Known("gemma-2b", "gemma", 18, 2048, 16384, 256, 1, 256000, _rope(1e4, 8192, 1e-6)),
    Known("gemma-7b", "gemma", 28, 3072, 24576, 256, 16, 256000, _rope(1e4, 8192, 1e-6)),
    Known("gpt2", "gpt2", 12, 768, 3072, 64, 12, 50257),
    Known("gpt2-medium", "gpt2", 24, 1024, 4096, 64, 16, 50257),
    Known("gpt2-large", "gpt2", 36, 1280, 5120, 64, 20, 50257),
    Known("gpt2-xl", "gpt2", 48, 1600, 6400, 64, 25, 50257),
    Known("distilgpt2", "gpt2", 6, 768, 3072, 64, 12, 50257),
    Known("pythia-14m", "gpt_neox", 6, 128, 512, 32, 4, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-31m", "gpt_neox", 6, 256, 1024, 32, 8, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-70m", "gpt_neox", 6, 512, 2048, 64, 8, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-160m", "gpt_neox", 12, 768, 3072, 64, 12, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-410m", "gpt_neox", 24, 1024, 4096, 64, 16, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-1b", "gpt_neox", 16, 2048, 8192, 256, 8, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-1.4b", "gpt_neox", 24, 2048, 8192, 128, 16, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-2.8b", "gpt_neox", 32, 2560, 10240, 80, 32, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-6.9b", "gpt_neox", 32, 4096, 16384, 128, 32, 50257, {"max_position_embeddings": 2048}),
    Known("pythia-12b", "gpt_neox", 36, 5120, 20480, 128, 40, 50257, {"max_position_embeddings": 2048}),
    Known(
        "gpt-neox-20b",
        "gpt_neox",
        44,
        6144,
        24576,
        96,
        64,
        50257,
        {"max_position_embeddings": 2048, "hidden_act": "gelu_fast"},
    ),
    Known("bert-tiny", "bert", 2, 128, 512, 64, 2, 21128),
    Known("bert-mini", "bert", 4, 256, 1024, 64, 4, 21128),
    Known("bert-small", "bert", 4, 512, 2048, 64, 8, 21128),
    Known("bert-base", "bert", 12, 768, 3072, 64, 12, 21128),
    Known("bert-large", "bert", 24, 1024, 4096, 64, 16, 21128),
    Known("MiniLM-L6", "bert", 6, 384, 1536, 32, 12, 30522),
    Known("MiniLM-L12", "bert", 12, 384, 1536, 32, 12, 30522),
    Known("bge-small", "bert", 12, 384, 1536, 32, 12, 21128),
    Known("roberta-base", "roberta", 12, 768, 3072, 64, 12, 50265),
    Known("roberta-large", "roberta", 24, 1024, 4096, 64, 16, 50265),
    Known("distilroberta", "roberta", 6, 768, 3072, 64, 12, 50265),
)
