"""What a server does not take: wrong keys, broken bodies, too much at once; and what it does when clients go."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import Request, urlopen

import openai
import pytest
from serve_running import Held, Running, serving

from lingraft.serve.app import Front, Limits
from lingraft.serve.engine import Engine, Settings
from lingraft.serve.job import Answers, tasks_for

ASK: Any = [{"role": "user", "content": "The sea is"}]
BODY = json.dumps({"messages": ASK, "max_tokens": 4, "temperature": 0}).encode()
CHAT = "/v1/chat/completions"


def error(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/v1/completions", "/v1/embeddings", "/metrics", "/nothing"])
def test_no_key_or_a_wrong_one_is_401_everywhere_but_health(locked: Running, path: str) -> None:
    for key in ("", "wrong", "secre", "secret1"):
        status, headers, body = locked.post(path, BODY, key) if path.startswith("/v1/c") else locked.get(path, key)
        assert status == 401 and error(body)["code"] == "invalid_api_key" and headers["www-authenticate"] == "Bearer"
    assert locked.get("/health")[0] == 200


def test_every_key_opens(locked: Running) -> None:
    for key in ("secret", "other"):
        assert locked.client(key).chat.completions.create(model="talker", messages=ASK, max_tokens=2).choices
    with pytest.raises(openai.AuthenticationError):
        locked.client("wrong").models.list()


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 9000, b"null"])
def test_broken_json_is_400(locked: Running, body: bytes) -> None:
    status, _, answer = locked.post(CHAT, body, "secret")
    assert status == 400 and error(answer)["type"] == "invalid_request_error"


def test_half_a_surrogate_pair_is_400(locked: Running) -> None:
    body = rb'{"messages": [{"role": "user", "content": "\ud800"}], "max_tokens": 2}'
    assert locked.post(CHAT, body, "secret")[0] == 400


def test_a_large_body_is_413_whether_its_length_is_told_or_not(locked: Running) -> None:
    assert locked.post(CHAT, b"x" * 5_000_000, "secret")[0] == 413
    chunked = (
        (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer secret\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        ).encode()
        + b"".join(b"7530\r\n" + b"x" * 30000 + b"\r\n" for _ in range(3))
        + b"0\r\n\r\n"
    )
    status, _, body = locked.send(chunked)
    assert status == 413 and error(body)["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/v1/models/nobody", 404),
        (CHAT, 405),
        ("/v1", 404),
        ("/../etc/passwd", 404),
        ("/v1/models/..%2f..%2fetc%2fpasswd", 404),
    ],
)
def test_what_is_not_there_is_told_in_openais_form(locked: Running, path: str, status: int) -> None:
    found, _, body = locked.get(path, "secret")
    assert found == status and error(body)["message"]


def test_a_page_that_was_pointed_here_is_turned_away(llama: Engine) -> None:
    with serving(llama, Limits(hosts=("127.0.0.1", "localhost", "[::1]"))) as running:
        assert running.get("/v1/models", host="evil.example")[0] == 403
        assert [running.get("/v1/models", host=h)[0] for h in ("localhost:80", "[::1]:80", "127.0.0.1")] == [200] * 3


def test_a_full_server_says_429_and_when_to_come_back(llama: Engine) -> None:
    held = Held(llama)
    with serving(held, Limits(concurrency=1, queue=1)) as running, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(running.post, CHAT, BODY)]
        assert held.begun.acquire(timeout=60)
        asked.append(pool.submit(running.post, CHAT, BODY))
        wait_for(running, "lingraft_waiting 1.0")
        status, headers, body = running.post(CHAT, BODY)
        assert status == 429 and int(headers["retry-after"]) >= 1 and error(body)["type"] == "rate_limit_error"
        held.go.set()
        assert [one.result()[0] for one in asked] == [200, 200]
        assert running.post(CHAT, BODY)[0] == 200


def wait_for(running: Running, line: str) -> None:
    until = time.monotonic() + 60
    while line.encode() not in running.get("/metrics")[2]:
        assert time.monotonic() < until, running.get("/metrics")[2].decode()
        time.sleep(0.02)


def test_an_answer_that_takes_too_long_is_ended(llama: Engine) -> None:
    long = json.dumps({"messages": ASK, "max_tokens": 200, "stream": False}).encode()
    with serving(llama, Limits(timeout=0.001)) as running:
        status, headers, body = running.post(CHAT, long)
        assert status == 504 and error(body)["code"] == "timeout" and headers["x-should-retry"] == "false"


def test_a_client_that_hangs_up_gives_its_place_back(llama: Engine) -> None:
    held = Held(llama)
    with serving(held, Limits(concurrency=1, queue=0)) as running:
        connection = socket.create_connection(("127.0.0.1", running.port))
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        assert held.begun.acquire(timeout=60)
        connection.close()
        held.go.set()
        assert held.ended.acquire(timeout=60)
        wait_for(running, "lingraft_running 0.0")
        assert running.post(CHAT, BODY)[0] == 200


def test_a_client_that_hangs_up_while_the_last_thread_ends_gives_its_place_back(llama: Engine) -> None:
    class Lingering(Answers):
        over: asyncio.Event

        def start(self, *_: Any) -> asyncio.Task[Any]:
            self.over = asyncio.Event()
            return asyncio.create_task(self.over.wait())

    async def scene() -> list[int]:
        async def written() -> None:
            pass

        front, places = Front(llama, Limits(concurrency=1, queue=0)), []
        answers = Lingering(llama, tasks_for(["x"], Settings(), 1), False, time.monotonic() + 60)
        task = asyncio.create_task(front._run(answers, written))
        for event in (task.cancel, lambda: answers.over.set()):
            await asyncio.sleep(0.05)  # the answer is written, and the thread is not at its end
            event()
            await asyncio.sleep(0.05)
            places.append(front.gate.running)
        return places

    assert asyncio.run(scene()) == [1, 0]


def test_a_client_that_hangs_up_in_line_leaves_it(llama: Engine) -> None:
    held = Held(llama)
    with serving(held, Limits(concurrency=1, queue=1)) as running, ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, CHAT, BODY)
        assert held.begun.acquire(timeout=60)
        with socket.create_connection(("127.0.0.1", running.port)) as gone:
            gone.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
            wait_for(running, "lingraft_waiting 1.0")
        wait_for(running, "lingraft_waiting 0.0")
        held.go.set()
        assert first.result()[0] == 200


def test_a_stopped_stream_stops_the_model(llama: Engine) -> None:
    class Endless(Held):
        def run(self, prompt: Any, settings: Any, emit: Any) -> None:
            def said_until_nobody_listens(piece: Any) -> bool:
                while not emit(piece):
                    time.sleep(0.01)
                return True

            self.inside.run(prompt, settings, said_until_nobody_listens)
            self.ended.release()

    endless = Endless(llama)
    with serving(endless) as running:
        stream = running.client().chat.completions.create(model="talker", messages=ASK, stream=True)
        next(iter(stream))
        assert not endless.ended.acquire(timeout=0.1)
        stream.close()
        assert endless.ended.acquire(timeout=60)


def test_metrics_count_requests_and_tokens(llama: Engine) -> None:
    with serving(llama) as running:
        running.post(CHAT, BODY)
        running.post(CHAT, b"{")
        text = running.get("/metrics")[2].decode()
    assert 'lingraft_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'lingraft_requests_total{path="/v1/chat/completions",status="400"} 1.0' in text
    assert 'lingraft_tokens_total{kind="completion",model="talker"} 4.0' in text


def test_logs_hold_prompts_only_where_asked(llama: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    for asked in (False, True):
        with serving(llama, Limits(log_prompts=asked)) as running:
            running.post(CHAT, BODY)
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
        assert lines[0]["status"] == 200 and lines[0]["completion_tokens"] == 4
        assert ("The sea is" in json.dumps(lines)) is asked


def test_a_crowd_is_answered_each_with_its_own(llama: Engine) -> None:
    def ask(number: int) -> str:
        body = json.dumps(
            {"messages": [{"role": "user", "content": f"number {number}"}], "max_tokens": 8, "temperature": 0}
        ).encode()
        status, _, answer = running.post(CHAT, body)
        assert status == 200
        return str(json.loads(answer)["choices"][0]["message"]["content"])

    with serving(llama, Limits(concurrency=4)) as running, ThreadPoolExecutor(12) as pool:
        alone = [ask(n) for n in range(6)]
        assert list(pool.map(ask, list(range(6)) * 4)) == alone * 4


def test_threads_do_not_pile_up(llama: Engine) -> None:
    with serving(llama) as running:
        for _ in range(3):
            running.post(CHAT, BODY)
        before = threading.active_count()
        for _ in range(20):
            running.post(CHAT, BODY)
        assert threading.active_count() <= before + 2


def test_a_quiet_stream_says_that_it_lives(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lingraft.serve.stream.QUIET", 0.05)
    held = Held(llama)
    body = json.dumps({"messages": ASK, "max_tokens": 4, "stream": True}).encode()
    with serving(held) as running, urlopen(Request(running.url + CHAT, body), timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next(line for line in answer if line.startswith(b":")) == b": still at work\n"
        held.go.set()
        assert b"data: [DONE]\n" in answer.readlines()


def test_a_failing_engine_is_500_and_the_server_goes_on(llama: Engine) -> None:
    class Broken(Held):
        def run(self, prompt: Any, settings: Any, emit: Any) -> None:
            raise RuntimeError("out of memory")

    with serving(Broken(llama)) as running:
        for _ in range(2):
            status, _, body = running.post(CHAT, BODY)
            assert status == 500 and error(body)["type"] == "server_error"
        assert running.get("/health")[0] == 200
