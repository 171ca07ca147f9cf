"""Bare weights: one .safetensors, .bin, .pt or .pth file, or a folder with such files and nothing that tells more.

Names in a trainer's or Meta's spelling come out as Hugging Face's (`names`); there is a config only where a
config.json lies beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights import meta_names, names, pickles, safetensors
from lingraft.weights.hf import read_config, side_files
from lingraft.weights.rotary import hf_from_pairs, reordered
from lingraft.weights.tensors import Checkpoint, Entry, Lazy
from lingraft.weights.tied import HEAD, is_copy

NAME = "state_dict"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# A trainer's, no weights.
STATE = (
    "optimizer",
    "scheduler",
    "training_args",
    "rng_state",
    "trainer_state",
    "scaler",
    "sampler",
)


def knows(path: Path) -> bool:
    """Tell whether a path is a weight file, or a folder with weight files."""
    return bool(_files(path))


def read(path: Path) -> Checkpoint:
    """Open a file, or all the weight files of a folder, lazily.

    Errors: those of the containers, `corrupt-file` where two files hold a tensor of the same name, and
    `unknown-format` for Meta's names without the number of heads.
    """
    findings, entries, arguments = Findings(), dict[str, Entry](), dict[str, Any]()
    for file in [path] if path.is_file() else _files(path):
        try:
            found, told = _open(file)
            arguments |= told
            if twice := sorted(entries.keys() & found.keys()):
                refuse(
                    "corrupt-file",
                    f"{file} holds {twice[0]}, which another file of {path} holds, too",
                    "name the file that you mean, not the folder",
                    file,
                    twice[0],
                )
            entries.update(found)
        except Refusal as refusal:
            findings.absorb(refusal)
    findings.settle()
    folder = path if path.is_dir() else path.parent
    beside = read_config(folder)
    config = beside or _config_of(arguments, entries)
    return Checkpoint(
        path,
        NAME,
        Lazy(_in_hf_layout(path, entries, config)),
        config,
        side_files(folder),
        unsaid=frozenset() if beside else meta_names.unsaid(arguments),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".safetensors" or (path.suffix in PICKLES and _is_pickle(path)) else []
    if not path.is_dir():
        return []
    files = [f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith((".", *STATE))]
    return [f for f in files if f.suffix == ".safetensors"] or [
        f for f in files if f.suffix in PICKLES and _is_pickle(f)
    ]


def _open(file: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Return a file's tensors, and the ``model_args`` that llama2.c's and nanoGPT's trainers save beside them."""
    if not _is_pickle(file):
        return safetensors.read_file(file).entries, {}
    content = pickles.load(file)
    told = content.get("model_args") if isinstance(content, Mapping) else None
    return pickles.state_dict(content, file), dict(told) if isinstance(told, Mapping) else {}


def _config_of(arguments: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Any]:
    plain = names.without_wrappers(entries)
    told = all(isinstance(arguments.get(key), int) for key in ("dim", "n_layers", "n_heads"))
    if not told or not names.is_meta(plain):
        return {}
    shapes = {name: entry.shape for name, entry in names.to_hf(plain).items()}
    tied = HEAD not in shapes or is_copy(Lazy(names.to_hf(plain)))
    return {**meta_names.config_from(arguments, shapes), "tie_word_embeddings": tied}


def _is_pickle(path: Path) -> bool:
    """Tell by the first bytes; an LFS pointer and an empty file count by their suffix."""
    with path.open("rb") as file:
        first = file.read(16)
    damaged = not first or first.startswith(b"version https:")
    return first.startswith((b"PK", b"\x80\x02")) or (damaged and path.suffix in PICKLES)


def _in_hf_layout(path: Path, entries: Mapping[str, Entry], config: Mapping[str, object]) -> dict[str, Entry]:
    plain = names.without_wrappers(entries)
    found = names.to_hf(plain)
    if not names.is_meta(plain):
        return found
    heads, kv = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if not isinstance(heads, int):
        refuse(
            "unknown-format",
            f"{path} has Meta's names, and nothing tells the number of heads that they are cut by",
            "put params.json beside consolidated.00.pth, or run `lingraft adopt`",
            path,
        )
    count = {"q_proj": heads, "k_proj": kv if isinstance(kv, int) else heads}
    return {
        name: reordered(entry, hf_from_pairs(entry.shape[0], count[name.split(".")[-2]]))
        if name.split(".")[-2] in count
        else entry
        for name, entry in found.items()
    }
