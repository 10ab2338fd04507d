"""Packing, optimisation, the loop, resuming, data parallelism, and the base model's folder."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, optimization, packing, pretraining, throughput
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.checkpoints import load_model
from workshop_lib.posttraining import supervised
from workshop_lib.profile import PROFILES, changed, get_profile
from workshop_lib.workspace import Job

TINY = replace(
    get_profile("tiny").base_model, hidden_size=64, layers=2, heads=2, kv_heads=1, intermediate_size=128, context=32,
    batch_size=8, steps=12, learning_rate=3e-3, optimizer="adamw", schedule="cosine", warmup_steps=2, final_fraction=0.1,
    evaluate_every=6, checkpoint_every=4, sample_every=6, accumulation=1, validation_chars=2_000, prompts=("", "하나"),
    ngram_order=3, dtype="float32", compile=False, zero_residual=False,
)
VOCABULARY = 120


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # bit-exactness is promised for one number of threads
    yield
    torch.set_num_threads(before)


def tokens(n: int = 4_000, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    steps = random.choice([1, 2, 7], size=n, p=[0.7, 0.2, 0.1])
    return (np.cumsum(steps) % (VOCABULARY - 9) + 9).astype(np.uint16)


def weights(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def run(settings=TINY, seed: int = 0, **options):
    model = pretraining.new_model(settings, VOCABULARY, seed).cpu()
    record = pretraining.train(model, tokens(), settings, seed, progress=False, **options)
    return model, record


# --- packing ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["하나 둘 셋 넷 다섯"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def documents(n: int, words=("하나", "둘", "셋", "넷", "다섯")) -> list[dict]:
    return [{"text": " ".join(words[(i * k) % 5] for k in range(1, 4 + i % 9)), "source": f"s{i % 2}"} for i in range(n)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_packing_round_trip(tokenizer, tmp_path):
    rows = documents(40)
    packed = packing.pack(rows, tokenizer, tmp_path / "train.bin")
    opened = packing.open_packed(tmp_path / "train.bin")
    assert opened == packed and opened.dtype == "uint16" and opened.characters == sum(len(r["text"]) for r in rows)
    pieces = tokenizer.decode(opened.array()).split("<s>")[1:]
    assert [piece.removesuffix("</s>") for piece in pieces] == [row["text"] for row in rows]


def test_packing_stops_at_its_limit_and_a_damaged_file_is_refused(tokenizer, tmp_path):
    packed = packing.pack(documents(400), tokenizer, tmp_path / "t.bin", limit=100)
    assert 100 <= packed.tokens < 150 and packed.documents < 40
    (tmp_path / "t.bin").write_bytes(b"\0" * 10)
    with pytest.raises(WorkshopError, match="기록"):
        packing.open_packed(tmp_path / "t.bin")


def test_a_mark_in_a_text_is_text(tokenizer, tmp_path):
    rows = [{"text": "하나 <s>둘</s> 셋"}, {"text": "넷"}]
    ids = packing.pack(rows, tokenizer, tmp_path / "t.bin").array().tolist()
    assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (2, 2)
    assert tokenizer.decode(ids) == "".join(f"<s>{row['text']}</s>" for row in rows)


@pytest.mark.parametrize("description, message", [
    ("", "깨졌다"), ("{", "깨졌다"), ("[]", "깨졌다"), ('{"a": 1}', "깨졌다"), (None, "없다"),
    ('{"path": "", "dtype": "uint16", "tokens": 0, "documents": 0, "characters": 0, "vocab_size": 9}', "하나도 없다"),
])  # fmt: skip
def test_a_token_file_with_a_broken_description_is_named(tmp_path, description, message):
    (tmp_path / "t.bin").write_bytes(b"")
    if description is not None:
        (tmp_path / "t.json").write_text(description, encoding="utf-8")
    with pytest.raises(WorkshopError, match=message) as error:
        packing.open_packed(tmp_path / "t.bin")
    assert str(tmp_path / "t.") in str(error.value)


def test_large_vocabularies_take_four_bytes(tmp_path):
    class Large:
        bos_token_id, eos_token_id = 1, 70_000

        def __len__(self):
            return 70_001

        def __call__(self, texts, **options):
            return {"input_ids": [[69_999] for _ in texts]}

    packed = packing.pack([{"text": "가"}], Large(), tmp_path / "t.bin")
    assert packed.dtype == "uint32" and packed.array().tolist() == [1, 69_999, 70_000]


def test_documents_are_shuffled_by_seed_and_none_is_lost(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"text": str(i)} for i in range(50)])
    plain = [d["text"] for d in packing.read_documents(path)]
    a, b = ([d["text"] for d in packing.read_documents(path, seed)] for seed in (1, 2))
    assert plain == [str(i) for i in range(50)] and sorted(a) == sorted(b) == sorted(plain) and a != b != plain


@pytest.mark.parametrize(
    "content, message",
    [(None, "없다"), ("", "비어 있다"), ('{"text": "가"}\n{"text": \n', "2번째 줄"), ('{"t": 1}\n', "1번째 줄")],
)
def test_broken_corpus_files_are_named(tmp_path, content, message):
    path = tmp_path / "train.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(WorkshopError, match=message) as error:
        list(packing.read_documents(path))
    assert "train.jsonl" in str(error.value)


def test_every_window_comes_once_an_epoch_and_a_step_alone_fixes_its_batch():
    stream = np.arange(1_000)
    batches = packing.Batches(stream, context=10, batch_size=9, seed=3)
    assert batches.windows == 99
    first = np.concatenate([batches.starts(step) for step in range(11)])
    second = np.concatenate([batches.starts(step) for step in range(11, 22)])
    assert len(set(first)) == len(set(second)) == 99 and set(np.diff(sorted(first))) == {10}
    assert not np.array_equal(first, second)
    again = packing.Batches(stream, context=10, batch_size=9, seed=3)
    inputs, targets = again.batch(15)
    assert np.array_equal(inputs, batches.batch(15)[0]) and np.array_equal(targets, inputs + 1)
    halves = [again.batch(15, rank, 3)[0] for rank in range(3)]
    assert sorted(np.concatenate(halves)[:, 0]) == sorted(inputs[:, 0])


def test_a_corpus_shorter_than_one_context_is_refused():
    with pytest.raises(WorkshopError, match="10토큰이라 문맥 10토큰"):
        packing.Batches(np.arange(10), context=10, batch_size=1)
    assert packing.Batches(np.arange(11), context=10, batch_size=2).batch(0)[0].shape == (2, 10)


def test_validation_scores_every_token_once_with_enough_context():
    lengths = [3, 30, 5, 80, 2]
    rows = [packing.Encoded((1, *range(100, 100 + n), 2), n, "s") for n in lengths]
    windows = packing.validation_windows(rows, context=16)
    scored = windows.targets != packing.IGNORE
    for number, row in enumerate(rows):
        assert windows.targets[scored & (windows.document == number)].tolist() == list(row.ids[1:])
    for inputs, targets, document in zip(windows.inputs, windows.targets, windows.document):
        for place in np.flatnonzero(targets != packing.IGNORE):
            same = int((document[: place + 1] == document[place]).sum())
            position = list(rows[document[place]].ids).index(targets[place])
            assert same >= min(position, 8)
            assert inputs[place] == rows[document[place]].ids[position - 1]


# --- optimisation ----------------------------------------------------------------------------------------------


def test_schedules_have_their_shape():
    cosine = [optimization.cosine_with_warmup(step, 100, 1.0, 10, 0.1) for step in range(100)]
    assert cosine[0] == pytest.approx(0.1) and max(cosine) == cosine[10] == 1 and cosine[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(cosine[10:], cosine[11:]))
    wsd = [optimization.warmup_stable_decay(step, 100, 1.0, 10, 20, 0.0) for step in range(100)]
    assert set(wsd[10:80]) == {1.0} and wsd[-1] == 0 and all(a > b for a, b in zip(wsd[80:], wsd[81:]))
    with pytest.raises(WorkshopError, match="linear"):
        optimization.schedule(0, replace(TINY, schedule="linear"))


def test_norms_do_not_decay_and_every_parameter_is_in_one_group():
    model = pretraining.new_model(TINY, VOCABULARY).cpu()
    for name in ("adamw", "muon"):
        groups = [g for o in optimization.optimizers(model, replace(TINY, optimizer=name)) for g in o.param_groups]
        ids = [id(p) for group in groups for p in group["params"]]
        assert len(ids) == len(set(ids)) == len(list(model.parameters()))
        assert all((g["weight_decay"] == 0) == (p.ndim == 1) for g in groups for p in g["params"])
    with pytest.raises(WorkshopError, match="sgd"):
        optimization.optimizers(model, replace(TINY, optimizer="sgd"))


def test_adamw_by_hand_equals_torch():
    torch.manual_seed(0)
    weight, gradients = torch.randn(5), torch.randn(6, 5)
    parameter = torch.nn.Parameter(weight.clone())
    theirs = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    mean, square = torch.zeros(5), torch.zeros(5)
    for step, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.clone()
        theirs.step()
        weight, mean, square = optimization.adamw_step(weight, gradient, mean, square, step, 0.01)
    torch.testing.assert_close(weight, parameter.data)


def test_clipping_equals_torch_and_keeps_the_direction():
    gradients = [torch.randn(3, 2), torch.randn(4)]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    wanted = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    assert optimization.clip_by_global_norm(gradients, 0.5) == pytest.approx(float(wanted))
    for parameter, gradient in zip(parameters, gradients):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(optimization.orthogonalized(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.3


def test_accumulation_equals_the_large_batch():
    once, _ = run(replace(TINY, steps=3))
    parts, _ = run(replace(TINY, steps=3, accumulation=4))
    for name, value in weights(once).items():
        torch.testing.assert_close(value, weights(parts)[name], rtol=1e-3, atol=2e-5)
    with pytest.raises(WorkshopError, match="3번에 나누어"):
        run(replace(TINY, accumulation=3))


# --- the loop --------------------------------------------------------------------------------------------------


def test_loss_starts_at_ln_vocabulary_and_one_batch_is_learnt_by_heart():
    settings = replace(TINY, steps=120, context=16, batch_size=2, learning_rate=1e-2, warmup_steps=5, weight_decay=0.0)
    model = pretraining.new_model(settings, VOCABULARY).cpu()
    record = pretraining.train(model, tokens(33), settings, progress=False)
    assert record.losses[0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert record.losses[-1] < 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_learning_beats_the_unigram(optimizer):
    settings = replace(TINY, steps=100, optimizer=optimizer, learning_rate=5e-3, schedule="wsd")
    model = pretraining.new_model(settings, VOCABULARY).cpu()
    losses = pretraining.train(model, tokens(20_000), settings, progress=False).losses
    assert np.mean(losses[-5:]) < 1.5 < 4 < losses[0]  # the chain's entropy is 0.80 nats


def test_history_has_a_row_an_evaluation(tokenizer, tmp_path):
    validation = packing.validation_windows(packing.encode(documents(20), tokenizer), TINY.context)
    model = pretraining.new_model(TINY, len(tokenizer)).cpu()
    record = pretraining.train(
        model, tokens(), TINY, validation=validation, sample=lambda m: ["글"], checkpoint=tmp_path / "c.pt", progress=False
    )
    assert [row["step"] for row in record.history] == [6, 12] and len(record.losses) == len(record.rates) == 12
    assert record.history[-1]["tokens"] == 12 * 8 * 32 and 0 < record.history[-1]["mfu"] < 1.5
    assert {"loss", "grad_norm", "lr", "tokens_per_s", "val_bpc", "val_bpc_s0", "val_bpc_s1"} <= set(record.history[0])
    assert [row["step"] for row in record.samples] == [6, 6, 12, 12][::2]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_is_bit_exact(tmp_path, optimizer):
    settings = replace(TINY, optimizer=optimizer, checkpoint_every=1)
    whole, record = run(settings)
    path = tmp_path / "checkpoint.pt"
    run(settings, checkpoint=path, stop=5)
    resumed, later = run(settings, checkpoint=path)
    assert later.losses == record.losses
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    run(checkpoint=path, stop=4)
    with pytest.raises(WorkshopError, match="learning_rate: 0.003 → 0.1"):
        run(replace(TINY, learning_rate=0.1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        run(checkpoint=path)


@pytest.mark.parametrize("state", [{"model": {}}, {"model": {}, "identity": None}, [1], 3])
def test_a_sound_file_that_is_no_checkpoint_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WorkshopError, match="other.pt을"):
        run(checkpoint=tmp_path / "other.pt")


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    run(checkpoint=tmp_path / "checkpoint.pt", stop=4)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["model"] = {name: value[..., :-1] for name, value in state["model"].items()}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        run(checkpoint=tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("name, message", [("nowhere/checkpoint.pt", "폴더 .*nowhere이"), ("nowhere/checkpoint", "폴더 .*nowhere이"),
                                           ("folder.pt", "폴더인데"), ("file", "파일인데")])  # fmt: skip
def test_where_no_checkpoint_can_be_written_no_training_begins(tmp_path, name, message, monkeypatch):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(pretraining, "_accumulate", lambda *_: pytest.fail("학습을 시작했다"))
    with pytest.raises(WorkshopError, match=message):
        run(checkpoint=tmp_path / name)


@pytest.mark.parametrize("arguments, message", [
    (["none.bin", "r.json"], "none.json"),
    (["t.bin", "nowhere/r.json"], "기록을 쓸 수 없다"),
    (["t.bin", "."], "기록을 쓸 수 없다"),
    (["t.bin", "r.json", "--settings", "{steps: 3}"], "JSON이 아니다"),
    (["t.bin", "r.json", "--settings", "[1]"], "짝이 아니다"),
    (["t.bin", "r.json", "--settings", '{"step": 3}'], "step이라는 설정은 없다"),
    (["t.bin", "r.json", "--settings", '{"steps": "many"}'], "steps에 \"many\""),
    (["t.bin", "r.json", "--settings", '{"steps": 2.5}'], "steps에 2.5"),
    (["t.bin", "r.json", "--model", "m", "--tokenizer", "nowhere"], "tokenizer.json이 없다"),
    (["t.bin", "r.json", "--model", "t.bin", "--tokenizer", "tokenizer"], "t.bin은"),
    (["other.bin", "r.json", "--model", "m", "--tokenizer", "tokenizer"], "어휘는 7개인데"),
])  # fmt: skip
def test_a_wrong_argument_is_named_before_anything_is_trained(tokenizer, tmp_path, monkeypatch, arguments, message):
    packing.pack(documents(20), tokenizer, tmp_path / "t.bin")
    packing.pack(documents(20), tokenizer, tmp_path / "other.bin")
    told = json.loads((tmp_path / "other.json").read_text(encoding="utf-8"))
    (tmp_path / "other.json").write_text(json.dumps(told | {"vocab_size": 7}), encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretraining, "train", lambda *_, **__: pytest.fail("학습을 시작했다"))
    with pytest.raises(WorkshopError, match=message):
        pretraining.main(arguments)


def test_settings_from_a_command_line_are_those_of_the_profile():
    for profile in PROFILES.values():
        for settings in (profile.base_model, supervised(profile.alignment)):
            assert changed(settings, json.dumps(asdict(settings))) == settings
    whole = replace(TINY, final_fraction=0)
    assert changed(whole, '{"final_fraction": 0.5, "learning_rate": 1}') == replace(TINY, final_fraction=0.5, learning_rate=1)


def test_the_command_tells_its_mistake_in_a_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "workshop_lib.pretraining", "none.bin", "r.json"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})  # fmt: skip
    assert done.returncode == 1 and "오류: 토큰 파일 none.json" in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    run(checkpoint=path, stop=4)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkshopError, match="디스크"):
        run(checkpoint=path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_pretraining as t, torch
torch.set_num_threads(1)
settings = t.replace(t.TINY, steps=400, checkpoint_every=1)
model, record = t.run(settings, checkpoint=Path({path!r}))
"""


