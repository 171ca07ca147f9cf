"""The whole configuration: what a recipe may contain, checked and refused key by key.

`recipe_file` reads it from YAML; `recipe_keys` checks what only the libraries can tell. Everything that transformers'
TrainingArguments already names stays theirs: `trainer:` is handed on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from lingraft.problems import Refusal
from lingraft.sizes import parse_size

SHIPPED = "lingraft:"  # a path that begins so names a file shipped with the package: lingraft:zh.jsonl
STAGES = ("vocab", "pretrain", "sft", "prefer", "classify", "merge", "verify", "evaluate", "export")


class Block(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_technique(item: Any) -> Any:
    """Turn ``{kind: lora, r: 64}`` into the technique's value, refusing unknown kinds and keys."""
    from lingraft.train.techniques import TABLE

    if isinstance(item, str):
        item = {"kind": item}
    if isinstance(item, BaseModel):
        return item
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is no technique: write its name, or {{kind: lora, r: 64}}")
    kind = item.get("kind")
    target = TABLE.get(str(kind), str(kind))
    if ":" not in target:
        near = difflib.get_close_matches(str(kind), TABLE, 1)
        raise ValueError(
            f"kind: {kind!r} is not a technique"
            + (f"; did you mean {near[0]!r}?" if near else ".")
            + f" Known: {', '.join(sorted(TABLE))}; your own is `package.module:Class`"
        )
    module, _, name = target.partition(":")
    try:
        technique = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"kind: {kind!r} cannot be imported: {error}") from error
    if not hasattr(technique, "model_validate"):
        raise ValueError(f"kind: {kind!r} is no technique: a class of pydantic's with the three hooks is due")
    return technique.model_validate(dict(item))


Technique = Annotated[Any, BeforeValidator(parse_technique)]


class Mixed(Block):
    """One source of a mixture, drawn in proportion to its weight."""

    path: str
    weight: float = Field(gt=0, allow_inf_nan=False)


class Vocab(Block):
    """How the vocabulary grows: from a corpus, or by uniting a ready-made tokenizer."""

    corpus: str | list[str] | None = None
    size: int | Literal["auto"] = "auto"  # new pieces
    init: str = "pieces"
    unite: str | None = None
    all_pieces: bool = False

    @field_validator("size")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{value} new pieces are none: write how many to add, or auto")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Vocab:
        if (self.corpus is None) == (self.unite is None):
            raise ValueError("give either `corpus` (text to learn pieces from) or `unite` (a tokenizer), not both")
        return self


