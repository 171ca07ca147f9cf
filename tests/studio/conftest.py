"""A studio on a free port of loopback, a run folder, weights to work on, and a real Chromium that looks at them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, FLAGS, PATIENCE
from studio_pages import Seen, Studio
from tiny_models import make_llama


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untied Llama."""
    return make_llama(tmp_path_factory.mktemp("studio") / "base", tied=False)


@pytest.fixture(scope="session")
def adapter(base: Path) -> Path:
    """A LoRA that was changed by hand as training would, saved by peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


@pytest.fixture(scope="session")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as a run leaves it while it is in its second stage."""
    folder = tmp_path_factory.mktemp("runs") / "long-wall"
    make_llama(folder / "vocab", tied=False, rows=420)
    for name in ("vocab", "pretrain"):
        (folder / "work" / name).mkdir(parents=True)
    receipt = {"base": {"path": str(base)}}
    (folder / "vocab" / "manifest.json").write_text(json.dumps(receipt))
    result = {"new_pieces": 20, "tokens_per_character": {"before": 1.75, "after": 1.25}}
    stages = {"vocab": {"seconds": 12.5, "key": "a", "result": result}, "pretrain": {"begun": "b", "seconds": 0}}
    (folder / "manifest.json").write_text(json.dumps({"stages": stages, "seconds": 80}))
    log = [
        {"step": i, "loss": 3 / (1 + i / 30), "learning_rate": 1e-3, "tokens": i * 512, "seconds": i}
        for i in range(1, 31)
    ]
    (folder / "work" / "pretrain" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return folder


@pytest.fixture(scope="session")
def studio(run: Path, base: Path, adapter: Path) -> Iterator[Studio]:
    """The real application behind a real server, in a thread."""
    pytest.importorskip("gradio", reason="the extra `studio` is not installed")
    import uvicorn

    from lingraft.studio.run import application, listen

    for name in ("LANG", "LC_ALL", "LC_MESSAGES", "LINGRAFT_LANG"):
        os.environ.pop(name, None)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(run.parent), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    _await(address)
    yield Studio(address, run.parent, base, adapter)
    server.should_exit = True
    thread.join(20)


def _await(address: str) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(address, timeout=60).read()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any, studio: Studio, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A tab that shows the studio; at its end nothing left loopback and no error was written."""
    width, height, locale = getattr(request, "param", (1280, 900, "en-GB"))
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    seen = Seen()
    page.on("request", lambda r: seen.requests.append(r.url))
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: seen.errors.append(str(e)))
    page.goto(studio.address)
    page.wait_for_selector("#run-view .run")
    yield page
    context.close()
    outside = [url for url in seen.requests if not re.match(rf"{re.escape(studio.address)}|data:|blob:", url)]
    assert not outside
    assert not seen.errors
