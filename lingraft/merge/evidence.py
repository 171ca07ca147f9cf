"""What the numbers say where no lineage does: was this adapter made for this base, and is it inside already?

Saved rows. Training starts from the base's rows, so what it saves correlates with them; rows of another model do
not. Judged against the correlation's own error, 1/sqrt(n).

Projection. Where W = W0 + D, the projection <D, W>/<D, D> is near 1; where D is not inside, it is near 0. With
D = U S Vᵀ it is measured component by component: x_k = s_k against y_k = u_kᵀ W v_k, whose error is what W has in
the direction v_k by chance, ||W v_k||/sqrt(rows). Components that disagree with the fit widen the error: PiSSA and
its kind lie in W's own top directions and correlate by design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lingraft.merge.adapter import Adapter
from lingraft.merge.plan import Plan
from lingraft.merge.updates import Dora, LowRank, LowRankEmbedding
from lingraft.problems import Findings, Refusal
from lingraft.weights.tensors import Entry, Lazy, Tensor

ROWS = 512  # rows sampled of a matrix
MODULES = 21  # matrices sampled of an adapter, as long as they come to fewer numbers than
NUMBERS = 1 << 23
SURE = 5.0  # standard errors of a correlation
CHANCE = 6.0  # standard errors of a projection


@dataclass(frozen=True)
class Projection:
    """<D, W>/<D, D> over an adapter's modules, and its standard error."""

    value: float
    error: float

    @property
    def inside(self) -> bool:
        """True where the value is nearer to 1 than to 0, and clearly not 0 by its error.

        Measured on adapters that were really trained: what they correlate with their base beyond chance goes up to
        five errors, in either direction; CHANCE leaves room.
        """
        return 0.5 < self.value < 1.5 and self.value > CHANCE * self.error


def check_rows(adapter: Adapter, weights: Lazy, made: Plan, findings: Findings) -> None:
    """Correlate every saved matrix with the base's. Problem: `base-mismatch`."""
    for name, value in made.replaced.items():
        below = weights.entries.get(name)
        if below is None or len(below.shape) != 2 or below.shape[1:] != value.shape[1:]:
            continue
        found, count = correlation(below, value)
        if found < 0.02 + SURE / count**0.5:
            findings.problem(
                "base-mismatch",
                f"{adapter.path}: its {name} does not correlate with the base's "
                f"({found:+.3f}; rows that training started from stay near 1)",
                "merge into the base that the adapter was trained on",
                adapter.path,
                name,
            )


def correlation(one: Entry, other: Entry) -> tuple[float, int]:
    """Return the correlation of the rows that both have, every column centred, and how many numbers it rests on."""
    rows = min(one.shape[0], other.shape[0])
    a, b = (_sample(entry, rows) for entry in (one, other))
    a, b = a - a.mean(0), b - b.mean(0)
    scale = float(a.norm() * b.norm())
    return (float((a * b).sum()) / scale if scale > 0 else 1.0), a.numel()


def check_magnitudes(adapter: Adapter, weights: Lazy, made: Plan, findings: Findings) -> None:
    """Warn of `base-mismatch` where DoRA's magnitudes, which begin as the lengths of the base's rows, are unlike them.

    A warning only: what training does to a magnitude has no bound, as a saved row's move has in practice.
    """
    doras = {name: u for name, some in made.updates.items() for u in some if isinstance(u, Dora) and u.by_row}
    pairs = [_lengths(weights.entries[n], doras[n]) for n in _some([n for n in doras if n in weights.entries], weights)]
    if not pairs:
        return
    base, learned = (torch.cat(column) for column in zip(*pairs, strict=True))
    if (found := _cosine(base, learned)) < 0.02 + SURE / base.numel() ** 0.5:
        findings.warn(
            "base-mismatch",
            f"{adapter.path}: its DoRA magnitudes do not correlate with the lengths of the base's rows ({found:+.3f}; "
            "those that training started from stay near 1)",
            "check that this is the base that the adapter was trained on",
            adapter.path,
        )


def _lengths(below: Entry, dora: Dora) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the first rows' lengths and of their magnitudes, each about its own mean."""
    rows = min(below.shape[0], ROWS)
    norms, learned = below.read(0, rows).float().norm(dim=1), dora.magnitude.read(0, None).reshape(-1)[:rows].float()
    kept = (norms > 0) & (learned > 0)
    base, mine = norms[kept].log(), learned[kept].log()
    return base - base.mean(), mine - mine.mean()


def check_inside(adapter: Adapter, weights: Lazy, made: Plan, findings: Findings) -> None:
    """Problem `already-merged` where the base's projection on the adapter says that it is inside."""
    if _mutates(adapter):
        return  # the base is part of what such an adapter stores: it correlates by design
    found = projection(made.deltas, weights)
    if found is not None and found.inside:
        findings.problem(
            "already-merged",
            f"{adapter.path} is inside the base already: the base's projection on its difference is {found.value:.2f} "
            f"± {found.error:.2f} (1 where it is inside, 0 where it is not)",
            "leave this adapter out, or take the base without it",
            adapter.path,
        )


def projection(deltas: Mapping[str, LowRank | LowRankEmbedding], weights: Lazy) -> Projection | None:
    """Return the projection of the weights on an adapter's differences, or None where nothing can be measured."""
    names = [name for name in deltas if isinstance(deltas[name], LowRank) and name in weights.entries]
    pairs = [_components(weights.entries[name], deltas[name]) for name in _some(names, weights)]
    if not pairs:
        return None
    x, y, error = (torch.cat(column) for column in zip(*pairs, strict=True))
    keep = (x > 0) & (error > 0) & torch.isfinite(y)
    x, y, error = x[keep], y[keep], error[keep]
    information = float(((x / error) ** 2).sum())
    if information <= 0:
        return None
    value = float((x * y / error**2).sum()) / information
    spread = float((((y - value * x) / error) ** 2).mean()) ** 0.5
    return Projection(value, max(1.0, spread) / information**0.5)


