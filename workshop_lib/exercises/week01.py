"""Exercises of week 1: a first language model by counting."""

from __future__ import annotations

import math
import random

from workshop_lib import WorkshopError, first_model
from workshop_lib.exercises import Exercise, Mistake, checker
from workshop_lib.first_model import END, START, count_next, draw, neighbours, to_probabilities, with_temperature


def _pairs(text, start=START, end=END, step=1):
    marked = start + text + end
    return list(zip(marked[::step], marked[1::step]))


def _pair_past_the_end(text):
    marked = START + text + END
    return [(marked[i], marked[i + 1]) for i in range(len(marked))]


def _count(texts, start=START, end=END, step=1):
    table = {}
    for text in texts:
        marked = start + text + end
        for before, after in zip(marked[::step], marked[1::step]):
            table.setdefault(before, {}).setdefault(after, 0)
            table[before][after] += 1
    return table


def _across_texts(texts):
    return count_next(["".join(texts)])


def _once_each(texts):
    return {before: dict.fromkeys(row, 1) for before, row in count_next(texts).items()}


def _reversed(texts):
    table = {}
    for before, row in count_next(texts).items():
        for after, count in row.items():
            table.setdefault(after, {})[before] = count
    return table


def _one_level(texts):
    return {(before, after): n for before, row in count_next(texts).items() for after, n in row.items()}


def _overwritten(texts):
    return {before: {after: 1} for text in texts for before, after in zip(START + text, text + END)}


def _no_default(texts):
    table = {}
    for text in texts:
        for before, after in zip(START + text, text + END):
            table.setdefault(before, {})[after] += 1
    return table


def _past_the_end(texts):
    for text in texts:
        marked = START + text + END
        [marked[i + 1] for i in range(len(marked))]
    return {}


def _first_text_only(texts):
    return count_next(texts[:1]) if texts else None


def _collected(texts):
    return {before: [a for a, n in row.items() for _ in range(n)] for before, row in count_next(texts).items()}


def _sum_of_keys(counts):
    return {symbol: count / sum(counts) for symbol, count in counts.items()}


def _softmax_of_counts(counts):
    scaled = {symbol: math.exp(count) for symbol, count in counts.items()}
    return to_probabilities(scaled)


def _cold(probabilities, temperature, rule):
    """A mistake that handles temperature 0 well, so that it is told by what it does elsewhere."""
    return with_temperature(probabilities, 0) if temperature == 0 else rule(probabilities)


def _power_t(probabilities, temperature):
    return _cold(probabilities, temperature, lambda q: to_probabilities({s: p**temperature for s, p in q.items()}))


def _not_normalised(probabilities, temperature):
    return _cold(probabilities, temperature, lambda q: {s: p ** (1 / temperature) for s, p in q.items()})


def _softmax_of_probabilities(probabilities, temperature):
    return _cold(probabilities, temperature, lambda q: to_probabilities({s: math.exp(p / temperature) for s, p in q.items()}))


def _divided(probabilities, temperature):
    return _cold(probabilities, temperature, lambda q: to_probabilities({s: p / temperature for s, p in q.items()}))


def _logarithm_kept(probabilities, temperature):
    return _cold(probabilities, temperature, lambda q: to_probabilities({s: math.log(p) / temperature for s, p in q.items()}))


def _zero_unhandled(probabilities, temperature):
    return to_probabilities({s: p ** (1 / temperature) for s, p in probabilities.items()})


def _zero_symbol(probabilities, temperature):
    return with_temperature(probabilities, temperature) if temperature else max(probabilities, key=probabilities.get)


def _zero_as_one(probabilities, temperature):
    return with_temperature(probabilities, temperature or 1)


def _zero_alone(probabilities, temperature):
    return {s: p for s, p in with_temperature(probabilities, temperature).items() if p}


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


def _other_way_round(probabilities, u):
    cumulative = 0.0
    for symbol, p in probabilities.items():
        cumulative += p
        if cumulative < u:
            return symbol
    return None


def _equal_too(probabilities, u):
    cumulative = 0.0
    for symbol, p in probabilities.items():
        cumulative += p
        if u <= cumulative:
            return symbol
    return symbol


