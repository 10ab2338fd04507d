"""Every method of fine-tuning on a model of seconds: what learns, what it costs, what is kept; and labelled files, good and bad."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, finetuning, labelled, workspace
from workshop_lib.finetuning import METHODS, Encoded, finetune
from workshop_lib.profile import PROFILES
from workshop_lib.workspace import Job, Stage, Workspace

SETTINGS = replace(
    PROFILES["tiny"].task_model, rows=60, held_out=30, bundled_rows=60, bundled_held_out=30, curve=(20, 60), sweep_rows=30,
    sweep=(("qv", 1), ("all", 2)), epochs=1, min_steps=3, batch_size=8, max_length=24, rank=2, alpha=4.0, waveft_coefficients=16,
    bundled_adapt_steps=2,
)  # fmt: skip
BASE = None  # the folder that copy_base copies


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base_model folder with random weights and a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.add_special_tokens(specials)
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    ))  # fmt: skip
    folder = tmp_path_factory.mktemp("작업 폴더") / "base_model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def easy(count: int, seed: int = 0) -> Encoded:
    """Lines whose label is whether a certain token stands in them."""
    random = np.random.default_rng(seed)
    ids, labels = [], random.integers(0, 2, count)
    for label in labels:
        line = random.integers(10, 60, random.integers(3, 12)).tolist()
        line[random.integers(len(line))] = 80 + int(label)
        ids.append([1, *line, 2])
    return Encoded(ids, labels)


# --- labelled files -----------------------------------------------------------------------------------------------------


HEADER = "id\tdocument\tlabel\n"


@pytest.mark.parametrize("name, text, words", [
    ("가.txt", HEADER + "1\t좋다\t1\n2\t나쁘다\t2\n", "가.txt 3번째 줄: 라벨이 0이나 1이 아니라 '2'"),
    ("가.tsv", HEADER + "1\t좋다\t1\n2\t \t0\n", "가.tsv 3번째 줄: 글이 비었다"),
    ("가.txt", HEADER + "1\t좋다\t1\n2\t나쁘", "가.txt 3번째 줄: 열이 3개여야 하는데 2개"),
    ("가.txt", "id\t리뷰\t점수\n1\t좋다\t1\n", "1번째 줄: 머리글에 document, label 열이 없다. 있는 열은 id, 리뷰, 점수"),
    ("가.txt", HEADER, "행이 하나도 없다"),
    ("가.txt", "", "빈 파일"),
    ("가.csv", 'id,document,label\n1,"좋다, 정말",1\n2,"끊긴', "가.csv 3번째 줄"),
    ("가.jsonl", '{"document": "좋다", "label": 1}\n{"document": "나쁘', "가.jsonl 2번째 줄: JSON 형식이 아니다"),
    ("가.jsonl", '{"document": "좋다", "label": true}\n', "1번째 줄: 라벨이"),
    ("가.jsonl", '{"text": "좋다", "label": 1}\n', "1번째 줄: document 열이 없다. 있는 열은 text, label"),
    ("가.xlsx", "아무것", "읽을 수 없는 형식"),
])  # fmt: skip
def test_a_broken_labelled_file_is_told_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(WorkshopError, match=words):
        labelled.read_labelled(tmp_path / name)


def test_good_labelled_files(tmp_path):
    rows = [{"id": "1", "document": "좋다, 정말", "label": 1}, {"id": "2", "document": "별로", "label": 0}]
    (tmp_path / "a.csv").write_text('id,document,label\n1,"좋다, 정말",1\n2,별로,0\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_text(HEADER + "1\t좋다, 정말\t1\n2\t별로\t0\n", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert labelled.read_labelled(tmp_path / name) == rows
    with pytest.raises(WorkshopError, match="없다"):
        labelled.read_labelled(tmp_path / "b.csv")


def nsmc(folder, train="", test="", rows=40):
    """A small folder in NSMC's format; `train`, `test`: lines that come first."""
    (folder / "nsmc").mkdir(parents=True)
    for split, more in (("train", train), ("test", test)):
        text = HEADER + more + "".join(f"{i}\t{split} 리뷰 {i} {'좋다' if i % 2 else '나쁘다'}\t{i % 2}\n" for i in range(rows))
        (folder / "nsmc" / f"ratings_{split}.txt").write_text(text, encoding="utf-8")
    return folder


