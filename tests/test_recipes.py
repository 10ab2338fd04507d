"""The recipes of NVIDIA's tools say what the profile says, find their data, and their token files hold the documents."""

import json
import os
import re
import struct
from dataclasses import replace
from fnmatch import fnmatch
from math import gcd

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workshop_lib import WorkshopError, cli, indexed, recipe_folder
from workshop_lib.corpora import desk
from workshop_lib.profile import PROFILES, get_profile, with_settings
from workshop_lib.recipe_files import reviews
from workshop_lib.recipes import Places, llama, recipes
from workshop_lib.workspace import Workspace

PLACES = Places("HOME", "RECIPES")
EVERY = [(name, recipe) for name, profile in PROFILES.items() for recipe in recipes(profile, PLACES)]
BY_PATH = {(name, recipe.path): recipe.content for name, recipe in EVERY}
EACH = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def values(tree):
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from values(part)
    else:
        yield tree


@EACH
def test_pretraining_sees_as_many_tokens_as_the_course(profile):
    settings = profile.base_model
    wanted = settings.steps * settings.batch_size * settings.context
    automodel, megatron = BY_PATH[profile.name, "automodel/pretrain.yaml"], BY_PATH[profile.name, "megatron/pretrain.yaml"]
    steps = automodel["step_scheduler"]
    assert steps["max_steps"] * steps["global_batch_size"] * automodel["dataset"]["seq_length"] == wanted
    train = megatron["train"]
    assert train["train_iters"] * train["global_batch_size"] * megatron["dataset"]["seq_length"] == wanted


@EACH
def test_batches_can_be_shared_by_two_devices(profile):
    for name, content in ((r.path, r.content) for n, r in EVERY if n == profile.name):
        for section in (content.get("step_scheduler"), content.get("train"), content.get("policy")):
            whole = section and (section.get("global_batch_size") or section.get("train_global_batch_size"))
            part = section and (section.get("local_batch_size") or section.get("micro_batch_size") or section.get("train_micro_batch_size"))
            if whole:
                assert whole % (2 * part) == 0, name


@EACH
def test_the_shape_is_the_base_models(profile):
    from transformers import LlamaConfig

    from workshop_lib.pretraining import model_config

    ours = model_config(profile.base_model, 1_000).to_hf(bos_token_id=1, eos_token_id=2, pad_token_id=0).to_dict()
    theirs = LlamaConfig(**llama(profile.base_model, 1_000)).to_dict()
    differ = {key for key in ours if ours[key] != theirs.get(key)}
    assert differ <= {"architectures", "dtype", "transformers_version"}, differ


def test_lora_sits_on_the_layers_of_week_6():
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    profile = get_profile("tiny")
    with torch.device("meta"):
        model = LlamaForSequenceClassification(LlamaConfig(**llama(profile.base_model, 300)))
    recipe = BY_PATH["tiny", "automodel/classify_lora.yaml"]
    linear = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    chosen = {name for name in linear if any(fnmatch(name, pattern) for pattern in recipe["peft"]["target_modules"])}
    assert len(chosen) == len(profile.task_model.targets) * profile.base_model.layers + 1
    assert chosen == linear and "score" in chosen and recipe["peft"]["dim"] >= model.config.num_labels


