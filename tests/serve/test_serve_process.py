"""`lingraft serve` as a process: it says where it listens, refuses to be reached by others, and ends politely."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lingraft.cli import app

COMMAND = [sys.executable, "-m", "lingraft", "serve"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_are_let_in_with_a_key_alone(talker: Path, host: str) -> None:
    result = CliRunner().invoke(app, ["serve", str(talker), "--host", host, "--port", "0"])
    assert result.exit_code == 1 and "there is no API key" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--engine", "magic"],
        ["--bits", "3"],
        ["--max-body", "huge"],
        ["--port", "99999"],
        ["--adapter", "=x"],
        ["--rope", "twist"],
        ["--concurrency", "0"],
    ],
)
def test_wrong_usage_is_exit_2(talker: Path, wrong: list[str]) -> None:
    assert CliRunner().invoke(app, ["serve", str(talker), *wrong]).exit_code == 2


def test_a_taken_port_is_told(talker: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", str(talker), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1 and "cannot be opened" in result.stderr


@pytest.mark.parametrize("missing", ["./nowhere", "../../etc"])
def test_a_model_that_is_not_there_is_told(missing: str) -> None:
    assert CliRunner().invoke(app, ["serve", missing, "--port", "0"]).exit_code == 1


@pytest.mark.slow
def test_sigterm_lets_the_running_answer_end(talker: Path) -> None:
    from openai import OpenAI

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LINGRAFT_API_KEY": "secret"}
    command = [*COMMAND, str(talker), "--port", "0", "--threads", "1", "--engine", "transformers"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
            break
    rest = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    rest.start()
    client: Any = OpenAI(base_url=found[0], api_key="secret", max_retries=0)  # type: ignore[index]
    stream = client.chat.completions.create(
        model="talker", stream=True, temperature=0, max_tokens=200, messages=[{"role": "user", "content": "The sea is"}]
    )
    pieces = [next(iter(stream))]
    process.send_signal(signal.SIGTERM)
    pieces += list(stream)
    assert pieces[-1].choices[0].finish_reason in ("stop", "length") and len(pieces) > 20
    assert process.wait(60) == 0
    rest.join(60)
    assert "no record that it was ever verified" in "".join(lines)
    assert json.loads(lines[-1])["status"] == 200
