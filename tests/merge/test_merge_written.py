"""What a merge writes: shards, index, dtype, receipt; whole or not at all; and other formats than Hugging Face's."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from merge_models import by_peft, codes, load_model, same, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lingraft.merge.lineage import Lineage, write_lineage
from lingraft.merge.merged import merged
from lingraft.problems import Findings
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.formats import open_checkpoint
from lingraft.weights.hf import read

ALL = {"target_modules": "all-linear"}


def test_shards_have_a_right_index_and_total_size(base, adapter, run):
    out = run(base(), adapter(base(), **ALL), shard_size="0.1MB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(out.glob("model-*.safetensors"))
    held = {name: f.name for f in files for name in safe_open(f, "pt").keys()}  # noqa: SIM118
    assert len(files) > 3 and index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(t.nbytes for f in files for t in load_file(f).values())
    assert all(sum(t.nbytes for t in load_file(f).values()) <= 100_000 or len(load_file(f)) == 1 for f in files)


def test_the_sharding_changes_no_fingerprint(base, adapter, run):
    made = adapter(base(), **ALL)
    prints = []
    for size in ("5GB", "100KB", "40KiB"):
        run(base(), made, shard_size=size, out=size)
        prints.append(run.answer["fingerprint"])
    assert len(set(prints)) == 1 == len({fingerprint(read(run(base(), made, out="x")).tensors), *prints})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_dtype_rounds_the_exact_result_once(base, adapter, run, dtype):
    made = adapter(base(), **ALL)
    exact = by_peft(base(), made)
    out = run(base(), made, dtype=str(dtype).removeprefix("torch."))
    assert same(dict(load_model(out).state_dict()), {name: t.to(dtype) for name, t in exact.items()})


def test_a_value_that_float16_cannot_hold_is_refused(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    file = made / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t * 1e4 for n, t in tensors.items()}, file)
    assert codes(lambda: run(base(), made, dtype="float16")) == {"non-finite"}
    assert run(base(), made, dtype="bfloat16").is_dir()


def test_a_nan_of_the_base_is_refused(base, adapter, run, tmp_path):
    made = adapter(base(), target_modules=["q_proj"])
    broken = tmp_path / "broken"
    broken.mkdir()
    tensors = load_file(base() / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    (broken / "config.json").write_bytes((base() / "config.json").read_bytes())
    assert codes(lambda: run(broken, made)) == {"non-finite"}


def test_the_receipt_tells_base_adapters_result_versions_and_cost(base, adapter, run):
    made = adapter(base(), **ALL, modules_to_save=["lm_head"])
    out = run(base(), made, command=("lingraft", "merge"))
    told = json.loads((out / "manifest.json").read_text())
    assert told["base"]["fingerprint"] == fingerprint(read(base()).tensors)
    assert told["fingerprint"] == run.answer["fingerprint"] == fingerprint(read(out).tensors)
    assert told["adapters"][0]["fingerprint"] == fingerprint(open_checkpoint(made).tensors)
    assert told["applied"] == [{"adapter": str(made), "tensors": 29, "low_rank": 14, "replaced": 1, "rows": 0}]
    assert told["seconds"] > 0 and told["peak_memory"] > 0 and told["command"] == ["lingraft", "merge"]
    assert {"lingraft", "torch", "peft", "transformers"} <= told["versions"].keys()


def test_a_base_that_is_not_what_its_receipt_says_is_refused(base, adapter, run):
    made = adapter(base(), "one", **ALL)
    out = run(base(), made)
    tensors = load_file(out / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    other = adapter(base(), "two", seed=5, target_modules=["v_proj"])
    assert codes(lambda: run(out, other, out="again")) == {"fingerprint-mismatch"}


def test_a_lazy_result_equals_the_written_one_and_writes_nothing(base, adapter, run, tmp_path):
    made = adapter(base(tied=True), **ALL, modules_to_save=["embed_tokens", "lm_head"])
    before = sorted(tmp_path.iterdir())
    lazy = merged(read(base(tied=True)), [made], Findings())
    assert fingerprint(lazy.tensors) and sorted(tmp_path.iterdir()) == before
    run(base(tied=True), made)
    assert fingerprint(lazy.tensors) == run.answer["fingerprint"]


def test_a_full_disk_is_refused_before_anything_is_written(base, adapter, run, monkeypatch, tmp_path):
    import shutil

    made = adapter(base(), **ALL)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    assert codes(lambda: run(base(), made)) == {"no-space"}
    assert not (tmp_path / "out").exists()


def test_a_file_that_may_not_grow_is_told_as_a_full_disk_is(base, adapter, run, tmp_path):
    resource = pytest.importorskip("resource", reason="limits of files are Unix's")
    made = adapter(base(), **ALL)
    before = sorted(tmp_path.iterdir())
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
    try:
        found = codes(lambda: run(base(), made))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert found == {"no-space"} and sorted(tmp_path.iterdir()) == before


def test_a_write_that_fails_leaves_nothing_behind(base, adapter, run, monkeypatch, tmp_path):
    import errno

    from lingraft.weights import stream

    made = adapter(base(), **ALL)
    before = sorted(tmp_path.iterdir())

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stream.os, "write", full)
    assert codes(lambda: run(base(), made)) == {"no-space"}
    assert sorted(tmp_path.iterdir()) == before


HALF_A_MERGE = """
import signal, sys, threading
from pathlib import Path
from lingraft.merge.run import merge
from lingraft.problems import Findings
from lingraft.weights import stream
whole, heard = stream._block, threading.Event()
def held(*a):
    print("go", flush=True); heard.wait(); return whole(*a)