@pytest.mark.parametrize("section, number, path, key", [
    ("base_model", {"learning_rate": 0.125}, "automodel/pretrain.yaml", ("optimizer", "lr")),
    ("base_model", {"learning_rate": 0.125}, "megatron/pretrain.yaml", ("optimizer", "lr")),
    ("base_model", {"beta2": 0.125}, "megatron/pretrain.yaml", ("optimizer", "adam_beta2")),
    ("base_model", {"context": 77}, "serve/vllm.yaml", ("max-model-len",)),
    ("base_model", {"weight_decay": 0.125}, "automodel/pretrain.yaml", ("optimizer", "weight_decay")),
    ("base_model", {"weight_decay": 0.125}, "megatron/pretrain.yaml", ("optimizer", "weight_decay")),
    ("base_model", {"warmup_steps": 7}, "automodel/pretrain.yaml", ("lr_scheduler", "lr_warmup_steps")),
    ("base_model", {"warmup_steps": 7}, "megatron/pretrain.yaml", ("scheduler", "lr_warmup_iters")),
    ("base_model", {"checkpoint_every": 77}, "automodel/pretrain.yaml", ("step_scheduler", "ckpt_every_steps")),
    ("base_model", {"evaluate_every": 77}, "megatron/pretrain.yaml", ("train", "eval_interval")),
    ("task_model", {"alpha": 7.5}, "automodel/classify_lora.yaml", ("peft", "alpha")),
    ("task_model", {"alpha": 7.5}, "automodel/chat_lora.yaml", ("peft", "alpha")),
    ("task_model", {"clip": 0.125}, "automodel/classify_lora.yaml", ("clip_grad_norm", "max_norm")),
    ("task_model", {"epochs": 7}, "automodel/classify_lora.yaml", ("step_scheduler", "num_epochs")),
    ("alignment", {"sft_weight_decay": 0.125}, "nemo_rl/sft.yaml", ("policy", "optimizer", "kwargs", "weight_decay")),
    ("alignment", {"dpo_rate": 0.125}, "nemo_rl/dpo.yaml", ("policy", "optimizer", "kwargs", "lr")),
    ("alignment", {"dpo_batch": 48}, "nemo_rl/dpo.yaml", ("policy", "train_global_batch_size")),
    ("alignment", {"reward_rate": 0.125}, "nemo_rl/rm.yaml", ("policy", "optimizer", "kwargs", "lr")),
    ("alignment", {"reward_batch": 48}, "nemo_rl/rm.yaml", ("policy", "train_global_batch_size")),
    ("base_model", {"clip": 0.125}, "automodel/pretrain.yaml", ("clip_grad_norm", "max_norm")),
    ("task_model", {"rank": 77}, "automodel/classify_lora.yaml", ("peft", "dim")),
    ("task_model", {"lora_rate": 0.125}, "automodel/classify_lora.yaml", ("optimizer", "lr")),
    ("task_model", {"max_length": 77}, "automodel/classify_lora.yaml", ("dataset", "max_length")),
    ("alignment", {"sft_steps": 77}, "automodel/chat_lora.yaml", ("step_scheduler", "max_steps")),
    ("alignment", {"sft_rate": 0.125}, "nemo_rl/sft.yaml", ("policy", "optimizer", "kwargs", "lr")),
    ("alignment", {"dpo_beta": 0.125}, "nemo_rl/dpo.yaml", ("dpo", "reference_policy_kl_penalty")),
    ("alignment", {"dpo_sft_weight": 0.125}, "nemo_rl/dpo.yaml", ("dpo", "sft_loss_weight")),
    ("alignment", {"reward_steps": 77}, "nemo_rl/rm.yaml", ("rm", "max_num_steps")),
])  # fmt: skip
def test_turning_the_dial_turns_the_recipe(section, number, path, key):
    profile = with_settings(get_profile("gpu"), section, **number)
    found = next(recipe.content for recipe in recipes(profile, PLACES) if recipe.path == path)
    for name in key:
        found = found[name]
    assert [found] == list(number.values())


ODD = with_settings(get_profile("tiny"), "base_model", schedule="wsd", decay_fraction=0.5, final_fraction=0.25,
                    batch_size=48, accumulation=4)  # fmt: skip
ODD = with_settings(ODD, "alignment", pairs=100, conversations=150)  # each is seen more than once
EACH_AND_ODD = pytest.mark.parametrize("profile", [*PROFILES.values(), ODD], ids=[*PROFILES, "odd"])


