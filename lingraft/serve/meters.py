"""What a server counts for Prometheus, and one structured line a request on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Meters:
    """Counters of one server, in a registry of their own."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        more: dict[str, Any] = {"registry": self.registry, "namespace": "lingraft"}
        self.requests = Counter("requests", "Requests answered.", ["path", "status"], **more)
        self.tokens = Counter("tokens", "Tokens read (prompt) and written (completion).", ["model", "kind"], **more)
        self.seconds = Histogram("request_seconds", "Time of a whole answer.", ["path"], buckets=SECONDS, **more)
        self.first = Histogram("first_token_seconds", "Time to the first token of a stream.", buckets=SECONDS, **more)
        self.registry.register(_Now(running, waiting))  # type: ignore[arg-type, unused-ignore]

    def page(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return bytes(generate_latest(self.registry))


class _Now:
    """What is under way at the moment of asking."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.running, self.waiting = running, waiting

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the gauges."""
        return [
            GaugeMetricFamily("lingraft_running", "Answers under way.", self.running()),
            GaugeMetricFamily("lingraft_waiting", "Requests in line.", self.waiting()),
        ]


@dataclass
class Line:
    """What is known of one request, for its line in the log."""

    id: str
    path: str
    client: str
    started: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)

    def elapsed(self) -> float:
        """Return the seconds since the request came."""
        return time.monotonic() - self.started

    def write(self, status: int) -> None:
        """Write it; prompts and answers are in it only where the server was asked to log them."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
        told = {
            "time": stamp,
            "id": self.id,
            "client": self.client,
            "path": self.path,
            "status": status,
            "seconds": round(self.elapsed(), 3),
            **self.facts,
        }
        print(json.dumps(told, ensure_ascii=False), file=sys.stderr, flush=True)
