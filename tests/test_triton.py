"""The model behind Triton: the repository, the model inside it, and, where Triton is installed, the running server."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import psutil
import pytest
import torch

from workshop_lib import WorkshopError, triton
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate
from workshop_lib.checkpoints import save_model

PROMPTS = ["옛날 옛적에", "고양이가 ", "<s>1 2 3"]


def installed():
    try:
        return triton.find()
    except WorkshopError:
        return None


needs_triton = pytest.mark.skipif(installed() is None, reason="Triton이 없다(nvidia-pytriton, WORKSHOP_TRITON)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, model, tokenizer, repository) of a small model with random weights."""
    from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

    home = tmp_path_factory.mktemp("triton")
    tokenizer = wrap(train_whole_char_bpe([text * 3 for text in PROMPTS], 300, SPECIAL_TOKENS), 64)
    config = TransformerConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = Transformer(config, seed=1).eval()
    save_model(model, tokenizer, home / "model")
    return home / "model", model, tokenizer, triton.write_repository(home / "model", home / "repository", instances=2)


def expected(made, prompt, n):
    """What the model itself says, likeliest token by likeliest token."""
    _, model, tokenizer, _ = made
    ids = tokenizer(prompt)["input_ids"]
    ids = ids if ids[0] == tokenizer.bos_token_id else [tokenizer.bos_token_id, *ids]
    new = []
    while len(new) < n:
        token = generate(model, ids + new, 1, temperature=0)[0]
        if token in tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"]):
            break
        new.append(token)
    return {"text": tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)}


def test_the_repository_is_laid_out_as_triton_reads_it(made):
    repository = made[3]
    files = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    inside = [f"{triton.MODEL}/1/{name}" for name in ("model.onnx", "model.py", "settings.json", "tokenizer.json")]
    assert files == [*inside, f"{triton.MODEL}/config.pbtxt"]
    config = (repository / triton.MODEL / "config.pbtxt").read_text(encoding="utf-8")
    assert f'name: "{triton.MODEL}"' in config and "count: 2" in config and config.count("{") == config.count("}")
    settings = json.loads((repository / triton.MODEL / "1" / "settings.json").read_text(encoding="utf-8"))
    assert settings == {"bos": 1, "ends": [2, 6], "context": 64, "threads": 1}


class FakeTensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


@pytest.fixture
def inside(made, monkeypatch):
    """The model of the repository, run here with a stand-in for Triton's side of the conversation."""

    class Wrong:
        INVALID_ARG = 3

        def __init__(self, words, code):
            self.text, self.code = words, code

    utilities = types.SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: request.get(name),
        Tensor=FakeTensor,
        InferenceResponse=lambda outputs=(), error=None: types.SimpleNamespace(outputs={o.name: o.values for o in outputs}, error=error),
        TritonError=Wrong,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    monkeypatch.delitem(sys.modules, "workshop_lib.triton_model", raising=False)
    from workshop_lib.triton_model import TritonPythonModel

    model = TritonPythonModel()
    model.initialize({"model_repository": str(made[3] / triton.MODEL), "model_version": "1"})
    yield lambda **fields: model.execute([{name: FakeTensor(name, value) for name, value in fields.items()}])[0]
    model.finalize()
    sys.modules.pop("workshop_lib.triton_model", None)


def text(words):
    return np.array([words.encode("utf-8")], np.object_)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_model_inside_says_what_the_model_says(made, inside, prompt):
    outputs = inside(prompt=text(prompt), max_tokens=np.array([20], np.int32)).outputs
    got = {"text": outputs["text"][0].decode("utf-8"), "tokens": int(outputs["tokens"][0])}
    assert got == expected(made, prompt, 20) and outputs["milliseconds"][0] > 0


def test_a_seed_repeats_and_another_differs(inside):
    def says(seed):
        options = {"temperature": np.array([1.0], np.float32), "seed": np.array([seed], np.int32), "max_tokens": np.array([30], np.int32)}
        return inside(prompt=text("옛날"), **options).outputs["text"][0]

    assert says(1) == says(1) != says(2)