@EACH_AND_ODD
def test_schedules_begin_at_nothing_and_end_where_the_course_does(profile):
    settings, content = profile.base_model, {recipe.path: recipe.content for recipe in recipes(profile, PLACES)}
    automodel, megatron = content["automodel/pretrain.yaml"], content["megatron/pretrain.yaml"]
    last = settings.learning_rate * settings.final_fraction
    assert automodel["lr_scheduler"]["min_lr"] == megatron["optimizer"]["min_lr"] == last
    tuned = [content[f"automodel/{name}.yaml"] for name in ("pretrain", "classify_lora", "chat_lora")]
    assert all(part["lr_scheduler"]["init_lr"] == 0 for part in tuned)
    parts = settings.batch_size // settings.accumulation  # a micro-batch is no larger than the course's, shared by two devices
    assert {automodel["step_scheduler"]["local_batch_size"], megatron["train"]["micro_batch_size"]} == {gcd(parts // 2, 8)}
    if settings.schedule == "wsd":
        wanted = round(settings.decay_fraction * settings.steps)
        assert automodel["lr_scheduler"]["wsd_decay_steps"] == megatron["scheduler"]["lr_wsd_decay_iters"]
        assert automodel["lr_scheduler"]["wsd_decay_steps"] == min(wanted, settings.steps - settings.warmup_steps)
    assert automodel["optimizer"]["betas"] == [settings.beta1, settings.beta2]
    assert {part["seed"] for part in (*tuned, megatron["rng"])} == {profile.seed}


@EACH_AND_ODD
def test_each_recipe_starts_where_its_week_does_and_sees_its_data_often_enough(profile):
    settings, found = profile.alignment, {recipe.path: recipe.content for recipe in recipes(profile, PLACES)}
    rl = {kind: found[f"nemo_rl/{kind}.yaml"] for kind in ("sft", "dpo", "rm")}
    starts = {kind: content["policy"]["model_name"] for kind, content in rl.items()}
    assert starts == {"sft": "HOME/base_model", "dpo": "HOME/alignment/sft", "rm": "HOME/alignment/sft"}
    rows = {"sft": settings.conversations, "dpo": settings.pairs, "rm": settings.pairs}
    for kind, content in rl.items():
        seen = content[kind]["max_num_epochs"] * rows[kind]
        needed = content[kind]["max_num_steps"] * content["policy"]["train_global_batch_size"]
        assert seen >= needed > seen - rows[kind] and content[kind]["seed"] == profile.seed
        reads = {half: content["data"][half]["data_path"] for half in ("train", "validation")}
        assert all(path.endswith(f"_{half}.jsonl") for half, path in reads.items())
    for half, section in (("train", "dataset"), ("validation", "validation_dataset")):
        assert found["automodel/pretrain.yaml"][section]["splits_to_build"] == half
        assert found["automodel/chat_lora.yaml"][section]["truncation"]


def test_what_a_tool_lacks_is_said():
    notes = {(name, recipe.path): " ".join(recipe.note) for name, recipe in EVERY}
    assert "Muon" in notes["tiny", "automodel/pretrain.yaml"] and "Muon" not in notes["gpu", "automodel/pretrain.yaml"]
    assert "replay" in notes["gpu", "nemo_rl/dpo.yaml"]


def test_files_have_no_anchors_and_read_back_as_they_were():
    for _, recipe in EVERY:
        text = recipe_folder.as_yaml(recipe)
        assert yaml.safe_load(text) == json.loads(json.dumps(recipe.content)) and "&id" not in text
        assert text.startswith(f"# {recipe.week}주차: ") and recipe.command in text


def test_a_korean_folder_is_quoted_for_omegaconf_and_for_nothing_else(tmp_path):
    """OmegaConf takes no Korean letter in a default without quotes; NeMo AutoModel takes the quotes for a part of the name."""
    found = {r.path: [v for v in values(r.content) if isinstance(v, str) and v.startswith("${oc.env:")]
             for r in recipes(get_profile("tiny"), Places.of(tmp_path / "산출물", tmp_path / "레시피"))}  # fmt: skip
    for path, places in found.items():
        default = r"'[^']*(산출물|레시피)'" if path.startswith(("megatron", "nemo_rl")) else r"[^']*(산출물|레시피)"
        assert all(re.fullmatch(r"\$\{oc\.env:WORKSHOP_\w+," + default + r"\}[\w/.]*", place) for place in places), path
    assert {path for path, places in found.items() if not places} == {"serve/vllm.yaml", "serve/tensorrt_llm.yaml"}


@pytest.mark.parametrize("name", ["a,b", "a$b", "{a}", "it's"])
def test_a_folder_that_the_tools_would_misread_is_refused(tmp_path, name):
    with pytest.raises(WorkshopError, match="다른 폴더"):
        Places.of(tmp_path, tmp_path / name)


# ---------------------------------------------------------------------------------------------- token files


@pytest.fixture(scope="module")
def tokenizer():
    from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

    texts = [message["content"] for row in desk.conversations(60) for message in row["messages"]]
    return wrap(train_whole_char_bpe(texts, 400, SPECIAL_TOKENS), 128)


def read_back(prefix):
    """Documents of a .bin/.idx pair, read field by field as megatron.core's documentation lists them."""
    raw = prefix.with_name(prefix.name + ".idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", raw, 9)
    assert (version, code, documents) == (1, 8, sequences + 1)
    at = 9 + 25
    lengths = np.frombuffer(raw, np.int32, sequences, at)
    pointers = np.frombuffer(raw, np.int64, sequences, at + 4 * sequences)
    borders = np.frombuffer(raw, np.int64, documents, at + 12 * sequences)
    assert len(raw) == at + 12 * sequences + 8 * documents and borders.tolist() == list(range(documents))
    ids = prefix.with_name(prefix.name + ".bin").read_bytes()
    return [np.frombuffer(ids, np.uint16, length, start).tolist() for length, start in zip(lengths, pointers)]


def test_a_token_file_holds_the_documents(tmp_path, tokenizer):
    texts = ["가나다", "", "도서관은 몇 시에 여나요?\n아홉 시에 엽니다."]
    packed = indexed.write_indexed([{"text": text} for text in texts], tokenizer, tmp_path / "tokens_train")
    found = read_back(tmp_path / "tokens_train")
    assert [tokenizer.decode(ids[1:-1]) for ids in found] == texts
    assert {ids[0] for ids in found} == {1} and {ids[-1] for ids in found} == {2}
    assert packed.tokens == sum(map(len, found))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 7))
