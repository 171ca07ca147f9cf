"""`lingraft adopt SRC OUT [--probe FILE] [--tokenizer PATH] [--set head_dim=64]`: a complete model out of weights.

What names and shapes tell is inferred; what they cannot tell is tried on a short text, and the weights decide. The
answer says of every value how it was found, and by what margin the other candidates lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lingraft.adopt import tokenizer as tokenizers
from lingraft.adopt.answers import Decision
from lingraft.adopt.choose import ordered, refuse_another_type
from lingraft.adopt.claimed import usable
from lingraft.adopt.complete import check_complete, check_given
from lingraft.adopt.decide import decide
from lingraft.adopt.family import Family
from lingraft.adopt.infer import Outline, outline, who_says
from lingraft.adopt.names import Named, canonical
from lingraft.adopt.opened import Source, in_hf_layout, open_source
from lingraft.adopt.probe import Bench, encode, probe_text
from lingraft.adopt.refusals import refuse_mixed, refuse_unreadable
from lingraft.adopt.report import Told, answer_of, config_of
from lingraft.output import check_free, output_directory, require_space
from lingraft.problems import Findings, refuse
from lingraft.progress import say, track
from lingraft.weights import hf
from lingraft.weights.fits import check_tokenizer
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor
from lingraft.weights.tied import EMBEDDING, HEAD, is_copy


def adopt(
    src: Path,
    out: Path,
    *,
    probe: Path | None = None,
    tokenizer: Path | None = None,
    settings: Mapping[str, str] | None = None,
    overwrite: bool = False,
    findings: Findings,
) -> dict[str, Any]:
    """Write a complete Hugging Face directory and return `out`, `family`, `config`, `values`, `candidates`, `missing`.

    Errors: `unknown-format` (quantised, several backbones, no known family), `config-mismatch` (mixed models, a field
    that has to be given by --set; the answer lists its candidates), `missing-shard`, `tokenizer-mismatch`,
    `non-finite`, and what the readers refuse. Nothing is written where anything is refused.
    """
    check_free(out, overwrite, [src])
    text = probe_text(probe)
    source = open_source(src)
    refuse_unreadable(src, source.entries, findings)
    findings.settle()
    named = canonical(_untied(source.entries))
    refuse_mixed(src, named, findings)
    findings.settle()
    rows = named.entries[named.families[0].embedding].shape[0]
    given = usable(src, {name: _value(raw) for name, raw in (settings or {}).items()}, rows, "--set", findings)
    config = usable(src, source.checkpoint.config, rows, who_says(source.checkpoint, ""), findings)
    source = replace(source, checkpoint=replace(source.checkpoint, config=config))
    refuse_another_type(src, named, config, given, findings)
    findings.settle()
    with output_directory(out, overwrite) as partial:
        files = _tokenizer_files(source.checkpoint, src, tokenizer, named.families[0])
        loaded = tokenizers.write(files, partial) if tokenizers.has_tokenizer(files) else None
        if loaded is not None:
            check_tokenizer(
                tokenizer or src, max(loaded.get_vocab().values()) + 1, rows, named.families[0].embedding, findings
            )
        found = _decided(_Task(src, source, named, given, text, loaded), findings)
        told = Told(source.checkpoint, given, files, loaded)
        config = config_of(found.outline, found.decision, found.architecture, told, _dtype(named.entries))
        answer = answer_of(out, found.outline, found.decision, found.family, config, told)
        _ask(src, found, findings)
        _tell_wrong(src, found, findings)
        check_given(src, config, given, findings)
        findings.settle(answer)
        weights = named.entries if not source.pairs else in_hf_layout(named.entries, config["head_dim"])
        _write(source.checkpoint, weights, config, partial)
    say(f"adopt: {answer['family']}, {sum(v['how'] == 'probed' for v in answer['values'])} values probed")
    return answer


@dataclass(frozen=True)
class _Task:
    src: Path
    source: Source
    named: Named
    given: Mapping[str, Any]
    text: str
    tokenizer: Any


@dataclass(frozen=True)
class Found:
    """What came out for one family: outline, decision, the class, and how the family itself was found."""

    outline: Outline
    decision: Decision
    architecture: str
    family: tuple[str, str]  # how, source


def _decided(task: _Task, findings: Findings) -> Found:
    """Decide for the likeliest family; where another shares its names, let both meet on the probe."""
    found: list[Found] = []
    for family, how, why in ordered(task.named, task.source.checkpoint.config, task.given):
        own = Findings(findings.allow)
        drawn = outline(family, task.named, task.source.checkpoint, task.given, own)
        if not found:
            findings.warnings += own.warnings
            findings.problems += own.problems
        findings.settle()
        architecture = family.architecture({name: entry.shape for name, entry in task.named.entries.items()})
        start = {**drawn.config(drawn.start()), "architectures": [architecture]}
        if not found:
            check_complete(task.src, start, _as_saved(task.named.entries, architecture, family), findings)
            findings.settle()
        bench = _bench(task, family, architecture, drawn, findings)
        if found and (bench is None or not drawn.sizes.get("tie_word_embeddings")):
            continue  # a Gemma is always tied, and nothing else tells it from a Llama
        found.append(Found(drawn, decide(_with_class(drawn, architecture), bench), architecture, (how, why)))
        if _is_sure(found[0].decision):
            break
    best = min(found, key=lambda one: one.decision.bits if one.decision.bits is not None else float("inf"))
    if best is found[0]:
        return best
    return replace(best, family=("probed", f"better than {found[0].outline.family.model_type}"))


def _is_sure(decision: Decision) -> bool:
    """Tell whether every question that changes what heads compute was decided by the weights."""
    return decision.bits is not None and all(a.how != "assumed" for a in decision.answers if a.name == "head_dim")


def _with_class(drawn: Outline, architecture: str) -> Outline:
    family = drawn.family
    return replace(
        drawn,
        family=replace(
            family, config=lambda sizes, chosen: {**family.config(sizes, chosen), "architectures": [architecture]}
        ),
    )


def _bench(task: _Task, family: Family, architecture: str, drawn: Outline, findings: Findings) -> Bench | None:
    """Return the bench, or None where nothing can be scored: no tokenizer, no language-model head, no memory."""
    scored = architecture.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining"))
    if task.tokenizer is None or not scored:
        return None
    if architecture == "BertForPreTraining":
        return None  # its class answers two questions at once; heads of BERT are published
    nbytes = sum(4 * _numel(entry) for entry in task.named.entries.values())
    if nbytes > 0.8 * _free():
        findings.warn(
            "does-not-fit",
            f"{task.src}: probing needs {nbytes / 1e9:.0f} GB in float32; "
            f"{_free() / 1e9:.0f} GB are free, so nothing was probed",
            "adopt it on a larger machine, or give what is assumed by --set",
            task.src,
        )
        return None
    context = drawn.sizes.get("n_positions") or drawn.sizes.get("max_position_embeddings") or 1 << 20
    documents = encode(task.tokenizer, task.text, drawn.sizes["vocab_size"], min(1024, context - 2))
    mask = task.tokenizer.mask_token_id if family.masked else None
    if not documents or (family.masked and mask is None):
        return None
    return Bench(task.named.entries, documents, mask, task.source.pairs)


def _numel(entry: Entry) -> int:
    return entry.nbytes // entry.dtype.itemsize


def _free() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _ask(src: Path, found: Found, findings: Findings) -> None:
    for answer in found.decision.answers:
        if not answer.open:
            continue
        met = [c for c in found.decision.candidates if c.name == answer.name]
        values = next(q.candidates for q in found.outline.questions if q.name == answer.name)
        told = ", ".join(f"{c.value} ({c.bits:.3f} bits per character)" for c in met) or ", ".join(map(str, values))
        why = (
            "the weights do not predict the probe text"
            if found.decision.blind
            else "no candidate wins clearly"
            if met
            else "without a tokenizer nothing can be probed"
        )
        findings.problem(
            "config-mismatch",
            f"{src}: shapes do not tell {answer.name}, and {why}; candidates: {told}",
            f"add --set {answer.name}={answer.value} (or another of them), give a --probe text in the "
            "model's language, or --allow config-mismatch to take this one",
            src,
        )


def _tell_wrong(src: Path, found: Found, findings: Findings) -> None:
    """Warn of every claim that the weights spoke against, with the margin by which it lost."""
    for answer in found.decision.answers:
        claim, who = found.outline.claims.get(answer.name, (answer.value, ""))
        met = [c for c in found.decision.candidates if (c.name, c.value) == (answer.name, claim) and c.lost]
        for lost in met if claim != answer.value else ():
            findings.warn(
                "config-mismatch",
                f"{src}: {who} says {answer.name} {claim}; the weights speak for {answer.value}: {claim} loses by "
                f"{lost.margin:.3f} bits per character on {lost.tokens} tokens",
                "nothing to do; the written config is corrected",
                src,
            )


def _untied(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Leave out a head that is the embedding, byte for byte: a tied model saved by an older release."""
    if HEAD in entries and EMBEDDING in entries and is_copy(Lazy(entries)):
        return {name: entry for name, entry in entries.items() if name != HEAD}
    return dict(entries)


