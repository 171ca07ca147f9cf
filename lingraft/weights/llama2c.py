"""llama2.c's .bin files: v0 (bare header), v1 (magic "ak42", fp32) and v2 (Q8_0 in groups), read and written.

The tensors of each kind lie layer by layer, one kind after the other, q and k in Meta's rotary layout. The
tokenizer lies in a file of its own (tokenizer.bin, tok512.bin …). Source: karpathy/llama2.c, export.py and run.c.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch

from lingraft.problems import refuse
from lingraft.weights.llama2c_tokenizer import tokenizer_files, tokenizer_for
from lingraft.weights.rotary import hf_from_pairs, reordered
from lingraft.weights.safetensors import view
from lingraft.weights.tensors import Checkpoint, Entry, Lazy, Tensor
from lingraft.weights.tied import EMBEDDING, HEAD

NAME = "llama2c"
MAGIC = 0x616B3432
NORMS = ("input_layernorm", "post_attention_layernorm")
MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
    "mlp.up_proj",
)
# What run.c takes for granted, and a header does not tell.
UNSAID = frozenset({"hidden_act", "rms_norm_eps", "rope_theta", "bos_token_id", "eos_token_id"})


@dataclass(frozen=True)
class Shape:
    """What a file's header says."""

    version: int
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    tied: bool
    group: int  # values that share one scale in v2

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def start(self) -> int:
        return 256 if self.version else 28

    def of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor by its Hugging Face name."""
        kind = name.split(".")[-2]
        if kind in ("norm", "input_layernorm", "post_attention_layernorm"):
            return (self.dim,)
        rows = {
            "q_proj": self.dim,
            "o_proj": self.dim,
            "down_proj": self.dim,
            "gate_proj": self.hidden,
            "up_proj": self.hidden,
            "embed_tokens": self.vocab,
            "lm_head": self.vocab,
        }
        columns = self.hidden if kind == "down_proj" else self.dim
        return rows.get(kind, self.kv_heads * self.head_dim), columns

    def order(self) -> Iterator[str]:
        """Give the tensors' names in the order of the file; ``freq_cis`` stands for v0's table of angles."""
        layers = range(self.layers)
        norms = [[f"model.layers.{i}.{kind}.weight" for i in layers] for kind in NORMS]
        matrices = [[f"model.layers.{i}.{kind}.weight" for i in layers] for kind in MATRICES]
        if self.version:
            yield from (*norms[0], *norms[1], "model.norm.weight", EMBEDDING)
            for part in matrices:
                yield from part
        else:
            yield from (EMBEDDING, *norms[0])
            for part in (*matrices[:4], norms[1], *matrices[4:]):
                yield from part
            yield from ("model.norm.weight", "freq_cis")
        if not self.tied:
            yield HEAD

    def quantised(self, name: str) -> bool:
        return self.version == 2 and not name.endswith("norm.weight")

    def nbytes(self, name: str) -> int:
        """Return how many bytes a tensor takes in the file."""
        if name == "freq_cis":
            return self.context * self.head_dim * 4
        count = prod(self.of(name))
        return count + count // self.group * 4 if self.quantised(name) else count * 4


def knows(path: Path) -> bool:
    """Tell whether a path is a llama2.c model: by its magic, or by a v0 header that explains the file's size."""
    return path.is_file() and path.suffix == ".bin" and _shape(path) is not None


def _shape(path: Path) -> Shape | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        raw = file.read(256)
    if len(raw) < 28:
        return None
    magic, version = struct.unpack_from("<Ii", raw)
    if magic == MAGIC and version in (1, 2) and len(raw) >= 41:
        dim, hidden, layers, heads, kv, vocab, context = struct.unpack_from("<7i", raw, 8)
        tied, group = bool(raw[36]), struct.unpack_from("<i", raw, 37)[0]
    else:
        dim, hidden, layers, heads, kv, vocab, context = struct.unpack_from("<7i", raw)
        version, tied, vocab, group = 0, vocab > 0, abs(vocab), 0
    sane = min(dim, hidden, layers, heads, kv, vocab, context) > 0 and dim % heads == 0 and heads % kv == 0
    if not sane or max(dim, hidden, vocab, context) > 1 << 24 or layers > 10_000 or (version == 2 and group < 1):
        return None
    shape = Shape(version, dim, hidden, layers, heads, kv, vocab, context, tied, group)
    # A v0 header has no magic: only a file that is nearly as long as it says is one (the rest may be cut off).
    whole = shape.start + sum(shape.nbytes(name) for name in shape.order())
    return shape if version or whole * 0.2 < size <= whole else None


def read(path: Path) -> Checkpoint:
    """Open a llama2.c file lazily, with the tokenizer that lies beside it. Errors: `truncated-file`, `corrupt-file`."""
    shape = _shape(path)
    if shape is None:
        refuse("unknown-format", f"{path} has no llama2.c header", "run `lingraft inspect` on it", path)
    places, at = {}, shape.start
    for name in shape.order():
        places[name] = at
        at += shape.nbytes(name)
    size = path.stat().st_size
    if size < at:
        cut = [name for name in places if places[name] + shape.nbytes(name) > size]
        refuse(
            "truncated-file",
            f"{path} has {size:,} of {at:,} bytes: {at - size:,} are missing, from {cut[0]} on",
            "download the file again",
            path,
            cut[0],
        )
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    entries = {name: _entry(mapped, shape, name, place) for name, place in places.items() if name != "freq_cis"}
    tokenizer = tokenizer_for(path, shape.vocab)
    return Checkpoint(
        path,
        NAME,
        Lazy(entries),
        _config(shape),
        unsaid=UNSAID,
        made=partial(tokenizer_files, tokenizer, shape.context) if tokenizer else dict,
    )


def _entry(mapped: mmap.mmap, shape: Shape, name: str, place: int) -> Entry:
    dims = shape.of(name)
    plain = Entry(
        torch.float32,
        dims,
        _quantised(mapped, shape, dims, place) if shape.quantised(name) else _plain(mapped, dims, place),
    )
    if ".q_proj." in name or ".k_proj." in name:
        return reordered(plain, hf_from_pairs(dims[0], shape.heads if ".q_proj." in name else shape.kv_heads))
    return plain


def _plain(mapped: mmap.mmap, dims: tuple[int, ...], place: int) -> Callable[[int, int | None], Tensor]:
    row = prod(dims[1:])

    def read_rows(start: int, stop: int | None) -> Tensor:
        count = (dims[0] if stop is None else min(stop, dims[0])) - start
        return view(mapped, torch.float32, count * row, place + start * row * 4).reshape(count, *dims[1:])

    return read_rows


def _quantised(
    mapped: mmap.mmap, shape: Shape, dims: tuple[int, ...], place: int
) -> Callable[[int, int | None], Tensor]:
    row, group, scales = dims[1], shape.group, place + prod(dims)

    def read_rows(start: int, stop: int | None) -> Tensor:
        count = (dims[0] if stop is None else min(stop, dims[0])) - start
        first, last = start * row // group, -(-(start + count) * row // group)  # groups may cross rows
        values = view(mapped, torch.int8, (last - first) * group, place + first * group).float().view(-1, group)
        factors = view(mapped, torch.float32, last - first, scales + first * 4)
        flat = (values * factors[:, None]).reshape(-1)
        skip = start * row - first * group
        return flat[skip : skip + count * row].reshape(count, row)

    return read_rows


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
