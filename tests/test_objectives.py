"""Every loss of week 9: equal to TRL's on the same batch, and with the properties that its paper claims."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workshop_lib import WorkshopError, preferences
from workshop_lib.objectives import (
    bradley_terry_loss,
    clipped_objective,
    dpo_loss,
    gae,
    group_advantages,
    grpo_loss,
    implicit_margin,
    implicit_reward,
    judged,
    kl_estimates,
    leave_one_out_advantages,
    masked_log_probs,
    masked_mean,
    penalised_rewards,
    ppo_policy_loss,
    sft_loss,
)
from workshop_lib.preferences import chat_batch, encode_chat, encode_pair, pair_batch, to_trl
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

CPU = dict(use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", save_strategy="no", per_device_train_batch_size=6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pairs():
    return preferences.bundled(6)


@pytest.fixture(scope="module")
def tokenizer(pairs):
    texts = [text for pair in preferences.bundled(120) for text in (pair.prompt[0]["content"], pair.chosen, pair.rejected)]
    return wrap(train_whole_char_bpe(texts, 420, SPECIAL_TOKENS), 128)


def tiny(tokenizer, seed, kind="LlamaForCausalLM", **options):
    """A Llama with random weights, large enough that two of them disagree."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, max_position_embeddings=128, initializer_range=0.15, **options)  # fmt: skip
    torch.manual_seed(seed)
    return getattr(transformers, kind)(config)


