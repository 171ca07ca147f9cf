"""`lingraft push`: huggingface_hub's own client against a Hub on this machine, and the card it is given."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard

from lingraft.export.push import push
from lingraft.problems import Findings, Refusal

Make = Callable[..., Path]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload meets: create, preupload, LFS batch and storage, commit."""

    server: Any

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store: dict[str, Any] = self.server.store
        if self.headers.get("Authorization") != "Bearer hf_good":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            store["created"] = json.loads(body)
            self._answer({"url": f"{self.server.url}/me/zh", "name": "me/zh"})
        elif "/preupload/" in self.path:
            self._answer(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "shouldIgnore": False,
                            "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".gguf")) else "regular",
                        }
                        for f in json.loads(body)["files"]
                    ]
                }
            )
        elif self.path.endswith("/objects/batch"):
            self._answer(
                {
                    "transfer": "basic",
                    "objects": [
                        {**o, "actions": {"upload": {"href": f"{self.server.url}/store/{o['oid']}", "header": {}}}}
                        for o in json.loads(body)["objects"]
                    ],
                }
            )
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            store["files"] = {line["value"]["path"]: line["value"] for line in lines if line["key"] != "header"}
            self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.server.url}/me/zh/commit/1"})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self.server.store[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"error": "not here"}, 404)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A Hub on a free port of this machine, and huggingface_hub pointed at it; what it stores is the fixture."""
    from huggingface_hub import HfApi, constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    server.store = {}  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)  # type: ignore[attr-defined]
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)  # type: ignore[attr-defined]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", server.url, raising=False)  # type: ignore[attr-defined]
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert HfApi().endpoint == server.url  # type: ignore[attr-defined]
    yield server.store  # type: ignore[attr-defined]
    server.shutdown()


def sent(hub: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(hub["files"][name]["content"])


def test_every_file_reaches_the_hub(hub: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    told = push(model, "me/zh", private=True, licence="mit", findings=Findings())
    assert told["url"].endswith("/me/zh") and hub["created"]["visibility"] == "private"
    assert set(hub["files"]) == {f["path"] for f in told["files"]} == {*(p.name for p in model.iterdir()), "README.md"}
    assert hub[hub["files"]["model.safetensors"]["oid"]] == (model / "model.safetensors").read_bytes()
    assert ModelCard(sent(hub, "README.md").decode()).data.license == "mit"


def test_receipts_lose_the_folders_of_this_machine(
    hub: dict[str, Any], tiny_llama: Path, adapter: Make, tmp_path: Path
) -> None:
    from lingraft.merge.run import merge

    made = adapter(tiny_llama)
    merge(tiny_llama, [made], tmp_path / "merged", findings=Findings(), command=["lingraft", "merge", str(tiny_llama)])
    push(tmp_path / "merged", "me/zh", findings=Findings())
    push_of_model = sent(hub, "manifest.json").decode()
    push(made, "me/zh", base="owner/base", findings=Findings())
    config = json.loads(sent(hub, "adapter_config.json"))
    assert str(tmp_path) not in push_of_model and json.loads(push_of_model)["base"]["path"] == tiny_llama.name
    assert config["base_model_name_or_path"] == "owner/base" and config["peft_type"] == "LORA"


def test_a_wrong_token_and_no_network_are_one_line(
    hub: dict[str, Any], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(Refusal, match="401") as refusal:
        push(tiny_llama, "me/zh", findings=Findings())
    assert "token" in refusal.value.problems[0].remedy and hub == {}
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(Refusal) as refusal:
        push(tiny_llama, "me/zh", findings=Findings())
    assert len(refusal.value.problems) == 1 and "\n" not in refusal.value.problems[0].message


def test_a_dry_run_writes_the_card_and_sends_nothing(hub: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    told = push(
        model,
        "me/zh",
        dry_run=True,
        base="HuggingFaceTB/SmolLM2-135M",
        licence="apache-2.0",
        languages=["zh", "en"],
        findings=Findings(),
    )
    data = ModelCard.load(model / "README.md").data
    assert (data.base_model, data.license, data.language) == ("HuggingFaceTB/SmolLM2-135M", "apache-2.0", ["zh", "en"])
    assert data.library_name == "transformers" and told["dry_run"] and hub == {}


def test_a_card_that_somebody_wrote_is_kept(tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "m")
    (model / "README.md").write_text("---\nlicense: mit\n---\nmine")
    assert push(model, "me/zh", dry_run=True, findings=Findings())["card"].endswith("mine")
    assert "mine" not in push(model, "me/zh", dry_run=True, overwrite=True, findings=Findings())["card"]


def test_the_licence_of_a_base_that_has_a_card_is_inherited(tiny_llama: Path, adapter: Make, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: qwen\nbase_model: Qwen/Qwen2\n---\n# Base\n")
    findings = Findings()
    told = push(adapter(base), "me/zh", dry_run=True, findings=findings)
    data = ModelCard(told["card"]).data
    assert (data.license, data.license_name, data.base_model) == ("other", "qwen", "Qwen/Qwen2")
    assert not [w for w in findings.warnings if "licence of its base" in w.message]


def test_an_unknown_licence_is_said(tiny_llama: Path, tmp_path: Path) -> None:
    findings = Findings()
    told = push(shutil.copytree(tiny_llama, tmp_path / "m"), "me/zh", dry_run=True, findings=findings)
    assert "**unknown**" in told["card"] and any("licence of its base" in w.message for w in findings.warnings)
    assert any("verified" in w.message for w in findings.warnings)


def test_a_name_that_the_hub_does_not_take_is_refused_before_anything(tiny_llama: Path) -> None:
    with pytest.raises(Refusal, match="no name"):
        push(tiny_llama, "me/z h", dry_run=True, findings=Findings())


def test_a_folder_without_a_model_and_a_damaged_one_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="not-found"):
        push(tmp_path, "me/zh", dry_run=True, findings=Findings())
    broken = shutil.copytree(tiny_llama, tmp_path / "m")
    (broken / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(Refusal, match="truncated-file"):
        push(broken, "me/zh", dry_run=True, findings=Findings())
