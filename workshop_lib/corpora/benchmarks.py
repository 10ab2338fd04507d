"""Benchmark items in the public formats, from two small worlds in which every label follows by rule.

* Scenes ("서연이는 토요일 오전에 시장에서 사과 세 개를 샀다.") give `nli` and `sts`.
* Places (a village library, its opening year, its keeper, its fee …) give `reading` and `boolq`.
* `topics` (headlines) lives in `headlines` and is offered here too.

Field names are those of KLUE-NLI, KLUE-STS, KLUE-MRC (as on the Hub), YNAT and KoBEST BoolQ. Labels are balanced by
turns. Entailments and contradictions share their wordings, so that a hypothesis alone does not tell which of the two it
is. The hand-written, more varied companions are in `data/{nli,topics,reading,boolq,sts}.jsonl`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from workshop_lib.corpora.combinations import stream
from workshop_lib.corpora.grammar import attach, conjugate, count, familiar
from workshop_lib.corpora.headlines import TOPICS, topics

__all__ = ["NLI_LABELS", "TOPICS", "boolq", "nli", "reading", "sts", "topics"]

NLI_LABELS = ("entailment", "neutral", "contradiction")
NAMES = ("서연", "민지", "하준", "지우", "도윤", "유나", "태오", "보람", "은성", "가온", "나리", "준서", "소율", "현우")
DAYS = ("월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일")
PARTS = ("오전", "오후", "저녁")
# verb: places, and things as (thing, kind, counter)
ACTIONS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]] = {
    "사다": (
        ("시장", "가게", "장터", "백화점"),
        (("사과", "과일", "개"), ("복숭아", "과일", "개"), ("오이", "채소", "개"), ("공책", "문구", "권"), ("연필", "문구", "자루")),
    ),
    "읽다": (
        ("도서관", "공원", "카페", "책방"),
        (("소설책", "책", "권"), ("시집", "책", "권"), ("만화책", "책", "권"), ("동화책", "책", "권")),
    ),
    "굽다": (
        ("빵집", "조리실", "캠핑장", "할머니 댁"),
        (("식빵", "빵", "개"), ("호밀빵", "빵", "개"), ("쿠키", "과자", "개"), ("전병", "과자", "개")),
    ),
    "심다": (
        ("마당", "텃밭", "화단", "언덕"),
        (
            ("튤립", "꽃", "송이"),
            ("해바라기", "꽃", "송이"),
            ("상추", "채소", "포기"),
            ("배추", "채소", "포기"),
            ("단풍나무", "나무", "그루"),
        ),
    ),
    "그리다": (
        ("미술실", "강가", "광장", "옥상"),
        (("수채화", "그림", "장"), ("초상화", "그림", "장"), ("풍경화", "그림", "장")),
    ),
    "잡다": (
        ("저수지", "냇가", "바닷가", "낚시터"),
        (("붕어", "물고기", "마리"), ("잉어", "물고기", "마리"), ("숭어", "물고기", "마리"), ("피라미", "물고기", "마리")),
    ),
    "만들다": (
        ("교실", "체험관", "작업실", "마을 회관"),
        (("팽이", "장난감", "개"), ("인형", "장난감", "개"), ("의자", "가구", "개"), ("책장", "가구", "개")),
    ),
    "줍다": (
        ("뒷산", "숲길", "공터", "들판"),
        (("밤", "열매", "개"), ("도토리", "열매", "개"), ("솔방울", "열매", "개")),
    ),
}


@dataclass(frozen=True)
class Scene:
    """Somebody did something, once."""

    who: str
    day: str
    part: str
    place: str
    verb: str
    thing: str
    kind: str
    counter: str
    number: int

    @property
    def many(self) -> str:
        """The thing with its number and counter: 사과 세 개."""
        return f"{self.thing} {count(self.number, self.counter)}"

    @property
    def key(self) -> tuple:
        """What makes it this scene: two of the same key tell of the same."""
        return (self.who, self.day, self.place, self.thing)


def _scene(rng: Random) -> Scene:
    verb = rng.choice(list(ACTIONS))
    places, things = ACTIONS[verb]
    thing, kind, counter = rng.choice(things)
    return Scene(rng.choice(NAMES), rng.choice(DAYS), rng.choice(PARTS), rng.choice(places), verb, thing, kind, counter, rng.randint(2, 9))


def _other(rng: Random, choices: tuple[str, ...], taken: str) -> str:
    return rng.choice([choice for choice in choices if choice != taken])


def _topic(name: str) -> str:
    return attach(familiar(name), "은/는")


def premise(scene: Scene, order: int = 0, polite: bool = False) -> str:
    """The whole scene in one sentence; `order` 0 starts with the person, 1 with the time."""
    does = conjugate(scene.verb, "았습니다" if polite else "았다")
    when, rest = f"{scene.day} {scene.part}", f"{scene.place}에서 {attach(scene.many, '을/를')} {does}."
    return f"{when}에 {_topic(scene.who)} {rest}" if order else f"{_topic(scene.who)} {when}에 {rest}"


# --- Natural language inference ---------------------------------------------------------------------------------


def _hypothesis(rng: Random, s: Scene, label: str) -> tuple[str, str]:
    """(wording, hypothesis) with the given relation to `premise(s)`, under the usual reading that it happened once."""
    true = label == "entailment"
    who, obj, did, done = _topic(s.who), attach(s.thing, "을/를"), conjugate(s.verb, "았다"), conjugate(s.verb, "은")
    subject, not_did = attach(familiar(s.who), "이/가"), f"{conjugate(s.verb, '지')} 않았다"
    places = ACTIONS[s.verb][0]
    if label == "neutral":
        friend, day, place = _other(rng, NAMES, s.who), _other(rng, DAYS, s.day), _other(rng, places, s.place)
        made = {
            "likes": f"{who} {attach(s.kind, '을/를')} 무척 좋아한다.",
            "with": f"{who} {attach(familiar(friend), '과/와')} 함께 {s.place}에 갔다.",
            "gives": f"{who} {done} {obj} {familiar(friend)}에게 보여 주었다.",
            "again": f"{who} 지난주에도 {s.place}에 갔다.",
            "friend": f"{attach(familiar(friend), '이/가')} {s.day}에 {obj} {did}.",
            "friend_not": f"{attach(familiar(friend), '은/는')} {s.day}에 {obj} {not_did}.",
            "day_too": f"{who} {day}에도 {obj} {did}.",
            "day_not": f"{who} {day}에는 {obj} {not_did}.",
            "place_before": f"{who} {place}에 간 적이 있다.",
            "first": f"{subject} {attach(s.kind, '을/를')} {done} 것은 처음이다.",
        }
    else:
        friend, day, place = (
            (s.who, s.day, s.place) if true else (_other(rng, NAMES, s.who), _other(rng, DAYS, s.day), _other(rng, places, s.place))
        )
        low = rng.randint(1, s.number - 1) if true else rng.randint(s.number, s.number + 5)
        unlike = _other(rng, DAYS, s.day) if true else s.day
        made = {
            "who": f"{s.place}에서 {obj} {done} 사람은 {attach(familiar(friend), '이다/다')}.",
            "day": f"{subject} {obj} {done} 날은 {day}이다.",
            "place": f"{subject} {obj} {done} 곳은 {attach(place, '이다/다')}.",
            "more": f"{subject} {done} {attach(s.thing, '은/는')} {count(low, s.counter)}보다 많다.",
            "day_not": f"{subject} {obj} {done} 날은 {unlike}이 아니다.",
            "did": f"{who} {s.place}에서 {attach(s.kind, '을/를')} {did if true else not_did}.",
            "did_day": f"{who} {s.day}에 {obj} {did if true else not_did}.",
            "any": f"{who} {s.day}에 {attach(s.kind, '을/를')} {did if true else f'하나도 {not_did}'}.",
            "went": f"{who} {s.day}에 {s.place}에 {'갔다' if true else '가지 않았다'}.",
        }
    wording = rng.choice(list(made))
    return wording, made[wording]


def _draw_nli(rng: Random, i: int) -> tuple[tuple, str, dict]:
    label, scene = NLI_LABELS[i % 3], _scene(rng)
    text = premise(scene, rng.randrange(2), rng.random() < 0.2)
    wording, hypothesis = _hypothesis(rng, scene, label)
    row = {"source": "workshop-scenes", "premise": text, "hypothesis": hypothesis, "gold_label": label}
    return (*scene.key, wording), f"{text}/{hypothesis}", row


def nli(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` items {"guid", "source", "premise", "hypothesis", "gold_label"}; the labels of `NLI_LABELS` in turn."""
    yield from stream("nli", n, seed, split, _draw_nli, key="guid")


