"""transformers as an engine: one base in memory, adapters live on it, switched by name and never merged in.

An adapter that is more than low-rank matrices on linear layers (new rows, saved modules, prompts) changes the base
itself: it is given a copy of the model of its own. One answer is made at a time; others wait their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft import models
from lingraft.problems import refuse
from lingraft.serve.engine import DEFAULT_CONTEXT, BadRequest, Emit, Message, Options, Prompt, Settings, iterate
from lingraft.serve.prompts import encode, fits
from lingraft.serve.speak import speak


@dataclass(frozen=True)
class Role:
    """What a model name stands for: a model, the adapters switched on in it, and the tokenizer it was made with."""

    model: Any
    tokenizer: Any
    active: tuple[str, ...] = ()
    tuner: Any = None  # peft's model of several adapters, where there is one


class Live:
    """A base and its adapters in transformers and peft."""

    kind = "transformers"

    def __init__(self, options: Options) -> None:
        self.options = options
        self._one = threading.Lock()  # adapters are switched in place
        self._more = _loading(options)
        base, tokenizer = self._load(options.main)
        self._draft = models.load_base(options.draft) if options.draft else None
        self._roles = {options.name: Role(base, tokenizer)}
        self._switchable(base, tokenizer, {n: a for n, a in options.adapters.items() if all(map(is_low_rank, a))})
        for name, adapters in options.adapters.items():
            if name not in self._roles:
                self._roles[name] = Role(*self._load((*options.main, *adapters)))
        trained = getattr(base.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
        self.context = options.context or min(trained, max(DEFAULT_CONTEXT, 1))

    @property
    def names(self) -> tuple[str, ...]:
        """The models that can be asked for."""
        return (self.options.name, *self.options.adapters)

    @property
    def has_template(self) -> bool:
        """Tell whether the model knows what a conversation is."""
        return bool(getattr(self._roles[self.names[0]].tokenizer, "chat_template", None))

    def run(self, prompt: Prompt, settings: Settings, emit: Emit) -> None:
        """Answer in this thread, when it is this request's turn."""
        role = self._roles[settings.model or self.names[0]]
        ids = encode(role.tokenizer, prompt)
        fits(len(ids), settings, self.context)
        vocabulary = role.model.get_input_embeddings().weight.shape[0]
        if max(ids) >= vocabulary or min(ids) < 0:
            raise BadRequest(f"a prompt's ids are from 0 to {vocabulary - 1}", "prompt")
        room = self.context - len(ids)
        with self._one:
            _switch(role)
            speak(role.model, role.tokenizer, ids, settings, min(settings.max_tokens or room, room), self._draft, emit)

    def generate(self, messages: Sequence[Message], settings: Settings) -> Iterator[str]:
        """Yield an answer piece by piece; closing the iterator stops the model."""
        return iterate(lambda emit: self.run(messages, settings, emit))

    def embed(self, texts: Sequence[str], model: str | None = None) -> tuple[list[list[float]], int]:
        """Return the mean of the last layer over a text's tokens, at length 1."""
        import torch

        role = self._roles[model or self.names[0]]
        vectors, used = [], 0
        with self._one, torch.inference_mode():
            _switch(role)
            for text in texts:
                ids = encode(role.tokenizer, text)
                if not 0 < len(ids) <= self.context:
                    raise BadRequest(f"an input has {len(ids)} tokens; it may have 1 to {self.context}", "input")
                tokens = torch.tensor([ids], device=role.model.device)
                last = role.model(tokens, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
                vectors.append(torch.nn.functional.normalize(last[0].float().mean(0), dim=0).tolist())
                used += len(ids)
        return vectors, used

    def close(self) -> None:
        """Give the memory back."""
        self._roles.clear()

    def _load(self, adapters: tuple[Path, ...]) -> tuple[Any, Any]:
        model: Any = models.load_base(self.options.base, **self._more)
        for adapter in adapters:
            model = models.attach(model, adapter)
        home = next((p for p in reversed(adapters) if models.has_tokenizer(p)), self.options.base)
        return model.eval(), models.load_tokenizer(home)

    def _switchable(self, base: Any, tokenizer: Any, adapters: Mapping[str, tuple[Path, ...]]) -> None:
        """Put adapters on the base, live; those that several names share are loaded once."""
        from peft import PeftModel

        tuner: Any = None
        for path in dict.fromkeys(p for chain in adapters.values() for p in chain):
            try:
                if tuner is None:
                    tuner = PeftModel.from_pretrained(base, path, adapter_name=_label(path))
                else:
                    tuner.load_adapter(path, _label(path))
            except (ValueError, RuntimeError, KeyError, OSError) as error:
                refuse(
                    "base-mismatch",
                    f"{path} does not fit its base: {str(error).splitlines()[0]}",
                    "run `lingraft verify ADAPTER --base BASE`",
                    path,
                )
        if tuner is None:
            return
        tuner.eval()
        self._roles[self.options.name] = Role(base, tokenizer, (), tuner)
        for name, chain in adapters.items():
            home = next((p for p in reversed(chain) if models.has_tokenizer(p)), None)
            own = models.load_tokenizer(home) if home else tokenizer
            self._roles[name] = Role(base, own, tuple(map(_label, chain)), tuner)


def _label(path: Path) -> str:
    """Name an adapter inside peft: its path, without the dots that module names cannot hold."""
    return str(path.resolve()).replace(".", "_")


def _switch(role: Role) -> None:
    if role.tuner is None:
        return
    if role.active:
        role.tuner.base_model.enable_adapter_layers()
        role.tuner.base_model.set_adapter(list(role.active))
    else:
        role.tuner.base_model.disable_adapter_layers()


def is_low_rank(adapter: Path) -> bool:
    """Tell whether an adapter is low-rank matrices on linear layers and nothing else, so that it can be switched."""
    from lingraft.merge.lineage import home
    from lingraft.weights.hf import read_json

    config = read_json(home(adapter) / "adapter_config.json")
    more = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "use_dora")
    embeds = {"embed_tokens", "lm_head", "wte"} & set(config.get("target_modules") or ())
    return (
        config.get("peft_type") == "LORA"
        and not embeds
        and not any(config.get(key) for key in more)
        and config.get("bias", "none") == "none"
    )


