"""K-quants (Q4_K_M and its like), which the gguf package cannot write: llama.cpp's own llama-quantize does.

It is looked for on PATH, then in the Python package ik-llama-cpp-python (`pip install lingraft[kquants]`), whose
wheel brings one.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from lingraft.problems import refuse

TYPES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS")
NAME = "llama-quantize"
REMEDY = "try Q8_0 or Q4_0, which lingraft writes itself"


def find() -> Path | None:
    """Return llama-quantize from PATH, else from ik-llama-cpp-python, else None."""
    if found := shutil.which(NAME):
        return Path(found)
    spec = find_spec("ik_llama_cpp")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / NAME
        if program.is_file():
            return program
    return None


def require(kind: str) -> Path:
    """Return a quantiser. Error: `unknown-format` where there is none, with the way to get one."""
    found = find()
    if found is None:
        refuse(
            "unknown-format",
            f"{kind} is written by llama.cpp's {NAME}, and there is none on PATH",
            "pip install ik-llama-cpp-python (lingraft's extra `kquants`), or put llama.cpp's on PATH; Q8_0, Q5_1, "
            "Q5_0, Q4_1 and Q4_0 need neither",
        )
    return found


def quantise(program: Path, source: Path, out: Path, kind: str) -> None:
    """Write ``source`` (F32, F16 or BF16) as ``out`` of the type ``kind``.

    A row whose width a K-quant's block of 256 does not divide is stored in another type, by llama.cpp's own choice.
    Error: `unknown-format` with llama-quantize's last words where it fails.
    """
    command = [str(program), str(source), str(out), kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        refuse("unknown-format", f"{program} cannot be run: {error.strerror}", REMEDY, program)
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    if done.returncode or not out.is_file():
        refuse(
            "unknown-format",
            f"{program} could not write {kind}: {said[-1] if said else 'it said nothing'}",
            REMEDY,
            program,
        )
