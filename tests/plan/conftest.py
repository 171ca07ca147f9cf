"""Plans made once a session: each traces a dozen updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LLAMA2_7B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def llama2_7b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing but Llama-2-7B's config.json."""
    import json

    folder = tmp_path_factory.mktemp("llama2-7b")
    (folder / "config.json").write_text(json.dumps(LLAMA2_7B), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def on_a_24gb_card(llama2_7b: Path) -> dict[str, Any]:
    """Llama-2-7B on an RTX 4090, at length 512."""
    from lingraft.plan.run import plan

    return plan(llama2_7b, hardware="RTX 4090", length=512)
