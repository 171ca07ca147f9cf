"""How large a model's weights are, and how fast llama.cpp speaks a GGUF file: the other half of what quantisation
trades for its loss.
"""

from __future__ import annotations

from pathlib import Path

PROMPT = "Once upon a time"
TOKENS = 64
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth")


def weight_bytes(path: Path) -> int:
    """Return the bytes of a model's weights: those of the file, or of the weight files in the folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for pattern in WEIGHTS for file in path.glob(pattern))


def tokens_per_second(gguf: Path) -> float | None:
    """Return how many tokens a second llama.cpp generates on this machine, or None without xllamacpp.

    The second of two runs of 64 tokens counts: the first maps the file.
    """
    try:
        import xllamacpp
    except ImportError:
        return None
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.port, params.verbosity = 512, 1, 0, 0
    try:
        server = xllamacpp.Server(params)
        asked = {"prompt": PROMPT, "n_predict": TOKENS, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        rates = [server.handle_completions(asked)["timings"]["predicted_per_second"] for _ in range(2)]
    except (RuntimeError, KeyError, TypeError, ValueError):  # a model that llama.cpp does not know
        return None
    return float(rates[-1])
