"""The same prompts to every model, and what can be counted about the answers.

Greedy, so that a second run says the same, and drawn with a fixed seed, as people meet a model; through the model's
own chat template where it has one. Every model is drawn from with the same settings, whatever its own ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lingraft.data.units import HAN, UNIT

MAX_NEW_TOKENS = 96
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = MAX_NEW_TOKENS,
    sample: bool = False,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """Answer every prompt; each answer comes with `counts`, its number of tokens and whether it stopped by itself.

    ``sample`` draws with `SAMPLING` in place of greedy decoding; every prompt begins from the same ``seed``.
    """
    import torch

    found = []
    for prompt in prompts:
        torch.manual_seed(seed)
        found.append(_one(model, tokenizer, prompt, max_new_tokens, sample))
    return found


def counts(text: str) -> dict[str, float]:
    """Return length in characters, the share of repeated 4-grams, and the share of letters that are Han.

    Source of the repetition share: seq-rep-4 of Welleck et al. 2019, "Neural text generation with unlikelihood
    training", over characters (Han) and words (else) in place of one model's tokens.
    """
    units = UNIT.findall(text)
    grams = [tuple(units[i : i + 4]) for i in range(len(units) - 3)]
    letters = sum(character.isalpha() for character in text)
    return {
        "characters": len(text),
        "repetition": 1 - len(set(grams)) / len(grams) if grams else 0.0,
        "han": len(HAN.findall(text)) / letters if letters else 0.0,
    }


def render(tokenizer: Any, prompt: str) -> str:
    """Return the text that asks a model: its chat template's, or the prompt alone where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _one(model: Any, tokenizer: Any, prompt: str, most: int, sample: bool) -> dict[str, Any]:
    """Answer one prompt. Not in batches: left padding in bfloat16 changed what SmolLM2 answers."""
    import torch

    inputs = torch.tensor([_encode(tokenizer, prompt)], device=model.device)
    ends = _ends(model, tokenizer)
    # Greedy means greedy: what generation_config says of sampling would only add warnings
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    settings = SAMPLING if sample else greedy
    with torch.inference_mode():
        made = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=most,
            pad_token_id=next(iter(ends), 0),
            **settings,
        )
    return _answer(tokenizer, made[0, inputs.shape[1] :].tolist(), ends)


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    if getattr(tokenizer, "chat_template", None):  # the template writes its own BOS
        return list(tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt)["input_ids"])


def _ends(model: Any, tokenizer: Any) -> set[int]:
    named = model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return {i for i in (*listed, tokenizer.eos_token_id) if i is not None}


def _answer(tokenizer: Any, ids: list[int], ends: set[int]) -> dict[str, Any]:
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[:stop]
    text = str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
    return {"text": text, "tokens": len(kept), "stopped": stop is not None, **counts(text)}
