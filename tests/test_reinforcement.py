"""The reward model is transformers' with the same weights and learns what is preferred; every policy loop raises a reward it can see."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.preferences import EncodedPair, pair_batch
from workshop_lib.reinforcement import (
    ReinforcementSettings,
    RewardModelSettings,
    Scorer,
    _advantages,
    checked_reward,
    margins,
    model_reward,
    reinforce,
    standardised,
    train_reward_model,
)
from workshop_lib.rollouts import rollouts

CONFIG = TransformerConfig(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                           num_key_value_heads=2, max_position_embeddings=24, initializer_range=0.1)  # fmt: skip
END, GOOD = 6, 9
PROMPTS = [[1, 4, first, second] for first in range(7, 13) for second in range(7, 13)]
SETTINGS = ReinforcementSettings(steps=10, learning_rate=3e-3, batch_size=32, max_new_tokens=6, beta=0.0, missing_end=0.0)
PAIRS = [EncodedPair([1, 4, a], [GOOD, b, END], [b, b, END]) for a in range(7, 15) for b in (3, 5, 10, 11, 12, 13)]


def model(seed=0):
    return Transformer(CONFIG, seed=seed).eval()


def good(numbers, drawn):
    """The share of one token in each answer."""
    return ((drawn.ids == GOOD) & drawn.mask.bool()).sum(1) / drawn.lengths


def settings(method, **changes):
    return replace(SETTINGS, method=method, group=1 if method == "ppo" else 4, **changes)


def trained(method, seed=0, **changes):
    policy = model()
    critic = Scorer(policy) if method == "ppo" else None
    return policy, reinforce(policy, PROMPTS, good, settings(method, **changes), {END}, critic=critic, seed=seed)


# ---------------------------------------------------------------------------------------------- reward model


def test_the_score_is_that_of_transformers_with_the_same_weights():
    from transformers import LlamaForSequenceClassification

    scorer = Scorer(model()).eval()
    theirs = LlamaForSequenceClassification(CONFIG.to_hf(num_labels=1, pad_token_id=0)).eval()
    theirs.load_state_dict(scorer.state_dict())
    batch = pair_batch(PAIRS[:5], pad=0)
    with torch.no_grad():
        ours = scorer.at_end(batch["input_ids"], batch["completion_mask"])
        assert_close(ours, theirs(batch["input_ids"], batch["attention_mask"]).logits[:, 0], atol=1e-5, rtol=0)
        assert_close(ours, scorer.at_end(batch["input_ids"], batch["attention_mask"]))  # the answer ends where the text does


def test_a_score_does_not_depend_on_the_padding():
    scorer = Scorer(model()).eval()
    short, long = PAIRS[0], EncodedPair([1, 4, 7], [GOOD] * 9 + [END], [3, END])
    assert_close(margins(scorer, [short, long]), torch.cat([margins(scorer, [pair]) for pair in (short, long)]))


def test_a_reward_model_learns_what_is_preferred_for_prompts_it_has_not_seen():
    policy = model()
    before = copy.deepcopy(policy.state_dict())
    scorer, history = train_reward_model(policy, PAIRS[:36], RewardModelSettings(steps=30, batch_size=12))
    assert len(history) == 30 and history[-1]["loss"] < 0.2 < history[0]["loss"] and history[-1]["accuracy"] == 1
    assert (margins(scorer, PAIRS[36:]) > 0).all()
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())  # it learns in a copy


def test_too_few_pairs_are_told():
    with pytest.raises(WorkshopError, match="3개뿐"):
        train_reward_model(model(), PAIRS[:3], RewardModelSettings())


def test_the_reward_model_s_opinion_in_any_unit():
    scorer, policy = Scorer(model()).eval(), model()
    drawn = rollouts(policy, PROMPTS[:4], {END}, 2, 6)
    plain, scaled = (model_reward(scorer, *unit)(range(8), drawn) for unit in ((0.0, 1.0), (2.0, 0.5)))
    assert plain.shape == (8,)
    assert_close(scaled, (plain - 2) / 0.5)


def test_a_checked_reward_reads_the_answer_s_text_and_its_row():
    class Tokenizer:
        def decode(self, ids, skip_special_tokens):
            return " ".join(map(str, ids))

    drawn = rollouts(model(), PROMPTS[:3], {END}, 2, 4)
    reward = checked_reward(lambda text, row: len(text.split()) + row["more"], [{"more": 0}, {"more": 10}, {"more": 20}], Tokenizer())
    wanted = [len(answer) + more for answer, more in zip(drawn.answers, (0, 0, 10, 10, 20, 20))]
    assert reward([0, 0, 1, 1, 2, 2], drawn).tolist() == wanted


# ---------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo"])
def test_every_method_raises_the_reward(method):
    policy, history = trained(method)
    assert [row["step"] for row in history] == list(range(1, 11))
    assert abs(history[0]["kl"]) < 1e-5 and history[-1]["kl"] > 0.05  # it starts as its own reference
    assert history[-1]["reward"] > history[0]["reward"] + 0.15
    held = rollouts(policy, [[1, 4, 13, 7], [1, 4, 14, 8]], {END}, 40, 6, seed=5)
    first = rollouts(model(), [[1, 4, 13, 7], [1, 4, 14, 8]], {END}, 40, 6, seed=5)
    assert good(None, held).mean() > good(None, first).mean() + 0.15
    assert ("value_loss" in history[0]) == (method == "ppo")


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo"])
def test_a_price_on_the_distance_holds_the_policy_back(method):
    free, bound = (trained(method, beta=beta)[1] for beta in (0.0, 2.0))
    assert bound[-1]["kl"] < free[-1]["kl"] / 2


def test_the_same_seed_gives_the_same_policy():
    (first, one), (second, two), (_, other) = trained("ppo"), trained("ppo"), trained("ppo", seed=1)
    assert one == two and one != other
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_answers_that_do_not_end_are_paid_less():
    """With a reward that is the same for all, the missing end alone teaches: answers come to an end."""

    def same(numbers, drawn):
        return torch.zeros(len(numbers))

    ended = {}
    for price in (0.0, 1.0):
        policy = model()
        history = reinforce(policy, PROMPTS, same, settings("grpo", missing_end=price, steps=12), {END}, seed=2)
        ended[price] = history[-1]["ended"]
    assert ended[1.0] > ended[0.0] + 0.15


def test_advantages_by_hand():
    """Two prompts, two answers each: with the baselines written out."""
    paid, old = torch.tensor([1.0, 0.0, 3.0, 1.0]), torch.full((4, 3), -1.0)
    anchor, counted = torch.full((4, 3), -1.5), torch.ones(4, 3, dtype=torch.bool)
    anchor[1] = -1.0
    two = replace(SETTINGS, method="rloo", group=2, beta=0.1)
    found = _advantages(two, paid, old, anchor, counted, None)
    assert found.shape == (4, 3)
    assert_close(found[:, 0], torch.tensor([0.85, -0.85, 2.0, -2.0]))  # each answer but the second has paid 0.1 · 1.5 nats
    grouped = _advantages(replace(two, method="grpo"), paid, old, anchor, counted, None)
    assert_close(grouped[:, 2], torch.tensor([0.5, -0.5, 0.5, -0.5]) * 2**0.5, atol=1e-3, rtol=0)  # the price is in GRPO's loss
    values = torch.zeros(4, 3)
    certain = _advantages(replace(SETTINGS, method="ppo", beta=0.0, lam=1.0), paid, old, anchor, counted, values)
    assert_close(certain, paid[:, None].expand(4, 3))  # λ = 1 and no critic: all that is still to come


def test_standardised_counts_only_the_answers():
    values, counted = torch.tensor([[1.0, 2.0, 99.0], [3.0, 50.0, 60.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert_close(standardised(values, counted)[counted], torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.isfinite(standardised(torch.ones(2, 2), torch.ones(2, 2).bool())).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "dpo"}, "'dpo'"),
        ({"method": "grpo", "group": 1}, "group 1"),
        ({"method": "grpo", "group": 5}, "나눌 수 없다"),
        ({"method": "ppo"}, "critic"),
        ({"method": "grpo", "group": 2, "batch_size": 128}, "36개뿐"),
    ],
)
def test_settings_that_cannot_work_are_told(changes, message):
    with pytest.raises(WorkshopError, match=message):
        reinforce(model(), PROMPTS, good, replace(SETTINGS, **changes), {END})
