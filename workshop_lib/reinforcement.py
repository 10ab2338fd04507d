"""Week 9: a reward model from preferences, and policies that learn from a reward: PPO, RLOO and GRPO, small enough to read in one go.

All three draw answers from the policy, score them, and make the better ones likelier. They differ in what "better" is measured against:
PPO asks a second network what it expected (the critic, `gae`), RLOO and GRPO ask the other answers to the same prompt. They also differ in
where the distance from the reference enters: PPO and RLOO pay for it in the reward, GRPO in the loss.

Notable choices
- The formulas are those of `objectives`; here are the loops only.
- All answers of a step are one batch, learned from `epochs` times: the clip is idle in the first pass, where the ratio is 1.
- RLOO's ratio is per token, as PPO's; TRL takes one for the whole answer. In the first pass the gradients are alike up to the weighting.
- Answers are drawn at temperature 1 from the whole vocabulary, so that the formulas' probabilities are those that the tokens came with.
- The "old" log-probabilities are the sampler's own: the ratio begins at 1 up to rounding, and a forward pass is saved.
- An answer that was cut before its end mark loses `missing_end`: else the policy learns that endless answers pay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError, display
from workshop_lib.alignment import answer_log_probs
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.objectives import (
    bradley_terry_loss,
    gae,
    group_advantages,
    grpo_loss,
    judged,
    kl_estimates,
    leave_one_out_advantages,
    masked_mean,
    penalised_rewards,
    ppo_policy_loss,
)
from workshop_lib.optimization import clip_by_global_norm, cosine_with_warmup, optimizers, set_learning_rate
from workshop_lib.preferences import EncodedPair, pair_batch
from workshop_lib.rollouts import Rollouts, rollouts

# Numbers of the prompts, one an answer, and the answers -> their scores (answers,).
Reward = Callable[[Sequence[int], Rollouts], Tensor]
METHODS = ("ppo", "rloo", "grpo")


@dataclass(frozen=True)
class Optimisation:
    """What `optimizers` reads, and how many steps of which size."""

    steps: int
    learning_rate: float
    warmup_steps: int = 5
    optimizer: str = "adamw"  # or "muon"
    embedding_rate: float = 1.0
    muon_iterations: int = 5
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # of the gradient's norm


@dataclass(frozen=True)
class RewardModelSettings(Optimisation):
    steps: int = 80
    batch_size: int = 24  # pairs
    learning_rate: float = 3e-3
    optimizer: str = "muon"


@dataclass(frozen=True)
class ReinforcementSettings(Optimisation):
    """`method`: ppo, rloo or grpo. `beta` is the price of a nat of distance from the reference."""

    method: str = "ppo"
    steps: int = 20
    learning_rate: float = 3e-4
    batch_size: int = 64  # answers a step
    group: int = 1  # answers to one prompt; two or more for rloo and grpo
    epochs: int = 2  # passes over the answers of a step
    beta: float = 0.05
    ratio_clip: float = 0.2
    max_new_tokens: int = 32
    missing_end: float = 1.0  # taken off the score of an answer that does not end by itself
    discount: float = 1.0  # ppo
    lam: float = 0.95  # ppo
    critic_rate: float = 1e-3  # ppo


# ---------------------------------------------------------------------------------------------- reward model


class Scorer(nn.Module):
    """A decoder with one number at each position where a language model has a distribution: a reward model, or PPO's critic.

    The weights carry the names of transformers' ``LlamaForSequenceClassification`` with one label.
    """

    def __init__(self, model: Transformer, seed: int = 0):
        super().__init__()
        self.model = copy.deepcopy(model.model).requires_grad_(True)  # also where the policy is a frozen one
        self.score = nn.Linear(model.config.hidden_size, 1, bias=False)
        nn.init.normal_(self.score.weight, std=model.config.initializer_range, generator=torch.Generator().manual_seed(seed))
        self.to(model.lm_head.weight.device)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) ids -> (batch, length): what is read off the text up to and including each token."""
        return self.score(self.model(ids)).squeeze(-1)

    def at_end(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The number at each text's last masked token (batch,): with the mask of its answer, at the mark that ends it."""
        last = ids.shape[1] - 1 - mask.flip(1).int().argmax(1)
        return self(ids)[torch.arange(len(ids), device=ids.device), last]


def train_reward_model(
    policy: Transformer, pairs: Sequence[EncodedPair], settings: RewardModelSettings, pad: int = 0, seed: int = 0
) -> tuple[Scorer, list[dict]]:
    """A Bradley-Terry reward model that starts as the policy's decoder (Ouyang et al. 2022, §3.5), and its curve: loss, accuracy a step.

    Raises WorkshopError when there are fewer pairs than a batch has.
    """
    if len(pairs) < settings.batch_size:
        raise WorkshopError(f"선호 쌍이 {len(pairs)}개뿐이라 batch_size {settings.batch_size}를 채우지 못한다. 쌍을 늘린다.")
    scorer, history = Scorer(policy, seed), []
    steppers, order = optimizers(scorer, settings), _order(len(pairs), settings.batch_size, seed)
    for step in display.progress(range(settings.steps), desc="보상 모델"):
        chosen, rejected = _scores(scorer, [pairs[number] for number in next(order)], pad)
        loss = bradley_terry_loss(chosen, rejected)
        loss.backward()
        _update(scorer, steppers, settings, cosine_with_warmup(step, settings.steps, settings.learning_rate, settings.warmup_steps))
        history.append({"step": step + 1, "loss": float(loss.detach()), "accuracy": float((chosen > rejected).float().mean())})
    return scorer.eval(), history


@torch.no_grad()
def margins(scorer: Scorer, pairs: Sequence[EncodedPair], pad: int = 0, batch: int = 64) -> Tensor:
    """Score of the chosen answer minus that of the rejected one (pairs,); positive where the reward model agrees."""
    found = []
    for start in range(0, len(pairs), batch):
        chosen, rejected = _scores(scorer, pairs[start : start + batch], pad)
        found.append(chosen - rejected)
    return torch.cat(found)


def _scores(scorer: Scorer, pairs: Sequence[EncodedPair], pad: int) -> tuple[Tensor, Tensor]:
    """Of the chosen and of the rejected answers, (pairs,) each."""
    both, device = pair_batch(pairs, pad), scorer.score.weight.device
    return scorer.at_end(both["input_ids"].to(device), both["completion_mask"].to(device)).chunk(2)


# ---------------------------------------------------------------------------------------------- rewards


def model_reward(scorer: Scorer, mean: float = 0.0, spread: float = 1.0) -> Reward:
    """The reward model's opinion, (score - mean) / spread: it knows differences only, so zero and unit are free to choose."""

    @torch.no_grad()
    def reward(numbers: Sequence[int], drawn: Rollouts) -> Tensor:
        return (scorer.at_end(drawn.ids, drawn.mask) - mean) / spread

    return reward


def checked_reward(check: Callable[[str, dict], float], rows: Sequence[dict], tokenizer) -> Reward:
    """A reward that is computed, not learnt: check(answer's text, the prompt's row) -> a number."""

    def reward(numbers: Sequence[int], drawn: Rollouts) -> Tensor:
        scores = [float(check(text, rows[number])) for number, text in zip(numbers, drawn.texts(tokenizer))]
        return torch.tensor(scores, device=drawn.ids.device)

    return reward


# ---------------------------------------------------------------------------------------------- policies


def reinforce(
    policy: Transformer,
    prompts: Sequence[Sequence[int]],
    reward: Reward,
    settings: ReinforcementSettings,
    stops: Collection[int],
    pad: int = 0,
    critic: Scorer | None = None,
    seed: int = 0,
) -> list[dict]:
    """Trains the policy in place (and PPO's critic); the reference is a frozen copy of what the policy is now. Returns a row a step.

    prompts: token ids, each ending where the assistant begins; stops: the tokens that close an answer (`engine.end_tokens`).
    A row: step, reward (mean score before any KL penalty), kl (mean over answers of the k3 estimates' sum, nats), length (tokens), ended
    (share), clipped (share of tokens whose ratio is beyond the clip in the last pass), and value_loss for PPO.
    Schulman et al. 2017 (PPO) as used by Ouyang et al. 2022; Ahmadian et al. 2024 (RLOO); Shao et al. 2024 (GRPO).
    """
    _check(settings, critic, len(prompts))
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    policy.eval()  # no dropout here: sampling and learning see the same network
    steppers = optimizers(policy, settings)
    valuers = [torch.optim.AdamW(critic.parameters(), settings.critic_rate, weight_decay=0.0)] if critic is not None else []
    group, order, history = settings.group, _order(len(prompts), settings.batch_size // settings.group, seed), []
    for step in display.progress(range(settings.steps), desc=settings.method.upper()):
        asked = next(order)
        drawn = rollouts(
            policy, [prompts[number] for number in asked], stops, group, settings.max_new_tokens, seed=seed * 100_003 + step, pad=pad
        )
        ids, counted, old = drawn.ids, judged(drawn.mask), drawn.log_probs
        scores = reward([number for number in asked for _ in range(group)], drawn)
        paid = scores - settings.missing_end * ~drawn.ended
        with torch.no_grad():
            anchor = answer_log_probs(reference, ids, drawn.mask)
            values = critic(ids)[:, :-1].masked_fill(~counted, 0.0) if critic is not None else None
        advantages = _advantages(settings, paid, old, anchor, counted, values)
        rate = cosine_with_warmup(step, settings.steps, settings.learning_rate, settings.warmup_steps, settings.learning_rate / 10)
        for _ in range(settings.epochs):
            new = answer_log_probs(policy, ids, drawn.mask)
            if settings.method == "grpo":
                loss = grpo_loss(new, old, advantages[:, 0], counted, settings.ratio_clip, anchor, settings.beta, unbiased_kl=True)
            else:
                weights = standardised(advantages, counted) if settings.method == "ppo" else advantages
                loss = ppo_policy_loss(new, old, weights, settings.ratio_clip, counted)
            loss.backward()
            _update(policy, steppers, settings, rate)
            if critic is not None:
                value_loss = masked_mean((critic(ids)[:, :-1] - (advantages + values)) ** 2, counted) / 2
                value_loss.backward()
                _update(critic, valuers, settings)
        _, _, k3 = kl_estimates(old, anchor)
        beyond = ((new.detach() - old).exp() - 1).abs() > settings.ratio_clip
        row = {"step": step + 1, "reward": float(scores.mean()), "kl": float(k3.sum(-1).mean())}
        row |= {"length": float(drawn.lengths.float().mean()), "ended": float(drawn.ended.float().mean())}
        row |= {"clipped": float(masked_mean(beyond.float(), counted))}
        history.append(row | ({"value_loss": float(value_loss.detach())} if critic is not None else {}))
    return history


def _advantages(
    settings: ReinforcementSettings, paid: Tensor, old: Tensor, anchor: Tensor, counted: Tensor, values: Tensor | None
) -> Tensor:
    """How much better than expected each token was, (answers, length - 1): by the critic's values, or by the answers beside it."""
    if settings.method == "ppo":
        rewards = penalised_rewards(paid, old, anchor, counted, settings.beta)
        return gae(rewards, values, settings.discount, settings.lam)
    if settings.method == "rloo":
        whole = leave_one_out_advantages(paid - settings.beta * (old - anchor).sum(-1), settings.group)
    else:
        whole = group_advantages(paid, settings.group)
    return whole[:, None].expand_as(old)


def standardised(advantages: Tensor, counted: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over all counted tokens of a step, so that its size does not depend on the reward's unit."""
    among = advantages[counted]
    return (advantages - among.mean()) / among.std().clamp(min=1e-6)


def _check(settings: ReinforcementSettings, critic: Scorer | None, prompts: int) -> None:
    if settings.method not in METHODS:
        raise WorkshopError(f"방법 '{settings.method}'을(를) 모른다. {', '.join(METHODS)} 가운데 하나를 쓴다.")
    if (critic is None) == (settings.method == "ppo"):
        raise WorkshopError("PPO에는 가치 모델(critic)이 있어야 하고, RLOO와 GRPO에는 없다.")
    if settings.method != "ppo" and settings.group < 2:
        raise WorkshopError(f"{settings.method}는 한 프롬프트의 답을 서로 견준다. group {settings.group}을(를) 2 이상으로 한다.")
    if settings.batch_size % settings.group:
        raise WorkshopError(f"batch_size {settings.batch_size}를 group {settings.group}으로 나눌 수 없다.")
    if prompts < settings.batch_size // settings.group:
        raise WorkshopError(f"프롬프트가 {prompts}개뿐이라 한 번에 {settings.batch_size // settings.group}개를 뽑을 수 없다.")


# ---------------------------------------------------------------------------------------------- shared


def _order(rows: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Numbers of the rows of each batch, shuffled anew for every pass; what does not fill a batch is left for another pass."""
    rng = Random(seed)
    while True:
        shuffled = rng.sample(range(rows), rows)
        yield from (shuffled[start : start + batch] for start in range(0, rows - batch + 1, batch))


def _update(network: nn.Module, steppers: Sequence[torch.optim.Optimizer], settings: Optimisation, rate: float | None = None) -> None:
    clip_by_global_norm([p.grad for p in network.parameters() if p.grad is not None], settings.clip)
    if rate is not None:
        set_learning_rate(steppers, rate)
    for stepper in steppers:
        stepper.step()
        stepper.zero_grad(set_to_none=True)
