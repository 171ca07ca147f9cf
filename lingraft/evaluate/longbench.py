"""LongBench's rows as they are published: its prompts, lengths of answer and metrics, all from lm-evaluation-harness.

A row that says which `dataset` it is of (`multifieldqa_zh`, `trec`, `passage_count` …) is asked and scored as the
harness does it, from a local file in place of the Hub. Source: Bai et al. 2023, "LongBench".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lingraft.problems import refuse


@dataclass(frozen=True)
class Published:
    """How one of LongBench's data sets is asked and scored."""

    template: str
    metric: str  # a function of lm_eval.tasks.longbench.metrics
    most_tokens: int
    until: tuple[str, ...]

    def prompt(self, row: Mapping[str, Any]) -> str:
        """Fill the template; the published columns are called `question` there and `input` in the first release."""
        from jinja2.sandbox import SandboxedEnvironment

        fields = {"question": row.get("input", ""), "input": row.get("question", ""), **row}
        return str(SandboxedEnvironment(keep_trailing_newline=True).from_string(self.template).render(fields))

    def score(self, answer: str, answers: tuple[str, ...], classes: tuple[str, ...]) -> float:
        """Return the published metric, 0 to 1. Error: `not-found` without its libraries."""
        try:
            from lm_eval.tasks.longbench import metrics
        except ImportError:
            refuse("not-found", "LongBench's metrics need jieba, rouge and fuzzywuzzy", "pip install 'lingraft[eval]'")
        for stop in self.until:
            answer = answer.split(stop)[0] if stop else answer
        doc = {"answers": list(answers), "all_classes": list(classes)}
        try:
            return float(getattr(metrics, self.metric)(doc, [answer])["score"])
        except IndexError:  # a retrieval answer that names no paragraph
            return 0.0


@cache
def published(dataset: str) -> Published | None:
    """Return how a data set of LongBench is asked, or None where that name is none of its own."""
    if not dataset.replace("-", "").replace("_", "").isalnum() or find_spec("lm_eval") is None:
        return None
    import lm_eval
    import yaml

    class Names(yaml.SafeLoader):
        """Reads `!function metrics.NAME` as its name; nothing is called."""

    Names.add_constructor("!function", lambda _, node: str(node.value))
    file = Path(lm_eval.__file__).parent / "tasks" / "longbench" / f"{dataset}.yaml"
    if not file.is_file():
        return None
    found = yaml.load(file.read_text(encoding="utf-8"), Names)
    settings = found.get("generation_kwargs") or {}
    return Published(
        str(found["doc_to_text"]),
        str(found["process_results"]).rpartition(".")[2],
        int(settings.get("max_gen_toks", 128)),
        tuple(settings.get("until") or ()),
    )
