"""Do these adapters belong on this base? Asked before they are loaded, whatever the engine.

peft and llama.cpp load an adapter onto any base of the right shapes, and it answers, wrongly. The merge knows better:
by lineage, and where there is none, by evidence.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from lingraft.export.source import open_source
from lingraft.merge import order
from lingraft.merge.run import open_base
from lingraft.problems import Findings
from lingraft.serve.engine import Options
from lingraft.weights.fingerprint import fingerprint


def check(options: Options, findings: Findings) -> None:
    """Refuse adapters that were made for other weights, or another order. Errors: everything that refuses a merge."""
    chains = [options.main, *((*options.main, *chain) for chain in options.adapters.values())]
    for chain in dict.fromkeys(chains):
        if not chain:
            continue
        source = open_source(options.base, None, list(chain), findings)
        if source.decided is None or not any(adapter.lineage for adapter in source.adapters):
            continue
        known = replace(source.decided.inside, fingerprint=base_fingerprint(options.base))
        given = [
            order.Given(a.path, f, a.lineage) for a, f in zip(source.adapters, source.decided.fingerprints, strict=True)
        ]
        order.check(options.base, known, given, findings)
    findings.settle()


def base_fingerprint(base: Path) -> str:
    """Return a base's fingerprint, read once for as long as its files stay as they are."""
    files = sorted(base.iterdir()) if base.is_dir() else [base]
    return _read(base, tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()))


@lru_cache(maxsize=8)
def _read(base: Path, _: tuple[tuple[str, int, int], ...]) -> str:
    return fingerprint(open_base(base).tensors)
