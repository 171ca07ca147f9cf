"""LoRA and its kin through peft: low-rank updates beside frozen linear layers, and the rows a vocabulary added.

LoRA: Hu et al. 2021, arXiv:2106.09685. rsLoRA scales by alpha/√r: Kalajdzievski 2023, arXiv:2312.03732. DoRA trains
magnitude and direction apart: Liu et al. 2024, arXiv:2402.09353. PiSSA starts from the principal singular vectors of
the weights and trains beside what is left of them: Meng et al. 2024, arXiv:2404.02948.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.problems import Findings, Refusal, refuse
from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.targets import ALL, resolve, wrapped_by_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


PISSA_START = "pissa-start"  # folder below a stage's work: the adapter before training


class Lora(BaseModel):
    """Train a rank-``r`` update of each target; ``rows: new`` also trains the rows that the vocabulary stage added.

    ``save`` trains whole modules in full (embedding, head), kept tied where the model ties them, unless
    ``tied: untie``. On a tied model the new rows are one set of values for embedding and head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "adapter"

    kind: Literal["lora", "rslora", "dora", "pissa"] = "lora"
    r: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)  # None: twice r
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = ALL
    save: list[str] = []
    tied: Literal["keep", "untie"] = "keep"
    rows: Literal["new", "none"] = "none"
    rows_rate: float = Field(1.0, gt=0)  # learning rate of rows and saved modules, as a multiple of the rest's

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Wrap the model with peft. Error: `recipe-invalid` for targets, modules or rows that do not exist."""
        from peft import LoraConfig, PeftModel

        if isinstance(model, PeftModel):
            refuse(
                "recipe-invalid",
                f"techniques: {self.kind} stands beside another adapter technique",
                "keep one adapter technique a stage",
            )
        causal: Any = model
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha or 2 * self.r,
            lora_dropout=self.dropout,
            target_modules=resolve(model, self.targets),
            use_rslora=self.kind == "rslora",
            use_dora=self.kind == "dora",
            modules_to_save=self._saved(model) or None,
            trainable_token_indices=new_rows(causal, setting) if self.rows == "new" else None,
            ensure_weight_tying=bool(self.save) and self.tied == "keep" and is_tied(causal),
            task_type=task_type(causal),
        )
        if self.kind == "pissa":
            config.init_lora_weights = "pissa_niter_4"
        wrapped: Any = wrapped_by_peft(causal, config, self.kind)
        if self.kind == "pissa":
            _keep_start(wrapped, setting.work / PISSA_START)
        return wrapped  # type: ignore[no-any-return]

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set a learning rate fit for low-rank updates, and the rows' own."""
        rates = (*tuning.rates, (r"trainable_tokens|modules_to_save", self.rows_rate))
        return replace(tuning, arguments={"learning_rate": 1e-3, **tuning.arguments}, rates=rates)

    def fits(self, model: nn.Module) -> None:
        """Refuse (`recipe-invalid`) targets and modules that this model has not."""
        found = Findings()
        looks: tuple[Callable[[], Any], ...] = (partial(resolve, model, self.targets), partial(self._saved, model))
        for look in looks:
            try:
                look()
            except Refusal as refusal:
                found.absorb(refusal)
        found.settle()

    def _saved(self, model: nn.Module) -> list[str]:
        names = [name for name, _ in model.named_modules()]
        for wanted in self.save:
            if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
                leaves = sorted({n.rpartition(".")[2] for n in names if n and not n.rpartition(".")[2].isdigit()})
                refuse(
                    "recipe-invalid",
                    f"save: this model has no module {wanted}; it has {', '.join(leaves)}",
                    "name one of these",
                )
        return list(self.save)


def _keep_start(model: Any, folder: Path) -> None:
    """Save the adapter as it begins: what is trained is told from it, as a LoRA of twice the rank on the true base."""
    config = model.peft_config["default"]
    kind, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(folder, save_embedding_layers=False)
    config.init_lora_weights = kind


def new_rows(model: Any, setting: Setting) -> dict[str, list[int]] | None:
    """Return the rows that the vocabulary stage added, by layer: the embedding's, and an untied head's.

    None where it added none. Error: `recipe-invalid` where there was no such stage.
    """
    if setting.new_rows is None:
        refuse(
            "recipe-invalid",
            f"rows: new, but {setting.base} has no rows that a vocabulary stage added",
            "add a vocab: block, or set rows: none",
            setting.base,
        )
    indices = list(setting.new_rows)
    if not indices:
        return None
    layers = (
        [model.get_input_embeddings()]
        if is_tied(model)
        else [model.get_input_embeddings(), model.get_output_embeddings()]
    )
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(layer)]: indices for layer in layers}


def is_tied(model: Any) -> bool:
    """Tell whether a model's output head is its embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def task_type(model: Any) -> str:
    """Return peft's name for what the model does."""
    return "SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "CAUSAL_LM"