def test_no_text_is_learnt_and_measured(tmp_path):
    shared = "900\t같은 글\t1\n901\t두 번\t0\n902\t두 번\t0\n903\t엇갈림\t0\n904\t엇갈림\t1\n"
    train, test = labelled.sentiment(nsmc(tmp_path, shared, "905\t같은 글\t0\n"), 100, 100)
    texts = [row["document"] for row in train]
    assert len(texts) == len(set(texts)) == 41 and "두 번" in texts
    assert not {"같은 글", "엇갈림"} & ({row["document"] for row in test} | set(texts))
    again, _ = labelled.sentiment(tmp_path, 7, 5)
    assert again == train[:7]  # fewer rows are the first of more
    with pytest.raises(WorkshopError, match="3번째 줄: 빈 리뷰"):
        labelled.sentiment(nsmc(tmp_path / "b", "1\t좋다\t1\n2\t \t0\n"), 5, 5)  # 1 of 42 is no accident
    assert len(labelled.nsmc(nsmc(tmp_path / "c", "2\t\t0\n", rows=2_000), "train")) == 2_000
    with pytest.raises(WorkshopError, match="2번째 줄: 라벨이 0이나 1이 아니라 '5'"):
        labelled.sentiment(nsmc(tmp_path / "d", "1\t좋다\t5\n"), 5, 5)
    with pytest.raises(WorkshopError, match="ratings_train.txt: 라벨 긍정뿐이다"):
        labelled.sentiment(nsmc(tmp_path / "e", "1\t좋다\t1\n", rows=0), 5, 5)
    (tmp_path / "nsmc" / "ratings_test.txt").unlink()
    with pytest.raises(WorkshopError, match="ratings_test.txt"):
        labelled.sentiment(tmp_path, 5, 5)


def test_bundled_reviews(tmp_path):
    train, test = labelled.sentiment(None, 300, 200)
    assert len(train) == 300 and len(test) == 200
    assert not {row["document"] for row in train} & {row["document"] for row in test}
    assert 0.4 < np.mean([row["label"] for row in train + test]) < 0.6
    assert (train, test) == labelled.sentiment(tmp_path, 300, 200)  # a data folder without NSMC


# --- batches ----------------------------------------------------------------------------------------------------------------


def test_encode_keeps_the_ends(tokenizer):
    encoded = finetuning.encode([{"document": "가", "label": 1}, {"document": "x" * 99, "label": 0}], tokenizer, 10)
    assert [len(ids) for ids in encoded.ids] == [5, 10] and encoded.labels.tolist() == [1, 0]
    assert all(ids[0] == 1 and ids[-1] == 2 for ids in encoded.ids)
    assert len(finetuning.encode([], tokenizer, 10)) == 0


