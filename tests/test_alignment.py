"""SFT and DPO by this package: equal to the formulas, to TRL's trainers, and their numbers what they say they are."""

import copy
import math

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, alignment
from workshop_lib.alignment import Training, answer_log_probs, batches, change, finetune_chat, pair_scores, share, train_dpo
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.belief import bootstrap_interval
from workshop_lib.corpora import desk
from workshop_lib.objectives import dpo_loss, masked_log_probs, sft_loss
from workshop_lib.preferences import EncodedPair, chat_batch, pair_batch, read_pairs, to_trl
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

CONFIG = TransformerConfig(vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                           num_key_value_heads=1, max_position_embeddings=32)  # fmt: skip


@pytest.fixture
def model():
    return Transformer(CONFIG, seed=1)


def chats(count: int = 24) -> list:
    """Answers that repeat the prompt's last token, of different lengths."""
    chance = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        prompt = chance.integers(8, 30, chance.integers(2, 9)).tolist()
        rows.append(([*prompt, prompt[-1], 6], [0] * len(prompt) + [1, 1]))
    return rows


def pairs(count: int = 24) -> list[EncodedPair]:
    """The rejected answer repeats the prompt's last token (what tied embeddings find likely), the chosen one is the next number."""
    return [EncodedPair(ids[:-2], [8 + (ids[-2] - 7) % 22, 6], ids[-2:]) for ids, _ in chats(count)]


def test_log_probabilities_of_the_answers_are_the_formulas(model):
    batch = chat_batch(chats(), 0)
    _, per_token = masked_log_probs(model(batch["input_ids"]), batch["input_ids"], batch["completion_mask"])
    found = answer_log_probs(model, batch["input_ids"], batch["completion_mask"])
    torch.testing.assert_close(found, per_token)
    found.sum().backward()
    mine = model.lm_head.weight.grad.clone()
    model.zero_grad()
    masked_log_probs(model(batch["input_ids"]), batch["input_ids"], batch["completion_mask"])[0].sum().backward()
    torch.testing.assert_close(mine, model.lm_head.weight.grad, atol=1e-5, rtol=1e-4)


def test_held_out_loss_does_not_depend_on_the_batch(model):
    batch = chat_batch(chats(), 0)
    whole = sft_loss(model(batch["input_ids"]), batch["input_ids"], batch["completion_mask"]).item()
    for size in (1, 7, 64):
        assert alignment.chat_loss(model, chats(), batch=size) == pytest.approx(whole, abs=1e-5)


def test_every_row_comes_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(5, 60, 640).tolist()
    drawn = batches(lengths, 8, seed=3)
    epoch = [next(drawn) for _ in range(80)]
    assert sorted(row for part in epoch for row in part) == list(range(640)) and {len(part) for part in epoch} == {8}
    padded = sum(8 * max(lengths[row] for row in part) for part in epoch)
    assert padded < 1.08 * sum(lengths) < 8 * 80 * 59
    few = batches([3, 9, 4], 8)  # fewer rows than a batch has room for
    assert all(set(next(few)) == {0, 1, 2} for _ in range(5))
    again = batches(lengths, 8, seed=3)
    assert [next(again) for _ in range(80)] == epoch


def test_sft_learns_the_answers_and_reports_each_step(model):
    before = alignment.chat_loss(model, chats())
    history = finetune_chat(model, chats(), Training(40, 8, 0.01), watch=lambda step: {"seen": step}, every=10)
    assert alignment.chat_loss(model, chats()) < before / 2
    assert [row["step"] for row in history] == list(range(41))
    assert [row["seen"] for row in history if "seen" in row] == [0, 10, 20, 30, 40]
    assert [row["seconds"] for row in history] == sorted(row["seconds"] for row in history)


def test_dpo_starts_at_log_2_and_raises_the_margin(model):
    start = copy.deepcopy(model)
    history = train_dpo(model, pairs(), Training(30, 8, 0.003, optimizer="adamw"), beta=0.5)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and history[0]["margin"] == pytest.approx(0, abs=1e-5)
    first, last = pair_scores(start, pairs()), pair_scores(model, pairs())
    assert first.preferred.mean() < 0.5 and last.preferred.mean() > 0.9
    margins = 0.5 * ((last.chosen - first.chosen) - (last.rejected - first.rejected))
    assert margins.mean() > 0.5 and history[-1]["margin"] == pytest.approx(margins.mean(), rel=0.5)


