"""`evaluate` on tiny models through the true path: files in, the contract's JSON out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lingraft.evaluate.differences import difference_of_outcomes
from lingraft.evaluate.generate import counts
from lingraft.evaluate.run import evaluate
from lingraft.evaluate.table import table
from lingraft.evaluate.text import digest, read_documents
from lingraft.merge.lineage import Lineage, write_lineage
from lingraft.problems import Findings, Refusal

ROWS = ["长城是中国古代的伟大工程。", "春眠不觉晓，处处闻啼鸟。", "The Great Wall was built."] * 5


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "heldout.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{i}. {row}"}) for i, row in enumerate(ROWS)))
    return path


def run(*models: Path, **settings: Any) -> dict[str, Any]:
    return evaluate([str(m) for m in models], findings=Findings(), **settings)


def test_the_answer_has_the_fields_of_the_contract(model_dir: Path, text: Path) -> None:
    (row,) = run(model_dir, text=text, english=text)["models"]
    assert row["model"] == str(model_dir)
    assert row["bits_per_character"] == row["english_bits_per_character"] > 0
    assert {"tokens_per_character", "tasks"} <= set(row)


def test_a_model_does_not_differ_from_itself(model_dir: Path, text: Path) -> None:
    (found,) = run(model_dir, model_dir, text=text)["differences"]
    assert (found["difference"], found["low"], found["high"], found["significant"]) == (0, 0, 0, False)


def test_the_interval_holds_the_difference_and_says_its_unit(model_dir: Path, other_dir: Path, text: Path) -> None:
    answer = run(model_dir, other_dir, text=text)
    (found,) = answer["differences"]
    a, b = (row["bits_per_character"] for row in answer["models"])
    assert found["difference"] == pytest.approx(b - a)
    assert found["low"] < b - a < found["high"]
    assert (found["unit"], found["units"]) == ("document", len(ROWS))


@pytest.mark.parametrize("units", [3, 12])
def test_noise_of_one_sign_is_called_clear_only_where_that_is_no_accident(units: int) -> None:
    before, after = [1.0] * units, [0.5] * units
    found = difference_of_outcomes(before, after)
    assert found["high"] < 0 and found["significant"] is (units == 12)


def test_an_adapter_is_measured_with_the_positions_it_was_trained_with(model_dir: Path, tmp_path: Path) -> None:
    """A longer context is a change of config that the lineage carries, not a tensor."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lingraft.evaluate.subjects import open_subject, subjects

    get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(r=2)).save_pretrained(tmp_path / "long")
    changed = {
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    }
    lineage = Lineage("0" * 8, str(model_dir), (), None, None, {}, config=changed)
    write_lineage(tmp_path / "long", lineage)
    model, _ = open_subject(subjects([str(tmp_path / "long")])[0])
    assert model.config.max_position_embeddings == 128 and model.config.rope_parameters["rope_type"] == "linear"


