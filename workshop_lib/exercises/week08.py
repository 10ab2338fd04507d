"""Exercises of week 8: INT8, packing, groups, GPTQ's update, distillation, p95, the cache, speculation, what a thought leaves over."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from workshop_lib.architectures.attention import scaled_dot_product_attention
from workshop_lib.calibration import gptq_column
from workshop_lib.distillation import distillation_loss
from workshop_lib.exercises import Exercise, Mistake, checker, normal
from workshop_lib.inference import accept, cached_attention, percentile
from workshop_lib.quantization import absmax_int8, pack_int4, quantize_groups
from workshop_lib.thinking import remaining

# ---------------------------------------------------------------------------------------------- absmax_int8


def _absmax_cases():
    return [
        (torch.tensor([[0.5, -2.0, 1.0, 0.26], [30.0, -4.0, 7.0, 0.0]]),),
        (torch.tensor([[-3.0, 1.0, 2.9], [0.1, 0.07, -0.02]]),),
        (normal(4, 16, seed=1),),
    ]


def _absmax(largest=lambda weight: weight.abs().amax(1, keepdim=True), levels=127, rounded=torch.round, whole=True, inverse=False):
    """INT8 with its choices made otherwise."""

    def quantize(weight):
        scale = largest(weight) / levels
        codes = rounded(weight / scale)
        if whole:
            codes = codes.clamp(-128, 127).to(torch.int8)
        return codes, 1 / scale if inverse else scale

    return quantize


# ---------------------------------------------------------------------------------------------- pack_int4


def _pack_cases():
    return [
        (torch.tensor([1, 2, 3, 4], dtype=torch.int8),),
        (torch.tensor([[-1, 7, 0, -8], [5, -3, -6, 2]], dtype=torch.int8),),
        (torch.arange(-8, 8, dtype=torch.int8).reshape(2, 2, 4),),
    ]


def _pack(low=lambda codes: codes[..., 0::2], high=lambda codes: codes[..., 1::2], first=lambda c: c & 15, second=lambda c: c & 15,
          kind=torch.uint8):  # fmt: skip
    def pack(codes):
        return (first(low(codes)) | second(high(codes)) << 4).view(kind)

    return pack


def _pack_without_shift(codes):
    return ((codes[..., 0::2] & 15) | (codes[..., 1::2] & 15)).view(torch.uint8)


def _pack_halves(codes):
    half = codes.shape[-1] // 2
    return ((codes[..., :half] & 15) | (codes[..., half:] & 15) << 4).view(torch.uint8)


# ---------------------------------------------------------------------------------------------- quantize_groups


def _group_cases():
    # The largest of a group is 7.5 times a power of two: exactly half a level above 7.
    rows = torch.tensor([[7.5, -3.2, 0.4, 1.1, -0.2, 0.9375, 0.31, -0.11], [0.6, 15.0, -9.1, 4.0, 3.75, -2.2, 0.05, 1.3]])
    return [(rows, 4, 4), (rows.clone(), 3, 8), (normal(3, 16, seed=2).abs(), 2, 4), (normal(4, 32, seed=3), 4, 8)]


def _groups(scale=lambda blocks, bits: blocks.abs().amax(-1) / (2 ** (bits - 1) - 0.5), rounded=torch.round,
            clamp=True, lowest=lambda bits: -(2 ** (bits - 1)),
            cut=lambda weight, group: weight.unflatten(1, (-1, group)), shape=lambda scales: scales):  # fmt: skip
    """Groups with their choices made otherwise."""

    def quantize(weight, bits=4, group=64):
        blocks = cut(weight, group)
        scales = scale(blocks, bits)
        codes = rounded(blocks / scales.unsqueeze(-1))
        if clamp:
            codes = codes.clamp(lowest(bits), 2 ** (bits - 1) - 1)
        return codes.reshape(weight.shape).to(torch.int8), shape(scales)

    return quantize


def _groups_columns(weight, bits=4, group=64):
    codes, scales = quantize_groups(weight.T.reshape(weight.shape), bits, group)
    return codes, scales


# ---------------------------------------------------------------------------------------------- gptq_column


def _gptq_cases():
    def case(out, width, column, seed):
        x = normal(3 * width, width, seed=seed) + 0.5 * normal(3 * width, 1, seed=seed + 1)
        inverse = torch.linalg.cholesky(torch.linalg.inv(x.T @ x / len(x)), upper=True)
        weight = normal(out, width, seed=seed + 2)
        return weight, inverse, column, weight[:, column].round()

    return [case(2, 4, 0, 10), case(3, 5, 2, 20), case(2, 6, 5, 30)]


def _gptq(error=lambda w, q, u, c: (w[:, c] - q) / u[c, c], sign=-1, put=True, copy=True, far=None):
    """The update with one thing wrong."""

    def update(weight, inverse, column, quantized):
        result = weight.clone() if copy else weight
        wrong = error(weight, quantized, inverse, column)
        reach = slice(column, far and column + far)
        kept = result[:, column].clone()
        result[:, reach] += sign * wrong[:, None] * inverse[column, reach]
        if not put:
            result[:, column] = kept
        return result

    return update


def _gptq_only_rounds(weight, inverse, column, quantized):
    result = weight.clone()
    result[:, column] = quantized
    return result


# ---------------------------------------------------------------------------------------------- distillation_loss


def _distillation_cases():
    return [
        (torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), torch.tensor([[1.0, 1.0, -2.0], [0.5, 1.5, 3.0]]), 2.0),
        (normal(2, 3, 5, seed=1), 2 * normal(2, 3, 5, seed=2), 1.0),
        (normal(4, 6, seed=3), normal(4, 6, seed=4), 3.0),
    ]


def _distillation(swapped=False, power=2, of_all=lambda gap: gap.sum(-1).mean(), soften_student=True, entropy=True):
    """The loss with its choices made otherwise."""

    def loss(student_logits, teacher_logits, temperature=1.0):
        student = (student_logits / temperature if soften_student else student_logits).log_softmax(-1)
        teacher = (teacher_logits / temperature).log_softmax(-1)
        if swapped:
            student, teacher = teacher, student
        gap = teacher.exp() * (teacher * entropy - student)
        return temperature**power * of_all(gap)

    return loss


def _distillation_hard(student_logits, teacher_logits, temperature=1.0):
    answers = teacher_logits.argmax(-1).flatten()
    return temperature**2 * F.cross_entropy((student_logits / temperature).flatten(0, -2), answers)


# ---------------------------------------------------------------------------------------------- percentile


def _percentile_cases():
    return [
        ([30, 10, 20, 50, 40], 0.95),
        ([12.0, 7.0, 9.0, 31.0, 8.0, 11.0, 10.0, 95.0, 13.0, 14.0] * 2, 0.95),
        ([5.0, 1.0, 3.0, 2.0], 0.5),
        ([9, 2, 7, 4, 1, 3, 8], 0.9),
        ([4, 8, 15, 16, 23, 42], 1.0),
        ([7.5], 0.95),
    ]


def _percentile_at(place, ordered=sorted):
    def pick(values, share):
        values = ordered(values)
        return values[min(max(place(share, len(values)), 0), len(values) - 1)]

    return pick


def _percentile_interpolated(values, share):
    values, place = sorted(values), share * (len(values) - 1)
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _percentile_of_normal(values, share):
    mean = sum(values) / len(values)
    return mean + 1.645 * math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _percentile_in_place(values, share):
    values.sort()
    return values[math.ceil(share * len(values) - 1e-9) - 1]


# ---------------------------------------------------------------------------------------------- cached_attention


def _cache_cases():
    def tokens(new, seed, heads=2):
        return tuple(normal(2, heads, new, 4, seed=seed + i) for i in range(3))

    def past(length, seed, heads=2):
        return tuple(normal(2, heads, length, 4, seed=seed + i) for i in range(2))

    return [(*tokens(4, 1), None), (*tokens(1, 5), past(3, 20)), (*tokens(3, 9, 1), past(2, 30, 1))]


def _joined(k, v, cache):
    return (k, v) if cache is None else (torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2))


def _seen(q, k, v, diagonal):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(diagonal)
    return scaled_dot_product_attention(q, k, v, mask)


def _cache_square_mask(q, k, v, cache=None):
    k, v = _joined(k, v, cache)
    return _seen(q, k, v, 0), (k, v)


def _cache_no_mask(q, k, v, cache=None):
    k, v = _joined(k, v, cache)
    return scaled_dot_product_attention(q, k, v), (k, v)


def _cache_without_itself(q, k, v, cache=None):
    if cache is None:
        return cached_attention(q, k, v)
    return scaled_dot_product_attention(q, *cache), _joined(k, v, cache)


def _cache_one_ahead(q, k, v, cache=None):
    k, v = _joined(k, v, cache)
    return _seen(q, k, v, k.shape[2] - q.shape[2] + 1), (k, v)


def _cache_not_kept(q, k, v, cache=None):
    return cached_attention(q, k, v, cache)[0], (k, v)


def _cache_old(q, k, v, cache=None):
    y, new = cached_attention(q, k, v, cache)
    return y, new if cache is None else cache


def _cache_in_front(q, k, v, cache=None):
    if cache is not None:
        k, v = torch.cat((k, cache[0]), 2), torch.cat((v, cache[1]), 2)
    return _seen(q, k, v, k.shape[2] - q.shape[2]), (k, v)


# ---------------------------------------------------------------------------------------------- accept


def _accept_cases():
    target, draft = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.25, 0.5, 0.05, 0.2])
    return [
        (target, draft, 1, 0.5), (target.clone(), draft.clone(), 1, 0.7), (target.clone(), draft.clone(), 0, 0.9),
        (target.clone(), draft.clone(), 3, 0.0), (target.clone(), draft.clone(), 2, 0.3), (draft.clone(), target.clone(), 0, 0.45),
    ]  # fmt: skip


def _accept(kept=lambda p, q, u: u * q < p, residual=lambda target, draft: (target - draft).clamp(min=0), scale=lambda x: x / x.sum()):
    def rule(target, draft, token, u):
        return bool(kept(target[token], draft[token], u)), scale(residual(target, draft))

    return rule


# ---------------------------------------------------------------------------------------------- remaining


def _remaining_cases():
    return [(512, 100), (512, 40, 600, 130), (512, 100, 128, 110), (64, 64), (100, 30, 128, 140), (50, 0, 300, 20)]


def _remaining(left=lambda most, used: most - used, room=lambda context, read, used: context - read, least=0, choose=min):
    def count(max_tokens, used, context=None, read=0):
        tokens = left(max_tokens, used)
        if context is not None and room:
            tokens = choose(tokens, room(context, read, used))
        return tokens if least is None else max(least, tokens)

    return count


# ---------------------------------------------------------------------------------------------- declarations

EXERCISES = [
    Exercise(
        name="absmax_int8", title="절댓값이 가장 큰 것에 맞춘 INT8", difficulty=2, minutes=15, reference=absmax_int8, cases=_absmax_cases,
        hints=(
            "행마다 배율 하나를 정한다. 그 행에서 절댓값이 가장 큰 수가 127이 되면 나머지는 모두 −127과 127 사이에 든다.",
            "배율은 절댓값의 최댓값 ÷ 127이고, 번호는 가중치 ÷ 배율을 가장 가까운 정수로 반올림한 것이다.",
            "`weight.abs().amax(dim=1, keepdim=True) / 127`로 (출력, 1)을 만들고, 나눈 것을 `.round().to(torch.int8)`로 바꾼다.",
        ),
        mistakes=(
            Mistake(_absmax(largest=lambda w: w.abs().amax().expand(len(w), 1)),
                    "텐서 전체에서 가장 큰 값을 썼다. 큰 행 하나 때문에 다른 행의 눈금까지 성겨진다. 행마다(dim=1) 구한다."),
            Mistake(_absmax(largest=lambda w: w.abs().amax(0, keepdim=True)), "열마다 구했다. 행 하나가 출력 하나이므로 dim=1이다."),
            Mistake(_absmax(largest=lambda w: w.amax(1, keepdim=True)), "절댓값을 취하지 않았다. 음수 쪽이 더 크면 −127 아래로 넘친다."),
            Mistake(_absmax(levels=128), "128로 나누었다. int8의 가장 큰 값은 127이라서 가장 큰 수가 넘친다."),
            Mistake(_absmax(levels=255), "255로 나누었다. 그것은 0부터 255까지 쓸 때의 칸 수다. 여기서는 −127부터 127까지 쓴다."),
            Mistake(_absmax(rounded=torch.trunc), "반올림하지 않고 잘랐다. `.to(torch.int8)`은 0 쪽으로 버린다. 먼저 `.round()`를 한다."),
            Mistake(_absmax(whole=False), "번호가 아직 실수다. `.to(torch.int8)`로 바꾸어야 1바이트가 된다."),
            Mistake(_absmax(inverse=True), "배율이 뒤집혔다. 가중치 ≈ 번호 × 배율이 되어야 한다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="pack_int4", title="두 값을 한 바이트에", difficulty=3, minutes=15, reference=pack_int4, cases=_pack_cases,
        hints=(
            "짝수 번째 값은 바이트의 아래 4비트에, 홀수 번째 값은 위 4비트에 놓는다.",
            "음수는 위쪽 비트가 모두 1이라 옆 칸까지 물들인다. `& 15`로 아래 4비트만 남긴 다음 옮긴다.",
            "`codes[..., 0::2] & 15`와 `(codes[..., 1::2] & 15) << 4`를 `|`로 합치고 `.view(torch.uint8)`로 부호 없이 읽는다.",
        ),
        mistakes=(
            Mistake(_pack(low=lambda c: c[..., 1::2], high=lambda c: c[..., 0::2]), "앞의 값이 위로 갔다. 앞의 값이 아래 4비트다."),
            Mistake(_pack(first=lambda c: c), "음수의 부호 비트가 옆 값을 덮었다. 합치기 전에 `& 15`를 한다."),
            Mistake(_pack(first=lambda c: c + 8, second=lambda c: c + 8),
                    "8을 더해 0…15로 바꾸었다. 여기서는 2의 보수 그대로 4비트만 남긴다."),
            Mistake(_pack_without_shift, "두 값이 같은 4비트에 겹쳤다. 홀수 번째 값을 `<< 4`로 옮긴 다음 합친다."),
            Mistake(_pack(low=lambda c: c[0::2], high=lambda c: c[1::2]), "첫 축에서 짝지었다. 마지막 축에서 짝짓는다(`[..., 0::2]`)."),
            Mistake(_pack_halves, "앞 절반과 뒤 절반을 짝지었다. 이웃한 두 값이 한 바이트다."),
            Mistake(_pack(kind=torch.int8), "결과가 int8이다. 바이트는 부호가 없으므로 uint8로 읽는다."),
        ),
    ),
    Exercise(
        name="quantize_groups", title="묶음마다 배율을 두는 양자화", difficulty=3, minutes=20,
        reference=quantize_groups, cases=_group_cases,
        hints=(
            "행을 group개씩 끊으면 묶음마다 배율이 하나다. 끊은 모양은 (출력, 입력 / group, group)이다.",
            "배율은 묶음의 절댓값 최댓값 ÷ (2^(b−1) − ½)이다. 나누고 반올림한 번호는 −2^(b−1)과 2^(b−1) − 1 사이로 자른다.",
            "`weight.unflatten(1, (-1, group))`으로 끊고 `abs().amax(dim=-1)`로 배율을 구한다. "
            "나눌 때는 `scales.unsqueeze(-1)`, 돌려줄 때는 번호를 `flatten(1).to(torch.int8)`로 한다.",
        ),
        mistakes=(
            Mistake(_groups(scale=lambda b, bits: b.abs().amax((1, 2))[:, None].expand(-1, b.shape[1]) / (2 ** (bits - 1) - 0.5)),
                    "행 전체가 배율 하나를 나누어 쓴다. 묶음마다 가장 큰 값을 따로 구한다."),
            Mistake(_groups(scale=lambda b, bits: b.abs().amax(-1) / (2 ** (bits - 1) - 1)),
                    "2^(b−1) − 1로 나누었다. 음수 쪽의 마지막 눈금을 쓰지 못해 간격이 넓어진다. 2^(b−1) − ½로 나눈다."),
            Mistake(_groups(scale=lambda b, bits: b.abs().amax(-1) / 2 ** (bits - 1)),
                    "2^(b−1)로 나누었다. 양수 쪽의 가장 큰 값이 한 칸이나 잘린다. 2^(b−1) − ½로 나눈다."),
            Mistake(_groups(scale=lambda b, bits: b.abs().amax(-1) / (2**bits - 1)),
                    "2^b − 1로 나누었다. 그것은 0부터 위로만 쓸 때의 칸 수라서 큰 값이 잘린다. 2^(b−1) − ½로 나눈다."),
            Mistake(_groups(scale=lambda b, bits: b.amax(-1) / (2 ** (bits - 1) - 0.5)), "절댓값을 취하지 않았다. 음수가 더 크면 잘린다."),
            Mistake(_groups(clamp=False), "번호를 자르지 않았다. 가장 큰 값이 2^(b−1)로 반올림되어 b비트에 들지 않는다."),
            Mistake(_groups(lowest=lambda bits: 1 - 2 ** (bits - 1)), "아래쪽 끝을 −2^(b−1) + 1로 잘랐다. 음수 쪽은 −2^(b−1)까지 쓴다."),
            Mistake(_groups(rounded=torch.trunc), "반올림하지 않고 잘랐다. 오차가 두 배가 된다."),
            Mistake(_groups_columns, "세로로 묶었다. 한 행에서 이웃한 가중치가 한 묶음이다."),
            Mistake(_groups(shape=lambda scales: scales.unsqueeze(-1)), "배율의 모양은 (출력, 묶음)이다. 나눌 때 늘린 축을 되돌린다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="gptq_column", title="GPTQ의 한 걸음", difficulty=4, minutes=25, reference=gptq_column, cases=_gptq_cases,
        hints=(
            "한 열을 반올림하면 출력이 틀어진다. 아직 반올림하지 않은 오른쪽 열들을 조금씩 옮겨 그만큼을 되돌린다.",
            "오차는 (열 − 반올림한 열) ÷ U_cc이고, 오른쪽의 열 j에서는 오차 × U_cj를 뺀다. "
            "열 c 자신에도 같은 식을 쓰면 반올림한 값이 된다.",
            "`weight.clone()`을 만들고 `[:, column:]`에서 `error[:, None] * inverse[column, column:]`를 뺀다.",
        ),
        mistakes=(
            Mistake(_gptq_only_rounds,
                    "오차를 나누어 주지 않았다. 그러면 그냥 반올림과 같다. U의 행 U_cj를 쓴다: 열 U_jc에서는 대각선 아래가 모두 0이다."),
            Mistake(_gptq(error=lambda w, q, u, c: w[:, c] - q), "U_cc로 나누지 않았다."),
            Mistake(_gptq(error=lambda w, q, u, c: (w[:, c] - q) / u[c, c] ** 2),
                    "U_cc로 두 번 나누었다. H⁻¹이 아니라 그 촐레스키 인수를 쓰므로 한 번이다."),
            Mistake(_gptq(sign=1), "오차를 더했다. 되돌리려면 뺀다."),
            Mistake(_gptq(put=False), "열 c가 그대로다. 그 열은 반올림한 값이 되어야 한다."),
            Mistake(_gptq(far=2), "바로 옆 열에만 나누어 주었다. 오른쪽의 모든 열에 나누어 준다."),
            Mistake(_gptq(copy=False), "받은 가중치를 고쳤다. 새 텐서를 돌려준다."),
        ),
        tolerance=1e-4,
    ),
    Exercise(
        name="distillation_loss", title="증류 손실", difficulty=3, minutes=20, reference=distillation_loss, cases=_distillation_cases,
        hints=(
            "정답 하나 대신 교사의 확률 전체를 정답으로 삼는다. 두 로짓을 모두 온도로 나눈 다음 확률로 바꾼다.",
            "자리마다 Σ 교사 · (log 교사 − log 학생)이고, 모든 자리의 평균에 온도의 제곱을 곱한다.",
            "`log_softmax(-1)` 둘을 구하고 `teacher.exp() * (teacher - student)`를 어휘 축으로 더한 뒤 평균한다. "
            "앞의 차원이 몇 개든 되도록 마지막 축만 더한다.",
        ),
        mistakes=(
            Mistake(_distillation(swapped=True), "KL의 방향이 거꾸로다. 무게는 교사의 확률이다: KL(교사‖학생)."),
            Mistake(_distillation(power=0), "온도의 제곱을 곱하지 않았다. 온도를 올릴수록 기울기가 작아져 거의 배우지 못한다."),
            Mistake(_distillation(power=1), "온도를 한 번만 곱했다. 기울기는 온도의 제곱만큼 작아지므로 제곱을 곱한다."),
            Mistake(_distillation(soften_student=False), "학생의 로짓은 온도로 나누지 않았다. 두 분포를 같은 온도에서 견준다."),
            Mistake(_distillation(of_all=torch.Tensor.mean), "어휘까지 평균했다. 어휘 축은 더하고 자리만 평균한다."),
            Mistake(_distillation(of_all=lambda gap: gap.sum() / len(gap)),
                    "첫 차원의 크기로만 나누었다(`kl_div`의 batchmean이 그렇다). 앞의 차원이 둘이면 모든 자리의 수로 나눈다."),
            Mistake(_distillation(of_all=torch.Tensor.sum), "자리까지 더했다. 글이 길수록 손실이 커진다. 자리는 평균한다."),
            Mistake(_distillation(entropy=False), "교사의 로그 확률을 빼지 않은 교차 엔트로피다. 학생이 교사와 같아도 0이 되지 않는다."),
            Mistake(_distillation_hard, "교사가 고른 토큰 하나만 정답으로 삼았다. 나머지 확률에 담긴 것을 버린다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="percentile", title="p95 지연 시간", difficulty=1, minutes=10, reference=percentile, cases=_percentile_cases,
        hints=(
            "작은 것부터 줄을 세우고, 값들의 95%가 그 값을 넘지 않는 가장 작은 값을 고른다.",
            "n개 가운데 ⌈비율 × n⌉번째로 작은 값이다. 파이썬의 번호는 0에서 시작한다.",
            "`sorted(values)[math.ceil(share * len(values)) - 1]`과 같은 뜻이다. 받은 리스트는 그대로 둔다.",
        ),
        mistakes=(
            Mistake(_percentile_at(lambda share, n: int(share * n)), "한 칸 뒤를 골랐다. ⌈비율 × n⌉번째의 번호는 거기서 1을 뺀 것이다."),
            Mistake(_percentile_at(lambda share, n: math.floor(share * n) - 1), "내림했다. 올려야 그 값 이하인 것이 비율만큼 된다."),
            Mistake(_percentile_at(lambda share, n: round(share * n) - 1), "반올림했다. 올려야 그 값 이하인 것이 언제나 비율만큼 된다."),
            Mistake(_percentile_at(lambda share, n: math.ceil(share * n) - 1, ordered=list),
                    "줄을 세우지 않았다. 먼저 작은 것부터 늘어놓는다."),
            Mistake(_percentile_at(lambda share, n: math.ceil((1 - share) * n) - 1),
                    "아래쪽에서 셌다. p95는 느린 쪽 5%가 시작되는 곳이다."),
            Mistake(_percentile_interpolated, "두 값의 사이를 지어냈다. 여기서는 실제로 있었던 값 하나를 고른다."),
            Mistake(_percentile_of_normal, "평균에 표준편차를 더했다. 지연 시간은 정규분포가 아니라 오른쪽으로 긴 꼬리가 있다."),
            Mistake(_percentile_in_place, "받은 리스트를 정렬해 버렸다. 요청의 순서가 사라진다. `sorted`는 새 리스트를 준다."),
        ),
    ),
    Exercise(
        name="cached_attention", title="캐시 뒤에 여러 토큰", difficulty=3, minutes=20, reference=cached_attention, cases=_cache_cases,
        hints=(
            "4주차의 한 걸음과 같되 새 토큰이 여럿이다. 새 토큰끼리는 미래를 보면 안 된다.",
            "새 토큰 i는 캐시 전체와 새 토큰 0…i를 본다. 마스크는 (새 토큰, 과거 + 새 토큰) 모양이고 "
            "대각선이 과거의 길이만큼 오른쪽에 있다.",
            "키와 값을 시간 축(2)으로 이은 다음 `torch.ones(new, total, dtype=torch.bool).tril(total - new)`를 마스크로 준다. "
            "(어텐션의 결과, (키, 값))을 돌려준다.",
        ),
        mistakes=(
            Mistake(_cache_square_mask, "대각선이 왼쪽 위에서 시작한다. 새 토큰은 과거를 모두 보므로 대각선을 과거의 길이만큼 옮긴다."),
            Mistake(_cache_no_mask, "마스크가 없어 새 토큰이 뒤의 새 토큰을 보았다. 하나씩 넣을 때와 답이 달라진다."),
            Mistake(_cache_without_itself, "새 키와 값을 잇기 전에 어텐션을 했다. 새 토큰은 자기 자신도 본다."),
            Mistake(_cache_one_ahead, "대각선이 한 칸 더 갔다. 토큰마다 바로 다음 토큰을 미리 본다."),
            Mistake(_cache_not_kept, "새 키와 값만 돌려주었다. 다음 토큰은 그 앞의 것도 보아야 한다."),
            Mistake(_cache_old, "받은 캐시를 그대로 돌려주었다. 다음 토큰이 이 토큰들을 보지 못한다."),
            Mistake(_cache_in_front, "새 키와 값을 앞에 붙였다. 캐시는 시간 순서이므로 뒤에 붙인다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="accept", title="초안의 토큰을 받을지 정하기", difficulty=4, minutes=25, reference=accept, cases=_accept_cases,
        hints=(
            "초안이 너무 자주 내놓는 토큰은 그만큼 버려야 한다. 목표의 확률이 초안의 확률보다 크면 버릴 까닭이 없다.",
            "u가 목표 ÷ 초안보다 작으면 받는다. 버렸다면 초안이 너무 드물게 내놓는 토큰에서 다시 뽑는다: max(0, 목표 − 초안).",
            "`bool(u * draft[token] < target[token])`과, `(target - draft).clamp(min=0)`을 합이 1이 되게 나눈 것을 돌려준다.",
        ),
        mistakes=(
            Mistake(_accept(kept=lambda p, q, u: u < p), "목표의 확률만 보았다. 초안의 확률로 나누어야 초안이 이미 고른 만큼이 셈에 든다."),
            Mistake(_accept(kept=lambda p, q, u: u < q), "초안의 확률과 견주었다. 초안이 자신할수록 받게 되어 목표의 분포가 아니게 된다."),
            Mistake(_accept(kept=lambda p, q, u: p >= q), "u를 쓰지 않았다. 확률이 작은 쪽도 그 비율만큼은 받아야 분포가 유지된다."),
            Mistake(_accept(kept=lambda p, q, u: u * p < q), "비율이 거꾸로다. 목표 ÷ 초안과 견준다."),
            Mistake(_accept(residual=lambda target, draft: target),
                    "버린 뒤에 목표에서 그대로 뽑았다. 초안이 자주 내놓는 토큰이 두 번 기회를 얻는다."),
            Mistake(_accept(residual=lambda target, draft: (target - draft).abs()), "차이의 절댓값에서 뽑았다. 초안이 더 큰 자리는 0이다."),
            Mistake(_accept(residual=lambda target, draft: (draft - target).clamp(min=0)),
                    "거꾸로 뺐다. 초안이 너무 드물게 내놓는 토큰에서 다시 뽑으므로 목표에서 초안을 뺀다."),
            Mistake(_accept(scale=lambda x: x.softmax(-1)), "softmax를 했다. 0이어야 할 토큰까지 뽑히게 된다. 합으로 나누기만 한다."),
            Mistake(_accept(scale=lambda x: x), "남은 것의 합이 1이 아니다. 합으로 나누어 확률로 만든다."),
        ),
    ),
    Exercise(
        name="remaining", title="생각하고 남은 토큰", difficulty=2, minutes=10, reference=remaining, cases=_remaining_cases,
        hints=(
            "max_tokens는 생각과 답을 더한 상한이다. 생각에 쓴 만큼을 빼야 답의 몫이 된다.",
            "문맥 길이를 알면 답은 문맥에 남은 자리보다 길 수 없다. 둘째 요청이 읽는 글(read)에는 생각이 이미 들어 있다.",
            "`max_tokens - used`와 `context - read` 가운데 작은 쪽을 고르되 0보다 작으면 0이다. context가 None이면 앞의 것만 본다.",
        ),
        mistakes=(
            Mistake(_remaining(left=lambda most, used: most), "max_tokens를 그대로 주었다. 생각에 쓴 토큰만큼 상한을 넘긴다."),
            Mistake(_remaining(least=None), "남은 것이 음수가 되었다. 서버는 음수인 max_tokens를 거절한다. 0보다 작으면 0이다."),
            Mistake(_remaining(least=1), "남은 것이 없는데도 1을 주었다. 없으면 0이다."),
            Mistake(_remaining(room=None), "문맥에 남은 자리를 보지 않았다. 긴 대화에서는 답이 문맥을 넘는다."),
            Mistake(_remaining(room=lambda context, read, used: context - read - used),
                    "생각을 두 번 뺐다. read는 둘째 요청이 읽는 글이고 그 안에 생각이 이미 있다."),
            Mistake(_remaining(room=lambda context, read, used: context), "문맥 길이를 그대로 썼다. 이미 읽은 글이 차지한 자리를 뺀다."),
            Mistake(_remaining(choose=max), "큰 쪽을 골랐다. 두 상한을 모두 지켜야 하므로 작은 쪽이다."),
        ),
    ),
]

check = checker(week=8, exercises=EXERCISES)