def test_documents_are_found_wherever_the_file_is_cut(lengths, chunk):
    tokens = np.concatenate([[1, *range(10, 10 + length - 1)] for length in lengths]).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed, "CHUNK", chunk)
        assert indexed.document_starts(tokens, 1).tolist() == np.cumsum([0, *lengths[:-1]]).tolist()


def test_a_token_file_needs_documents_and_a_vocabulary_that_fits(tmp_path, tokenizer, monkeypatch):
    with pytest.raises(WorkshopError, match="하나도 없다"):
        indexed.write_indexed([], tokenizer, tmp_path / "t")
    packed = indexed.pack([{"text": "가"}], tokenizer, tmp_path / "t.bin")
    monkeypatch.setattr(indexed, "pack", lambda *_: replace(packed, dtype="uint32", vocab_size=70_000))
    with pytest.raises(WorkshopError, match="65,536"):
        indexed.write_indexed([{"text": "가"}], tokenizer, tmp_path / "t")


def test_reviews_are_framed_and_cut(tmp_path, tokenizer):
    path = tmp_path / "r.jsonl"
    path.write_text('{"document": "가", "label": 1}\n{"document": "' + "나" * 50 + '", "label": 0}\n', encoding="utf-8")
    short, long = reviews.reviews(str(path), tokenizer, 12)
    assert (short["input_ids"][0], short["input_ids"][-1], short["labels"]) == (1, 2, [1])
    assert len(long["input_ids"]) == len(long["attention_mask"]) == 12 and long["input_ids"][-1] == 2
    assert short["___PAD_TOKEN_IDS___"]["input_ids"] == tokenizer.pad_token_id


# ---------------------------------------------------------------------------------------------- the folder


@pytest.fixture
def workspace(tmp_path, tokenizer, monkeypatch):
    """A workspace of few rows, in which only weeks 2 and 3 are done."""
    profile = with_settings(get_profile("tiny"), "base_model", steps=4)
    profile = with_settings(profile, "task_model", bundled_rows=40, bundled_held_out=20)
    profile = with_settings(profile, "alignment", conversations=50, held_out=20, pairs=30, held_out_pairs=12)
    home = tmp_path / "home"
    tokenizer.save_pretrained(home / "tokenizer")
    (home / "corpus").mkdir()
    for name, count in (("train", 900), ("validation", 5)):
        rows = [{"text": f"옛날 {n}번째 마을에 아이가 살았다.", "source": "s"} for n in range(count)]
        recipe_folder.write_rows(home / "corpus" / f"{name}.jsonl", rows)
    monkeypatch.setattr(Workspace, "status", lambda self, stage: "ready" if stage in ("corpus", "tokenizer") else "missing")
    return Workspace(home, profile)


