"""Hub data sets are read through `datasets`: from a saved folder, from a hub, and plainly refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lingraft.data.files import expand
from lingraft.data.hub import Hub, hub_of
from lingraft.data.labelled import labelled
from lingraft.data.text import documents
from lingraft.problems import Findings, Refusal


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that `datasets` saved, with two splits and named classes."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["财经", "体育"])})
    rows = Dataset.from_dict({"text": ["一", "二"], "label": [1, 0]}, features=features)
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_folder_that_datasets_saved_is_read_by_its_training_split(saved: Path) -> None:
    found = documents([saved], Findings())
    assert [d.text for d in found] == ["一", "二"] and found[1].source == f"{saved}:2"


def test_numbers_of_classes_become_their_names(saved: Path) -> None:
    assert [i.label for i in labelled([saved], Findings())] == ["体育", "财经"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name:zh@test", ("owner/name", "zh", "test")),
        ("hub:wikitext", ("wikitext", None, None)),
        ("data/zh.jsonl", None),
        ("zh.txt", None),
        ("../a/b", None),
        ("/a/b", None),
        ("data/*.txt", None),
    ],
)
def test_what_is_a_path_and_what_an_id(given: str, wanted: Any) -> None:
    found = hub_of(given)
    assert (found and (found.name, found.config, found.split)) == wanted


def test_a_missing_path_below_a_folder_that_exists_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(Refusal) as refused:
        expand(["data/zh"], (".txt",))
    assert refused.value.problems[0].code == "not-found"


def test_a_data_set_is_read_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, config: Any, split: Any = None) -> Any:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"text": ["春"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    (found,) = documents(["owner/name:zh@test"], Findings())
    assert found.text == "春" and asked == [("owner/name", "zh", "test")]


def test_a_hub_that_cannot_be_reached_is_said_in_one_line() -> None:
    with pytest.raises(Refusal) as refused:
        list(Hub("owner/name", "owner/name").rows())
    (problem,) = refused.value.problems
    assert problem.code == "not-found" and "\n" not in problem.message and "owner/name" in problem.message