def test_collate_and_pool_last():
    ids, mask = finetuning.collate([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    assert finetuning.pool_last(hidden, mask).tolist() == [[4, 5], [6, 7]]
    assert finetuning.pool_last(hidden, torch.tensor([[0, 1, 1], [0, 0, 1]])).tolist() == [[4, 5], [10, 11]]  # padded on the left


def test_transformers_pools_as_we_do(base):
    model = finetuning.classifier(base).eval()
    ids, mask = finetuning.collate([[1, 20, 21, 2], [1, 22, 2]], pad=0)
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    ours = model.score(finetuning.pool_last(hidden, mask))
    torch.testing.assert_close(ours, model(input_ids=ids, attention_mask=mask).logits)
    alone = model(input_ids=ids[1:, :3]).logits  # padding changes nothing
    torch.testing.assert_close(alone[0], ours[1], atol=1e-5, rtol=1e-5)


def test_batches_hold_every_row_once():
    lengths = [(i * 37) % 50 for i in range(101)]
    found = finetuning.batches(lengths, 8, seed=1)
    assert sorted(i for part in found for i in part) == list(range(101))
    assert found == finetuning.batches(lengths, 8, seed=1) != finetuning.batches(lengths, 8, seed=1, epoch=1)
    spread = np.mean([max(lengths[i] for i in part) - min(lengths[i] for i in part) for part in found])
    assert spread < 10  # like lengths together: little padding


# --- methods ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(base):
    """Every method, three steps."""
    torch.set_num_threads(1)
    return {method: finetune(method, base, easy(24), SETTINGS, held_out=easy(20, 1), progress=False) for method in METHODS}


def test_only_the_methods_own_numbers_learn(base, results):
    from workshop_lib.lora import lora_parameters

    counts = {method: result.trainable for method, result in results.items()}
    shapes = [(32, 32)] * 4 + [(64, 32)] * 2 + [(32, 64)]
    head = 2 * 32
    assert counts["linear_probe"] == head
    assert counts["lora"] == counts["qlora"] == 2 * lora_parameters(shapes, 2) + head
    assert counts["dora"] == counts["lora"] + 2 * sum(out for out, _ in shapes)
    assert counts["waveft"] == 2 * 7 * 16 + head
    assert counts["ia3"] == 2 * (32 + 32 + 64) + head
    assert counts["full"] == counts["random_init"] == counts["adapted"] == sum(p.numel() for p in finetuning.classifier(base).parameters())
    before = finetuning.classifier(base).state_dict()
    after = finetuning.classifier(base, pretrained=True)
    for method in ("lora", "dora", "waveft", "ia3"):
        kept = {n: p for n, p in results[method].model.named_parameters() if not p.requires_grad and "score" not in n}
        for name, tensor in kept.items():
            short = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(tensor, before[short]), name
    assert all(torch.equal(a, b) for a, b in zip(before.values(), after.state_dict().values()))


def test_costs_are_those_of_the_method(results):
    for result in results.values():
        assert len(result.losses) == 3 and result.seconds > 0 and result.adapter_bytes > 4 * result.trainable
        assert result.interval[0] <= result.accuracy <= result.interval[1] and len(result.predictions) == 20
    memory = {method: result.peak_mb for method, result in results.items()}
    assert memory["linear_probe"] < memory["lora"] < memory["full"]  # no graph; no optimiser state for the base
    assert {"lora_accuracy", "lora_accuracy_ci_low", "lora_accuracy_ci_high", "lora_trainable_params", "lora_seconds",
            "lora_peak_mb", "lora_adapter_bytes"} == set(results["lora"].metrics())  # fmt: skip


def test_peak_memory_is_counted_exactly():
    layer = torch.nn.Linear(1_000, 1_000, bias=False)
    stepper = torch.optim.SGD(layer.parameters())
    x = torch.zeros(10, 1_000)
    peak = finetuning.peak_mb(layer, stepper, lambda: layer(x).sum().backward())
    assert 8.0 <= peak < 8.3  # the weight and its gradient, 4 MB each


def test_full_learns_an_easy_task_and_the_seed_decides(base):
    train, test = easy(200), easy(100, 1)
    options = {"held_out": test, "rate": 3e-3, "steps": 60, "memory": False, "progress": False}
    first = finetune("full", base, train, SETTINGS, **options)
    assert first.accuracy > 0.9 and first.losses[-1] < 0.3 < first.losses[0]
    assert finetune("full", base, train, SETTINGS, **options).losses == first.losses


def test_more_than_two_labels(base):
    names = ("하나", "둘", "셋")
    train = Encoded([[1, 80 + n % 3, 2] for n in range(30)], np.arange(30) % 3)
    result = finetune("full", base, train, SETTINGS, held_out=train, rate=3e-3, steps=30, memory=False, progress=False, labels=names)
    assert result.accuracy == 1.0 and result.model.config.id2label == {0: "하나", 1: "둘", 2: "셋"}


def test_bad_calls_are_told(base):
    with pytest.raises(WorkshopError, match="'lorra'은"):
        finetune("lorra", base, easy(4), SETTINGS)
    with pytest.raises(WorkshopError, match="학습할 리뷰가 하나도 없다"):
        finetune("full", base, Encoded([], np.zeros(0, dtype=int)), SETTINGS)
    with pytest.raises(WorkshopError, match="학습률을 절반으로"):
        finetune("full", base, easy(8), SETTINGS, rate=1e30, steps=9, memory=False, progress=False)


def test_adapting_lowers_the_loss_of_the_text(base, tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    texts = ["정말 좋다. 또 보고 싶다."] * 900
    folder = finetuning.adapt(base, texts, replace(SETTINGS, adapt_steps=8), tmp_path / "a", progress=False)
    ids = torch.tensor([[1, *tokenizer(texts[0])["input_ids"][:30]]])
    losses = [AutoModelForCausalLM.from_pretrained(path)(input_ids=ids, labels=ids).loss.item() for path in (base, folder)]
    assert losses[1] < losses[0] - 0.2
    with pytest.raises(WorkshopError):
        finetuning.adapt(base, [], SETTINGS, tmp_path / "b", progress=False)


# --- keeping ----------------------------------------------------------------------------------------------------------------


def test_adapters_are_kept_switched_and_merged(base, results, tmp_path):
    test = easy(20, 1)
    for method in ("lora", "dora"):
        finetuning.save_adapter(results[method].model, tmp_path / method)
        stored = (tmp_path / method / "adapter_model.safetensors").stat().st_size
        assert abs(stored - results[method].adapter_bytes) < 200  # the same tensors; a header
        assert str(tmp_path) not in (config := (tmp_path / method / "adapter_config.json").read_text()) and str(base) not in config
    wanted = {method: finetuning.logits(results[method].model, test) for method in ("lora", "dora")}
    model = finetuning.with_adapters(base, {method: tmp_path / method for method in wanted})
    for method in ("lora", "dora", "lora"):
        model.set_adapter(method)
        torch.testing.assert_close(finetuning.logits(model, test), wanted[method], atol=1e-5, rtol=0)
    model.set_adapter("dora")
    plain = finetuning.merged(model)
    assert not hasattr(plain, "peft_config")
    torch.testing.assert_close(finetuning.logits(plain, test), wanted["dora"], atol=1e-5, rtol=0)


def test_curve_and_baselines(base, tokenizer):
    rows, held_out = labelled.sentiment(None, 60, 30)
    train, test = (finetuning.encode(part, tokenizer, 24) for part in (rows, held_out))
    points = finetuning.learning_curve(base, rows, train, held_out, test, replace(SETTINGS, curve=(20, 999)))
    assert [(point["rows"], point["start"]) for point in points] == [(20, "random"), (20, "pretrained"), (20, "tfidf")]
    found = finetuning.baselines(rows, held_out)
    assert set(found["majority"][0]) <= {0, 1} and len(set(found["majority"][0])) == 1
    with pytest.raises(WorkshopError, match="라벨이 긍정뿐"):
        finetuning.baselines([{"document": "좋다", "label": 1}] * 3, held_out)


def test_the_stage(base, tmp_path, monkeypatch):
    """What week 7 and the report card read; a broken file leaves nothing behind; the same seed gives the same artefact."""
    from transformers import AutoModelForSequenceClassification

    def job(name, data=None):
        (tmp_path / name).mkdir()
        return Job(tmp_path / name, {"base_model": base, "tokenizer": base}, SETTINGS, 0, data)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT would look for the base model in the network
        metrics = finetuning.build(job("한 번"))
    out = tmp_path / "한 번"
    for method in METHODS:
        for what in ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "trainable_params", "seconds", "peak_mb", "adapter_bytes"):
            assert f"{method}_{what}" in metrics
    assert {"tfidf_accuracy", "majority_accuracy", "curve_pretrained_20_accuracy", "sweep_qv_r1_accuracy"} < set(metrics)
    assert metrics["curve_pretrained_60_accuracy"] == metrics["full_accuracy"]
    assert metrics["adapt_steps"] == 2 and "curve_adapted_20_accuracy" in metrics and not (out / "adapted_base").exists()
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.id2label == {0: "부정", 1: "긍정"}
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 30 and np.mean([row["full"] == row["label"] for row in rows]) == metrics["full_accuracy"]
    assert "document" not in rows[0]
    said = finetuning.predict(out, ["정말 좋다", ""])
    assert [set(item) for item in said] == [{"text", "label", "name", "positive"}] * 2
    assert all(item["name"] == ("긍정" if item["positive"] > 0.5 else "부정") for item in said)
    assert finetuning.predict(out, []) == []
    with pytest.raises(WorkshopError, match="목록"):
        finetuning.predict(out, "정말 좋다")
    with pytest.raises(WorkshopError, match="분류 모델이 없다"):
        finetuning.predict(tmp_path, ["정말 좋다"])


def test_a_broken_file_leaves_the_old_artefact(base, tmp_path, monkeypatch):
    """`workshop run` over a data folder that has gone bad: one message, the finished folder as it was, no half of a new one."""
    stages = {
        "base_model": Stage("base_model", 5, "사전학습", f"{__name__}:copy_base"),
        "task_model": Stage("task_model", 6, "미세조정", f"{__name__}:cheap_build", ("base_model",)),
    }
    monkeypatch.setattr(workspace, "STAGES", stages)
    monkeypatch.setattr(finetuning, "METHODS", {"linear_probe": "선형 탐침", "full": "전체 미세조정"})
    monkeypatch.setitem(globals(), "BASE", base)
    data = nsmc(tmp_path / "자료")
    small = replace(SETTINGS, curve=(), sweep=(), adapt_steps=0)
    space = Workspace(tmp_path / "집", replace(PROFILES["tiny"], task_model=small), data)
    folder = space.require("task_model", None)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    path = data / "nsmc" / "ratings_train.txt"
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")  # cut off in the last line
    with pytest.raises(WorkshopError, match=r"ratings_train.txt 41번째 줄: 열이 3개여야 하는데 2개"):
        space.require("task_model", None)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == files
    assert not [p for p in (space.home / ".partial").rglob("*") if p.is_file()]


def copy_base(job):
    import shutil

    shutil.copytree(BASE, job.out, dirs_exist_ok=True)
    return {}


def cheap_build(job):
    return finetuning.build(job)