# --- Semantic similarity ----------------------------------------------------------------------------------------


def _changed(rng: Random, s: Scene, slots: list[str]) -> Scene:
    """The scene with the named slots changed (within the same action)."""
    new = dict(vars(s))
    for slot in slots:
        if slot == "thing":
            kept = [thing for thing in ACTIONS[s.verb][1] if thing[0] != s.thing]
            new["thing"], new["kind"], new["counter"] = rng.choice(kept)
        elif slot == "number":
            new["number"] = rng.choice([number for number in range(2, 10) if number != s.number])
        else:
            choices = {"who": NAMES, "day": DAYS, "part": PARTS, "place": ACTIONS[s.verb][0]}[slot]
            new[slot] = _other(rng, choices, new[slot])
    return Scene(**new)


def _retold(rng: Random, s: Scene) -> str:
    """The whole scene in other words."""
    done, when = conjugate(s.verb, "은"), f"{s.day} {s.part}"
    return rng.choice(
        (
            f"{when}에 {s.place}에서 {attach(s.many, '을/를')} {done} 사람은 {attach(familiar(s.who), '이다/다')}.",
            f"{attach(familiar(s.who), '이/가')} {s.place}에서 {attach(s.many, '을/를')} {done} 것은 {when}이다.",
            f"{when}에 {attach(familiar(s.who), '이/가')} {s.place}에서 {done} 것은 {attach(s.many, '이다/다')}.",
            premise(s, order=1, polite=True),
        )
    )