def test_a_lone_document_is_drawn_by_blocks(model_dir: Path, other_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("春眠不觉晓，处处闻啼鸟。\n" * 100)
    (found,) = run(model_dir, other_dir, text=tmp_path / "one.txt")["differences"]
    assert (found["unit"], found["units"]) == ("block of 500 characters", 3)


def test_a_second_call_reads_no_weights(model_dir: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(model_dir, text=text, prompts=["长城"])
    monkeypatch.setattr("lingraft.models.load_base", lambda *_: pytest.fail("the model was loaded again"))
    second = run(model_dir, text=text, prompts=["长城"])
    assert second["models"][0]["bits_per_character"] == first["models"][0]["bits_per_character"]
    assert second["answers"] == first["answers"]


def test_other_weights_under_the_same_name_are_measured_anew(
    model_dir: Path, other_dir: Path, tmp_path: Path, text: Path
) -> None:
    import shutil

    found = []
    for source in (model_dir, other_dir):
        shutil.copytree(source, tmp_path / "model", dirs_exist_ok=True)
        found.append(run(tmp_path / "model", text=text)["models"][0]["bits_per_character"])
    assert found[0] != found[1]


def test_an_adapter_is_measured_live_over_its_base(model_dir: Path, tmp_path: Path, text: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lingraft.evaluate.bits import score, summary

    config = LoraConfig(r=4, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    rows = run(model_dir, tmp_path / "adapter", text=text)["models"]
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), tmp_path / "adapter").eval()
    theirs = summary(score(live, AutoTokenizer.from_pretrained(model_dir), read_documents(text)))
    assert rows[1]["bits_per_character"] == pytest.approx(theirs["bits_per_character"], rel=1e-5)
    assert rows[1]["bits_per_character"] != rows[0]["bits_per_character"]
    assert (
        run(model_dir, adapters=[tmp_path / "adapter"], text=text)["models"][1]["bits_per_character"]
        == rows[1]["bits_per_character"]
    )


def test_answers_equal_transformers_greedy_generation(model_dir: Path, model: Any, tokenizer: Any) -> None:
    (found,) = run(model_dir, prompts=["长城是"])["answers"]
    inputs = tokenizer("长城是", return_tensors="pt")
    made = model.generate(inputs["input_ids"], max_new_tokens=96, do_sample=False)
    theirs = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert found["prompt"] == "长城是"
    assert found["answers"][str(model_dir)] == theirs


def test_drawn_answers_stand_beside_greedy_ones_and_are_drawn_alike(
    model_dir: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    answer = run(model_dir, prompts=["长城是", "春眠"])
    first = answer["answers"][0]
    assert first["sampled"][str(model_dir)] != first["answers"][str(model_dir)]
    means = answer["models"][0]["generation"]
    told = [item["sampled_counts"][str(model_dir)]["han"] for item in answer["answers"]]
    assert means["sampled"]["han"] == pytest.approx(sum(told) / 2) and set(means) == {"greedy", "sampled"}
    monkeypatch.setenv("LINGRAFT_CACHE", str(tmp_path / "another"))
    assert run(model_dir, prompts=["长城是"])["answers"][0]["sampled"] == first["sampled"]
    assert "sampled" not in run(model_dir, prompts=["长城是"], samples=False)["answers"][0]


def test_gguf_files_stand_beside_the_model_they_came_from(model_dir: Path, tmp_path: Path, text: Path) -> None:
    """The quantisation table: size and bits per character of F32 (nothing lost), Q8_0 and Q4_0."""
    from lingraft.weights.convert import convert

    files = [tmp_path / f"tiny-{kind}.gguf" for kind in ("F32", "Q8_0", "Q4_0")]
    for file in files:
        convert(model_dir, file, to="gguf", type=file.stem.removeprefix("tiny-"), findings=Findings())
    (tmp_path / "folder").mkdir()
    rows = run(model_dir, *files, text=text)["models"]
    files[0].rename(tmp_path / "folder" / "tiny.gguf")
    assert run(tmp_path / "folder", text=text)["models"][0]["bits_per_character"] == rows[1]["bits_per_character"]
    bits = [row["bits_per_character"] for row in rows]
    assert bits[1] == pytest.approx(bits[0], rel=1e-5)
    assert 0 < abs(bits[2] - bits[0]) < abs(bits[3] - bits[0])
    assert rows[1]["bytes"] > rows[2]["bytes"] == files[1].stat().st_size > rows[3]["bytes"]


def test_the_table_shows_figures_and_says_what_is_noise(model_dir: Path, other_dir: Path, text: Path) -> None:
    answer = run(model_dir, other_dir, text=text, prompts=["长城"])
    lines = table(answer).splitlines()
    assert lines[0].split()[:2] == ["model", "bits/char"]
    assert lines[1].split()[:2] == ["base", f"{answer['models'][0]['bits_per_character']:.3f}"]
    assert "95 % interval" in lines[3] and "over 15 documents" in lines[3]
    assert "> 长城" in lines


def test_counts_of_an_answer_are_what_one_counts_by_hand() -> None:
    assert counts("好好好好好") == {"characters": 5, "repetition": 0.5, "han": 1.0}
    assert counts("长城 Great Wall") == {"characters": 13, "repetition": 0.0, "han": 2 / 11}
    assert counts("a b c d a b c d")["repetition"] == pytest.approx(1 / 5)
    assert counts("") == {"characters": 0, "repetition": 0.0, "han": 0.0}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}', "a.jsonl:2"),
        ("b.jsonl", "{", "b.jsonl:1"),
        ("c.txt", " \n", "c.txt"),
        ("d.txt", b"\xff\xfe\x00", "d.txt is not UTF-8"),
    ],
)
def test_bad_text_is_refused_with_file_and_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Refusal, match=f"data-invalid: .*{said}"):
        read_documents(tmp_path / name)


def test_a_txt_is_one_document_with_its_newlines_and_the_digest_knows_borders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一\n\n二\n")
    assert read_documents(tmp_path / "a.txt") == ["一\n\n二\n"]
    assert digest(["ab", "c"]) != digest(["a", "bc"])
