"""What every engine is: a model, with its adapters as further names, that turns a prompt into pieces of text.

llama.cpp, transformers and vLLM stand behind the one Protocol `Engine`; the server, the terminal chat and the web
page know nothing else. The heart is `run`, which works in the caller's thread and hands every piece to a callback;
`generate` makes an iterator of text out of it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Message = dict[str, str]
Prompt = Sequence[Message] | str | list[int]  # a conversation; or bare text, or tokens, to be continued
Finish = Literal["stop", "length"]
EngineName = Literal["auto", "llamacpp", "transformers", "vllm"]
Rope = Literal["yarn", "ntk", "linear"]
DEFAULT_CONTEXT = 4096  # tokens of one conversation where the user names no number and the model allows it


@dataclass(frozen=True)
class Settings:
    """How one answer is made. None means: as the model's own generation_config says, greedy where it says nothing."""

    model: str | None = None  # which of the engine's names; None: the first
    max_tokens: int | None = None  # None: until the context is full
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None  # None: no log probabilities; 0: of the chosen token alone
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    response_format: Mapping[str, Any] | None = None
    room: int = 0  # tokens that the context must have left for the answer


@dataclass(frozen=True)
class Usage:
    """How many tokens were read and written."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Piece:
    """What an engine says next: some text, and at the end why it stopped and what it used."""

    text: str = ""
    logprobs: tuple[Mapping[str, Any], ...] = ()  # as chat completions have them: token, logprob, bytes, top_logprobs
    finish: Finish | None = None
    usage: Usage | None = None


Emit = Callable[[Piece], bool]  # returns True to stop the model


class BadRequest(Exception):
    """A request that an engine cannot carry out: the client's fault, answered with 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class Engine(Protocol):
    """A loaded model and its adapters."""

    kind: str  # "llamacpp", "transformers", "vllm"

    @property
    def names(self) -> tuple[str, ...]:
        """The models that can be asked for; the first is the default."""

    @property
    def context(self) -> int:
        """How many tokens a prompt and its answer may have together."""

    @property
    def has_template(self) -> bool:
        """Tell whether the model knows what a conversation is; else it only continues text."""

    def run(self, prompt: Prompt, settings: Settings, emit: Emit) -> None:
        """Answer in this thread, piece by piece, until done or until ``emit`` returns True. Error: BadRequest."""

    def generate(self, messages: Sequence[Message], settings: Settings) -> Iterator[str]:
        """Yield an answer piece by piece; closing the iterator stops the model."""

    def embed(self, texts: Sequence[str], model: str | None = None) -> tuple[list[list[float]], int]:
        """Return one vector of length 1 for each text, and the number of tokens read. Error: BadRequest."""

    def close(self) -> None:
        """Give back memory and threads."""


@dataclass(frozen=True)
class Options:
    """What to load and how; the same for every engine."""

    base: Path
    main: tuple[Path, ...] = ()  # adapters that are part of the model itself
    name: str = "model"  # what the model is called
    adapters: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)  # further names: adapters on the model
    bits: int | None = None  # 4, 8, 16 or 32 bits a weight; None: the engine's own choice
    context: int | None = None
    rope: Rope = "yarn"  # how positions are stretched where the context exceeds the model's own
    draft: Path | None = None  # a small model of the same vocabulary that proposes tokens
    concurrency: int = 4
    threads: int | None = None


def iterate(run: Callable[[Emit], None]) -> Generator[str]:
    """Turn a blocking ``run`` into an iterator of text; closing it stops the run.

    The run has a thread of its own; what it raises is raised here.
    """
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def emit(piece: Piece) -> bool:
        if piece.text:
            pieces.put(piece.text)
        return stop.is_set()

    def work() -> None:
        try:
            run(emit)
        except BaseException as error:  # it belongs to the caller's thread
            pieces.put(error)
        pieces.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        thread.join()
