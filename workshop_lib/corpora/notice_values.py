"""What one notice is about: a function a kind, which draws a subject and every word and number its sentences may ask for.

Each takes the values all kinds share (town, month, date, weekday, part of the day), may overrule them, adds its own, and
returns the subject that, with kind and town, makes up the combination. The words stand in `data/notices.json`.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from random import Random

from workshop_lib.corpora import DATA
from workshop_lib.corpora.grammar import attach

Values = dict[str, str | int]
WEEKDAYS = ("월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일")
DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Sunrise and sunset in Seoul in the middle of each month, in minutes after midnight, to a few minutes.
_SUN = (
    (466, 1055), (444, 1089), (407, 1117), (361, 1145), (324, 1172), (311, 1194),
    (322, 1193), (347, 1166), (373, 1122), (400, 1077), (431, 1042), (458, 1034),
)  # fmt: skip


@cache
def words() -> dict:
    """`data/notices.json`: "towns", "stops", "stars" and, by kind, "subjects" and the "pools" of words to draw from."""
    return json.loads((DATA / "notices.json").read_text(encoding="utf-8"))


def _pick(rng: Random, kind: str, values: Values) -> str:
    """Draw one subject of a kind and one of each of its pools into `values`; return the subject's name."""
    subjects, pools = words()["kinds"][kind].values()
    name = rng.choice(list(subjects))
    for key, options in (pools | subjects[name]).items():
        values[key] = rng.choice(options) if isinstance(options, list) else options
    return name


def _clock(minutes: int) -> str:
    return f"{minutes // 60}시" + (f" {minutes % 60}분" if minutes % 60 else "")


def _later(rng: Random, values: Values) -> str:
    """A date two to four weeks after `values["date"]`, by the calendar of a common year."""
    month, day = map(int, re.findall(r"\d+", str(values["date"])))
    day += rng.randint(14, 27)
    if day > DAYS_IN_MONTH[month - 1]:
        month, day = month % 12 + 1, day - DAYS_IN_MONTH[month - 1]
    return f"{month}월 {day}일"


def _weather(rng: Random, values: Values) -> str:
    month = int(values["month"])
    sky = _pick(rng, "weather", values)
    while (sky == "눈" and 3 <= month <= 11) or (sky in ("소나기", "폭염") and not 6 <= month <= 8) or (sky == "한파" and 3 <= month <= 11):
        sky = _pick(rng, "weather", values)
    middle = (-2, 1, 7, 13, 18, 23, 26, 27, 22, 15, 8, 0)[month - 1] + {"폭염": 5, "한파": -7}.get(sky, 0)
    low, high = middle - rng.randint(3, 5), middle + rng.randint(3, 6)
    values["low"], values["high"] = (f"영하 {-t}" if t < 0 else str(t) for t in (low, high))
    values |= {"range": high - low, "diff": rng.randint(2, 6), "speed": rng.randint(2, 7)}
    values["diffverb"] = "높고" if values["trend"] == "올라" else "낮고"
    values["advicequote"] = f'"{values["advice"]}"라고'
    values["rainpct"] = rng.randint(45, 140)
    normal = (17, 28, 37, 73, 104, 130, 414, 348, 142, 52, 51, 23)[month - 1] * rng.uniform(0.3, 0.9)
    values["rain"] = max(1, round(normal * int(values["rainpct"]) / 100))
    values["dustline"] = (
        "비가 먼지를 씻어 내려 숨쉬기 좋겠다" if sky in ("비", "소나기") else "창문을 열 때는 먼지 농도를 먼저 확인하는 것이 좋다"
    )
    return sky


