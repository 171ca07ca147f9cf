"""The command line: exit codes, one JSON object on stdout, nothing heavy before it is needed."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "lingraft"]


def lingraft(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload, no-any-return]


def test_version_answers() -> None:
    done = lingraft("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("lingraft 0.")


@pytest.mark.parametrize("module", ["torch", "transformers", "pydantic", "rich", "numpy"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys; sys.argv=['lingraft', '--help']\nfrom lingraft.cli import app\ntry: app()\n"
        f"except SystemExit: pass\nassert {module!r} not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_wrong_usage_is_exit_2() -> None:
    assert lingraft("nonsense").returncode == 2
    assert lingraft("inspect").returncode == 2
    assert lingraft("inspect", "x", "--allow", "no-such-code").returncode == 2
    unknown = lingraft("plan", "x", "--hardware", "abacus")
    assert unknown.returncode == 2 and "RTX 4090" in unknown.stderr


@pytest.mark.parametrize("adapters", [["a,b"], ["(a,", "b)"], ["a,", "b"]])
def test_adapters_joined_by_commas_are_exit_2_with_the_right_command(adapters: list[str]) -> None:
    done = lingraft("merge", "base", *adapters, "--out", "o")
    assert done.returncode == 2
    assert "lingraft merge base a b --out o" in " ".join(done.stderr.split())


def test_a_missing_path_is_a_problem_with_a_remedy_and_exit_1() -> None:
    done = lingraft("inspect", "./no/such/path", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert not told["ok"]
    assert told["problems"][0]["code"] == "not-found"
    assert told["problems"][0]["remedy"]


def test_a_recipe_with_a_typing_mistake_is_refused_by_path(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\nbase: b\nout: o\npretain: {data: d}\n")
    done = lingraft("run", tmp_path / "r.yaml", "--json")
    assert done.returncode == 1
    assert "did you mean 'pretrain'?" in json.loads(done.stdout)["problems"][0]["message"]


def test_new_copies_a_recipe_and_refuses_to_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "my.yaml"
    assert lingraft("new", "quickstart", target).returncode == 0
    assert target.read_text(encoding="utf-8").startswith("# The main job")
    assert lingraft("new", "quickstart", target).returncode == 1
    assert lingraft("new", "nothing", tmp_path / "x.yaml").returncode == 1


def test_wrong_usage_under_json_leaves_one_object_on_stdout() -> None:
    done = lingraft("run", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["ok"] is False
    assert "Missing argument" in done.stderr


def test_the_next_command_works_in_a_shell_though_a_path_has_spaces(tmp_path: Path) -> None:
    answer = json.loads(lingraft("new", "quickstart", tmp_path / "我的 r.yaml", "--json").stdout)
    assert shlex.split(answer["next"]) == ["lingraft", "check", str(tmp_path / "我的 r.yaml")]


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    done = lingraft("evaluate", tmp_path / "no-model", "--report", tmp_path, "--json")
    assert [p["code"] for p in json.loads(done.stdout)["problems"]] == ["output-exists"]


def test_every_verb_but_chat_takes_json() -> None:
    import typer

    from lingraft.cli import app

    verbs = vars(typer.main.get_command(app))["commands"]
    without = {name for name, verb in verbs.items() if not any("--json" in p.opts for p in verb.params)}
    assert without == {"chat"}
