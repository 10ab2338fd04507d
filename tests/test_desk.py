"""The help desk as a world to align in: one split for all streams, pairs whose axes mean what they say, a judge that agrees."""

from collections import Counter

import numpy as np
import pytest

from workshop_lib import WorkshopError
from workshop_lib.corpora import desk, dialogue
from workshop_lib.preferences import read_pairs

STREAMS = [desk.conversations, desk.pairs, desk.compound]


@pytest.fixture(scope="module")
def pairs():
    return {split: list(desk.pairs(900, split=split)) for split in ("train", "validation")}


@pytest.mark.parametrize("draw", STREAMS)
def test_streams_repeat_themselves_and_nothing_else(draw):
    rows = list(draw(300, 1, "train"))
    assert rows == list(draw(300, 1, "train")) and rows[:50] == list(draw(50, 1, "train"))
    key = (lambda row: row["messages"][0]["content"]) if draw is desk.conversations else (lambda row: (row.get("axis"), row["prompt"]))
    assert len({key(row) for row in rows}) == len({row["id"] for row in rows}) == 300
    assert rows != list(draw(300, 2, "train"))


def test_no_combination_is_in_both_splits():
    seen = {split: {row["combination"] for draw in STREAMS for row in draw(1200, 0, split)} for split in ("train", "validation")}
    assert not seen["train"] & seen["validation"]
    assert len(seen["validation"]) > 350


def test_what_dialogue_holds_out_is_held_out_here():
    train = {row["combination"] for row in desk.conversations(4000)}
    held = {"/".join(map(str, dialogue._question(rng, intent)[0])) for intent, rng in _held_out_draws()}
    assert len(held) > 100 and not held & train


def _held_out_draws():
    """Random states from which `dialogue` draws something that it holds out."""
    from random import Random

    from workshop_lib.corpora.combinations import split_of

    for intent in desk.FACTS:
        for seed in range(200):
            if split_of(dialogue._question(Random(seed), intent)[0]) == "validation":
                yield intent, Random(seed)


def test_answers_follow_the_register_and_half_of_the_private_ones_are_careless():
    rows = list(desk.conversations(4000))
    private = [row for row in rows if row["sensitive"]]
    refused = [desk.judge(row["messages"][1]["content"], row)["refused"] for row in private]
    assert 0.4 < np.mean(refused) < 0.6
    assert {row["intent"] for row in private} == {"private"}
    for row in rows:
        found = desk.judge(row["messages"][1]["content"], row)
        assert found["polite"] == (row["register"] == "polite") and not found["degenerate"]
        assert found["right"] or row["sensitive"]
    assert all(desk.judge(row["messages"][1]["content"], row)["refused"] for row in desk.conversations(500, careless=0) if row["sensitive"])


def test_pairs_are_one_sided_and_differ_in_their_axis_only(pairs):
    for rows in pairs.values():
        assert Counter(row["axis"] for row in rows) == dict.fromkeys(desk.AXES, 300)
        assert len(read_pairs(rows)) == 900
        for row in rows:
            chosen, rejected = desk.judge(row["chosen"], row), desk.judge(row["rejected"], row)
            assert chosen["preferred"] and not rejected["preferred"]
            assert chosen["polite"] and chosen["right"] and not chosen["degenerate"]
            assert rejected["polite"] == (row["axis"] != "polite") and rejected["right"] == (row["axis"] == "polite")
            if row["axis"] == "safe":
                assert chosen["refused"] == row["sensitive"] != rejected["refused"]
            else:
                assert not row["sensitive"]
    safe = [row for row in pairs["validation"] if row["axis"] == "safe"]
    assert sum(row["sensitive"] for row in safe) == 150
    assert len({row["combination"] for row in safe if row["sensitive"]}) >= 25
    assert len({row["combination"] for row in safe if not row["sensitive"]}) >= 12
    tails = {split: {row["rejected"].split(".", 1)[-1] for row in rows if row["axis"] == "polite"} for split, rows in pairs.items()}
    assert tails["train"] & tails["validation"] <= {""}


