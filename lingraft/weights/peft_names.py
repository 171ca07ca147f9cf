"""The names of a PeftModel's full state, which holds base and adapter: told apart without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

LIVE = re.compile(r".+\.(?:lora_A|lora_embedding_A|modules_to_save|ia3_l|trainable_tokens_delta)\.([^.]+)(?:\..+)?")


def is_peft_state(names: Iterable[str]) -> bool:
    """Tell whether tensors are a PeftModel's full state: the base, and an adapter under its name in every key."""
    return any(LIVE.fullmatch(name) and ".base_layer." not in name for name in names)