def _no_last(probabilities, u):
    cumulative = 0.0
    for symbol, p in probabilities.items():
        cumulative += p
        if u < cumulative:
            return symbol
    return None


def _last_hit(probabilities, u):
    return list(probabilities)[-1]


def _sorted_first(probabilities, u):
    return draw(dict(sorted(probabilities.items(), key=lambda pair: pair[1])), u)


def _even(probabilities, u):
    return list(probabilities)[int(u * len(probabilities))]


class _Seeded(random.Random):
    """A generator whose repr can be typed in, for the message."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def __repr__(self) -> str:
        return f"random.Random({self.number})"


class _Table(dict):
    """A table of counts whose repr can be typed in, for the message."""

    def __repr__(self) -> str:
        return f"count_next({_TEXTS})"


_TEXTS = ["나비가 날아간다.", "나무가 자란다.", "비가 온다.", "나는 간다."]


def _generate(table, temperature, rng, limit, kept="", last=True, u=None):
    """`generate` with one thing wrong: text begins with `kept`, looks at START only (last=False), or reuses one u."""
    text = kept
    while len(text) < limit:
        counts = table[text[-1] if text and last else START]
        symbol = draw(with_temperature(to_probabilities(counts), temperature), rng.random() if u is None else u)
        if symbol == END:
            break
        text += symbol
    return text


def _always_start(table, temperature, rng, limit=60):
    return _generate(table, temperature, rng, limit, last=False)


def _keeps_start(table, temperature, rng, limit=60):
    return _generate(table, temperature, rng, limit, kept=START)


def _counts_start(table, temperature, rng, limit=60):
    return _generate(table, temperature, rng, limit, kept=START)[1:]


def _keeps_end(table, temperature, rng, limit=60):
    text = ""
    while len(text) < limit and not text.endswith(END):
        counts = table[text[-1] if text else START]
        text += draw(with_temperature(to_probabilities(counts), temperature), rng.random())
    return text


def _no_temperature(table, temperature, rng, limit=60):
    return first_model.generate(table, 1.0, rng, limit)


def _no_limit(table, temperature, rng, limit=60):
    return first_model.generate(table, temperature, rng, 60)


def _one_number(table, temperature, rng, limit=60):
    return _generate(table, temperature, rng, limit, u=rng.random())


def _empty_text(table, temperature, rng, limit=60):
    return table[""[-1]]


def _pieces(table, temperature, rng, limit=60):
    return list(first_model.generate(table, temperature, rng, limit))


def _scored(probabilities, bits, reduce=lambda values: sum(values) / len(values)):
    """`bits_per_character` that handles its edges well but takes other bits, or reduces them in another way."""
    if not probabilities:
        raise WorkshopError("")
    return math.inf if 0 in probabilities else reduce([bits(p) for p in probabilities])


def _natural_log(probabilities):
    return _scored(probabilities, lambda p: -math.log(p))


def _decimal_log(probabilities):
    return _scored(probabilities, lambda p: -math.log10(p))


def _sum_only(probabilities):
    return _scored(probabilities, lambda p: -math.log2(p), sum)


def _log_of_mean(probabilities):
    return _scored(probabilities, lambda p: p, lambda values: -math.log2(sum(values) / len(values)))


def _sign(probabilities):
    return -_scored(probabilities, lambda p: -math.log2(p))


def _weighted(probabilities):
    return _scored(probabilities, lambda p: -p * math.log2(p))


def _perplexity(probabilities):
    return 2 ** _scored(probabilities, lambda p: -math.log2(p))


def _zero_raises(probabilities):
    return math.log2(0) if 0 in probabilities else first_model.bits_per_character(probabilities)


def _zero_skipped(probabilities):
    return first_model.bits_per_character([p for p in probabilities if p > 0])


def _zero_costs_nothing(probabilities):
    return first_model.bits_per_character([p or 1.0 for p in probabilities])


def _nothing_is_zero(probabilities):
    return first_model.bits_per_character(probabilities) if probabilities else 0.0


def _nothing_divides(probabilities):
    return first_model.bits_per_character(probabilities) if probabilities else 0 / len(probabilities)


def _skewed():
    return {"가": 0.7, "나": 0.2, "다": 0.1}  # a fresh one for each case: a student's function may change it


def _temperatures():
    return [(_skewed(), 1.0), (_skewed(), 0.5), (_skewed(), 2.0), ({"가": 0.25, "나": 0.75}, 0.8), (_skewed(), 0)]


def _draws():
    tenths = dict.fromkeys("가나다라마바사아자차", 0.1)  # their sum is a hair below 1
    return [
        (_skewed(), 0.1), (_skewed(), 0.69), (_skewed(), 0.75), (_skewed(), 0.95), ({"가": 0.1, "나": 0.9}, 0.15),
        ({"가": 0.0, "나": 1.0}, 0.0), (tenths, math.nextafter(1, 0)),
    ]  # fmt: skip


def _generations():
    settings = ((1.0, 0, 60), (0.5, 1, 60), (1.0, 2, 5), (0, 3, 8))
    return [(_Table(count_next(_TEXTS)), temperature, _Seeded(seed), limit) for temperature, seed, limit in settings]


EXERCISES = [
    Exercise(
        name="neighbours", title="이웃한 두 글자", difficulty=1, minutes=5, reference=neighbours,
        cases=lambda: [("나비",), ("가",), ("나무가",), ("",)],
        hints=(
            "먼저 `START + text + END`로 표시를 붙인 문자열을 만든다. START와 END는 변수이므로 따옴표를 쓰지 않는다.",
            "첫 글자를 뗀 문자열은 `marked[1:]`이다. 원래 것과 나란히 놓으면 같은 자리에 이웃이 온다.",
            "두 문자열을 `zip`에 넣으면 쌍이 차례로 나온다. `list(...)`로 감싸 리스트로 돌려준다.",
        ),
        mistakes=(
            Mistake(lambda text: _pairs(text, "", ""), "START와 END가 빠졌다. 글 앞뒤에 표시를 붙인 뒤에 쌍을 만든다."),
            Mistake(lambda text: _pairs(text, start=""), "START가 빠졌다. 첫 글자가 무엇의 뒤에 오는지도 쌍으로 남긴다."),
            Mistake(lambda text: _pairs(text, end=""), "END가 빠졌다. 마지막 글자 뒤에 글이 끝난다는 것도 쌍으로 남긴다."),
            Mistake(lambda text: _pairs(text, "START", "END"), "다섯 글자 'START'를 붙였다. 따옴표 없이 변수 START와 END를 쓴다."),
            Mistake(lambda text: _pairs(text, step=2), "쌍을 하나씩 건너뛰었다. 가운데 글자는 앞 쌍의 뒤이자 뒤 쌍의 앞이다."),
            Mistake(lambda text: [(b, a) for a, b in neighbours(text)], "순서가 거꾸로다. (앞 글자, 뒤 글자) 차례로 묶는다."),
            Mistake(lambda text: [a + b for a, b in neighbours(text)], "두 글자를 이어 붙인 문자열이다. `(앞, 뒤)`처럼 쌍으로 둔다."),
            Mistake(lambda text: neighbours(text)[:1], "첫 쌍만 돌려주었다. return이 for 안에 들어가 있지 않은지 본다."),
            Mistake(_pair_past_the_end, "마지막 글자 뒤를 보려다 IndexError가 났다. 쌍의 수는 표시를 붙인 글자 수보다 하나 적다."),
        ),
    ),
    Exercise(
        name="count_next", title="다음 글자 세기", difficulty=2, minutes=10, reference=count_next,
        cases=lambda: [(["나비"],), (["가가가", "가나"],), (["나비", "나무", "비"],), ([],)],
        hints=(
            "글을 하나씩 꺼내 문제 1의 `neighbours`에 넣으면 (앞 글자, 뒤 글자) 쌍이 나온다.",
            "바깥 딕셔너리에서 앞 글자의 줄을 찾고, 없으면 빈 줄을 만든다. 그 줄에서 뒤 글자의 횟수를 하나 올린다.",
            "`table.setdefault(앞, {})`로 줄을 만들고, 그 줄의 뒤 글자 값을 `get(뒤, 0) + 1`로 올린다.",
        ),
        mistakes=(
            Mistake(lambda texts: _count(texts, "", ""), "START와 END가 세어지지 않았다. 글 앞뒤에 표시를 붙인 뒤에 센다."),
            Mistake(lambda texts: _count(texts, start=""), "START가 빠졌다. 글이 어떤 글자로 시작하는지도 배워야 첫 글자를 뽑는다."),
            Mistake(lambda texts: _count(texts, end=""), "END가 빠졌다. 글이 어디서 끝나는지도 배워야 생성이 멈춘다."),
            Mistake(lambda texts: _count(texts, "START", "END"), "다섯 글자 'START'를 붙였다. 따옴표 없이 변수 START와 END를 쓴다."),
            Mistake(lambda texts: _count(texts, step=2), "쌍을 하나씩 건너뛰었다. 쌍은 겹친다. 한 글자가 앞 쌍의 뒤이자 뒤 쌍의 앞이다."),
            Mistake(_across_texts, "글과 글 사이가 이어졌다. 글마다 따로 START와 END를 붙인다."),
            Mistake(_once_each, "같은 쌍이 여러 번 나오면 그 수만큼 세어야 한다."),
            Mistake(_reversed, "앞뒤가 바뀌었다. 바깥 키가 앞 글자, 안쪽 키가 뒤 글자다."),
            Mistake(_one_level, "표가 한 겹이다. `{앞: {뒤: 횟수}}`처럼 딕셔너리 안에 딕셔너리를 둔다."),
            Mistake(_overwritten, "앞서 센 줄을 새 딕셔너리로 덮어썼다. 줄이 없을 때만 새로 만든다."),
            Mistake(_no_default, "아직 없는 키에 1을 더해 KeyError가 났다. 처음 보는 글자는 0에서 시작한다: `get(뒤, 0)`."),
            Mistake(_past_the_end, "마지막 글자 뒤를 보려다 IndexError가 났다. 쌍의 수는 글자 수보다 하나 적다."),
            Mistake(_first_text_only, "첫 글만 세었다. return이 for 안에 들어가 있지 않은지 본다."),
            Mistake(_collected, "뒤 글자를 목록에 모았다. 목록 대신 글자마다 횟수를 센다."),
        ),
    ),
    Exercise(
        name="to_probabilities", title="횟수를 확률로", difficulty=1, minutes=5, reference=to_probabilities,
        cases=lambda: [({"가": 3, "나": 1},), ({"다": 5},), ({"가": 1, "나": 2, "다": 7},), ({"가": 1, "나": 2},)],
        hints=("확률은 모두 더하면 1이다.", "모든 횟수의 합으로 나눈다. 딕셔너리의 값만 꺼내는 것은 `values()`다."),
        mistakes=(
            Mistake(lambda c: {s: n / max(c.values()) for s, n in c.items()}, "가장 큰 값으로 나누었다. 합이 1이 되려면 합으로 나눈다."),
            Mistake(lambda c: {s: n / len(c) for s, n in c.items()}, "글자의 가짓수로 나누었다. 횟수의 합으로 나눈다."),
            Mistake(lambda c: {s: n // sum(c.values()) for s, n in c.items()}, "`//`는 소수점 아래를 버린다. `/`로 나눈다."),
            Mistake(lambda c: dict.fromkeys(c, 1 / len(c)), "횟수가 반영되지 않았다. 자주 나온 글자의 확률이 더 커야 한다."),
            Mistake(lambda c: {s: 100 * n / sum(c.values()) for s, n in c.items()}, "백분율이다. 100을 곱하지 않는다."),
            Mistake(lambda c: {s: round(n / sum(c.values()), 2) for s, n in c.items()}, "반올림했다. 합이 1에서 벗어날 수 있다."),
            Mistake(_softmax_of_counts, "exp를 씌웠다. 횟수는 이미 0 이상이므로 합으로 나누기만 한다."),
            Mistake(_sum_of_keys, "`sum(counts)`는 키(글자)를 더하려다 TypeError를 낸다. 횟수의 합은 `sum(counts.values())`다."),
        ),
    ),
    Exercise(
        name="with_temperature", title="온도", difficulty=3, minutes=15, reference=with_temperature, cases=_temperatures,
        hints=(
            "각 확률을 1/T 제곱한 뒤 합이 1이 되게 나눈다. 앞 문제의 `to_probabilities`를 다시 써도 된다.",
            "T가 1이면 그대로여야 하고, T가 작으면 큰 확률이 더 커져야 한다.",
            "T가 0이면 1/T를 계산할 수 없다. 그때만 따로 가장 큰 글자에 1.0, 나머지 글자에 0.0을 준다.",
        ),
        mistakes=(
            Mistake(_power_t, "T 제곱을 했다. 1/T 제곱이라야 낮은 온도에서 뾰족해진다."),
            Mistake(_not_normalised, "합이 1이 아니다. 제곱한 값들을 제곱한 값들의 합으로 나눈다."),
            Mistake(_softmax_of_probabilities, "확률에 exp를 씌웠다. 이미 확률이므로 exp 없이 바로 1/T 제곱한다."),
            Mistake(_divided, "T로 나누기만 하면 합을 맞출 때 도로 지워진다. 1/T 제곱을 하고, `p ** (1 / T)`처럼 괄호를 쓴다."),
            Mistake(_logarithm_kept, "로그를 확률로 되돌리지 않았다. 로그를 T로 나눈 다음 exp를 하거나, 로그 없이 바로 1/T 제곱한다."),
            Mistake(_zero_unhandled, "T가 0이면 0으로 나누게 된다. 먼저 `if temperature == 0`으로 갈라 처리한다."),
            Mistake(_zero_symbol, "T가 0일 때 글자 하나를 돌려주었다. 그때도 돌려줄 것은 딕셔너리다."),
            Mistake(_zero_as_one, "T가 0인데 확률이 그대로다. 가장 큰 글자에 1, 나머지에 0을 준다."),
            Mistake(_zero_alone, "T가 0일 때 나머지 글자가 사라졌다. 나머지 글자도 확률 0으로 남긴다."),
        ),
    ),
    Exercise(
        name="draw", title="확률대로 뽑기", difficulty=2, minutes=10, reference=draw, cases=_draws,
        hints=(
            "0에서 1까지의 자를 확률만큼의 칸으로 나누고, u가 어느 칸에 드는지 찾는다. u는 받은 그대로 쓴다.",
            "확률을 차례로 더해 가다가 합이 u를 처음 넘는 글자를 돌려준다.",
            "반복이 끝까지 돌았다면 u가 1에 아주 가까운 것이다. 마지막 글자를 돌려준다.",
        ),
        mistakes=(
            Mistake(_greedy, "u와 상관없이 가장 큰 것만 골랐다. u가 드는 칸의 글자를 고른다."),
            Mistake(_no_cumulation, "각 확률과 u를 따로 견주었다. 지금까지 더한 합과 견준다."),
            Mistake(_one_late, "견준 뒤에 더했다. 먼저 더하고 나서 u와 견준다."),
            Mistake(_other_way_round, "부등호가 거꾸로다. 더한 합이 u보다 커지는 순간의 글자를 돌려준다."),
            Mistake(_equal_too, "u가 합과 같을 때도 골랐다. 그러면 확률이 0인 글자가 나올 수 있다. `u < 합`일 때만 고른다."),
            Mistake(_no_last, "소수의 덧셈은 조금 어긋나 합이 1에 못 미칠 수 있다. 반복이 끝나면 마지막 글자를 돌려준다."),
            Mistake(_last_hit, "u와 상관없이 마지막 글자다. 칸을 찾으면 그 자리에서 return으로 끝낸다."),
            Mistake(_sorted_first, "확률의 크기로 줄을 다시 세웠다. 딕셔너리에 든 차례대로 더한다."),
            Mistake(_even, "칸의 너비가 모두 같다. 칸의 너비는 그 글자의 확률이다."),
        ),
    ),
    Exercise(
        name="generate", title="한 글자씩 생성", difficulty=3, minutes=15, reference=first_model.generate, cases=_generations,
        hints=(
            "마지막 글자의 줄을 표에서 찾아 다음 글자를 뽑고, 붙이고, 되풀이한다.",
            "아직 글자가 없으면 START의 줄을 쓴다.",
            "END가 뽑히면 붙이지 말고 멈춘다. 무작위 수는 넘겨받은 `rng.random()`을 글자마다 한 번 불러 얻는다.",
        ),
        mistakes=(
            Mistake(_always_start, "늘 START의 줄에서 뽑았다. 글자가 생긴 뒤에는 마지막 글자의 줄을 쓴다."),
            Mistake(_keeps_start, "START가 글에 남았다. START는 첫 줄을 찾는 데만 쓰고 돌려줄 글에는 넣지 않는다."),
            Mistake(_counts_start, "limit보다 짧다. START는 글자 수에 넣지 않는다."),
            Mistake(_keeps_end, "END가 글에 들어갔다. END가 나오면 붙이지 않고 멈춘다."),
            Mistake(_no_temperature, "온도가 쓰이지 않았다. 뽑기 전에 with_temperature를 거친다."),
            Mistake(_no_limit, "limit 글자를 넘겼다. 글의 길이가 limit이 되면 멈춘다."),
            Mistake(_one_number, "무작위 수 하나를 되풀이해 썼다. `rng.random()`을 글자마다 새로 부른다."),
            Mistake(_empty_text, "빈 글의 마지막 글자를 찾다가 IndexError가 났다. 글이 비어 있으면 START의 줄을 쓴다."),
            Mistake(_pieces, "글자의 목록을 돌려주었다. `\"\".join(...)`으로 이어 문자열 하나로 만든다."),
        ),
    ),
    Exercise(
        name="bits_per_character", title="문자당 비트", difficulty=2, minutes=10, reference=first_model.bits_per_character,
        cases=lambda: [([0.5, 0.5],), ([0.5, 0.125],), ([1.0],), ([0.9, 0.01, 0.3],), ([0.5, 0.0],), ([],)],
        hints=(
            "확률 1/2인 글자 하나는 1비트, 1/8이면 3비트다.",
            "−log₂ p의 평균을 낸다.",
            "확률이 0이면 그 글자는 `math.inf`비트다. 글자가 없으면 `raise WorkshopError(\"…\")`로 알린다.",
        ),
        mistakes=(
            Mistake(_natural_log, "자연로그를 썼다. 비트는 밑이 2인 로그로 센다."),
            Mistake(_decimal_log, "밑이 10인 로그를 썼다. 비트는 밑이 2인 로그로 센다."),
            Mistake(_sum_only, "합을 돌려주었다. 글자 수로 나눈 평균이라야 길이가 다른 글과 견줄 수 있다."),
            Mistake(_log_of_mean, "평균의 로그를 냈다. 글자마다 로그를 먼저 내고 평균한다."),
            Mistake(_sign, "부호가 반대다. 확률이 1보다 작으면 log는 음수이므로 −를 붙인다."),
            Mistake(_weighted, "로그에 확률을 곱했다. 실제로 온 글자의 비트를 그대로 평균한다."),
            Mistake(_perplexity, "2의 거듭제곱으로 되돌렸다. 그것은 퍼플렉서티이고, 여기서는 비트 그대로 둔다."),
            Mistake(_zero_raises, "0의 로그를 계산하려다 ValueError가 났다. 확률이 0이면 math.inf로 친다."),
            Mistake(_zero_skipped, "확률 0인 글자를 빼고 평균했다. 가장 크게 틀린 글자를 눈감아 주는 셈이다. math.inf로 친다."),
            Mistake(_zero_costs_nothing, "확률 0인 글자를 0비트로 쳤다. 0비트는 확률 1일 때다. math.inf로 친다."),
            Mistake(_nothing_is_zero, "글자가 없는데 0을 돌려주었다. 0은 완벽하다는 뜻이 된다. WorkshopError를 낸다."),
            Mistake(_nothing_divides, "글자가 없어 0으로 나누었다. 나누기 전에 살펴 WorkshopError를 낸다."),
        ),
    ),
]
check = checker(week=1, exercises=EXERCISES)
