"""Exercises of week 5: packing, the loss, AdamW, schedules, decay groups, clipping, bits per character, MFU, sampling."""

from __future__ import annotations

import math

import numpy as np
import torch

from workshop_lib.architectures.transformer import next_token_probabilities
from workshop_lib.exercises import Exercise, Kw, Mistake, checker, normal
from workshop_lib.ngram import bits_per_char
from workshop_lib.optimization import adamw_step, clip_by_global_norm, cosine_with_warmup, decay_groups
from workshop_lib.packing import pack_documents
from workshop_lib.pretraining import next_token_loss
from workshop_lib.throughput import model_flops_utilization

# ---------------------------------------------------------------------------------------------- pack_documents


def _pack_cases():
    return [
        ([[5, 6, 7], [8, 9], [5, 5]], 1, 2, 4),
        ([[5, 6, 7, 8, 9, 5]], 1, 2, 3),
        ([[5], [], [6]], 1, 2, 8),
        ([[7, 7], [6]], 3, 4, 2),
    ]


def _rows(stream, window):
    rows = len(stream) // window
    return np.array(stream[: rows * window], dtype=np.int64).reshape(rows, window)


def _pack_no_end(documents, bos, eos, window):
    return _rows([token for document in documents for token in (bos, *document)], window)


def _pack_no_start(documents, bos, eos, window):
    return _rows([token for document in documents for token in (*document, eos)], window)


def _pack_framed_once(documents, bos, eos, window):
    return _rows([bos, *(token for document in documents for token in document), eos], window)


def _pack_each_alone(documents, bos, eos, window):
    pieces = [_rows([bos, *document, eos], window) for document in documents]
    return np.concatenate(pieces)


def _pack_padded(documents, bos, eos, window):
    stream = [token for document in documents for token in (bos, *document, eos)]
    stream += [0] * (-len(stream) % window)
    return _rows(stream, window)


# ---------------------------------------------------------------------------------------------- next_token_loss


def _loss_cases():
    return [
        (normal(2, 4, 5, seed=1), torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1]])),
        (3 * normal(1, 3, 7, seed=2), torch.tensor([[6, 0, 5]])),
    ]


def _loss_not_shifted(logits, ids):
    return -logits.log_softmax(-1).gather(2, ids[:, :, None]).mean()


def _loss_shifted_back(logits, ids):
    return -logits[:, 1:].log_softmax(-1).gather(2, ids[:, :-1, None]).mean()


def _loss_no_softmax(logits, ids):
    return -logits[:, :-1].gather(2, ids[:, 1:, None]).mean()


def _loss_sum(logits, ids):
    return -logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).sum()


def _loss_over_time(logits, ids):
    return -logits[:, :-1].log_softmax(1).gather(2, ids[:, 1:, None]).mean()


# ---------------------------------------------------------------------------------------------- adamw_step


def _adamw_cases():
    zero = torch.zeros(4)
    return [
        (normal(4, seed=1), normal(4, seed=2), zero.clone(), zero.clone(), 1, 0.1),
        (normal(4, seed=3), normal(4, seed=4), 0.1 * normal(4, seed=5), normal(4, seed=6) ** 2, 7, 0.05),
        (normal(4, seed=7), 1e-6 * normal(4, seed=8), zero.clone(), zero.clone(), 2, 0.1, Kw(weight_decay=0.0)),
    ]


def _adamw(decoupled=True, corrected=True, eps_inside=False, squared=True, ascend=False):
    def step(weight, gradient, mean, square, step, rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        if decoupled:
            weight = weight * (1 - rate * weight_decay)
        else:
            gradient = gradient + weight_decay * weight
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * (gradient**2 if squared else gradient.abs())
        m = mean / (1 - betas[0] ** step) if corrected else mean
        v = square / (1 - betas[1] ** step) if corrected else square
        scale = (v + eps).sqrt() if eps_inside else v.sqrt() + eps
        return weight - (-1 if ascend else 1) * rate * m / scale, mean, square

    return step


# ---------------------------------------------------------------------------------------------- cosine_with_warmup


def _cosine_cases():
    return [(step, 20, 1e-2, 4, 1e-3) for step in (0, 1, 3, 4, 5, 11, 18, 19)] + [(0, 5, 0.1, 0), (4, 5, 0.1, 0), (2, 5, 0.1, 0)]


def _cosine_zero_start(step, steps, peak, warmup, floor=0.0):
    if step < warmup:
        return peak * step / warmup
    return cosine_with_warmup(step, steps, peak, warmup, floor)


def _cosine_from_zero(step, steps, peak, warmup, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / (steps - 1)))


