"""What a verb came to: its result, its problems and its warnings, as JSON and for whoever shows it.

The command line and the studio's page call the same functions in the same way, so that both tell the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lingraft.language import told
from lingraft.output import FULL
from lingraft.problems import Code, Findings, Problem, Refusal


@dataclass(frozen=True)
class Outcome:
    """The answer of a verb; ``bug`` is set where lingraft itself failed."""

    result: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    allowed: tuple[Problem, ...] = ()
    bug: str | None = None

    @property
    def ok(self) -> bool:
        """Tell whether it was done, with nothing refused that was not allowed."""
        return not self.problems and self.bug is None

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        if self.bug is not None:
            return {"ok": False, "error": self.bug, "problems": [], "warnings": []}
        found = {
            "ok": self.ok,
            **self.result,
            "problems": [spoken(p) for p in self.problems],
            "warnings": [spoken(w) for w in self.warnings],
        }
        return {**found, "allowed": [spoken(p) for p in self.allowed]} if self.allowed else found


def spoken(problem: Problem) -> dict[str, str]:
    """Return a problem for the JSON answer: message and remedy in the user's language, the rest as it is."""
    return {**problem.as_json(), "message": told(problem.message), "remedy": told(problem.remedy)}


def attempt(call: Callable[[Findings], dict[str, Any]], allow: frozenset[str] = frozenset()) -> Outcome:
    """Call a verb and return what it came to; with LINGRAFT_TRACEBACK set, a bug raises where it is."""
    findings = Findings(allow)
    try:
        result, problems = call(findings), list(findings.problems)
    except Refusal as refusal:
        result, problems = refusal.answer, list(refusal.problems)
        findings.warnings += [w for w in refusal.warnings if w not in findings.warnings]
    except OSError as error:
        result, problems = {}, [of_os(error)]
    except Exception as error:
        if os.environ.get("LINGRAFT_TRACEBACK"):
            raise
        return Outcome({}, bug=f"{type(error).__name__}: {error}".splitlines()[0])
    return Outcome(result, tuple(problems), tuple(findings.warnings), tuple(findings.allowed))


def of_os(error: OSError) -> Problem:
    """Turn what the operating system refused into a problem."""
    path = None if error.filename is None else str(error.filename)
    said = f"{path or 'a file'}: {error.strerror or error}"
    if error.errno in FULL:
        return Problem("no-space", said, "free some space, or write to another disk", path)
    code: Code = "not-found" if isinstance(error, FileNotFoundError) else "unreadable"
    return Problem(code, said, "check the path and its permissions", path)
