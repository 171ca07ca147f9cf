"""First values of new rows: each start does what it says, judged by running the grown model in transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocab_texts import CHINESE

from lingraft.problems import Findings
from lingraft.vocab.run import extend
from lingraft.vocab.starts import focus, head_fit, omp

Base = Callable[..., Path]


def grown(base: Path, corpus: Path, init: str) -> Path:
    out = base.parent / init
    extend(base, out, corpus=[corpus], size=20, init=init, findings=Findings())
    return out


def stream(folder: Path, text: str) -> torch.Tensor:
    """Return the residual stream after the first layer at the last token, as transformers computes it."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    found: torch.Tensor = model(ids, output_hidden_states=True).hidden_states[1][0, -1].detach()
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_distilled_rows_leave_behind_what_the_old_pieces_left(make_base: Base, corpus: Path, tied: bool) -> None:
    base = make_base(tied=tied)
    words = ["我们可以", "今天的天气", "时间", "因为没有"]
    wanted = [stream(base, word) for word in words]
    off = {}
    for init in ("mean", "distil"):
        out = grown(base, corpus, init)
        off[init] = sum(float((stream(out, w) - old).norm()) for w, old in zip(words, wanted, strict=True))
    assert off["distil"] < 0.9 * off["mean"]


@pytest.mark.parametrize("init", ["distil", "random"])
def test_the_same_corpus_gives_the_same_rows_whatever_was_drawn_before(
    make_base: Base, corpus: Path, tmp_path: Path, init: str
) -> None:
    base, digests = make_base(), []
    for number in range(2):
        torch.manual_seed(number)
        extend(base, tmp_path / str(number), corpus=[corpus], size=20, init=init, findings=Findings())
        digests.append(json.loads((tmp_path / str(number) / "manifest.json").read_text())["fingerprint"])
    assert digests[0] == digests[1]


def test_random_rows_have_the_old_rows_moments(make_base: Base, corpus: Path) -> None:
    base = make_base()
    old, new = (
        AutoModelForCausalLM.from_pretrained(p).get_input_embeddings().weight
        for p in (base, grown(base, corpus, "random"))
    )
    fresh = new[len(old) : len(old) + 20]
    assert fresh.std().item() == pytest.approx(old.std().item(), rel=0.2)


def test_padding_rows_are_finite_and_no_token_reads_them(make_base: Base, corpus: Path) -> None:
    base = make_base()
    out = grown(base, corpus, "distil")
    weight = AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().weight
    ids = [i for text in CHINESE for i in AutoTokenizer.from_pretrained(out)(text).input_ids]
    assert bool(weight.isfinite().all()) and max(ids) < len(AutoTokenizer.from_pretrained(out)) < len(weight)


def problem(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    features = torch.randn(400, 16) * 50 / math.sqrt(16)
    target = torch.where(features[:, 0] > 12, 0, torch.where(features[:, 1] > 12, 1, -1))
    return {
        "features": features,
        "mass": torch.full((400,), 4.0),
        "target": target,
        "weight": torch.ones(400),
        "first": torch.zeros(2, 16),
        "unit": 3.0,
        **changes,
    }


def test_fitted_head_rows_are_the_minimum_of_the_stated_problem() -> None:
    given = problem()
    rows = head_fit.fit(**given).requires_grad_(True)
    classes = torch.cat([given["mass"][:, None], given["features"] @ rows.T], 1)
    loss = torch.nn.functional.cross_entropy(classes, given["target"] + 1, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + head_fit.RIDGE / given["unit"] ** 2 * (rows**2).sum(), rows)
    assert float(gradient.abs().max()) < 0.02 * float(given["features"].abs().sum(0).max())


def test_a_fitted_head_names_the_piece_where_it_follows_and_not_elsewhere() -> None:
    given = problem()
    rows = head_fit.fit(**given)
    said = torch.cat([given["mass"][:, None], given["features"] @ rows.T], 1).argmax(1) - 1
    assert float((said == given["target"]).float().mean()) > 0.9


@pytest.mark.parametrize("init", ["focus", "omp"])
def test_transplants_mix_the_same_old_rows_in_both_matrices(make_base: Base, corpus: Path, init: str) -> None:
    base = make_base(tied=False)
    old = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        old.get_output_embeddings().weight.copy_(-2 * old.get_input_embeddings().weight)
    old.save_pretrained(base)
    new = AutoModelForCausalLM.from_pretrained(grown(base, corpus, init))
    size = len(AutoTokenizer.from_pretrained(base))
    rows, head = (m.weight[size : size + 20] for m in (new.get_input_embeddings(), new.get_output_embeddings()))
    usual = AutoModelForCausalLM.from_pretrained(grown(base, corpus, "pieces")).get_input_embeddings().weight[size:]
    torch.testing.assert_close(head, -2 * rows)
    assert int((rows - usual[:20]).abs().amax(1).gt(1e-3).sum()) > 10


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    torch.manual_seed(0)
    scores = torch.randn(6, 9)
    found = focus.sparsemax(scores)
    others = torch.distributions.Dirichlet(torch.ones(9)).sample((500,))
    assert torch.allclose(found.sum(1), torch.ones(6)) and bool((found >= 0).all()) and bool((found == 0).any())
    assert bool(((others[:, None] - scores).norm(dim=2) >= (found - scores).norm(dim=1) - 1e-6).all())


def test_matching_pursuit_finds_the_atoms_that_a_vector_was_made_of() -> None:
    torch.manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(40, 64), dim=1)
    made = torch.stack([0.9 * atoms[3] + 0.4 * atoms[17], atoms[5] - 0.6 * atoms[30]])
    chosen, weight = omp.pursue(made, atoms, 2)
    assert [sorted(row) for row in chosen.tolist()] == [[3, 17], [5, 30]]
    torch.testing.assert_close((weight[:, None] @ atoms[chosen])[:, 0], made)
