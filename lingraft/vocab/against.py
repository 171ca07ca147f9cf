"""Hold a tokenizer against others on the user's own text.

    lingraft vocab BASE --measure FILE… [--against TOKENIZER…] [--picture OUT.png]

Tokens per character, characters per token and the share of byte tokens, as a table, JSON and a picture. Beside
`--corpus … --out DIR` the base and the grown model are measured, before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.output import output_file
from lingraft.problems import Findings, refuse
from lingraft.vocab.corpus import texts
from lingraft.vocab.measure import Measured, measure, picture, table


def measure_all(
    tokenizers: Sequence[tuple[str, Path]],
    files: Sequence[Path],
    out: Path | None,
    findings: Findings,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure every (name, path) on the same text; return {"text", "characters", "tokenizers", "picture"}.

    ``out`` is a .png or .svg to draw. The text is streamed once for each tokenizer. Errors: what reading text and
    tokenizers refuses, `unknown-format` for a picture of another kind, `data-invalid` for no text.
    """
    if out is not None and out.suffix.lower() not in (".png", ".svg"):
        refuse("unknown-format", f"{out}: a picture is written as .png or .svg", "choose one of these endings", out)
    rows = [measure(path, texts(files, findings), name) for name, path in tokenizers]
    if not rows[0].characters:
        refuse("data-invalid", f"{', '.join(map(str, files))}: no text in it", "name a file with text", files[0])
    if out is not None:
        with output_file(out, overwrite) as partial:
            picture(rows, partial, out.suffix.lower()[1:])
    return {
        "text": [str(file) for file in files],
        "characters": rows[0].characters,
        "tokenizers": [row.as_json() for row in rows],
        "picture": None if out is None else str(out),
    }


def as_table(result: dict[str, Any]) -> str:
    """Return what `measure_all` answered as a person reads it in a terminal."""
    rows = [Measured(**row) for row in result["tokenizers"]]
    first = rows[0]
    lines = [table(rows), f"{first.characters:,} characters of {', '.join(result['text'])}"]
    lines += [
        f"{row.name}: {row.tokens / max(1, first.tokens) - 1:+.1%} tokens against {first.name}" for row in rows[1:]
    ]
    return "\n".join([*lines, *([f"picture: {result['picture']}"] if result["picture"] else [])])