def _market(rng: Random, values: Values) -> str:
    item = _pick(rng, "market", values)
    subjects = words()["kinds"]["market"]["subjects"]
    item2 = rng.choice([name for name in subjects if name != item])
    old = subjects[item]["base"] * rng.randint(80, 120) // 100 // 100 * 100
    up = rng.random() < 0.5
    new = old * (100 + (1 if up else -1) * rng.randint(8, 45)) // 100 // 100 * 100
    price2 = subjects[item2]["base"] * rng.randint(80, 120) // 100 // 100 * 100
    values |= {
        "item": item,
        "item2": item2,
        "unit2": subjects[item2]["unit"],
        "old": f"{old:,}",
        "new": f"{new:,}",
        "gap": f"{abs(new - old):,}",
        "pct": round(abs(new - old) / old * 100),
        "price2": f"{price2:,}",
        "tons": rng.randint(6, 90),
        "updown": "올라" if up else "내려",
        "upverb": "올랐다" if up else "내렸다",
        "upnoun": "올랐기" if up else "내렸기",
        "updown2c": rng.choice(
            ["조금 내렸다", "큰 변화가 없었다", "닷새째 내림세다"] if up else ["조금 올랐다", "큰 변화가 없었다", "닷새째 오름세다"]
        ),
        "reason": values["why_up" if up else "why_down"],
        "shopquote": "값을 보고 절반만 담았다" if up else "값이 내려 두 배로 담았다",
        "shopdo": "값이 더 오르기 전에 미리 사 두겠다고 했다" if up else "이웃과 나누려고 넉넉히 샀다고 했다",
        "tonverb": "적다" if up else "많다",
    }
    values["reasonquote"] = f'"{values["reason"]}"라고'
    return item