def interrupted(*a):
    heard.set(); signal.default_int_handler(*a)
stream._block = held
signal.signal(signal.SIGINT, interrupted)
merge(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]), findings=Findings())
"""


@pytest.mark.slow
def test_an_interrupted_merge_leaves_nothing_behind(base, adapter, tmp_path):
    """No block is ready before the interruption, so it always comes in the middle."""
    made = adapter(base(), **ALL)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", HALF_A_MERGE, base(), made, tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"go\n"
        assert len(sorted(tmp_path.iterdir())) > len(before)
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate()[1] and process.returncode
    assert sorted(tmp_path.iterdir()) == before


def test_the_leftovers_of_a_killed_merge_are_removed_by_the_next(base, adapter, run, tmp_path):
    left = tmp_path / ".out.partial-999999"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    run(base(), adapter(base(), **ALL))
    assert not left.exists()


def test_a_merged_model_can_be_written_as_gguf_and_reads_back_the_same(base, adapter, run):
    made = adapter(base(), **ALL)
    out = run(base(), made, to="gguf", out="model.gguf")
    exact, back = by_peft(base(), made), open_checkpoint(out).tensors
    assert all(torch.equal(exact[name], back[name]) for name in back)
    assert json.loads(out.with_name("model.gguf.manifest.json").read_text())["choices"]["to"] == "gguf"


@pytest.mark.parametrize("option", [{"dtype": "int3"}, {"shard_size": "big"}, {"shard_size": "0GB"}])
def test_an_option_that_means_nothing_is_refused(base, adapter, run, option):
    assert codes(lambda: run(base(), adapter(base(), **ALL), **option)) == {"recipe-invalid"}


def test_an_adapter_is_no_base_and_no_format(base, adapter, run):
    made = adapter(base(), **ALL)
    assert codes(lambda: run(made, made)) == {"unknown-format"}
    assert codes(lambda: run(base(), made, to="adapter")) == {"unknown-format"}


def test_what_is_missing_is_not_found(base, adapter, run, tmp_path):
    assert codes(lambda: run(base(), tmp_path / "nowhere")) == {"not-found"}
    assert codes(lambda: run(tmp_path / "nowhere", adapter(base(), **ALL))) == {"not-found"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(adapter, tmp_path):
    """Anonymous memory above torch stays under 300 MB for a base of 400 MB that grows to 600 MB."""
    model = tiny("llama")
    config = model.config.to_dict() | {"vocab_size": 50000, "hidden_size": 1024, "intermediate_size": 2816}
    import transformers as t

    big = t.LlamaForCausalLM(t.LlamaConfig(**{k: v for k, v in config.items() if k != "head_dim"}))
    big.save_pretrained(tmp_path / "base")
    made = adapter(tmp_path / "base", on=big, r=16, **ALL, modules_to_save=["embed_tokens", "lm_head"])
    peaks = [
        _anonymous(["-c", "import torch, time; torch.ones(1); time.sleep(0.3)"]),
        _anonymous(["-m", "lingraft", "merge", str(tmp_path / "base"), str(made), "--out", str(tmp_path / "out")]),
    ]
    assert peaks[1] - peaks[0] < 300e6


def _anonymous(command: list[str]) -> int:
    process, peak = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL), 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.005)
    assert process.returncode == 0
    return peak


def test_a_lineage_changes_positions_in_the_config_and_nothing_else(base, adapter, run):
    folder = base()
    made = adapter(folder, target_modules=["q_proj"])
    config = {"max_position_embeddings": 128, "auto_map": {"AutoModel": "evil.Evil"}}
    chain = Lineage(fingerprint(open_checkpoint(folder).tensors), str(folder), (), config=config)
    write_lineage(made, chain)
    told = json.loads((run(folder, made) / "config.json").read_text())
    assert told["max_position_embeddings"] == 128 and "auto_map" not in told


@pytest.mark.parametrize("where", ["base", ".", "adapter"])
def test_what_a_result_is_made_from_is_never_overwritten(base, adapter, run, tmp_path, where):
    made = adapter(base(), target_modules=["q_proj"])
    shutil.copytree(base(), tmp_path / "base")
    assert codes(lambda: run(tmp_path / "base", made, out=where, overwrite=True)) == {"output-exists"}
    assert (tmp_path / "base" / "model.safetensors").is_file() and made.is_dir()


def test_a_base_in_the_folder_of_its_adapter_is_the_base(base, adapter, run):
    made = adapter(base(), target_modules=["q_proj"])
    shutil.copytree(base(), made, dirs_exist_ok=True)
    assert same(load_model(run(made, made)).state_dict(), by_peft(base(), made))


@pytest.mark.parametrize("fields", [{"torch_dtype"}, {"dtype"}, {"torch_dtype", "dtype"}])
def test_every_name_of_the_dtype_in_the_config_says_what_is_stored(base, adapter, run, tmp_path, fields):
    below = shutil.copytree(base(), tmp_path / "base")
    config = json.loads((below / "config.json").read_text())
    config = {k: v for k, v in config.items() if "dtype" not in k} | dict.fromkeys(fields, "float32")
    (below / "config.json").write_text(json.dumps(config))
    out = run(below, adapter(below, target_modules=["q_proj"]), dtype="bfloat16")
    told = json.loads((out / "config.json").read_text())
    assert {k: told[k] for k in told if "dtype" in k} == dict.fromkeys(fields, "bfloat16")
    assert load_model(out).dtype == torch.bfloat16


def with_tensors(base: Path, out: Path, **changes: torch.Tensor) -> Path:
    """Copy a base; dots in the names of new tensors are written as two underscores."""
    shutil.copytree(base, out)
    tensors = load_file(base / "model.safetensors") | {n.replace("__", "."): t for n, t in changes.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_tensors_of_every_dtype_and_shape_pass_through_as_they_are(base, adapter, run, tmp_path):
    odd = {
        "extra__scalar": torch.tensor(3.5),
        "extra__empty": torch.zeros(0, 4),
        "extra__integers": torch.arange(6),
        "extra__flags": torch.tensor([True, False]),
        "extra__eighths": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "extra__double": torch.randn(3).double(),
    }
    below = with_tensors(base(), tmp_path / "base", **odd)
    ours = load_file(run(below, adapter(base(), target_modules=["q_proj"])) / "model.safetensors")
    for name, value in odd.items():
        found = ours[name.replace("__", ".")]
        assert found.dtype == value.dtype and torch.equal(found.float(), value.float())


def test_a_matrix_in_float8_is_added_to_in_float32(base, adapter, run, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    eighths = load_file(base() / "model.safetensors")[name].to(torch.float8_e4m3fn)
    below = with_tensors(base(), tmp_path / "base", **{name.replace(".", "__"): eighths})
    made = adapter(with_tensors(base(), tmp_path / "plain", **{name.replace(".", "__"): eighths.float()}))
    theirs = by_peft(tmp_path / "plain", made)[name]
    assert torch.equal(load_file(run(below, made, dtype="float32") / "model.safetensors")[name], theirs)


def test_a_base_in_fp8_with_scales_is_refused(base, adapter, run, tmp_path):
    below = with_tensors(
        base(), tmp_path / "base", model__layers__0__self_attn__q_proj__weight_scale_inv=torch.ones(1, 1)
    )
    assert codes(lambda: run(below, adapter(base()))) == {"unknown-format"}