class Data(Block):
    """Where a stage's examples come from and how they are prepared."""

    data: str | list[str] | None = None
    mix: list[Mixed] | None = None
    clean: list[dict[str, Any] | str] = []
    augment: list[dict[str, Any] | str] = []
    length: int = Field(512, ge=8)
    validation: float | str | None = None  # a share of the rows, or a path

    @field_validator("validation")
    @classmethod
    def _share_or_path(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(f"{value:g} is no share of the rows: write one between 0 and 1, such as 0.02, or a path")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if bool(self.data) == bool(self.mix):
            raise ValueError("give either `data` (a path or several) or `mix` ([{path, weight}]), not both")
        return self


class Training(Data):
    """A training stage: data, techniques, and what goes to transformers.TrainingArguments as it is."""

    techniques: list[Technique] = Field(default_factory=lambda: [{"kind": "lora"}], validate_default=True)
    trainer: dict[str, Any] = {}
    minutes: float | None = Field(None, gt=0)  # scale the number of steps to this time, by measured speed
    continue_: str | None = Field(None, alias="continue")
    samples: int = Field(2, ge=0)  # validation prompts answered, and written down, at each evaluation

    @model_validator(mode="after")
    def _one_result(self) -> Training:
        deciding = [t.kind for t in self.techniques if _leaves(t) != "nothing"]
        if len(deciding) > 1:
            raise ValueError(f"techniques: {' and '.join(deciding)} each decide what is trained; keep one a stage")
        if self.continue_ is not None and any(_leaves(t) == "model" for t in self.techniques):
            raise ValueError(f"continue goes on training an adapter; {deciding[0]} trains the model: drop one of them")
        return self

    @property
    def leaves(self) -> str:
        """What the stage leaves: an ``adapter`` to merge, one that only works ``live``, or a whole ``model``."""
        return next((found for t in self.techniques if (found := _leaves(t)) != "nothing"), "adapter")


class Pretrain(Training):
    """Continued pre-training on plain text."""


class Sft(Training):
    """Instruction tuning: the loss is on the answers only."""

    template: str = "auto"  # the model's own, else alpaca
    turns: Literal["all", "last"] = "all"


class Reward(Block):
    """What an answer is worth to GRPO: a name from train/rewards.py, or ``package.module:function``."""

    kind: str
    weight: float = 1.0


class Prefer(Training):
    """Training on preferences, through trl; GRPO samples answers of its own and scores them by ``rewards``."""

    method: Literal["dpo", "kto", "orpo", "reward", "grpo"] = "dpo"
    template: str = "auto"
    rewards: list[Reward] = []

    @model_validator(mode="after")
    def _rewards_for_grpo(self) -> Prefer:
        if (self.method == "grpo") != bool(self.rewards):
            raise ValueError(
                "rewards: grpo needs them (contains, number, han, short, or package.module:function), "
                "and no other method takes them"
            )
        return self


class Classify(Training):
    """Sequence classification with an encoder or a decoder."""

    class_weights: Literal["none", "balanced"] = "none"


class Merge(Block):
    """How the adapters go into the base."""

    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"
    shard_size: str = "5GB"
    onto: Literal["original", "dequantised"] = "original"
    tied: Literal["auto", "tie", "untie"] = "auto"

    @field_validator("shard_size")
    @classmethod
    def _size(cls, value: str) -> str:
        parse_size(value)
        return value


class Evaluate(Block):
    """What base and result are measured on, side by side."""

    text: str | None = None
    english: str | None = None
    tasks: list[str] = []
    prompts: list[str] = []
    samples: bool = True  # draw answers beside the greedy ones
    shots: int = Field(0, ge=0)
    limit: int | None = Field(None, gt=0)


class Export(Block):
    """One file or folder for another runtime; ``data`` is text to calibrate on (awq, gptq)."""

    to: Literal["gguf", "gguf-adapter", "bnb", "awq", "gptq"] = "gguf"
    type: str | None = None  # a GGUF's is Q8_0 then
    data: list[str] = []


class Distributed(Block):
    """How training is spread over the processes of a launcher; `config` is laid over DeepSpeed's own settings.

    ``zero2``, ``zero3`` and ``fsdp2`` are understood as kinds too.
    """

    kind: Literal["ddp", "deepspeed", "fsdp"] = "ddp"
    stage: Literal[2, 3] = 2  # of ZeRO: 2 splits gradients and optimizer state, 3 the weights too
    config: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        known = {"zero2": ("deepspeed", 2), "zero3": ("deepspeed", 3), "fsdp2": ("fsdp", 2)}
        if isinstance(value, Mapping) and value.get("kind") in known:
            kind, stage = known[value["kind"]]
            return {"stage": stage, **value, "kind": kind}
        return value

    @model_validator(mode="after")
    def _whose_settings(self) -> Distributed:
        if self.config and self.kind != "deepspeed":
            raise ValueError("config holds DeepSpeed's settings; it goes with kind: deepspeed")
        return self


class Recipe(Block):
    """Everything one run needs; `base` of a stage is the output of the one before."""

    name: str = Field(pattern=r"^[\w.\-]+$")
    base: str = Field(min_length=1)
    out: str = Field(min_length=1)
    seed: int = 42
    vocab: Vocab | None = None
    pretrain: Pretrain | None = None
    sft: Sft | None = None
    prefer: Prefer | None = None
    classify: Classify | None = None
    merge: Merge = Merge()
    evaluate: Evaluate | None = None
    export: list[Export] = []
    distributed: Distributed | None = None

    @field_validator("vocab", "pretrain", "sft", "prefer", "classify", "evaluate", "distributed", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("this block is empty: fill it in, or remove the key")
        return value

    @model_validator(mode="after")
    def _something(self) -> Recipe:
        if not (self.export or any(getattr(self, name) for name in (*STAGES[:5], "evaluate"))):
            raise ValueError(f"nothing to do: add a block, one or more of {', '.join(STAGES[:5])}, evaluate, export")
        return self

    @model_validator(mode="after")
    def _chain(self) -> Recipe:
        chain = [name for name in ("pretrain", "sft", "prefer", "classify") if getattr(self, name) is not None]
        for name, later in pairwise(chain):
            if getattr(self, name).leaves == "live":
                raise ValueError(
                    f"{later} cannot stand on {name}: what {name} leaves is not merged, it only works "
                    "beside its base. Use lora there, or train the stages in two recipes"
                )
        return self

    def as_json(self) -> dict[str, Any]:
        """Return the resolved recipe, as a manifest records it and as `load` accepts it again."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _leaves(technique: Any) -> str:
    return str(getattr(technique, "leaves", "nothing"))


def parse(raw: Mapping[str, Any], path: Path | None = None) -> Recipe:
    """Check a recipe's keys and values; every problem is told with its path in the recipe."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        from lingraft.recipe_wrong import problems

        raise Refusal(*problems(error, raw, Recipe, path)) from None


def resolve(path: str) -> Path:
    """Return where a recipe's path lies; ``lingraft:name`` lies in the package's own text folder."""
    if path.startswith(SHIPPED):
        return Path(__file__).parent / "text" / path.removeprefix(SHIPPED)
    return Path(path).expanduser()