def test_every_file_that_a_recipe_reads_is_there(workspace, tmp_path):
    folder = tmp_path / "out"
    missing = recipe_folder.write(workspace, folder, say=lambda _: None)
    stages = {item.stage for item in missing}
    assert stages == {"base_model", "alignment"}
    assert "`workshop run --weeks 1-5`" in str(missing[0]) and "automodel/classify_lora.yaml" in str(missing[0])
    for path in folder.rglob("*.yaml"):
        for value in values(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if not isinstance(value, str) or not value.startswith("${oc.env:") or "/checkpoints" in value or "/logs" in value:
                continue
            variable, _, default = value.removeprefix("${oc.env:").partition(",")
            place = default.replace("}", "", 1).replace("'", "")
            if place.endswith(("/cache", "/data/classifier")) or any(f"/{stage}" in place for stage in stages):
                continue
            real = [place, place + ".bin", place + ".idx"]
            assert any(map(os.path.exists, real)), (path, value, variable)
    wanted = workspace.profile.base_model
    tokens = sum(map(len, read_back(folder / "data" / "tokens_train")))
    assert tokens > wanted.steps * wanted.batch_size * wanted.context
    shape = yaml.safe_load((folder / "automodel" / "pretrain.yaml").read_text(encoding="utf-8"))["model"]["config"]
    assert shape["vocab_size"] == 400  # the tokenizer at hand, not the profile's number


def test_the_classifier_starts_from_the_base_model(workspace, tmp_path, tokenizer, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    from workshop_lib.architectures.transformer import Transformer, TransformerConfig
    from workshop_lib.checkpoints import save_model

    base = Transformer(TransformerConfig(len(tokenizer), 32, 64, 1, 2, 2, max_position_embeddings=128), seed=3)
    save_model(base, tokenizer, workspace.home / "base_model")
    monkeypatch.setattr(Workspace, "status", lambda self, stage: "ready" if stage == "base_model" else "missing")
    recipe_folder.write(workspace, tmp_path / "out", say=lambda _: None)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "data" / "classifier")
    assert model.config.architectures == ["LlamaForSequenceClassification"] and model.score.weight.std() > 0
    assert model.model.layers[0].mlp.up_proj.weight.equal(base.model.layers[0].mlp.up_proj.weight)


def test_training_and_validation_data_are_apart(workspace, tmp_path):
    recipe_folder.write_data(workspace, tmp_path / "data", tokens=False)
    read = {path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in (tmp_path / "data").glob("*.jsonl")}
    assert {name: set(rows[0]) for name, rows in read.items() if name.endswith("train")} == {
        "reviews_train": {"document", "label"}, "chats_train": {"messages"}, "pairs_train": {"prompt", "chosen", "rejected"},
    }
    assert len(read["reviews_train"]) > len(read["reviews_validation"])
    row = read["pairs_train"][0]
    assert row["rejected"] != row["chosen"] and [row] == [
        {name: pair[name] for name in row} for pair in desk.pairs(30, workspace.profile.seed, "train") if pair["prompt"] == row["prompt"]
    ][:1]
    for kind in ("reviews", "chats", "pairs"):
        keys = [{json.dumps(row, ensure_ascii=False) for row in read[f"{kind}_{half}"]} for half in ("train", "validation")]
        assert not keys[0] & keys[1] and all(keys)


def test_the_readme_lists_every_file_and_what_waits(workspace, tmp_path):
    missing = recipe_folder.write(workspace, tmp_path / "out", say=lambda _: None)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(path.relative_to(tmp_path / "out").as_posix() in text for path in (tmp_path / "out").rglob("*.yaml"))
    assert "{" not in text.replace("${", "") and all(str(item) in text for item in missing)


@pytest.mark.parametrize("status", ["ready", "stale"])
def test_artefacts_of_other_settings_are_named(workspace, tmp_path, monkeypatch, status):
    monkeypatch.setattr(Workspace, "status", lambda self, stage: status if stage in ("corpus", "tokenizer", "comparison") else "missing")
    said = []
    recipe_folder.write(workspace, tmp_path / "out", say=said.append)
    told = [line for line in said if "깨끗한 말뭉치, 한국어 토크나이저." in line and "`workshop run --profile tiny`" in line]
    assert len(told) == (status == "stale")  # what no recipe reads (comparison) is not named


def test_the_command_writes_the_folder(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_workspace", lambda _: workspace)
    assert cli.main(["recipes", str(tmp_path / "out")]) == 0
    assert "바탕 모델" in capsys.readouterr().out and (tmp_path / "out" / "megatron" / "pretrain.py").is_file()