def _as_saved(entries: Mapping[str, Entry], architecture: str, family: Family) -> dict[str, Entry]:
    """A bare backbone's class has no prefix before its names."""
    if not architecture.endswith("Model") or architecture.endswith("LMHeadModel"):
        return dict(entries)
    return {name.removeprefix(family.body): entry for name, entry in entries.items()}


def _tokenizer_files(checkpoint: Checkpoint, src: Path, tokenizer: Path | None, family: Family) -> dict[str, bytes]:
    context = int(checkpoint.config.get("max_position_embeddings") or 2048)
    found = checkpoint.side_content()
    if tokenizer is not None:
        kept = {name: raw for name, raw in found.items() if name == "generation_config.json"}
        found = {**kept, **tokenizers.files_of(tokenizer, context)}
    elif not tokenizers.has_tokenizer(found) and src.is_dir() and (models := sorted(src.glob("*.model"))):
        found |= tokenizers.files_of(models[0], context)
    return tokenizers.completed(found, family.model_type)


def _dtype(entries: Mapping[str, Entry]) -> str:
    return str(hf.dtype_of(Lazy(entries))).removeprefix("torch.")


def _write(checkpoint: Checkpoint, weights: Mapping[str, Entry], config: Mapping[str, Any], partial: Path) -> None:
    checked = Lazy({name: _finite(checkpoint.path, name, entry) for name, entry in weights.items()})
    total = sum(entry.nbytes for entry in weights.values())
    require_space(partial, total)
    with track("adopt", total) as advance:
        hf.write(Checkpoint(checkpoint.path, "hf", checked, config), partial, progress=advance)


def _finite(path: Path, name: str, entry: Entry) -> Entry:
    """Refuse NaN and Inf while they pass by on their way to the disk."""

    def read(start: int, stop: int | None) -> Tensor:
        block = entry.read(start, stop)
        if block.is_floating_point() and not bool(torch.isfinite(block).all()):
            refuse("non-finite", f"{path}: {name} holds NaN or Inf", "take an earlier checkpoint", path, name)
        return block

    return Entry(entry.dtype, entry.shape, read)


def _value(raw: Any) -> Any:
    """Read a --set value as JSON where it is JSON, else as text."""
    if not isinstance(raw, str):
        return raw
    try:
        value = json.loads(raw.lower() if raw in ("True", "False", "None") else raw)
    except ValueError:
        return raw
    return value
