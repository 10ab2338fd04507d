"""The bench that every variant of a model is measured on, and the stage on a model of seconds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workshop_lib import WorkshopError, compression, finetuning, pretraining, workspace
from workshop_lib.checkpoints import load_model, save_model
from workshop_lib.compression import LIBRARIES, OURS, PAIRS, REPORTED, by_library, file_bytes, measure_speed, pareto
from workshop_lib.profile import PROFILES, with_settings
from workshop_lib.quantized import load_quantized, quantize_model
from workshop_lib.tokenization import train_whole_char_bpe, wrap

SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEXTS = [f"{n % 7}번 상자에 {n % 5}개의 공이 있고 고양이가 {n % 3}번 울었다. 날씨는 {n % 4}월처럼 맑았다." for n in range(160)]


# --- measuring ----------------------------------------------------------------------------------------------------------------


def test_speed_counts_new_tokens_and_takes_the_latencies_of_requests(monkeypatch):
    clock = iter([0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.7])
    monkeypatch.setattr(compression.time, "perf_counter", lambda: next(clock))
    asked = []
    found = measure_speed(lambda ids, tokens: asked.append(ids) or [0] * tokens, [[1], [2], [3], [4]], 5)
    assert asked == [[1], [1], [2], [3], [4]]  # the first once more, to warm up
    assert found["tokens_per_s"] == pytest.approx(20 / 0.7) and found["p50_ms"] == pytest.approx(100)
    assert found["p95_ms"] == pytest.approx(400)


def test_a_model_that_writes_nothing_has_no_speed():
    with pytest.raises(WorkshopError, match="하나도 쓰지 않아"):
        measure_speed(lambda ids, tokens: [], [[1]], 5)
    with pytest.raises(WorkshopError, match="프롬프트가 없다"):
        measure_speed(lambda ids, tokens: [1], [], 5)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_no_other_row_beats(points):
    rows = [{"name": str(i), "bytes": cost, "bpc": bpc} for i, (cost, bpc) in enumerate(points)]
    beaten = {row["name"] for row in rows for other in rows
              if other["bytes"] <= row["bytes"] and other["bpc"] <= row["bpc"]
              and (other["bytes"], other["bpc"]) != (row["bytes"], row["bpc"])}  # fmt: skip
    front = pareto(rows + [{"name": "unmeasured", "bytes": 0}])
    assert set(front) == {row["name"] for row in rows} - beaten and len(front) == len(set(front))
    assert [rows[int(name)]["bytes"] for name in front] == sorted(rows[int(name)]["bytes"] for name in front)


# --- the same checkpoint by libraries, and the stage -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, a base model that has learnt a little, and a task model with a random head."""
    home = tmp_path_factory.mktemp("8주차 작업")
    (home / "corpus").mkdir()
    for name, texts in (("train", TEXTS[:120]), ("validation", TEXTS[120:])):
        rows = (json.dumps({"id": str(i), "source": "story", "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts))
        (home / "corpus" / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    tokenizer = wrap(train_whole_char_bpe(TEXTS, 400, SPECIAL), 48)
    settings = replace(PROFILES["tiny"].base_model, hidden_size=64, layers=2, heads=1, kv_heads=1, intermediate_size=128, context=48,
                       batch_size=8, steps=30, evaluate_every=30, warmup_steps=2)  # fmt: skip
    model = pretraining.new_model(settings, len(tokenizer), seed=3)
    stream = [token for text in TEXTS[:120] for token in (1, *tokenizer(text, add_special_tokens=False)["input_ids"], 2)]
    pretraining.train(model, np.array(stream), settings, progress=False, peak=1.0)
    save_model(model, tokenizer, home / "base_model")
    finetuning.save_classifier(finetuning.classifier(home / "base_model", 1), tokenizer, home / "task_model")
    return home


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    settings = replace(
        PROFILES["tiny"].compression, student_layers=1, student_intermediate=64, distil_steps=6, distil_batch=4, calibration_windows=12,
        calibration_reviews=8, validation_chars=700, reviews=20, requests=3, prompt_tokens=6, new_tokens=3, lookaheads=(2,), drafts=2,
        drafted_tokens=10,
    )
    out = tmp_path_factory.mktemp("compression")
    inputs = {name: home / name for name in ("corpus", "base_model", "task_model")}
    metrics = compression.build(workspace.Job(out, inputs, settings, 0, None))
    rows = [json.loads(line) for line in (out / "variants.jsonl").read_text(encoding="utf-8").splitlines()]
    return SimpleNamespace(out=out, metrics=metrics, rows={row["name"]: row for row in rows})


def test_every_variant_has_its_row_and_nothing_is_measured_as_zero(finished):
    rows = finished.rows
    assert list(rows) == ["fp32", *OURS, *LIBRARIES, "student", "onnx", "onnx_int8", "gguf"]
    for name, row in rows.items():
        assert row["bytes"] > 0 and row["bpc"] > 0 and row["title"] and row["engine"] and row["bits"] in (2, 3, 4, 8, 32)
        assert all(row[key] > 0 for key in REPORTED if key in row and key != "accuracy")
        assert name == "fp32" or row["bpc_low"] <= row["bpc"] <= row["bpc_high"]
    assert {name for name in rows if "tokens_per_s" not in rows[name]} == {*OURS, "gguf"} - set(compression.TIMED) - _llama_cpp()
    assert {"accuracy", "accuracy_low", "peak_mb", "p95_ms"} <= rows["int4_gptq"].keys() & rows["bnb_nf4"].keys()


def _llama_cpp() -> set:
    return {"gguf"} if compression.find_spec("llama_cpp") else set()


def test_fewer_bits_are_fewer_bytes(finished):
    size = {name: row["bytes"] for name, row in finished.rows.items()}
    assert size["int2"] < size["int3"] < size["int4"] < size["int8"] < size["fp32"]
    assert size["int4_tensor"] < size["int4_row"] <= size["int4"] == size["int4_gptq"] < size["int4_awq"]
    assert finished.rows["int4"]["layer_bytes"] / finished.rows["int4"]["layer_fp32_bytes"] == pytest.approx(4.25 / 32)


def test_ours_and_the_libraries_write_the_same_formats(finished):
    bpc = {name: row["bpc"] for name, row in finished.rows.items()}
    assert bpc["hf"] == pytest.approx(bpc["fp32"], abs=1e-5) == pytest.approx(bpc["onnx"], abs=1e-5)
    assert bpc["nf4"] == pytest.approx(bpc["bnb_nf4"], abs=1e-3)  # 16-bit scales here, 32-bit ones there
    for name in ("int8", "bnb_int8", "torchao_int8", "onnx_int8", "gguf"):
        assert bpc[name] == pytest.approx(bpc["fp32"], rel=0.02)


def test_report_has_the_keys_of_the_course(finished):
    metrics = finished.metrics
    assert all(isinstance(value, int | float) and not np.isnan(value) for value in metrics.values())
    for name in ("fp32", "int4_gptq", "bnb_nf4", "torchao_int8"):
        assert {f"{name}_{key}" for key in ("bytes", "bpc", "accuracy", "tokens_per_s", "p50_ms", "p95_ms")} <= metrics.keys()
    assert {"distilled_bpc", "scratch_small_bpc", "distilled_minus_scratch_bpc_low", "speculative_speedup", "speculative_acceptance",
            "speculative_table_speedup", "int4_gptq_loss", "int4_byte_share"} <= metrics.keys()  # fmt: skip
    for better, plain in PAIRS:
        name = f"{better}_minus_{plain}_bpc"
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
        assert metrics[name] == pytest.approx(finished.rows[better]["bpc"] - finished.rows[plain]["bpc"])
    assert metrics["int2_gptq_minus_int2_bpc"] < 0


def test_the_artefact_can_be_used(finished, home):
    out = finished.out
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.jsonl", "int4", "model-int8.onnx", "model.gguf", "model.onnx", "speculative.jsonl", "student", "variants.jsonl",
    ]
    small = load_quantized(out / "int4")
    assert abs((out / "int4" / "quantized.safetensors").stat().st_size - finished.rows["int4_gptq"]["bytes"]) < 200
    assert small(torch.tensor([[1, 5, 9]])).shape == (1, 3, small.config.vocab_size)
    student = by_library("hf", out / "student")
    assert file_bytes(student) == pytest.approx(finished.rows["student"]["bytes"], abs=200)
    drafts = [json.loads(line) for line in (out / "speculative.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["draft"] for row in drafts} == {"student", "table"} and all(0 <= row["acceptance"] <= 1 for row in drafts)


def test_file_bytes_are_those_of_the_file(home):
    model = load_model(home / "base_model")
    assert file_bytes(model) == pytest.approx((home / "base_model" / "model.safetensors").stat().st_size, abs=16)
    assert file_bytes(quantize_model(model)) < 0.7 * file_bytes(model)


def test_what_is_not_installed_is_told(monkeypatch, home):
    monkeypatch.setattr(compression, "find_spec", lambda name: None)
    with pytest.raises(WorkshopError, match="torchao이\\(가\\) 설치되어 있지 않다"):
        by_library("torchao_int8", home / "base_model")


def test_stage_is_part_of_the_course():
    stage = workspace.STAGES["compression"]
    assert stage.week == 8 and stage.inputs == ("corpus", "base_model", "task_model")
    assert with_settings(PROFILES["tiny"], "compression", reviews=5).compression.reviews == 5
