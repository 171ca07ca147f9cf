"""Find and load a model by what a user calls it: a local path, a Hub id, or an adapter whose base is known.

Nothing here trusts code that comes with a model; `trust_remote_code` is never set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingraft.problems import Refusal, refuse
from lingraft.weights.kinds import TOKENIZER_FILES, snapshot_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "lingraft:SmolLM2-135M-Instruct"  # the quickstart's base
WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt", "*.jinja", "*.gguf", "*.pth")


@dataclass(frozen=True)
class Stack:
    """A base and the adapters that go into it, in order."""

    base: Path
    adapters: tuple[Path, ...] = ()


def locate(name: str | Path) -> Path:
    """Return the local path of a model or adapter; a Hub id is downloaded into the Hub's cache.

    A folder of that cache itself (models--owner--name) stands for the snapshot that its `main` names.
    HF_ENDPOINT and HF_HUB_OFFLINE are honoured by huggingface_hub; an id that begins with ``modelscope:`` goes to
    ModelScope. Error: `not-found`.
    """
    path = Path(name).expanduser()
    if path.exists():
        return snapshot_of(path)
    text = str(name)
    if text == EMBEDDED:
        from lingraft.quickstart.base import fetch

        return fetch()
    if text.startswith("modelscope:"):
        return _from_modelscope(text.removeprefix("modelscope:"))
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        refuse("not-found", f"{text} does not exist", "check the path; a Hub id has the form owner/name", text)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(WEIGHTS)))
    except Exception as error:  # the Hub's client raises many kinds: no network, no such repository, gated …
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        refuse(
            "not-found",
            f"{text} is no local path, and the Hub did not give it: {reason}",
            "check the id and the network (HF_ENDPOINT chooses a mirror), or give a local directory",
            text,
        )


def _from_modelscope(name: str) -> Path:
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        refuse("not-found", f"modelscope:{name} needs the ModelScope client", "pip install modelscope", name)
    try:
        return Path(snapshot_download(name))
    except Exception as error:
        refuse("not-found", f"ModelScope did not give {name}: {error}", "check the id and the network", name)


def is_adapter(path: Path) -> bool:
    """Tell whether a directory is a peft adapter."""
    return (path / "adapter_config.json").is_file()


def stack(name: str | Path, base: str | None = None, adapters: Sequence[str | Path] = ()) -> Stack:
    """Return base and adapters of what a user named: a model, or an adapter directory.

    The base of an adapter is ``--base``, else what its lingraft.json says, else its adapter_config.json; adapters
    that were live below it come first. Errors: `not-found`, `base-mismatch` where no base is known.
    """
    path = locate(name)
    more = tuple(locate(a) for a in adapters)
    if not is_adapter(path):
        return Stack(path, more)
    from lingraft.merge.lineage import read_lineage
    from lingraft.weights.hf import read_json

    lineage = read_lineage(path)
    below: tuple[Path, ...] = ()
    if lineage is not None:
        below = tuple(_beside(path, Path(item.path)) for item in lineage.adapters)
        base = base or str(_beside(path, Path(lineage.base_path)))
    base = base or read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        refuse("base-mismatch", f"{path} does not say which base it was trained on", "add --base MODEL", path)
    return Stack(locate(base), (*below, path, *more))


def label(found: Stack) -> str:
    """Name a base with its adapters."""
    return " + ".join([found.base.name, *(adapter.name for adapter in found.adapters)])


def _beside(adapter: Path, recorded: Path) -> Path:
    """Return a recorded path; where a whole run folder has moved, the folder of that name beside the adapter."""
    moved = adapter.resolve().parent / recorded.name
    return moved if not recorded.exists() and moved.exists() else recorded


def load(
    name: str | Path,
    base: str | None = None,
    adapters: Sequence[str | Path] = (),
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model with its adapters live (peft) and its tokenizer, in eval mode.

    ``dtype`` None takes the fastest of fp32 and bf16 on this machine. Errors: `not-found`, `config-mismatch`
    (not a causal language model), `tokenizer-mismatch`.
    """
    found = stack(name, base, adapters)
    changed = config_changes(found.adapters)
    model = load_base(found.base, dtype, **({"config": config_for(found.base, changed)} if changed else {}))
    for adapter in found.adapters:
        model = attach(model, adapter)
    tokenizer_home = next((p for p in reversed(found.adapters) if has_tokenizer(p)), found.base)
    return model.eval(), load_tokenizer(tokenizer_home)