def _cosine_no_floor(step, steps, peak, warmup, floor=0.0):
    return cosine_with_warmup(step, steps, peak, warmup, 0.0)


def _cosine_floor_added(step, steps, peak, warmup, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - 1 - warmup, 1)
    return floor + peak * 0.5 * (1 + math.cos(math.pi * done))


def _cosine_whole_turn(step, steps, peak, warmup, floor=0.0):
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - 1 - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(2 * math.pi * done))


# ---------------------------------------------------------------------------------------------- decay_groups


def _decay_cases():
    return [
        ([("embed_tokens.weight", normal(4, 2)), ("norm.weight", torch.ones(2)), ("q_proj.weight", normal(2, 2, seed=1))], 0.1),
        ([("fc.weight", normal(3, 2, seed=2)), ("fc.bias", torch.zeros(3)), ("input_layernorm.weight", torch.ones(2))], 0.01),
        ([("conv.weight", normal(2, 1, 3, seed=3)), ("scale", torch.ones(1))], 0.1),
    ]


def _decay_all(named_parameters, weight_decay):
    return [{"params": [p for _, p in named_parameters], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]


def _decay_swapped(named_parameters, weight_decay):
    first, second = decay_groups(named_parameters, weight_decay)
    return [{"params": first["params"], "weight_decay": 0.0}, {"params": second["params"], "weight_decay": weight_decay}]


def _decay_by_bias(named_parameters, weight_decay):
    decayed = [p for name, p in named_parameters if "bias" not in name]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": [p for name, p in named_parameters if "bias" in name], "weight_decay": 0.0}]


def _decay_only_2d(named_parameters, weight_decay):
    matrices = [p for _, p in named_parameters if p.ndim == 2]
    return [{"params": matrices, "weight_decay": weight_decay},
            {"params": [p for _, p in named_parameters if p.ndim != 2], "weight_decay": 0.0}]


# ---------------------------------------------------------------------------------------------- clip_by_global_norm


def _clip_cases():
    return [
        ([torch.tensor([3.0, 4.0]), torch.tensor([12.0])], 1.0),
        ([torch.tensor([0.3]), torch.tensor([[0.4]])], 1.0),
        ([normal(3, 2), 5 * normal(4, seed=1), torch.zeros(2)], 2.0),
    ]


def _clip_each(gradients, limit):
    norms = [float(torch.linalg.vector_norm(g)) for g in gradients]
    for gradient, norm in zip(gradients, norms):
        if norm > limit:
            gradient.mul_(limit / norm)
    return float(torch.tensor(norms).norm())


def _clip_values(gradients, limit):
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    for gradient in gradients:
        gradient.clamp_(-limit, limit)
    return norm


def _clip_always(gradients, limit):
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    for gradient in gradients:
        gradient.mul_(limit / norm)
    return norm


def _clip_summed(gradients, limit):
    norm = float(sum(g.norm() for g in gradients))
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def _clip_copies(gradients, limit):
    return clip_by_global_norm([g.clone() for g in gradients], limit)


# ---------------------------------------------------------------------------------------------- bits_per_char


def _bits_cases():
    return [(693.1471805599453, 1000), (120.0, 40), (8.5, 3), (0.0, 7)]


# ---------------------------------------------------------------------------------------------- model_flops_utilization


def _mfu_cases():
    return [
        (10_000.0, 1_000_000, 4, 192, 128, 2e11),
        (250_000.0, 124_000_000, 12, 768, 1024, 9.9e14),
        (3_500.0, 4_000_000, 4, 256, 128, 2.4e11),
    ]


def _mfu_forward_only(tokens_per_s, parameters, layers, width, context, peak):
    return tokens_per_s * (2 * parameters + 4 * layers * width * context) / peak


def _mfu_no_attention(tokens_per_s, parameters, layers, width, context, peak):
    return tokens_per_s * 6 * parameters / peak


def _mfu_squared_context(tokens_per_s, parameters, layers, width, context, peak):
    return tokens_per_s * (6 * parameters + 12 * layers * width * context**2) / peak


def _mfu_inverted(tokens_per_s, parameters, layers, width, context, peak):
    return peak / (tokens_per_s * (6 * parameters + 12 * layers * width * context))


# ---------------------------------------------------------------------------------------------- next_token_probabilities


def _sampling_cases():
    return [
        (torch.tensor([[2.0, 1.0, 0.0, -1.0]]), 1.0, None),
        (torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0]]), 0.5, None),
        (torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 2.5, 3.0, 1.5]]), 2.0, 2),
        (torch.tensor([[0.3, 0.1, 0.2]]), 0.0, None),
        (torch.tensor([[0.3, 0.1, 0.2]]), 1.0, 10),
    ]


