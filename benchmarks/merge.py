"""How fast and how small a merge is: lingraft against peft and against a plain copy of the base, in one run.

    python benchmarks/merge.py [--shape 0.9b|7b|tiny] [--dir DIR] [--rounds 3] [--rest 10] [--without peft]

Base: random bf16 weights in four shards. Adapter: r=64 on all seven linear layers, embedding and head at 55,296 rows
in fp32. Every contestant is a process of its own, imports included. Before each the output of the last is deleted, the
inputs are read into the page cache, and the machine rests: who starts at once inherits the deleted output's memory,
which on a virtual machine makes a copy several times faster than it is otherwise.
`cp` is a copy of the base's folder and a sync. Memory is the peak of RssAnon, above that of an interpreter that has
imported torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from lingraft.output import write_json
from lingraft.weights.hf import write_weights
from lingraft.weights.tensors import Entry, Lazy

SHAPES = {
    "tiny": {"hidden": 256, "ffn": 704, "kv": 64, "layers": 4, "vocab": 4000, "rows": 5000},
    "0.9b": {"hidden": 2048, "ffn": 5632, "kv": 256, "layers": 18, "vocab": 32000, "rows": 55296},
    "7b": {"hidden": 4096, "ffn": 11008, "kv": 4096, "layers": 32, "vocab": 32000, "rows": 55296},
}
RANK = 64
PEFT = """
import sys, torch, peft, transformers
base, adapter, out, rows = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
model.resize_token_embeddings(int(rows), mean_resizing=False)
peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""


def linears(shape: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """Yield name, out and in of the seven linear layers of every block."""
    hidden, ffn, kv = shape["hidden"], shape["ffn"], shape["kv"]
    for layer in range(shape["layers"]):
        for name, out, into in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ):
            yield f"model.layers.{layer}.{name}", out, into


def drawn(rows: int, columns: int, dtype: torch.dtype, scale: float, seed: int) -> Entry:
    """Return a random tensor that is drawn block by block when it is read."""

    def read(start: int, stop: int | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        return (torch.randn((stop or rows) - start, columns, generator=generator) * scale).to(dtype)

    return Entry(dtype, (rows, columns), read)


def ones(columns: int) -> Entry:
    """Return the weight of a norm."""

    def read(start: int, stop: int | None) -> torch.Tensor:
        return torch.ones((stop or columns) - start, dtype=torch.bfloat16)

    return Entry(torch.bfloat16, (columns,), read)


def make_base(folder: Path, shape: dict[str, int]) -> None:
    """Write the base: a Llama with random weights, in four shards."""
    hidden, entries = shape["hidden"], {}
    entries["model.embed_tokens.weight"] = drawn(shape["vocab"], hidden, torch.bfloat16, 0.02, 1)
    for seed, (name, out, into) in enumerate(linears(shape), 10):
        if name.endswith("q_proj"):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                entries[f"{name.removesuffix('.self_attn.q_proj')}.{norm}.weight"] = ones(hidden)
        entries[f"{name}.weight"] = drawn(out, into, torch.bfloat16, 0.02, seed)
    entries["model.norm.weight"] = ones(hidden)
    entries["lm_head.weight"] = drawn(shape["vocab"], hidden, torch.bfloat16, 0.02, 2)
    total = sum(entry.nbytes for entry in entries.values())
    folder.mkdir(parents=True)
    write_weights(Lazy(entries), folder, shard_size=int(total / 3.9))
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": hidden,
            "vocab_size": shape["vocab"],
            "intermediate_size": shape["ffn"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": hidden // 128 or 1,
            "num_key_value_heads": shape["kv"] // 128 or 1,
            "head_dim": min(128, hidden),
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
        },
    )


def make_adapter(folder: Path, shape: dict[str, int]) -> None:
    """Write the adapter: its embedding and head start from the base's rows, as training would leave them."""
    entries = {}
    for seed, (name, out, into) in enumerate(linears(shape), 1000):
        entries[f"base_model.model.{name}.lora_A.weight"] = drawn(RANK, into, torch.float32, 0.02, seed)
        entries[f"base_model.model.{name}.lora_B.weight"] = drawn(out, RANK, torch.float32, 0.01, seed + 5000)
    for name, seed in (("model.embed_tokens", 1), ("lm_head", 2)):
        entries[f"base_model.model.{name}.weight"] = trained(shape, seed)
    folder.mkdir(parents=True)
    write_weights(Lazy(entries), folder, shard_size=1 << 60, stem="adapter_model")
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "r": RANK,
            "lora_alpha": 128,
            "fan_in_fan_out": False,
            "target_modules": sorted({n.rpartition(".")[2] for n, _, _ in linears(shape)}),
            "modules_to_save": ["embed_tokens", "lm_head"],
            "task_type": "CAUSAL_LM",
            "bias": "none",
            "base_model_name_or_path": None,
            "inference_mode": True,
            "lora_dropout": 0.0,
            "peft_version": "0.21.2",
        },
    )


