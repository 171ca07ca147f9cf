"""What is known of a model before anything is computed: sizes from shapes, claims from a config, likely values.

A claim that shapes contradict is told and dropped; a claim about what shapes cannot tell becomes a candidate, the
first of its question. So a config that is wrong in a plausible way is found out like an absent one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lingraft.adopt.family import Family, Fields, Question, labels_of
from lingraft.adopt.known import KNOWN, Known
from lingraft.adopt.names import Named
from lingraft.problems import Findings
from lingraft.weights.tensors import Checkpoint, Entry

SCALING = "rope_scaling"
# Who says what a config holds, by the format that it came in; a field that the format does not carry is nobody's.
SAYS = {"meta": "params.json", "gguf": "the GGUF's metadata", "llama2c": "the file's header"}
UNSAID = "the usual value, which its format does not tell"
# Fields of a config that shapes decide alone; what it says otherwise is told.
SIZES = (
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "intermediate_size",
    "vocab_size",
    "n_positions",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "type_vocab_size",
)


@dataclass(frozen=True)
class Outline:
    """A model as far as it is known without computing: family, sizes, open questions and what was claimed."""

    family: Family
    sizes: Fields
    questions: tuple[Question, ...]
    claims: Mapping[str, tuple[Any, str]]  # question → value and who says so
    published: tuple[Known, ...]  # models of the same shapes, the nearest vocabulary first
    labels: int | None = None  # classes of a head for classification

    def start(self) -> dict[str, Any]:
        """Return the likeliest value of every question."""
        return {question.name: question.candidates[0] for question in self.questions}

    def config(self, chosen: Fields) -> dict[str, Any]:
        """Return config.json's fields for one set of answers."""
        config = self.family.config(self.sizes, chosen)
        names = [f"LABEL_{number}" for number in range(self.labels or 0)]
        return config | (
            {
                "id2label": {str(i): name for i, name in enumerate(names)},
                "label2id": {name: i for i, name in enumerate(names)},
            }
            if names
            else {}
        )


def who_says(checkpoint: Checkpoint, name: str) -> str:
    """Say where a field of a checkpoint's config comes from."""
    return UNSAID if name in checkpoint.unsaid else SAYS.get(checkpoint.format, "config")


def outline(family: Family, named: Named, checkpoint: Checkpoint, given: Fields, findings: Findings) -> Outline:
    """Gather what is known of a model of one family; ``given`` are the fields of --set.

    Problems: `config-mismatch` for a given value that shapes contradict. Warnings: the same for a config's.
    """
    shapes = {name: entry.shape for name, entry in named.entries.items()}
    sizes, source, config = family.sizes(shapes), checkpoint.path, checkpoint.config
    _check_sizes(source, sizes, config, given, findings)
    published = _published(family, sizes)
    claims = {
        name: (value, who_says(checkpoint, name))
        for name, value in family.claims({**_sizes_only(sizes), **config}).items()
    }
    claims |= {name: (value, "inv_freq") for name, value in _from_buffers(named.buffers, claims).items()}
    by_heads = "head_dim" in given or {"num_attention_heads", "n_head"} & given.keys()
    claims |= {
        name: (value, "--set")
        for name, value in family.claims({**_sizes_only(sizes), **given}).items()
        if name in given or (name == "head_dim" and by_heads)
    }
    claims |= {name: (given[name], "--set") for name in ("head_dim", "rope_theta") if name in given}
    questions = family.questions(shapes)
    scalings = [value for value, _ in (claims[SCALING],) if value] if SCALING in claims else []
    scalings += [known.fields[SCALING] for known in published if known.fields.get(SCALING)]
    if scalings or SCALING in claims:
        questions.append(Question(SCALING, (*scalings, None) if scalings else (None,)))
    claims = {
        name: claim for name, claim in claims.items() if _possible(source, name, claim, sizes, questions, findings)
    }
    asked = tuple(_with_candidates(question, claims, published) for question in questions)
    return Outline(family, sizes, asked, claims, published, labels_of(shapes))