def _loading(options: Options) -> dict[str, Any]:
    """Return what `from_pretrained` is told beside the path: bits a weight, stretched positions."""
    more: dict[str, Any] = {}
    if options.bits in (4, 8):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            refuse(
                "does-not-fit",
                f"{options.bits} bits need bitsandbytes with the transformers engine",
                "pip install 'lingraft[bitsandbytes]', or leave --bits out",
            )
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = (
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
            if options.bits == 4
            else BitsAndBytesConfig(load_in_8bit=True)
        )
    if options.bits == 32:
        import torch

        more["dtype"] = torch.float32
    if options.context is not None:
        stretched = stretch(options.base, options.context, options.rope)
        more |= {"config": stretched} if stretched is not None else {}
    return more


def stretch(base: Path, context: int, rope: str) -> Any:
    """Return a config whose positions reach ``context``, or None where the model's own reach far enough."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    trained = getattr(config, "max_position_embeddings", None)
    own = getattr(config, "rope_parameters", None)
    if not trained or not own or context <= trained:
        return None
    if own.get("rope_type", "default") != "default":
        refuse(
            "config-mismatch",
            f"{base} stretches its positions already ({own['rope_type']}), to {trained}",
            f"choose a --context up to {trained}",
            base,
        )
    factor = context / trained
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if rope == "ntk":
        config.rope_parameters = {**own, "rope_theta": own["rope_theta"] * factor ** (width / (width - 2))}
    else:
        config.rope_parameters = {
            **own,
            "rope_type": rope,
            "factor": factor,
            "original_max_position_embeddings": trained,
        }
    config.max_position_embeddings = context
    return config
