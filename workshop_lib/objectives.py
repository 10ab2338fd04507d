"""Week 9: the losses of alignment, each from its formula, a few lines each; TRL's trainers compute the same numbers (tests).

A *policy* π_θ is the model that learns, the *reference* π_ref a frozen copy of where it started. All that the losses know of a text
is the log-probability of its tokens, log π(y|x) = Σ_t log π(y_t | x, y_<t), which `masked_log_probs` reads off the logits.

Notable choices
- Logits at place t judge the token at place t + 1, so per-token quantities are one shorter than the text. The shift happens in
  `masked_log_probs` (and `sft_loss`, which calls it) and nowhere else; its companion `judged` shifts a mask alike.
- A mask is 1 where a token counts: the answer's own tokens and the mark that ends it, never the prompt's, never padding.
- Losses come back as a mean over the batch (a 0-d tensor, to be minimised); what the curves are drawn from comes beside it.
- Sums of log-probabilities for DPO (its formula has log π(y|x)), means over tokens for SFT, PPO and GRPO.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib import WorkshopError

# ---------------------------------------------------------------------------------------------- log-probabilities


def masked_log_probs(logits: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (nats) of the tokens that a mask picks: their sum for each text, and token by token.

    logits: (batch, length, vocabulary); ids, mask: (batch, length), the mask 1 where a token counts.
    Returns sums (batch,) and per token (batch, length - 1), zero where the mask is. The first token of a text follows nothing and
    is never judged, whatever its mask says.
    """
    found = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    per_token = found.masked_fill(~judged(mask), 0.0)  # not a product: -inf times 0 is NaN
    return per_token.sum(-1), per_token


def judged(mask: Tensor) -> Tensor:
    """(batch, length) mask of tokens -> (batch, length - 1) booleans: the same mask at the places that predict those tokens."""
    return mask[:, 1:].bool()


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the values that the mask picks, over the whole batch; of all of them without a mask.

    Raises WorkshopError when the mask picks none.
    """
    if mask is None:
        return values.mean()
    mask = mask.bool()
    if not mask.any():
        raise WorkshopError("마스크가 고른 토큰이 하나도 없다. 답이 문맥 밖으로 잘려 나가지 않았는지 확인한다.")
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


# ---------------------------------------------------------------------------------------------- imitation


def sft_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Supervised fine-tuning: mean over the batch's counted tokens of -log π_θ(y_t | x, y_<t), in nats.

    It is the loss of pretraining on fewer tokens: only the assistant's (Ouyang et al. 2022, arXiv:2203.02155, §3.5).
    Shapes as for `masked_log_probs`. Raises WorkshopError when no token counts.
    """
    _, per_token = masked_log_probs(logits, ids, mask)
    return -masked_mean(per_token, judged(mask))


# ---------------------------------------------------------------------------------------------- preferences


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Reward model: -log σ(r(x, y_w) - r(x, y_l)), mean over the pairs. Both arguments: (batch,).

    Bradley & Terry (1952): P(w beats l) = σ(r_w - r_l). As a loss: Ouyang et al. 2022, eq. 1. Only the difference counts, so
    rewards are known up to a constant for each prompt.
    """
    return -F.logsigmoid(chosen_rewards - rejected_rewards).mean()


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The reward for which a policy is optimal: β log (π_θ(y|x) / π_ref(y|x)), up to β log Z(x), which is the same for all answers.

    Rafailov et al. 2023 (arXiv:2305.18290), eq. 5. policy, reference: sums of log-probabilities (batch,). Returns (batch,).
    """
    return beta * (policy - reference)


def implicit_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Implicit reward of the chosen answer minus that of the rejected one: what DPO pushes up. All (batch,).

    β log Z(x) cancels. Positive where the policy prefers the chosen answer more than the reference does.
    """
    return implicit_reward(policy_chosen, reference_chosen, beta) - implicit_reward(policy_rejected, reference_rejected, beta)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    sft_weight: float = 0.0,
    chosen_tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Direct preference optimisation: the Bradley-Terry loss of the implicit rewards (Rafailov et al. 2023, eq. 7).

    The first four: sums of log-probabilities of the answers (batch,). `sft_weight` adds that much of the chosen answers'
    negative log-likelihood per token, which keeps it from rising while the margin grows (Pang et al. 2024, arXiv:2404.19733);
    it is divided by all of the batch's `chosen_tokens` (batch,), as TRL's `loss_type=["sigmoid", "sft"]` does.
    Returns the loss and the margins (batch,) of `implicit_margin`.
    """
    margins = implicit_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    loss = -F.logsigmoid(margins).mean()
    if sft_weight:
        if chosen_tokens is None:
            raise WorkshopError(f"sft_weight가 {sft_weight:g}이면 chosen_tokens(고른 답의 토큰 수)도 넘긴다.")
        loss = loss - sft_weight * policy_chosen.sum() / chosen_tokens.sum()
    return loss, margins


# ---------------------------------------------------------------------------------------------- distance from the reference


