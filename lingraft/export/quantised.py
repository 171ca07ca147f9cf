"""Quantised Hugging Face directories, by other people's libraries.

    lingraft export MODEL --to bnb --type nf4|fp4|int8 --out DIR            bitsandbytes through transformers
    lingraft export MODEL --to awq|gptq --data FILE --out DIR               llm-compressor, for vLLM

bitsandbytes runs on a CPU and is tested there. AWQ and GPTQ want a GPU and calibration text: their settings are
tested, and nobody has run them here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from lingraft.export.source import Source
from lingraft.problems import Findings, refuse
from lingraft.weights import hf
from lingraft.weights.fingerprint import fingerprint

BNB = ("nf4", "fp4", "int8")
SCHEMES = {"awq": ("W4A16_ASYM", "W4A16"), "gptq": ("W4A16", "W8A16")}  # llm-compressor's names; the first by default
SAMPLES, LENGTH = 256, 512  # of calibration text: what llm-compressor's own examples take


@dataclass(frozen=True)
class Settings:
    """What to quantise with: the target, its type, and texts to calibrate on (awq and gptq)."""

    to: str
    type: str
    texts: tuple[str, ...] = ()


def settings(to: str, kind: str | None, data: Sequence[str], findings: Findings) -> Settings:
    """Check what was asked for before anything is read.

    Errors: `unknown-format` for a type the target has not, and for a library that is not installed (with the pip
    command); `data-invalid` for awq and gptq without calibration text.
    """
    known = BNB if to == "bnb" else SCHEMES[to]
    found = next((name for name in known if name.lower() == (kind or known[0]).lower()), None)
    if found is None:
        refuse("unknown-format", f"{kind!r} is not a type of {to}", f"use one of {', '.join(known)}")
    if to == "bnb":
        _need("bitsandbytes", "pip install 'lingraft[bitsandbytes]'")
        return Settings(to, found)
    if not data:
        refuse(
            "data-invalid",
            f"{to} chooses its scales on text, and none was given",
            "add --data FILE: some hundred texts like those that the model will read",
        )
    _need("llmcompressor", "pip install 'lingraft[compress]' (it wants a GPU)")
    return Settings(to, found, _texts(data, findings))


def write(source: Source, out: Path, wanted: Settings) -> dict[str, Any]:
    """Write the quantised model into the empty folder ``out``; return {"type", "fingerprint"} of what was written."""
    with _directory(source, out) as folder:
        (_bitsandbytes if wanted.to == "bnb" else _llm_compressor)(folder, out, wanted)
    for name, content in source.checkpoint.side_content().items():
        if not (out / name).exists():
            (out / name).write_bytes(content)
    return {"type": wanted.type, "fingerprint": fingerprint(hf.read(out).tensors)}


def recipe(wanted: Settings) -> str:
    """Return llm-compressor's recipe for a target (YAML, as its `oneshot` takes it); the head stays as it is."""
    import yaml

    own = {"targets": ["Linear"], "ignore": ["lm_head"], "scheme": wanted.type}
    steps = {"GPTQModifier": own} if wanted.to == "gptq" else {"AWQModifier": {}, "QuantizationModifier": own}
    return str(yaml.safe_dump({"quant_stage": {"quant_modifiers": steps}}, sort_keys=False))


def _need(package: str, remedy: str) -> None:
    if find_spec(package) is None:
        refuse("unknown-format", f"this export needs {package}, which is not installed", remedy)


def _texts(data: Sequence[str], findings: Findings) -> tuple[str, ...]:
    from lingraft.data.text import stream

    texts = tuple(document.text for document in islice(stream(list(data), findings), SAMPLES))
    findings.settle()
    return texts


@contextmanager
def _directory(source: Source, out: Path) -> Iterator[Path]:
    """Yield a Hugging Face directory of the model: its own, or one beside the output while it is needed."""
    if source.decided is None and source.base.format == hf.NAME:
        yield source.stack.base
        return
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.whole-") as scratch:
        hf.write(source.checkpoint, Path(scratch))
        yield Path(scratch)


def _bitsandbytes(folder: Path, out: Path, wanted: Settings) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": wanted.type, "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if wanted.type == "int8" else four))
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype="auto")
    model.save_pretrained(out)


def _llm_compressor(folder: Path, out: Path, wanted: Settings) -> None:
    from datasets import Dataset
    from llmcompressor import oneshot

    oneshot(
        model=str(folder),
        tokenizer=str(folder),
        recipe=recipe(wanted),
        output_dir=str(out),
        dataset=Dataset.from_dict({"text": list(wanted.texts)}),
        max_seq_length=LENGTH,
        num_calibration_samples=len(wanted.texts),
    )
