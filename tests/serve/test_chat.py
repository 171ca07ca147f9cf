"""Terminal chat on a tiny real model: history, commands, several lines, pipes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from lingraft.problems import Findings, Refusal
from lingraft.serve.chat import Talk, chat, turn
from lingraft.serve.choose import open_engine
from lingraft.serve.engine import Engine, Options
from lingraft.serve.lines import questions
from lingraft.serve.voice import Voices, shorter

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that speaks bytes, with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("chat") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(["</s>", *letters])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGRAFT_DTYPE", "float32")


def talk_with(folder: Path, *adapters: Path) -> tuple[Talk, list[str], list[str]]:
    from lingraft.models import Stack, stack

    def opened(wanted: Stack) -> Engine:
        return open_engine(Options(wanted.base, wanted.adapters), "transformers", Findings())

    spoken: list[str] = []
    told: list[str] = []
    voices = Voices(stack(folder, None, adapters), opened)
    return Talk(voices, voices.stack, spoken.append, told.append, most=12), spoken, told


def greedy(folder: Path, messages: list[dict[str, str]], most: int = 12) -> str:
    """What plain transformers answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = AutoModelForCausalLM.from_pretrained(folder).generate(**inputs, max_new_tokens=most, do_sample=False)
    return str(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_answers_are_what_transformers_generates(folder: Path) -> None:
    talk, spoken, _ = talk_with(folder)
    assert turn(talk, "hello")
    assert "".join(spoken).removesuffix("\n") == greedy(folder, [{"role": "user", "content": "hello"}])


def test_an_answer_streams_in_pieces(folder: Path) -> None:
    talk, spoken, _ = talk_with(folder)
    turn(talk, "hello")
    assert len(spoken) > 3


def test_the_conversation_is_remembered_and_cleared(folder: Path) -> None:
    talk, _, _ = talk_with(folder)
    turn(talk, "one")
    turn(talk, "two")
    first = greedy(folder, [{"role": "user", "content": "one"}]).strip()
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
    ]
    assert talk.said[:3] == messages
    assert talk.said[3]["content"] == greedy(folder, messages).strip()
    turn(talk, "/clear")
    assert talk.said == []


def test_a_system_message_leads_and_starts_anew(folder: Path) -> None:
    talk, _, _ = talk_with(folder)
    turn(talk, "one")
    turn(talk, "/system Be brief.")
    assert talk.messages() == [{"role": "system", "content": "Be brief."}]
    turn(talk, "/system")
    assert talk.messages() == []


def test_a_conversation_longer_than_the_context_loses_its_oldest_turns(folder: Path) -> None:
    talk, spoken, told = talk_with(folder)
    turn(talk, "/system S")
    for number in range(6):
        turn(talk, f"question number {number}, long enough")
    assert told == ["system message set"] and len(spoken) >= 12
    kept = talk.messages()
    while len(kept := shorter(kept)) > 2:
        assert kept[0]["role"] == "system" and kept[1]["role"] == "user"


def test_a_question_that_never_fits_is_told(folder: Path) -> None:
    talk, _, told = talk_with(folder)
    assert turn(talk, "long " * 60)
    assert "the context is 128" in told[0] and talk.said == []


def test_adapters_are_listed_switched_and_compared(folder: Path, adapter: Path) -> None:
    talk, spoken, told = talk_with(folder, adapter)
    turn(talk, "/adapter")
    assert told == ["  0  tiny", "* 1  tiny + adapter"]
    turn(talk, "/compare hello")
    base, tuned = "".join(spoken).split("\n")[:2]
    assert told[2:] == ["[tiny]", "[tiny + adapter]"]
    assert base == greedy(folder, [{"role": "user", "content": "hello"}]) != tuned
    turn(talk, "/adapter 0")
    spoken.clear()
    turn(talk, "hello")
    assert "".join(spoken).strip("\n") == base


def test_an_adapter_can_be_added_while_talking(folder: Path, adapter: Path) -> None:
    talk, _, told = talk_with(folder)
    turn(talk, f"/adapter {adapter}")
    assert told == ["  0  tiny", "* 1  tiny + adapter"]


def test_a_missing_adapter_is_told_and_the_talk_goes_on(folder: Path) -> None:
    talk, _, told = talk_with(folder)
    assert turn(talk, "/adapter ./nowhere")
    assert told[0].startswith("not-found: ./nowhere")


def test_unknown_commands_are_told_and_quit_ends(folder: Path) -> None:
    talk, spoken, told = talk_with(folder)
    assert turn(talk, "/halp")
    assert "no command" in told[0] and spoken == []
    assert not turn(talk, "/quit")


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (["a", "b"], ["a", "b"]),
        (["a\\", "b", "c"], ["a\nb", "c"]),
        (['"""', "a", "", "b", '"""', "c"], ["a\n\nb", "c"]),
        (['"""a"""', "b"], ["a", "b"]),
        (['"""a', "b"], ["a\nb"]),
        (["a\\"], ["a"]),
    ],
)
def test_several_lines_make_one_question(lines: list[str], joined: list[str]) -> None:
    left: list[Any] = [*lines, None]
    assert list(questions(lambda _: left.pop(0) if left else None)) == joined


def test_a_pipe_gets_one_line_for_each_question(folder: Path) -> None:
    out = io.StringIO()
    chat(str(folder), stdin=io.StringIO("one\n\n/help\ntwo\n"), stdout=out, most=12, engine="transformers")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == " ".join(greedy(folder, [{"role": "user", "content": "one"}]).split())


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refusal, match="not-found"):
        chat("./nowhere", stdin=io.StringIO("x\n"), stdout=io.StringIO())


def test_the_conversation_can_be_shown(folder: Path) -> None:
    talk, _, told = talk_with(folder)
    turn(talk, "/history")
    turn(talk, "one")
    turn(talk, "/history")
    assert told[:2] == ["nothing was said yet", "user: one"] and told[2].startswith("assistant: ")


def test_llama_cpp_speaks_in_the_terminal_too(talker: Path, tuned: Path) -> None:
    pytest.importorskip("xllamacpp")
    out = io.StringIO()
    lines = "The sea is\n/compare The sea is\n/adapter 0\n/clear\nThe sea is\n"
    chat(
        str(talker),
        adapters=[str(tuned)],
        stdin=io.StringIO(lines),
        stdout=out,
        most=12,
        engine="llamacpp",
        bits=32,
        threads=1,
    )
    adapted, base, again, last = out.getvalue().splitlines()
    assert adapted == again != base == last


def test_a_gguf_file_is_talked_with(talker: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from lingraft.weights.convert import convert

    convert(talker, tmp_path / "model.gguf", "gguf", Findings(), type="F16")
    out = io.StringIO()
    chat(str(tmp_path / "model.gguf"), stdin=io.StringIO("The sea is\n"), stdout=out, most=12, threads=1)
    assert len(out.getvalue().splitlines()) == 1 and out.getvalue().strip()
