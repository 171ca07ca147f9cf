"""llama.cpp as an engine: a GGUF in this process, through xllamacpp's server without its HTTP.

A request is handed to llama.cpp's own scheduler by a call, so that batching, prompt reuse, stop words and adapters
per request are its own; only its HTTP front is replaced. xllamacpp always opens a socket as well: here it is a Unix
socket in a private folder (a loopback port where there are none), behind a random key that nobody is told.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.serve.engine import (
    DEFAULT_CONTEXT,
    BadRequest,
    Emit,
    Message,
    Options,
    Piece,
    Prompt,
    Settings,
    Usage,
    iterate,
)
from lingraft.serve.gguf_facts import Facts, read_facts
from lingraft.serve.prompts import encode, fits

EMBEDDED = 2048  # tokens of a text that is embedded: they are read in one go


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
        self.context = _context(self._facts[self._main], self.options)
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
        if files.tokenizer is not None:
            prompt = encode(files.tokenizer, prompt)
            fits(len(prompt), settings, self.context)
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
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
            raise _error(told["error"])
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
                fitted = _Load(gguf, loras, self.options, self.context, self._facts[gguf], self.draft, embedding)
                self._loaded[gguf, embedding] = _Loaded(fitted)
            return self._loaded[gguf, embedding]


@dataclass(frozen=True)
class _Load:
    gguf: Path
    loras: list[Path]
    options: Options
    context: int
    facts: Facts
    draft: Path | None
    embedding: bool


class _Loaded:
    """One GGUF in memory."""

    def __init__(self, load: _Load) -> None:
        import xllamacpp

        self.loras = load.loras
        self.folder = Path(tempfile.mkdtemp(prefix="lingraft-"))
        params = parameters(load, self.folder)
        try:
            with _own_signals():
                self.server = xllamacpp.Server(params)
        except RuntimeError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            refuse("config-mismatch", f"llama.cpp cannot load {load.gguf}: {error}",
                   "try --engine transformers, a smaller --context, or `lingraft inspect` on it", load.gguf)

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


def parameters(load: _Load, folder: Path) -> Any:
    """Return xllamacpp's CommonParams for a model."""
    import xllamacpp

    options = load.options
    params = xllamacpp.CommonParams()
    params.model.path = str(load.gguf)
    params.hostnames = [str(folder / "s.sock") if hasattr(socket, "AF_UNIX") else "127.0.0.1"]
    params.port, params.api_keys, params.ui, params.verbosity = 0, [secrets.token_hex(32)], False, -1
    params.cache_ram_mib = 0  # a store of old prompts that grows up to 8 GB; a slot's own prompt is reused all the same
    slots = 1 if load.embedding else options.concurrency
    params.n_parallel, params.n_ctx = slots, load.context * slots
    threads = options.threads or _cores()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in load.loras]
    params.lora_init_without_apply = True
    if options.bits == 32:  # as exact as transformers: nothing is kept or multiplied in 16 bits
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    _stretch(params, load)
    if load.embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_batch = params.n_ubatch = min(load.context, EMBEDDED)
    elif load.draft is not None:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.mparams.path = str(load.draft)
    return params


def _stretch(params: Any, load: _Load) -> None:
    """Stretch positions where the context is longer than the model was trained for."""
    import xllamacpp

    facts, kinds = load.facts, xllamacpp.llama_rope_scaling_type
    factor = load.context / facts.context
    if factor <= 1:
        return
    if load.options.rope == "ntk":
        params.rope_freq_base = facts.theta * factor ** (facts.width / (facts.width - 2))
        return
    params.rope_freq_scale = 1 / factor
    params.yarn_orig_ctx = facts.context
    params.rope_scaling_type = (kinds.LLAMA_ROPE_SCALING_TYPE_YARN if load.options.rope == "yarn"
                                else kinds.LLAMA_ROPE_SCALING_TYPE_LINEAR)  # fmt: skip


def _context(facts: Facts, options: Options) -> int:
    """Return the context asked for; else what model and memory allow: a quarter of what is free, for all answers."""
    import psutil

    if options.context is not None:
        return options.context
    room = psutil.virtual_memory().available // 4 // max(facts.token_bytes * options.concurrency, 1)
    return min(facts.context, DEFAULT_CONTEXT, max(512, int(room) // 256 * 256))


def _cores() -> int:
    import psutil

    return int(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)


def body_of(settings: Settings, own: Mapping[str, Any], loras: Sequence[bool]) -> dict[str, Any]:
    """Return a request's fields as llama.cpp names them, every sampler set: its own defaults are not OpenAI's."""
    sampled = bool(own.get("do_sample"))
    body: dict[str, Any] = {
        "stream": True, "stream_options": {"include_usage": True}, "return_progress": True, "cache_prompt": True,
        "reasoning_format": "none", "min_p": 0.0, "repeat_penalty": float(own.get("repetition_penalty") or 1.0),
        "temperature": _first(settings.temperature, own.get("temperature") or 1.0 if sampled else 0.0),
        "top_p": _first(settings.top_p, own.get("top_p") or 1.0 if sampled else 1.0),
        "top_k": _first(settings.top_k, own.get("top_k") or 0 if sampled else 0),
        "frequency_penalty": settings.frequency_penalty, "presence_penalty": settings.presence_penalty,
        "stop": list(settings.stop), "lora": [{"id": i, "scale": float(on)} for i, on in enumerate(loras)],
    }  # fmt: skip
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
        raise _error(told["error"])
    choice = next(iter(told.get("choices") or ()), None)
    if choice is not None and choice.get("finish_reason"):
        finish.append(choice["finish_reason"])
    text = "" if choice is None else choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    probs = ((choice or {}).get("logprobs") or {}).get("content") or ()
    used = told.get("usage")
    usage = Usage(used["prompt_tokens"], used["completion_tokens"]) if used else None
    return emit(Piece(text, tuple(probs), finish[-1] if usage and finish else None, usage))


def _error(told: Mapping[str, Any]) -> Exception:
    message = str(told.get("message"))
    if told.get("type") == "exceed_context_size_error":
        return BadRequest(message, "messages", "context_length_exceeded")
    asked_too_much = int(told.get("code", 500)) == 400 or "too large to process" in message
    return BadRequest(message) if asked_too_much else RuntimeError(f"llama.cpp: {message}")


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
