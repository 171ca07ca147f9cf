"""What clients send, checked: the fields of OpenAI's requests that mean something here.

Fields that would change the answer and that no engine here has (tools, audio …) are refused; others that clients
send along (user, metadata, store …) are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lingraft.serve.engine import BadRequest, Message, Settings

Body = TypeVar("Body", bound=BaseModel)
UNSUPPORTED = ("tools", "functions", "audio", "best_of", "suffix", "logit_bias", "prediction", "web_search_options")


def _texts(content: Any) -> Any:
    """Join the text parts of a message that comes in parts."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError("parts of a message are read where they are {type: text, text: …}")
    return "\n".join(part["text"] for part in content)


def _clean(text: Any) -> Any:
    """Refuse text that no encoding can hold: half of a surrogate pair."""
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no text") from None
    return text


def _texts_in(given: Any) -> Any:
    """Return one text or several as a list; what a model of another vocabulary cut into tokens is no text."""
    several = [given] if isinstance(given, str) else given
    if not (isinstance(several, list) and several and all(isinstance(t, str) and t for t in several)):
        raise ValueError("give a text or a list of texts, none of them empty; tokens are not read")
    return several


def _several(stop: Any) -> Any:
    return [] if stop is None else [stop] if isinstance(stop, str) else stop


Text = Annotated[str, BeforeValidator(_clean)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Stop = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=1000)]], BeforeValidator(_several), Field(max_length=16)
]


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_clean), BeforeValidator(_texts)] = ""


class _Streaming(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class _Common(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    stream: bool = False
    stream_options: _Streaming | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop = []
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        for name in UNSUPPORTED:
            if isinstance(body, dict) and body.get(name) and not (name == "best_of" and body[name] == body.get("n", 1)):
                raise BadRequest(f"{name} is not supported", name, "unsupported_parameter")
        return body

    def settings(self) -> Settings:
        """Return what the engine is told."""
        return Settings(
            model=self.model,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple(self.stop),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class _Format(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    @property
    def has_schema(self) -> bool:
        """Tell whether there is a schema to keep to."""
        return isinstance((self.json_schema or {}).get("schema"), dict)


class ChatRequest(_Common):
    """A body of /v1/chat/completions."""

    messages: Annotated[list[_Said], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: _Format | None = None

    @property
    def conversation(self) -> list[Message]:
        """The messages as a chat template reads them."""
        return [{"role": "system" if m.role == "developer" else m.role, "content": m.content} for m in self.messages]

    def settings(self) -> Settings:
        """Return what the engine is told."""
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
        if self.response_format and self.response_format.type == "json_schema" and not self.response_format.has_schema:
            raise BadRequest(
                "json_schema needs a schema: {type: json_schema, json_schema: {name: …, schema: {…}}}",
                "response_format",
            )
        form = self.response_format.model_dump() if self.response_format else {"type": "text"}
        return replace(
            super().settings(),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            response_format=None if form["type"] == "text" else form,
        )


class CompletionRequest(_Common):
    """A body of /v1/completions."""

    prompt: Text | Tokens | Annotated[list[Text | Tokens], Field(min_length=1, max_length=128)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One prompt after another: the field may hold one or several, as text or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def settings(self) -> Settings:
        """Return what the engine is told."""
        if self.echo:
            raise BadRequest("echo is not supported", "echo", "unsupported_parameter")
        return replace(super().settings(), top_logprobs=self.logprobs)


class EmbeddingRequest(BaseModel):
    """A body of /v1/embeddings."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input: Annotated[list[Text], BeforeValidator(_texts_in), Field(max_length=2048)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


def checked(kind: type[Body], value: Mapping[str, Any]) -> Body:
    """Return a body as its kind. Error: BadRequest that names the field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part) and part != "str")
        raise BadRequest(f"{where or 'body'}: {first['msg']}", where.partition(".")[0] or None) from None
