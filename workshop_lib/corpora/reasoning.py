"""Problems that can only be solved step by step, each with its worked thought and an answer that a program can check.

* `arithmetic`: word problems and chains of operations. The split is by the expression: a validation problem computes
  something that no training problem computes, whatever story is wrapped around it.
* `cups`: state tracking. A ball lies in one of three to five cups whose contents are swapped; the thought follows the
  ball swap by swap. The split is by the whole course of the game.

The answer is always worked out from the numbers, never read back from the text: `expression` (arithmetic) and `moves`
(cups) are in the row, so that a reward function or a test can do it again on its own.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from workshop_lib import WorkshopError
from workshop_lib.corpora.combinations import stream
from workshop_lib.corpora.grammar import attach, conjugate, familiar

NAMES = ("민수", "지우", "하준", "서연", "도윤", "유나", "태오", "보람", "은성", "가온", "나리", "준서")
CUPS = ("빨강", "파랑", "노랑", "초록", "하양")
# (thing, counter): things that are had, given and counted
_THINGS = (
    ("사과", "개"), ("귤", "개"), ("구슬", "개"), ("단추", "개"), ("사탕", "개"), ("딱지", "장"), ("우표", "장"), ("색종이", "장"),
    ("스티커", "장"), ("연필", "자루"), ("색연필", "자루"), ("공책", "권"), ("동화책", "권"), ("카드", "장"), ("조개껍데기", "개"),
)  # fmt: skip
_BOXES = ("상자", "봉지", "주머니", "서랍", "꾸러미")
_GOODS = (("공책", "권"), ("지우개", "개"), ("빵", "개"), ("우유", "병"), ("풀", "개"), ("볼펜", "자루"), ("귤", "개"))


class Problem(NamedTuple):
    """One problem: what it computes, its text, the thought's sentences, and the answer as a number."""

    expression: str
    question: str
    thought: str
    answer: int


