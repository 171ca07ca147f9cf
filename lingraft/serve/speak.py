"""One answer out of `transformers.generate`: text as it comes, stop words, log probabilities, why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingraft.serve.engine import BadRequest, Emit, Piece, Settings, Usage
from lingraft.serve.stop_words import StopWords
from lingraft.serve.words import Words


def speak(model: Any, tokenizer: Any, ids: list[int], settings: Settings, most: int, draft: Any, emit: Emit) -> None:
    """Continue ``ids`` by at most ``most`` tokens."""
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    _refuse_unknown(settings, draft)
    hearing = _Hearing(tokenizer, settings, emit)
    torch.manual_seed(settings.seed) if settings.seed is not None else torch.seed()
    inputs = torch.tensor([ids], device=model.device)
    more: dict[str, Any] = {"assistant_model": draft} if draft is not None else {}
    if settings.top_logprobs is not None:
        more["logits_processor"] = LogitsProcessorList([hearing.note])
    with torch.inference_mode():
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            streamer=hearing,
            max_new_tokens=most,
            stopping_criteria=StoppingCriteriaList(
                [lambda now, _, **__: torch.full((len(now),), hearing.stopped, device=now.device)]
            ),
            pad_token_id=next((int(i) for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0),
            **sampling(settings, model.generation_config),
            **more,
        )
    hearing.finish(len(ids), _ends(model.generation_config, tokenizer))


def sampling(settings: Settings, own: Any) -> dict[str, Any]:
    """Return generate's fields: what the request says, else the model's generation_config."""
    told: dict[str, Any] = {}
    if settings.temperature is not None:
        told["do_sample"] = settings.temperature > 0
        if settings.temperature > 0:
            told |= {"temperature": float(settings.temperature), "top_p": 1.0, "top_k": 0}
    samples = told.get("do_sample", bool(getattr(own, "do_sample", False)))
    if samples and getattr(own, "do_sample", False):
        told = {**told, "top_p": own.top_p or 1.0, "top_k": own.top_k or 0}
    if samples and settings.top_p is not None:
        told["top_p"] = float(settings.top_p)
    if samples and settings.top_k is not None:
        told["top_k"] = settings.top_k
    return told


def _refuse_unknown(settings: Settings, draft: Any) -> None:
    for field in ("frequency_penalty", "presence_penalty", "response_format"):
        if getattr(settings, field):
            raise BadRequest(f"the transformers engine has no {field}; serve with --engine llamacpp", field)
    if draft is not None and settings.top_logprobs is not None:
        raise BadRequest("log probabilities are not known with a draft model", "logprobs")


def _ends(config: Any, tokenizer: Any) -> set[int]:
    known = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    return set(known if isinstance(known, list) else [known])


class _Hearing:
    """What `generate` calls for every token: it has `put` and `end`, as a streamer has."""

    def __init__(self, tokenizer: Any, settings: Settings, emit: Emit) -> None:
        self.tokenizer, self.settings, self.emit = tokenizer, settings, emit
        self.words, self.stops = Words(tokenizer), StopWords(settings.stop)
        self.heard: list[int] = []
        self.scores: Any = None  # log probabilities of the step under way
        self.waiting: list[Mapping[str, Any]] = []  # log probabilities of tokens whose text is not complete yet
        self.stopped = False
        self.prompt = True

    def note(self, _: Any, scores: Any) -> Any:
        """Keep the log probabilities before temperature and top_p change them."""
        self.scores = scores[0].float().log_softmax(-1)
        return scores

    def put(self, tokens: Any) -> None:
        """Hear the prompt, then one token after another."""
        if self.prompt:
            self.prompt = False
            return
        for token in tokens.reshape(-1).tolist():
            if self.stopped:
                return
            self.heard.append(token)
            if self.scores is not None:
                self.waiting.append(self._logprob(token))
            self._say(self.stops.feed(self.words.feed(token)))

    def end(self) -> None:
        """Do nothing: `finish` knows more."""

    def finish(self, prompt: int, ends: set[int]) -> None:
        """Say the rest, and why it ended."""
        if not self.stops.found:
            said = self.stops.feed(self.words.rest())
            self._say(said + self.stops.rest())
        ended = self.stops.found or (bool(self.heard) and self.heard[-1] in ends)
        usage = Usage(prompt, len(self.heard))
        self.emit(Piece("", tuple(self.waiting), "stop" if ended else "length", usage))

    def _say(self, text: str) -> None:
        if text:
            self.stopped = self.emit(Piece(text, tuple(self.waiting)))
            self.waiting = []
        self.stopped = self.stopped or self.stops.found

    def _logprob(self, token: int) -> dict[str, Any]:
        best = self.scores.topk(self.settings.top_logprobs or 0)
        told = self._told(token, float(self.scores[token]))
        tops = [self._told(int(i), float(p)) for p, i in zip(*best, strict=True)]
        return {**told, "top_logprobs": tops}

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        return {"id": token, "token": text, "bytes": list(text.encode()), "logprob": logprob}