def _sampling_times(logits, temperature=1.0, top_k=None):
    if temperature == 0:
        return next_token_probabilities(logits, 0)
    return next_token_probabilities(logits * temperature, 1.0, top_k)


def _sampling_zeros(logits, temperature=1.0, top_k=None):
    if temperature == 0:
        return next_token_probabilities(logits, 0)
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], 0.0)
    return (logits / temperature).softmax(-1)


def _sampling_not_renormalised(logits, temperature=1.0, top_k=None):
    shares = next_token_probabilities(logits, temperature)
    if top_k is not None and top_k < logits.shape[-1]:
        shares = shares.masked_fill(shares < shares.topk(top_k).values[:, -1:], 0.0)
    return shares


def _sampling_one_row(logits, temperature=1.0, top_k=None):
    if temperature > 0 and top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits[0].topk(top_k).values[-1], -math.inf)
    return next_token_probabilities(logits, temperature)


def _sampling_zero_divides(logits, temperature=1.0, top_k=None):
    if temperature == 0:
        return (logits / temperature).softmax(-1)
    return next_token_probabilities(logits, temperature, top_k)


EXERCISES = [
    Exercise(
        name="pack_documents", title="문서 이어 붙이기", difficulty=2, minutes=10, reference=pack_documents, cases=_pack_cases,
        hints=(
            "패딩이 하나도 없게 하려면 문서를 한 줄로 이은 다음에 자른다.",
            "문서마다 앞에 bos, 뒤에 eos를 붙여 리스트 하나에 모은다. 줄의 수는 전체 길이를 window로 나눈 몫이다.",
            "모은 리스트의 앞 `줄 수 × window`개만 남겨 numpy 배열(int64)로 만들고 `reshape(줄 수, window)` 한다.",
        ),
        mistakes=(
            Mistake(_pack_no_end, "문서 끝에 eos가 없다. 끝을 배우지 못한 모델은 글을 마칠 줄 모른다."),
            Mistake(_pack_no_start, "문서 앞에 bos가 없다. 문서마다 bos로 시작해야 생성할 때 bos 하나로 글을 열 수 있다."),
            Mistake(_pack_framed_once, "전체를 한 번만 감쌌다. bos와 eos는 문서마다 붙인다."),
            Mistake(_pack_each_alone, "문서마다 따로 잘라 남은 조각을 버렸다. 먼저 모두 이은 다음에 자른다."),
            Mistake(_pack_padded, "마지막 줄을 0으로 채웠다. 채우지 말고 모자란 줄은 버린다."),
        ),
    ),
    Exercise(
        name="next_token_loss", title="다음 토큰 손실", difficulty=3, minutes=15, reference=next_token_loss, cases=_loss_cases,
        hints=(
            "자리 t의 로짓은 자리 t+1의 토큰을 맞히려는 것이다. 짝이 되는 것끼리 남기면 양쪽 길이가 하나씩 준다.",
            "로짓은 마지막 자리를, 정답은 첫 토큰을 뺀다. 어휘 차원에 log_softmax를 하고 정답 자리의 값을 고른다.",
            "`logits[:, :-1]`과 `ids[:, 1:]`을 쓴다. `gather(2, 정답[:, :, None])`으로 고르고 부호를 바꾸어 평균한다.",
        ),
        mistakes=(
            Mistake(_loss_not_shifted, "밀지 않았다. 지금 토큰을 보고 지금 토큰을 맞히는 문제가 되어 손실이 거짓으로 낮아진다."),
            Mistake(_loss_shifted_back, "반대로 밀었다. 로짓의 마지막 자리와 정답의 첫 토큰을 빼야 한다."),
            Mistake(_loss_no_softmax, "로짓을 그대로 더했다. 먼저 log_softmax로 로그 확률을 만든다."),
            Mistake(_loss_sum, "합을 구했다. 배치 크기가 바뀌어도 같은 크기가 되도록 평균을 낸다."),
            Mistake(_loss_over_time, "log_softmax를 시간 차원에 했다. 확률은 어휘(마지막 차원) 전체에서 1이 된다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="adamw_step", title="AdamW 한 걸음", difficulty=3, minutes=20, reference=adamw_step, cases=_adamw_cases,
        hints=(
            "다섯 줄이다. 가중치 감쇠, 평균, 제곱의 평균, 편향 보정 두 개, 갱신의 순서로 쓴다.",
            "가중치 감쇠는 기울기에 더하지 않고 가중치에 직접 (1 − rate·weight_decay)를 곱한다. 보정은 1 − beta^step으로 나눈다.",
            "갱신은 보정한 평균을 (보정한 제곱평균의 제곱근 + eps)로 나눈 것에 rate를 곱해 뺀다. eps는 제곱근 밖에 있다.",
        ),
        mistakes=(
            Mistake(_adamw(decoupled=False), "가중치 감쇠를 기울기에 더했다(L2). AdamW의 W는 감쇠를 기울기에서 떼어 냈다는 뜻이다."),
            Mistake(_adamw(corrected=False), "편향 보정이 없다. 평균이 0에서 시작하므로 처음 몇 걸음의 크기가 틀어진다."),
            Mistake(_adamw(eps_inside=True), "eps를 제곱근 안에 넣었다. 기울기가 아주 작을 때 걸음이 훨씬 작아진다."),
            Mistake(_adamw(squared=False), "기울기의 제곱이 아니라 절댓값을 쌓았다."),
            Mistake(_adamw(ascend=True), "기울기 방향으로 올라갔다. 손실을 줄이려면 빼야 한다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="cosine_with_warmup", title="학습률 일정", difficulty=2, minutes=15,
        reference=cosine_with_warmup, cases=_cosine_cases,
        hints=(
            "warmup 앞과 뒤를 나누어 생각한다. 뒤쪽은 진행률이 0에서 1로 가는 함수다.",
            "0번째 단계도 움직여야 하므로 준비 구간은 peak × (step + 1) / warmup이다. 뒤쪽 진행률은 warmup에서 0, 마지막 단계에서 1이다.",
            "진행률 p에 대해 floor + (peak − floor) × 0.5 × (1 + cos(π p))를 돌려준다. p의 분모는 steps − 1 − warmup이고 0이면 1로 본다.",
        ),
        mistakes=(
            Mistake(_cosine_zero_start, "0번째 단계의 학습률이 0이라 한 단계를 버린다. 준비 구간에서 step + 1을 쓴다."),
            Mistake(_cosine_from_zero, "코사인의 진행률을 0번째 단계부터 쟀다. 준비 구간이 끝난 곳에서 0이 되어야 peak에서 이어진다."),
            Mistake(_cosine_no_floor, "floor를 쓰지 않아 마지막 학습률이 0이 된다."),
            Mistake(_cosine_floor_added, "floor를 그냥 더해 peak를 넘는다. 내려가는 폭은 peak − floor이다."),
            Mistake(_cosine_whole_turn, "코사인을 한 바퀴 돌렸다. 반 바퀴(π)면 1에서 −1까지 내려간다."),
        ),
        tolerance=1e-9,
    ),
    Exercise(
        name="decay_groups", title="가중치 감쇠를 받을 것과 받지 않을 것", difficulty=2, minutes=10,
        reference=decay_groups, cases=_decay_cases,
        hints=(
            "이름을 볼 필요가 없다. 곱셈에 쓰이는 행렬과, 크기를 맞추는 벡터를 무엇으로 구별할 수 있는가?",
            "차원 수(`ndim`)가 2 이상이면 감쇠하고, 1이면 감쇠하지 않는다.",
            "사전 두 개짜리 리스트를 돌려준다. 각각 'params'(텐서의 리스트)와 'weight_decay'가 있고, 감쇠하는 쪽이 먼저다.",
        ),
        mistakes=(
            Mistake(_decay_all, "정규화의 가중치까지 감쇠시켰다. 그 값은 1 근처가 제자리라서 0으로 당기면 안 된다."),
            Mistake(_decay_swapped, "두 묶음의 weight_decay가 바뀌었다. 감쇠하는 것은 행렬이다."),
            Mistake(_decay_by_bias, "이름에 bias가 있는지만 보았다. RMSNorm의 weight는 벡터인데도 감쇠를 받게 된다."),
            Mistake(_decay_only_2d, "정확히 2차원인 것만 골랐다. 합성곱처럼 3차원인 가중치도 감쇠한다."),
        ),
    ),
    Exercise(
        name="clip_by_global_norm", title="기울기 자르기", difficulty=3, minutes=10,
        reference=clip_by_global_norm, cases=_clip_cases,
        hints=(
            "모든 기울기를 한 줄로 이은 벡터 하나로 보고, 그 길이를 잰다.",
            "각 텐서의 길이를 모은 벡터의 길이가 전체 길이다. 전체 길이가 limit보다 길 때만 모두에 같은 비율을 곱한다.",
            "`gradient.mul_(limit / norm)`으로 제자리에서 줄이고, 줄이기 전의 길이를 float로 돌려준다.",
        ),
        mistakes=(
            Mistake(_clip_each, "텐서마다 따로 잘랐다. 비율이 서로 달라져 기울기의 방향이 바뀐다."),
            Mistake(_clip_values, "값을 하나씩 잘랐다. 방향을 지키려면 전체에 같은 비율을 곱한다."),
            Mistake(_clip_always, "짧은 기울기까지 늘였다. limit보다 길 때만 줄인다."),
            Mistake(_clip_summed, "길이를 그냥 더했다. 전체 길이는 제곱의 합의 제곱근이다."),
            Mistake(_clip_copies, "복사본만 줄였다. 최적화기가 보는 것은 원래 텐서이므로 제자리에서(mul_) 바꾼다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="bits_per_char", title="문자당 비트", difficulty=1, minutes=5, reference=bits_per_char, cases=_bits_cases,
        hints=(
            "nats는 자연로그로 잰 손실의 합이다. 비트는 밑이 2인 로그로 잰다.",
            "1비트는 ln 2 nats이다. 그리고 토큰 수가 아니라 문자 수로 나눈다.",
            "nats를 math.log(2)로 나누고 다시 문자 수로 나눈다.",
        ),
        mistakes=(
            Mistake(lambda nats, characters: nats / characters, "nats 그대로다. ln 2로 나누어 비트로 바꾼다."),
            Mistake(lambda nats, characters: nats * math.log(2) / characters, "ln 2를 곱했다. 1비트가 0.693 nats이므로 나누어야 한다."),
            Mistake(lambda nats, characters: math.exp(nats / characters), "퍼플렉서티를 구했다. 지수로 올리지 않고 ln 2로 나눈다."),
            Mistake(lambda nats, characters: nats / math.log(2), "문자 수로 나누지 않았다."),
        ),
    ),
    Exercise(
        name="model_flops_utilization", title="MFU 셈하기", difficulty=2, minutes=10,
        reference=model_flops_utilization, cases=_mfu_cases,
        hints=(
            "1초에 실제로 한 연산을 최고 속도로 나눈다. 먼저 토큰 하나의 연산 수를 센다.",
            "곱셈-덧셈 하나가 2연산이고 역전파가 순전파의 두 배이므로 파라미터마다 6연산이다. 어텐션은 토큰마다 12 × 층 × 너비 × 문맥이다.",
            "tokens_per_s × (6 × parameters + 12 × layers × width × context) / peak.",
        ),
        mistakes=(
            Mistake(_mfu_forward_only, "순전파만 세었다. 역전파까지 세면 세 배(6과 12)가 된다."),
            Mistake(_mfu_no_attention, "어텐션의 행렬 곱을 빠뜨렸다. 12 × 층 × 너비 × 문맥을 더한다."),
            Mistake(_mfu_squared_context, "문맥을 두 번 곱했다. 토큰 하나는 문맥 전체를 한 번 본다."),
            Mistake(_mfu_inverted, "분수를 뒤집었다. 실제로 한 연산이 분자다."),
        ),
        tolerance=1e-9,
    ),
    Exercise(
        name="next_token_probabilities", title="온도와 top-k", difficulty=3, minutes=15,
        reference=next_token_probabilities, cases=_sampling_cases,
        hints=(
            "로짓을 고친 다음 마지막에 softmax를 한 번 한다. 온도 0은 나눌 수 없으니 따로 다룬다.",
            "top_k는 줄마다 k번째로 큰 로짓보다 작은 것을 −∞로 만든다. 그러면 softmax가 남은 것끼리 합을 1로 맞춘다.",
            "`logits.topk(top_k).values[:, -1:]`이 줄마다의 기준이다. 온도 0이면 가장 큰 자리만 1인 확률을 돌려준다.",
        ),
        mistakes=(
            Mistake(_sampling_times, "온도를 곱했다. 로짓을 온도로 나누어야 온도가 높을수록 평평해진다."),
            Mistake(_sampling_zeros, "잘라 낸 로짓을 0으로 두었다. 로짓 0도 확률이 있다. −∞로 둔다."),
            Mistake(_sampling_not_renormalised, "잘라 낸 뒤 합이 1이 아니다. softmax보다 먼저 자른다."),
            Mistake(_sampling_one_row, "첫 줄의 기준을 모든 줄에 썼다. top-k는 줄마다 따로 고른다."),
            Mistake(_sampling_zero_divides, "온도 0으로 나누었다. 온도 0은 가장 큰 로짓을 고르라는 뜻이므로 따로 다룬다."),
        ),
    ),
]

check = checker(week=5, exercises=EXERCISES)