def test_correct_and_safe_need_the_prompt(pairs):
    """A model that reads the answers alone knows what is polite, and guesses the rest."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def texts(rows):
        return [text for row in rows for text in (row["chosen"], row["rejected"])]

    reader = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2)
    train = reader.fit_transform(texts(pairs["train"]))
    sign = np.where(np.arange(len(pairs["train"])) % 2, 1, -1)
    model = LogisticRegression(fit_intercept=False, C=10, max_iter=300)
    model.fit((train[0::2] - train[1::2]).multiply(sign[:, None]).tocsr(), sign > 0)
    test = reader.transform(texts(pairs["validation"]))
    right = model.decision_function(test[0::2] - test[1::2]) > 0
    found = {axis: np.mean([ok for ok, row in zip(right, pairs["validation"]) if row["axis"] == axis]) for axis in desk.AXES}
    assert found["polite"] > 0.9 and found["correct"] < 0.6 and 0.4 < found["safe"] < 0.6


def test_compound_answers_hold_the_fact_and_refuse():
    for row in desk.compound(200):
        found = desk.judge(row["answer"], row)
        assert found["preferred"] and found["right"] and found["refused"] and found["polite"] and row["sensitive"]
        assert " 그리고 " in row["prompt"]


def test_ten_questions_are_always_the_same_and_held_out():
    rows = desk.showcase()
    assert rows == desk.showcase() and len({row["prompt"] for row in rows}) == 10
    assert sum(row["sensitive"] for row in rows) == 3 and len({row["intent"] for row in rows[:5]}) == 5
    assert Counter(row["register"] for row in rows[:9]) == {"casual": 6, "polite": 3}
    assert not {row["combination"] for row in rows} & {row["combination"] for row in desk.conversations(3000)}


@pytest.mark.parametrize(
    "answer, fact, right",
    [("식당은 지하 1층에 있습니다.", "1층", False), ("1층에 있습니다.", "1층", True),
     ("식당은 지하 1층에 있어.", "지하 1층", True), ("", "1층", False), ("낮 열두 시까지", "두 시까지", False)],
)  # fmt: skip
def test_a_fact_is_told_from_a_part_of_another(answer, fact, right):
    assert desk.says(answer, fact) == right


@pytest.mark.parametrize("answer", ["", " .", "네 네 네 네 네 네", "한 권 한 권 한 권 더"])
def test_collapsed_answers_are_degenerate(answer):
    assert desk.judge(answer, {"fact": "1층", "sensitive": False})["degenerate"]


def test_politeness_is_of_every_sentence():
    row = {"fact": "2층 문학실", "sensitive": False}
    assert desk.judge("시집은 2층 문학실에 있습니다.", row)["polite"]
    assert not desk.judge("시집은 2층 문학실에 있습니다. 됐지?", row)["polite"]
    assert not desk.judge("시집은 2층 문학실에 있어.", row)["polite"]


def test_more_than_there_is_and_unknown_splits_are_errors():
    with pytest.raises(WorkshopError, match="train 또는 validation"):
        list(desk.pairs(3, split="test"))


def test_the_best_answers_are_those_to_the_same_questions():
    asked, best = list(desk.conversations(200, 3, "validation")), list(desk.conversations(200, 3, "validation", best=True))
    assert [row["messages"][0] for row in asked] == [row["messages"][0] for row in best]
    assert all(desk.judge(row["messages"][1]["content"], row)["preferred"] for row in best)
    assert not all(desk.judge(row["messages"][1]["content"], row)["preferred"] for row in asked)


def test_a_polite_consent_in_the_words_of_a_refusal_is_none():
    row = next(row for row in desk.conversations(100, careless=0) if row["sensitive"])
    refusal, consent = (desk.judge(f"다른 분의 개인 정보는 알려 드릴 수 {end}", row) for end in ("없습니다.", "있습니다."))
    assert refusal["refused"] and refusal["right"] and refusal["preferred"]
    assert consent["polite"] and not (consent["refused"] or consent["right"] or consent["preferred"])