def _some(names: list[str], weights: Lazy) -> list[str]:
    """Return an even sample of matrices; large ones tell more each, so that fewer will do."""
    each = max(min(weights.entries[n].shape[0], ROWS) * weights.entries[n].shape[1] for n in names) if names else 1
    return names[:: max(1, len(names) // max(6, min(MODULES, NUMBERS // each)))]


def _components(below: Entry, delta: LowRank | LowRankEmbedding) -> tuple[Tensor, Tensor, Tensor]:
    """Return s_k, u_kᵀ W v_k and its error by chance, over the first rows of one matrix."""
    rows = min(below.shape[0], ROWS)
    if isinstance(delta, LowRank) and not delta.transposed:
        left, right = delta.b.read(0, rows).double(), delta.a.read(0, None).double().T
    else:
        left, right = delta.a.read(0, None)[:, :rows].double().T, delta.b.read(0, None).double()
    (q, r), (p, s) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, x, vt = torch.linalg.svd(r @ s.T, full_matrices=False)
    wv = (below.read(0, rows).float() @ (p @ vt.T).float()).double()
    return x * delta.scale, ((q @ u) * wv).sum(0), wv.norm(dim=0) / rows**0.5


def _mutates(adapter: Adapter) -> bool:
    start = str(adapter.config.get("init_lora_weights")).lower()
    return start.startswith(("pissa", "olora", "corda", "lora_ga", "loftq"))


def check_named_base(adapter: Adapter, weights: Lazy, made: Plan, first: bool, findings: Findings) -> None:
    """Hold the base that adapter_config.json names, where it lies on this machine, against the one given.

    Problem `base-mismatch` where they are unrelated; a warning where they are close relatives (only for the ``first``
    adapter: a later one was trained on top of the others, whatever its config names).
    """
    named = adapter.config.get("base_model_name_or_path")
    folder = Path(str(named)) if named else None
    if folder is None or not (folder / "config.json").is_file():
        return
    from lingraft.weights import hf

    try:
        others = hf.read(folder).tensors
    except Refusal:
        return
    names = [name for name in made.deltas if name in others and name in weights.entries]
    worst = min((_kinship(weights.entries[n], others, n) for n in names[:: max(1, len(names) // 6)]), default=1.0)
    if worst < 0.5:
        findings.problem(
            "base-mismatch",
            f"{adapter.path} was trained on {folder} (adapter_config.json), whose weights are unrelated to this "
            f"base's (correlation {worst:+.3f})",
            f"merge into {folder}",
            adapter.path,
        )
    elif worst < 0.9999 and first:
        findings.warn(
            "base-mismatch",
            f"{adapter.path} was trained on {folder} (adapter_config.json), whose weights differ from this base's "
            f"(correlation {worst:.4f})",
            f"merge into {folder} to be exact",
            adapter.path,
        )


def _kinship(entry: Entry, others: Mapping[str, Tensor], name: str) -> float:
    from lingraft.weights.tensors import header

    other = header(others, name)
    return correlation(entry, other)[0] if other.shape == entry.shape else 1.0


def check_steps(adapters: Sequence[Adapter], plans: Sequence[Plan], base: Lazy, findings: Findings) -> None:
    """Tell from saved rows alone that two adapters were trained in the other order. Problem: `wrong-order`.

    Training from base to x to y makes the angle at x right or wider: cos at x ≤ 0. Where it is the angle at y that
    is right and the one at x is sharp, y came before x.
    """
    for first in range(len(plans)):
        for second in range(first + 1, len(plans)):
            _check_step(adapters[first], adapters[second], plans[first], plans[second], base, findings)


def _check_step(one: Adapter, two: Adapter, first: Plan, second: Plan, base: Lazy, findings: Findings) -> None:
    for name in first.replaced:
        if name not in second.replaced or name not in base.entries or len(base.entries[name].shape) != 2:
            continue
        rows = min(base.entries[name].shape[0], first.replaced[name].shape[0], second.replaced[name].shape[0])
        w, x, y = (_sample(entry, rows) for entry in (base.entries[name], first.replaced[name], second.replaced[name]))
        sure = SURE / w.numel() ** 0.5
        if _cosine(w - x, y - x) > 0.1 + sure and _cosine(w - y, x - y) < sure:
            findings.problem(
                "wrong-order",
                f"the rows of {name} in {one.path} were trained from those in {two.path}, not the other way round",
                f"give them in this order: {two.path} {one.path}",
                one.path,
                name,
            )
            return


def _cosine(one: Tensor, other: Tensor) -> float:
    scale = float(one.norm() * other.norm())
    return float((one * other).sum()) / scale if scale > 0 else 0.0


def _sample(entry: Entry, rows: int) -> Tensor:
    """Read an even sample of the first ``rows`` rows, in runs that are cheap to read: about a million numbers."""
    run, runs = 32, max(8, (1 << 20) // (32 * max(1, entry.shape[1])))
    if rows <= run * runs:
        return entry.read(0, rows).float()
    starts = torch.linspace(0, rows - run, runs).long().tolist()
    return torch.cat([entry.read(start, start + run).float() for start in starts])
