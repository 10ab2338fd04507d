"""Exports: other programs read the same tensors, cut text into the same tokens and say the same thing."""

import json

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, exporting, gguf_export, onnx_export
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate
from workshop_lib.checkpoints import save_model

TEXTS = [
    "<s>옛날 옛적에 고양이가 살았어요.</s>",
    "3.14km의 산, 2026년 11월!  두 칸\n\n줄바꿈\t탭",
    "<|user|>don't <think>가나다</think> 🙂 漢字<|end|>",
]


def trained_tokenizer():
    from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

    return wrap(train_whole_char_bpe([text * 3 for text in TEXTS], 320, SPECIAL_TOKENS), 32)


def folder_with(tmp_path, tied):
    tokenizer = trained_tokenizer()
    config = TransformerConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, initializer_range=0.2, rope_theta=5000.0,
    )  # fmt: skip
    model = Transformer(config, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms that are not all ones, so that mixing two of them up shows
                weight.uniform_(0.5, 1.5)
    save_model(model, tokenizer, tmp_path / "model")
    return tmp_path / "model", model, tokenizer


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(request, tmp_path_factory):
    return folder_with(tmp_path_factory.mktemp("export"), request.param)


def read(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].numpy()


def test_onnx_gives_the_same_logits_and_the_same_tokens(exported, tmp_path):
    folder, model, _ = exported
    onnx = onnx_export.OnnxModel(onnx_export.to_onnx(folder, tmp_path / "model.onnx"))
    ids = list(range(3, 30))
    np.testing.assert_allclose(onnx.logits(ids), read(model, ids), atol=2e-5)
    said = generate(model, ids[:6], 20, temperature=0)
    assert onnx.generate(ids[:6], 20) == said
    assert onnx.generate(ids[:6], 20, stop=said[5]) == said[: said.index(said[5])]
    assert onnx.context == 32


def test_onnx_reads_each_token_once(exported, tmp_path):
    folder, _, _ = exported
    onnx = onnx_export.OnnxModel(onnx_export.to_onnx(folder, tmp_path / "model.onnx"))
    ids, whole, cache, parts = list(range(40, 60)), onnx.logits(list(range(40, 60))), None, []
    for part in (ids[:7], ids[7:8], ids[8:]):
        logits, cache = onnx.extend(part, cache)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5)
    assert {value.shape for value in cache.values()} == {(1, 2, 20, 16)}
    assert [name for name in cache][:2] == ["past_key_values.0.key", "past_key_values.0.value"]


def test_onnx_reads_a_batch(exported, tmp_path):
    folder, model, _ = exported
    session = onnx_export.OnnxModel(onnx_export.to_onnx(folder, tmp_path / "model.onnx")).session
    ids = np.arange(3, 15).reshape(2, 6)
    empty = {value.name: np.zeros((2, 2, 0, 16), np.float32) for value in session.get_inputs()[1:]}
    logits = session.run(["logits"], {"input_ids": ids, **empty})[0]
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.from_numpy(ids)).numpy(), atol=2e-5)


def test_int8_onnx_is_a_quarter_of_the_linear_layers_and_stays_close(exported, tmp_path):
    folder, model, _ = exported
    plain = onnx_export.to_onnx(folder, tmp_path / "model.onnx").stat().st_size
    path = onnx_export.to_onnx(folder, tmp_path / "int8.onnx", int8=True)
    layers = sum(weight.numel() for name, weight in model.model.layers.named_parameters() if weight.ndim == 2)
    assert 0.7 * 3 * layers < plain - path.stat().st_size < 3 * layers  # three of four bytes a weight, less the scales
    ids = list(range(3, 30))
    exact, close = read(model, ids), onnx_export.OnnxModel(path).logits(ids)
    assert 0 < np.abs(close - exact).mean() < 0.1 * exact.std()


def test_onnx_runtime_makes_the_graph_without_an_advice(exported, tmp_path, caplog):
    onnx_export.to_onnx(exported[0], tmp_path / "int8.onnx", int8=True)
    assert not caplog.records


