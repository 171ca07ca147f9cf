"""Choose an engine for what a user names, and open it.

`auto` is llama.cpp on a machine without a GPU where xllamacpp is installed and can hold the model, else
transformers. vLLM is taken where it is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lingraft import models
from lingraft.problems import Findings, Refusal, refuse
from lingraft.progress import say
from lingraft.serve.engine import Engine, EngineName, Options
from lingraft.serve.suits import check
from lingraft.weights.gguf_header import is_gguf
from lingraft.weights.json_file import json_or_nothing


def open_engine(options: Options, engine: EngineName, findings: Findings) -> Engine:
    """Load a model with its adapters.

    Errors: `not-found`, everything that refuses a merge or a conversion, `does-not-fit` for what the engine lacks.
    """
    named = engine
    if engine == "auto":
        engine = default_engine(options.base)
    check(options, findings)
    if engine == "vllm":
        from lingraft.serve.vllm_engine import Vllm

        return Vllm(options)
    if engine == "llamacpp":
        try:
            return _llamacpp(options, findings)
        except Refusal as refusal:
            if named != "auto" or not (options.base / "config.json").is_file() or not _unsupported(refusal):
                raise
            say(f"llama.cpp cannot hold this model ({refusal.problems[0].message}); transformers is used instead")
    if is_gguf(options.base):
        refuse(
            "unknown-format",
            f"{options.base} is a GGUF; the transformers engine loads Hugging Face directories",
            "use --engine llamacpp, or `lingraft convert … --to hf`",
            options.base,
        )
    from lingraft.serve.live import Live

    return Live(options)


def default_engine(base: Path) -> Literal["llamacpp", "transformers"]:
    """Return what `auto` means on this machine for this model."""
    if find_spec("xllamacpp") is None and not is_gguf(base):
        return "transformers"
    if is_gguf(base):
        return "llamacpp"
    import torch

    return "transformers" if torch.cuda.is_available() else "llamacpp"


def options_for(
    model: str, base: str | None = None, adapters: Mapping[str, str] | None = None, name: str | None = None, **more: Any
) -> Options:
    """Return options from what a user typed: a model or adapter, and further adapters by name.

    An adapter's own lineage says which adapters belong below it; those that are part of the model are not repeated.
    """
    stack = models.stack(model, base)
    chains = {}
    for label, path in (adapters or {}).items():
        chain = models.stack(path, str(stack.base)).adapters
        if not chain or not models.is_adapter(models.locate(path)):
            refuse("unsupported-adapter", f"{path} holds no adapter_config.json", "give an adapter's directory", path)
        chains[label] = tuple(p for p in chain if p.resolve() not in {q.resolve() for q in stack.adapters})
    main = name or called(model)
    if main in chains:
        refuse(
            "unsupported-adapter",
            f"the model and {chains[main][-1]} would both be called {main!r}",
            "choose --adapter OTHERNAME=PATH, or another --name",
            chains[main][-1],
        )
    return Options(_whole(stack.base), stack.adapters, main, chains, **more)


def called(model: str) -> str:
    """Return the name that clients ask for: a Hub id as it is, the last part of a path."""
    path = Path(model)
    if not path.exists() and model.count("/") == 1:
        return model
    last = model.removeprefix("lingraft:") if model.startswith("lingraft:") else path.resolve().name
    return last.removesuffix(".gguf") or "model"


def _whole(base: Path) -> Path:
    """Return the one GGUF inside a folder that holds nothing else that could be loaded."""
    if base.is_dir() and not (base / "config.json").is_file():
        found = sorted(base.glob("*.gguf"))
        if len(found) == 1:
            return found[0]
        if found:
            refuse("unknown-format", f"{base} holds {len(found)} GGUF files", f"name one, such as {found[0]}", base)
    return base


def _unsupported(refusal: Refusal) -> bool:
    return {p.code for p in refusal.problems} <= {"unknown-format", "config-mismatch"}


def _llamacpp(options: Options, findings: Findings) -> Engine:
    if find_spec("xllamacpp") is None:
        refuse("does-not-fit", "the llama.cpp engine needs xllamacpp", "pip install 'lingraft[llamacpp]'")
    from lingraft.serve.gguf_cache import gguf_for
    from lingraft.serve.llamacpp import Files, LlamaCpp

    def whole(adapters: tuple[Path, ...]) -> Path:
        return gguf_for(models.Stack(options.base, adapters), options.bits, findings)

    main = whole(options.main)
    files = {options.name: Files(main, (), _tokenizer(options.base, options.main))}
    for name, chain in options.adapters.items():
        loras = _loras(options, chain, findings)
        both = (*options.main, *chain)
        tokenizer = _tokenizer(options.base, both)
        files[name] = Files(whole(both), (), tokenizer) if loras is None else Files(main, loras, tokenizer)
    draft = None if options.draft is None else gguf_for(models.Stack(_whole(options.draft)), options.bits, findings)
    if draft is not None:
        _same_vocabulary(main, draft)
    return LlamaCpp(files, options, generation_config(options.base), draft)


def _loras(options: Options, chain: tuple[Path, ...], findings: Findings) -> tuple[Path, ...] | None:
    """Return GGUF adapters where the shared base can stay as it is; None where the adapter changes more than that."""
    from lingraft.serve.loras import loras_for

    return None if is_gguf(options.base) else loras_for(options.base, options.main, chain, findings)


def _tokenizer(base: Path, adapters: tuple[Path, ...]) -> Any:
    """Return the tokenizer that a model was trained with; None for a GGUF alone, which llama.cpp cuts for."""
    home = next((path for path in reversed(adapters) if models.has_tokenizer(path)), base)
    return None if is_gguf(home) else models.load_tokenizer(home)


def _same_vocabulary(model: Path, draft: Path) -> None:
    from lingraft.serve.gguf_facts import read_facts

    if read_facts(model).vocabulary != read_facts(draft).vocabulary:
        refuse(
            "vocab-mismatch",
            f"the draft {draft} has another vocabulary than {model}",
            "choose a draft with the same tokenizer, or leave --draft out",
            draft,
        )


def generation_config(base: Path) -> dict[str, Any]:
    """Return the fields of a model's generation_config.json; nothing where there is none."""
    return json_or_nothing(base / "generation_config.json")
