"""A training that dies by kill -9 where a test says, however busy the machine is."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


def dies(step: int, delay: float = 0.0) -> None:
    """Have this process killed ``delay`` seconds after it took ``step``; it never gets further than two steps more."""
    from lingraft.train.watch import Watch

    whole = Watch.on_step_end

    def dying(self: Watch, args: Any, state: Any, *more: Any, **named: Any) -> Any:
        if state.global_step == step:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if state.global_step > step + 2:
            threading.Event().wait()
        return whole(self, args, state, *more, **named)

    Watch.on_step_end = dying  # type: ignore[method-assign]