def kl_estimates(policy: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three estimates (k1, k2, k3) of KL(π_θ || π_ref), each from one token that the policy sampled.

    policy, reference: the token's log-probability under each, of any shape; the estimates have the same. Schulman 2020,
    "Approximating KL divergence" (joschu.net/blog/kl-approx.html), with log r = log π_ref - log π_θ:
    k1 = -log r            unbiased; often negative, and its spread is large
    k2 = (log r)² / 2      biased; never negative, small spread
    k3 = (r - 1) - log r   unbiased and never negative: what GRPO uses (DeepSeekMath eq. 4)
    The expectations hold for tokens drawn from the policy, without top-p or a temperature. They are estimates of the value: as a loss,
    k1 has an expected gradient of zero and k3 not that of the divergence (`grpo_loss`, `unbiased_kl`).
    """
    log_ratio = reference - policy
    return -log_ratio, log_ratio**2 / 2, log_ratio.exp() - 1 - log_ratio


# ---------------------------------------------------------------------------------------------- PPO


def penalised_rewards(scores: Tensor, policy: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """What PPO is paid for each token: -β (log π_θ - log π_ref), and at the answer's last token the reward model's score as well.

    Ziegler et al. 2019 (arXiv:1909.08593), eq. 2; Ouyang et al. 2022, eq. 2. scores: (batch,); policy, reference: per-token
    log-probabilities (batch, length), without gradient; mask: (batch, length), 1 on the answer's tokens, one or more of them.
    """
    mask = mask.bool()
    if not mask.any(-1).all():
        raise WorkshopError(f"{int((~mask.any(-1)).nonzero()[0]) + 1}번째 답에 토큰이 하나도 없다. 빈 답은 점수를 매기기 전에 걸러 낸다.")
    rewards = (-beta * (policy - reference)).masked_fill(~mask, 0.0)
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, discount: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimation, backwards through time: A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V(s_{t+1}) - V(s_t).

    Schulman et al. 2016 (arXiv:1506.02438), eq. 16; Schulman et al. 2017, eq. 11-12. rewards, values: (batch, length), zero beyond the
    end of a text (so that the value after the last token is zero, too). Returns (batch, length), and the value function learns
    advantages + values.
    λ = 0 trusts the value function (δ_t alone), λ = 1 the rewards (all that is still to come, minus V).
    """
    advantages = torch.zeros_like(values)
    after = torch.zeros_like(values[:, 0])  # A_{t+1}
    next_value = torch.zeros_like(after)  # V(s_{t+1})
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + discount * next_value - values[:, step]
        after = delta + discount * lam * after
        next_value = values[:, step]
        advantages[:, step] = after
    return advantages


def clipped_objective(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π_θ / π_old, element by element: to be maximised."""
    ratio = (new - old).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def ppo_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2, mask: Tensor | None = None) -> Tensor:
    """PPO's clipped surrogate, negated: -mean min(ρ_t A_t, clip(ρ_t, 1 - ε, 1 + ε) A_t), ρ_t = π_θ(a_t|s_t) / π_old(a_t|s_t).

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7. new, old: per-token log-probabilities (batch, length), `old` without gradient;
    advantages, mask: the same shape. Beyond the clip a step in the good direction earns nothing more, so nothing pulls it further.
    """
    return -masked_mean(clipped_objective(new, old, advantages, clip), mask)


# ---------------------------------------------------------------------------------------------- groups instead of a value function


def _groups(rewards: Tensor, group: int) -> Tensor:
    if group < 2 or rewards.ndim != 1 or len(rewards) == 0 or len(rewards) % group:
        raise WorkshopError(
            f"보상 {tuple(rewards.shape)}을(를) {group}개씩 묶을 수 없다. 한 프롬프트의 답은 둘 이상이고, 보상은 그 배수만큼 한 줄로 준다."
        )
    return rewards.view(-1, group)


def group_advantages(rewards: Tensor, group: int, eps: float = 1e-4) -> Tensor:
    """GRPO: how much better than its siblings an answer is, in standard deviations: (r_i - mean(r)) / (std(r) + ε).

    Shao et al. 2024 (DeepSeekMath, arXiv:2402.03300), §4.1.2. rewards: (prompts * group,), answers to one prompt side by side.
    Returns the same shape. The deviation divides by group - 1, as TRL's does. A group in which all are alike teaches nothing (zeros).
    """
    grouped = _groups(rewards, group)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + eps)).view(-1)


def leave_one_out_advantages(rewards: Tensor, group: int) -> Tensor:
    """RLOO: the reward minus the mean reward of the *other* answers to the same prompt, an unbiased baseline.

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv:2402.14740). Shapes as in `group_advantages`. Equal to
    group / (group - 1) times (r_i - mean(r)).
    """
    grouped = _groups(rewards, group)
    others = (grouped.sum(1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).view(-1)


def grpo_loss(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    reference: Tensor | None = None,
    beta: float = 0.0,
    unbiased_kl: bool = False,
) -> Tensor:
    """GRPO: PPO's clipped surrogate with one advantage for a whole answer, and the KL term in the loss, not in the reward.

    -mean over answers of mean over an answer's tokens of [min(ρ_t A, clip(ρ_t) A) - β k3_t]; Shao et al. 2024, eq. 3-4 (TRL's
    `loss_type="grpo"`). new, old, reference: per-token log-probabilities (batch, length); advantages: (batch,); mask: (batch, length).
    An answer without tokens counts as zero.
    `unbiased_kl` weighs k3 with ρ_t, so that its gradient is that of the KL divergence too (DeepSeek-V3.2, arXiv:2512.02556; TRL's
    default since it has `use_bias_correction_kl`): the value alone is right without it, the gradient is another divergence's.
    """
    gained = clipped_objective(new, old, advantages[:, None], clip)
    if beta:
        if reference is None:
            raise WorkshopError(f"beta가 {beta:g}이면 기준 모델의 로그 확률(reference)도 넘긴다.")
        _, _, k3 = kl_estimates(new, reference)
        gained = gained - beta * (k3 * (new - old).exp() if unbiased_kl else k3)
    mask = mask.bool()
    return -(gained.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)).mean()
