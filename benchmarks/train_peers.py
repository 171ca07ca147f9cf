"""The peers of `benchmarks/train.py`, each its own process: a padded loop, the Trainer with peft, trl.

    python train_peers.py plain|trainer|trl-padded|trl-packed TASK.json ANSWER.json

Knows nothing of lingraft, so it runs in an environment without it. TASK.json holds the base's path, the rows' tokens
and labels, the rows of each update (for `plain`), and the settings. ANSWER.json gets seconds of training, tokens
trained on (padding is none), and a loss per update.
"""

import json
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

IGNORED = -100


def adapted(task):
    """Load the base in fp32 and put LoRA on all its linear layers."""
    set_seed(task["seed"])
    model = AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
    return get_peft_model(
        model, LoraConfig(r=task["r"], lora_alpha=2 * task["r"], target_modules="all-linear", task_type="CAUSAL_LM")
    )


def padded(rows, fill):
    """Pad rows on the right to the longest of them."""
    width = max(len(row["input_ids"]) for row in rows)
    lay = lambda row, key, value: row[key] + [value] * (width - len(row[key]))  # noqa: E731
    return {
        "input_ids": torch.tensor([lay(row, "input_ids", fill) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]),
        "labels": torch.tensor([lay(row, "labels", IGNORED) for row in rows]),
    }


def plain(task):
    """Train on padded batches, the rows of each update as given, the loss the mean over the update's labels."""
    model, rows = adapted(task), task["rows"]
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=task["rate"], weight_decay=0.0)
    losses, started = [], time.perf_counter()
    for numbers in task["updates"]:
        total = sum(label != IGNORED for n in numbers for label in rows[n]["labels"][1:])
        loss_sum = 0.0
        for at in range(0, len(numbers), task["batch"]):
            batch = padded([rows[n] for n in numbers[at : at + task["batch"]]], task["pad"])
            labels = batch.pop("labels")
            logits = model(**batch, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum") / total
            loss.backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum)
    seen = [n for numbers in task["updates"] for n in numbers]
    return time.perf_counter() - started, sum(len(rows[n]["input_ids"]) for n in seen), losses


def settings(task, **more):
    """Return what the Trainer and trl's take alike."""
    return {
        "output_dir": task["scratch"],
        "learning_rate": task["rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "seed": task["seed"],
        "num_train_epochs": 1,
        "per_device_train_batch_size": task["batch"],
        "disable_tqdm": True,
        "bf16": False,
        "weight_decay": 0.0,
        **more,
    }


def timed(trainer, tokens):
    """Train; return seconds, tokens and the losses logged."""
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    return seconds, tokens, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def chosen_rows(task):
    """Return as many rows as the updates hold, in the order given."""
    return [task["rows"][n] for numbers in task["updates"] for n in numbers]


def trainer(task):
    """transformers' Trainer with peft, padding each batch to its longest row."""
    rows = chosen_rows(task)
    arguments = TrainingArguments(**settings(task, remove_unused_columns=False))
    made = Trainer(
        model=adapted(task), args=arguments, train_dataset=rows, data_collator=lambda batch: padded(batch, task["pad"])
    )
    return timed(made, sum(len(row["input_ids"]) for row in rows))


def trl(task, packing):
    """trl's SFTTrainer on the same tokens, with the loss on the same answers."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = chosen_rows(task)
    masks = [[int(label != IGNORED) for label in row["labels"]] for row in rows]
    table = Dataset.from_list(
        [{"input_ids": row["input_ids"], "completion_mask": mask} for row, mask in zip(rows, masks, strict=True)]
    )
    blocks = {"per_device_train_batch_size": task["blocks"]} if packing else {}
    # gradient_checkpointing is trl's default; with it the same work takes a third longer and less memory.
    arguments = SFTConfig(
        **settings(
            task,
            packing=packing,
            max_length=task["length"],
            completion_only_loss=True,
            gradient_checkpointing=False,
            **blocks,
        )
    )
    made = SFTTrainer(
        model=adapted(task),
        args=arguments,
        train_dataset=table,
        processing_class=AutoTokenizer.from_pretrained(task["base"]),
    )
    return timed(made, sum(len(row["input_ids"]) for row in rows))


if __name__ == "__main__":
    name, given, answer = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    torch.set_num_threads(given["threads"])
    kinds = {
        "plain": plain,
        "trainer": trainer,
        "trl-padded": lambda t: trl(t, False),
        "trl-packed": lambda t: trl(t, True),
    }
    seconds, tokens, losses = kinds[name](given)
    answer.write_text(json.dumps({"seconds": seconds, "tokens": tokens, "losses": losses}))