def answers(model, batch):
    """(chosen, rejected) sums of log-probabilities under a model."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return masked_log_probs(logits, batch["input_ids"], batch["completion_mask"])[0].chunk(2)


@pytest.fixture(scope="module")
def batch(pairs, tokenizer):
    return pair_batch([encode_pair(pair, tokenizer) for pair in pairs], pad=0)


# ---------------------------------------------------------------------------------------------- log-probabilities, SFT


def test_log_probabilities_are_those_of_the_definition():
    logits, ids = normal(2, 4, 5), torch.tensor([[1, 2, 3, 4], [0, 4, 4, 0]])
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]])
    sums, per_token = masked_log_probs(logits, ids, mask)
    for row in range(2):
        slow = [math.log(torch.softmax(logits[row, t].double(), 0)[ids[row, t + 1]]) * int(mask[row, t + 1]) for t in range(3)]
        assert per_token[row].tolist() == pytest.approx(slow, abs=1e-6) and sums[row].item() == pytest.approx(sum(slow), abs=1e-5)


def test_an_impossible_token_outside_the_mask_does_no_harm():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 1] = -torch.inf
    sums, _ = masked_log_probs(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[0, 0, 1]]))
    assert sums.item() == pytest.approx(-math.log(4))


def test_an_answer_is_as_likely_whatever_pads_it(tokenizer, pairs, batch):
    model = tiny(tokenizer, 0)
    together, _ = answers(model, batch)
    for place, pair in enumerate(pairs):
        alone, _ = answers(model, pair_batch([encode_pair(pair, tokenizer)], pad=0))
        assert together[place].item() == pytest.approx(alone.item(), abs=1e-4)


def test_sft_loss_is_that_of_transformers(tokenizer, pairs):
    chats = [encode_chat([*pair.prompt, {"role": "assistant", "content": pair.chosen}], tokenizer) for pair in pairs]
    batch, model = chat_batch(chats, pad=0), tiny(tokenizer, 0)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    out = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
    assert sft_loss(out.logits, batch["input_ids"], batch["completion_mask"]).item() == pytest.approx(out.loss.item(), abs=1e-6)


def test_sft_loss_is_that_of_trl(tokenizer, pairs, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chats = [[*map(dict, pair.prompt), {"role": "assistant", "content": pair.chosen}] for pair in pairs]
    trainer = SFTTrainer(tiny(tokenizer, 0), SFTConfig(str(tmp_path), assistant_only_loss=True, max_length=128, **CPU),
                         train_dataset=Dataset.from_list([{"messages": chat} for chat in chats]), processing_class=tokenizer)
    inputs = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    batch = chat_batch([encode_chat(chat, tokenizer) for chat in chats], pad=0)
    assert torch.equal(inputs["labels"], batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100))
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    ours = sft_loss(logits, batch["input_ids"], batch["completion_mask"])
    assert ours.item() == pytest.approx(trainer.compute_loss(trainer.model, dict(inputs)).item(), abs=1e-5)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(WorkshopError, match="하나도 없다"):
        sft_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), torch.tensor([[1, 0, 0]]))


# ---------------------------------------------------------------------------------------------- DPO


@pytest.mark.parametrize("beta, sft_weight", [(0.1, 0.0), (0.5, 0.0), (0.1, 0.5), (2.0, 1.0)])
def test_dpo_loss_and_its_gradient_are_those_of_trl(beta, sft_weight, tokenizer, pairs, batch, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny(tokenizer, 0), tiny(tokenizer, 1)
    mix = dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, sft_weight]) if sft_weight else {}
    trainer = DPOTrainer(copy.deepcopy(policy), ref_model=copy.deepcopy(reference), processing_class=tokenizer,
                         args=DPOConfig(str(tmp_path), beta=beta, max_length=None, **mix, **CPU),
                         train_dataset=Dataset.from_list(to_trl(pairs)))
    inputs = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    assert all(torch.equal(inputs[key], batch[key]) for key in batch)
    theirs = trainer.compute_loss(trainer.model, dict(inputs))
    theirs.backward()

    chosen_tokens = batch["completion_mask"].sum(1)[:6]
    with torch.no_grad():
        held = answers(reference, batch)
    loss, margins = dpo_loss(*answers(policy, batch), *held, beta, sft_weight, chosen_tokens)
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert margins.mean().item() == pytest.approx(trainer._metrics["train"]["rewards/margins"][0], rel=1e-5, abs=1e-5)
    assert margins.abs().min() > 1e-3  # the models do disagree
    for mine, other in zip(policy.parameters(), trainer.model.parameters()):
        assert torch.allclose(mine.grad, other.grad, atol=1e-5)


def test_dpo_starts_at_log_2_and_wants_the_margin():
    same = normal(5)
    loss, margins = dpo_loss(same, same + 1, same, same + 1)
    assert loss.item() == pytest.approx(math.log(2)) and margins.tolist() == [0.0] * 5
    assert dpo_loss(same + 1, same, same, same)[0] < math.log(2) < dpo_loss(same, same + 1, same, same)[0]


def test_dpo_does_not_mind_when_both_fall_and_the_sft_term_does():
    zero, tokens = torch.zeros(1), torch.tensor([10])
    falling = [(zero - 50, zero - 100), (zero - 5, zero - 55)]
    (both_fall, _), (stays, _) = (dpo_loss(*policy, zero, zero, 0.1) for policy in falling)
    assert both_fall.item() == pytest.approx(stays.item())
    (both_fall, _), (stays, _) = (dpo_loss(*policy, zero, zero, 0.1, 0.5, tokens) for policy in falling)
    assert both_fall > stays


def test_the_sft_term_needs_lengths():
    with pytest.raises(WorkshopError, match="chosen_tokens"):
        dpo_loss(*[torch.zeros(1)] * 4, sft_weight=0.5)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(-300, 300)), st.floats(0.01, 5))
def test_dpo_is_bradley_terry_on_implicit_rewards(values, beta):
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = torch.from_numpy(values)
    loss, margins = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    chosen, rejected = implicit_reward(policy_chosen, reference_chosen, beta), implicit_reward(policy_rejected, reference_rejected, beta)
    assert torch.isfinite(loss) and loss >= 0
    assert loss.item() == pytest.approx(bradley_terry_loss(chosen, rejected).item(), abs=1e-9)
    assert torch.allclose(margins, chosen - rejected)
    assert torch.equal(margins, implicit_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta))
    swapped, opposite = dpo_loss(policy_rejected, policy_chosen, reference_rejected, reference_chosen, beta)
    assert torch.allclose(opposite, -margins) and (loss + swapped >= 2 * math.log(2) - 1e-9)


def test_the_optimal_policy_has_the_reward_that_it_is_optimal_for():
    """Rafailov et al., eq. 4: π = π_ref exp(r / β) / Z; its implicit rewards differ from r by a constant."""
    reward, reference, beta = normal(7, seed=1).double(), normal(7, seed=2).double().log_softmax(0), 0.3
    policy = (reference + reward / beta).log_softmax(0)
    constant = implicit_reward(policy, reference, beta) - reward
    assert torch.allclose(constant, constant[0].expand(7))


# ---------------------------------------------------------------------------------------------- reward model


def test_bradley_terry_loss_is_that_of_trl(tokenizer, pairs, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    model = tiny(tokenizer, 0, "LlamaForSequenceClassification", num_labels=1)
    trainer = RewardTrainer(model, RewardConfig(str(tmp_path), max_length=None, **CPU), processing_class=tokenizer,
                            train_dataset=Dataset.from_list(to_trl(pairs)))
    inputs = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    batch = pair_batch([encode_pair(pair, tokenizer) for pair in pairs], pad=0)
    assert torch.equal(inputs["input_ids"], batch["input_ids"])
    chosen, rejected = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1).chunk(2)
    ours = bradley_terry_loss(chosen, rejected)
    assert ours.item() == pytest.approx(trainer.compute_loss(model, dict(inputs)).item(), abs=1e-5)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (2, 5), elements=st.floats(-1000, 1000)), st.floats(-50, 50))
def test_only_the_difference_of_rewards_counts(rewards, shift):
    chosen, rejected = torch.from_numpy(rewards)
    loss = bradley_terry_loss(chosen, rejected)
    assert torch.isfinite(loss) and loss >= 0
    assert loss.item() == pytest.approx(bradley_terry_loss(chosen + shift, rejected + shift).item(), abs=1e-8)
    assert loss.item() == pytest.approx(np.logaddexp(0, rewards[1] - rewards[0]).mean(), abs=1e-8)


# ---------------------------------------------------------------------------------------------- KL


@settings(deadline=None)
@given(arrays.arrays(np.float64, (2, 6), elements=st.floats(-3, 3)))
def test_k1_and_k3_are_unbiased_and_k2_k3_never_negative(logits):
    policy, reference = torch.from_numpy(logits).log_softmax(-1)
    truth = F.kl_div(reference, policy, log_target=True, reduction="sum").item()  # KL(policy || reference), every outcome weighed
    k1, k2, k3 = ((policy.exp() * estimate).sum().item() for estimate in kl_estimates(policy, reference))
    assert k1 == pytest.approx(truth, abs=1e-9) and k3 == pytest.approx(truth, abs=1e-9)
    k1, k2, k3 = kl_estimates(policy, reference)
    assert (k2 >= 0).all() and (k3 >= -1e-12).all()
    if truth > 1e-3:
        assert (k1 < 0).any()  # some token is likelier under the reference


def test_k2_is_biased_and_k3_steadier_than_k1():
    policy, reference = torch.tensor([[0.5, 0.4, 0.1], [0.4, 0.4, 0.2]]).double().log()
    weights = policy.exp()
    estimates = torch.stack(kl_estimates(policy, reference))  # (3, tokens)
    mean = (weights * estimates).sum(1, keepdim=True)
    spread = (weights * (estimates - mean) ** 2).sum(1) ** 0.5
    assert abs(mean[1] - mean[0]) > 1e-3 and spread[2] < 0.5 * spread[0]


def test_as_a_loss_only_the_weighted_k3_has_the_gradient_of_the_divergence():
    logits, reference = normal(6, seed=1).double().requires_grad_(), normal(6, seed=2).double().log_softmax(0)
    policy = logits.log_softmax(0)
    weights, ratio = policy.exp().detach(), (policy - policy.detach()).exp()
    k1, _, k3 = kl_estimates(policy, reference)
    gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (
        policy.exp() * (policy - reference), weights * k1, weights * k3, weights * ratio * k3)]  # fmt: skip
    truth, of_k1, of_k3, weighted = gradients
    assert torch.allclose(of_k1, torch.zeros(6, dtype=torch.double), atol=1e-12)
    assert torch.allclose(weighted, truth) and not torch.allclose(of_k3, truth, atol=1e-2)


# ---------------------------------------------------------------------------------------------- PPO


def test_the_score_is_paid_at_the_last_token_and_drift_at_each():
    policy, reference = normal(2, 4, seed=1), normal(2, 4, seed=2)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    rewards = penalised_rewards(torch.tensor([3.0, -1.0]), policy, reference, mask, beta=0.5)
    wanted = -0.5 * (policy - reference) * mask
    wanted[0, 2] += 3
    wanted[1, 3] -= 1
    assert torch.allclose(rewards, wanted)
    with pytest.raises(WorkshopError, match="2번째 답"):
        penalised_rewards(torch.zeros(2), policy, reference, torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), beta=0.5)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (2, 3, 5), elements=st.floats(-5, 5)), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_weighted_mean_of_all_horizons(values, discount, lam):
    """Schulman et al. 2016, eq. 16 read literally: (1 - λ) Σ λ^(k-1) A^(k), A^(k) the k-step advantage; the tail gets the rest."""
    rewards, state = values
    steps = state.shape[1]
    slow = np.zeros_like(state)
    for row in range(len(state)):
        for t in range(steps):
            horizons = []
            for k in range(1, steps - t + 1):
                ahead = sum(discount**i * rewards[row, t + i] for i in range(k))
                bootstrap = discount**k * state[row, t + k] if t + k < steps else 0.0
                horizons.append(ahead + bootstrap - state[row, t])
            weights = [(1 - lam) * lam**k for k in range(len(horizons) - 1)]
            slow[row, t] = np.dot([*weights, lam ** (len(horizons) - 1)], horizons)
    assert np.allclose(gae(torch.from_numpy(rewards), torch.from_numpy(state), discount, lam), slow, atol=1e-8)


def test_gae_of_a_text_does_not_see_its_padding():
    rewards, values = normal(1, 3, seed=1), normal(1, 3, seed=2)
    padded = gae(F.pad(rewards, (0, 2)), F.pad(values, (0, 2)), 0.9, 0.8)
    assert torch.allclose(padded[:, :3], gae(rewards, values, 0.9, 0.8)) and (padded[:, 3:] == 0).all()


def test_gae_of_a_perfect_value_function_is_nothing():
    rewards = normal(2, 6).double()
    values = rewards.flip(1).cumsum(1).flip(1)  # all that is still to come
    assert torch.allclose(gae(rewards, values, 1.0, 0.3), torch.zeros_like(values), atol=1e-12)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (3, 2, 4), elements=st.floats(-3, 3)), st.floats(0.01, 0.5))
def test_the_clip_is_a_lower_bound_that_only_takes(values, clip):
    new, old, advantages = torch.from_numpy(values)
    free, clipped = (new - old).exp() * advantages, clipped_objective(new, old, advantages, clip)
    assert (clipped <= free + 1e-12).all()
    assert torch.allclose(clipped_objective(old, old, advantages, clip), advantages)


def test_beyond_the_clip_nothing_pulls_any_further():
    old, advantages = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    new = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    ppo_policy_loss(new, old, advantages, clip=0.2).backward()
    assert (new.grad[0] == 0).tolist() == [True, False, False, True]


def test_ppo_starts_as_the_policy_gradient_and_counts_the_mask_only():
    old, advantages, mask = normal(2, 3, seed=1), normal(2, 3, seed=2), torch.tensor([[1, 1, 0], [1, 0, 0]])
    new = old.clone().requires_grad_()
    loss = ppo_policy_loss(new, old, advantages, 0.2, mask)
    loss.backward()
    assert loss.item() == pytest.approx(-(advantages * mask).sum().item() / 3, abs=1e-6)
    assert torch.allclose(new.grad, -advantages * mask / 3)
    assert ppo_policy_loss(old, old, advantages).item() == pytest.approx(-advantages.mean().item(), abs=1e-6)


# ---------------------------------------------------------------------------------------------- groups


def slow_advantages(rewards, group):
    """(GRPO, RLOO), one answer at a time."""
    grpo, rloo = [], []
    for place, reward in enumerate(rewards):
        start = place // group * group
        mates = rewards[start : start + group]
        grpo.append((reward - np.mean(mates)) / (np.std(mates, ddof=1) + 1e-4))
        rloo.append(reward - np.mean([mate for k, mate in enumerate(mates, start) if k != place]))
    return np.array(grpo), np.array(rloo)


@settings(deadline=None)
@given(st.integers(2, 5).flatmap(lambda group: st.tuples(st.just(group), st.integers(1, 4).flatmap(
    lambda prompts: arrays.arrays(np.float64, prompts * group, elements=st.floats(-10, 10))))))  # fmt: skip
def test_advantages_are_those_of_the_definition(case):
    group, rewards = case
    grpo, rloo = slow_advantages(rewards, group)
    assert np.allclose(group_advantages(torch.from_numpy(rewards), group), grpo, atol=1e-8)
    assert np.allclose(leave_one_out_advantages(torch.from_numpy(rewards), group), rloo, atol=1e-8)
    centred = (rewards.reshape(-1, group) - rewards.reshape(-1, group).mean(1, keepdims=True)).ravel()
    assert np.allclose(rloo, group / (group - 1) * centred)


def test_a_group_in_which_all_are_alike_teaches_nothing():
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.0, 1.0, 0.0])
    for advantages in (group_advantages(rewards, 3), leave_one_out_advantages(rewards, 3)):
        assert advantages[:3].abs().max() < 1e-3 and advantages[4] > 0 > advantages[3]


@pytest.mark.parametrize("rewards, group", [(torch.zeros(5), 2), (torch.zeros(4), 1), (torch.zeros(0), 2), (torch.zeros(2, 2), 2)])
def test_rewards_that_do_not_make_groups_are_refused(rewards, group):
    for advantages in (group_advantages, leave_one_out_advantages):
        with pytest.raises(WorkshopError, match=f"{group}개씩"):
            advantages(rewards, group)


def test_grpo_loss_by_hand():
    new, old, reference = (normal(2, 3, seed=seed) for seed in (1, 2, 3))
    advantages, mask = torch.tensor([1.5, -0.5]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    total = 0.0
    for row, length in enumerate((3, 1)):
        for t in range(length):
            ratio = math.exp(new[row, t] - old[row, t])
            gain = min(ratio * advantages[row].item(), min(max(ratio, 0.8), 1.2) * advantages[row].item())
            r = reference[row, t].item() - new[row, t].item()
            total += (gain - 0.04 * (math.exp(r) - r - 1)) / length / 2
    assert grpo_loss(new, old, advantages, mask, 0.2, reference, 0.04).item() == pytest.approx(-total, abs=1e-6)
    with pytest.raises(WorkshopError, match="reference"):
        grpo_loss(new, old, advantages, mask, beta=0.04)


def test_an_empty_answer_counts_as_zero():
    new, advantages = normal(2, 3), torch.tensor([1.0, 2.0])
    assert grpo_loss(new, new, advantages, torch.tensor([[1, 1, 1], [0, 0, 0]])).item() == pytest.approx(-0.5)


def unlike(completions, **_):
    """A reward that differs between random answers."""
    return [float(sum(map(ord, completion[0]["content"])) % 7) for completion in completions]


def sampled(trainer, pairs):
    """What TRL makes of three prompts with four answers each: its batch, advantages included, and the rewards it gave."""
    paid, calculate = [], trainer._calculate_rewards
    trainer._calculate_rewards = lambda *given: paid.append(calculate(*given)) or paid[-1]
    inputs = trainer._generate_and_score_completions([{"prompt": [dict(m) for m in pair.prompt]} for pair in pairs[:3] for _ in range(4)])
    return inputs, paid[0][:, 0]


def completions(model, inputs):
    """Per-token log-probabilities of the answers that TRL sampled, and their mask."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    judging = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], 1)
    logits = model(ids, attention_mask=attention).logits
    return masked_log_probs(logits, ids, judging)[1], judged(judging)


