"""The official OpenAI client against both engines: chat, streams, completions, models, adapters, embeddings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from serve_running import Running, serving

from lingraft.serve.engine import Engine

ASK: Any = [{"role": "user", "content": "The sea is"}]
SHORT: dict[str, Any] = {"max_tokens": 12, "temperature": 0}


def by_transformers(folder: Path, adapter: Path | None, most: int = 12) -> str:
    """What plain transformers and peft answer, greedily."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    inputs = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**inputs, max_new_tokens=most, do_sample=False)
    return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def llama_client(llama: Engine) -> Iterator[Any]:
    """A client of a server with llama.cpp behind it."""
    with serving(llama) as running:
        yield running.client()


def test_base_and_adapters_answer_as_peft_does(server: Running, talker: Path, tuned: Path, rebuilt: Path) -> None:
    heard = {}
    for name, adapter in (("talker", None), ("tuned", tuned), ("rebuilt", rebuilt), ("talker", None)):
        answer = server.client().chat.completions.create(model=name, messages=ASK, **SHORT)
        heard[name] = answer.choices[0].message.content
        assert heard[name].rstrip("\ufffd") == by_transformers(talker, adapter).rstrip("\ufffd")
        assert answer.model == name
    assert len(set(heard.values())) == 3


def test_a_stream_says_the_same_as_one_piece(server: Running) -> None:
    chat = server.client().chat.completions
    whole = chat.create(model="talker", messages=ASK, **SHORT)
    more: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat.create(model="talker", messages=ASK, **more, **SHORT))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage


def test_usage_counts_the_template_and_the_answer(server: Running, talker: Path) -> None:
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(talker).apply_chat_template(ASK, add_generation_prompt=True, tokenize=False)
    used = server.client().chat.completions.create(model="talker", messages=ASK, **SHORT).usage
    assert used.prompt_tokens == len(AutoTokenizer.from_pretrained(talker)(text)["input_ids"])
    assert used.completion_tokens == 12 and used.total_tokens == used.prompt_tokens + 12


def test_a_stop_word_ends_the_answer_before_it(server: Running) -> None:
    chat = server.client().chat.completions
    whole = chat.create(model="talker", messages=ASK, **SHORT).choices[0].message.content
    word = re.search("[a-z]{2}", whole[1:])[0]  # type: ignore[index]
    stopped = chat.create(model="talker", messages=ASK, stop=[word], **SHORT).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(word)], "stop")


def test_log_probabilities_are_those_of_the_model(server: Running, talker: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = server.client().completions.create(model="talker", prompt="The sea", logprobs=2, **SHORT)
    found = answer.choices[0].logprobs
    ids = AutoTokenizer.from_pretrained(talker)("The sea", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        judge = AutoModelForCausalLM.from_pretrained(talker)(ids).logits[0, -1].log_softmax(-1)
    assert found.token_logprobs[0] == pytest.approx(float(judge.max()), abs=0.02)
    assert 8 < len(found.tokens) <= 12 and len(found.top_logprobs[0]) == 2  # llama.cpp joins halves of a character


def test_chat_log_probabilities_have_bytes_and_alternatives(server: Running) -> None:
    more: Any = {"logprobs": True, "top_logprobs": 3}
    answer = server.client().chat.completions.create(model="talker", messages=ASK, **more, **SHORT)
    first = answer.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 3 and first.logprob == max(t.logprob for t in first.top_logprobs)
    assert math.exp(first.logprob) <= 1 and bytes(first.bytes).decode(errors="replace") == first.token


def test_several_answers_differ_and_a_seed_repeats_them(server: Running) -> None:
    def asked(seed: int) -> list[str]:
        answer = server.client().chat.completions.create(
            model="talker", messages=ASK, n=3, seed=seed, temperature=1.5, max_tokens=12
        )
        assert answer.usage.completion_tokens <= 36
        return [choice.message.content for choice in answer.choices]

    assert asked(5) == asked(5) != asked(6)
    assert len(set(asked(5))) == 3


def test_a_streamed_request_for_several_answers_numbers_them(server: Running) -> None:
    texts = ["", ""]
    for chunk in server.client().chat.completions.create(model="talker", messages=ASK, n=2, stream=True, **SHORT):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts[0] == texts[1] != ""


def test_completions_take_text_tokens_and_several_prompts(server: Running, talker: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(talker)("The sea")["input_ids"]
    create = server.client().completions.create
    one = create(model="talker", prompt="The sea", **SHORT).choices[0].text
    assert create(model="talker", prompt=ids, **SHORT).choices[0].text == one
    both = create(model="talker", prompt=["The sea", "A"], **SHORT)
    assert [c.index for c in both.choices] == [0, 1] and both.choices[0].text == one != both.choices[1].text


def test_models_are_listed_with_their_base(server: Running) -> None:
    found = server.client().models.list().data
    assert [m.id for m in found] == ["talker", "tuned", "rebuilt"]
    assert [getattr(m, "parent", None) for m in found] == [None, "talker", "talker"]
    assert server.client().models.retrieve("tuned").id == "tuned"


def test_embeddings_are_the_mean_of_the_last_layer(server: Running, talker: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(talker)("The sea", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = AutoModel.from_pretrained(talker)(ids).last_hidden_state[0].mean(0)
    found = server.client().embeddings.create(model="talker", input=["The sea", "A"])
    judge = torch.nn.functional.normalize(mean, dim=0)
    assert torch.allclose(torch.tensor(found.data[0].embedding), judge, atol=2e-3)
    assert len(found.data) == 2 and found.usage.prompt_tokens >= ids.shape[1]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"stop": [5]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"model": 5}, "model"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_a_bad_field_is_named(server: Running, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        server.client().post("/chat/completions", cast_to=object, body={"messages": ASK, "max_tokens": 2} | wrong)
    assert refused.value.body["param"] == param  # type: ignore[index]


def test_a_prompt_beyond_the_context_is_refused(server: Running) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            asked: Any = [{"role": "user", "content": "sea " * 400}]
            server.client().chat.completions.create(model="talker", messages=asked, stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_an_unknown_model_is_not_found(server: Running) -> None:
    for name in ("nobody", "../../etc/passwd", "talker/../tuned", "/etc/passwd", "tuned\u0000", "%2e%2e", ""):
        with pytest.raises(openai.NotFoundError) as refused:
            server.client().chat.completions.create(model=name, messages=ASK)
        assert refused.value.code == "model_not_found"


def test_json_can_be_asked_for_where_the_engine_has_it(server: Running) -> None:
    import json

    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    create = server.client().chat.completions.create
    if server.engine.kind == "transformers":
        with pytest.raises(openai.BadRequestError):
            create(model="talker", messages=ASK, response_format=asked)
        return
    said = create(model="talker", messages=ASK, response_format=asked).choices[0].message.content
    assert json.loads(said) in ("yes", "no")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "(a"}])
def test_a_schema_that_llama_cpp_drops_is_refused(llama_client: Any, schema: dict[str, Any]) -> None:
    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="response_format"):
        llama_client.chat.completions.create(model="talker", messages=ASK, response_format=asked, max_tokens=20)


def test_an_empty_prompt_is_refused(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="empty"):
        server.client().completions.create(model="talker", prompt="")


@pytest.mark.parametrize("given", [[], "", ["a", ""], [1, 2]])
def test_only_texts_are_embedded(server: Running, given: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="none of them empty"):
        server.client().embeddings.create(model="talker", input=given)
