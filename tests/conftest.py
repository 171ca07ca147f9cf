"""Tiny real models and tokenizers, made once a session; the folder of larger test data, where there is one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: one thread is faster for tiny models, and LAPACK's last bits depend on how many there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from tiny_models import make_llama, make_tokenizer  # noqa: F401 (others take the latter from here)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what lingraft caches in a folder of the tests; commands that a test starts do so, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINGRAFT_CACHE", str(shared(tmp_path_factory) / "cache"))
        yield


def shared(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all of xdist's workers have; without them, the session's own."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def real_model(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, the quickstart's base, where it can be fetched; one worker does it for all."""
    from lingraft.models import EMBEDDED, locate
    from lingraft.problems import Refusal

    with (shared(tmp_path_factory) / "real-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return locate(EMBEDDED)
        except Refusal as refusal:
            pytest.skip(f"SmolLM2 cannot be fetched here: {refusal}")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder named by LINGRAFT_TEST_DATA; tests that need it skip where it is absent."""
    folder = os.environ.get("LINGRAFT_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LINGRAFT_TEST_DATA names no folder: larger test data is not on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Llama with a byte-level BPE tokenizer of 400 pieces."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-tied")


@pytest.fixture(scope="session")
def tiny_untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is a tensor of its own."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-untied", tied=False)
