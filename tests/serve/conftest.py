"""Tiny models that talk: a Llama with a chat template, an adapter on it, and engines that hold both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_running import Running, serving
from tiny_models import make_llama

from lingraft.problems import Findings
from lingraft.serve.app import Limits
from lingraft.serve.choose import open_engine, options_for
from lingraft.serve.engine import Engine


def adapter_on(folder: Path, out: Path, **changes: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **changes)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
        elif "modules_to_save" in name:
            weight.data += torch.randn_like(weight) * weight.std() * 0.5
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose answers differ with what is asked."""
    return make_llama(tmp_path_factory.mktemp("serve") / "talker", tied=False, initializer_range=0.4)


@pytest.fixture(scope="session")
def tuned(talker: Path) -> Path:
    """A plain LoRA: it can be switched on a shared base."""
    return adapter_on(talker, talker.parent / "tuned")


@pytest.fixture(scope="session")
def rebuilt(talker: Path) -> Path:
    """An adapter that brings a head of its own: it cannot be switched."""
    return adapter_on(talker, talker.parent / "rebuilt", modules_to_save=["lm_head"])


@pytest.fixture(scope="session", autouse=True)
def exact() -> Iterator[None]:
    """Compute in fp32, whatever is faster here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINGRAFT_DTYPE", "float32")
        yield


def opened(kind: str, folder: Path, **more: Any) -> Engine:
    if kind == "llamacpp":
        pytest.importorskip("xllamacpp")
    options = options_for(str(folder), bits=32, threads=1, **more)
    return open_engine(options, kind, Findings())  # type: ignore[arg-type]


@pytest.fixture(scope="session", params=["llamacpp", "transformers"])
def engine(request: pytest.FixtureRequest, talker: Path, tuned: Path, rebuilt: Path) -> Iterator[Engine]:
    """Each engine with a base and two adapters."""
    made = opened(request.param, talker, adapters={"tuned": str(tuned), "rebuilt": str(rebuilt)})
    yield made
    made.close()


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Running]:
    """A server without a key."""
    with serving(engine) as running:
        yield running


@pytest.fixture(scope="session")
def llama(talker: Path) -> Iterator[Engine]:
    """llama.cpp on the base alone, where one engine is enough."""
    made = opened("llamacpp", talker)
    yield made
    made.close()


@pytest.fixture(scope="session")
def locked(llama: Engine) -> Iterator[Running]:
    """A server behind a key that takes small requests."""
    with serving(llama, Limits(keys=("secret", "other"), max_body=20_000)) as running:
        yield running