def test_a_step_of_dpo_follows_the_formula_with_both_sft_terms(model):
    """The first step's gradient: the loss of `objectives.dpo_loss` by whole logits, plus the replayed conversations' SFT loss."""
    start = copy.deepcopy(model)
    two, old = pairs(2), chats(2)
    history = train_dpo(model, two, Training(1, 2, 0.1, optimizer="adamw", warmup_steps=0), beta=0.1, sft_weight=0.7, replay=old,
                        replay_weight=0.3)  # fmt: skip
    batch, again = pair_batch(two, 0), chat_batch(old, 0)
    sums, _ = masked_log_probs(start(batch["input_ids"]), batch["input_ids"], batch["completion_mask"])
    chosen, rejected = sums.chunk(2)
    tokens = batch["completion_mask"].sum(1)[:2]
    loss, _ = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), 0.1, 0.7, tokens)
    loss = loss + 0.3 * sft_loss(start(again["input_ids"]), again["input_ids"], again["completion_mask"])
    assert history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_pair_scores_know_sums_and_tokens(model):
    two = [EncodedPair([1, 9], [10, 11, 6], [12, 6]), EncodedPair([1, 8, 8], [13, 6], [14, 15, 16, 6])]
    found = pair_scores(model, two, batch=1)
    for place, pair in enumerate(two):
        for answer, sums, tokens in (
            (pair.chosen, found.chosen, found.chosen_tokens),
            (pair.rejected, found.rejected, found.rejected_tokens),
        ):
            ids = torch.tensor([[*pair.prompt, *answer]])
            logs = model(ids)[0].log_softmax(-1).detach()
            by_hand = sum(float(logs[len(pair.prompt) + i - 1, token]) for i, token in enumerate(answer))
            assert sums[place] == pytest.approx(by_hand, abs=1e-4) and tokens[place] == len(answer)
    assert found.preferred_per_token.tolist() == [a / m > b / n for a, b, m, n in zip(
        found.chosen, found.rejected, found.chosen_tokens, found.rejected_tokens)]  # fmt: skip


def test_intervals_draw_clusters():
    chance = np.random.default_rng(0)
    truth = (chance.random(40) < 0.7).repeat(10).astype(float)  # 40 things, ten rows of the same each
    clusters = [f"c{place}" for place in range(40) for _ in range(10)]
    mean, low, high = share(truth, clusters)
    one_by_one = bootstrap_interval(truth)
    assert mean == pytest.approx(truth.mean()) and low < mean < high
    assert high - low > 2 * (one_by_one[1] - one_by_one[0])  # √10 times as wide
    alone = share(truth, [str(row) for row in range(400)])
    assert alone[2] - alone[1] == pytest.approx(one_by_one[1] - one_by_one[0], rel=0.15)


def test_a_change_is_told_from_none():
    clusters = [str(row // 2) for row in range(200)]
    before = np.random.default_rng(1).random(200) < 0.4
    better = change(before, before | (np.random.default_rng(2).random(200) < 0.5), clusters)
    assert better.low > 0 and better.p_value < 0.01
    same = change(before, np.random.default_rng(3).random(200) < 0.4, clusters)
    assert same.low < 0 < same.high
    with pytest.raises(WorkshopError, match="짝지을 수 없다"):
        change(before, before[:-1], clusters)
    with pytest.raises(WorkshopError, match="묶음 3개"):
        share([1.0], ["a", "b", "c"])


def test_a_run_that_cannot_go_on_says_so(model):
    with pytest.raises(WorkshopError, match="학습할 자료가 하나도 없다"):
        finetune_chat(model, [], Training(1, 1, 0.1))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WorkshopError, match="1번째 단계에서 손실이 nan"):
        finetune_chat(model, chats(), Training(1, 4, 0.1))


@pytest.fixture(scope="module")
def tokenizer():
    texts = [message["content"] for row in desk.conversations(200) for message in row["messages"]]
    return wrap(train_whole_char_bpe(texts, 500, SPECIAL_TOKENS), 128)


def test_behaviour_is_judged_row_by_row(tokenizer, monkeypatch):
    """With the answers given, "preferred" is what the world demands: never for what is refused in the wrong place."""
    rows = list(desk.conversations(60, split="validation", careless=0))
    told = {}

    class Said:
        ended = torch.ones(60, dtype=torch.bool)

        def texts(self, _):
            return told["answers"]

    monkeypatch.setattr(alignment, "rollouts", lambda *_, **__: Said())
    small = Transformer(TransformerConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                          num_attention_heads=1, num_key_value_heads=1), seed=0)  # fmt: skip
    told["answers"] = [row["messages"][1]["content"] for row in rows]
    found = alignment.behave(small, tokenizer, rows)
    assert (found.found["preferred"] == np.array([row["register"] == "polite" for row in rows])).all()
    told["answers"] = [desk.REFUSAL["polite"]] * 60
    refusing = alignment.behave(small, tokenizer, rows)
    assert (refusing.found["preferred"] == np.array([row["sensitive"] for row in rows])).all() and refusing.distinct_2 < found.distinct_2
    private = refusing.where(lambda row: row["sensitive"])
    assert private.found["preferred"].all() and len(private.rows) == sum(row["sensitive"] for row in rows) == len(private.answers)


def test_pairs_of_the_models_own_answers_are_one_preferred_and_one_not(tokenizer, monkeypatch):
    rows = [row for row in desk.conversations(60, split="validation", careless=0) if row["register"] == "polite"][:20]
    right = [row["messages"][1]["content"] for row in rows]
    wrong = [(desk.HELP if row["sensitive"] else desk.REFUSAL)["polite"] for row in rows]
    said = [text for place in range(20) for text in ((right[place], right[place], "") if place < 5 else (wrong[place], "", right[place]))]

    class Said:
        def texts(self, _):
            return said

    monkeypatch.setattr(alignment, "rollouts", lambda *_, **__: Said())
    found = alignment.sampled_pairs(None, tokenizer, rows, n=3)
    assert [(pair.chosen, pair.rejected) for pair in found] == list(zip(right[5:], wrong[5:]))
    assert [pair.axis for pair in found] == ["safe" if row["sensitive"] else "correct" for row in rows[5:]]
    assert read_pairs(to_trl(found)) and [pair.extra["combination"] for pair in found] == [row["combination"] for row in rows[5:]]
