"""What is said to llama.cpp for one answer, and what it says back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lingraft.serve.engine import BadRequest, Emit, Piece, Settings, Usage


def body_of(settings: Settings, own: Mapping[str, Any], loras: Sequence[bool]) -> dict[str, Any]:
    """Return a request's fields as llama.cpp names them, every sampler set: its own defaults are not OpenAI's."""
    sampled = bool(own.get("do_sample"))
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "cache_prompt": True,
        "reasoning_format": "none",
        "min_p": 0.0,
        "repeat_penalty": float(own.get("repetition_penalty") or 1.0),
        "temperature": _first(settings.temperature, own.get("temperature") or 1.0 if sampled else 0.0),
        "top_p": _first(settings.top_p, own.get("top_p") or 1.0 if sampled else 1.0),
        "top_k": _first(settings.top_k, own.get("top_k") or 0 if sampled else 0),
        "frequency_penalty": settings.frequency_penalty,
        "presence_penalty": settings.presence_penalty,
        "stop": list(settings.stop),
        "lora": [{"id": i, "scale": float(on)} for i, on in enumerate(loras)],
    }
    if settings.max_tokens is not None:
        body["max_tokens"] = settings.max_tokens
    if settings.seed is not None:
        body["seed"] = settings.seed % 0xFFFFFFFF  # which itself means: any
    if settings.top_logprobs is not None:
        most = max(settings.top_logprobs, 1)  # 0 would mean none at all
        body |= {"logprobs": True, "top_logprobs": most, "n_probs": most}
    if settings.response_format is not None:
        form = settings.response_format
        body["json_schema"] = (form.get("json_schema") or {}).get("schema") or {"type": "object"}
    return body


def _first(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def emit_chunk(told: Mapping[str, Any], finish: list[Any], emit: Emit) -> bool:
    """Turn one chunk of llama.cpp's stream into a piece; return True to stop. ``finish`` keeps the reason."""
    if "error" in told:
        raise error_of(told["error"])
    choice = next(iter(told.get("choices") or ()), None)
    if choice is not None and choice.get("finish_reason"):
        finish.append(choice["finish_reason"])
    text = "" if choice is None else choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    probs = ((choice or {}).get("logprobs") or {}).get("content") or ()
    used = told.get("usage")
    usage = Usage(used["prompt_tokens"], used["completion_tokens"]) if used else None
    return emit(Piece(text, tuple(probs), finish[-1] if usage and finish else None, usage))


def error_of(told: Mapping[str, Any]) -> Exception:
    """Return llama.cpp's error as ours."""
    message = str(told.get("message"))
    if told.get("type") == "exceed_context_size_error":
        return BadRequest(message, "messages", "context_length_exceeded")
    asked_too_much = int(told.get("code", 500)) == 400 or "too large to process" in message
    return BadRequest(message) if asked_too_much else RuntimeError(f"llama.cpp: {message}")
