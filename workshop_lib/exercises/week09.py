"""Exercises of week 9: the loss mask, log-probabilities, Bradley-Terry, the implicit reward, DPO, KL, GAE, PPO's clip, groups."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F

from workshop_lib.exercises import Exercise, Mistake, checker
from workshop_lib.objectives import (
    bradley_terry_loss,
    dpo_loss,
    gae,
    group_advantages,
    implicit_margin,
    kl_estimates,
    masked_log_probs,
    ppo_policy_loss,
)
from workshop_lib.preferences import MARKS, loss_mask
from workshop_lib.tokenization import render_chat


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- loss_mask


class _Encode:
    """A tokenizer to look through: one id a character, and one for each mark of the template."""

    def __call__(self, text: str) -> list[int]:
        pieces = re.findall("|".join(map(re.escape, MARKS)) + "|.", text, re.DOTALL)
        return [MARKS.index(piece) if piece in MARKS else ord(piece) for piece in pieces]

    def __repr__(self) -> str:
        return "encode"


def _mask_cases():
    def chat(*texts, roles=("user", "assistant")):
        return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]

    return [
        (chat("몇 층?", "2층."), _Encode()),
        ([{"role": "system", "content": "짧게."}, *chat("책?", "네.", "또?", "아니요.")], _Encode()),
        (chat("누구?"), _Encode()),
    ]


def _mask(roles=("assistant",), opening=False, end=True, last=False, moved=0):
    """The mask with its choices made otherwise."""

    def build(messages, encode):
        ids = encode(render_chat(messages))
        mask = [0] * len(ids)
        for place, message in enumerate(messages):
            if message["role"] in roles and (not last or place == len(messages) - 1):
                start = len(encode(render_chat(messages[:place]))) + (0 if opening else 1) + moved
                stop = len(encode(render_chat(messages[: place + 1]))) - (0 if end else 1) + moved
                mask[start:stop] = [1] * (stop - start)
        return ids, mask

    return build


def _mask_everything(messages, encode):
    ids = encode(render_chat(messages))
    return ids, [1] * len(ids)


def _mask_without_start(messages, encode):
    ids, mask = loss_mask(messages, encode)
    return ids[1:], mask[1:]


def _mask_one_by_one(messages, encode):
    ids, mask = [], []
    for message in messages:
        piece = encode(render_chat([message]))
        ids, mask = ids + piece, mask + [int(message["role"] == "assistant")] * len(piece)
    return ids, mask


def _mask_of_truths(messages, encode):
    ids, mask = loss_mask(messages, encode)
    return ids, [kept == 1 for kept in mask]


# ---------------------------------------------------------------------------------------------- masked_log_probs


def _log_prob_cases():
    return [
        (_normal(1, 4, 5, seed=1), torch.tensor([[1, 4, 0, 2]]), torch.tensor([[0, 0, 1, 1]])),
        (_normal(2, 5, 6, seed=2), torch.tensor([[1, 3, 5, 2, 0], [1, 0, 4, 4, 2]]), torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]])),
    ]


def _log_probs(cut=(slice(None, -1), slice(1, None)), mask_cut=slice(1, None), scores=lambda x: x.log_softmax(-1), total=torch.Tensor.sum,
               masked=True):  # fmt: skip
    def measure(logits, ids, mask):
        found = scores(logits[:, cut[0]]).gather(-1, ids[:, cut[1], None]).squeeze(-1)
        per_token = found * mask[:, mask_cut] if masked else found
        return total(per_token, -1), per_token

    return measure


def _log_probs_mean(logits, ids, mask):
    sums, per_token = masked_log_probs(logits, ids, mask)
    return sums / mask[:, 1:].sum(-1), per_token


# ---------------------------------------------------------------------------------------------- bradley_terry_loss


def _reward_cases():
    return [
        (torch.tensor([1.0, 0.5, -1.0]), torch.tensor([0.0, 1.0, -1.5])),
        (_normal(6, seed=1), _normal(6, seed=2)),
        (torch.tensor([200.0, -100.0]), torch.tensor([0.0, 100.0])),  # σ(-200) is 0 in float32
    ]


# ---------------------------------------------------------------------------------------------- implicit_margin, dpo_loss


def _pair_cases():
    def sums(seed):
        return tuple(20 * _normal(4, seed=seed + place) - 60 for place in range(4))

    return [
        (torch.tensor([-10.0, -20.0]), torch.tensor([-14.0, -18.0]), torch.tensor([-12.0, -19.0]), torch.tensor([-13.0, -21.0]), 0.5),
        (*sums(1), 0.1),
        (*sums(9), 0.3),
        tuple(torch.tensor(sum_) for sum_ in ([-300.0, -40.0], [-20.0, -50.0], [-60.0, -45.0], [-30.0, -48.0])) + (0.5,),  # σ(-115) is 0
    ]


def _margin(score=lambda policy, reference: policy - reference, join=lambda chosen, rejected: chosen - rejected, scale=True):
    """The margin with its choices made otherwise."""

    def measure(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
        margin = join(score(policy_chosen, reference_chosen), score(policy_rejected, reference_rejected))
        return beta * margin if scale else margin

    return measure


def _dpo(margin=implicit_margin, loss=lambda margins, beta: -F.logsigmoid(margins).mean(), shown=lambda margins, beta: margins):
    """The loss with its choices made otherwise."""

    def measure(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
        margins = margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
        return loss(margins, beta), shown(margins, beta)

    return measure


# ---------------------------------------------------------------------------------------------- kl_estimates


def _kl_cases():
    return [
        (torch.tensor([0.5, 0.25, 0.1]).log(), torch.tensor([0.25, 0.5, 0.1]).log()),
        (_normal(2, 3, seed=1) - 2, _normal(2, 3, seed=2) - 2),
    ]


def _kl(log_ratio=lambda policy, reference: reference - policy, k1=lambda x: -x, k2=lambda x: x**2 / 2, k3=lambda x: x.exp() - 1 - x):
    def estimate(policy, reference):
        x = log_ratio(policy, reference)
        return k1(x), k2(x), k3(x)

    return estimate


def _kl_weighted(policy, reference):
    return tuple(policy.exp() * estimate for estimate in kl_estimates(policy, reference))


def _kl_means(policy, reference):
    return tuple(estimate.mean() for estimate in kl_estimates(policy, reference))


# ---------------------------------------------------------------------------------------------- gae


def _gae_cases():
    return [
        (torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]]), 1.0, 0.5),
        (_normal(2, 5, seed=1), _normal(2, 5, seed=2), 0.9, 0.8),
        (_normal(1, 4, seed=3), _normal(1, 4, seed=4), 1.0, 1.0),
    ]


def _gae(ahead=lambda discount, value: discount * value, here=lambda value: value, decay=lambda discount, lam: discount * lam,
         last=lambda values: torch.zeros_like(values[:, 0]), order=reversed, returns=False):  # fmt: skip
    """Advantages with one thing wrong."""

    def estimate(rewards, values, discount=1.0, lam=0.95):
        advantages, after = torch.zeros_like(values), torch.zeros_like(values[:, 0])
        for step in order(range(values.shape[1])):
            following = values[:, step + 1] if step + 1 < values.shape[1] else last(values)
            after = rewards[:, step] + ahead(discount, following) - here(values[:, step]) + decay(discount, lam) * after
            advantages[:, step] = after
        return advantages + values if returns else advantages

    return estimate


def _gae_without_the_last(rewards, values, discount=1.0, lam=0.95):
    advantages, after = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for step in reversed(range(values.shape[1] - 1)):
        after = rewards[:, step] + discount * values[:, step + 1] - values[:, step] + discount * lam * after
        advantages[:, step] = after
    return advantages


# ---------------------------------------------------------------------------------------------- ppo_policy_loss


def _ppo_cases():
    new = torch.tensor([[-1.0, -0.5, -2.0, -1.5]])
    old = torch.tensor([[-1.4, -0.1, -1.6, -1.9]])
    return [
        (new, old, torch.tensor([[1.0, -2.0, 3.0, -0.5]]), 0.2, torch.tensor([[1, 1, 1, 1]])),
        (_normal(2, 4, seed=1), _normal(2, 4, seed=2), _normal(2, 4, seed=3), 0.3, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])),
    ]


def _ppo(ratio=lambda new, old: (new - old).exp(), choose=torch.minimum, cut=lambda ratio, clip: ratio.clamp(1 - clip, 1 + clip), sign=-1,
         mean=lambda gain, mask: (gain * mask).sum() / mask.sum()):  # fmt: skip
    """The loss with its choices made otherwise."""

    def loss(new, old, advantages, clip=0.2, mask=None):
        rho = ratio(new, old)
        gain = choose(rho * advantages, cut(rho, clip) * advantages)
        return sign * mean(gain, torch.ones_like(gain) if mask is None else mask)

    return loss


def _ppo_cut_before(new, old, advantages, clip=0.2, mask=None):
    ratio = (new - old).exp()
    gain = torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * advantages
    mask = torch.ones_like(gain) if mask is None else mask
    return -(gain * mask).sum() / mask.sum()


# ---------------------------------------------------------------------------------------------- group_advantages


def _group_cases():
    return [
        (torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 6.0]), 3),
        (torch.tensor([1.0, 1.0, 0.0, 1.0]), 2),  # the first group has nothing to tell apart
        (_normal(12, seed=1), 4, 1e-2),
    ]


def _advantages(cut=lambda rewards, group: rewards.view(-1, group), centre=lambda x: x - x.mean(1, keepdim=True),
                spread=lambda x, eps: x.std(1, keepdim=True) + eps, back=lambda x: x.reshape(-1)):  # fmt: skip
    def measure(rewards, group, eps=1e-4):
        grouped = cut(rewards, group)
        return back(centre(grouped) / spread(grouped, eps))

    return measure


def _advantages_columns(rewards, group, eps=1e-4):
    grouped = rewards.view(group, -1).T
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + eps)).T.reshape(-1)


# ---------------------------------------------------------------------------------------------- declarations

EXERCISES = [
    Exercise(
        name="loss_mask", title="무엇을 배울지 고르는 마스크", difficulty=3, minutes=20, reference=loss_mask, cases=_mask_cases,
        hints=(
            "assistant가 한 말과 그 뒤의 <|end|>만 1이다. <|assistant|> 표시는 우리가 붙여 주는 것이라 배우지 않는다.",
            "답은 '답을 청하는 글'이 끝나는 곳에서 시작한다. 그 글의 토큰 수가 시작 번호이고, 답까지 넣은 글의 토큰 수가 끝 번호다.",
            "`render_chat(messages[:i], add_generation_prompt=True)`와 `render_chat(messages[:i + 1])`을 encode해 길이를 잰다. "
            "`mask[start:end]`를 1로 채우고 (ids, mask)를 돌려준다.",
        ),
        mistakes=(
            Mistake(_mask_everything, "모든 토큰을 배운다. 그러면 질문을 지어내는 것까지 배운다. assistant의 말만 1이다."),
            Mistake(_mask(end=False), "<|end|>가 빠졌다. 배우지 않으면 답을 끝낼 줄 모른다."),
            Mistake(_mask(opening=True), "<|assistant|> 표시까지 배운다. 그것은 답을 청하는 쪽이 붙인다."),
            Mistake(_mask(last=True), "마지막 답만 배운다. 앞선 답도 assistant의 말이다."),
            Mistake(_mask(moved=-1), "한 칸 앞으로 밀렸다. 마스크는 배울 토큰 자신의 자리에 놓는다. 미는 일은 손실이 한다."),
            Mistake(_mask(roles=("user",)), "user의 말을 골랐다. 배울 것은 assistant의 말이다."),
            Mistake(_mask_one_by_one,
                    "말마다 따로 틀을 입혔다. <s>가 여러 번 붙고 <|assistant|>까지 배운다. 글 전체를 한 번에 encode한다."),
            Mistake(_mask_of_truths, "True와 False로 적었다. 1과 0으로 적는다."),
            Mistake(_mask_without_start, "맨 앞의 <s>가 없다. 글 전체를 한 번에 encode한 것을 ids로 쓴다."),
        ),
    ),
    Exercise(
        name="masked_log_probs", title="답의 로그 확률", difficulty=3, minutes=20, reference=masked_log_probs, cases=_log_prob_cases,
        hints=(
            "t번째 자리의 로짓은 t + 1번째 토큰을 맞힌다. 로짓은 마지막을, 토큰과 마스크는 처음을 버린다.",
            "log softmax에서 실제로 온 토큰의 값을 고르고, 마스크가 0인 자리를 0으로 만든다. 합은 글마다 하나다.",
            "`logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)`에 `mask[:, 1:]`을 곱한다. (합, 토큰별)을 돌려준다.",
        ),
        mistakes=(
            Mistake(_log_probs(cut=(slice(None), slice(None)), mask_cut=slice(None)),
                    "로짓을 같은 자리의 토큰과 견주었다. 모델은 다음 토큰을 맞힌다."),
            Mistake(_log_probs(cut=(slice(1, None), slice(None, -1))), "반대로 밀었다. 앞자리의 로짓이 뒷자리의 토큰을 맞힌다."),
            Mistake(_log_probs(mask_cut=slice(None, -1)),
                    "마스크를 밀지 않았다. 마스크는 토큰의 자리에 있으므로 토큰과 함께 처음을 버린다."),
            Mistake(_log_probs(scores=lambda x: x.softmax(-1)), "확률을 더했다. 글의 확률은 곱이므로 로그를 더한다."),
            Mistake(_log_probs(scores=lambda x: x.log_softmax(1)), "softmax를 길이 방향으로 냈다. 어휘 방향(마지막 축)으로 낸다."),
            Mistake(_log_probs(scores=lambda x: -x.log_softmax(-1)),
                    "부호가 거꾸로다. −log 확률은 손실(교차 엔트로피)이고, 여기서는 log 확률이다."),
            Mistake(_log_probs(total=lambda found, _: found.sum()), "배치 전체를 하나로 더했다. 합은 글마다 하나다."),
            Mistake(_log_probs(scores=lambda x: x), "로짓을 그대로 더했다. log_softmax를 거쳐야 로그 확률이다."),
            Mistake(_log_probs(masked=False), "마스크를 쓰지 않았다. 질문과 빈칸까지 셌다."),
            Mistake(_log_probs_mean, "토큰 수로 나누었다. log π(y|x)는 합이다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="bradley_terry_loss", title="두 답의 보상을 견주는 손실", difficulty=2, minutes=10, reference=bradley_terry_loss,
        cases=_reward_cases,
        hints=(
            "브래들리-테리 모형에서 고른 답이 이길 확률은 σ(고른 답의 보상 − 버린 답의 보상)이다.",
            "손실은 그 확률의 −log를 쌍마다 구해 평균한 것이다.",
            "σ를 먼저 구하고 log를 씌우면 차이가 클 때 log 0이 된다. 둘을 한 번에 하는 `F.logsigmoid`를 쓴다.",
        ),
        mistakes=(
            Mistake(lambda chosen, rejected: -F.logsigmoid(rejected - chosen).mean(),
                    "차이의 부호가 거꾸로다. 고른 답에서 버린 답을 뺀다."),
            Mistake(lambda chosen, rejected: -torch.log(torch.sigmoid(chosen - rejected)).mean(),
                    "σ가 0으로 반올림된 뒤에 log를 씌워 무한대가 되었다. `F.logsigmoid`가 둘을 함께 한다."),
            Mistake(lambda chosen, rejected: F.logsigmoid(chosen - rejected).mean(), "−가 빠졌다. 줄일 손실은 log 확률에 −를 붙인 것이다."),
            Mistake(lambda chosen, rejected: -F.logsigmoid(chosen - rejected), "쌍마다의 손실이다. 평균해서 수 하나로 돌려준다."),
            Mistake(lambda chosen, rejected: -F.logsigmoid(chosen - rejected).sum(), "쌍의 손실을 더했다. 배치가 커도 같도록 평균한다."),
            Mistake(lambda chosen, rejected: (1 - torch.sigmoid(chosen - rejected)).mean(),
                    "질 확률의 평균이다. 로그가 빠져서, 크게 틀린 쌍에서 기울기가 사라진다."),
            Mistake(lambda chosen, rejected: (-F.logsigmoid(chosen) - F.logsigmoid(-rejected)).mean(),
                    "두 보상을 따로 견주었다. 뜻이 있는 것은 보상의 차이뿐이다."),
            Mistake(lambda chosen, rejected: (rejected - chosen).mean(), "보상의 차이만 썼다. 이미 이긴 쌍도 끝없이 벌리게 된다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="implicit_margin", title="정책에 숨은 보상의 차이", difficulty=2, minutes=10, reference=implicit_margin, cases=_pair_cases,
        hints=(
            "정책에 숨은 보상은 β × (정책의 로그 확률 − 기준 모델의 로그 확률)이다.",
            "고른 답의 숨은 보상에서 버린 답의 숨은 보상을 뺀다. 두 답에 공통인 β log Z는 지워진다.",
            "뺄셈이 세 번이다: (정책 − 기준)을 고른 답과 버린 답에 한 번씩, 그 둘을 서로 한 번.",
        ),
        mistakes=(
            Mistake(_margin(score=lambda policy, reference: policy), "기준 모델을 빼지 않았다. 흔한 답일수록 보상이 커 보인다."),
            Mistake(_margin(scale=False), "β를 곱하지 않았다."),
            Mistake(_margin(join=lambda chosen, rejected: rejected - chosen),
                    "부호가 거꾸로다. 정책이 고른 답을 더 좋아할수록 커져야 한다."),
            Mistake(lambda chosen, rejected, before, after, beta: beta * (chosen - rejected) - (before - after),
                    "β를 정책의 차이에만 곱했다. 기준 모델을 뺀 다음 전체에 곱한다."),
            Mistake(lambda *sums: implicit_margin(*sums).mean(), "평균했다. 쌍마다 값 하나씩 돌려준다."),
            Mistake(_margin(join=lambda chosen, rejected: chosen + rejected), "두 보상을 더했다. 차이를 구한다."),
            Mistake(_margin(score=lambda policy, reference: policy / reference), "로그 확률끼리 나누었다. 확률의 비는 로그의 차이다."),
            Mistake(_margin(score=lambda policy, reference: (policy - reference).exp()),
                    "로그를 벗겼다. 보상은 확률의 비가 아니라 그 로그다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="dpo_loss", title="DPO 손실", difficulty=3, minutes=15, reference=dpo_loss, cases=_pair_cases,
        hints=(
            "보상 모델의 손실에 보상 대신 정책에 숨은 보상을 넣은 것이다.",
            "손실은 숨은 보상의 차이(margin)에 −log σ를 씌운 것의 평균이다. margin도 함께 돌려준다.",
            "`implicit_margin`을 부르고 `-F.logsigmoid(margins).mean()`과 margins를 짝지어 돌려준다.",
        ),
        mistakes=(
            Mistake(_dpo(margin=_margin(score=lambda policy, reference: policy)),
                    "기준 모델이 없다. 이미 흔하던 답을 더 흔하게 만들 뿐이다."),
            Mistake(_dpo(margin=_margin(scale=False)), "β를 쓰지 않았다. β가 기준 모델에서 얼마나 멀어져도 되는지를 정한다."),
            Mistake(_dpo(margin=_margin(scale=False), loss=lambda margins, beta: -beta * F.logsigmoid(margins).mean(),
                         shown=lambda margins, beta: beta * margins),
                    "β를 σ 밖에 곱했다. 그러면 손실의 크기만 바뀐다. 차이에 곱한 다음 σ를 씌운다."),
            Mistake(_dpo(margin=_margin(join=lambda chosen, rejected: rejected - chosen)), "차이가 거꾸로다. 버린 답을 좋아하게 된다."),
            Mistake(_dpo(loss=lambda margins, beta: -torch.log(torch.sigmoid(margins)).mean()),
                    "σ가 0으로 반올림된 뒤에 log를 씌웠다. `F.logsigmoid`를 쓴다."),
            Mistake(_dpo(loss=lambda margins, beta: -F.logsigmoid(margins).sum()), "쌍의 손실을 더했다. 평균한다."),
            Mistake(_dpo(loss=lambda margins, beta: -F.logsigmoid(margins)), "쌍마다의 손실이다. 평균해서 수 하나로 돌려준다."),
            Mistake(_dpo(margin=lambda *sums: implicit_margin(*sums) / sums[-1] ** 2),
                    "β로 나누었다. 숨은 보상은 로그 확률의 비에 β를 곱한 것이다."),
            Mistake(_dpo(loss=lambda margins, beta: -F.logsigmoid(margins.mean())),
                    "차이를 먼저 평균했다. 쌍마다 −log σ를 구한 다음 평균한다."),
            Mistake(_dpo(shown=lambda margins, beta: margins / beta), "돌려준 margin에 β가 빠졌다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="kl_estimates", title="표본 하나로 어림한 KL", difficulty=3, minutes=15, reference=kl_estimates, cases=_kl_cases,
        hints=(
            "표본은 정책에서 뽑혔다. log r = log π_ref − log π_θ라 하고 세 어림을 모두 log r로 적는다.",
            "k1 = −log r, k2 = (log r)² / 2, k3 = (r − 1) − log r이다.",
            "r은 `(reference - policy).exp()`이다. 어휘 전체가 아니라 뽑힌 토큰마다 값 하나이므로 평균하지 않고 (k1, k2, k3)로 돌려준다.",
        ),
        mistakes=(
            Mistake(_kl(log_ratio=lambda policy, reference: policy - reference),
                    "비가 거꾸로다. 정책에서 뽑은 표본이므로 r은 기준 ÷ 정책이다."),
            Mistake(_kl(k2=lambda x: x**2), "k2에 ½이 빠졌다."),
            Mistake(_kl(k3=lambda x: x.exp() - x), "k3에서 1을 빼지 않았다. 두 모델이 같으면 0이어야 한다."),
            Mistake(_kl(k3=lambda x: x - 1 - x.log()), "k3에 log r을 r 대신 넣었다. r은 차이에 exp를 씌운 것이다."),
            Mistake(_kl(k3=lambda x: x.exp() - 1), "k3에서 log r을 빼지 않았다. r − 1은 기댓값이 0이라 k1에 더해도 치우치지 않는다."),
            Mistake(_kl(k3=lambda x: x.exp() - 1 + x), "k3의 log r은 뺀다. 더하면 음수가 나올 수 있다."),
            Mistake(_kl(k1=lambda x: x.abs()), "k1에 절댓값을 씌웠다. 음수가 나오는 것이 맞다. 그래야 평균이 KL이다."),
            Mistake(_kl_weighted, "확률을 한 번 더 곱했다. 표본이 이미 그 확률로 뽑혔다."),
            Mistake(_kl_means, "평균했다. 토큰마다 값 하나씩 돌려준다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="gae", title="뒤에서부터 셈하는 이득", difficulty=4, minutes=25, reference=gae, cases=_gae_cases,
        hints=(
            "마지막 토큰에서 시작해 앞으로 온다. 뒤의 이득을 알아야 앞의 이득을 안다.",
            "δ_t = r_t + γ V_{t+1} − V_t이고 A_t = δ_t + γλ A_{t+1}이다. 글이 끝난 뒤의 V와 A는 0이다.",
            "`for t in reversed(range(길이))`에서 다음 값과 다음 이득을 변수 둘에 들고 다닌다. "
            "첫 값은 둘 다 `torch.zeros_like(values[:, 0])`이다.",
        ),
        mistakes=(
            Mistake(_gae(order=iter), "앞에서부터 셈했다. 앞의 이득에는 뒤의 보상이 들어가야 한다. 뒤에서부터 온다."),
            Mistake(_gae(decay=lambda discount, lam: discount), "λ가 없다. 뒤의 이득에는 γλ를 곱한다."),
            Mistake(_gae(decay=lambda discount, lam: lam), "뒤의 이득에 γ를 곱하지 않았다. γλ를 곱한다."),
            Mistake(_gae(decay=lambda discount, lam: 0.0), "한 걸음만 보았다(δ_t). 뒤의 이득을 γλ로 줄여 더한다."),
            Mistake(_gae(ahead=lambda discount, value: value), "다음 값 V_{t+1}에 γ를 곱하지 않았다."),
            Mistake(_gae(ahead=lambda discount, value: 0 * value), "δ에 다음 값 V_{t+1}이 없다. 앞으로 받을 것까지 견준다."),
            Mistake(_gae(here=lambda value: 0 * value), "V_t를 빼지 않았다. 이득은 기대했던 것보다 얼마나 나았는지다."),
            Mistake(_gae(last=lambda values: values[:, -1]),
                    "글이 끝난 뒤의 값으로 마지막 값을 썼다. 끝난 뒤에는 받을 것이 없으므로 0이다."),
            Mistake(_gae_without_the_last, "마지막 토큰의 이득이 비었다. 보상이 거기서 나오므로 거기서부터 셈한다. 그 뒤의 V는 0이다."),
            Mistake(_gae(returns=True), "이득에 값을 더했다. 그것은 값 함수가 배울 목표다. 이득만 돌려준다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="ppo_policy_loss", title="PPO의 자른 목표", difficulty=3, minutes=20, reference=ppo_policy_loss, cases=_ppo_cases,
        hints=(
            "지금 정책과 표본을 뽑은 정책의 확률의 비 ρ가 1에서 멀어지면 더 얻을 것이 없게 한다.",
            "토큰마다 min(ρA, clip(ρ, 1 − ε, 1 + ε)A)이고, 손실은 마스크가 고른 토큰에서 낸 평균에 −를 붙인 것이다.",
            "`ratio = (new - old).exp()`와 `torch.minimum`, `ratio.clamp(1 - clip, 1 + clip)`을 쓴다. "
            "mask가 None이면 전체 평균이고, 아니면 마스크를 곱해 더한 것을 마스크의 합으로 나눈다.",
        ),
        mistakes=(
            Mistake(_ppo(cut=lambda ratio, clip: ratio), "자르지 않았다. 표본 몇 개로 정책이 멀리 달아날 수 있다."),
            Mistake(_ppo(choose=lambda free, cut: cut),
                    "자른 쪽만 썼다. 나쁜 쪽으로 멀어진 토큰을 되돌릴 기울기가 사라진다. 둘 중 작은 것을 고른다."),
            Mistake(_ppo(choose=torch.maximum), "둘 중 큰 것을 골랐다. 잘라서 막으려던 것을 되살린다. 작은 것을 고른다."),
            Mistake(_ppo(cut=lambda ratio, clip: ratio.clamp(-clip, clip)),
                    "0의 둘레에서 잘랐다. 비는 1의 둘레, 1 − ε과 1 + ε 사이로 자른다."),
            Mistake(_ppo(mean=lambda gain, mask: ((gain * mask).sum(-1) / mask.sum(-1)).mean()),
                    "답마다 평균한 다음 다시 평균했다. 마스크가 고른 토큰 모두에서 한 번에 평균한다."),
            Mistake(_ppo_cut_before, "A를 곱하기 전에 작은 것을 골랐다. A가 음수이면 크기의 순서가 바뀐다. A를 곱한 다음 고른다."),
            Mistake(_ppo(ratio=lambda new, old: new / old), "로그 확률끼리 나누었다. 비는 차이에 exp를 씌운 것이다."),
            Mistake(_ppo(ratio=lambda new, old: (old - new).exp()), "비가 거꾸로다. 지금 정책이 분자다."),
            Mistake(_ppo(sign=1), "부호를 뒤집지 않았다. 옵티마이저는 손실을 줄이므로 목표에 −를 붙인다."),
            Mistake(_ppo(mean=lambda gain, mask: gain.mean()), "마스크를 쓰지 않았다. 답이 아닌 자리까지 평균에 들어갔다."),
            Mistake(_ppo(mean=lambda gain, mask: (gain * mask).mean()),
                    "마스크를 곱한 뒤 모든 자리의 수로 나누었다. 마스크의 합으로 나눈다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="group_advantages", title="같은 질문의 답끼리 견주기", difficulty=2, minutes=10, reference=group_advantages,
        cases=_group_cases,
        hints=(
            "한 프롬프트에서 나온 답 group개가 나란히 놓여 있다. 그 안에서 평균보다 얼마나 나은지를 본다.",
            "묶음마다 (보상 − 평균) ÷ (표준편차 + ε)이고, 모양은 받은 그대로 한 줄이다. 표준편차는 group − 1로 나눈다.",
            "`rewards.view(-1, group)`에서 `mean(1, keepdim=True)`와 `std(1, keepdim=True)`를 구하고 `.view(-1)`로 되돌린다.",
        ),
        mistakes=(
            Mistake(_advantages(centre=lambda x: x - x.mean(), spread=lambda x, eps: x.std() + eps),
                    "배치 전체에서 평균을 냈다. 쉬운 질문의 답은 모두 이득이 된다. 같은 프롬프트끼리 견준다."),
            Mistake(_advantages(spread=lambda x, eps: 1.0), "표준편차로 나누지 않았다. 보상의 크기가 이득의 크기를 정하게 된다."),
            Mistake(_advantages(centre=lambda x: x), "평균을 빼지 않았다. 모든 답이 이득이 된다."),
            Mistake(_advantages(spread=lambda x, eps: x.std(1, keepdim=True, correction=0) + eps),
                    "표준편차를 group으로 나누어 구했다. group − 1로 나눈다."),
            Mistake(_advantages(spread=lambda x, eps: x.std(1, keepdim=True)),
                    "ε이 없다. 보상이 모두 같은 묶음에서 0 ÷ 0이 된다."),
            Mistake(_advantages(spread=lambda x, eps: (x.var(1, keepdim=True) + eps).sqrt()), "ε을 제곱근 안에 더했다. 표준편차에 더한다."),
            Mistake(_advantages(back=lambda x: x), "묶은 모양 그대로다. 받은 것과 같이 한 줄로 돌려준다."),
            Mistake(_advantages_columns, "건너뛰며 묶었다. 한 프롬프트의 답은 나란히 놓여 있다."),
            Mistake(_advantages(centre=lambda x: x - (x.sum(1, keepdim=True) - x) / (x.shape[1] - 1)),
                    "나머지 답들의 평균을 뺐다. 그것은 RLOO다. 여기서는 자신도 넣은 평균이다."),
        ),
        tolerance=1e-5,
    ),
]  # fmt: skip
check = checker(week=9, exercises=EXERCISES)
