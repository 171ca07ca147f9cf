"""Every refusal of lingraft: its code, what happened, and what to do about it.

The tree::

    Refusal (Exception)          what a verb raises; cli.py prints it and exits 1
      └─ problems: Problem, …    one line each: code, message (names the file or tensor), remedy
    Findings                     collects problems and warnings, applies --allow, raises one Refusal at the end

A *problem* that is not allowed means exit 1; a *warning* has the same form and does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

Code = Literal[
    "not-found",
    "unreadable",
    "output-exists",
    "no-space",
    "unknown-format",
    "truncated-file",
    "lfs-pointer",
    "missing-shard",
    "corrupt-file",
    "unsafe-pickle",
    "config-mismatch",
    "tokenizer-mismatch",
    "vocab-mismatch",
    "base-mismatch",
    "already-merged",
    "wrong-order",
    "unused-adapter-tensors",
    "missing-adapter-tensors",
    "unsupported-adapter",
    "empty-tensor",
    "non-finite",
    "untrained-adapter",
    "module-not-updated",
    "new-tokens-untrained",
    "tied-head-conflict",
    "merged-differs",
    "fingerprint-mismatch",
    "recipe-invalid",
    "data-invalid",
    "nothing-supervised",
    "does-not-fit",
    "training-diverged",
    "checkpoint-damaged",
]
CODES: tuple[str, ...] = get_args(Code)


@dataclass(frozen=True)
class Problem:
    """One refusal or warning: the message names the file or tensor, the remedy says what to do."""

    code: Code
    message: str
    remedy: str
    path: str | None = None
    tensor: str | None = None

    def as_json(self) -> dict[str, str]:
        """Return the fields that are set, as the JSON contract writes them."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Refusal(Exception):
    """A verb could not, or would not, do what it was asked; carries every problem found."""

    def __init__(
        self, *problems: Problem, warnings: tuple[Problem, ...] = (), answer: dict[str, Any] | None = None
    ) -> None:
        super().__init__("; ".join(f"{p.code}: {p.message}" for p in problems))
        self.problems = problems
        self.warnings = warnings
        self.answer = answer or {}  # fields of the JSON answer that are known all the same (inspect, verify)


def refuse(
    code: Code, message: str, remedy: str, path: Path | str | None = None, tensor: str | None = None
) -> NoReturn:
    """Raise a Refusal with a single problem."""
    raise Refusal(Problem(code, message, remedy, None if path is None else str(path), tensor))


@dataclass
class Findings:
    """Collect what is wrong while a verb looks around, so that all problems are told, not the first alone.

    ``allow`` holds the codes that the user overrides knowingly; such a problem lands in ``allowed`` (which a
    receipt records) instead of ``problems``.
    """

    allow: frozenset[str] = frozenset()
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    allowed: list[Problem] = field(default_factory=list)

    def problem(
        self, code: Code, message: str, remedy: str, path: Path | str | None = None, tensor: str | None = None
    ) -> None:
        """Note a problem; it refuses at ``settle`` unless its code is allowed."""
        found = Problem(code, message, remedy, None if path is None else str(path), tensor)
        heap = self.allowed if code in self.allow else self.problems
        if found not in heap:
            heap.append(found)

    def warn(
        self, code: Code, message: str, remedy: str, path: Path | str | None = None, tensor: str | None = None
    ) -> None:
        """Note a warning: told, never refused."""
        found = Problem(code, message, remedy, None if path is None else str(path), tensor)
        if found not in self.warnings:
            self.warnings.append(found)

    def absorb(self, refusal: Refusal) -> None:
        """Take over what a deeper call refused, so that looking can go on."""
        for p in refusal.problems:
            self.problem(p.code, p.message, p.remedy, p.path, p.tensor)
        self.warnings.extend(w for w in refusal.warnings if w not in self.warnings)

    def settle(self, answer: dict[str, Any] | None = None) -> None:
        """Raise one Refusal with every problem that was not allowed; return quietly where there is none."""
        if self.problems:
            raise Refusal(*self.problems, warnings=tuple(self.warnings), answer=answer)
