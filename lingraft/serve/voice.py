"""A model that answers in a conversation, word by word; several of them when adapters are switched or compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingraft import models

MAX_NEW_TOKENS = 512
Message = dict[str, str]


@dataclass(frozen=True)
class Voice:
    """A loaded model under the name by which a user tells it from others."""

    label: str
    model: Any
    tokenizer: Any

    @property
    def has_template(self) -> bool:
        """Tell whether it knows what a conversation is; else it only continues text."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def answer(self, messages: Sequence[Message], most: int = MAX_NEW_TOKENS) -> Iterator[str]:
        """Yield the answer piece by piece; closing the iterator stops the model.

        Decoding is the model's own generation_config, greedy where that does not ask for sampling.
        """
        import torch
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        inputs = self._encode(messages, most)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = threading.Event()
        criteria = StoppingCriteriaList([lambda ids, _, **__: torch.full((len(ids),), stop.is_set())])
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        inputs, attention_mask=torch.ones_like(inputs), streamer=streamer, max_new_tokens=most,
                        stopping_criteria=criteria, pad_token_id=self._pad(),
                    )  # fmt: skip
            except BaseException as error:  # it belongs to the caller's thread
                failed.append(error)
                streamer.end()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]

    def _encode(self, messages: Sequence[Message], most: int) -> Any:
        """Encode the conversation; the oldest turns go where it does not fit beside the answer."""
        import torch

        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
        room = max(context - most, context // 2)
        kept = list(messages)
        ids = self._ids(kept)
        while len(ids) > room and len(kept) > 1 + _systems(kept):
            del kept[_systems(kept)]
            while len(kept) > 1 + _systems(kept) and kept[_systems(kept)]["role"] == "assistant":
                del kept[_systems(kept)]
            ids = self._ids(kept)
        return torch.tensor([ids[-room:]], device=self.model.device)

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        if not self.has_template:
            return list(self.tokenizer("\n".join(m["content"] for m in messages))["input_ids"])
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _pad(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(i) for i in known if i is not None), 0)


@dataclass
class Voices:
    """The base, and the base with ever more of its adapters live; what was loaded once stays."""

    stack: models.Stack
    loaded: dict[models.Stack, Voice] = field(default_factory=dict)

    def stacks(self) -> list[models.Stack]:
        """List what can be spoken with: the base alone first, all adapters last."""
        return [models.Stack(self.stack.base, self.stack.adapters[:n]) for n in range(len(self.stack.adapters) + 1)]

    def get(self, stack: models.Stack) -> Voice:
        """Return a voice, loading it the first time."""
        if stack not in self.loaded:
            model, tokenizer = models.load(stack.base, None, stack.adapters)
            self.loaded[stack] = Voice(label(stack), model, tokenizer)
        return self.loaded[stack]


def label(stack: models.Stack) -> str:
    """Name a base with its adapters."""
    return " + ".join([stack.base.name, *(adapter.name for adapter in stack.adapters)])


def _systems(messages: Sequence[Message]) -> int:
    return int(bool(messages) and messages[0]["role"] == "system")
