"""Torch pickles: torch.save is the judge of what comes out, and nothing in a file ever runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from weights_judges import codes, every_dtype, same

from lingraft.problems import Refusal
from lingraft.weights import pickles


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_and_layout_comes_out_as_torch_saved_it(tmp_path: Path, zipped: bool) -> None:
    tensors = every_dtype()
    torch.save(tensors, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    assert same(pickles.read_file(tmp_path / "w.bin"), tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_block_of_rows_is_the_same_block(tmp_path: Path, zipped: bool) -> None:
    torch.save(every_dtype(), tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    found = pickles.read_file(tmp_path / "w.bin")
    assert torch.equal(found.entries["transposed"].read(2, 5), every_dtype()["transposed"][2:5])


def test_a_modules_own_state_dict_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "w.pth")  # an OrderedDict with attributes
    assert same(pickles.read_file(tmp_path / "w.pth"), module.state_dict())


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "net"])
def test_weights_below_a_trainers_key_are_found(tmp_path: Path, key: str) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}}
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3, "optimizer": optimizer}, tmp_path / "w.pt")
    assert list(pickles.read_file(tmp_path / "w.pt")) == ["a"]


def test_a_zip_that_was_packed_again_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(9.0)}, tmp_path / "w.pt")
    packed = zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "w.pt") as old, packed as new:
        for item in old.namelist():
            new.writestr(item, old.read(item))
    assert torch.equal(pickles.read_file(tmp_path / "x.pt")["a"], torch.arange(9.0))


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def evil_files(folder: Path) -> list[Path]:
    """Write the same attack as a zip, an old torch file and a plain pickle."""
    evil = {"a": torch.ones(2), "x": Evil(folder / "ran")}
    torch.save(evil, folder / "zip.bin")
    torch.save(evil, folder / "old.bin", _use_new_zipfile_serialization=False)
    (folder / "plain.bin").write_bytes(pickle.dumps(Evil(folder / "ran")))
    return [folder / "zip.bin", folder / "old.bin", folder / "plain.bin"]


def test_a_pickle_that_would_run_a_command_is_refused_by_name_and_runs_nothing(tmp_path: Path) -> None:
    for file in evil_files(tmp_path):
        with pytest.raises(Refusal) as refusal:
            pickles.read_file(file)
        assert codes(refusal) == ["unsafe-pickle"] and "system" in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_names_that_torch_allows_elsewhere_do_not_open_a_door(tmp_path: Path) -> None:
    nested = b"\x80\x02ctorch.serialization\nload\nX\x01\x00\x00\x00x\x85R."
    (tmp_path / "w.bin").write_bytes(nested)
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "w.bin")
    assert codes(refusal) == ["unsafe-pickle"]


def test_calling_what_a_name_returned_opens_no_door_either(tmp_path: Path) -> None:
    steps = b"\x80\x02cbuiltins\ngetattr\ncos\npath\nX\x06\x00\x00\x00system\x86RX\x04\x00\x00\x00true\x85R."
    torch.save({"a": torch.ones(2)}, tmp_path / "w.bin")
    with zipfile.ZipFile(tmp_path / "w.bin") as old, zipfile.ZipFile(tmp_path / "x.bin", "w") as new:
        for item in old.namelist():
            new.writestr(item, steps if item.endswith("data.pkl") else old.read(item))
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "x.bin")
    assert codes(refusal) == ["unsafe-pickle"] and "getattr" in str(refusal.value)


def test_a_tensor_that_reaches_beyond_its_storage_is_damage(tmp_path: Path) -> None:
    torch.save({"a": torch.as_strided(torch.ones(4), (4,), (1,))}, tmp_path / "w.bin")
    with zipfile.ZipFile(tmp_path / "w.bin") as old, zipfile.ZipFile(tmp_path / "x.bin", "w") as new:
        for item in old.namelist():
            raw = old.read(item)
            new.writestr(item, raw.replace(b"K\x04\x85", b"K\x7f\x85") if item.endswith("data.pkl") else raw)
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "x.bin")
    assert codes(refusal) == ["corrupt-file"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.999, 0.8, 0.5, 0.1])
def test_a_truncated_file_is_told_as_one(tmp_path: Path, zipped: bool, kept: float) -> None:
    torch.save({"a": torch.randn(50, 50)}, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    raw = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "w.bin")
    assert codes(refusal) == ["truncated-file"]


def test_an_lfs_pointer_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "w.bin")
    assert codes(refusal) == ["lfs-pointer"]


def test_an_encrypted_archive_is_unreadable_and_says_to_decrypt_it(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(4, 4)}, tmp_path / "w.pt")
    raw = (tmp_path / "w.pt").read_bytes()
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # what `zip -P` sets, member by member
        parts = raw.split(mark)
        inner = (part[: flags - 4] + bytes([part[flags - 4] | 1]) + part[flags - 3 :] for part in parts[1:])
        raw = mark.join([parts[0], *inner])
    (tmp_path / "w.pt").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "w.pt") as archive, pytest.raises(RuntimeError, match="password"):
        archive.read("w/data.pkl")
    with pytest.raises(Refusal) as refusal:
        pickles.read_file(tmp_path / "w.pt")
    assert codes(refusal) == ["unreadable"] and "decrypt" in refusal.value.problems[0].remedy
