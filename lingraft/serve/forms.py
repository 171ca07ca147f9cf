"""The JSON that clients read: OpenAI's forms of answers, chunks, errors and lists of models."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingraft.serve.engine import Piece, Usage


@dataclass
class Choice:
    """One answer as it grows."""

    text: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def add(self, piece: Piece) -> None:
        """Take in the next piece."""
        self.text.append(piece.text)
        self.logprobs.extend(piece.logprobs)
        self.finish = piece.finish or self.finish
        self.usage = piece.usage or self.usage


@dataclass(frozen=True)
class Form:
    """How one endpoint writes its answers."""

    chat: bool
    model: str
    top: int | None = None  # log probabilities asked for
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice], n: int) -> dict[str, Any]:
        """Return the answer in one piece."""
        told = [
            self._choice(
                i,
                c,
                {"message": {"role": "assistant", "content": "".join(c.text), "refusal": None}}
                if self.chat
                else {"text": "".join(c.text)},
            )
            for i, c in enumerate(choices)
        ]
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": told,
            "usage": usage(choices, n),
        }

    def first(self, index: int) -> dict[str, Any] | None:
        """Return the chunk that opens an answer, where there is one."""
        if not self.chat:
            return None
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def chunk(self, index: int, piece: Piece, offset: int = 0) -> dict[str, Any]:
        """Return the chunk of one piece."""
        body = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
        return self._chunk(index, body, self._probs(piece.logprobs, offset), None)

    def last(self, index: int, finish: str | None) -> dict[str, Any]:
        """Return the chunk that says why an answer ended."""
        return self._chunk(index, {"delta": {}} if self.chat else {"text": ""}, None, finish or "stop")

    def used(self, choices: Sequence[Choice], n: int) -> dict[str, Any]:
        """Return the chunk that says what was used."""
        return {**self._head(self._kind()), "choices": [], "usage": usage(choices, n)}

    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, index: int, body: Mapping[str, Any], probs: Any, finish: str | None) -> dict[str, Any]:
        return {
            **self._head(self._kind()),
            "choices": [{"index": index, **body, "logprobs": probs, "finish_reason": finish}],
        }

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, choice: Choice, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "index": index,
            **body,
            "logprobs": self._probs(choice.logprobs, 0),
            "finish_reason": choice.finish or "stop",
        }

    def _probs(self, logprobs: Sequence[Mapping[str, Any]], offset: int) -> dict[str, Any] | None:
        if self.top is None or not logprobs:
            return None
        kept = [_cut(item, self.top) for item in logprobs]
        if self.chat:
            return {"content": kept, "refusal": None}
        offsets, at = [], offset
        for item in kept:
            offsets.append(at)
            at += len(item["token"])
        return {
            "tokens": [item["token"] for item in kept],
            "token_logprobs": [item["logprob"] for item in kept],
            "top_logprobs": [{t["token"]: t["logprob"] for t in item["top_logprobs"]} for item in kept],
            "text_offset": offsets,
        }


def _cut(item: Mapping[str, Any], top: int) -> dict[str, Any]:
    def told(one: Mapping[str, Any]) -> dict[str, Any]:
        return {"token": one["token"], "logprob": one["logprob"], "bytes": one.get("bytes")}

    return {**told(item), "top_logprobs": [told(one) for one in item.get("top_logprobs", ())[:top]]}


def usage(choices: Sequence[Choice], n: int) -> dict[str, int]:
    """Sum what was used; a prompt with n answers is counted once."""
    prompt = sum(choice.usage.prompt for choice in choices[::n])
    completion = sum(choice.usage.completion for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_list(names: Iterable[str], created: int) -> dict[str, Any]:
    """Return the list of models; adapters name the base they sit on."""
    first, *more = names
    return {"object": "list", "data": [model_card(first, created), *(model_card(n, created, first) for n in more)]}


def model_card(name: str, created: int, parent: str | None = None) -> dict[str, Any]:
    """Return one model of the list."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "lingraft"}
    return {**card, "parent": parent} if parent else card


def sse(value: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
