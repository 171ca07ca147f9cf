"""BERT and RoBERTa: the same backbone; RoBERTa has one token type, and positions that begin after the padding id."""

from __future__ import annotations

from typing import Any

from lingraft.adopt.family import Family, Fields, Question, Shapes, claimed_head, count_layers, head_sizes

OUTSIDE = ("cls", "lm_head", "classifier", "qa_outputs", "dropout")


def _is_roberta(body: str) -> Any:
    def fits(shapes: Shapes) -> bool:
        types = shapes.get(f"{body}embeddings.token_type_embeddings.weight")
        return (
            "lm_head.dense.weight" in shapes
            or "classifier.dense.weight" in shapes
            or (types is not None and types[0] == 1 and not any(name.startswith("cls.") for name in shapes))
        )

    return fits


def _sizes(body: str, model_type: str) -> Any:
    def sizes(shapes: Shapes) -> dict[str, Any]:
        vocab, width = shapes[f"{body}embeddings.word_embeddings.weight"]
        found = {
            "hidden_size": width,
            "num_hidden_layers": count_layers(shapes, f"{body}encoder.layer."),
            "intermediate_size": shapes[f"{body}encoder.layer.0.intermediate.dense.weight"][0],
            "vocab_size": vocab,
            "max_position_embeddings": shapes[f"{body}embeddings.position_embeddings.weight"][0],
            "type_vocab_size": shapes[f"{body}embeddings.token_type_embeddings.weight"][0],
        }
        heads = [name for name in ("cls.predictions.decoder.weight", "lm_head.decoder.weight") if name in shapes]
        found["tie_word_embeddings"] = not heads
        if model_type == "roberta":
            found |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        return found

    return sizes


def _questions(body: str, model_type: str) -> Any:
    def questions(shapes: Shapes) -> list[Question]:
        width = shapes[f"{body}embeddings.word_embeddings.weight"][1]
        return [
            Question("head_dim", head_sizes(width), asked=True),
            Question("hidden_act", ("gelu", "gelu_new", "relu")),
            Question("layer_norm_eps", (1e-12, 1e-5) if model_type == "bert" else (1e-5, 1e-12)),
        ]

    return questions


def _architecture(body: str, model_type: str) -> Any:
    stem = {"bert": "Bert", "roberta": "Roberta"}[model_type]

    def name(shapes: Shapes) -> str:
        if "cls.seq_relationship.weight" in shapes:
            return "BertForPreTraining"
        if "cls.predictions.transform.dense.weight" in shapes or "lm_head.dense.weight" in shapes:
            return f"{stem}ForMaskedLM"
        if "qa_outputs.weight" in shapes:
            return f"{stem}ForQuestionAnswering"
        if any(name.startswith("classifier.") for name in shapes):
            pooled = model_type == "bert" and f"{body}pooler.dense.weight" in shapes
            whole = pooled or "classifier.dense.weight" in shapes  # one label a text; else one a token
            return f"{stem}For{'Sequence' if whole else 'Token'}Classification"
        return f"{stem}Model"

    return name


def _config(model_type: str) -> Any:
    def config(found: Fields, chosen: Fields) -> dict[str, Any]:
        heads = found["hidden_size"] // int(chosen["head_dim"])
        return {
            "model_type": model_type,
            **found,
            "num_attention_heads": heads,
            "hidden_act": chosen["hidden_act"],
            "layer_norm_eps": chosen["layer_norm_eps"],
        }

    return config


def _claims(config: Fields) -> dict[str, Any]:
    said = {key: config[key] for key in ("hidden_act", "layer_norm_eps") if key in config}
    return said | claimed_head(config.get("hidden_size"), config.get("num_attention_heads"))


def _family(model_type: str, fits: Any) -> Family:
    body = f"{model_type}."
    return Family(
        model_type,
        body,
        r"encoder\.layer\.0\.attention\.self\.query\.weight",
        OUTSIDE,
        fits,
        _sizes(body, model_type),
        _questions(body, model_type),
        _architecture(body, model_type),
        _config(model_type),
        _claims,
        f"{body}embeddings.word_embeddings.weight",
        masked=True,
    )


FAMILIES = (_family("roberta", _is_roberta("roberta.")), _family("bert", lambda _: True))
