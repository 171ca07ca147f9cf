"""QLoRA: LoRA on a base whose linear layers are held in 4 bits (Dettmers et al. 2023, arXiv:2305.14314).

bitsandbytes does the arithmetic, on a CPU too. What is quantised is the base with the adapters below already in it,
so that training sees exactly one rounding; `lingraft.json` records it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lingraft.problems import refuse
from lingraft.train.techniques import Leaves, Setting, Tuning
from lingraft.train.techniques.lora import Lora
from lingraft.train.techniques.targets import ALL, linear_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


class Qlora(BaseModel):
    """LoRA over ``quantisation`` (nf4, fp4 or int8), with its constants quantised too where ``double``.

    The other settings are those of `lora`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    needs_validation: ClassVar[bool] = False
    leaves: ClassVar[Leaves] = "adapter"

    kind: Literal["qlora"] = "qlora"
    quantisation: Literal["nf4", "fp4", "int8"] = "nf4"
    double: bool = True
    r: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = ALL
    save: list[str] = []
    rows: Literal["new", "none"] = "none"
    rows_rate: float = Field(1.0, gt=0)

    @property
    def lora(self) -> Lora:
        """Return the LoRA that goes over the quantised base."""
        return Lora(**self.model_dump(exclude={"kind", "quantisation", "double"}))

    def on_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Leave the config as it is."""
        return config

    def on_model(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Quantise every linear layer but the head, then add LoRA. Error: `recipe-invalid` without bitsandbytes."""
        self.fits(model)
        for name in linear_layers(model):
            parent, _, leaf = name.rpartition(".")
            home = model.get_submodule(parent)
            setattr(home, leaf, self._quantised(getattr(home, leaf)))
        return self.lora.on_model(model, setting)

    def on_trainer(self, tuning: Tuning) -> Tuning:
        """Set what LoRA sets."""
        return self.lora.on_trainer(tuning)

    def fits(self, model: nn.Module) -> None:
        """Refuse (`recipe-invalid`) targets and modules that this model has not."""
        self.lora.fits(model)

    def seen(self) -> dict[str, Any]:
        """Return what the lineage records of the quantisation."""
        return {"method": self.quantisation, "double": self.double and self.quantisation != "int8", "dtype": "float32"}

    def _quantised(self, layer: Any) -> nn.Module:
        try:
            from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
        except ImportError:
            refuse("recipe-invalid", "qlora needs bitsandbytes", "pip install 'lingraft[bitsandbytes]'")
        device, rows, columns = layer.weight.device, layer.out_features, layer.in_features
        small: Any
        if self.quantisation == "int8":
            small = Linear8bitLt(columns, rows, bias=layer.bias is not None, has_fp16_weights=False)
            small.weight = Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            small = Linear4bit(
                columns,
                rows,
                bias=layer.bias is not None,
                quant_type=self.quantisation,
                compress_statistics=self.double,
            )
            # Its inference path repacks the weights in place at the first evaluation; training then reads nonsense.
            small.support_avx512bf16_for_cpu = False
            small.weight = Params4bit(
                layer.weight.data, requires_grad=False, quant_type=self.quantisation, compress_statistics=self.double
            )
        if layer.bias is not None:
            small.bias = layer.bias
        return small.to(device)  # type: ignore[no-any-return]
