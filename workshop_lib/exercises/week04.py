"""Exercises of week 4: attention, rotary positions, the KV cache, Mamba's and RWKV's steps, decay, routing, what a cache costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workshop_lib.architectures.attention import cache_bytes_per_token, cached_attention_step, rotate, scaled_dot_product_attention
from workshop_lib.architectures.mamba import selective_scan_step
from workshop_lib.architectures.mamba2 import decay_matrix
from workshop_lib.architectures.moe import balance, route
from workshop_lib.architectures.rwkv import state_step
from workshop_lib.exercises import Exercise, Mistake, checker, normal


def _shares(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _causal(time: int) -> Tensor:
    return torch.ones(time, time, dtype=torch.bool).tril()


# ---------------------------------------------------------------------------------------------- scaled_dot_product_attention


def _attention_cases():
    q, k, v = (normal(2, 2, 4, 8, seed=s) for s in (1, 2, 3))
    return [
        (q, k, v),
        (q.clone(), k.clone(), v.clone(), _causal(4)),
        (3 * normal(1, 1, 3, 4, seed=4), normal(1, 1, 3, 4, seed=5), normal(1, 1, 3, 4, seed=6), _causal(3)),
        (normal(1, 2, 1, 4, seed=7), normal(1, 2, 5, 4, seed=8), normal(1, 2, 5, 4, seed=9)),
    ]


def _attention(scale=lambda head: head**-0.5, axis=-1, mask_scores=lambda scores, mask: scores.masked_fill(~mask, -math.inf),
               mask_weights=None):  # fmt: skip
    def attention(q, k, v, mask=None):
        scores = q @ k.transpose(-2, -1) * scale(q.shape[-1])
        if mask is not None and mask_weights is None:
            scores = mask_scores(scores, mask)
        weights = scores.softmax(axis)
        if mask is not None and mask_weights is not None:
            weights = mask_weights(weights, mask)
        return weights @ v

    return attention


# ---------------------------------------------------------------------------------------------- rotate


def _rotate_cases():
    return [
        (torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]]), torch.arange(3), 10_000.0),
        (normal(2, 2, 4, 8, seed=1), torch.arange(4), 10_000.0),
        (normal(1, 1, 2, 4, seed=2), torch.tensor([7, 100]), 500.0),
    ]


def _rotate(pairs="halves", sign=1.0, exponent=2.0, first=0, inverse=True, cos_only=False):
    def turned(x, positions, theta):
        half = x.shape[-1] // 2
        power = torch.arange(half, device=x.device) * exponent / x.shape[-1]
        frequency = theta ** (-power if inverse else power)
        angle = sign * (positions[:, None] + first) * frequency
        cos, sin = angle.cos(), angle.sin()
        if pairs == "halves":
            a, b = x[..., :half], x[..., half:]
            if cos_only:
                return torch.cat([a * cos, b * cos], -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    return turned


def _rotate_same_angle(x, positions, theta):
    half = x.shape[-1] // 2
    angle = positions[:, None] * torch.ones(half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


# ---------------------------------------------------------------------------------------------- cached_attention_step


def _cache_cases():
    def token(seed):
        return tuple(normal(2, 2, 1, 4, seed=seed + i) for i in range(3))

    old = tuple(normal(2, 2, 3, 4, seed=s) for s in (20, 21))
    return [(*token(1), None), (*token(5), old), (*token(9), (normal(2, 2, 1, 4, seed=30), normal(2, 2, 1, 4, seed=31)))]


def _step_without_itself(q, k, v, cache):
    if cache is None:
        return cached_attention_step(q, k, v, cache)
    keys, values = cache
    return scaled_dot_product_attention(q, keys, values), (torch.cat([keys, k], 2), torch.cat([values, v], 2))


def _step_old_cache(q, k, v, cache):
    y, new = cached_attention_step(q, k, v, cache)
    return y, new if cache is None else cache


def _step_forgets(q, k, v, cache):
    return scaled_dot_product_attention(q, k, v), (k, v)


def _step_keys_only(q, k, v, cache):
    y, (keys, values) = cached_attention_step(q, k, v, cache)
    return y, (keys, v)


def _step_first_only(q, k, v, cache):
    y, new = cached_attention_step(q, k, v, cache)
    return new[1][:, :, :1].clone(), new


def _step_in_front(q, k, v, cache):
    if cache is None:
        return cached_attention_step(q, k, v, cache)
    cache = torch.cat([k, cache[0]], 2), torch.cat([v, cache[1]], 2)
    return scaled_dot_product_attention(q, *cache), cache


# ---------------------------------------------------------------------------------------------- selective_scan_step


def _scan_cases():
    def case(batch, inner, state, seed):
        g = torch.Generator().manual_seed(seed)
        return (
            torch.randn(batch, inner, generator=g), torch.rand(batch, inner, generator=g) + 0.1,
            -torch.rand(inner, state, generator=g) - 0.2,
            torch.randn(batch, state, generator=g), torch.randn(batch, state, generator=g),
            torch.rand(inner, generator=g) + 0.5, torch.randn(batch, inner, state, generator=g),
        )  # fmt: skip

    one = tuple(torch.tensor(x) for x in ([[2.0]], [[0.5]], [[-1.0]], [[3.0]], [[1.0]], [0.1], [[[4.0]]]))
    return [one, case(2, 3, 4, 1), case(1, 4, 2, 2)]


def _scan(decay=lambda dt, A: torch.exp(dt.unsqueeze(-1) * A), step_in=True, skip=True, read_old=False, swapped=False):
    def step(x, dt, A, B, C, D, h):
        if swapped:
            B, C = C, B
        new = decay(dt, A) * h + ((dt * x) if step_in else x).unsqueeze(-1) * B.unsqueeze(1)
        y = ((h if read_old else new) * C.unsqueeze(1)).sum(-1)
        return (y + D * x if skip else y), new

    return step


def _scan_in_place(x, dt, A, B, C, D, h):
    y, new = selective_scan_step(x, dt, A, B, C, D, h)
    h.copy_(new)
    return y, h


# ---------------------------------------------------------------------------------------------- decay_matrix


def _decay_cases():
    return [(torch.tensor([0.9, 0.5, 0.8]).log(),), (-_shares(2, 3, 5, seed=1),), (-3 * _shares(1, 40, seed=2),)]


def _decay(between=lambda total, log_decay: total.unsqueeze(-1) - total.unsqueeze(-2), fill=-math.inf, mask=True, transposed=False):
    def decay(log_decay):
        gap = between(log_decay.cumsum(-1), log_decay)
        gap = gap.transpose(-1, -2) if transposed else gap
        later = torch.ones(gap.shape[-2:], dtype=torch.bool).triu(1)
        return (gap.masked_fill(later, fill) if mask else gap).exp()

    return decay


# ---------------------------------------------------------------------------------------------- state_step


def _state_cases():
    def case(batch, heads, key, value, seed):
        g = torch.Generator().manual_seed(seed)
        r, k, b = (torch.randn(batch, heads, key, generator=g) for _ in range(3))
        w = torch.rand(batch, heads, key, generator=g) * 0.5 + 0.4
        v = torch.randn(batch, heads, value, generator=g)
        a = torch.randn(batch, heads, key, generator=g)
        return r, w, k, v, a, b, torch.randn(batch, heads, value, key, generator=g)

    # One head of 2 × 2 whose numbers can be followed by hand: the old answer to key (1, 0) is taken away, a new one written.
    small = [torch.tensor([[row]]) for row in ([1.0, 0.0], [0.5, 1.0], [1.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [1.0, 0.0])]
    return [(*small, torch.tensor([[[[1.0, 0.0], [2.0, 5.0]]]])), case(2, 2, 4, 4, 1), case(1, 1, 3, 3, 2)]


def _state(decay_axis=-2, transposed=False, remove="ab", read_old=False, removed_after=False):
    def step(r, w, k, v, a, b, state):
        old = state
        new = state * w.unsqueeze(decay_axis)
        source = new if removed_after else old
        if remove == "ab":
            new = new + (source @ a.unsqueeze(-1)) @ b.unsqueeze(-2)
        elif remove == "ba":
            new = new + (source @ b.unsqueeze(-1)) @ a.unsqueeze(-2)
        elif remove == "minus":
            new = new - (source @ a.unsqueeze(-1)) @ b.unsqueeze(-2)
        new = new + (k.unsqueeze(-1) * v.unsqueeze(-2) if transposed else v.unsqueeze(-1) * k.unsqueeze(-2))
        return ((old if read_old else new) @ r.unsqueeze(-1)).squeeze(-1), new

    return step


# ---------------------------------------------------------------------------------------------- route


def _route_cases():
    return [
        (torch.tensor([[0.9, 0.5, 0.4, 0.1]]), torch.zeros(4), 2, 1.0),
        (torch.tensor([[0.9, 0.5, 0.4, 0.1], [0.2, 0.3, 0.8, 0.7]]), torch.tensor([-0.6, 0.0, 0.2, 0.5]), 2, 1.0),
        (normal(5, 6, seed=1).sigmoid(), 0.3 * normal(6, seed=2), 3, 2.5),
        (normal(3, 4, seed=3).sigmoid(), torch.zeros(4), 1, 1.5),
    ]


def _route(choose=lambda scores, bias: scores + bias, weigh=lambda scores, bias: scores, normalise=True, scaled=True, smallest=False):
    def route(scores, bias, k, scale):
        indices = choose(scores, bias).topk(k, -1, largest=not smallest).indices
        weights = weigh(scores, bias).gather(-1, indices)
        if normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return indices, weights * scale if scaled else weights

    return route


# ---------------------------------------------------------------------------------------------- balance


def _balance_cases():
    return [
        (torch.zeros(4), torch.tensor([10.0, 2.0, 4.0, 0.0]), 0.01),
        (torch.tensor([0.1, -0.2, 0.3]), torch.tensor([5.0, 5.0, 5.0]), 0.1),
        (torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([8.0, 1.0, 4.0, 3.0]), 0.5),
    ]


def _balance_in_place(bias, counts, rate):
    bias += rate * (counts.float().mean() - counts).sign()
    return bias


# ---------------------------------------------------------------------------------------------- cache_bytes_per_token


def _cache_sizes():
    return [
        ("mha", 4, 8, 8, 16),
        ("gqa", 4, 8, 2, 16),
        ("mqa", 3, 8, 8, 16),
        ("mla", 4, 8, 8, 16, 32, 8),
        ("gqa", 2, 6, 3, 32, 0, 0, 4),
        ("mla", 61, 128, 128, 128, 512, 64),
    ]


def _cache_bytes(kv=2, query_heads=False, ignore_layers=False, ignore_bytes=False, mla=lambda latent, rope, heads: latent + rope):
    def count(kind, layers, heads, kv_heads, head, latent=0, rope=0, bytes=2):
        shared = {"mha": heads, "gqa": heads if query_heads else kv_heads, "mqa": 1}
        numbers = mla(latent, rope, heads) if kind == "mla" else kv * shared[kind] * head
        return (1 if ignore_layers else layers) * numbers * (1 if ignore_bytes else bytes)

    return count


EXERCISES = [
    Exercise(
        name="scaled_dot_product_attention", title="어텐션", difficulty=2, minutes=15,
        reference=scaled_dot_product_attention, cases=_attention_cases,
        hints=(
            "질의와 키의 내적이 점수, 점수의 softmax가 가중치, 가중치로 값을 섞은 것이 답이다. 세 줄이면 된다.",
            "점수는 `q @ k.transpose(-2, -1)`을 √head로 나눈 것이다. 마스크가 False인 자리의 점수는 softmax **앞에서** −∞로 둔다.",
            "`scores.masked_fill(~mask, -math.inf)`, `softmax(dim=-1)`, 마지막에 `@ v`. mask가 None이면 가리지 않는다.",
        ),
        mistakes=(
            Mistake(_attention(scale=lambda head: 1.0), "√head로 나누지 않았다. 헤드가 넓을수록 점수가 커져 softmax가 한 자리에 쏠린다."),
            Mistake(_attention(scale=lambda head: 1 / head), "head로 나누었다. 내적의 크기는 √head에 비례하므로 제곱근으로 나눈다."),
            Mistake(_attention(mask_weights=lambda weights, mask: weights * mask),
                    "softmax 뒤에 가렸다. 남은 가중치의 합이 1보다 작아진다. softmax 앞에서 점수를 −∞로 둔다."),
            Mistake(_attention(mask_scores=lambda scores, mask: scores.masked_fill(~mask.transpose(-2, -1), -math.inf)),
                    "마스크가 뒤집혀(전치되어) 미래만 보인다. 행이 질의, 열이 키다."),
            Mistake(_attention(mask_scores=lambda scores, mask: scores.masked_fill(mask, -math.inf)),
                    "볼 수 있는 자리를 가렸다. True가 볼 수 있는 자리이므로 `~mask`인 곳을 −∞로 둔다."),
            Mistake(_attention(mask_scores=lambda scores, mask: scores.masked_fill(~mask, 0.0)),
                    "가린 자리의 점수를 0으로 두었다. e^0은 1이므로 여전히 보인다. −∞로 둔다."),
            Mistake(_attention(axis=-2),
                    "softmax를 질의 축에 했다. 질의 하나가 모든 키에 주는 가중치의 합이 1이어야 하므로 마지막 축에 한다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="rotate", title="회전 위치 임베딩(RoPE)", difficulty=3, minutes=20, reference=rotate, cases=_rotate_cases,
        hints=(
            "벡터를 앞 절반과 뒤 절반으로 나누면 같은 번호끼리 평면의 점 (a, b)가 된다. 이 점을 각도만큼 돌린다.",
            "각도는 `positions[:, None] * frequency`로 (시간, head/2) 모양이다. 진동수는 i = 0, 1, …에 대해 theta^(−2i/head)이다.",
            "앞 절반은 a·cos − b·sin, 뒤 절반은 a·sin + b·cos이고 둘을 `torch.cat(..., dim=-1)`로 잇는다. "
            "지수는 `torch.arange(0, head, 2) / head`로 만든다.",
        ),
        mistakes=(
            Mistake(_rotate(pairs="neighbours"),
                    "이웃한 차원(0과 1, 2와 3)을 짝지었다. 논문의 그림은 그렇지만 Llama는 i와 i + head/2를 짝짓는다."),
            Mistake(_rotate(sign=-1.0), "반대로 돌렸다. 앞 절반은 a·cos − b·sin, 뒤 절반은 a·sin + b·cos이다."),
            Mistake(_rotate(exponent=1.0), "진동수의 지수가 절반이다. 짝이 head/2개이므로 −2i/head이다."),
            Mistake(_rotate(first=1), "위치를 1부터 셌다. 받은 positions를 그대로 쓴다."),
            Mistake(_rotate(inverse=False), "진동수가 1보다 커졌다. 지수의 부호가 음수여야 뒤로 갈수록 천천히 돈다."),
            Mistake(_rotate(cos_only=True), "cos만 곱했다. 돌리려면 짝의 다른 쪽이 sin만큼 섞여야 한다."),
            Mistake(_rotate_same_angle, "모든 짝을 같은 각도로 돌렸다. 짝마다 진동수가 달라야 먼 거리도 구별된다."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        name="cached_attention_step", title="KV 캐시로 한 걸음", difficulty=2, minutes=10,
        reference=cached_attention_step, cases=_cache_cases,
        hints=(
            "새 토큰의 질의는 지금까지의 모든 키를 본다. 자기 자신의 키도 든다.",
            "먼저 캐시의 키와 값 **뒤에** 새 키와 값을 시간 축(2)으로 잇고, 그다음에 어텐션을 한다. 마스크는 필요 없다.",
            "`torch.cat((cache[0], k), dim=2)`와 값에 대한 같은 줄. cache가 None이면 새 키와 값이 캐시의 전부다. "
            "돌려줄 것은 (어텐션의 결과, (키, 값))이다.",
        ),
        mistakes=(
            Mistake(_step_without_itself, "캐시에 넣기 전에 어텐션을 했다. 토큰은 자기 자신도 보아야 하므로 먼저 잇는다."),
            Mistake(_step_old_cache, "이어 붙인 캐시가 아니라 받은 캐시를 돌려주었다. 다음 토큰이 이 토큰을 보지 못한다."),
            Mistake(_step_forgets, "새 키와 값만 보았다. 앞의 토큰은 캐시에 있다."),
            Mistake(_step_keys_only, "값의 캐시를 잇지 않았다. 키와 값은 늘 길이가 같아야 한다."),
            Mistake(_step_first_only,
                    "첫 자리만 보았다. 질의가 하나일 때 인과 마스크(is_causal)를 주면 첫 줄, 곧 첫 키만 남는다. 마스크 없이 부른다."),
            Mistake(_step_in_front, "새 키를 앞에 붙였다. 캐시는 시간 순서이므로 뒤에 붙인다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="selective_scan_step", title="선택적 스캔의 한 걸음", difficulty=3, minutes=20,
        reference=selective_scan_step, cases=_scan_cases,
        hints=(
            "세 줄이다. 남길 비율을 구하고, 상태를 고치고, 상태에서 읽는다.",
            "남길 비율은 exp(dt·A)로 모양이 (배치, 너비, 상태)다. `dt.unsqueeze(-1) * A`로 만든다. 더할 것은 dt·x와 B의 바깥곱이다.",
            "`h = 비율 * h + (dt * x).unsqueeze(-1) * B.unsqueeze(1)`, 출력은 `(h * C.unsqueeze(1)).sum(-1) + D * x`.",
        ),
        mistakes=(
            Mistake(_scan(step_in=False), "들어오는 쪽에 dt를 곱하지 않았다. dt가 0에 가까우면 상태에 아무것도 쓰지 않아야 한다."),
            Mistake(_scan(decay=lambda dt, A: torch.exp(-dt.unsqueeze(-1) * A)),
                    "감쇠의 부호가 바뀌어 상태가 커진다. A가 이미 음수이므로 exp(dt·A)가 1보다 작다."),
            Mistake(_scan(decay=lambda dt, A: torch.exp(A).expand(dt.shape[0], -1, -1)),
                    "감쇠에 dt가 없다. 얼마나 잊을지를 토큰이 고르는 것이 '선택적'의 뜻이다."),
            Mistake(_scan(decay=lambda dt, A: 1 + dt.unsqueeze(-1) * A),
                    "exp(dt·A)를 1 + dt·A로 어림했다. dt가 크면 음수가 되어 상태의 부호가 뒤집힌다."),
            Mistake(_scan(skip=False), "D·x가 빠졌다. 지금 들어온 값은 상태를 거치지 않고도 출력에 이른다."),
            Mistake(_scan(read_old=True), "고치기 전의 상태를 읽었다. 지금 토큰까지 쓴 새 상태에서 읽는다."),
            Mistake(_scan(swapped=True), "B와 C가 바뀌었다. B는 상태에 쓰는 방향, C는 읽는 방향이다."),
            Mistake(_scan_in_place, "받은 상태를 제자리에서 고쳤다. 새 텐서를 만들어 돌려준다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="decay_matrix", title="감쇠 마스크", difficulty=3, minutes=15, reference=decay_matrix, cases=_decay_cases,
        hints=(
            "s+1부터 t까지의 합은 누적 합 둘의 차이다.",
            "`total = log_decay.cumsum(-1)`이면 합은 total[t] − total[s]이다. 행이 t, 열이 s가 되게 축을 하나씩 늘려 뺀다.",
            "`total.unsqueeze(-1) - total.unsqueeze(-2)`에서 s > t인 자리(`triu(1)`)를 −∞로 두고 exp를 한다.",
        ),
        mistakes=(
            Mistake(_decay(transposed=True, mask=True), "행과 열이 바뀌었다. 행이 읽는 자리 t, 열이 쓴 자리 s다."),
            Mistake(_decay(mask=False), "미래를 가리지 않았다. s > t이면 0이어야 한다."),
            Mistake(_decay(fill=0.0), "미래의 지수를 0으로 두었다. e^0은 1이므로 미래가 그대로 보인다. −∞로 둔다."),
            Mistake(_decay(between=lambda total, log_decay: total.unsqueeze(-1) - total.unsqueeze(-2) + log_decay.unsqueeze(-2)),
                    "s번째 감쇠까지 곱했다. 방금 쓴 것은 아직 줄지 않았으므로 대각선이 1이고, 합은 s+1부터다."),
            Mistake(_decay(between=lambda total, log_decay: total.unsqueeze(-1).expand(*total.shape, total.shape[-1])),
                    "처음부터의 누적 합을 그대로 썼다. 쓴 자리 s까지의 합을 빼야 한다."),
            Mistake(_decay(between=lambda total, log_decay: log_decay.unsqueeze(-1).expand(*total.shape, total.shape[-1])),
                    "자리 t의 감쇠 하나만 썼다. s+1부터 t까지 모두 곱한다(로그에서는 더한다)."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="state_step", title="RWKV-7의 한 걸음", difficulty=4, minutes=25, reference=state_step, cases=_state_cases,
        hints=(
            "상태 S의 행은 값, 열은 키다. S k를 구하면 표에서 k의 답을 읽는다. 식의 세 항을 따로 만들어 더한다.",
            "w는 열(키 차원)마다 다른 비율이므로 `state * w.unsqueeze(-2)`이다. 바깥곱 v kᵀ는 `v.unsqueeze(-1) * k.unsqueeze(-2)`이다.",
            "지우는 항은 `(state @ a.unsqueeze(-1)) @ b.unsqueeze(-2)`이고 **옛** 상태로 구한다. "
            "마지막에 새 상태로 `(S @ r.unsqueeze(-1)).squeeze(-1)`을 읽는다.",
        ),
        mistakes=(
            Mistake(_state(decay_axis=-1), "감쇠를 행(값)에 곱했다. w는 키 차원마다의 비율이므로 열에 곱한다(`unsqueeze(-2)`)."),
            Mistake(_state(transposed=True), "바깥곱이 뒤집혔다. 행이 값, 열이 키이므로 v kᵀ이다."),
            Mistake(_state(remove=""), "지우는 항이 빠졌다. 이것이 없으면 같은 키에 쓸 때마다 옛 값이 쌓인다."),
            Mistake(_state(remove="ba"), "a와 b가 바뀌었다. a로 읽어서(S a) b의 자리에 쓴다."),
            Mistake(_state(remove="minus"), "지우는 항을 뺐다. a가 이미 −κ이므로 식대로 더한다."),
            Mistake(_state(removed_after=True), "지울 답을 감쇠한 뒤의 상태에서 읽었다. 두 항 모두 옛 상태 S를 쓴다."),
            Mistake(_state(read_old=True), "고치기 전의 상태를 읽었다. 지금 쓴 것도 보이도록 새 상태에서 읽는다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="route", title="전문가 고르기", difficulty=3, minutes=15, reference=route, cases=_route_cases,
        hints=(
            "고르는 값과 섞는 값이 다르다. 고를 때는 점수에 편향을 더하고, 섞을 때는 점수만 쓴다.",
            "`(scores + bias).topk(k, dim=-1).indices`로 고르고, 고른 자리의 점수를 `scores.gather(-1, indices)`로 꺼낸다.",
            "꺼낸 점수를 줄마다 합이 1이 되도록 나누고(`sum(dim=-1, keepdim=True)`) scale을 곱한다.",
        ),
        mistakes=(
            Mistake(_route(weigh=lambda scores, bias: scores + bias),
                    "가중치에 편향이 섞였다. 편향은 누구를 고를지만 바꾸고, 얼마나 섞을지는 점수가 정한다."),
            Mistake(_route(normalise=False), "고른 가중치의 합이 scale이 아니다. 고른 k개끼리 합이 1이 되게 나눈다."),
            Mistake(_route(scaled=False), "scale을 곱하지 않았다."),
            Mistake(_route(choose=lambda scores, bias: scores), "편향 없이 골랐다. 편향이 한가한 전문가를 앞으로 당긴다."),
            Mistake(_route(weigh=lambda scores, bias: scores / scores.sum(-1, keepdim=True), normalise=False),
                    "모든 전문가의 점수로 나누었다. 고른 k개의 점수만으로 합이 1이 되게 한다."),
            Mistake(_route(weigh=lambda scores, bias: scores.exp()),
                    "점수에 softmax를 다시 했다. 시그모이드를 거친 점수를 합으로 나누기만 한다."),
            Mistake(_route(smallest=True), "점수가 가장 낮은 전문가를 골랐다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="balance", title="부하 고르기", difficulty=2, minutes=10, reference=balance, cases=_balance_cases,
        hints=(
            "평균보다 적게 읽은 전문가는 더 뽑히게, 많이 읽은 전문가는 덜 뽑히게 한다.",
            "얼마나 어긋났는지는 보지 않고 방향만 본다. `torch.sign`은 −1, 0, 1을 준다.",
            "`counts.mean() - counts`의 부호에 rate를 곱해 bias에 더한 새 텐서를 돌려준다.",
        ),
        mistakes=(
            Mistake(lambda bias, counts, rate: bias - rate * (counts.mean() - counts).sign(),
                    "부호가 반대다. 바쁜 전문가가 더 뽑혀 한곳으로 무너진다."),
            Mistake(lambda bias, counts, rate: bias + rate * (counts.mean() - counts),
                    "어긋난 크기만큼 움직였다. 토큰 수는 배치마다 크기가 다르므로 부호만 쓴다."),
            Mistake(lambda bias, counts, rate: rate * (counts.mean() - counts).sign(),
                    "지난 편향을 버렸다. 조금씩 쌓여야 균형에 이른다."),
            Mistake(lambda bias, counts, rate: bias + rate * torch.where(counts < counts.mean(), 1.0, -1.0),
                    "평균과 같은 전문가까지 벌을 주었다. 어긋나지 않았으면 그대로 둔다."),
            Mistake(lambda bias, counts, rate: bias + rate * (counts == 0),
                    "하나도 읽지 않은 전문가만 올렸다. 기준은 0이 아니라 평균이고, 바쁜 쪽은 내린다."),
            Mistake(_balance_in_place, "받은 편향을 제자리에서 고쳤다(`+=`). 새 텐서를 만들어 돌려준다."),
        ),
    ),
    Exercise(
        name="cache_bytes_per_token", title="캐시 셈하기", difficulty=2, minutes=10, reference=cache_bytes_per_token, cases=_cache_sizes,
        hints=(
            "한 층에서 토큰 하나가 남기는 수의 개수를 먼저 센다. 거기에 층 수와 수 하나의 바이트를 곱한다.",
            "MHA, GQA, MQA는 키와 값 두 벌이고, 헤드의 수가 각각 heads, kv_heads, 1이다.",
            "MLA는 압축한 벡터 latent개와 회전한 키 rope개를 모든 헤드가 함께 쓴다. 두 벌도 아니고 헤드 수도 곱하지 않는다.",
        ),
        mistakes=(
            Mistake(_cache_bytes(kv=1), "키만 세었다. 값도 같은 크기로 남는다."),
            Mistake(_cache_bytes(query_heads=True), "GQA에서 질의 헤드를 세었다. 남는 것은 키·값 헤드뿐이다."),
            Mistake(_cache_bytes(ignore_layers=True), "층 수를 곱하지 않았다. 층마다 캐시가 따로 있다."),
            Mistake(_cache_bytes(ignore_bytes=True), "수의 개수를 돌려주었다. 수 하나의 바이트를 곱한다."),
            Mistake(_cache_bytes(mla=lambda latent, rope, heads: latent),
                    "MLA에서 회전한 키를 빠뜨렸다. 위치를 담는 rope개가 따로 남는다."),
            Mistake(_cache_bytes(mla=lambda latent, rope, heads: 2 * latent + rope),
                    "MLA에서 압축한 벡터를 두 벌 세었다. 키와 값을 한 벡터에서 되살린다."),
            Mistake(_cache_bytes(mla=lambda latent, rope, heads: latent + heads * rope),
                    "MLA의 회전한 키를 헤드마다 세었다. 모든 헤드가 하나를 함께 쓴다."),
        ),
    ),
]

check = checker(week=4, exercises=EXERCISES)
