"""Exercises of week 1: a first language model by counting."""

from __future__ import annotations

import math
import random

from workshop_lib import first_model
from workshop_lib.exercises import Exercise, Mistake, checker
from workshop_lib.first_model import END, START, draw, to_probabilities, with_temperature


def _no_start(texts):
    table = {}
    for text in texts:
        for before, after in zip(text, text[1:]):
            table.setdefault(before, {}).setdefault(after, 0)
            table[before][after] += 1
    return table


def _no_end(texts):
    table = first_model.count_next(texts)
    cleaned = {b: {a: n for a, n in row.items() if a != END} for b, row in table.items()}
    return {b: row for b, row in cleaned.items() if row}


def _across_texts(texts):
    return first_model.count_next(["".join(texts)])


def _once_each(texts):
    return {b: dict.fromkeys(row, 1) for b, row in first_model.count_next(texts).items()}


def _by_largest(counts):
    return {symbol: count / max(counts.values()) for symbol, count in counts.items()}


def _by_length(counts):
    return {symbol: count / len(counts) for symbol, count in counts.items()}


def _integer_division(counts):
    total = sum(counts.values())
    return {symbol: count // total for symbol, count in counts.items()}


def _uniform(counts):
    return dict.fromkeys(counts, 1 / len(counts))


def _power_t(probabilities, temperature):
    scaled = {s: p**temperature for s, p in probabilities.items()}
    return {s: v / sum(scaled.values()) for s, v in scaled.items()}


def _not_normalised(probabilities, temperature):
    return {s: p ** (1 / temperature) for s, p in probabilities.items()}


def _softmax_of_probabilities(probabilities, temperature):
    scaled = {s: math.exp(p / temperature) for s, p in probabilities.items()}
    return {s: v / sum(scaled.values()) for s, v in scaled.items()}


def _divided(probabilities, temperature):
    scaled = {s: p / temperature for s, p in probabilities.items()}
    return {s: v / sum(scaled.values()) for s, v in scaled.items()}


def _greedy(probabilities, u):
    return max(probabilities, key=probabilities.get)


def _no_cumulation(probabilities, u):
    for symbol, p in probabilities.items():
        if u < p:
            return symbol
    return symbol


def _one_late(probabilities, u):
    cumulative = 0.0
    for symbol, p in probabilities.items():
        if u < cumulative:
            return symbol
        cumulative += p
    return symbol


def _always_start(table, temperature, rng, limit=60):
    text = ""
    while len(text) < limit:
        symbol = draw(with_temperature(to_probabilities(table[START]), temperature), rng.random())
        if symbol == END:
            break
        text += symbol
    return text


def _keeps_end(table, temperature, rng, limit=60):
    text = ""
    while len(text) < limit and not text.endswith(END):
        counts = table[text[-1] if text else START]
        text += draw(with_temperature(to_probabilities(counts), temperature), rng.random())
    return text


def _no_temperature(table, temperature, rng, limit=60):
    return first_model.generate(table, 1.0, rng, limit)


def _natural_log(probabilities):
    values = [-math.log(p) for p in probabilities]
    return sum(values) / len(values)


def _sum_only(probabilities):
    return sum(-math.log2(p) for p in probabilities)


def _log_of_mean(probabilities):
    values = list(probabilities)
    return -math.log2(sum(values) / len(values))


def _sign(probabilities):
    values = [math.log2(p) for p in probabilities]
    return sum(values) / len(values)


_SKEWED = {"가": 0.7, "나": 0.2, "다": 0.1}
_TABLE = first_model.count_next(["나비가 날아간다.", "나무가 자란다.", "비가 온다.", "나는 간다."])

EXERCISES = [
    Exercise(
        name="count_next", title="다음 글자 세기", difficulty=2, minutes=10, reference=first_model.count_next,
        cases=lambda: [(["나비"],), (["가가가", "가나"],), (["나비", "나무", "비"],), ([],)],
        hints=(
            "글 앞에 START, 뒤에 END를 붙인 문자열을 먼저 만든다.",
            "한 칸 어긋난 두 문자열을 `zip`으로 나란히 훑으면 (앞 글자, 뒤 글자) 쌍이 나온다.",
            "`table.setdefault(앞, {})`로 줄을 만들고, 그 줄의 뒤 글자 값을 `get(뒤, 0) + 1`로 올린다.",
        ),
        mistakes=(
            Mistake(_no_start, "START와 END가 세어지지 않았다. 글 앞뒤에 표시를 붙인 뒤에 센다."),
            Mistake(_no_end, "END가 빠졌다. 글이 어디서 끝나는지도 배워야 생성이 멈춘다."),
            Mistake(_across_texts, "글과 글 사이가 이어졌다. 글마다 따로 START와 END를 붙인다."),
            Mistake(_once_each, "같은 쌍이 여러 번 나오면 그 수만큼 세어야 한다."),
        ),
    ),
    Exercise(
        name="to_probabilities", title="횟수를 확률로", difficulty=1, minutes=5, reference=to_probabilities,
        cases=lambda: [({"가": 3, "나": 1},), ({"다": 5},), ({"가": 1, "나": 2, "다": 7},)],
        hints=("확률은 모두 더하면 1이다.", "모든 횟수의 합으로 나눈다."),
        mistakes=(
            Mistake(_by_largest, "가장 큰 값으로 나누었다. 합이 1이 되려면 합으로 나눈다."),
            Mistake(_by_length, "글자의 가짓수로 나누었다. 횟수의 합으로 나눈다."),
            Mistake(_integer_division, "`//`는 소수점 아래를 버린다. `/`로 나눈다."),
            Mistake(_uniform, "횟수가 반영되지 않았다. 자주 나온 글자의 확률이 더 커야 한다."),
        ),
    ),
    Exercise(
        name="with_temperature", title="온도", difficulty=3, minutes=15, reference=with_temperature,
        cases=lambda: [(_SKEWED, 1.0), (_SKEWED, 0.5), (_SKEWED, 2.0), ({"가": 0.25, "나": 0.75}, 0.8), (_SKEWED, 0)],
        hints=(
            "각 확률을 1/T 제곱한 뒤 합이 1이 되게 나눈다.",
            "T가 1이면 그대로여야 하고, T가 작으면 큰 확률이 더 커져야 한다.",
            "T가 0이면 나눗셈을 할 수 없다. 가장 큰 것에 1, 나머지에 0을 준다.",
        ),
        mistakes=(
            Mistake(_power_t, "T 제곱을 했다. 1/T 제곱이라야 낮은 온도에서 뾰족해진다."),
            Mistake(_not_normalised, "합이 1이 아니다. 제곱한 값들을 그 합으로 나눈다."),
            Mistake(_softmax_of_probabilities, "확률에 exp를 씌웠다. 이미 확률이므로 로그를 거치지 않고 바로 1/T 제곱한다."),
            Mistake(_divided, "T로 나누고 다시 정규화하면 아무것도 달라지지 않는다. 나누지 말고 거듭제곱한다."),
        ),
    ),
    Exercise(
        name="draw", title="확률대로 뽑기", difficulty=2, minutes=10, reference=draw,
        cases=lambda: [(_SKEWED, 0.0), (_SKEWED, 0.69), (_SKEWED, 0.75), (_SKEWED, 0.95), ({"가": 0.1, "나": 0.9}, 0.15)],
        hints=(
            "0에서 1까지의 자를 확률만큼의 칸으로 나누고, u가 어느 칸에 드는지 찾는다.",
            "확률을 차례로 더해 가다가 합이 u를 처음 넘는 글자를 돌려준다.",
        ),
        mistakes=(
            Mistake(_greedy, "u와 상관없이 가장 큰 것만 골랐다. u가 드는 칸의 글자를 고른다."),
            Mistake(_no_cumulation, "각 확률과 u를 따로 견주었다. 지금까지 더한 합과 견준다."),
            Mistake(_one_late, "견준 뒤에 더했다. 먼저 더하고 나서 u와 견준다."),
        ),
    ),
    Exercise(
        name="generate", title="한 글자씩 생성", difficulty=3, minutes=15, reference=first_model.generate,
        cases=lambda: [(_TABLE, t, random.Random(seed), limit) for t, seed, limit in ((1.0, 0, 60), (0.5, 1, 60), (1.0, 2, 5), (0, 3, 8))],
        hints=(
            "마지막 글자의 줄을 표에서 찾아 다음 글자를 뽑고, 붙이고, 되풀이한다.",
            "아직 글자가 없으면 START의 줄을 쓴다.",
            "END가 뽑히면 붙이지 말고 멈춘다. `rng.random()`은 글자마다 한 번만 부른다.",
        ),
        mistakes=(
            Mistake(_always_start, "늘 START의 줄에서 뽑았다. 글자가 생긴 뒤에는 마지막 글자의 줄을 쓴다."),
            Mistake(_keeps_end, "END가 글에 들어갔다. END가 나오면 붙이지 않고 멈춘다."),
            Mistake(_no_temperature, "온도가 쓰이지 않았다. 뽑기 전에 with_temperature를 거친다."),
        ),
    ),
    Exercise(
        name="bits_per_character", title="문자당 비트", difficulty=2, minutes=10, reference=first_model.bits_per_character,
        cases=lambda: [([0.5, 0.5],), ([0.5, 0.125],), ([1.0],), ([0.9, 0.01, 0.3],), ([0.5, 0.0],), ([],)],
        hints=(
            "확률 1/2인 글자 하나는 1비트, 1/8이면 3비트다.",
            "−log₂ p의 평균을 낸다.",
            "확률이 0이면 `math.inf`, 글자가 없으면 `WorkshopError`를 낸다.",
        ),
        mistakes=(
            Mistake(_natural_log, "자연로그를 썼다. 비트는 밑이 2인 로그로 센다."),
            Mistake(_sum_only, "합을 돌려주었다. 글자 수로 나눈 평균이라야 길이가 다른 글과 견줄 수 있다."),
            Mistake(_log_of_mean, "평균의 로그를 냈다. 글자마다 로그를 먼저 내고 평균한다."),
            Mistake(_sign, "부호가 반대다. 확률이 1보다 작으면 log는 음수이므로 −를 붙인다."),
        ),
    ),
]
check = checker(week=1, exercises=EXERCISES)