def test_too_long_or_empty_or_missing_is_said_in_korean(exported, tmp_path):
    onnx = onnx_export.OnnxModel(onnx_export.to_onnx(exported[0], tmp_path / "model.onnx"))
    for ids in ([], list(range(33))):
        with pytest.raises(WorkshopError, match="32토큰까지"):
            onnx.logits(ids)
    assert onnx.generate([1, 2], 0) == []
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        onnx_export.OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really, and long enough to look at")
    for name in ("none.gguf", "broken.gguf"):
        with pytest.raises(WorkshopError, match="읽을 수 없다"):
            gguf_export.read_gguf(tmp_path / name)
    with pytest.raises(WorkshopError, match="q4"):
        gguf_export.to_gguf(exported[0], tmp_path / "q4.gguf", "q4")
    with pytest.raises(WorkshopError, match="없다"):
        onnx_export.to_onnx(tmp_path, tmp_path / "model.onnx")


@pytest.mark.parametrize("kind, bound", [("f32", 0), ("f16", 2e-3), ("q8_0", 2e-2)])
def test_gguf_holds_every_tensor(exported, tmp_path, kind, bound):
    folder, model, _ = exported
    metadata, tensors = gguf_export.read_gguf(gguf_export.to_gguf(folder, tmp_path / "model.gguf", kind))
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    assert set(tensors) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_allclose(tensors[name], weight, atol=bound)
    assert metadata["llama.context_length"] == 32 and metadata["general.architecture"] == "llama"
    assert "endgeneration" not in metadata["tokenizer.chat_template"]
    assert metadata["tokenizer.ggml.add_bos_token"] is False and metadata["tokenizer.ggml.bos_token_id"] == 1


def test_gguf_alone_speaks_as_the_folder_does(exported, tmp_path):
    folder, model, tokenizer = exported
    loaded, pieces = gguf_export.load_gguf(gguf_export.to_gguf(folder, tmp_path / "model.gguf"))
    assert generate(loaded, [5, 6, 7], 20, temperature=0) == generate(model, [5, 6, 7], 20, temperature=0)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert pieces.encode(text, add_special_tokens=False).ids == ids
        assert pieces.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_gguf_too(exported, tmp_path):
    """A reader that is not ours: it undoes the order of rows for itself."""
    from transformers import AutoModelForCausalLM

    folder, model, _ = exported
    gguf_export.to_gguf(folder, tmp_path / "model.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = list(range(3, 30))
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor([ids])).logits[0].numpy(), read(model, ids), atol=2e-5)


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_llama_cpp_says_the_same(exported, tmp_path, kind):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python은 소스에서 지어야 해서 기본 환경에 없다")
    folder, _, tokenizer = exported
    path = gguf_export.to_gguf(folder, tmp_path / "model.gguf", kind)
    theirs, rounded = gguf_export.GgufModel(path), gguf_export.load_gguf(path)[0]
    for text in TEXTS:
        assert theirs.tokenize(text) == tokenizer(text)["input_ids"]
    said, wanted = theirs.generate([5, 6, 7], 20), generate(rounded, [5, 6, 7], 20, temperature=0)
    assert said == wanted or (kind == "q8_0" and said[:3] == wanted[:3])  # its q8_0 rounds the activations as well
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        gguf_export.GgufModel(tmp_path / "none.gguf")


def test_without_llama_cpp_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    with pytest.raises(WorkshopError, match="llama-cpp-python"):
        gguf_export.GgufModel(tmp_path / "model.gguf")


@pytest.mark.filterwarnings("ignore")
def test_the_folder_for_serving_engines_is_the_same_model(exported, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, model, tokenizer = exported
    out = exporting.to_serving(folder, tmp_path / "serving", "float32")
    theirs, pieces = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    ids = list(range(3, 30))
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor([ids])).logits[0].numpy(), read(model, ids), atol=2e-5)
    assert [pieces(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    chat = [{"role": "system", "content": "짧게"}, {"role": "user", "content": "안녕"}]
    assert pieces.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == 5000.0 and config["head_dim"] == 16 and config["torch_dtype"] == "float32"
    assert json.loads((out / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"] == [2, 6]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    half = exporting.to_serving(folder, tmp_path / "half")
    assert (half / "model.safetensors").stat().st_size < 0.6 * (out / "model.safetensors").stat().st_size
    with pytest.raises(WorkshopError, match="int8"):
        exporting.to_serving(folder, tmp_path / "no", "int8")
