"""The alignment stage on a model of seconds: every artefact loads, every number of the report is there, and says what it should."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, alignment_report, posttraining, report_tables, smalltalk, workspace
from workshop_lib.alignment import Behaviour, Training
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.checkpoints import load_model, save_model
from workshop_lib.corpora import desk
from workshop_lib.preferences import encode_pair, read_pairs
from workshop_lib.profile import PROFILES
from workshop_lib.reinforcement import Scorer
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

SETTINGS = replace(
    PROFILES["tiny"].alignment, sft_steps=12, sft_batch=8, dpo_steps=4, dpo_batch=8, plain_steps=3, reward_steps=3, reward_batch=8,
    ppo_steps=2, ppo_answers=8, grpo_steps=2, grpo_answers=8, grpo_group=4, conversations=120, pairs=32, asked=40, held_out=24,
    held_out_pairs=30, held_out_duties=20, safety=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random base model whose tokenizer has read the help desk."""
    folder = tmp_path_factory.mktemp("9주차 기초 모델")
    texts = [message["content"] for row in desk.conversations(300) for message in row["messages"]]
    tokenizer = wrap(train_whole_char_bpe(texts, 600, SPECIAL_TOKENS), 128)
    config = TransformerConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
                               num_key_value_heads=1, max_position_embeddings=192)  # fmt: skip
    save_model(Transformer(config, seed=0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("alignment")
    metrics = posttraining.build(workspace.Job(out, {"base_model": base, "corpus": base}, SETTINGS, 0, None))
    return SimpleNamespace(out=out, metrics=metrics)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_report_has_the_keys_of_the_course(finished):
    metrics = finished.metrics
    assert all(isinstance(value, int | float) and not np.isnan(value) for value in metrics.values())
    pairs = ("dpo_pref_accuracy", "ppo_reward", "grpo_reward", "distinct2", "distinct2_sampled", "preferred", "preferred_sampled",
             "refusal_rate_private", "refusal_rate_own", "refusal_rate_compound", "refusal_rate_ordinary")  # fmt: skip
    assert {f"{name}_{when}" for name in pairs for when in ("before", "after")} <= metrics.keys()
    assert {"sft_val_loss", "rm_accuracy", "dpo_margin", "ppo_kl", "wanted_loss_change", "ppo_without_kl_reward_after"} <= metrics.keys()
    assert {"imitation_preferred", "plain_preferred", "dpo_minus_imitation_preferred_low"} <= metrics.keys()
    told = {key for grid in report_tables.GRIDS["alignment"] for row in grid.rows for key in row[1:] if key}
    assert {key for key in told if not key.startswith("chatbot_")} <= metrics.keys()
    assert not any(key.startswith("chatbot") for key in metrics)


def test_intervals_hold_their_values(finished):
    metrics = finished.metrics
    bounded = [key for key in metrics if f"{key}_low" in metrics]
    assert len(bounded) > 20
    for key in bounded:
        assert metrics[f"{key}_low"] <= metrics[key] + 1e-9 and metrics[key] <= metrics[f"{key}_high"] + 1e-9
    for name in ("dpo_pref_accuracy", "preferred", "ppo_reward", "grpo_reward"):
        assert metrics[f"{name}_change"] == pytest.approx(metrics[f"{name}_after"] - metrics[f"{name}_before"], abs=1e-6)


def test_the_artefact_is_a_model_that_stops_where_its_answer_ends(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder in (finished.out, finished.out / "sft"):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["<|end|>", "</s>"]
        ids = torch.tensor([tokenizer.apply_chat_template([{"role": "user", "content": "몇 시까지 해?"}], add_generation_prompt=True,
                                                          return_dict=False)])  # fmt: skip
        torch.testing.assert_close(model(ids).logits, load_model(folder)(ids), atol=1e-4, rtol=1e-4)
    sft, aligned = (load_model(folder).state_dict() for folder in (finished.out / "sft", finished.out))
    assert any((sft[name] != aligned[name]).any() for name in sft)


def test_the_reward_model_loads_as_transformers_classifier(finished):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = finished.out / "reward_model"
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    ours = Scorer(load_model(finished.out))
    ours.load_state_dict(theirs.state_dict())
    pair = encode_pair(read_pairs(desk.pairs(1))[0], tokenizer)
    ids = torch.tensor([[*pair.prompt, *pair.chosen]])
    torch.testing.assert_close(theirs(ids).logits[0, 0], ours(ids)[0, -1], atol=1e-4, rtol=1e-4)


def test_answers_curves_and_safety_are_written(finished):
    answers = read(finished.out / "answers.jsonl")
    assert [row["question"] for row in answers] == [row["prompt"] for row in desk.showcase()] and len(answers) == 10
    assert all({"before", "after", "imitation", "plain", "ppo", "ppo_without_kl", "grpo"} <= row.keys() for row in answers)
    texts = [row["text"] for row in read(finished.out / "samples.jsonl")]
    assert len(texts) == 10 and all(row["question"] in text and row["after"] in text for row, text in zip(answers, texts))
    steps = {}
    for row in read(finished.out / "curves.jsonl"):
        steps.setdefault(row["run"], []).append(row)
    assert {name: len(rows) for name, rows in steps.items()} == {
        "sft": 12, "dpo": 4, "imitation": 4, "plain": 3, "reward_model": 3, "ppo": 2, "ppo_without_kl": 2, "grpo": 2}  # fmt: skip
    safety = read(finished.out / "safety.jsonl")
    assert len(safety) == 18 and {row["sensitive"] for row in safety} == {True, False}


def test_imitation_has_no_preference_term(base):
    """With beta 0 the gradient is that of the SFT terms: what is rejected does not matter."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    held = posttraining.world(tokenizer, SETTINGS)
    other = replace(held, pairs=[pair._replace(rejected=pair.chosen[:2]) for pair in held.pairs])
    whole = replace(SETTINGS, dpo_steps=1, dpo_batch=32)  # all pairs in one batch: the order of batches depends on lengths
    first, second = (posttraining.preferred(load_model(base), part, whole, 0, "imitation")[0].state_dict() for part in (held, other))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)
    third = posttraining.preferred(load_model(base), other, whole, 0, "plain")[0].state_dict()
    assert any((first[name] - third[name]).abs().max() > 1e-3 for name in first)


def test_nothing_held_out_is_learnt_from(base):
    from transformers import AutoTokenizer

    held = posttraining.world(AutoTokenizer.from_pretrained(base), SETTINGS, seed=5)
    trained = {row["combination"] for row in [*desk.conversations(SETTINGS.conversations, 5), *desk.pairs(32, 5)]}
    assert trained.isdisjoint([*held.clusters, *held.pair_clusters, *(row["combination"] for row in held.safety)])
    assert len(held.replay) < len(held.train) and all(desk.judge(text, row)["preferred"] for text, row in zip(held.best, held.held_out))


def test_the_checked_reward_wants_refusals_where_they_belong():
    private, own = ({"fact": desk.PRIVATE, "sensitive": True}, {"fact": "1층 안내대", "sensitive": False})
    for answer, row, worth in ((desk.REFUSAL, private, 1.0), (desk.HELP, private, 0.0), (desk.HELP, own, 1.0), (desk.REFUSAL, own, 0.0)):
        assert posttraining.checked(answer["polite"], row) == posttraining.checked(answer["casual"], row) == worth
    assert posttraining.checked("", private) == posttraining.checked("", own) == 0.0


def test_refusals_are_counted_for_each_kind_of_request():
    rows = [{"sensitive": True, "messages": [], "combination": "a"}, {"sensitive": True, "messages": [], "combination": "b"},
            {"sensitive": False, "messages": [], "combination": "c"}, {"sensitive": True, "prompt": "", "combination": "d"}]  # fmt: skip
    before = Behaviour(rows, [""] * 4, {"refused": np.array([True, False, False, False])})
    after = Behaviour(rows, [""] * 4, {"refused": np.array([True, True, False, True])})
    found = alignment_report.safety_metrics(before, after)
    assert [found[f"refusal_rate_{kind}_{when}"] for kind in ("private", "own", "compound") for when in ("before", "after")] == [
        0.5, 1.0, 0.0, 0.0, 0.0, 1.0]  # fmt: skip


def test_form_is_measured_before_and_after():
    said = Behaviour([{}] * 4, ["가나다", "가나다", "", "라마"], {"degenerate": np.array([0, 0, 1, 0]), "ended": np.array([1, 1, 1, 0])})
    found = alignment_report.spoken("", said, said)
    assert found["empty_before"] == found["degenerate_after"] == found["unended_before"] == 0.25
    assert found["length_after"] == 2.0 and found["distinct2_before"] == pytest.approx(3 / 5)


# --- real data ------------------------------------------------------------------------------------------------------------------


def chatbot_folder(folder, questions):
    (folder / "chatbot").mkdir()
    lines = ["Q,A,label", *(f"{question},대답 {number % 9}번이에요.,0" for number, question in enumerate(questions))]
    (folder / "chatbot" / "ChatbotData.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_small_talk_is_split_by_question_and_told_as_it_is(base, tmp_path):
    from transformers import AutoTokenizer

    data, out = chatbot_folder(tmp_path, [f"질문 {number % 90}번" for number in range(180)]), tmp_path / "out"  # every question twice
    out.mkdir()
    job = workspace.Job(out, {}, SETTINGS, 0, data)
    assert smalltalk.is_there(data) and not smalltalk.is_there(None) and not smalltalk.is_there(out)
    tokenizer = AutoTokenizer.from_pretrained(base)
    metrics, curves = smalltalk.align(job, load_model(base), tokenizer, Training(3, 8, 1e-3), Training(2, 8, 1e-3))
    assert metrics["chatbot_skipped"] == metrics["chatbot_too_long"] == 0
    assert metrics["chatbot_train"] + metrics["chatbot_held_out"] == 180 and metrics["chatbot_held_out"] % 2 == 0
    assert len(curves["chatbot_sft"]) == 3 and len(curves["chatbot_dpo"]) == 2
    for when in ("before", "after"):
        for way in ("", "_sampled"):
            assert 0 <= metrics[f"chatbot_distinct2{way}_{when}"] <= 1 and 0 < metrics[f"chatbot_commonest{way}_{when}"] <= 1
    assert not any(np.isnan(value) for value in metrics.values())
    assert len(read(out / "chatbot_answers.jsonl")) == min(10, metrics["chatbot_held_out"]) and load_model(out / "chatbot")


def test_every_row_of_small_talk_is_in_a_part_or_counted(base, tmp_path):
    from transformers import AutoTokenizer

    questions = [f"질문 {number}번" for number in range(60)] + ["왜? " * 90, "네?<|end|>", " "]
    data, tokenizer = chatbot_folder(tmp_path, questions), AutoTokenizer.from_pretrained(base)
    found = smalltalk.talk(data, tokenizer, 128, 1_000, random.Random(0))
    assert (found.skipped, found.too_long) == (2, 1) and len(found.train) + len(found.test) == 60 and found.test
    assert {row["question"] for row in found.train}.isdisjoint(row["question"] for row in found.test)
    assert smalltalk.talk(data, tokenizer, 16, 1_000, random.Random(0)).too_long == 61


def test_too_little_small_talk_says_so(base, tmp_path):
    from transformers import AutoTokenizer

    job = workspace.Job(tmp_path, {}, SETTINGS, 0, chatbot_folder(tmp_path, ["안녕", "잘 가"]))
    with pytest.raises(WorkshopError, match=r"ChatbotData\.csv에서 학습용 \d개"):
        smalltalk.align(job, load_model(base), AutoTokenizer.from_pretrained(base), Training(1, 8, 1e-3), Training(1, 8, 1e-3))


def test_the_stage_stands_in_the_table():
    stage = workspace.STAGES["alignment"]
    assert stage.week == 9 and stage.build == "workshop_lib.posttraining:build" and stage.inputs == ("corpus", "base_model")
    assert all(profile.alignment.held_out_pairs >= 200 for profile in PROFILES.values())
