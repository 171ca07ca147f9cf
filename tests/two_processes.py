"""Two processes on this machine's CPU, and what their scripts do before DeepSpeed starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def launched(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a script, or a module, in two processes."""
    with socket.socket() as free:  # DeepSpeed names its shared memory by the port, so it must be a real one
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *map(str, arguments)], env=environment, stdout=pipe, stderr=pipe, text=True)


def through_gloo() -> None:
    """Keep DeepSpeed from compiling its own exchange through shared memory, a minute's work: gloo does it, too."""
    backend: Any = import_module("deepspeed.comm.torch")  # as an attribute the name is torch itself
    assert backend.build_shm_op
    backend.build_shm_op = lambda: None
