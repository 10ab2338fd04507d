"""Exercises of week 7: macro F1, chrF, McNemar, choosing by likelihood, filters, beam search, reading answers, voting."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import torch

from workshop_lib.belief import McNemar, mcnemar
from workshop_lib.decoding import beam_step, keep_top_p, penalise_repetition
from workshop_lib.exercises import Exercise, Mistake, checker, normal
from workshop_lib.likelihood import choose
from workshop_lib.metrics.scores import chrf, f1, ngrams, units
from workshop_lib.prompting import extract_choice, vote

# ---------------------------------------------------------------------------------------------- f1


def _f1_cases():
    return [
        (["긍정", "긍정", "긍정", "부정"], ["긍정", "긍정", "부정", "부정"]),
        ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]),
        ([0, 1, 2, 2, 1, 0, 3], [0, 1, 1, 2, 2, 0, 0]),
    ]


def _of_label(predictions, references, label):
    """(hits, said, true) of one label."""
    hits = sum(p == r == label for p, r in zip(predictions, references))
    return hits, predictions.count(label), references.count(label)


def _f1_of(hits, said, true):
    return 2 * hits / (said + true) if said + true else 0.0


def _f1_accuracy(predictions, references):
    return sum(p == r for p, r in zip(predictions, references)) / len(references)


def _f1_weighted(predictions, references):
    return sum(references.count(x) * _f1_of(*_of_label(predictions, references, x)) for x in set(references)) / len(references)


def _f1_references_only(predictions, references):
    labels = set(references)
    return sum(_f1_of(*_of_label(predictions, references, x)) for x in labels) / len(labels)


def _f1_of_means(predictions, references):
    labels = {*predictions, *references}
    rows = [_of_label(predictions, references, x) for x in labels]
    p = sum(hits / said if said else 0.0 for hits, said, _ in rows) / len(labels)
    r = sum(hits / true if true else 0.0 for hits, _, true in rows) / len(labels)
    return 2 * p * r / (p + r)


def _f1_arithmetic(predictions, references):
    labels = {*predictions, *references}
    rows = [_of_label(predictions, references, x) for x in labels]
    return sum(((h / s if s else 0.0) + (h / t if t else 0.0)) / 2 for h, s, t in rows) / len(labels)


# ---------------------------------------------------------------------------------------------- chrf


def _chrf_cases():
    return [
        (["고양이가 숲에서 공을 찾았다."], ["고양이는 숲에서 공을 찾았다."]),
        (["하하하하하하하하 웃었다."], ["하하 웃으며 집으로 돌아갔다."]),
        (["나는 밥을 먹었다.", "비가 많이 온다고 했다."], ["나는 어제 밥을 먹었다.", "눈이 아주 많이 온다."]),
    ]


def _chrf(cut=units, beta=2.0, order=6, clipped=True, each_order=False, each_text=False, swapped=False):
    """chrF with its choices made otherwise."""

    def score(predictions, references):
        if each_text:
            return sum(score_corpus([p], [r]) for p, r in zip(predictions, references)) / len(references)
        return score_corpus(predictions, references)

    def score_corpus(predictions, references):
        rows = []
        for n in range(1, order + 1):
            said = true = match = 0
            for prediction, reference in zip(predictions, references):
                a, b = ngrams(cut(prediction), n), ngrams(cut(reference), n)
                said, true = said + a.total(), true + b.total()
                match += (a & b).total() if clipped else sum(count for gram, count in a.items() if gram in b)
            rows.append((match / said if said else 0.0, match / true if true else 0.0))
        if each_order:
            return sum(f(p, r) for p, r in rows) / order
        return f(sum(p for p, _ in rows) / order, sum(r for _, r in rows) / order)

    def f(p, r):
        p, r = (r, p) if swapped else (p, r)
        return (1 + beta**2) * p * r / (beta**2 * p + r) if p + r else 0.0

    return score


# ---------------------------------------------------------------------------------------------- mcnemar


def _mcnemar_cases():
    def pair(both: int, first: int, second: int, none: int):
        return ([True] * (both + first) + [False] * (second + none), [True] * both + [False] * first + [True] * second + [False] * none)

    return [pair(50, 10, 2, 38), pair(3, 1, 6, 0), pair(5, 4, 4, 2), pair(8, 0, 0, 2)]


def _only(first, second):
    return sum(a and not b for a, b in zip(first, second)), sum(b and not a for a, b in zip(first, second))


def _tail(n, k):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def _mcnemar_one_sided(first, second):
    a, b = _only(first, second)
    return McNemar(a, b, _tail(a + b, min(a, b)))


def _mcnemar_uncapped(first, second):
    a, b = _only(first, second)
    return McNemar(a, b, 2 * _tail(a + b, min(a, b)))


def _mcnemar_all_items(first, second):
    a, b = _only(first, second)
    return McNemar(a, b, min(1.0, 2 * _tail(len(first), min(a, b))))


def _mcnemar_chi_square(first, second):
    a, b = _only(first, second)
    return McNemar(a, b, math.erfc(math.sqrt((a - b) ** 2 / (a + b) / 2)) if a + b else 1.0)


def _mcnemar_totals(first, second):
    a, b = sum(first), sum(second)
    return McNemar(a, b, min(1.0, 2 * _tail(a + b, min(a, b))))


# ---------------------------------------------------------------------------------------------- choose


def _choose_cases():
    return [
        (np.array([[-4.0, -9.0], [-7.0, -6.0], [-2.0, -3.0]]),),
        (np.array([[-4.0, -6.0, -7.0], [-3.0, -9.0, -6.0]]), np.array([[2, 6, 1], [2, 3, 1]])),
        (np.array([[-8.0, -5.0, -12.0], [-3.0, -3.5, -1.0]]), np.array([[4, 2, 7], [2, 5, 1]])),
    ]


def _choose_ignoring(log_likelihoods, lengths=None):
    return np.argmax(log_likelihoods, axis=-1)


def _choose_times(log_likelihoods, lengths=None):
    return np.argmax(log_likelihoods if lengths is None else log_likelihoods * lengths, axis=-1)


def _choose_smallest(log_likelihoods, lengths=None):
    return np.argmin(log_likelihoods if lengths is None else log_likelihoods / lengths, axis=-1)


def _choose_columns(log_likelihoods, lengths=None):
    return np.argmax(log_likelihoods if lengths is None else log_likelihoods / lengths, axis=0)


# ---------------------------------------------------------------------------------------------- keep_top_p


def _top_p_cases():
    return [
        (torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), 0.7),
        (torch.tensor([[0.1, 0.6, 0.05, 0.25], [0.2, 0.3, 0.4, 0.1]]).log(), 0.55),
        (2 * normal(3, 8, seed=4), 0.9),
    ]


def _shares(logits):
    ordered, order = logits.sort(dim=-1, descending=True)
    return ordered.softmax(-1), order


def _drop(logits, order, beyond, value=-math.inf):
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), value)


def _top_p_without_crossing(logits, p):
    shares, order = _shares(logits)
    return _drop(logits, order, shares.cumsum(-1) > p)


def _top_p_zeros(logits, p):
    shares, order = _shares(logits)
    return _drop(logits, order, shares.cumsum(-1) - shares >= p, 0.0)


def _top_p_not_put_back(logits, p):
    shares, _ = _shares(logits)
    return logits.masked_fill(shares.cumsum(-1) - shares >= p, -math.inf)


def _top_p_unsorted(logits, p):
    shares = logits.softmax(-1)
    return logits.masked_fill(shares.cumsum(-1) - shares >= p, -math.inf)


def _top_p_least_likely(logits, p):
    ordered, order = logits.sort(dim=-1)
    shares = ordered.softmax(-1)
    return _drop(logits, order, shares.cumsum(-1) - shares >= p)


def _top_p_as_min_p(logits, p):
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.amax(-1, keepdim=True), -math.inf)


# ---------------------------------------------------------------------------------------------- penalise_repetition


def _penalty_cases():
    return [
        (torch.tensor([[2.0, -1.0, 0.5, 3.0]]), torch.tensor([[0, 1]]), 2.0),
        (torch.tensor([[1.0, -2.0, 4.0], [-1.0, 3.0, 0.2]]), torch.tensor([[2, 2, 2], [0, 1, 0]]), 1.5),
        (normal(2, 6, seed=3), torch.tensor([[5], [2]]), 1.2),
    ]


def _penalty(change, one_row=False, in_place=False, each_time=False):
    def penalise(logits, ids, penalty):
        out = logits if in_place else logits.clone()
        for row in range(len(logits)):
            seen = ids[0 if one_row else row].tolist()
            for token in seen if each_time else set(seen):
                out[row, token] = change(out[row, token], penalty)
        return out

    return penalise


def _right_penalty(value, penalty):
    return value / penalty if value > 0 else value * penalty


# ---------------------------------------------------------------------------------------------- beam_step


def _beam_cases():
    return [
        (torch.tensor([-1.0, -1.2]), torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]).log(), 2),
        (torch.tensor([-0.1, -5.0]), torch.tensor([[0.4, 0.35, 0.15, 0.1], [0.7, 0.1, 0.1, 0.1]]).log(), 3),
        (torch.tensor([0.0]), normal(1, 6, seed=2).log_softmax(-1), 4),
    ]


def _beam_greedy(scores, log_probabilities, keep):
    best = log_probabilities.max(dim=-1)
    totals, parents = (scores + best.values).sort(descending=True)
    return parents[:keep], best.indices[parents][:keep], totals[:keep]


def _beam(total, swapped=False):
    def step(scores, log_probabilities, keep):
        totals = total(scores, log_probabilities).flatten()
        best, where = totals.topk(min(keep, len(totals)))
        parents, tokens = where // log_probabilities.shape[-1], where % log_probabilities.shape[-1]
        return (tokens, parents, best) if swapped else (parents, tokens, best)

    return step


def _beam_by_beams(scores, log_probabilities, keep):
    best, where = (scores[:, None] + log_probabilities).flatten().topk(keep)
    return where // len(scores), where % len(scores), best


def _beam_most_probable(scores, log_probabilities, keep):
    parents, tokens, totals = beam_step(scores, log_probabilities, keep)
    return parents, tokens, totals.exp()


# ---------------------------------------------------------------------------------------------- extract_choice

_CITIES = ["부산", "서울", "인천", "대전"]


def _extract_cases():
    texts = ("정답은 B이다.", "B", "답: (C)", "A도 항구이지만 정답은 D이다.", "정답은 B이다. A는 항구이다.", "③", "2번이다.", "모르겠다.",
             "A일 수도 있고 B일 수도 있다.", "Apple은 사과이다.")
    return [(text, list(_CITIES)) for text in texts]


def _letters(text, words=False):
    pattern = r"[A-D]" if words else r"(?<![A-Za-z])[A-D](?![A-Za-z])"
    return ["ABCD".index(letter) for letter in re.findall(pattern, text)]


def _numbers_to_letters(text):
    text = re.sub("[①-④]", lambda found: "ABCD"["①②③④".index(found[0])], text)
    return re.sub("([1-4])번", lambda found: "ABCD"[int(found[1]) - 1], text)


def _extract(words=False, numbers=True, default=None, pick=None):
    """What a student might write, with one weakness."""

    def extract(text, choices):
        text = _numbers_to_letters(text) if numbers else text
        said = re.search(r"(?:정답|답)\S*\s*\(?([A-D])", text)
        if said and pick is None:
            return "ABCD".index(said[1])
        found = _letters(text, words)
        if pick is not None:
            return found[pick] if found else default
        return found[0] if len(set(found)) == 1 else default

    return extract


def _extract_strict(text, choices):
    said = re.search(r"정답은 ([A-D])", text)
    return "ABCD".index(said[1]) if said else None


# ---------------------------------------------------------------------------------------------- vote


def _vote_cases():
    return [([7, 8, 7, None, 9],), ([None, None, None, 4],), (["나", "가", "가", "나", "다"],), ([3, 1, 2],), ([2, 5, 5],),
            ([None, None],), ([],)]


def _vote_counts_none(answers):
    return Counter(answers).most_common(1)[0][0] if answers else None


def _vote_first(answers):
    return next((answer for answer in answers if answer is not None), None)


def _vote_last_of_equals(answers):
    counts = Counter(answer for answer in reversed(answers) if answer is not None)
    return max(counts, key=counts.get) if counts else None


def _vote_smallest_of_equals(answers):
    counts = Counter(answer for answer in answers if answer is not None)
    return max(sorted(counts), key=counts.get) if counts else None


def _vote_majority_only(answers):
    counts = Counter(answer for answer in answers if answer is not None)
    return next((answer for answer, count in counts.items() if count > len(answers) / 2), None)


# ---------------------------------------------------------------------------------------------- declarations

EXERCISES = [
    Exercise(
        name="f1", title="매크로 F1", difficulty=2, minutes=15, reference=f1, cases=_f1_cases,
        hints=(
            "라벨마다 F1을 하나씩 구하고, 마지막에 라벨의 수로 평균을 낸다. 드문 라벨도 흔한 라벨과 똑같이 한 표다.",
            "라벨 하나에는 수가 셋 필요하다: 맞힌 수, 그 라벨이라고 답한 수, 그 라벨이 정답인 수. 예측에만 나온 라벨도 센다.",
            "라벨 하나의 F1은 2 × 맞힌 수 / (답한 수 + 정답인 수)이다. 예측과 정답의 합집합에 대해 더하고 라벨의 수로 나눈다.",
        ),
        mistakes=(
            Mistake(_f1_accuracy, "정확도다. 한 라벨만 답해도 높게 나온다. 라벨마다 F1을 구한 다음 평균한다."),
            Mistake(_f1_weighted, "라벨의 빈도로 무게를 주었다. 매크로 평균에서는 모든 라벨의 무게가 같다."),
            Mistake(_f1_references_only, "정답에 나온 라벨만 셌다. 예측에만 나온 라벨은 F1이 0인 라벨로 함께 평균한다."),
            Mistake(_f1_of_means, "정밀도와 재현율을 먼저 평균했다. 라벨마다 F1을 구하고 나서 평균한다."),
            Mistake(_f1_arithmetic, "정밀도와 재현율을 산술 평균했다. F1은 조화 평균이라서 낮은 쪽에 가깝다."),
        ),
    ),
    Exercise(
        name="chrf", title="문자 n-그램 F 점수(chrF)", difficulty=4, minutes=25, reference=chrf, cases=_chrf_cases,
        hints=(
            "n = 1…6마다 정밀도와 재현율을 하나씩 구해 각각 평균하고, 마지막에 F를 한 번 구한다.",
            "한 n에 대해 모든 글의 수를 먼저 더한다: 예측의 n-그램 수, 정답의 n-그램 수, 겹치는 수. "
            "겹치는 수는 두 Counter의 작은 쪽(`a & b`)이다.",
            "띄어쓰기를 뺀 문자는 `units(글)`, n-그램의 수는 `ngrams(문자들, n)`이 준다. β = 2로 "
            "(1 + β²) · 정밀도 · 재현율 / (β² · 정밀도 + 재현율)을 돌려준다.",
        ),
        mistakes=(
            Mistake(_chrf(cut=list), "띄어쓰기까지 문자로 셌다. chrF는 공백을 빼고 센다."),
            Mistake(_chrf(cut=str.split, order=1), "어절로 나누었다. 조사 하나만 달라도 겹치는 것이 없어진다. 문자로 나눈다."),
            Mistake(_chrf(beta=1.0), "β가 1이다. chrF는 재현율을 두 배 중요하게 본다(β = 2)."),
            Mistake(_chrf(clipped=False), "예측이 같은 것을 되풀이할수록 점수가 오른다. 겹치는 수는 정답에 나온 만큼까지만 센다."),
            Mistake(_chrf(each_order=True), "n마다 F를 구해 평균했다. 정밀도와 재현율을 각각 평균한 다음 F를 한 번 구한다."),
            Mistake(_chrf(each_text=True), "글마다 점수를 내어 평균했다. 모든 글의 수를 먼저 더하면 긴 글이 그만큼 무게를 갖는다."),
            Mistake(_chrf(swapped=True), "정밀도와 재현율이 바뀌었다. 예측의 n-그램 수로 나눈 것이 정밀도다."),
        ),
    ),
    Exercise(
        name="mcnemar", title="두 모델의 차이는 우연인가", difficulty=3, minutes=20, reference=mcnemar, cases=_mcnemar_cases,
        hints=(
            "둘 다 맞힌 문항과 둘 다 틀린 문항은 누가 나은지 말해 주지 않는다. 한쪽만 맞힌 문항만 센다.",
            "두 모델이 똑같다면 그런 문항 n개는 동전처럼 양쪽으로 갈린다. 적은 쪽이 k개 이하일 확률은 Σ C(n, i) / 2ⁿ (i = 0…k)이다.",
            "`math.comb(n, i)`를 k까지 더해 `2**n`으로 나누고 2를 곱한다(양쪽). 1을 넘으면 1이다. `McNemar(첫째만, 둘째만, p)`를 돌려준다.",
        ),
        mistakes=(
            Mistake(_mcnemar_one_sided, "한쪽 꼬리만 셌다. 어느 쪽이 나은지 미리 정하지 않았으므로 2를 곱한다."),
            Mistake(_mcnemar_uncapped, "확률이 1을 넘었다. 반반으로 갈리면 두 꼬리가 겹치므로 1에서 자른다."),
            Mistake(_mcnemar_all_items, "n에 모든 문항을 넣었다. 한쪽만 맞힌 문항의 수가 n이다."),
            Mistake(_mcnemar_chi_square, "카이제곱으로 어림했다. 문항이 적으면 크게 어긋난다. 이항 분포로 정확히 센다."),
            Mistake(_mcnemar_totals, "맞힌 수 전체를 견주었다. 같은 문항을 풀었으므로 한쪽만 맞힌 문항끼리 견준다."),
        ),
    ),
    Exercise(
        name="choose", title="우도로 답 고르기", difficulty=1, minutes=10, reference=choose, cases=_choose_cases,
        hints=(
            "로그 우도는 음수다. 0에 가까울수록 모델이 그럴듯하다고 본 답이다.",
            "lengths를 받으면 길이로 나눈 평균을 견준다. 긴 답은 더할 것이 많아서 합으로는 늘 불리하다.",
            "줄마다(axis=-1) `np.argmax`를 한다. lengths가 None이면 그대로, 아니면 나눈 다음에 고른다.",
        ),
        mistakes=(
            Mistake(_choose_ignoring, "lengths를 쓰지 않았다. 받았으면 로그 우도를 길이로 나눈다."),
            Mistake(_choose_times, "길이를 곱했다. 긴 답이 더 불리해진다. 나눈다."),
            Mistake(_choose_smallest, "가장 작은 것을 골랐다. 로그 우도는 클수록(0에 가까울수록) 그럴듯하다."),
            Mistake(_choose_columns, "세로로 골랐다. 문항은 줄이고 보기는 칸이다. 줄마다 하나를 고른다(axis=-1)."),
        ),
    ),
    Exercise(
        name="keep_top_p", title="top-p 거르기", difficulty=3, minutes=20, reference=keep_top_p, cases=_top_p_cases,
        hints=(
            "큰 것부터 줄을 세우고 확률을 더해 간다. 합이 p에 닿을 때까지의 토큰만 남긴다.",
            "토큰 하나를 버리는 조건은 '나보다 앞선 토큰들의 합이 이미 p 이상'이다. 앞선 합은 누적합에서 자기 몫을 뺀 것이다.",
            "`logits.sort(dim=-1, descending=True)`의 순서로 가릴 곳을 정하고, "
            "`torch.zeros_like(가릴 곳).scatter(-1, 순서, 가릴 곳)`으로 원래 자리에 되돌려 `masked_fill`로 −∞를 넣는다.",
        ),
        mistakes=(
            Mistake(_top_p_without_crossing, "p를 넘기는 토큰까지 버렸다. 남은 합이 p보다 작고, 확신이 큰 줄에는 아무것도 남지 않는다."),
            Mistake(_top_p_zeros, "버린 자리에 0을 넣었다. 로짓 0도 확률이 있다. −∞를 넣는다."),
            Mistake(_top_p_not_put_back, "줄을 세운 순서의 가림막을 원래 순서에 씌웠다. scatter로 원래 자리에 되돌린다."),
            Mistake(_top_p_unsorted, "줄을 세우지 않았다. 번호가 작은 토큰부터 더하게 된다."),
            Mistake(_top_p_least_likely, "작은 것부터 더했다. 가장 그럴듯한 토큰이 버려진다. descending=True로 줄을 세운다."),
            Mistake(_top_p_as_min_p, "가장 큰 확률의 p배와 견주었다. 그것은 min-p다. top-p는 합이 p가 될 때까지 남긴다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="penalise_repetition", title="반복 벌점", difficulty=2, minutes=15, reference=penalise_repetition, cases=_penalty_cases,
        hints=(
            "이미 나온 토큰의 로짓만 낮춘다. 양수를 낮추는 셈과 음수를 낮추는 셈이 다르다.",
            "양수는 penalty로 나누고 음수에는 penalty를 곱하면 둘 다 작아진다. 여러 번 나왔어도 한 번만 낮춘다.",
            "`logits.gather(-1, ids)`로 나온 토큰의 로짓을 꺼내 `torch.where(값 > 0, 나눈 것, 곱한 것)`으로 고치고 "
            "`logits.scatter(-1, ids, 고친 것)`을 돌려준다.",
        ),
        mistakes=(
            Mistake(_penalty(lambda value, penalty: value / penalty), "음수도 나누었다. 음수를 나누면 0에 가까워져 오히려 자주 나온다."),
            Mistake(_penalty(_right_penalty, each_time=True), "나온 횟수만큼 거듭 낮추었다. 몇 번 나왔든 벌점은 한 번이다."),
            Mistake(_penalty(lambda value, penalty: value - penalty), "penalty를 뺐다. 여기서 penalty는 비율이다. 나누거나 곱한다."),
            Mistake(_penalty(_right_penalty, in_place=True), "받은 logits를 고쳤다. 다음 계산이 달라지지 않게 새 텐서를 돌려준다."),
            Mistake(_penalty(_right_penalty, one_row=True), "첫 줄의 토큰으로 모든 줄을 낮추었다. 줄마다 나온 토큰이 다르다."),
            Mistake(_penalty(lambda value, penalty: value * 0 - math.inf), "아예 막았다. 나온 토큰을 다시 쓸 수 없으면 조사도 쓸 수 없다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="beam_step", title="빔 탐색 한 걸음", difficulty=3, minutes=20, reference=beam_step, cases=_beam_cases,
        hints=(
            "빔마다 따로 고르지 않는다. 모든 빔의 모든 다음 토큰을 한 줄로 세워 그 가운데 가장 좋은 keep개를 고른다.",
            "이어 쓴 글의 점수는 빔의 점수에 다음 토큰의 로그 확률을 더한 것이다. 모양 (빔, 어휘)를 한 줄로 펴서 topk를 한다.",
            "펴진 자리를 어휘 크기로 나눈 몫이 빔이고 나머지가 토큰이다. (빔, 토큰, 점수)의 순서로 돌려준다. "
            "keep이 모든 경우의 수보다 크면 있는 만큼만 고른다.",
        ),
        mistakes=(
            Mistake(_beam_greedy, "빔마다 하나씩 골랐다. 좋은 빔 하나에서 둘이 나오고 나쁜 빔은 버려질 수 있어야 한다."),
            Mistake(_beam(lambda scores, rows: rows), "지금까지의 점수를 더하지 않았다. 글 전체의 로그 확률로 견준다."),
            Mistake(_beam(lambda scores, rows: scores[:, None] * rows), "로그 확률을 곱했다. 확률의 곱은 로그의 합이다."),
            Mistake(_beam(lambda scores, rows: scores[:, None] + rows, swapped=True),
                    "빔과 토큰이 바뀌었다. 몫이 빔이고 나머지가 토큰이다."),
            Mistake(_beam_by_beams, "빔의 수로 나누었다. 한 빔에 어휘 크기만큼의 칸이 있으므로 어휘 크기로 나눈다."),
            Mistake(_beam_most_probable, "점수를 확률로 바꾸었다. 긴 글의 확률은 0이 되어 버린다. 로그 확률 그대로 둔다."),
        ),
        tolerance=1e-5,
    ),
    Exercise(
        name="extract_choice", title="글에서 고른 보기 읽기", difficulty=3, minutes=20, reference=extract_choice, cases=_extract_cases,
        hints=(
            "'정답은 B'처럼 분명히 말한 곳이 있으면 그곳을 믿고, 없으면 글 전체를 본다. 그래도 하나로 정해지지 않으면 None이다.",
            "먼저 ②와 2번을 같은 뜻의 B로 바꾼다. 분명히 말한 곳은 `(?:정답|답)\\S*\\s*\\(?([A-D])` 같은 정규식으로 찾는다.",
            "글 전체에서는 앞뒤가 영문자가 아닌 A–D만 찾고(`(?<![A-Za-z])[A-D](?![A-Za-z])`), "
            "서로 다른 것이 정확히 하나일 때만 그 번호를 돌려준다.",
        ),
        mistakes=(
            Mistake(_extract(default=0), "답이 없을 때 A를 골랐다. A가 정답인 문항만큼 점수를 공짜로 얻는다. None을 돌려준다."),
            Mistake(_extract(pick=0), "처음 나온 글자를 골랐다. 풀이에서 다른 보기를 먼저 말할 수 있다. '정답은' 뒤를 먼저 본다."),
            Mistake(_extract(pick=-1), "마지막에 나온 글자를 골랐다. 답을 말한 뒤에 다른 보기를 설명할 수 있다. '정답은' 뒤를 먼저 본다."),
            Mistake(_extract(words=True), "낱말 속의 글자까지 보기로 읽었다. Apple의 A는 보기가 아니다."),
            Mistake(_extract(numbers=False), "②와 2번을 읽지 못했다. 한국어 답은 번호로 나올 때가 많다."),
            Mistake(_extract_strict, "'정답은 B'라는 꼴만 읽었다. 'B' 한 글자나 '답: (C)'도 답이다."),
        ),
    ),
    Exercise(
        name="vote", title="여러 번 물어 다수결로", difficulty=1, minutes=10, reference=vote, cases=_vote_cases,
        hints=(
            "None은 답을 읽지 못했다는 뜻이지 답이 아니다. 먼저 뺀다.",
            "`Counter`는 처음 나온 순서를 기억한다. 수가 같으면 먼저 나온 답을 고른다.",
            "남은 답이 없으면 None, 있으면 `max(수, key=수.get)`을 돌려준다. max는 같은 것 가운데 처음 것을 준다.",
        ),
        mistakes=(
            Mistake(_vote_counts_none, "None도 한 표로 셌다. 읽지 못한 답이 많으면 답이 없어진다."),
            Mistake(_vote_first, "처음 답을 골랐다. 가장 많이 나온 답을 고른다."),
            Mistake(_vote_last_of_equals, "수가 같을 때 나중에 나온 답을 골랐다. 먼저 나온 답을 고른다."),
            Mistake(_vote_smallest_of_equals, "수가 같을 때 가장 작은 답을 골랐다. 먼저 나온 답을 고른다."),
            Mistake(_vote_majority_only, "절반을 넘어야만 골랐다. 절반이 안 되어도 가장 많은 답을 고른다."),
        ),
    ),
]

check = checker(week=7, exercises=EXERCISES)
