"""Means of models and adapters: judged by plain torch on the published definitions, by hand values, and by peft."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_tokenizer

from lingraft.merge import dare, ties
from lingraft.merge.average import average
from lingraft.problems import Findings, Refusal
from lingraft.weights.tensors import header

Make = Callable[..., Path]


def refused(call: Callable[[], Any]) -> set[str]:
    """Return the problem codes that a call is refused with."""
    with pytest.raises(Refusal) as refusal:
        call()
    return {problem.code for problem in refusal.value.problems}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def run_of(source: Path, folder: Path, seed: int) -> Path:
    """Save a model that moved a little from another, as a checkpoint of one run."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def three(base: Make, tmp_path: Path) -> tuple[Path, Path, Path]:
    return tuple(run_of(base(), tmp_path / f"run{i}", i) for i in range(3))  # type: ignore[return-value]


def test_equal_weights_give_the_plain_mean(three: tuple[Path, ...], tmp_path: Path) -> None:
    average(three, tmp_path / "out", findings=Findings())
    some = [tensors(path) for path in three]
    for name, found in tensors(tmp_path / "out").items():
        assert torch.allclose(found, torch.stack([one[name] for one in some]).mean(0), atol=1e-7)


def test_weights_are_divided_by_their_sum(three: tuple[Path, ...], tmp_path: Path) -> None:
    answer = average(three[:2], tmp_path / "out", weights=[3, 1], findings=Findings())
    a, b = (tensors(path) for path in three[:2])
    name = "model.norm.weight"
    assert answer["weights"] == [0.75, 0.25]
    assert torch.allclose(tensors(tmp_path / "out")[name], 0.75 * a[name] + 0.25 * b[name], atol=1e-7)


def test_a_mean_of_equal_models_is_that_model_bit_for_bit(base: Make, tmp_path: Path) -> None:
    source = base(dtype=torch.bfloat16)
    average([source, source], tmp_path / "out", findings=Findings())
    assert all(torch.equal(tensors(tmp_path / "out")[name], value) for name, value in tensors(source).items())


def published_ties(base: torch.Tensor, some: list[torch.Tensor], weights: list[float], density: float) -> torch.Tensor:
    """TIES as mergekit defines it: top-k by magnitude, weights, sign of the sum, mean over those that agree."""
    deltas = [one - base for one in some]
    trimmed = []
    for delta in deltas:
        flat = delta.reshape(-1)
        keep = torch.zeros_like(flat, dtype=torch.bool)
        keep[flat.abs().topk(max(int(density * flat.numel()), 1)).indices] = True
        trimmed.append((flat * keep).reshape(delta.shape))
    weighted = torch.stack([d * w for d, w in zip(trimmed, weights, strict=True)])
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    mask = weighted.sign() == elected
    shares = (mask * torch.tensor(weights).view(-1, *[1] * base.ndim)).sum(0)
    return base + (weighted * mask).sum(0) / torch.where(shares == 0, 1.0, shares)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_what_is_published(base: Make, three: tuple[Path, ...], tmp_path: Path, density: float) -> None:
    average(
        three, tmp_path / "out", method="ties", base=base(), density=density, weights=[1, 2, 1], findings=Findings()
    )
    old, some = tensors(base()), [tensors(path) for path in three]
    for name, found in tensors(tmp_path / "out").items():
        wanted = published_ties(old[name], [one[name] for one in some], [0.25, 0.5, 0.25], density)
        assert torch.allclose(found, wanted, atol=1e-6), name


