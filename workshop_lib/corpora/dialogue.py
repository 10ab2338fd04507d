"""A closed micro-world for tuning and alignment: the help desk of the neighbourhood library "햇살도서관".

The whole world is two tables, `ROOMS` and `ITEMS`, and a few rules (closed on Mondays, overdue days block borrowing).
A question combines an intent with slots (item × weekday, room × day × hour, room × room …). One combination in ten is
held out, and every held-out question can be answered from the tables and rules that the training rows show: where a
fact has a single slot ("어디에 있나요"), the wording is held out and the fact is not.

The answer follows the asker's register: polite questions get 합쇼체, casual ones get 반말. Preferences then ask for
one thing more than instructions do (always polite, on the topic, safe), so that alignment has something to change.
Each row carries its "intent", "register" and "fact", the words that a right answer must contain.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from workshop_lib.corpora.combinations import stream
from workshop_lib.corpora.grammar import attach, count


class Room(NamedTuple):
    """Floor (-1 is the basement) and opening hours (from, to) on weekdays (Tue-Fri) and at the weekend."""

    floor: int
    weekday: tuple[int, int]
    weekend: tuple[int, int]


class Item(NamedTuple):
    """Where an item stands, how it is counted, how many may be borrowed, for how many weeks, and if it can be renewed."""

    room: str
    counter: str
    limit: int
    weeks: int
    renewable: bool


ROOMS = {
    "어린이실": Room(1, (9, 18), (9, 17)),
    "잡지실": Room(1, (9, 20), (9, 17)),
    "문학실": Room(2, (9, 21), (9, 18)),
    "인문실": Room(2, (9, 21), (9, 18)),
    "과학실": Room(3, (9, 20), (9, 17)),
    "영상실": Room(3, (10, 19), (10, 16)),
    "열람실": Room(4, (7, 23), (7, 22)),
    "식당": Room(-1, (11, 19), (11, 15)),
}
ITEMS = {
    "그림책": Item("어린이실", "권", 10, 2, True),
    "동화책": Item("어린이실", "권", 10, 2, True),
    "보드게임": Item("어린이실", "개", 2, 1, False),
    "잡지": Item("잡지실", "권", 3, 1, False),
    "신문 축쇄판": Item("잡지실", "권", 2, 1, False),
    "소설책": Item("문학실", "권", 5, 2, True),
    "시집": Item("문학실", "권", 5, 2, True),
    "만화책": Item("문학실", "권", 7, 1, False),
    "큰글자책": Item("문학실", "권", 5, 3, True),
    "역사책": Item("인문실", "권", 5, 2, True),
    "철학책": Item("인문실", "권", 5, 2, True),
    "여행 안내서": Item("인문실", "권", 4, 2, False),
    "요리책": Item("과학실", "권", 5, 2, True),
    "식물도감": Item("과학실", "권", 2, 1, False),
    "음반": Item("영상실", "장", 4, 1, False),
    "영화 디스크": Item("영상실", "장", 3, 1, False),
}
DAYS = ("화요일", "수요일", "목요일", "금요일", "토요일", "일요일")  # closed on Mondays
_DELAYS = ("하루", "이틀", "사흘", "나흘", "닷새", "엿새", "이레")
PEOPLE = ("옆자리 사람", "우리 반 친구", "옆집 아저씨", "제 동료", "아까 나간 분", "유명한 배우", "담임 선생님", "헤어진 사람")
SECRETS = ("전화번호", "집 주소", "생년월일", "대출 목록", "비밀번호", "다녀간 시각", "이메일 주소")
OWN = {"전화번호": "바꾸", "집 주소": "바꾸", "비밀번호": "바꾸", "회원증": "다시 만들", "이메일 주소": "바꾸", "대출 목록": "확인하"}
_ELSEWHERE = (
    "내일 날씨",
    "축구 경기 결과",
    "주식 시세",
    "점심 메뉴",
    "버스 시간표",
    "복권 번호",
    "환율",
    "병원 예약",
    "이사 비용",
    "연예 소식",
)
GREETINGS = {"polite": ("", "", "", "안녕하세요, ", "저기요, ", "실례합니다. "), "casual": ("", "", "", "저기, ", "있잖아, ", "안녕, ")}
RUDE = (" 그것도 몰라?", " 안내판 좀 봐.", " 바쁜데 왜 자꾸 물어.", " 됐지?", " 한 번에 좀 알아들어.", "")


class Turn(NamedTuple):
    """One question in both registers with its answer in both; `slots` is what the split is decided by."""

    slots: tuple
    ask: dict[str, tuple[str, ...]]
    answer: dict[str, str]
    fact: str


def clock(hour: int) -> str:
    """An hour of the day as people say it: 9 → 오전 아홉 시, 12 → 낮 열두 시, 18 → 저녁 여섯 시, 21 → 밤 아홉 시."""
    part = "오전" if hour < 12 else "낮" if hour == 12 else "오후" if hour < 18 else "저녁" if hour < 21 else "밤"
    return f"{part} {count(hour if hour <= 12 else hour - 12, '시')}"


def hours(room: str, day: str) -> tuple[int, int]:
    """Opening and closing hour of a room on a day of `DAYS`."""
    return ROOMS[room].weekend if day in ("토요일", "일요일") else ROOMS[room].weekday


def floor_name(room: str) -> str:
    """2층, or 지하 1층 below the ground."""
    return f"{ROOMS[room].floor}층" if ROOMS[room].floor > 0 else f"지하 {-ROOMS[room].floor}층"


def both(polite: str | tuple, casual: str | tuple) -> dict:
    """The same thing said in both registers, as `Turn.ask` (several phrasings) and `Turn.answer` (one) hold it."""
    return {"polite": polite, "casual": casual}


def _where_item(rng: Random) -> Turn:
    item = rng.choice(list(ITEMS))
    topic, place = attach(item, "은/는"), f"{floor_name(ITEMS[item].room)} {ITEMS[item].room}"
    ask = both(
        (
            f"{topic} 어디에 있나요?",
            f"{attach(item, '을/를')} 찾고 있어요.",
            f"{topic} 몇 층에 있습니까?",
            f"{attach(item, '이/가')} 있는 곳을 알려 주세요.",
        ),
        (f"{topic} 어디에 있어?", f"{item} 찾고 있는데 어디야?", f"{topic} 몇 층이야?", f"{attach(item, '이/가')} 있는 곳 좀 알려 줘."),
    )
    return Turn((item,), ask, both(f"{topic} {place}에 있습니다.", f"{topic} {place}에 있어."), place)


def _where_room(rng: Random) -> Turn:
    room = rng.choice(list(ROOMS))
    topic, place = attach(room, "은/는"), floor_name(room)
    ask = both(
        (
            f"{topic} 몇 층인가요?",
            f"{attach(room, '으로/로')} 가려면 몇 층으로 가야 하나요?",
            f"{attach(room, '이/가')} 어디예요?",
            f"{room} 위치를 알려 주세요.",
        ),
        (
            f"{topic} 몇 층이야?",
            f"{attach(room, '으로/로')} 가려면 몇 층으로 가?",
            f"{attach(room, '이/가')} 어디야?",
            f"{room} 위치 좀 알려 줘.",
        ),
    )
    return Turn((room,), ask, both(f"{topic} {place}에 있습니다.", f"{topic} {place}에 있어."), place)


def _closing(rng: Random) -> Turn:
    room, day = rng.choice(list(ROOMS)), rng.choice(DAYS)
    start, end = map(clock, hours(room, day))
    topic = attach(room, "은/는")
    ask = both(
        (f"{day}에 {topic} 몇 시까지 하나요?", f"{topic} {day}에 언제 문을 닫나요?", f"{day} {room} 이용 시간을 알려 주세요."),
        (f"{day}에 {topic} 몇 시까지 해?", f"{topic} {day}에 언제 닫아?", f"{day} {room} 이용 시간 알려 줘."),
    )
    said = f"{day}에 {topic} {start}부터 {end}까지"
    return Turn((room, day), ask, both(f"{said} 엽니다.", f"{said} 열어."), f"{start}부터 {end}까지")


def _open_now(rng: Random) -> Turn:
    room, day, hour = rng.choice(list(ROOMS)), rng.choice(DAYS), rng.randrange(7, 24)
    start, end = hours(room, day)
    topic, moment = attach(room, "은/는"), f"{day} {clock(hour)}"
    ask = both(
        (
            f"{moment}에 {topic} 열려 있나요?",
            f"{moment}에 가도 {attach(room, '을/를')} 쓸 수 있을까요?",
            f"{moment}인데 {topic} 문을 열었습니까?",
        ),
        (f"{moment}에 {topic} 열려 있어?", f"{moment}에 가도 {room} 쓸 수 있어?", f"{moment}인데 {topic} 문 열었어?"),
    )
    if start <= hour < end:
        answer, fact = both(f"네, {clock(end)}까지 엽니다.", f"응, {clock(end)}까지 열어."), f"{clock(end)}까지"
    elif hour < start:
        answer, fact = both(f"아니요, {clock(start)}에 엽니다.", f"아니, {clock(start)}에 열어."), f"{clock(start)}에"
    else:
        answer, fact = both(f"아니요, {clock(end)}에 닫습니다.", f"아니, {clock(end)}에 닫아."), f"{clock(end)}에"
    return Turn((room, day, hour), ask, answer, fact)


def _limit(rng: Random) -> Turn:
    item = rng.choice(list(ITEMS))
    fact = count(ITEMS[item].limit, ITEMS[item].counter)
    what, many = attach(item, "은/는"), f"몇 {ITEMS[item].counter}"
    ask = both(
        (f"{what} {many}까지 빌릴 수 있나요?", f"{attach(item, '을/를')} 한 번에 {many} 빌려주나요?", f"{item} 대출 한도를 알려 주세요."),
        (f"{what} {many}까지 빌릴 수 있어?", f"{attach(item, '을/를')} 한 번에 {many} 빌려줘?", f"{item} 대출 한도 알려 줘."),
    )
    return Turn((item,), ask, both(f"{what} {fact}까지 빌릴 수 있습니다.", f"{what} {fact}까지 빌릴 수 있어."), fact)


def _remaining(rng: Random) -> Turn:
    item = rng.choice(list(ITEMS))
    _, counter, limit, *_ = ITEMS[item]
    have = rng.randint(1, limit)
    held = f"{attach(item, '을/를')} {count(have, counter)} 빌렸는데"
    ask = both(
        (f"{held} 몇 {counter} 더 빌릴 수 있나요?", f"{held} 더 빌려도 될까요?"),
        (f"{held} 몇 {counter} 더 빌릴 수 있어?", f"{held} 더 빌려도 돼?"),
    )
    if have == limit:
        fact = "더 빌릴 수 없"
        return Turn((item, have), ask, both("한도를 다 채워서 더 빌릴 수 없습니다.", "한도를 다 채워서 더 빌릴 수 없어."), fact)
    fact = f"{count(limit - have, counter)} 더"
    return Turn((item, have), ask, both(f"{fact} 빌릴 수 있습니다.", f"{fact} 빌릴 수 있어."), fact)


def _due(rng: Random) -> Turn:
    item, day = rng.choice(list(ITEMS)), rng.choice(DAYS)
    what, fact = attach(item, "을/를"), f"{ITEMS[item].weeks}주 뒤 {day}"
    ask = both(
        (
            f"{day}에 {what} 빌리면 언제까지 반납하나요?",
            f"{day}에 빌린 {attach(item, '은/는')} 언제까지예요?",
            f"{what} {day}에 빌렸습니다. 반납일이 언제입니까?",
        ),
        (
            f"{day}에 {what} 빌리면 언제까지 반납해?",
            f"{day}에 빌린 {attach(item, '은/는')} 언제까지야?",
            f"{what} {day}에 빌렸어. 반납일이 언제야?",
        ),
    )
    return Turn((item, day), ask, both(f"{fact}까지 반납하시면 됩니다.", f"{fact}까지 반납하면 돼."), fact)


def _renew(rng: Random) -> Turn:
    item, reserved = rng.choice(list(ITEMS)), rng.random() < 0.4
    what, state = attach(item, "을/를"), "예약한 사람이 있는 " if reserved else ""
    ask = both(
        (f"{state}{what} 연장할 수 있나요?", f"{state}{item} 대출을 연장하고 싶어요.", f"{state}{what} 더 오래 볼 수 있을까요?"),
        (f"{state}{what} 연장할 수 있어?", f"{state}{item} 대출 연장하고 싶어.", f"{state}{what} 더 오래 볼 수 있어?"),
    )
    if not ITEMS[item].renewable:
        fact, why = "연장할 수 없", f"{attach(item, '은/는')} 연장할 수 없"
        return Turn((item, reserved), ask, both(f"아니요, {why}습니다.", f"아니, {why}어."), fact)
    if reserved:
        fact, why = "예약한 사람이 있", "예약한 사람이 있어 연장할 수 없"
        return Turn((item, reserved), ask, both(f"아니요, {why}습니다.", f"아니, {why}어."), fact)
    fact = "한 번 연장"
    return Turn((item, reserved), ask, both("네, 1주일 동안 한 번 연장할 수 있습니다.", "응, 1주일 동안 한 번 연장할 수 있어."), fact)


def _late(rng: Random) -> Turn:
    item, delay = rng.choice(list(ITEMS)), rng.choice(_DELAYS)
    what, fact = attach(item, "을/를"), f"{delay} 동안"
    ask = both(
        (f"{what} {delay} 늦게 반납하면 어떻게 되나요?", f"{what} {delay} 연체했어요. 어떻게 하죠?"),
        (f"{what} {delay} 늦게 반납하면 어떻게 돼?", f"{what} {delay} 연체했어. 어떻게 하지?"),
    )
    return Turn((item, delay), ask, both(f"{fact} 새로 빌릴 수 없습니다.", f"{fact} 새로 빌릴 수 없어."), fact)


def _way(rng: Random) -> Turn:
    start, goal = rng.sample(list(ROOMS), 2)
    ask = both(
        (f"{start}에서 {attach(goal, '으로/로')} 어떻게 가나요?", f"지금 {start}인데 {attach(goal, '으로/로')} 가려면 어떻게 하죠?"),
        (f"{start}에서 {attach(goal, '으로/로')} 어떻게 가?", f"지금 {start}인데 {attach(goal, '으로/로')} 가려면 어떻게 해?"),
    )
    steps = _storey(goal) - _storey(start)
    if steps == 0:
        return Turn((start, goal), ask, both("같은 층에 있습니다.", "같은 층에 있어."), "같은 층")
    fact = f"{('한', '두', '세', '네')[abs(steps) - 1]} 층 {'올라' if steps > 0 else '내려'}가"
    return Turn((start, goal), ask, both(f"{fact}시면 됩니다.", f"{fact}면 돼."), fact)


def _storey(room: str) -> int:
    """Storeys counted without a gap: the basement is 0."""
    return max(ROOMS[room].floor, 0)


def _longer(rng: Random) -> Turn:
    first, second = rng.sample(list(ITEMS), 2)
    pair = f"{attach(first, '과/와')} {second}"
    ask = both(
        (f"{pair} 중에 어느 것을 더 오래 빌릴 수 있나요?", f"{pair} 중 대출 기간이 더 긴 것은 무엇인가요?"),
        (f"{pair} 중에 어느 걸 더 오래 빌릴 수 있어?", f"{pair} 중에 대출 기간이 더 긴 게 뭐야?"),
    )
    a, b = ITEMS[first].weeks, ITEMS[second].weeks
    if a == b:
        return Turn((first, second), ask, both(f"둘 다 {a}주로 같습니다.", f"둘 다 {a}주로 같아."), f"둘 다 {a}주")
    fact = f"{attach(first if a > b else second, '을/를')} 더 오래"
    return Turn((first, second), ask, both(f"{fact} 빌릴 수 있습니다.", f"{fact} 빌릴 수 있어."), fact)


def _same_room(rng: Random) -> Turn:
    first, second = rng.sample(list(ITEMS), 2)
    pair = f"{attach(first, '과/와')} {attach(second, '은/는')}"
    ask = both((f"{pair} 같은 곳에 있나요?", f"{pair} 한 방에 있습니까?"), (f"{pair} 같은 곳에 있어?", f"{pair} 한 방에 있어?"))
    a, b = ITEMS[first].room, ITEMS[second].room
    if a == b:
        return Turn((first, second), ask, both(f"네, 둘 다 {a}에 있습니다.", f"응, 둘 다 {a}에 있어."), f"둘 다 {a}")
    fact = f"{attach(first, '은/는')} {a}, {attach(second, '은/는')} {b}"
    return Turn((first, second), ask, both(f"아니요, {fact}에 있습니다.", f"아니, {fact}에 있어."), fact)


def _elsewhere(rng: Random) -> Turn:
    what = rng.choice(_ELSEWHERE)
    ask = both(
        (f"{attach(what, '을/를')} 알려 주세요.", f"{attach(what, '이/가')} 궁금해요.", f"혹시 {attach(what, '을/를')} 아시나요?"),
        (f"{what} 좀 알려 줘.", f"{attach(what, '이/가')} 궁금해.", f"혹시 {what} 알아?"),
    )
    answer = both("저는 도서관 안내만 해 드릴 수 있습니다.", "나는 도서관 안내만 해 줄 수 있어.")
    return Turn((what,), ask, answer, "도서관 안내만")


def _own(rng: Random) -> Turn:
    what = rng.choice(list(OWN))
    obj, verb = attach(what, "을/를"), OWN[what]
    ask = both(
        (f"제 {obj} {verb}고 싶어요.", f"제 {obj} {verb}려면 어떻게 하나요?", f"제 {obj} {verb}러 왔습니다."),
        (f"내 {obj} {verb}고 싶어.", f"내 {obj} {verb}려면 어떻게 해?", f"내 {obj} {verb}러 왔어."),
    )
    answer = both("1층 안내대에서 신분증을 보여 주시면 도와드립니다.", "1층 안내대에서 신분증을 보여 주면 도와줄게.")
    return Turn((what,), ask, answer, "1층 안내대")


def _private(rng: Random) -> Turn:
    who, what = rng.choice(PEOPLE), rng.choice(SECRETS)
    theirs = f"{who}의 {what}"
    casual = theirs.replace("제 ", "내 ", 1)
    ask = both(
        (
            f"{attach(theirs, '을/를')} 알려 주세요.",
            f"{attach(theirs, '을/를')} 몰래 볼 수 있을까요?",
            f"{attach(theirs, '이/가')} 뭔지 아시나요?",
        ),
        (f"{casual} 좀 알려 줘.", f"{attach(casual, '을/를')} 몰래 볼 수 있어?", f"{attach(casual, '이/가')} 뭔지 알아?"),
    )
    answer = both("다른 분의 개인 정보는 알려 드릴 수 없습니다.", "다른 사람의 개인 정보는 알려 줄 수 없어.")
    return Turn((who, what), ask, answer, "개인 정보는 알려")


INTENTS: dict[str, Callable[[Random], Turn]] = {
    "where_item": _where_item, "where_room": _where_room, "closing": _closing, "open_now": _open_now, "limit": _limit,
    "remaining": _remaining, "due": _due, "renew": _renew, "late": _late, "way": _way, "longer": _longer,
    "same_room": _same_room, "elsewhere": _elsewhere, "own": _own, "private": _private,
}  # fmt: skip
# A single fact must be seen in training, so there the wording (register and phrasing) belongs to the combination.
BY_WORDING = frozenset(("where_item", "where_room", "limit", "renew", "elsewhere", "own"))


def _question(rng: Random, intent: str) -> tuple[tuple, str, str, Turn]:
    """(combination, register, question, turn) for one intent."""
    turn = INTENTS[intent](rng)
    register = rng.choice(("polite", "casual"))
    phrasing = rng.randrange(len(turn.ask[register]))
    combination = (intent, *turn.slots) + ((register, phrasing) if intent in BY_WORDING else ())
    return combination, register, rng.choice(GREETINGS[register]) + turn.ask[register][phrasing], turn


def _draw_instruction(rng: Random, _: int) -> tuple[tuple, str, dict]:
    intent = rng.choice(list(INTENTS))
    combination, register, question, turn = _question(rng, intent)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": turn.answer[register]}]
    return combination, question, {"messages": messages, "intent": intent, "register": register, "fact": turn.fact}


def _draw_preference(rng: Random, i: int) -> tuple[tuple, str, dict]:
    axis = ("polite", "on_topic", "safe")[i % 3]
    refuse = i % 6 == 2  # every other safety pair must be refused; the rest must not
    intent = "private" if refuse else rng.choice([name for name in INTENTS if name != "private"])
    combination, register, question, turn = _question(rng, intent)
    chosen = turn.answer["polite"]
    if axis == "polite":
        rejected = turn.answer["casual"] + rng.choice(RUDE)
    elif refuse:
        rejected = rng.choice(("네, 그냥 알려 드릴게요.", "몰래 보시면 되죠.", "어차피 아무도 모를 거예요.", "네, 명부를 보여 드릴게요."))
    elif axis == "safe":
        rejected = rng.choice(("죄송하지만 답할 수 없습니다.", "그런 질문에는 답하지 않습니다.", "위험할 수 있어 알려 드릴 수 없습니다."))
    else:
        others = [name for name in INTENTS if name not in (intent, "private")]
        rejected = INTENTS[rng.choice(others)](rng).answer["polite"]
        while rejected == chosen:
            rejected = INTENTS[rng.choice(others)](rng).answer["polite"]
    row = {"prompt": question, "chosen": chosen, "rejected": rejected, "axis": axis, "intent": intent, "fact": turn.fact}
    return combination, f"{axis}/{question}", row


def instructions(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` rows {"id", "messages": [user, assistant], "intent", "register", "fact"}, no question twice.

    Deterministic in (n, seed, split). Raises WorkshopError for an unknown split or more rows than the world holds.
    """
    yield from stream("instructions", n, seed, split, _draw_instruction)


def preferences(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` rows {"id", "prompt", "chosen", "rejected", "axis", "intent", "fact"}; polite, on_topic, safe in turn.

    polite: the same content, rude and casual. on_topic: a polite answer to another question. safe: half the time a
    careless yes to a request for someone's personal data, half the time a needless refusal of an ordinary request.
    Combinations are split as for `instructions`, so validation prompts are new to a model tuned on either.
    """
    yield from stream("preferences", n, seed, split, _draw_preference)
