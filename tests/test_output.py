"""Outputs are complete or absent."""

from pathlib import Path

import pytest

from lingraft.output import output_directory, output_file, require_space
from lingraft.problems import Refusal


def test_a_directory_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_directory(out) as partial:
        (partial / "a").write_text("1")
        assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("kept")
    with pytest.raises(KeyError), output_directory(out, overwrite=True) as partial:
        (partial / "a").write_text("1")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "kept"


def test_a_non_empty_directory_is_refused_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    with pytest.raises(Refusal) as error, output_directory(tmp_path):
        pass
    assert error.value.problems[0].code == "output-exists"


def test_leftovers_of_a_dead_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-999999999").mkdir()
    with output_file(tmp_path / "out") as partial:
        partial.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as error:
        require_space(tmp_path / "new" / "out", 10**18)
    assert error.value.problems[0].code == "no-space"