def test_draws_follow_the_softmax(made, inside):
    _, model, tokenizer, _ = made
    with torch.no_grad():
        wanted = (model(torch.tensor([[1, 100]]))[0, -1] / 3).softmax(-1).numpy()
    prompt, seen = tokenizer.decode([100]), {}
    assert tokenizer(prompt)["input_ids"] == [100]
    for seed in range(400):
        options = {"temperature": np.array([3.0], np.float32), "seed": np.array([seed], np.int32), "max_tokens": np.array([1], np.int32)}
        words = inside(prompt=text(prompt), **options).outputs["text"][0].decode("utf-8")
        seen[words] = seen.get(words, 0) + 1
    shares = {}
    for token, share in enumerate(wanted):
        words = "" if token in (2, 6) else tokenizer.decode([token], skip_special_tokens=True)
        shares[words] = shares.get(words, 0.0) + float(share)
    assert all(abs(count / 400 - shares[words]) < 0.1 for words, count in seen.items())


@pytest.mark.parametrize(
    "fields, said",
    [({"max_tokens": np.array([-1], np.int32)}, "1 이상"), ({"max_tokens": np.array([64], np.int32)}, "문맥 길이는 64토큰"),
     ({"temperature": np.array([-1.0], np.float32)}, "temperature"), ({"temperature": np.array([np.nan], np.float32)}, "temperature")],
)  # fmt: skip
def test_a_bad_request_is_refused_with_words(inside, fields, said):
    assert said in inside(prompt=text("옛날"), **fields).error.text


def test_without_triton_the_error_says_how_to_get_it(made, monkeypatch, tmp_path):
    monkeypatch.setattr(triton, "find", lambda: None)
    with pytest.raises(WorkshopError, match="nvidia-pytriton"):
        triton.start(made[3])
    monkeypatch.undo()
    monkeypatch.setenv("WORKSHOP_TRITON", str(tmp_path / "nowhere"))
    with pytest.raises(WorkshopError, match="WORKSHOP_TRITON"):
        triton.find()
    monkeypatch.setenv("WORKSHOP_TRITON", sys.executable)
    if triton.importlib.util.find_spec("pytriton") is None:
        assert triton.find() is None


@needs_triton
@pytest.mark.slow
def test_a_real_server_says_the_same(made):
    with triton.running(made[3]) as server:
        for prompt in PROMPTS:
            answer = server.generate(prompt, 20)
            assert answer["milliseconds"] > 0 and {name: answer[name] for name in ("text", "tokens")} == expected(made, prompt, 20)
        assert server.generate("옛날", 30, 1.0, 1)["text"] == server.generate("옛날", 30, 1.0, 1)["text"]
        bad = (({"max_tokens": -1}, 400, "1 이상"), ({"max_tokens": 999}, 400, "문맥"), ({"model": "none"}, 404, "none"))
        for fields, status, said in bad:
            with pytest.raises(WorkshopError, match=f"{status}.*{said}"):
                server.generate("옛날", **fields)
        assert server.generate("고양이가 ", 5)["tokens"] <= 5  # it goes on
        assert f'nv_inference_request_success{{model="{triton.MODEL}"' in server.metrics()
        family = [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]
    assert not any(psutil.pid_exists(pid) for pid in family) and len(family) > 1


@needs_triton
@pytest.mark.slow
def test_a_server_does_not_outlive_its_parent(made, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from workshop_lib import triton; "
        "print(triton.start(Path(sys.argv[1])).pid, flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(made[3])], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@needs_triton
@pytest.mark.slow
def test_a_broken_repository_is_said_with_tritons_words(made, tmp_path):
    import shutil

    shutil.copytree(made[3], tmp_path / "broken")
    (tmp_path / "broken" / triton.MODEL / "1" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(WorkshopError, match="뜨지 않았다"):
        triton.start(tmp_path / "broken", patience=60)


def test_doctor_knows_the_tools_of_deployment(monkeypatch, tmp_path):
    from workshop_lib.environment import doctor

    monkeypatch.setenv("WORKSHOP_TRITON", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TRITON_PORT", "9")  # where nobody answers, whatever runs on this machine
    rows = {row.name: row for row in doctor() if row.group == "배포"}
    assert set(rows) == {"bitsandbytes", "torchao", "ONNX Runtime", "Gradio", "llama.cpp", "Triton", "vLLM", "TensorRT-LLM"}
    assert not rows["Triton"].ready and "nvidia-pytriton" in rows["Triton"].detail
    assert rows["ONNX Runtime"].ready and rows["Gradio"].ready