def _sizes_only(sizes: Fields) -> dict[str, Any]:
    return {name: sizes[name] for name in ("hidden_size", "n_embd") if name in sizes}


def _check_sizes(source: Path, sizes: Fields, config: Fields, given: Fields, findings: Findings) -> None:
    for name in SIZES:
        if name in sizes and name in given and given[name] != sizes[name]:
            findings.problem(
                "config-mismatch",
                f"--set {name}={given[name]}: the tensors say {sizes[name]}",
                f"leave {name} out; shapes decide it",
                source,
            )
        elif name in sizes and name in config and config[name] != sizes[name]:
            findings.warn(
                "config-mismatch",
                f"{source}: its config says {name} {config[name]}; the tensors say {sizes[name]}, which was taken",
                "nothing to do; the written config is corrected",
                source,
            )


def _published(family: Family, sizes: Fields) -> tuple[Known, ...]:
    width = sizes.get("hidden_size", sizes.get("n_embd"))
    layers = sizes.get("num_hidden_layers", sizes.get("n_layer"))
    inner = sizes.get("intermediate_size", sizes.get("n_inner")) or 4 * width
    rows, vocab = sizes.get("key_rows", width), sizes["vocab_size"]
    found = [known for known in KNOWN if known.fits(family.model_type, layers, width, inner, rows, vocab)]
    return tuple(sorted(found, key=lambda known: (abs(known.vocab - vocab), known.model_type != family.model_type)))


def _from_buffers(buffers: Mapping[str, Entry], claims: Fields) -> dict[str, Any]:
    """Return what an old release's inv_freq tells: base ** (-2i / d) for i in 0 .. d/2 - 1."""
    entry = next((entry for name, entry in buffers.items() if name.endswith("inv_freq")), None)
    if entry is None or len(entry.shape) != 1 or entry.shape[0] < 2:
        return {}
    values = entry.read(0, None).to(torch.float64)
    if float(values[0]) != 1.0:  # positions were scaled
        return {}
    theta = float(values[1]) ** -entry.shape[0]
    usual = [known.fields["rope_theta"] for known in KNOWN if "rope_theta" in known.fields]
    near = min(usual, key=lambda base: abs(base / theta - 1))
    rope = {"rope_theta": near if abs(near / theta - 1) < 0.05 else float(f"{theta:.4g}")}
    return rope if "rotary_pct" in claims else {**rope, "head_dim": 2 * entry.shape[0]}


def _possible(
    source: Path, name: str, claim: tuple[Any, str], sizes: Fields, questions: Sequence[Question], findings: Findings
) -> bool:
    """Tell whether shapes allow a claim; head sizes must cut q and k evenly."""
    value, who = claim
    question = next((question for question in questions if question.name == name), None)
    rows = [sizes[key] for key in ("query_rows", "key_rows", "hidden_size", "n_embd") if key in sizes]
    rows = rows[:2] if "query_rows" in sizes else rows
    cuts = isinstance(value, int) and value > 0 and all(count % value == 0 for count in rows)
    if name != "head_dim" or question is None or cuts:
        return True
    told = f"{source}: {who} says head_dim {value}, which does not cut the rows of q and k evenly"
    remedy = f"possible are {', '.join(map(str, question.candidates))}"
    if who == "--set":
        findings.problem("config-mismatch", told, remedy, source)
    else:
        findings.warn("config-mismatch", told, remedy, source)
    return False


def _with_candidates(question: Question, claims: Mapping[str, tuple[Any, str]], published: Sequence[Known]) -> Question:
    """Put the claimed value first, then those of published models of these shapes, then the family's."""
    if claims.get(question.name, (None, ""))[1] == "--set":
        return replace(question, candidates=(claims[question.name][0],))
    first = [claims[question.name][0]] if question.name in claims else []
    from_published = [
        known.head_dim if question.name == "head_dim" else known.fields.get(question.name) for known in published
    ]
    found: list[Any] = []
    for value in (*first, *(v for v in from_published if v is not None), *question.candidates):
        if value not in found and (question.name != "head_dim" or value in (*first, *question.candidates)):
            found.append(value)
    return replace(question, candidates=tuple(found))
