"""Render a conversation and find which of its characters are the assistant's answers.

No template is trusted: what stands before an answer is rendered alone, as it will be when the model is
asked, and must be the beginning of the rendering with the answer. Templates that rewrite earlier turns
(those that drop old reasoning, for instance) fail that for a whole conversation; it is then rendered once
an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from lingraft.data.conversations import Conversation
from lingraft.problems import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["all", "last"]


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation; ``spans`` are its answers' [start, end) characters, end marks included."""

    text: str
    spans: tuple[tuple[int, int], ...]
    source: str


def render(
    conversation: Conversation, tokenizer: PreTrainedTokenizerBase, template: str, turns: Turns = "all"
) -> Iterator[Rendered]:
    """Yield the conversation rendered whole, or once an answer where the template rewrites earlier turns.

    Errors: `recipe-invalid` where the template fails, or an answer cannot be found in what it renders.
    """
    messages = conversation.as_dicts()
    ends = [i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"]
    source = conversation.source
    whole = rendered(tokenizer, template, messages, source)
    if turns == "last":
        yield Rendered(whole, (_span(tokenizer, template, messages, whole, source),), source)
        return
    texts = [rendered(tokenizer, template, messages[:end], source) for end in ends[:-1]] + [whole]
    spans = [_span(tokenizer, template, messages[:end], text, source) for end, text in zip(ends, texts, strict=True)]
    if all(whole.startswith(text[: span[1]]) for text, span in zip(texts, spans, strict=True)):
        yield Rendered(whole, tuple(spans), source)
    else:
        for text, span in zip(texts, spans, strict=True):
            yield Rendered(text, (span,), source)


def _span(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]], text: str, source: str
) -> tuple[int, int]:
    """Return where the last answer lies in ``text``: after its prompt, up to the end mark."""
    prompt = rendered(tokenizer, template, messages[:-1], source, prompt=True)
    answer = messages[-1]["content"].strip()
    start = len(prompt)
    if not text.startswith(prompt):
        # The prompt for a new answer differs from what stands before a given one: take the answer itself.
        start = text.rfind(answer)
    end = len(text.rstrip())
    if start < 0 or answer not in text[start:end]:
        refuse(
            "recipe-invalid",
            f"template: the answer of {source} is not in what the template renders",
            "choose another template",
            source,
        )
    return start, end


def rendered(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[dict[str, str]], source: str, prompt: bool = False
) -> str:
    """Return what the template makes of messages; as a ``prompt``, an answer is to follow. Error: `recipe-invalid`."""
    try:
        return str(
            _compiled(template).render(
                messages=messages,
                add_generation_prompt=prompt,
                tools=None,
                documents=None,
                **tokenizer.special_tokens_map,
            )
        )
    except Exception as error:  # a template may raise anything: its own raise_exception, a missing key
        message = f"template: it cannot render {source}: {error}"
        refuse("recipe-invalid", message, "choose another template", source)


@cache
def _compiled(template: str) -> Any:
    # transformers' own compiler: sandboxed, with its filters, strftime_now and {% generation %}.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)