def test_kill_9_and_go_on_gives_the_same_weights(tmp_path):
    path = tmp_path / "checkpoint.pt"
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.time() + 60
    while not path.exists() and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    settings = replace(TINY, steps=400, checkpoint_every=1)
    reached = torch.load(path, weights_only=True)["run"]["step"]
    assert 0 < reached < 400
    settings_short = min(reached + 3, 400)
    resumed, _ = run(settings, checkpoint=path, stop=settings_short)
    whole, _ = run(settings, stop=settings_short)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_a_loss_that_is_no_number_stops_with_step_and_advice():
    model = pretraining.new_model(TINY, VOCABULARY).cpu()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(WorkshopError, match=r"1번째 단계에서 손실이 nan.*학습률을 절반"):
        pretraining.train(model, tokens(), TINY, progress=False)


def test_torchrun_with_two_processes_gives_the_same_curve(tmp_path):
    tokens().tofile(tmp_path / "train.bin")
    packed = packing.Packed(str(tmp_path / "train.bin"), "uint16", 4_000, 1, 1, VOCABULARY)
    (tmp_path / "train.json").write_text(json.dumps(asdict(packed)), encoding="utf-8")
    module = ["-m", "workshop_lib.pretraining", str(tmp_path / "train.bin"), str(tmp_path / "curve.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *module]
    command += [f"--settings={json.dumps(asdict(TINY))}"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    curve = json.loads((tmp_path / "curve.json").read_text())["losses"]
    # The same sums in another order: float32 rounding, which training amplifies slowly.
    assert np.abs(np.array(curve) - run()[1].losses).max() < 1e-4


def test_blocks_may_start_by_adding_nothing():
    model = pretraining.new_model(replace(TINY, zero_residual=True), VOCABULARY).cpu()
    ids = torch.randint(0, VOCABULARY, (2, 8))
    embedded = model.model.norm(model.model.embed_tokens(ids))
    torch.testing.assert_close(model.model(ids), embedded)


def test_the_trainer_version_follows_the_same_curve(tmp_path):
    from transformers import LlamaForCausalLM

    from workshop_lib.hf_training import trainer

    ours, record = run(replace(TINY, steps=1))
    theirs = LlamaForCausalLM(ours.config.to_hf())
    theirs.load_state_dict(pretraining.new_model(TINY, VOCABULARY, 0).state_dict())
    other = trainer(theirs, tokens(), TINY, tmp_path)
    other.train()
    losses = [row["loss"] for row in other.state.log_history if "loss" in row]
    # Its warm-up spends a step at rate zero, and a window has one target fewer: a step behind, and not to the digit.
    assert np.abs(np.array(losses[1:]) - run()[1].losses[:-1]).max() < 0.1


def test_the_matrix_product_peak_and_mfu():
    assert 1e9 < throughput.matmul_peak(TINY, size=256, repeats=3) < 1e14
    assert throughput.model_flops_utilization(1e4, 10**6, 4, 256, 128, 1e11) == pytest.approx(0.6 + 0.157, abs=1e-3)


# --- the stage -------------------------------------------------------------------------------------------------


def job(folder: Path, tokenizer, settings=TINY) -> Job:
    for name in ("corpus", "tokenizer", "out"):
        (folder / name).mkdir(exist_ok=True)
    write(folder / "corpus" / "train.jsonl", documents(600))
    write(folder / "corpus" / "validation.jsonl", documents(60))
    tokenizer.save_pretrained(folder / "tokenizer")
    inputs = {name: folder / name for name in ("corpus", "tokenizer")}
    return Job(out=folder / "out", inputs=inputs, settings=settings, seed=0, data=None)


def test_build_makes_a_model_that_transformers_loads(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = pretraining.build(job(tmp_path, tokenizer))
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    assert not {p.name for p in out.iterdir()} & {"checkpoint.pt", "train.bin", "train.json"}
    theirs, ours = AutoModelForCausalLM.from_pretrained(out), load_model(out)
    assert type(theirs).__name__ == "LlamaForCausalLM" and theirs.config.eos_token_id == tokenizer.eos_token_id
    ids = AutoTokenizer.from_pretrained(out)("하나 둘 셋", return_tensors="pt")["input_ids"]
    assert (theirs(ids).logits - ours(ids)).abs().max() <= 1e-4
    wanted = {"params", "train_tokens", "tokens_per_s", "mfu", "final_train_loss", "val_bpc", "ngram_bpc", "unigram_bpc", "uniform_bpc"}
    assert wanted | {"val_bpc_s0", "val_bpc_s1", "ngram_bpc_s0"} <= set(metrics)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in metrics.values())
    assert metrics["ngram_bpc"] < metrics["unigram_bpc"] < metrics["uniform_bpc"]
    history = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in history] == [6, 12] and {row["step"] for row in samples} == {6, 12}


def test_an_interrupted_build_ends_in_the_same_model(tokenizer, tmp_path, monkeypatch):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    pretraining.build(job(tmp_path / "whole", tokenizer))
    broken = job(tmp_path / "broken", tokenizer)
    save = pretraining.save_checkpoint

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretraining.build(broken)
    monkeypatch.undo()
    pretraining.build(broken)
    a, b = (load_model(tmp_path / name / "out").state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_describes_a_model_that_quantises_and_splits_well(name):
    settings = PROFILES[name].base_model
    with torch.device("meta"):
        config = Transformer(pretraining.model_config(settings, 1_000)).config
    assert config.hidden_size % 64 == 0 and settings.batch_size % settings.accumulation == 0
    assert settings.warmup_steps < settings.steps


def test_an_untied_model_starts_with_every_token_equally_likely():
    settings = replace(TINY, tie_embeddings=False)
    model = pretraining.new_model(settings, 97)
    ids = torch.arange(12).reshape(1, 12)
    assert torch.allclose(model(ids), torch.zeros(1, 12, 97))
    assert abs(float(model.model.embed_tokens.weight.detach().std()) - 1) < 0.1
    assert model(ids, ids).item() == pytest.approx(math.log(97))


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_automatic_number_format_is_the_one_in_which_this_machine_multiplies_faster(monkeypatch, faster):
    throughput._faster_format.cache_clear()
    monkeypatch.setattr(throughput, "_product_speed", lambda device, dtype, *rest: 2.0 if dtype == faster else 1.0)
    assert throughput.number_format(replace(TINY, dtype="auto")) == faster
    assert throughput.number_format(replace(TINY, dtype="float32")) == torch.float32
    throughput._faster_format.cache_clear()


def test_without_a_compiler_training_goes_on_uncompiled(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not throughput.can_compile()
    tokens = np.random.default_rng(0).integers(3, 97, 4_000)
    settings = replace(TINY, compile=True, steps=2)
    run = pretraining.train(pretraining.new_model(settings, 97), tokens, settings, progress=False)
    assert run.step == 2
