"""How a model is found by what a user calls it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from lingraft.models import locate


def test_a_folder_of_the_hubs_cache_stands_for_the_snapshot_of_its_main(tmp_path: Path) -> None:
    home = tmp_path / "models--owner--name"
    for commit in ("0" * 40, "1" * 40):
        (home / "snapshots" / commit).mkdir(parents=True)
        (home / "snapshots" / commit / "config.json").write_text("{}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    theirs = try_to_load_from_cache("owner/name", "config.json", cache_dir=tmp_path)
    assert locate(home) == Path(str(theirs)).parent
