"""Write the answers of `verify` and `compare` for people: what was held against what, the verdict, a table by kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lingraft.weights.describe import fact
from lingraft.weights.shards import few

NUMBERED = re.compile(r"(?:.*\.)?\d+\.")  # model.layers.17.mlp.down_proj is one of the kind mlp.down_proj
MOST = 12  # rows of a list; JSON has them all
Row = Mapping[str, Any]


def describe(answer: Mapping[str, Any]) -> str:
    """Return a `verify` answer as plain text, nothing where the merge itself was refused."""
    told = next(
        (tell for key, tell in (("match", _receipt), ("tensors", _merged), ("adapter", _proof)) if key in answer), None
    )
    return told(answer) if told else ""


def describe_comparison(a: str, b: str, answer: Mapping[str, Any]) -> str:
    """Return a `compare` answer as plain text."""
    different, compared = answer["different"], answer["compared"]
    if answer["equal"]:
        lines = [f"{a} and {b}: equal, all {compared:,} tensors"]
    else:
        lines = [f"{a} and {b}: {len(different):,} of {compared:,} tensors differ"]
    for name, only in ((a, answer["only_in_a"]), (b, answer["only_in_b"])):
        lines += [fact("only in one", f"{name}: {few(only, 3)}")] if only else []
    if answer["dtypes"]:
        pairs = sorted({f"{row['a']} and {row['b']}" for row in answer["dtypes"]})
        lines.append(fact("other dtypes", f"{len(answer['dtypes']):,} tensors are {', '.join(pairs)}"))
    shapes = [row for row in different if row.get("shapes")]
    lines += [fact("other shape", f"{r['name']}: {r['shapes']['a']} and {r['shapes']['b']}") for r in shapes[:MOST]]
    if measured := [row for row in different if row["max_abs"] is not None]:
        farthest = max(measured, key=lambda row: row["max_abs"])
        lines.append(fact("farthest value", f"{farthest['max_abs']:.3g} apart, in {farthest['name']}"))
    return "\n".join([*lines, *_table(different, "differ", "rel")])


def _receipt(answer: Mapping[str, Any]) -> str:
    verdict = "its weights are the receipt's" if answer["match"] else "its weights are NOT the receipt's"
    lines = [f"{answer['path']}: {verdict}", fact("fingerprint", answer["fingerprint"])]
    if not answer["match"]:
        lines.append(fact("receipt", answer["recorded"]))
        lines += [fact("differs", name) for name in answer["different"][:MOST]]
    return "\n".join(lines)


def _proof(answer: Mapping[str, Any]) -> str:
    modules = answer["modules"]
    lines = [f"{answer['adapter']}, held against {answer['base']}"]
    known = [module for module in modules if module["changed"] is not None]
    lines.append(fact("modules", f"{sum(m['changed'] for m in known):,} of {len(known):,} moved"))
    if len(known) < len(modules):
        lines.append(fact("not known", f"{len(modules) - len(known):,}: where they began was not kept"))
    for rows in answer["embeddings"]:
        new = f"{rows['new_rows_changed']:,} of {rows['new_rows']:,} new rows trained"
        old = f"{rows['old_rows_changed']:,} of {rows['old_rows']:,} old rows changed"
        lines.append(fact("rows", f"{rows['name']}: {new + ', ' if rows['new_rows'] else ''}{old}"))
    return "\n".join([*lines, *_table(modules, "moved", "rel_norm", lambda module: bool(module["changed"]))])


def _merged(answer: Mapping[str, Any]) -> str:
    lines = [f"{answer.get('model')}, held against {' + '.join([answer['base'], *answer['adapters']])}"]
    different, count = answer["different"], answer["tensors"]
    if answer["onto"] != "original":
        lines.append(fact("base", f"quantised and dequantised, as the receipt chose ({answer['onto']})"))
    if different:
        lines.append(fact("tensors", f"{len(different):,} of {count:,} differ"))
    else:
        lines.append(fact("tensors", f"all {count:,} are base + adapters, rounded once"))
    if (far := answer["max_abs_error"]) is not None:
        lines.append(fact("farthest value", f"{far:.3g} from the exact one"))
    logits = answer["logits"] or {}
    if logits.get("max_abs") is not None:
        agree = f"the same best token at {logits['argmax_agreement']:.1%} of positions"
        lines.append(fact("logits", f"at most {logits['max_abs']:.3g} apart, KL {logits['kl']:.3g}, {agree}"))
    elif logits.get("why"):
        lines.append(fact("logits", f"not compared: {logits['why']}"))
    if answer["first_layer"]:
        lines.append(fact("first layer", answer["first_layer"]))
    return "\n".join([*lines, *_table(different, "differ", "rel")])


def _table(rows: Sequence[Row], verb: str, size: str, counts: Callable[[Row], bool] = lambda _: True) -> list[str]:
    """Return a line for each kind of module: how many of it, and how far they are, relative to their weights."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[NUMBERED.sub("", row["name"]).removesuffix(".weight")].append(row)
    if not any(row[size] is not None for row in rows):
        return []
    width = max(16, *(len(kind) + 2 for kind in kinds))
    lines = ["", f"  {'kind':<{width}}{verb:<16}relative to the weights"]
    for kind, some in kinds.items():
        share = f"{sum(counts(row) for row in some):,} of {len(some):,}"
        lines.append(f"  {kind:<{width}}{share:<16}{_range(row[size] for row in some)}")
    return lines


def _range(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not known"
    low, high = min(known), max(known)
    return f"{low:.3%}" if low == high else f"{low:.3%} to {high:.3%}"
