"""vLLM as an engine, for GPUs: `pip install 'lingraft[vllm]'`.

What vLLM is told is computed by `arguments`, `sampling` and `adapters_of`, which the tests hold against this page's
tables. **The engine itself was never run**: no machine with a GPU was at hand. Written after vLLM 0.22's documented
`AsyncLLM` (v1).
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from lingraft import models
from lingraft.problems import refuse
from lingraft.serve.engine import BadRequest, Emit, Message, Options, Piece, Prompt, Settings, Usage, iterate
from lingraft.serve.live import is_low_rank, stretch
from lingraft.serve.prompts import encode, fits


def arguments(options: Options) -> dict[str, Any]:
    """Return the fields of vLLM's AsyncEngineArgs. Error: `unsupported-adapter` for what vLLM cannot switch."""
    mixed = [p for chain in options.adapters.values() for p in chain if not is_low_rank(p)]
    if options.main or mixed or any(len(chain) != 1 for chain in options.adapters.values()):
        path = next(iter([*options.main, *mixed]), None)
        refuse(
            "unsupported-adapter",
            f"{path or 'a chain of adapters'}: vLLM switches single LoRA adapters alone",
            "merge it first (`lingraft merge`), or use another --engine",
            path,
        )
    told: dict[str, Any] = {"model": str(options.base), "max_num_seqs": options.concurrency}
    if options.context is not None:
        told["max_model_len"] = options.context
        stretched = stretch(options.base, options.context, options.rope)
        if stretched is not None:
            told["hf_overrides"] = {
                "rope_parameters": stretched.rope_parameters,
                "max_position_embeddings": options.context,
            }
    if options.bits in (4, 8):
        told["quantization"] = {4: "bitsandbytes", 8: "fp8"}[options.bits]
    if options.draft is not None:
        told["speculative_config"] = {"method": "draft_model", "model": str(options.draft), "num_speculative_tokens": 5}
    if options.adapters:
        told |= {"enable_lora": True, "max_loras": len(options.adapters), "max_lora_rank": _rank(options)}
    return told


def _rank(options: Options) -> int:
    from lingraft.merge.lineage import home
    from lingraft.weights.hf import read_json

    ranks = [int(read_json(home(chain[0]) / "adapter_config.json").get("r", 16)) for chain in options.adapters.values()]
    return next(r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= max(ranks))


def sampling(settings: Settings) -> dict[str, Any]:
    """Return the fields of vLLM's SamplingParams that a request sets."""
    told = {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "seed": settings.seed,
        "stop": list(settings.stop) or None,
        "logprobs": settings.top_logprobs,
        "frequency_penalty": settings.frequency_penalty or None,
        "presence_penalty": settings.presence_penalty or None,
    }
    return {key: value for key, value in told.items() if value is not None}


class Vllm:
    """A model in vLLM's asynchronous engine, on an event loop of its own."""

    kind = "vllm"

    def __init__(self, options: Options) -> None:
        if find_spec("vllm") is None:
            refuse("does-not-fit", "the vLLM engine needs vllm and a GPU", "pip install 'lingraft[vllm]'")
        told = arguments(options)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        self.options = options
        self.tokenizer = models.load_tokenizer(options.base)
        self._loras = {
            name: LoRARequest(name, number, str(chain[0]))
            for number, (name, chain) in enumerate(options.adapters.items(), 1)
        }
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def start() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**told))

        self._engine = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        self.context = int(options.context or self._engine.model_config.max_model_len)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that can be asked for."""
        return (self.options.name, *self.options.adapters)

    @property
    def has_template(self) -> bool:
        """Tell whether the model knows what a conversation is."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def run(self, prompt: Prompt, settings: Settings, emit: Emit) -> None:
        """Answer while this thread waits."""
        ids = encode(self.tokenizer, prompt)
        fits(len(ids), settings, self.context)
        asyncio.run_coroutine_threadsafe(self._answer(ids, settings, emit), self._loop).result()

    async def _answer(self, ids: list[int], settings: Settings, emit: Emit) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        asked = sampling(settings)
        asked.setdefault("max_tokens", self.context - len(ids))
        params = SamplingParams(**asked, output_kind=RequestOutputKind.DELTA)
        request, written = uuid.uuid4().hex, 0
        lora = self._loras.get(settings.model or "")
        async for output in self._engine.generate({"prompt_token_ids": ids}, params, request, lora_request=lora):
            made = output.outputs[0]
            written += len(made.token_ids)
            usage = Usage(len(ids), written) if output.finished else None
            finish = None if not output.finished else "length" if made.finish_reason == "length" else "stop"
            if emit(Piece(made.text, _logprobs(made), finish, usage)):  # type: ignore[arg-type]
                await self._engine.abort(request)
                return

    def generate(self, messages: Sequence[Message], settings: Settings) -> Iterator[str]:
        """Yield an answer piece by piece; closing the iterator stops vLLM."""
        return iterate(lambda emit: self.run(messages, settings, emit))

    def embed(self, texts: Sequence[str], model: str | None = None) -> tuple[list[list[float]], int]:  # noqa: ARG002
        """Refuse: a vLLM that generates gives no embeddings."""
        raise BadRequest("the vLLM engine gives no embeddings; serve with --engine llamacpp or transformers", "model")

    def close(self) -> None:
        """Stop vLLM."""
        self._engine.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)


def _logprobs(made: Any) -> tuple[dict[str, Any], ...]:
    told = []
    for token, seen in zip(made.token_ids, made.logprobs or (), strict=False):
        items = {
            i: {
                "id": i,
                "token": p.decoded_token or "",
                "bytes": list((p.decoded_token or "").encode()),
                "logprob": p.logprob,
            }
            for i, p in seen.items()
        }
        told.append({**items[token], "top_logprobs": list(items.values())})
    return tuple(told)