def _draw_sts(rng: Random, i: int) -> tuple[tuple, str, dict]:
    level, scene = (5, 0, 4, 1, 3, 2)[i % 6], _scene(rng)
    first, change = premise(scene), ""
    if level == 5:
        second = _retold(rng, scene)
    elif level == 4:  # one detail is left out
        does, obj = conjugate(scene.verb, "았다"), attach(scene.thing, "을/를")
        second = rng.choice(
            (
                f"{_topic(scene.who)} {scene.day} {scene.part}에 {scene.place}에서 {obj} {does}.",
                f"{_topic(scene.who)} {scene.day}에 {scene.place}에서 {attach(scene.many, '을/를')} {does}.",
                f"{scene.day} {scene.part}에 {_topic(scene.who)} {attach(scene.many, '을/를')} {does}.",
            )
        )
    elif level in (3, 2):  # one or three of the slots differ, the person and the action do not
        slots = rng.sample(["day", "place", "thing"], 1) if level == 3 else ["day", "place", "thing"]
        change = ",".join(slots)
        second = rng.choice((premise, _retold_plain))(_changed(rng, scene, slots))
    else:  # another action, by the same person or by another
        other = _scene(rng)
        while other.verb == scene.verb or (level == 0 and scene.who == other.who):
            other = _scene(rng)
        if level == 1:
            other = Scene(**(dict(vars(other)) | {"who": scene.who}))
        second = premise(other, order=rng.randrange(2))
    if rng.random() < 0.5:
        first, second = second, first
    labels = {"label": float(level), "real-label": float(level), "binary-label": int(level >= 3)}
    row = {"source": "workshop-scenes", "sentence1": first, "sentence2": second, "labels": labels}
    return (*scene.key, level, change), f"{first}/{second}", row


def _retold_plain(s: Scene) -> str:
    return premise(s, order=1)


