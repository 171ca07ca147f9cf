"""Named templates render what was published, byte for byte; a hostile one runs nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lingraft.data.answers import render
from lingraft.data.conversations import Conversation, Message
from lingraft.data.templates import BILINGUAL, NAMED
from lingraft.problems import Refusal

TURNS = ("你好吗？", "很好。", "And now?", "Still fine.")
BARE = Conversation(tuple(Message(("user", "assistant")[i % 2], t) for i, t in enumerate(TURNS)), "x:1")
LED = Conversation((Message("system", "Be brief."), *BARE.messages), "x:2")


def _tokenizer(**marks: str) -> Any:
    return SimpleNamespace(special_tokens_map={"bos_token": "<s>", "eos_token": "</s>", **marks})


def _rendered(conversation: Conversation, template: str) -> str:
    (found,) = render(conversation, _tokenizer(), template)
    assert [found.text[a:b].strip() for a, b in found.spans] != []
    return found.text


def _published(name: str) -> str:
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("conversation", [BARE, LED], ids=["bare", "system"])
@pytest.mark.parametrize(
    ("name", "published"), [("llama3", "llama3"), ("qwen", "qwen2_5"), ("chatml", "qwen3_instruct_2507")]
)
def test_named_templates_equal_the_published_ones(name: str, published: str, conversation: Conversation) -> None:
    assert _rendered(conversation, NAMED[name]) == _rendered(conversation, _published(published))


def test_llama2_renders_metas_format_with_the_bilingual_system_line() -> None:
    system = f"<<SYS>>\n{BILINGUAL}\n<</SYS>>\n\n"
    wanted = f"<s>[INST] {system}你好吗？ [/INST] 很好。 </s><s>[INST] And now? [/INST] Still fine. </s>"
    assert _rendered(BARE, NAMED["llama2"]) == wanted
    assert _rendered(LED, NAMED["llama2"]) == wanted.replace(BILINGUAL, "Be brief.")


def test_alpaca_renders_stanfords_prompt() -> None:
    found = _rendered(Conversation(BARE.messages[:2], "x"), NAMED["alpaca"].replace("BOS", ""))
    assert found.startswith("Below is an instruction that describes a task. Write a response that appropriately ")
    assert found.endswith("completes the request.\n\n### Instruction:\n你好吗？\n\n### Response:\n很好。</s>\n\n")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_hostile_template_is_refused_in_its_sandbox(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal) as refused:
        list(render(BARE, _tokenizer(), template))
    assert refused.value.problems[0].code == "recipe-invalid" and not (tmp_path / "owned").exists()
