"""What other tools leave that lingraft does not read: named all the same, with the way from there to what it reads."""

from __future__ import annotations

import re
from pathlib import Path

from lingraft.weights.kinds import Kind, is_megatron, is_mlx, kind_of, names_in, subfolders

DEEPEST = 4  # folders below a folder that are looked into for something known
MOST = 400  # folders looked at: a home directory must not take minutes
MLX_REMEDY = "fuse it on the machine that trained it: `mlx_lm.fuse --model BASE --adapter-path DIR`, and use the result"
# a file's name → what it is, and what to do
FILES: tuple[tuple[str, str, str], ...] = (
    (
        r".+\.nemo",
        "a NeMo archive",
        "export it with NeMo's own converter to Hugging Face's layout, and take that folder",
    ),
    (r".+\.(zip|tar|tgz|tar\.\w+|7z|rar)", "an archive", "unpack it, and name the folder that comes out of it"),
    (r".+\.onnx", "an ONNX model", "take the weights that it was exported from"),
    (
        r".+\.(engine|plan|mlpackage|mlmodel|tflite)",
        "a model compiled for one runtime",
        "take the weights that it was compiled from",
    ),
    (
        r".+\.(h5|keras|msgpack)|.+\.data-\d{5}-of-\d{5}",
        "a TensorFlow or Flax model",
        "load it with transformers 4 (from_tf or from_flax) and save it with save_pretrained",
    ),
    (r".+\.npz", "arrays of numpy or MLX", "save them as .safetensors"),
)


def foreign(path: Path) -> tuple[str, str] | None:
    """Return what a path of another tool is, and what to do with it; None where it is no tool's that is known here."""
    if not path.is_dir():
        return next(((what, remedy) for name, what, remedy in FILES if re.fullmatch(name, path.name.lower())), None)
    names = names_in(path)
    if is_mlx(names):
        return "an MLX adapter, whose matrices and scaling are not peft's", MLX_REMEDY
    if is_megatron(names):
        return (
            "a Megatron-LM checkpoint, whose matrices are cut and fused by its own rules",
            "export it with Megatron-Bridge to Hugging Face's layout, and take that folder",
        )
    found = next((told for name in sorted(names) if (told := foreign(path / name)) and (path / name).is_file()), None)
    return found and (f"a folder around {found[0]}", found[1])


def below(path: Path) -> list[tuple[Path, Kind]]:
    """List the nearest known things below a folder that is itself none; a tokenizer alone does not count."""
    found: list[tuple[Path, Kind]] = []
    level, looked = subfolders(path), 0
    for _ in range(DEEPEST):
        deeper: list[Path] = []
        for folder in level[: MOST - looked]:
            looked += 1
            kind = kind_of(folder)
            if kind in ("unknown", "tokenizer"):
                deeper += [f for f in subfolders(folder) if not f.is_symlink()]
            else:
                found.append((folder, kind))
        level = deeper
    return found
