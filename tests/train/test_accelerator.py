"""What a run on a device other than the CPU would be told; no such device is here, so that its settings are all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lingraft import accelerator, models
from lingraft.problems import Refusal
from lingraft.train import arguments, loop, pretrain
from lingraft.train.distributed.launch import backends
from lingraft.train.stage import Examples


def _built(make_stage: Any, base: Path, **chosen: Any) -> dict[str, Any]:
    nothing: Any = None
    return arguments.build(make_stage(base, ["lora"]), chosen, Examples(nothing, None, nothing))


@pytest.fixture(params=["cuda", "mps", "npu", "xpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have torch report an accelerator of a kind; only its name is one."""
    named = type("Device", (), {"type": request.param})
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: named)
    return str(request.param)


def test_training_follows_the_device_that_torch_reports(make_stage: Any, tiny_llama: Path, device: str) -> None:
    built = _built(make_stage, tiny_llama)
    assert not built["use_cpu"] and built["dataloader_pin_memory"] == (device != "mps")


def test_without_one_it_stays_on_the_cpu(make_stage: Any, tiny_llama: Path) -> None:
    built = _built(make_stage, tiny_llama)
    assert accelerator.kind() == "cpu" and built["use_cpu"] and not built["dataloader_pin_memory"]


def test_float16_is_refused_where_losses_are_not_scaled(make_stage: Any, tiny_llama: Path, device: str) -> None:
    if device != "mps":
        assert _built(make_stage, tiny_llama, fp16=True)["fp16"]
        return
    with pytest.raises(Refusal, match="fp16"):
        _built(make_stage, tiny_llama, fp16=True)


def test_the_type_is_the_devices_own(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINGRAFT_DTYPE", raising=False)
    if device == "mps":
        assert models.fastest_dtype() == torch.float32
        return
    for has, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        room = type("Room", (), {"is_bf16_supported": staticmethod(lambda has=has: has)})
        monkeypatch.setattr(torch, device, room, raising=False)
        assert models.fastest_dtype() == wanted


def test_processes_talk_over_gloo_and_devices_over_their_own_library() -> None:
    assert backends("cpu") == "gloo"
    assert backends("cuda") == "cpu:gloo,cuda:nccl" and backends("xpu") == "cpu:gloo,xpu:xccl"


def test_the_model_is_moved_before_its_steps_are_measured(
    make_stage: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands in for a card."""
    seen: list[str] = []
    monkeypatch.setattr(accelerator, "kind", lambda: "meta")
    monkeypatch.setattr(models, "fastest_dtype", lambda: torch.float32)

    def wrap(assembled: Any, *rest: Any) -> Any:
        seen.extend({p.device.type for p in assembled.model.parameters()})
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "wrap", wrap)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(make_stage(tiny_llama, ["lora"]))
    assert seen == ["meta"]