def test_ties_by_hand() -> None:
    deltas = [torch.tensor([3.0, -1.0, 2.0]), torch.tensor([1.0, -3.0, -4.0])]
    found = ties.combine(deltas, [0.5, 0.5], [0.0, 0.0])
    assert found.tolist() == [2.0, -2.0, -4.0]  # both agree, both agree, the larger sum wins and stands alone


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_the_threshold_in_blocks_is_that_of_a_whole_sort(block: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(97, 13) * 10 ** torch.randn(97, 13)
    for density in (0.01, 0.2, 0.37, 0.99):
        wanted = values.abs().reshape(-1).sort(descending=True).values[max(int(density * values.numel()), 1) - 1]
        assert ties.threshold(header({"": values}, ""), density, block) == float(wanted)


def test_dare_keeps_the_expectation_and_drops_the_share(base: Make, tmp_path: Path) -> None:
    tuned = run_of(base(), tmp_path / "run", 5)
    average(
        [tuned, tuned], tmp_path / "out", method="dare", base=base(), density=0.25, weights=[1, 1], findings=Findings()
    )
    name = "model.embed_tokens.weight"
    old, new, found = (tensors(p)[name] for p in (base(), tuned, tmp_path / "out"))
    ratio = (found - old) / (new - old)  # two draws of 0 or 4, each of weight a half
    counts = [float((ratio - value).abs().lt(1e-2).float().mean()) for value in (0, 2, 4)]
    assert counts == pytest.approx([0.5625, 0.375, 0.0625], abs=0.02)


def by_numpy(base: Any, deltas: Any, weights: Any, density: float) -> Any:
    """TIES of the paper's algorithm 1 (trim, elect, merge) with weights, value by value in numpy."""
    import numpy as np

    kept = []
    for delta in deltas:
        least = np.sort(np.abs(delta).ravel())[::-1][max(int(density * delta.size), 1) - 1]
        kept.append(np.where(np.abs(delta) >= least, delta, 0))
    mass = sum(w * d for w, d in zip(weights, kept, strict=True))
    out = np.zeros_like(base)
    for place in np.ndindex(base.shape):
        agree = [(w, d[place]) for w, d in zip(weights, kept, strict=True) if d[place] * mass[place] * w > 0]
        if agree:
            out[place] = sum(w * d for w, d in agree) / sum(w for w, _ in agree)
    return base + out


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 5]])
def test_ties_is_the_papers_algorithm_value_by_value(
    base: Make, three: tuple[Path, ...], tmp_path: Path, weights: list[float]
) -> None:
    average(three, tmp_path / "out", method="ties", base=base(), density=0.3, weights=weights, findings=Findings())
    found, below, some = tensors(tmp_path / "out"), tensors(base()), [tensors(path) for path in three]
    for name in ("model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        wanted = by_numpy(
            below[name].numpy(),
            [(one[name] - below[name]).numpy() for one in some],
            [w / sum(weights) for w in weights],
            0.3,
        )
        assert torch.allclose(found[name], torch.from_numpy(wanted), atol=1e-6), name


@pytest.mark.parametrize("density", [0.3, 0.9])
def test_dare_keeps_a_share_and_rescales_it_value_by_value(
    base: Make, three: tuple[Path, ...], tmp_path: Path, density: float
) -> None:
    """Equation 1 of the paper: each value of the merged difference is 0 or delta / density."""
    one = three[0]
    average(
        [one, base()],
        tmp_path / "out",
        method="dare",
        base=base(),
        density=density,
        weights=[1, 1],
        findings=Findings(),
    )
    found, below, above = tensors(tmp_path / "out"), tensors(base()), tensors(one)
    name = "model.layers.0.mlp.up_proj.weight"
    delta, moved = above[name] - below[name], (found[name] - below[name]) * 2 * density
    kept = moved.abs() > 1e-6
    assert torch.allclose(moved[kept], delta[kept], atol=1e-6)
    assert float(kept.float().mean()) == pytest.approx(density, abs=0.02)


def test_a_dare_mask_does_not_depend_on_the_blocks_it_is_read_in() -> None:
    whole = dare.kept("name", 0, 7, (300, 5), 0, 300, 0.5)
    parts = torch.cat([dare.kept("name", 0, 7, (300, 5), a, b, 0.5) for a, b in ((0, 17), (17, 130), (130, 300))])
    assert torch.equal(whole, parts) and not torch.equal(whole, dare.kept("name", 1, 7, (300, 5), 0, 300, 0.5))


def test_the_same_seed_gives_the_same_model_and_another_does_not(
    base: Make, three: tuple[Path, ...], tmp_path: Path
) -> None:
    prints = [
        average(three, tmp_path / str(i), method="dare", base=base(), seed=seed, findings=Findings())
        for i, seed in enumerate((1, 1, 2))
    ]
    assert prints[0]["fingerprint"] == prints[1]["fingerprint"] != prints[2]["fingerprint"]


