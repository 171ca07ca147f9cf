"""What a name in an adapter file says: which module of the live model, and which role the tensor plays there.

peft writes ``base_model.model.<module>.lora_A.weight`` and, when somebody saved a raw state dict instead, the same
with the adapter's name inside: ``….lora_A.default.weight``. Copies that peft adds (``original_module``,
``base_layer``) are recognised here too, so that they can be checked instead of applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

PREFIX = "base_model.model."
EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared"})
NEW_HEADS = frozenset(
    {"classifier", "score", "qa_outputs", "classification_head", "pre_classifier", "v_head", "summary"}
)
HEADS = frozenset(
    {
        "lm_head",
        "embed_out",
        "cls",
        "predictions",
        "generator_predictions",
        "vocab_projector",
        "vocab_transform",
        "vocab_layer_norm",
        "discriminator_predictions",
    }
)

Role = Literal[
    "lora_A",
    "lora_B",
    "lora_bias",
    "embedding_A",
    "embedding_B",
    "magnitude",
    "ia3",
    "tokens",
    "tokens_original",
    "value",
    "base",
    "original",
]
_NAME = r"(?:\.(?P<adapter>[^.]+))?"
_PATTERNS: tuple[tuple[Role, re.Pattern[str]], ...] = tuple(
    (role, re.compile(rf"(?P<module>.+?)\.{pattern}"))  # type: ignore[misc]
    for role, pattern in (
        ("lora_A", rf"lora_A{_NAME}\.weight"),
        ("lora_B", rf"lora_B{_NAME}\.weight"),
        ("lora_bias", rf"lora_B{_NAME}\.bias"),
        ("embedding_A", rf"lora_embedding_A{_NAME}"),
        ("embedding_B", rf"lora_embedding_B{_NAME}"),
        ("magnitude", r"lora_magnitude_vector(?:\.weight|\.(?P<adapter>[^.]+)(?:\.weight)?)?"),
        ("ia3", rf"ia3_l{_NAME}"),
        ("tokens", rf"(?:token_adapter\.)?trainable_tokens_delta{_NAME}"),
        ("tokens_original", rf"(?:token_adapter\.)?trainable_tokens_original{_NAME}"),
        ("original", r"original_module\.(?P<parameter>.+)"),
        ("base", r"(?:token_adapter\.)?base_layer\.(?P<parameter>weight|bias)"),
        ("value", r"modules_to_save\.(?P<parameter>.+)"),
        ("value", r"(?P<parameter>weight|bias)"),
    )
)


@dataclass(frozen=True)
class Part:
    """One tensor of an adapter: its key in the file, the module it belongs to, and its role there."""

    key: str
    module: str
    role: Role
    parameter: str = "weight"
    adapter: str | None = None  # the adapter's name, where the file holds it

    @property
    def target(self) -> str:
        """The live model's own name of the parameter that this tensor is about."""
        return f"{self.module}.{self.parameter}"


def parse(key: str, adapter: str = "default") -> Part | None:
    """Read one adapter key; None where it is no key that peft writes for the supported kinds.

    ``adapter`` is the name that a raw state dict carries inside its keys.
    """
    bare = key.removeprefix(PREFIX).replace(f".modules_to_save.{adapter}.", ".modules_to_save.")
    for role, pattern in _PATTERNS:
        if found := pattern.fullmatch(bare):
            groups = found.groupdict()
            return Part(key, groups["module"], role, groups.get("parameter") or "weight", groups.get("adapter"))
    return None


def embeds(module: str) -> bool:
    """Tell whether a module's path ends in an input embedding."""
    return module.rpartition(".")[2] in EMBEDDINGS


def heads(module: str) -> bool:
    """Tell whether a module is (part of) a language-model head."""
    return module.split(".", 1)[0] in HEADS


def listed(module: str, names: object) -> bool:
    """Tell whether peft would find a module in a list of names (the end of its path), or in a regular expression."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    if not isinstance(names, list | tuple | set | frozenset):
        return False
    return any(module == str(name) or module.endswith(f".{name}") for name in names)