def _match(rng: Random, values: Values) -> str:
    sport = _pick(rng, "match", values)
    winner_town, loser_town = rng.sample(words()["towns"], 2)
    if sport in ("야구", "축구"):
        values["date"] = f"{rng.randint(4, 10)}월 {rng.randint(1, 30)}일"
    values["town"] = winner_town
    winner = f"{winner_town[:-1]} {values['animal']}"
    loser = f"{loser_town[:-1]} {values['animal2']}"
    if sport in ("배구", "탁구"):
        high, low = 3, rng.randint(0, 2)
    elif sport == "축구":
        low = rng.randint(0, 2)
        high = low + rng.randint(1, 2)
    else:
        base = {"야구": 2, "농구": 70, "핸드볼": 24}[sport]
        low = base + rng.randint(0, base // 4 + 3)
        high = low + rng.randint(1, base // 8 + 3)
    late = {
        "야구": f"{rng.randint(6, 9)}회에만 {min(high, rng.randint(2, 4))}점을 뽑아 승부의 흐름을 바꾸었다",
        "축구": f"후반 {rng.randint(11, 44)}분에 결승 골을 넣었다",
        "농구": f"마지막 쿼터에서만 {rng.randint(19, 29)}점을 몰아넣었다",
        "배구": "마지막 세트를 "
        + attach(f"15대 {rng.randint(9, 13)}" if low == 2 else f"25대 {rng.randint(15, 23)}", "으로/로")
        + " 가져왔다",
        "탁구": f"마지막 단식에서 {rng.randint(11, 14)}번의 긴 공방 끝에 점수를 따냈다",
        "핸드볼": f"후반 {rng.randint(5, 20)}분부터 내리 {rng.randint(3, 4)}골을 넣었다",
    }[sport]
    openings = ("초반에는 밀렸으나", "팽팽하던 경기에서", "한 번도 앞서지 못하던", "먼저 점수를 내준")
    ways = ("두 팀이 엎치락뒤치락하는 가운데", "상대의 실수를 놓치지 않고", "교체 선수들의 힘으로")
    rank = rng.randint(1, 5)
    values |= {
        "sport": sport,
        "winner": winner,
        "loser": loser,
        "score": f"{high}대 {low}",
        "rank": rank,
        "rank2": rank + 1,
        "streak": rng.randint(2, 7),
        "crowd": f"{rng.randint(3, 60) * 110:,}",
        "gap": rng.randint(3, 12),
        "next": rng.choice([t for t in words()["towns"] if t not in (winner_town, loser_town)])[:-1] + " 반달곰들",
        "flow1": f"{rng.choice(openings)} {attach(winner, '이/가')} {late}",
        "flow2": f"{attach(winner, '은/는')} {rng.choice(ways)} {late}",
    }
    return sport


def _bus(rng: Random, values: Values) -> str:
    reason = values["reason"] = _pick(rng, "bus", values)
    stops = rng.sample(words()["stops"], 4)
    values |= {f"stop{i}": stop for i, stop in enumerate(stops, start=1)}
    gap = rng.randint(5, 12) * 5
    new_gap = gap - rng.randint(1, 3) * 5 if values["change"] == "운행 확대" or rng.random() < 0.6 else gap + rng.randint(1, 2) * 5
    shift = rng.randint(2, 6) * 5
    values |= {
        "line": rng.choice(("", "1")) + str(rng.randint(2, 98)),
        "gap1": gap,
        "gap2": f"{new_gap}분",
        "gap3": f"{new_gap + 10}분",
        "first": f"오전 {_clock(rng.randint(64, 78) * 5)}",
        "last": f"오후 {_clock(rng.randint(105, 130) * 5)}",
        "shift": shift,
        "meters": rng.randint(4, 20) * 10,
        "fare": f"{rng.randint(12, 17) * 100:,}",
        "low": rng.randint(4, 18),
    }
    return f"{values['line']}/{stops[0]}/{reason[:8]}"


def _hour(hour: int) -> str:
    if hour in (0, 12):
        return "낮 12시" if hour else "자정"
    return f"오전 {hour}시" if hour < 12 else f"오후 {hour - 12}시"


def _water(rng: Random, values: Values) -> str:
    values["work"] = _pick(rng, "water", values)
    start, hours = rng.randint(8, 22), rng.randint(3, 8)
    end = (start + hours) % 24
    values |= {
        "from": _hour(start),
        "to": ("이튿날 " if start + hours > 24 else "") + _hour(end),
        "hours": hours,
        "hours2": rng.randint(1, hours - 2),
        "homes": f"{rng.randint(8, 190) * 10:,}",
        "minutes": rng.randint(3, 10),
        "trucks": rng.randint(1, 4),
        "bottles": rng.randint(2, 8),
        "years": rng.randint(18, 42),
        "delay": rng.randint(1, 5),
    }
    return f"{values['work']}/{values['dong']}"


def _library(rng: Random, values: Values) -> str:
    values["topic"] = _pick(rng, "library", values)
    values |= {"weeks": rng.randint(4, 12), "people": rng.randint(4, 15) * 2, "fee": f"{rng.randint(5, 40) * 1000:,}"}
    return f"{values['topic']}/{values['lib']}"


def _closing(rng: Random, values: Values) -> str:
    values["why"] = _pick(rng, "closing", values)
    values |= {
        "days": rng.randint(2, 12),
        "times": rng.randint(1, 3),
        "books": f"{rng.randint(8, 90) * 10:,}",
        "people": rng.randint(3, 20) * 10,
        "due": _later(rng, values),
    }
    return f"{values['why']}/{values['lib']}"


def _festival(rng: Random, values: Values) -> str:
    values["theme"] = _pick(rng, "festival", values)
    values["date"] = f"{values['months']}월 {rng.randint(3, 26)}일"
    guests = rng.randint(5, 80)
    values |= {
        "round": rng.randint(2, 24),
        "days": rng.randint(2, 10),
        "fee": f"{rng.randint(2, 10) * 1000:,}",
        "times": rng.randint(2, 5),
        "hour": rng.randint(7, 9),
        "price": f"{rng.randint(3, 10) * 1000:,}",
        "last": f"{guests * 1000:,}",
        "guests": f"{(guests + rng.randint(3, 20)) * 1000:,}",
        "deposit": f"{rng.randint(1, 3) * 1000:,}",
    }
    values["trafficquote"] = f'"{values["traffic"]}"며 대중교통을 이용해 달라고'
    return f"{values['theme']}/{values['show']}"


def _lost(rng: Random, values: Values) -> str:
    values["item"] = _pick(rng, "lost", values)
    values["days"] = rng.randint(7, 30)
    return f"{values['item']}/{values['color']}/{values['place']}"


def _sky(rng: Random, values: Values) -> str:
    month = int(values["month"])
    season = ("겨울", "겨울", "봄", "봄", "봄", "여름", "여름", "여름", "가을", "가을", "가을", "겨울")[month - 1]
    while _pick(rng, "sky", values) != season:
        pass
    values["starhow"] = words()["stars"][values["star"]]
    step = {"상순": -10, "중순": 0, "하순": 10}[str(values["ten"])]
    other = _SUN[(month - 1 + (step > 0) - (step < 0)) % 12]
    rise, set_ = (round(here + (there - here) * abs(step) / 30) + rng.randint(-3, 3) for here, there in zip(_SUN[month - 1], other))
    values |= {"rise": _clock(rise), "set": _clock(set_ - 720), "dayh": (set_ - rise) // 60, "daym": (set_ - rise) % 60 or 1}
    values["trend"] = {6: "한 해 가운데 낮이 가장 긴 무렵이다", 12: "한 해 가운데 낮이 가장 짧은 무렵이다"}.get(
        month, "낮이 날마다 조금씩 길어지고 있다" if month < 6 else "낮이 날마다 조금씩 짧아지고 있다"
    )
    return f"{month}/{values['ten']}/{values['star']}"


def _farm(rng: Random, values: Values) -> str:
    name = _pick(rng, "farm", values)
    if "care" not in values:  # harvest and winter work bring their own
        dry = rng.choice((f"비가 {rng.randint(4, 9)}일 넘게 오지 않으면", f"흙을 {rng.randint(5, 12)}센티미터쯤 파 보아 말라 있으면"))
        values["care"] = f"{dry} {values['watertime']}에 물을 {values['water']}"
    values |= {
        "month": values["months"],
        "days": rng.randint(2, 5),
        "days2": rng.randint(3, 10),
        "people": rng.randint(5, 40) * 10,
    }
    return f"{name}/{values['ten']}"


def _recruit(rng: Random, values: Values) -> str:
    values["club"] = _pick(rng, "recruit", values)
    values |= {
        "people": rng.randint(3, 15),
        "years": rng.randint(2, 19),
        "fee": f"{rng.randint(2, 15) * 1000:,}",
        "now": rng.randint(9, 44),
    }
    return f"{values['club']}/{values['place']}"


def _exhibit(rng: Random, values: Values) -> str:
    values["theme"] = _pick(rng, "exhibit", values)
    values |= {
        "count": rng.randint(12, 96),
        "years": rng.randint(3, 32),
        "until": _later(rng, values),
        "open": rng.randint(9, 11),
        "close": rng.randint(5, 8),
        "fee": f"{(fee := rng.randint(2, 8) * 1000):,}",
        "half": f"{fee // 2:,}",
        "times": rng.randint(1, 4),
        "weekday": rng.choice(WEEKDAYS[2:]),
    }
    return f"{values['theme']}/{values['artist']}/{values['medium']}"


def _school(rng: Random, values: Values) -> str:
    values["place"] = _pick(rng, "school", values)
    values["date"] = f"{rng.choice((3, 4, 5, 6, 9, 10, 11))}월 {rng.randint(4, 28)}일"
    values["reply"] = rng.choice(("이번 주 금요일", "다음 주 월요일", "사흘 전", "출발하기 일주일 전"))
    values |= {
        "grade": rng.randint(1, 6),
        "buses": rng.randint(2, 5),
        "cost": f"{rng.randint(8, 30) * 500:,}",
        "helpers": rng.randint(2, 6),
    }
    return f"{values['place']}/{values['school']}"


def _road(rng: Random, values: Values) -> str:
    values["work"] = _pick(rng, "road", values)
    values["p1"], values["p2"] = rng.sample(words()["stops"], 2)
    lanes = rng.choice((4, 6))
    values |= {
        "days": rng.randint(4, 40),
        "km": f"{rng.randint(4, 39) / 10:.1f}",
        "lanes": lanes,
        "open": lanes // 2,
        "late": rng.randint(2, 15),
        "cost": rng.randint(3, 48),
        "bus": rng.randint(2, 98),
        "delay": rng.randint(2, 6),
    }
    return f"{values['work']}/{values['road']}"


def _health(rng: Random, values: Values) -> str:
    values["prog"] = _pick(rng, "health", values)
    if values["prog"] == "독감 예방 접종":
        values["date"] = f"{rng.choice((9, 10, 11))}월 {rng.randint(1, 28)}일"
    if values["prog"] == "임산부 교실":
        values["age"] = "임신한"
    values |= {"minutes": rng.choice((10, 15, 20, 30)), "people": rng.randint(3, 12) * 2, "last": f"{rng.randint(12, 140) * 10:,}"}
    return f"{values['prog']}/{values['center']}/{values['age']}"


def _rescue(rng: Random, values: Values) -> str:
    values["animal"] = _pick(rng, "rescue", values)
    values |= {"hours": rng.randint(2, 9), "crew": rng.randint(3, 8), "nth": rng.randint(11, 140)}
    return f"{values['animal']}/{values['place']}"


def _survey(rng: Random, values: Values) -> str:
    topic = _pick(rng, "survey", values)
    answers = rng.sample(words()["kinds"]["survey"]["subjects"][topic]["opts"], 3)
    none = rng.randint(2, 6)
    first, second, third = 0, 0, 0
    while not first > second > third:
        first, second = rng.randint(36, 52), rng.randint(22, 34)
        third = 100 - first - second - none
    values |= {f"a{i}": answer for i, answer in enumerate(answers, start=1)}
    values |= {
        "topic": topic,
        "p1": first,
        "p2": second,
        "p3": third,
        "p4": none,
        "n": f"{(n := rng.randint(4, 30) * 100):,}",
        "err": f"{98 / n**0.5:.1f}",
        "days": rng.randint(3, 14),
        "months": rng.randint(3, 12),
        "a1quote": attach(f"‘{answers[0]}’", "이라고/라고"),
        "short": answers[0],
    }
    values["commentquote"] = attach(f"‘{values['comment']}’", "라고")
    return f"{topic}/{answers[0]}/{answers[1]}"


def _concert(rng: Random, values: Values) -> str:
    values["piece"] = _pick(rng, "concert", values)
    values["season"] = ("새해", "새해", "봄맞이", "봄맞이", "봄맞이", "여름밤", "여름밤", "여름밤", "가을", "가을", "가을", "송년")[
        int(values["month"]) - 1
    ]
    values |= {
        "hour": rng.choice((6, 7, 8)),
        "n": rng.randint(8, 46),
        "years": rng.randint(3, 30),
        "price": f"{rng.randint(3, 20) * 1000:,}",
        "seats": rng.randint(3, 40) * 10,
        "minutes": rng.choice((20, 30, 40)),
    }
    return f"{values['piece']}/{values['group']}"


KINDS: dict[str, Callable[[Random, Values], str]] = {
    "weather": _weather,
    "market": _market,
    "match": _match,
    "bus": _bus,
    "water": _water,
    "library": _library,
    "closing": _closing,
    "festival": _festival,
    "lost": _lost,
    "sky": _sky,
    "farm": _farm,
    "recruit": _recruit,
    "exhibit": _exhibit,
    "school": _school,
    "road": _road,
    "health": _health,
    "rescue": _rescue,
    "survey": _survey,
    "concert": _concert,
}