def sts(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` pairs {"guid", "source", "sentence1", "sentence2", "labels"}; scores 0-5 by rule, evenly.

    5: the same in other words. 4: a detail is missing. 3: the day, the place or the thing differs. 2: all three differ.
    1: the same person does something else. 0: nothing in common. "binary-label" is 1 from 3.0 on, as in KLUE-STS.
    """
    yield from stream("sts", n, seed, split, _draw_sts, key="guid")


# --- Reading comprehension --------------------------------------------------------------------------------------

VILLAGES = ("솔내마을", "달여울", "갈미마을", "늘봄동", "바람골", "새터마을", "물안마을", "은모래마을", "두레마을", "가재울")
HOUSES = ("도서관", "목공방", "천문대", "수영장", "박물관", "과학관", "공연장", "미술관", "체험관", "온실")
_SURNAMES, _GIVEN = "강고나도문백서안오윤임정조최한", ("가람", "누리", "다온", "라온", "마루", "보미", "새론", "아람", "초롱", "한별")
_FORMER = ("방앗간", "우체국", "양조장", "창고", "정미소", "초등학교", "기차역", "목욕탕")
_EVENTS = ("벼룩시장", "낭독회", "음악회", "사진전", "종이접기 교실", "요리 교실", "영화 상영회", "별 보기 모임", "연날리기 대회")
# slot: (statements, question, yes/no question); {F} is the place as topic, {P} its bare name, {x} the value. Particles stand
# here only after values that always end in a consonant (년, 원, 분, 명, 요일); the others come from `attach` in `_fill`.
_SLOTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "year": (("{F} {x}에 문을 열었다.", "문을 연 것은 {x}이다."), "{S} 문을 연 해는 언제인가?", "{F} {x}에 문을 열었는가?"),
    "keeper": (
        ("이곳은 {x} 씨가 맡아 꾸린다.", "지금은 {x} 씨가 관리한다."),
        "{O} 맡고 있는 사람은 누구인가?",
        "{O} 맡고 있는 사람은 {x} 씨인가?",
    ),
    "closed": (("매주 {x}에는 쉰다.", "쉬는 날은 매주 {x}이다."), "{S} 쉬는 요일은 언제인가?", "{F} 매주 {x}에 쉬는가?"),
    "fee": (("어른의 입장료는 {x}이다.", "들어가려면 어른 한 사람이 {x}을 낸다."), "어른의 입장료는 얼마인가?", "어른의 입장료는 {x}인가?"),
    "event": (
        ("다달이 {이벤트} 열린다.", "한 달에 한 번 {이벤트} 열린다."),
        "{P}에서 다달이 열리는 행사는 무엇인가?",
        "{P}에서는 다달이 {이벤트} 열리는가?",
    ),
    "walk": (
        ("역에서 걸어서 {x}이 걸린다.", "역에서 내려 {x}을 걸으면 닿는다."),
        "역에서 걸어서 얼마나 걸리는가?",
        "역에서 걸어서 {x}이 걸리는가?",
    ),
    "visitors": (
        ("하루에 평균 {x}이 찾아온다.", "찾아오는 사람은 하루 평균 {x}이다."),
        "하루에 평균 몇 명이 찾아오는가?",
        "하루에 평균 {x}이 찾아오는가?",
    ),
    "former": (
        ("건물은 원래 {x} 자리였다.", "오래된 {원래} 고쳐 지었다."),
        "건물은 원래 무엇이 있던 자리였는가?",
        "건물은 원래 {x} 자리였는가?",
    ),
}


def _value(rng: Random, slot: str) -> str:
    if slot == "keeper":
        return rng.choice(_SURNAMES) + rng.choice(_GIVEN)
    if slot in ("closed", "event", "former"):
        return rng.choice({"closed": DAYS, "event": _EVENTS, "former": _FORMER}[slot])
    if slot == "year":
        return f"{rng.randint(1972, 2021)}년"
    return {"fee": f"{rng.randrange(1000, 9000, 500)}원", "walk": f"{rng.randint(3, 35)}분", "visitors": f"{rng.randrange(30, 400, 10)}명"}[
        slot
    ]


def _fill(text: str, place: str, value: str) -> str:
    forms = {"F": attach(place, "은/는"), "S": attach(place, "이/가"), "O": attach(place, "을/를"), "P": place, "x": value}
    return text.format(**forms, 이벤트=attach(value, "이/가"), 원래=attach(value, "을/를"))


def _place(rng: Random) -> tuple[str, dict[str, str], str]:
    """(name, what its text tells: slot → value, the text): four of the eight slots in random order."""
    place = f"{rng.choice(VILLAGES)} {rng.choice(HOUSES)}"
    told = {slot: _value(rng, slot) for slot in rng.sample(list(_SLOTS), 4)}
    sentences = [_fill(rng.choice(_SLOTS[slot][0]), place, value) for slot, value in told.items()]
    opening = rng.choice(
        ("{F} 마을 사람들이 아끼는 곳이다.", "{F} 작지만 알찬 곳이다.", "{F} 강가 언덕 위에 있다.", "{F} 마을 어귀에 있다.")
    )
    return place, told, " ".join([_fill(opening, place, "")] + sentences)


def _draw_reading(rng: Random, i: int) -> tuple[tuple, str, dict]:
    impossible = i % 3 == 2
    while True:  # the answer must stand in the text once only, and nowhere when there is none
        place, told, context = _place(rng)
        slot = rng.choice([slot for slot in _SLOTS if (slot in told) != impossible])
        answer = told.get(slot, "")
        if impossible or context.count(answer) == 1:
            break
    answers = {"text": [], "answer_start": []} if impossible else {"text": [answer], "answer_start": [context.index(answer)]}
    question = _fill(_SLOTS[slot][1], place, "")
    row = {"title": place, "context": context, "question": question, "answers": answers, "is_impossible": impossible}
    return (place, slot), f"{context}/{question}", row


def reading(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` items {"guid", "title", "context", "question", "answers", "is_impossible"}; every third has no answer.

    "answers" is {"text": [...], "answer_start": [...]}, both empty where `is_impossible`; context[start:][:len] is text.
    """
    yield from stream("reading", n, seed, split, _draw_reading, key="guid")


def _draw_boolq(rng: Random, i: int) -> tuple[tuple, str, dict]:
    place, told, text = _place(rng)
    slot, true = rng.choice(list(told)), i % 2 == 0
    asked = told[slot]
    while not true and asked == told[slot]:
        asked = _value(rng, slot)
    question = _fill(_SLOTS[slot][2], place, asked)
    return (place, slot, true), f"{text}/{question}", {"Text": text, "Question": question, "Answer": true}


def boolq(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` items {"ID", "Text", "Question", "Answer"} (KoBEST's columns); Answer True and False in turn."""
    yield from stream("boolq", n, seed, split, _draw_boolq, key="ID")
