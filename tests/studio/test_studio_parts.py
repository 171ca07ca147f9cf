"""The studio without a browser: who may come in, what run folders say, how a sentence is cut."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lingraft.outcome import attempt
from lingraft.problems import Findings, Refusal
from lingraft.serve import choose
from lingraft.serve.choose import open_engine
from lingraft.studio.cut import cut
from lingraft.studio.drop import Drops
from lingraft.studio.folders import find_runs, look
from lingraft.studio.guard import Guard
from lingraft.studio.html import tag
from lingraft.studio.run import listen, studio
from lingraft.studio.talk import Loaded, Warned, answers
from lingraft.studio.words import Both


async def _page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


def answer(password: str | None = None, **headers: str) -> tuple[int, dict[bytes, bytes]]:
    """Return status and headers for a request with these headers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(key.encode(), text.encode()) for key, text in headers.items()]
    guarded: Any = Guard(_page, password)({"type": "http", "headers": given}, None, send)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:  # a browser that other tests drive has a loop in this thread
        pool.submit(asyncio.run, guarded).result()
    return sent[0]["status"], dict(sent[0]["headers"])


def basic(word: str) -> str:
    return "Basic " + base64.b64encode(f"me:{word}".encode()).decode()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"])
def test_this_machine_may_come_in(host: str) -> None:
    assert answer(host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "10.0.0.1"])
def test_a_name_that_was_rebound_to_loopback_may_not(host: str) -> None:
    assert answer(host=host)[0] == 403


def test_another_page_in_the_same_browser_may_not_drive_the_studio() -> None:
    assert answer(host="127.0.0.1:7860", origin="http://evil.example")[0] == 403
    assert answer(host="127.0.0.1:7860", origin="http://127.0.0.1:8000")[0] == 403
    assert answer(host="127.0.0.1:7860", origin="http://127.0.0.1:7860")[0] == 200


def test_with_a_password_only_those_who_know_it_come_in() -> None:
    assert answer("wall", host="10.0.0.1")[0] == 401
    assert answer("wall", host="10.0.0.1", authorization=basic("gate"))[0] == 401
    assert answer("wall", host="10.0.0.1", authorization="Basic ???")[0] == 401
    assert answer("wall", host="10.0.0.1", authorization=basic("wall"))[0] == 200


def test_every_answer_forbids_the_page_to_ask_anybody_outside() -> None:
    policy = answer(host="localhost")[1][b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_an_open_host_without_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="files to others"):
        studio(tmp_path, "0.0.0.0")


def test_a_port_that_is_taken_is_refused_and_without_one_the_next_is_found() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(Refusal, match="cannot listen"):
            listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\\..\\b", "C:/a", "a\0b", "x" * 300])
def test_what_is_dropped_stays_in_its_folder(name: str) -> None:
    assert Drops().place("0123456789abcdef", name) is None


def test_what_is_dropped_goes_when_the_studio_ends() -> None:
    drops = Drops()
    place = drops.place("0123456789abcdef", "适配器/a.json")
    assert place is not None and Path(drops.held.name).is_dir()
    del drops
    assert not place.parent.parent.parent.exists()


def test_a_long_talk_loses_its_oldest_turns_and_is_answered(base: Path) -> None:
    turn = [{"role": "user", "content": "长城很长。" * 40}, {"role": "assistant", "content": "是。"}]
    talk = [*turn * 60, {"role": "user", "content": "很长吗？"}]
    heard = [piece for _, piece in answers(Loaded(), [str(base)], [talk], 4)]
    assert heard and all(isinstance(piece, str) for piece in heard)


def test_what_the_engine_warns_of_is_shown_beside_the_answer(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(options: Any, engine: Any, findings: Findings) -> Any:
        findings.warn("wrong-order", "a warning", "a remedy")
        return open_engine(options, engine, findings)

    monkeypatch.setattr(choose, "open_engine", warned)
    first = next(answers(Loaded(), [str(base)], [[{"role": "user", "content": "很长吗？"}]], 4))[1]
    assert isinstance(first, Warned) and first.problem.message == "a warning"


def test_a_run_is_found_by_its_folder_and_its_own_stages_are_not_runs(run: Path) -> None:
    assert find_runs(run.parent) == [run]
    assert find_runs(run) == [run]


def test_a_run_is_running_while_its_clock_ticks(run: Path) -> None:
    assert look(run).state == "stopped"
    clock = run / "work" / "seconds"
    clock.write_text("81.5")
    try:
        assert (look(run).state, look(run).seconds) == ("running", 81.5)
    finally:
        clock.unlink()


def test_broken_files_of_a_run_leave_their_part_empty(tmp_path: Path) -> None:
    (tmp_path / "work" / "sft").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text('{"stages": {"sft": [1]}, "seconds": "x"')
    (tmp_path / "work" / "sft" / "log.jsonl").write_bytes(b'{"step": 1, "loss": 2}\n[3]\n\xff\xfe{"st')
    [stage] = look(tmp_path).stages
    assert (stage.name, stage.done, len(stage.log)) == ("sft", False, 1)


def test_a_piece_that_is_no_whole_character_is_shown_as_bytes(base: Path) -> None:
    from transformers import AutoTokenizer

    found = cut(base, "The 长")
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert [p.id for p in found.pieces] == tokenizer("The 长", add_special_tokens=False)["input_ids"]
    parts = bytes.fromhex("".join(p.text for p in found.pieces if not p.whole))
    assert "长".encode() in parts or found.byte_share == 0
    assert found.tokens_per_character == len(found.pieces) / 5


def test_what_a_file_holds_is_text_and_never_markup() -> None:
    assert "<b>" not in tag("p", Both("<b>", "<i>"), title='"><script>')
    assert "<script>" not in tag("p", "<script>", title='"><script>')


def test_a_refusal_and_a_bug_are_outcomes_too() -> None:
    def bug(_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("no")

    assert attempt(lambda findings: json.loads("{}")).ok
    assert attempt(bug).as_json() == {"ok": False, "error": "ZeroDivisionError: no", "problems": [], "warnings": []}
    gone = attempt(lambda _: {"text": Path("/no/such").read_text()})
    assert [p.code for p in gone.problems] == ["not-found"]