@pytest.mark.parametrize("unbiased", [False, True])
def test_grpo_is_that_of_trl(unbiased, tokenizer, pairs, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    policy, reference = tiny(tokenizer, 0), tiny(tokenizer, 1)
    reference.save_pretrained(tmp_path / "start")
    policy.config._name_or_path = str(tmp_path / "start")  # where TRL looks for the reference
    options = CPU | {"per_device_train_batch_size": 12}
    trainer = GRPOTrainer(copy.deepcopy(policy), unlike, processing_class=tokenizer, args=GRPOConfig(
        str(tmp_path), num_generations=4, max_completion_length=8, beta=0.04, loss_type="grpo", use_bias_correction_kl=unbiased, **options),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in to_trl(pairs)]))  # fmt: skip
    inputs, rewards = sampled(trainer, pairs)
    assert rewards.unique().numel() > 3
    assert torch.allclose(group_advantages(rewards, 4), inputs["advantages"], atol=1e-5)

    with torch.no_grad():  # the policy has moved since it wrote these answers
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * normal(*parameter.shape, seed=5))
    old, mask = completions(policy, inputs)
    new, _ = completions(trainer.model, inputs)
    held, _ = completions(reference, inputs)
    inputs["old_per_token_logps"] = old.detach()[:, -inputs["completion_ids"].shape[1] :]
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer._compute_loss(trainer.model, inputs)
    ours = grpo_loss(new, old.detach(), inputs["advantages"], mask, 0.2, held.detach(), 0.04, unbiased)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    gradients = [torch.autograd.grad(loss, list(trainer.model.parameters())) for loss in (theirs, ours)]
    assert all(torch.allclose(other, mine, atol=1e-5) for other, mine in zip(*gradients))
    ratio = (new - old).exp()[mask]
    assert (ratio > 1.2).any() and (ratio < 0.8).any()  # the clip does something


def test_rloo_is_that_of_trl(tokenizer, pairs, tmp_path):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    options = CPU | {"per_device_train_batch_size": 12}
    trainer = RLOOTrainer(tiny(tokenizer, 0), unlike, processing_class=tokenizer, args=RLOOConfig(
        str(tmp_path), num_generations=4, max_completion_length=8, beta=0.0, **options),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in to_trl(pairs)]))  # fmt: skip
    inputs, rewards = sampled(trainer, pairs)
    assert torch.allclose(leave_one_out_advantages(rewards, 4), inputs["advantages"], atol=1e-5)


def test_masked_mean():
    values = torch.tensor([[1.0, torch.nan], [3.0, 5.0]])
    assert masked_mean(values, torch.tensor([[1, 0], [1, 1]])).item() == 3.0
    assert masked_mean(values[1]).item() == 4.0
