"""llama.cpp as an engine: a GGUF in this process, through xllamacpp's server without its HTTP.

A request is handed to llama.cpp's own scheduler by a call, so that batching, prompt reuse, stop words and adapters
per request are its own; only its HTTP front is replaced. xllamacpp always opens a socket as well: here it is a Unix
socket in a private folder (a loopback port where there are none), behind a random key that nobody is told.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.serve.engine import BadRequest, Emit, Message, Options, Prompt, Settings, iterate
from lingraft.serve.gguf_facts import read_facts
from lingraft.serve.json_only import json_only
from lingraft.serve.llama_load import EMBEDDED, Load, context_for, parameters
from lingraft.serve.llama_wire import body_of, emit_chunk, error_of
from lingraft.serve.prompts import encode, fits


@dataclass(frozen=True)
class Files:
    """What a model name stands for: a GGUF and the GGUF adapters that are switched on for its requests."""

    gguf: Path
    loras: tuple[Path, ...] = ()
    tokenizer: Any = None  # transformers' own: prompts are cut as in training; None: llama.cpp cuts them


@dataclass
class LlamaCpp:
    """Several names on as few loaded models as possible: names with the same GGUF share it."""

    files: Mapping[str, Files]
    options: Options
    sampling: Mapping[str, Any] = field(default_factory=dict)  # the model's generation_config
    draft: Path | None = None
    kind: str = "llamacpp"

    def __post_init__(self) -> None:
        self._facts = {gguf: read_facts(gguf) for gguf in {f.gguf for f in self.files.values()}}
        self._main = next(iter(self.files.values())).gguf
        self.context = context_for(self._facts[self._main], self.options)
        self._loaded: dict[tuple[Path, bool], _Loaded] = {}
        self._loading = threading.Lock()
        for gguf in self._facts:
            self._load(gguf, embedding=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that can be asked for."""
        return tuple(self.files)

    @property
    def has_template(self) -> bool:
        """Tell whether the GGUF brings a chat template."""
        first = self.files[self.names[0]]
        return self._facts[self._main].has_template if first.tokenizer is None else bool(first.tokenizer.chat_template)

    def run(self, prompt: Prompt, settings: Settings, emit: Emit) -> None:
        """Answer in this thread; llama.cpp's batches are filled by as many threads as there are requests."""
        files = self.files[settings.model or self.names[0]]
        loaded = self._load(files.gguf, embedding=False)
        body = body_of(settings, self.sampling, [path in files.loras for path in loaded.loras])
        if settings.response_format is not None:
            emit = json_only(emit, whole=not settings.stop)
        if files.tokenizer is not None:
            prompt = encode(files.tokenizer, prompt)
            fits(len(prompt), settings, self.context)
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            loaded.ask("handle_completions", {"prompt": prompt, **body}, emit)
        elif self._facts[files.gguf].has_template:
            loaded.ask("handle_chat_completions", {"messages": prompt, **body}, emit)
        else:
            text = "\n".join(message["content"] for message in prompt)  # type: ignore[index]
            loaded.ask("handle_completions", {"prompt": text, **body}, emit)

    def generate(self, messages: Sequence[Message], settings: Settings) -> Iterator[str]:
        """Yield an answer piece by piece; closing the iterator stops llama.cpp."""
        return iterate(lambda emit: self.run(messages, settings, emit))

    def embed(self, texts: Sequence[str], model: str | None = None) -> tuple[list[list[float]], int]:
        """Return the mean of the last layer over a text's tokens, at length 1; loaded when first asked for."""
        files = self.files[model or self.names[0]]
        if files.loras:
            raise BadRequest(f"{model} is an adapter on a shared base; embeddings are given for whole models", "model")
        inputs: list[Any] = list(texts)
        if files.tokenizer is not None:
            inputs = [encode(files.tokenizer, text) for text in texts]
            most = min(self.context, EMBEDDED)
            if any(not 0 < len(ids) <= most for ids in inputs):
                raise BadRequest(f"an input may have 1 to {most} tokens", "input")
        told = json.loads(self._load(files.gguf, embedding=True).embed(inputs))
        if "error" in told:
            raise error_of(told["error"])
        return [item["embedding"] for item in told["data"]], int(told["usage"]["prompt_tokens"])

    def close(self) -> None:
        """Stop llama.cpp's threads and remove its private folder."""
        for loaded in self._loaded.values():
            loaded.close()
        self._loaded.clear()

    def _load(self, gguf: Path, embedding: bool) -> _Loaded:
        with self._loading:
            if (gguf, embedding) not in self._loaded:
                loras = list(dict.fromkeys(path for f in self.files.values() if f.gguf == gguf for path in f.loras))
                fitted = Load(gguf, loras, self.options, self.context, self._facts[gguf], self.draft, embedding)
                self._loaded[gguf, embedding] = _Loaded(fitted)
            return self._loaded[gguf, embedding]


class _Loaded:
    """One GGUF in memory."""

    def __init__(self, load: Load) -> None:
        import xllamacpp

        self.loras = load.loras
        self.folder = Path(tempfile.mkdtemp(prefix="lingraft-"))
        params = parameters(load, self.folder)
        try:
            with _own_signals():
                self.server = xllamacpp.Server(params)
                self.server.handle_metrics()  # its loop runs now: told to end before it began, it would wait for ever
        except RuntimeError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            refuse(
                "config-mismatch",
                f"llama.cpp cannot load {load.gguf}: {error}",
                "try --engine transformers, a smaller --context, or `lingraft inspect` on it",
                load.gguf,
            )

    def ask(self, handler: str, body: Mapping[str, Any], emit: Emit) -> None:
        """Hand one request to llama.cpp and its pieces to ``emit``. Error: BadRequest."""
        failed: list[BaseException] = []
        finish: list[Any] = []

        def hear(chunk: bytes) -> bool:
            try:
                return emit_chunk(json.loads(chunk), finish, emit)
            except BaseException as error:  # an exception must not pass through the C++ below
                failed.append(error)
                return True

        try:
            getattr(self.server, handler)(json.dumps(body).encode(), hear)
        except (ValueError, RuntimeError) as error:  # llama.cpp refuses a request before it begins
            raise BadRequest(str(error)) from None
        if failed:
            raise failed[0]

    def embed(self, texts: list[Any]) -> bytes:
        """Return llama.cpp's answer to an embeddings request."""
        try:
            return bytes(self.server.handle_embeddings(json.dumps({"input": texts}).encode()))
        except (ValueError, RuntimeError) as error:
            raise BadRequest(str(error), "input") from None

    def close(self) -> None:
        """Stop it."""
        del self.server
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's signal handlers: llama.cpp puts its own in their place, which end it without a word."""
    import ctypes

    api: Any = ctypes.pythonapi
    api.PyOS_getsig.restype = api.PyOS_setsig.restype = ctypes.c_void_p
    api.PyOS_setsig.argtypes = [ctypes.c_int, ctypes.c_void_p]
    kept = {number: api.PyOS_getsig(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            api.PyOS_setsig(number, handler)