def load_base(path: Path, dtype: torch.dtype | None = None, **more: Any) -> PreTrainedModel:
    """Load a causal language model from a local directory; ``more`` goes to `from_pretrained`."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    require_causal(path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or fastest_dtype(), **more)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        refuse(
            "config-mismatch",
            f"{path} cannot be loaded as a causal language model: {_first_line(error)}",
            "run `lingraft inspect` on it",
            path,
        )
    return model


def config_changes(adapters: Sequence[Path]) -> dict[str, Any]:
    """Return the fields of the base's config that adapters were trained with (a longer context), by their lineage."""
    from lingraft.merge.lineage import read_lineage

    return {k: v for adapter in adapters if (found := read_lineage(adapter)) for k, v in found.config.items()}


def config_for(base: Path, changes: Mapping[str, Any]) -> Any:
    """Return a base's config with some fields changed. Raises what transformers raises for a config it refuses."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    return type(config).from_dict({**config.to_dict(), **changes}) if changes else config


def attach(model: Any, adapter: Path) -> Any:
    """Merge one peft adapter into a model in memory, growing its rows first where the adapter has more.

    What cannot be merged (prompts, prefixes, bottleneck networks) is put on top and stays live.
    The addition happens in the model's dtype, so load in float32 where exactness matters.
    """
    from peft import PeftModel

    from lingraft.merge.lineage import adapter_rows
    from lingraft.train import bottlenecks

    if (config := bottlenecks.config_of(adapter)) is not None:
        return bottlenecks.read(model, adapter, config)
    rows = adapter_rows(adapter)
    if rows is not None and rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        live = PeftModel.from_pretrained(model, adapter)
        return live if live.active_peft_config.is_prompt_learning else live.merge_and_unload()
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        refuse(
            "base-mismatch",
            f"{adapter} does not fit its base: {_first_line(error)}",
            "run `lingraft verify ADAPTER --base BASE`",
            adapter,
        )


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model or adapter directory. Error: `tokenizer-mismatch` where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except Exception as error:  # tokenizers raises bare Exception for broken files
        refuse(
            "tokenizer-mismatch",
            f"{path} has no tokenizer that can be loaded: {_first_line(error)}",
            "copy tokenizer.json (or tokenizer.model) and tokenizer_config.json into it",
            path,
        )


def has_tokenizer(path: Path) -> bool:
    """Tell whether a directory holds a tokenizer of its own."""
    return any((path / name).is_file() for name in TOKENIZER_FILES)


def require_causal(path: Path) -> None:
    """Refuse (`config-mismatch`) a directory whose config names no causal language model."""
    from lingraft.weights.hf import read_config

    if not (path / "config.json").is_file():
        refuse("config-mismatch", f"{path} has no config.json", "run `lingraft adopt` to write one", path)
    config = read_config(path)
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architectures = config.get("architectures") or []
    if architectures and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        refuse(
            "config-mismatch",
            f"{path} is {architectures[0]}, not a causal language model",
            "choose a model whose architecture ends in ForCausalLM",
            path,
        )
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        refuse(
            "config-mismatch",
            f"{path}: transformers has no causal language model of model_type {kind!r}",
            "choose another base, or update transformers",
            path,
        )
    try:
        AutoConfig.from_pretrained(path)
    except Refusal:
        raise
    except Exception as error:
        refuse(
            "config-mismatch",
            f"{path / 'config.json'} is refused by transformers: {_first_line(error)}",
            "restore it from its source, or run `lingraft adopt`",
            path,
        )


def fastest_dtype() -> torch.dtype:
    """Return float32 or bfloat16, whichever this machine multiplies faster.

    On a CPU without instructions of its own for it, a bf16 product runs about a hundred times slower than fp32,
    whatever config.json says. LINGRAFT_DTYPE overrides.
    """
    import torch

    from lingraft import accelerator

    named = os.environ.get("LINGRAFT_DTYPE")
    if named in ("float32", "bfloat16", "float16"):
        return getattr(torch, named)  # type: ignore[no-any-return]
    device = accelerator.kind()
    if device != "cpu":
        return accelerator.fast_dtype(device)
    return torch.bfloat16 if _multiplies_bf16() else torch.float32


def _multiplies_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 faster than fp32: x86 says so itself, any other is timed.

    What a CPU says does not change with what else runs on it, so a resumed training finds the same answer.
    """
    import torch

    able = torch.cpu.get_capabilities()
    if able.get("architecture") == "x86_64":
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return _seconds(torch.bfloat16) * 1.2 < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    import time

    import torch

    a, b = torch.ones(128, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
    torch.matmul(a, b)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - started)
    return best


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
