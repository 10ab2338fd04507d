"""Exercises of week 6: an interval for an accuracy, padding and pooling, LoRA and its merge, DoRA, a wavelet transform."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from workshop_lib.belief import wilson_interval
from workshop_lib.exercises import Exercise, Kw, Mistake, checker, normal
from workshop_lib.finetuning import collate, pool_last
from workshop_lib.lora import dora_weight, inverse_haar, lora_forward, lora_parameters, merge_lora

# ---------------------------------------------------------------------------------------------- wilson_interval


def _wilson_cases():
    return [(62, 100), (0, 20), (20, 20), (4_150, 5_000), (7, 9, Kw(confidence=0.9))]


def _wilson(tail=0.5, shrunk=True, divided=True, squared=True):
    def interval(correct, total, confidence=0.95):
        z = NormalDist().inv_cdf(tail + confidence / 2 if tail == 0.5 else confidence)
        p = correct / total
        below = 1 + z * z / total if divided else 1
        centre = (p + z * z / (2 * total)) / below if shrunk else p
        half = z / below * math.sqrt(p * (1 - p) / total + z * z / (4 * total ** (2 if squared else 1)))
        return centre - half, centre + half

    return interval


def _wilson_textbook(correct, total, confidence=0.95):
    p = correct / total
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(p * (1 - p) / total)
    return p - half, p + half


# ---------------------------------------------------------------------------------------------- collate


def _collate_cases():
    return [([[1, 7, 8, 2], [1, 9, 2]], 0), ([[1, 5, 2]], 0), ([[3], [4, 0, 6, 7, 8], [5, 5]], 0), ([[1, 4], [6, 2, 4]], 2)]


def _padded(rows, pad, width=None, left=False):
    width = width or max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    ids = torch.tensor([[*f, *row] if left else [*row[:width], *f] for row, f in zip(rows, fill)])
    kept = [[1] * min(len(row), width) for row in rows]
    empty = [[0] * (width - len(k)) for k in kept]
    return ids, torch.tensor([[*e, *k] if left else [*k, *e] for k, e in zip(kept, empty)])


def _collate_shortest(rows, pad):
    return _padded(rows, pad, width=min(map(len, rows)))


def _collate_left(rows, pad):
    return _padded(rows, pad, left=True)


def _collate_mask_by_value(rows, pad):
    ids, _ = _padded(rows, pad)
    return ids, (ids != pad).long()


def _collate_mask_inverted(rows, pad):
    ids, mask = _padded(rows, pad)
    return ids, 1 - mask


def _collate_pad_is_zero(rows, pad):
    return _padded(rows, 0)


# ---------------------------------------------------------------------------------------------- pool_last


def _pool_cases():
    return [
        (normal(2, 4, 3, seed=1), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])),
        (normal(3, 5, 2, seed=2), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])),
        (normal(2, 4, 2, seed=3), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])),
        (normal(2, 5, 2, seed=4), torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])),
    ]


def _rows_of(hidden):
    return torch.arange(len(hidden))


def _pool_end(hidden, mask):
    return hidden[:, -1]


def _pool_first(hidden, mask):
    return hidden[_rows_of(hidden), mask.argmax(dim=1)]


def _pool_mean(hidden, mask):
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _pool_count(hidden, mask):
    return hidden[_rows_of(hidden), mask.sum(1) - 1]


def _pool_one_late(hidden, mask):
    return hidden[_rows_of(hidden), mask.sum(1) % mask.shape[1]]


# ---------------------------------------------------------------------------------------------- lora_parameters


def _parameters_cases():
    return [([(128, 128)], 8), ([(128, 128), (384, 128), (128, 384)], 4), ([(16, 64)] * 3, 1), ([], 8)]


def _parameters_full(shapes, rank):
    return sum(rows * columns for rows, columns in shapes)


def _parameters_one_matrix(shapes, rank):
    return sum(rank * columns for _, columns in shapes)


def _parameters_product(shapes, rank):
    return sum(rank * rows * columns for rows, columns in shapes)


def _parameters_no_rank(shapes, rank):
    return sum(rows + columns for rows, columns in shapes)


def _parameters_middle(shapes, rank):
    return sum(rank * (rows + columns + rank) for rows, columns in shapes)


# ---------------------------------------------------------------------------------------------- lora_forward, merge_lora


def _lora_cases():
    return [
        (normal(2, 3, 4, seed=1), normal(4, 4, seed=2), normal(2, 4, seed=3), normal(4, 2, seed=4), 16.0),
        (normal(5, 6, seed=5), normal(3, 6, seed=6), normal(4, 6, seed=7), normal(3, 4, seed=8), 4.0),
        (normal(5, 6, seed=5), normal(3, 6, seed=6), normal(1, 6, seed=9), torch.zeros(3, 1), 8.0),
    ]


def _lora(scale=lambda alpha, A, B: alpha / A.shape[0], base=True):
    def forward(x, weight, A, B, alpha):
        return (x @ weight.T if base else 0) + scale(alpha, A, B) * (x @ A.T @ B.T)

    return forward


def _lora_not_transposed(x, weight, A, B, alpha):
    return x @ weight + alpha / A.shape[0] * (x @ A.T @ B.T)


def _merge_cases():
    return [case[1:] for case in _lora_cases()]


def _merge(scale=lambda alpha, A: alpha / A.shape[0], base=True, sign=1):
    def merge(weight, A, B, alpha):
        return (weight if base else 0) + sign * scale(alpha, A) * (B @ A)

    return merge


def _merge_in_place(weight, A, B, alpha):
    weight += alpha / A.shape[0] * (B @ A)
    return weight


def _merge_transposed(weight, A, B, alpha):
    return weight + alpha / A.shape[0] * (A.T @ B.T)


# ---------------------------------------------------------------------------------------------- dora_weight


def _dora_cases():
    return [
        (normal(4, 4, seed=1), normal(2, 4, seed=2), normal(4, 2, seed=3), 4.0, normal(4, seed=4).abs() + 1),
        (normal(3, 6, seed=5), normal(1, 6, seed=6), torch.zeros(3, 1), 8.0, torch.tensor([1.0, 2.0, 3.0])),
        (normal(3, 5, seed=7), normal(2, 5, seed=8), normal(3, 2, seed=9), 2.0, torch.ones(3)),
    ]


def _dora_not_divided(weight, A, B, alpha, magnitude):
    return magnitude[:, None] * merge_lora(weight, A, B, alpha)


def _dora_columns(weight, A, B, alpha, magnitude):
    turned = merge_lora(weight, A, B, alpha)
    return magnitude[:, None] * turned / turned.norm(dim=0, keepdim=True)


def _dora_old_length(weight, A, B, alpha, magnitude):
    return magnitude[:, None] * merge_lora(weight, A, B, alpha) / weight.norm(dim=1, keepdim=True)


def _dora_turned_after(weight, A, B, alpha, magnitude):
    return magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True) + alpha / A.shape[0] * (B @ A)


def _dora_whole(weight, A, B, alpha, magnitude):
    turned = merge_lora(weight, A, B, alpha)
    return magnitude[:, None] * turned / turned.norm()


def _dora_unit(weight, A, B, alpha, magnitude):
    turned = merge_lora(weight, A, B, alpha)
    return turned / turned.norm(dim=1, keepdim=True)


# ---------------------------------------------------------------------------------------------- inverse_haar


def _haar_cases():
    single = torch.zeros(4, 4)
    single[0, 3] = 2.0
    return [(torch.tensor([[4.0, 2.0], [1.0, 0.5]]),), (single,), (normal(4, 6, seed=1),), (normal(8, 2, seed=2),)]


def _haar(divisor=2.0, swapped=False, both_sign=1, quarters=False):
    def inverse(coefficients):
        rows, columns = coefficients.shape[0] // 2, coefficients.shape[1] // 2
        mean, across_rows = coefficients[:rows, :columns], coefficients[:rows, columns:]
        across_columns, both = coefficients[rows:, :columns], coefficients[rows:, columns:]
        if swapped:
            across_rows, across_columns = across_columns, across_rows
        matrix = torch.empty_like(coefficients)
        for i, down in enumerate((1, -1)):
            for j, right in enumerate((1, -1)):
                value = (mean + down * across_rows + right * across_columns + both_sign * down * right * both) / divisor
                if quarters:
                    matrix[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = value
                else:
                    matrix[i::2, j::2] = value
        return matrix

    return inverse


EXERCISES = [
    Exercise(
        name="wilson_interval", title="정확도의 구간", difficulty=2, minutes=15, reference=wilson_interval, cases=_wilson_cases,
        hints=(
            "식을 세 줄로 나눈다. z를 구하고, 가운데를 구하고, 반폭을 구한다.",
            "z는 양쪽에 (1 − confidence) / 2씩 남기는 자리다. 표준정규분포의 누적확률이 0.5 + confidence / 2가 되는 값이다.",
            "`z = NormalDist().inv_cdf(0.5 + confidence / 2)`이다. 가운데와 반폭은 모두 1 + z²/n으로 나눈다. "
            "제곱근 안의 둘째 항은 z²/(4n²)이다.",
        ),
        mistakes=(
            Mistake(_wilson_textbook, "p ± z·sqrt(p(1−p)/n)을 썼다. 다 맞히거나 다 틀리면 폭이 0이 되는 식이다. 윌슨의 식을 쓴다."),
            Mistake(_wilson(tail=1.0), "z를 한쪽 꼬리로 구했다. 95% 구간은 양쪽에 2.5%씩 남기므로 누적확률 0.975의 자리다."),
            Mistake(_wilson(shrunk=False), "가운데가 p 그대로다. 윌슨의 가운데는 1/2 쪽으로 조금 끌려 있다."),
            Mistake(_wilson(divided=False), "1 + z²/n으로 나누지 않았다. 가운데와 반폭 모두 나눈다."),
            Mistake(_wilson(squared=False), "제곱근 안의 둘째 항에서 n을 제곱하지 않았다. z²/(4n²)이다."),
        ),
    ),
    Exercise(
        name="collate", title="길이가 다른 줄을 한 배치로", difficulty=2, minutes=10, reference=collate, cases=_collate_cases,
        hints=(
            "가장 긴 줄에 맞추어 나머지의 뒤를 채운다. 어디가 진짜 토큰인지는 따로 적어 둔다.",
            "줄마다 `pad`를 (가장 긴 길이 − 그 줄의 길이)개 잇는다. 마스크는 값이 아니라 **길이**로 만든다.",
            "`[*row, *[pad] * 모자란 수]`와 `[1] * len(row) + [0] * 모자란 수`를 줄마다 만들어 각각 `torch.tensor`에 넣는다.",
        ),
        mistakes=(
            Mistake(_collate_shortest, "가장 짧은 줄에 맞추어 잘랐다. 글의 끝이 사라진다. 가장 긴 줄에 맞추어 채운다."),
            Mistake(_collate_left, "앞을 채웠다. 이 문제에서는 뒤를 채운다."),
            Mistake(_collate_mask_by_value, "마스크를 pad와 같은 값인지로 만들었다. 글 안에도 같은 번호가 있을 수 있다. 길이로 만든다."),
            Mistake(_collate_mask_inverted, "마스크가 뒤집혔다. 진짜 토큰이 1, 빈칸이 0이다."),
            Mistake(_collate_pad_is_zero, "빈칸을 늘 0으로 채웠다. pad로 받은 번호를 쓴다."),
        ),
    ),
    Exercise(
        name="pool_last", title="마지막 토큰의 상태", difficulty=2, minutes=10, reference=pool_last, cases=_pool_cases,
        hints=(
            "줄마다 마스크가 1인 마지막 자리를 찾고, 그 자리의 상태를 고른다.",
            "마스크에 자리 번호를 곱하면 빈칸은 0이 되고 진짜 토큰에는 번호가 남는다. 그 가운데 가장 큰 것의 자리가 마지막이다.",
            "`last = (mask * torch.arange(시간)).argmax(dim=1)`이고, `hidden[torch.arange(줄 수), last]`로 줄마다 하나씩 고른다.",
        ),
        mistakes=(
            Mistake(_pool_end, "배치의 마지막 자리를 골랐다. 짧은 줄에서는 빈칸의 상태다."),
            Mistake(_pool_first, "첫 토큰의 상태를 골랐다. 인과 모델의 첫 토큰은 뒤의 글을 하나도 보지 못했다."),
            Mistake(_pool_mean, "평균을 냈다. 여기서는 글을 다 본 마지막 토큰 하나만 쓴다."),
            Mistake(_pool_count, "토큰의 수로 자리를 정했다. 빈칸이 앞에 있으면 어긋난다. 마스크가 1인 마지막 자리를 찾는다."),
            Mistake(_pool_one_late, "한 칸 늦다. 자리는 0부터 센다."),
        ),
    ),
    Exercise(
        name="lora_parameters", title="LoRA가 학습하는 수의 개수", difficulty=1, minutes=5,
        reference=lora_parameters, cases=_parameters_cases,
        hints=(
            "층 하나에 행렬이 둘이다. 각각의 모양을 종이에 적는다.",
            "A는 (rank, 입력), B는 (출력, rank)이다. 두 행렬의 칸을 더한다.",
            "층마다 rank × (출력 + 입력)이다. 모든 층에 대해 더한다.",
        ),
        mistakes=(
            Mistake(_parameters_full, "원래 행렬의 칸을 셌다. LoRA는 원래 행렬을 학습하지 않는다."),
            Mistake(_parameters_one_matrix, "A만 셌다. B도 학습한다."),
            Mistake(_parameters_product, "출력과 입력을 곱했다. 두 행렬의 칸은 더한다."),
            Mistake(_parameters_no_rank, "rank를 곱하지 않았다. 두 행렬은 rank만큼 두껍다."),
            Mistake(_parameters_middle, "가운데에 rank × rank 행렬을 하나 더 셌다. LoRA에는 행렬이 둘뿐이다."),
        ),
    ),
    Exercise(
        name="lora_forward", title="LoRA의 순전파", difficulty=2, minutes=15, reference=lora_forward, cases=_lora_cases,
        hints=(
            "원래 층의 출력에 좁은 길을 지나온 것을 더한다. `nn.Linear`의 가중치는 (출력, 입력) 모양이다.",
            "좁은 길은 A로 rank차원까지 줄였다가 B로 다시 넓힌다. 배율은 alpha를 rank로 나눈 것이다. rank는 A의 행의 수다.",
            "`x @ weight.T`에 `alpha / A.shape[0]`을 곱한 `x @ A.T @ B.T`를 더한다.",
        ),
        mistakes=(
            Mistake(_lora(lambda alpha, A, B: 1.0), "배율이 없다. 더하는 쪽에 alpha / rank를 곱한다."),
            Mistake(_lora(lambda alpha, A, B: alpha), "배율을 rank로 나누지 않았다. 그러면 rank를 바꿀 때마다 학습률도 다시 찾아야 한다."),
            Mistake(_lora(lambda alpha, A, B: alpha / B.shape[0]), "출력 차원으로 나누었다. rank는 A의 행의 수, B의 열의 수다."),
            Mistake(_lora(lambda alpha, A, B: alpha / A.shape[0] ** 0.5),
                    "rank의 제곱근으로 나누었다(rsLoRA의 배율이다). 여기서는 rank로 나눈다."),
            Mistake(_lora(base=False), "원래 층의 출력이 빠졌다. LoRA는 원래 출력에 더하는 것이다."),
            Mistake(_lora_not_transposed, "원래 가중치를 전치하지 않았다. (출력, 입력) 모양이므로 x에는 전치한 것을 곱한다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="merge_lora", title="원래 가중치에 합치기", difficulty=2, minutes=10, reference=merge_lora, cases=_merge_cases,
        hints=(
            "lora_forward의 두 항을 x로 묶으면 괄호 안에 남는 것이 합친 가중치다.",
            "결과의 모양은 weight와 같은 (출력, 입력)이다. B는 (출력, rank), A는 (rank, 입력)이다.",
            "`weight + alpha / A.shape[0] * (B @ A)`의 꼴이다. weight를 제자리에서 바꾸지 않는다.",
        ),
        mistakes=(
            Mistake(_merge_in_place, "weight를 제자리에서 바꾸었다. 한 바탕에 여러 어댑터를 번갈아 쓰려면 원래 가중치가 남아 있어야 한다."),
            Mistake(_merge_transposed, "곱한 행렬이 (입력, 출력) 모양으로 뒤집혔다. (출력, 입력)이 되도록 B를 앞에 둔다."),
            Mistake(_merge(lambda alpha, A: 1.0), "배율이 없다. 순전파와 같은 alpha / rank를 곱해야 출력이 같다."),
            Mistake(_merge(base=False), "더할 행렬만 돌려주었다. 원래 가중치에 더한다."),
            Mistake(_merge(sign=-1), "뺐다. 빼는 것은 합친 것을 도로 떼어 낼 때다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="dora_weight", title="길이와 방향으로 나누기", difficulty=3, minutes=20, reference=dora_weight, cases=_dora_cases,
        hints=(
            "LoRA로 돌린 행렬의 행마다 길이를 1로 만든 다음, 배운 길이를 곱한다.",
            "돌린 행렬은 `merge_lora`가 준다. 행의 길이는 입력 차원(dim=1)으로 잰다. 나누려면 차원을 남겨 둔다(`keepdim=True`).",
            "`magnitude[:, None] * 돌린 것 / 돌린 것의 행 길이`이다. 논문처럼 분모에는 기울기가 흐르지 않게 `.detach()`를 붙인다.",
        ),
        mistakes=(
            Mistake(_dora_not_divided, "길이를 1로 만들지 않고 magnitude를 곱했다. 먼저 행의 길이로 나눈다."),
            Mistake(_dora_columns, "열의 길이로 나누었다. nn.Linear에서 출력 하나에 들어가는 가중치는 행 하나다(dim=1)."),
            Mistake(_dora_old_length, "원래 가중치의 길이로 나누었다. 돌린 다음의 길이로 나누어야 길이가 1이 된다."),
            Mistake(_dora_turned_after, "길이를 맞춘 뒤에 LoRA를 더했다. 더한 다음에 길이를 맞춘다."),
            Mistake(_dora_whole, "행렬 전체의 길이로 나누었다. 길이는 행마다 하나씩이다."),
            Mistake(_dora_unit, "magnitude를 곱하지 않았다. 모든 행의 길이가 1인 채로 남는다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="inverse_haar", title="웨이블릿 계수에서 행렬로", difficulty=3, minutes=20, reference=inverse_haar, cases=_haar_cases,
        hints=(
            "네 사분면에서 같은 자리의 계수 넷이 2×2 칸 하나를 만든다. 네 칸은 부호만 다르다.",
            "계수를 a(평균), h(위아래의 차), v(왼쪽과 오른쪽의 차), d(대각의 차)라 하면 네 칸은 (a ± h ± v ± d) / 2이다. "
            "위 칸은 +h, 왼쪽 칸은 +v다.",
            "왼쪽 위는 a+h+v+d, 오른쪽 위는 a+h−v−d, 왼쪽 아래는 a−h+v−d, 오른쪽 아래는 a−h−v+d이고 모두 2로 나눈다. "
            "결과의 `[0::2, 0::2]`, `[0::2, 1::2]`, `[1::2, 0::2]`, `[1::2, 1::2]`에 차례로 넣는다.",
        ),
        mistakes=(
            Mistake(_haar(divisor=4.0), "4로 나누었다. 2로 나누어야 제곱의 합이 그대로 남는다(직교 변환)."),
            Mistake(_haar(divisor=1.0), "2로 나누지 않았다. 제곱의 합이 네 배가 된다."),
            Mistake(_haar(swapped=True), "위아래의 차와 좌우의 차가 바뀌었다. 오른쪽 위 사분면이 위아래의 차다."),
            Mistake(_haar(both_sign=-1), "대각의 차의 부호가 뒤집혔다. 왼쪽 위와 오른쪽 아래 칸에서 +다."),
            Mistake(_haar(quarters=True), "네 칸을 사분면에 모아 놓았다. 계수 넷은 서로 붙어 있는 2×2 칸을 만든다."),
        ),
    ),
]
check = checker(week=6, exercises=EXERCISES)