def trained(shape: dict[str, int], seed: int) -> Entry:
    """Return the rows of the base a little moved, and new ones behind."""
    old, moved = drawn(shape["vocab"], shape["hidden"], torch.bfloat16, 0.02, seed), 0.001

    def read(start: int, stop: int | None) -> torch.Tensor:
        stop = shape["rows"] if stop is None else stop
        block = torch.randn(stop - start, shape["hidden"], generator=torch.Generator().manual_seed(start + seed)) * 0.02
        if start < shape["vocab"]:
            kept = old_rows(old, start, min(stop, shape["vocab"]))
            block[: len(kept)] = kept.float() + moved * block[: len(kept)]
        return block

    return Entry(torch.float32, (shape["rows"], shape["hidden"]), read)


def old_rows(entry: Entry, start: int, stop: int) -> torch.Tensor:
    """Read rows of a drawn tensor by the very blocks in which it was written."""
    from lingraft.weights.stream import BLOCK
    from lingraft.weights.tensors import row_blocks

    parts = [(a, entry.shape[0] if b is None else b) for a, b in row_blocks(entry.shape, 4, BLOCK)]
    return torch.cat([entry.read(a, b)[max(start - a, 0) : stop - a] for a, b in parts if a < stop and b > start])


def anonymous(pid: int) -> int:
    """Return the anonymous memory of a process in bytes, 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def timed(command: list[str], threads: str) -> tuple[float, int]:
    """Run a process; return its seconds and the peak of its anonymous memory in bytes."""
    started, peak = time.monotonic(), 0
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **({"OMP_NUM_THREADS": threads} if threads else {})}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.005)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[:4]} failed:\n{log.read().decode()[-3000:]}")
    return time.monotonic() - started, peak


def prepare(folder: Path, rest: float) -> None:
    """Let the machine rest, then bring every file of a folder into the page cache."""
    os.sync()
    time.sleep(rest)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb", buffering=0) as handle:
                while handle.read(64 << 20):
                    pass


def contest(
    work: Path, shape: dict[str, int], rounds: int, without: list[str], threads: str, rest: float
) -> dict[str, tuple[float, int]]:
    """Let every contestant run ``rounds`` times in turn; the median time and the largest memory count."""
    base, adapter, out = work / "base", work / "adapter", work / "out"
    commands: dict[str, Callable[[], list[str]]] = {
        "cp + sync": lambda: ["sh", "-c", f"cp -r {base} {out} && sync"],
        "lingraft": lambda: [sys.executable, "-m", "lingraft", "merge", str(base), str(adapter), "--out", str(out)],
        "peft": lambda: [sys.executable, "-c", PEFT, str(base), str(adapter), str(out), str(shape["rows"])],
    }
    results: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            if name in without:
                continue
            shutil.rmtree(out, ignore_errors=True)
            prepare(work, rest)
            seconds, memory = timed(command(), threads)
            results.setdefault(name, []).append((seconds, memory))
            print(f"  {name}: {seconds:.2f} s, {memory / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    shutil.rmtree(out, ignore_errors=True)
    return {name: (median(s for s, _ in runs), max(m for _, m in runs)) for name, runs in results.items()}


def main() -> None:
    """Make the inputs, run the contest, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.9b")
    parser.add_argument("--dir", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", action="append", default=[], help="leave a contestant out")
    parser.add_argument("--rest", type=float, default=10, help="seconds of rest before each")
    parser.add_argument("--threads", default="", help="OMP_NUM_THREADS of every contestant")
    given = parser.parse_args()
    shape, work = SHAPES[given.shape], given.dir or Path(tempfile.mkdtemp(prefix="merge-benchmark-"))
    if not (work / "base").exists():
        make_base(work / "base", shape)
        make_adapter(work / "adapter", shape)
    size = sum(file.stat().st_size for file in (work / "base").iterdir())
    torch_alone = timed([sys.executable, "-c", "import torch; torch.ones(1)"], given.threads)[1]
    results = contest(work, shape, given.rounds, given.without, given.threads, given.rest)
    copy = results["cp + sync"][0]
    print(
        f"\nbase {size / 1e9:.2f} GB bf16, adapter r={RANK} on seven linears, embedding and head "
        f"{shape['rows']:,} rows fp32"
    )
    print(f"{'':12} {'seconds':>8} {'× cp':>6} {'anonymous memory above torch':>30}")
    for name, (seconds, memory) in results.items():
        print(f"{name:12} {seconds:8.2f} {seconds / copy:6.2f} {max(0, memory - torch_alone) / 1e6:27,.0f} MB")
    if "peft" in results:
        print(f"lingraft is {results['peft'][0] / results['lingraft'][0]:.1f} × faster than peft")
    print(json.dumps({name: {"seconds": round(s, 3), "anonymous": m} for name, (s, m) in results.items()}))
    if given.dir is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
