"""Classification as a task: padded batches of texts with one class each, accuracy and macro-F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from lingraft.problems import refuse
from lingraft.train.task import Task


@dataclass(frozen=True)
class Texts(Dataset[dict[str, Any]]):
    """Tokenised texts with the number of their class; item i is {"input_ids": list, "labels": int}."""

    ids: tuple[tuple[int, ...], ...]
    classes: tuple[int, ...]
    stats: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": list(self.ids[index]), "labels": self.classes[index]}


class Classified(nn.Module):
    """Wrap a sequence classifier so that ``forward`` returns the (weighted) loss and the logits [texts, classes]."""

    def __init__(self, model: Any, dtype: torch.dtype, smoothing: float, weights: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.smoothing = smoothing
        self.weights = weights

    @property
    def config(self) -> Any:
        """Return the model's config, which the Trainer asks for."""
        return self.model.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return {"loss", "logits"}: input_ids and attention_mask [texts, tokens], labels [texts]."""
        with torch.autocast(input_ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device)
        total = functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.smoothing)
        return {"loss": total / (len(labels) if num_items_in_batch is None else num_items_in_batch), "logits": logits}

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding, which NEFTune's hook asks for."""
        module: nn.Module = self.model.get_input_embeddings()
        return module

    def floating_point_ops(self, inputs: dict[str, Tensor], **_: Any) -> int:
        """Return about how many operations a step takes: the Trainer keeps count."""
        return 4 * int(inputs["input_ids"].numel()) * sum(p.numel() for p in self.parameters())


def task_of(names: Sequence[str], pad: int, weights: Tensor | None) -> Task:
    """Return the task of telling the classes ``names`` apart; ``pad`` is the tokenizer's padding token."""

    def load(config: Any, base: Path) -> Any:
        from transformers import AutoModelForSequenceClassification

        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
        config.pad_token_id = pad
        try:
            return AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            why = str(error).splitlines()[0]
            refuse("config-mismatch", f"{base} cannot be loaded as a classifier: {why}", "choose another base", base)

    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), longest), pad)
        mask = torch.zeros(len(items), longest, dtype=torch.long)
        for row, item in enumerate(items):
            ids[row, : len(item["input_ids"])] = torch.tensor(item["input_ids"])
            mask[row, : len(item["input_ids"])] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([i["labels"] for i in items])}

    def wrap(model: Any, dtype: torch.dtype, smoothing: float) -> nn.Module:
        return Classified(model, dtype, smoothing, weights)

    defaults = {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "prediction_loss_only": False,
    }
    return Task(load, wrap, collate, defaults, metrics)


def metrics(prediction: Any) -> dict[str, float]:
    """Return accuracy and macro-F1 of a Trainer's predictions: logits [texts, classes] against label_ids [texts]."""
    truth, guessed = np.asarray(prediction.label_ids), np.asarray(prediction.predictions).argmax(-1)
    scores = []
    for kind in np.union1d(truth, guessed):
        right = int(((truth == kind) & (guessed == kind)).sum())
        scores.append(2 * right / int((truth == kind).sum() + (guessed == kind).sum()))
    return {"accuracy": float((truth == guessed).mean()), "macro_f1": float(np.mean(scores))}


def balanced(classes: Sequence[int], count: int) -> Tensor:
    """Return a weight per class, float32 [count], inverse to its frequency; the mean over texts is 1."""
    seen = np.bincount(np.asarray(classes), minlength=count)
    return torch.tensor(len(classes) / (count * np.maximum(seen, 1)), dtype=torch.float32)