def test_the_mean_of_adapters_is_the_mean_of_what_they_do(base: Make, adapter: Make, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one = adapter(base(), "one", target_modules=["q_proj", "up_proj"], seed=1)
    two = adapter(base(), "two", r=2, lora_alpha=2, target_modules=["q_proj"], seed=2)
    average([one, two], tmp_path / "mean", weights=[0.25, 0.75], findings=Findings())

    def moved(path: Path) -> dict[str, torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(base())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        after = PeftModel.from_pretrained(model, path).merge_and_unload().state_dict()
        return {name: after[name] - before[name] for name in before}

    first, second, mean = moved(one), moved(two), moved(tmp_path / "mean")
    for name, found in mean.items():
        assert torch.allclose(found, 0.25 * first[name] + 0.75 * second[name], atol=1e-6), name


def test_receipts_name_what_went_in_and_hold_the_result(base: Make, adapter: Make, tmp_path: Path) -> None:
    import json

    from lingraft.merge.lineage import adapter_fingerprint
    from lingraft.verify.receipt import verify_receipt

    one, two = (adapter(base(), name, target_modules=["q_proj"], seed=i) for i, name in enumerate(("one", "two")))
    average([one, two], tmp_path / "mean", findings=Findings())
    average([base(), base()], tmp_path / "model", findings=Findings())
    told = json.loads((tmp_path / "mean" / "manifest.json").read_text())
    assert [a["fingerprint"] for a in told["adapters"]] == [adapter_fingerprint(one), adapter_fingerprint(two)]
    assert told["fingerprint"] == adapter_fingerprint(tmp_path / "mean")
    assert verify_receipt(tmp_path / "model", Findings())["match"]


def test_a_dora_adapter_has_no_mean(base: Make, adapter: Make, tmp_path: Path) -> None:
    dora = adapter(base(), "dora", use_dora=True, target_modules=["q_proj"])
    assert refused(lambda: average([dora, dora], tmp_path / "m", findings=Findings())) == {"unsupported-adapter"}


def test_adapters_that_name_different_bases_have_no_mean(base: Make, adapter: Make, tmp_path: Path) -> None:
    import shutil

    one = adapter(base(), "one", target_modules=["q_proj"])
    two = adapter(base(seed=5), "two", target_modules=["q_proj"])
    shutil.copytree(base(), tmp_path / "again")
    same = adapter(tmp_path / "again", "same", target_modules=["q_proj"])  # the same model under another name
    assert refused(lambda: average([one, two], tmp_path / "m", findings=Findings())) == {"base-mismatch"}
    assert average([one, same], tmp_path / "m", findings=Findings())["rank"] > 0


def test_another_vocabulary_is_refused_by_the_tensor(base: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base())
    model.resize_token_embeddings(170)
    model.save_pretrained(tmp_path / "grown")
    call = lambda: average([base(), tmp_path / "grown"], tmp_path / "m", findings=Findings())  # noqa: E731
    assert refused(call) == {"vocab-mismatch"} and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "options",
    [{"weights": [1]}, {"weights": [1, -1]}, {"method": "ties"}, {"method": "slerp"}, {"method": "dare", "density": 0}],
)
def test_wrong_options_are_refused_before_anything_is_read(base: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    call = lambda: average([base(), base()], tmp_path / "m", findings=Findings(), **options)  # noqa: E731
    assert refused(call) == {"recipe-invalid"}


def test_an_adapter_and_a_model_are_not_averaged(base: Make, adapter: Make, tmp_path: Path) -> None:
    lora = adapter(base(), target_modules=["q_proj"])
    assert refused(lambda: average([base(), lora], tmp_path / "m", findings=Findings())) == {"config-mismatch"}


def test_a_tied_and_an_untied_model_give_an_untied_mean(base: Make, tmp_path: Path) -> None:
    import json

    average([base("llama", True), base("llama", False)], tmp_path / "m", findings=Findings())
    found, tied, untied = (tensors(p) for p in (tmp_path / "m", base("llama", True), base("llama", False)))
    wanted = (tied["model.embed_tokens.weight"] + untied["lm_head.weight"]) / 2
    assert torch.allclose(found["lm_head.weight"], wanted, atol=1e-7)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_threshold_is_found_once_however_many_threads_read(
    base: Make, three: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from lingraft.merge.average import _plan, averaged
    from lingraft.merge.run import open_base

    calls: list[float] = []

    def slow(entry: Any, density: float) -> float:
        time.sleep(0.05)
        calls.append(density)
        return 0.0

    monkeypatch.setattr(ties, "threshold", slow)
    plan = _plan(3, None, "ties", base(), None, 42)
    mean = averaged([open_base(path) for path in three], open_base(base()), plan, Findings())
    entry = header(mean.tensors, "model.embed_tokens.weight")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda start: entry.read(start, start + 8), range(0, 64, 8)))
    assert len(calls) == 3


def test_a_tensor_that_only_one_of_them_has_is_named_in_either_order(base: Make, tmp_path: Path) -> None:
    import shutil

    more = shutil.copytree(base(), tmp_path / "more")
    save_file({**tensors(more), "model.extra.weight": torch.ones(2)}, more / "model.safetensors", {"format": "pt"})
    for models in ([base(), more], [more, base()]):
        assert refused(lambda given=models: average(given, tmp_path / "m", findings=Findings())) == {"config-mismatch"}


def test_another_tokenizer_is_told(tmp_path: Path, tiny_untied: Path) -> None:
    import shutil

    other, findings = shutil.copytree(tiny_untied, tmp_path / "other"), Findings()
    make_tokenizer(other, size=390)
    average([tiny_untied, other], tmp_path / "m", findings=findings)
    assert [(w.code, w.path) for w in findings.warnings] == [("tokenizer-mismatch", str(other))]


def test_a_mean_beyond_what_its_dtype_holds_is_refused(base: Make, tmp_path: Path) -> None:
    import shutil

    huge = shutil.copytree(base(), tmp_path / "huge")
    save_file({n: torch.full_like(t, 3e38) for n, t in tensors(huge).items()}, huge / "model.safetensors")
    call = lambda: average([huge, huge], tmp_path / "m", weights=[3, -1], findings=Findings())  # noqa: E731
    assert refused(call) == {"non-finite"} and not (tmp_path / "m").exists()
