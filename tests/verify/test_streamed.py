"""A model that is run from disk, one module at a time, answers as transformers does; for every way of storing it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as t

from lingraft.verify.merged import _lazy
from lingraft.verify.streamed import run
from lingraft.weights.formats import open_checkpoint

IDS = torch.arange(3, 40)[None]
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MODELS = {
    "fused experts": (
        t.MixtralForCausalLM,
        t.MixtralConfig,
        {**SHAPE, "num_key_value_heads": 2, "num_local_experts": 4},
    ),
    "a head of another name": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig, SHAPE),
    "a bias tied to the head's": (t.BertForMaskedLM, t.BertConfig, SHAPE),
    "a classifier": (t.BertForSequenceClassification, t.BertConfig, SHAPE),
    "a convolution": (
        t.Lfm2ForCausalLM,
        t.Lfm2Config,
        {**SHAPE, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    ),
    "an encoder and a decoder": (
        t.T5ForConditionalGeneration,
        t.T5Config,
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}


@pytest.mark.parametrize("kind, config, fields", MODELS.values(), ids=MODELS.keys())
def test_a_model_run_from_disk_answers_as_transformers_does(tmp_path: Path, kind, config, fields) -> None:
    torch.manual_seed(0)
    kind(config(**fields)).save_pretrained(tmp_path)
    checkpoint, model = open_checkpoint(tmp_path), kind.from_pretrained(tmp_path).eval()
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        whole = model(input_ids=IDS, **more).logits[0]
    assert torch.allclose(
        run(checkpoint.config, _lazy(checkpoint), IDS).logits, whole.reshape(-1, whole.shape[-1]), atol=1e-6
    )
