"""From what a client asks to a model's tokens, as they were in training: template and tokenizer of transformers."""

from __future__ import annotations

from typing import Any

from lingraft.serve.engine import BadRequest, Prompt, Settings


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return a prompt's tokens; a conversation goes through the chat template, where there is one."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not prompt or isinstance(prompt[0], int):
        return [int(i) for i in prompt]  # type: ignore[arg-type]
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer("\n".join(m["content"] for m in prompt))["input_ids"])  # type: ignore[index]
    try:
        text = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template refuses by raising: roles that do not alternate, and the like
        raise BadRequest(f"the chat template refuses these messages: {error}", "messages") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def fits(tokens: int, settings: Settings, context: int) -> None:
    """Refuse (BadRequest) an empty prompt, and `context_length_exceeded` one that leaves no room for its answer."""
    if tokens == 0:
        raise BadRequest("the prompt is empty", "prompt")
    if tokens + max(settings.room, 1) > context:
        raise BadRequest(
            f"the prompt has {tokens} tokens; the context is {context}", "messages", "context_length_exceeded"
        )