def _step(left: int, sign: str, right: int) -> tuple[str, int]:
    """One written operation and its value: (3, "+", 4) → ("3 + 4 = 7", 7)."""
    value = {"+": left + right, "-": left - right, "×": left * right, "÷": left // right}[sign]
    return f"{left} {sign} {right} = {value}", value


def _gain_or_lose(rng: Random) -> Problem:
    """A has some, then one to three things happen."""
    who, other = rng.sample(NAMES, 2)
    thing, unit = rng.choice(_THINGS)
    have = start = rng.randint(3, 40)
    said = [f"{attach(familiar(who), '은/는')} {attach(thing, '을/를')} {start}{unit} 가지고 있다."]
    worked, expression = [f"처음에 {start}{attach(unit, '이/가')} 있다."], str(start)
    for _ in range(rng.randint(1, 3)):
        if have > 4 and rng.random() < 0.5:
            part = rng.randint(1, have - 1)
            verb, sign = (
                rng.choice((f"{familiar(other)}에게 {part}{attach(unit, '을/를')} 주", f"{part}{attach(unit, '을/를')} 잃어버리")),
                "-",
            )
        else:
            part = rng.randint(2, 30)
            verb, sign = (
                rng.choice((f"{familiar(other)}에게서 {part}{attach(unit, '을/를')} 받", f"{part}{attach(unit, '을/를')} 새로 사")),
                "+",
            )
        said.append(f"{conjugate(verb + '다', '았다', contract=False)}.")
        line, have = _step(have, sign, part)
        worked.append(f"{part}{attach(unit, '이/가')} {'줄면' if sign == '-' else '늘면'} {line}이다.")
        expression += f" {sign} {part}"
    question = " ".join(said) + f" {attach(familiar(who), '이/가')} 가진 {attach(thing, '은/는')} 몇 {unit}인가?"
    return Problem(expression, question, " ".join(worked), have)


def _boxes(rng: Random) -> Problem:
    """So many in each box; sometimes a few are taken out or added."""
    thing, unit = rng.choice(_THINGS)
    box = rng.choice(_BOXES)
    each, boxes = rng.randint(2, 12), rng.randint(2, 9)
    said = f"{box} 하나에 {attach(thing, '이/가')} {each}{unit}씩 들어 있다. {attach(box, '은/는')} 모두 {boxes}개이다."
    line, total = _step(each, "×", boxes)
    worked, expression = f"{each}{unit}씩 {boxes}개이니 {line}이다.", f"{each} × {boxes}"
    if rng.random() < 0.5:
        sign = rng.choice("+-")
        part = rng.randint(1, min(total - 1, 20))
        said += f" 여기에서 {part}{attach(unit, '을/를')} 꺼냈다." if sign == "-" else f" 여기에 {part}{attach(unit, '을/를')} 더 넣었다."
        line, total = _step(total, sign, part)
        worked += f" {part}{attach(unit, '을/를')} {'빼면' if sign == '-' else '더하면'} {line}이다."
        expression += f" {sign} {part}"
    return Problem(expression, f"{said} {attach(thing, '은/는')} 모두 몇 {unit}인가?", worked, total)


def _share(rng: Random) -> Problem:
    thing, unit = rng.choice(_THINGS)
    people, each = rng.randint(2, 9), rng.randint(2, 15)
    total = people * each
    line, answer = _step(total, "÷", people)
    question = (
        f"{thing} {total}{attach(unit, '을/를')} {people}명이 똑같이 나누어 가진다. 한 사람이 갖는 {attach(thing, '은/는')} 몇 {unit}인가?"
    )
    return Problem(f"{total} ÷ {people}", question, f"{total}{attach(unit, '을/를')} {people}명으로 나누면 {line}이다.", answer)


def _change(rng: Random) -> Problem:
    """Paying in a shop: price × number, then the change."""
    thing, unit = rng.choice(_GOODS)
    price, number = rng.randrange(300, 2500, 100), rng.randint(2, 6)
    first, cost = _step(price, "×", number)
    paid = rng.choice([note for note in (1000, 2000, 3000, 5000, 10000, 15000, 20000) if note > cost])
    second, answer = _step(paid, "-", cost)
    who = attach(familiar(rng.choice(NAMES)), "은/는")
    one = {"권": "한 권", "개": "한 개", "병": "한 병", "자루": "한 자루"}[unit]
    question = f"{thing} {one}에 {price}원이다. {who} {number}{attach(unit, '을/를')} 사고 {paid}원을 냈다. 거스름돈은 몇 원인가?"
    return Problem(f"{paid} - {price} × {number}", question, f"물건값은 {first}원이다. 거스름돈은 {second}원이다.", answer)


def _reading(rng: Random) -> Problem:
    """A book read at so many pages a day."""
    daily, days = rng.randint(4, 25), rng.randint(2, 9)
    first, read = _step(daily, "×", days)
    pages = read + rng.randint(5, 90)
    second, left = _step(pages, "-", read)
    who = attach(familiar(rng.choice(NAMES)), "은/는")
    question = f"{who} {pages}쪽짜리 책을 하루에 {daily}쪽씩 {days}일 동안 읽었다. 남은 쪽은 몇 쪽인가?"
    return Problem(f"{pages} - {daily} × {days}", question, f"읽은 쪽은 {first}쪽이다. 남은 쪽은 {second}쪽이다.", left)


def _bus(rng: Random) -> Problem:
    """People getting off and on at each stop."""
    aboard = start = rng.randint(5, 30)
    said, worked, expression = [f"버스에 {start}명이 타고 있다."], [], str(start)
    for _ in range(rng.randint(1, 2)):
        down, up = rng.randint(1, aboard - 1), rng.randint(1, 12)
        first, rest = _step(aboard, "-", down)
        second, aboard = _step(rest, "+", up)
        said.append(f"{'다음 ' if worked else ''}정류장에서 {down}명이 내리고 {up}명이 탔다.")
        worked.append(f"{down}명이 내리면 {first}이고, {up}명이 타면 {second}이다.")
        expression += f" - {down} + {up}"
    return Problem(expression, " ".join(said) + " 지금 버스에는 몇 명이 있는가?", " ".join(worked), aboard)


def _compare(rng: Random) -> Problem:
    first, second = rng.sample(NAMES, 2)
    thing, unit = rng.choice(_THINGS)
    few = rng.randint(2, 40)
    many = few + rng.randint(1, 40)
    line, answer = _step(many, "-", few)
    a, b = attach(familiar(first), "은/는"), attach(familiar(second), "은/는")
    question = f"{a} {attach(thing, '을/를')} {many}{unit}, {b} {few}{unit} 모았다. {a} {familiar(second)}보다 몇 {unit} 더 모았는가?"
    return Problem(f"{many} - {few}", question, f"많은 쪽에서 적은 쪽을 빼면 {line}이다.", answer)


def _chain(rng: Random) -> Problem:
    """A bare chain of additions and subtractions, left to right, never below zero."""
    value = start = rng.randint(1, 50)
    worked, expression = [], str(start)
    for _ in range(rng.randint(2, 5)):
        sign = "-" if value > 1 and rng.random() < 0.5 else "+"
        part = rng.randint(1, min(value, 30) if sign == "-" else 30)
        line, value = _step(value, sign, part)
        worked.append(line + ".")
        expression += f" {sign} {part}"
    question = rng.choice((f"{expression} = ?", f"{expression}의 값은 얼마인가?", f"다음을 차례로 계산하여라. {expression}"))
    return Problem(expression, question, " ".join(worked), value)


KINDS: dict[str, Callable[[Random], Problem]] = {
    "gain_or_lose": _gain_or_lose, "boxes": _boxes, "share": _share, "change": _change,
    "reading": _reading, "bus": _bus, "compare": _compare, "chain": _chain,
}  # fmt: skip


def _draw_arithmetic(rng: Random, _: int) -> tuple[tuple, str, dict]:
    kind = rng.choice(list(KINDS))
    problem = KINDS[kind](rng)
    row = {"question": problem.question, "thought": problem.thought, "answer": str(problem.answer)}
    return (problem.expression,), problem.question, row | {"kind": kind, "expression": problem.expression}


def arithmetic(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` problems {"id", "question", "thought", "answer", "kind", "expression"}; the answer is a whole number ≥ 0.

    `expression` uses + - × ÷ with the usual precedence. Deterministic in (n, seed, split). Raises WorkshopError for an
    unknown split.
    """
    yield from stream("arithmetic", n, seed, split, _draw_arithmetic)


def follow(start: str, moves: Sequence[Sequence[str]]) -> list[str]:
    """Where the ball is after each swap of the contents of two cups: follow("빨강", [["빨강", "노랑"]]) == ["노랑"]."""
    places = []
    for a, b in moves:
        start = b if start == a else a if start == b else start
        places.append(start)
    return places


def cups(
    n: int, seed: int = 0, split: str = "train", swaps: int | Sequence[int] = (1, 2, 3), sizes: int | Sequence[int] = (3, 4, 5)
) -> Iterator[dict]:
    """Yield `n` games {"id", "question", "thought", "answer", "cups", "start", "moves"}.

    `swaps` and `sizes` give the number of swaps and of cups, or the numbers to draw from; the answer is a name in
    `CUPS`. Games of one length may be taken for training and longer ones to see how far the tracking carries.

    Raises:
        WorkshopError: a size outside 3-5, a negative number of swaps, an unknown split, or more games than there are.
    """
    lengths = (swaps,) if isinstance(swaps, int) else tuple(swaps)
    counts = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not lengths or min(lengths) < 0:
        raise WorkshopError(f"swaps는 0 이상의 정수나 그 목록이어야 한다. 받은 값: {swaps!r}")
    if not counts or min(counts) < 3 or max(counts) > len(CUPS):
        raise WorkshopError(f"sizes는 3에서 {len(CUPS)} 사이의 정수나 그 목록이어야 한다. 받은 값: {sizes!r}")

    def draw(rng: Random, _: int) -> tuple[tuple, str, dict]:
        names = rng.sample(CUPS, rng.choice(counts))
        start = rng.choice(names)
        moves = [rng.sample(names, 2) for _ in range(rng.choice(lengths))]
        places = follow(start, moves)
        said = "".join(f" {attach(a, '과/와')} {b}의 속을 바꾼다." for a, b in moves)
        worked, at = f"공은 {start}.", start
        for (a, b), place in zip(moves, places):
            still = "그대로 " if place == at else ""
            worked += f" {attach(a, '과/와')} {attach(b, '을/를')} 바꾸니 공은 {still}{place}."
            at = place
        question = f"{', '.join(names)} 컵이 있고 공은 {start} 컵에 있다.{said} 공은 어느 컵에 있는가?"
        row = {"question": question, "thought": worked, "answer": at, "cups": names, "start": start, "moves": moves}
        combination = (*sorted(names), start, *("-".join(sorted(move)) for move in moves))
        return combination, question, row

    yield from stream("cups", n, seed, split, draw)
