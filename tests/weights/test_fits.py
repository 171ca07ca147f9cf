"""Does config.json fit the tensors: ids that have no row, and layers that predict further tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from inspect_parts import edit_json, look


@pytest.mark.parametrize(
    ("change", "problems", "warnings"),
    [
        ({"pad_token_id": 400}, ["config-mismatch"], []),
        ({"bos_token_id": 400}, [], ["config-mismatch"]),
        ({"eos_token_id": [2, 400]}, [], ["config-mismatch"]),
        ({"pad_token_id": 399, "eos_token_id": [399]}, [], []),
    ],
)
def test_an_id_past_the_last_row_is_told(
    tiny_untied: Path, tmp_path: Path, change: dict[str, object], problems: list[str], warnings: list[str]
) -> None:
    model = Path(shutil.copytree(tiny_untied, tmp_path / "m"))
    edit_json(model / "config.json", **change)
    findings = look(model)[1]
    assert ([p.code for p in findings.problems], [w.code for w in findings.warnings]) == (problems, warnings)


def test_layers_that_predict_further_tokens_count_where_the_config_names_them(
    tiny_untied: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_untied, tmp_path / "m"))
    edit_json(model / "config.json", num_hidden_layers=1)
    assert [p.code for p in look(model)[1].problems] == ["config-mismatch"]
    edit_json(model / "config.json", num_nextn_predict_layers=1)
    assert not look(model)[1].problems
