"""Short Korean stories for a language model of a few million parameters, in the spirit of TinyStories (arXiv:2305.07759).

A story village: small animals lose things, share, quarrel and make up. Seventeen plots stand in `data/story_plots.txt` as
beats with alternative sentences; here a cast, a place, objects, a season and a way of telling are drawn and the text is
put together. Notable choices:

* What is drawn once must come back: names, animals, colours, objects, numbers, the season and the speech level of
  the narrator (-다 or -어요) all depend on words a hundred tokens earlier. An n-gram cannot follow that.
* Particles are written in any form and set right by `grammar.attach`; sentence endings are written once, as -았다.
* Training and validation never share a combination of hero x place x object x plot.
"""

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from workshop_lib import WorkshopError
from workshop_lib.corpora import DATA
from workshop_lib.corpora.grammar import attach, count, has_final

# Few and short, so that a small vocabulary holds most of them whole and a tiny model soon learns to carry them along.
NAMES = (
    "토리", "두리", "나래", "모모", "루루", "코코", "단비", "바우", "또또", "포포", "은비", "마루", "까미", "뭉치", "깨비", "누리",
    "꼬미", "미루", "도도", "해나", "나나", "무니", "몽이", "솔이", "초롱이", "밤톨이", "꽃님이", "여울이", "샛별이", "재롱이",
    "도담이", "동동이",
)  # fmt: skip
KINDS = (
    "토끼", "다람쥐", "곰", "여우", "너구리", "고슴도치", "사슴", "두더지", "오리", "병아리", "고양이", "강아지",
    "생쥐", "개구리", "염소", "송아지", "망아지", "양", "돼지", "수달", "오소리", "원숭이", "판다", "늑대", "노루",
)  # fmt: skip
MANNERS = ("아기", "꼬마", "어린", "작은", "귀여운", "마음씨 고운", "호기심 많은", "장난꾸러기", "부지런한", "씩씩한")
ELDERS = (
    "부엉이 할아버지", "거북 할머니", "두루미 아주머니", "당나귀 아저씨", "황소 아저씨", "올빼미 선생님", "두꺼비 할아버지",
    "산양 할머니", "기러기 할머니", "비둘기 아주머니", "들소 아저씨", "백조 선생님", "코끼리 할아버지", "낙타 아저씨",
)  # fmt: skip
PLACES = (
    "숲속", "강가", "언덕", "골짜기", "호숫가", "산기슭", "개울가", "들판", "연못가", "바닷가", "과수원", "갈대밭", "대나무 숲",
    "자작나무 숲", "소나무 숲", "풀밭", "달빛 마을", "도토리 마을", "무지개 마을", "솔바람 마을", "작은 섬", "우물가", "목장", "시냇가",
)  # fmt: skip
COLORS = ("빨간", "파란", "노란", "하얀", "까만", "초록색", "보라색", "분홍색", "하늘색", "주황색", "은빛", "금빛")
THINGS = (
    "목도리", "장갑", "모자", "구슬", "단추", "가방", "리본", "손수건", "팽이", "물병", "망토", "주머니", "호루라기",
    "붓", "우산", "부채", "방울", "공책", "수첩", "조끼",
)  # fmt: skip
TOYS = (
    "공", "팽이", "연", "인형", "나팔", "북", "굴렁쇠", "그림책", "바람개비", "목마", "풍선", "물총",
)  # fmt: skip
POTS = (
    "물뿌리개", "주전자", "물통", "바가지", "양동이",
)  # fmt: skip
FOODS = {
    "사과": "개", "감자": "개", "고구마": "개", "옥수수": "개", "도토리": "알", "밤": "톨", "호두": "알", "복숭아": "개",
    "딸기": "알", "만두": "개", "과자": "개", "당근": "개", "감": "개", "배": "개", "빵": "개", "귤": "개", "자두": "알",
    "살구": "알", "대추": "알", "찐빵": "개", "송편": "개", "참외": "개", "떡": "개", "앵두": "알",
}  # fmt: skip
SEASONS = {  # name: (when it happens, what the world looks like)
    "봄": (
        "어느 따뜻한 봄날|벚꽃이 핀 봄날 아침|개나리가 활짝 핀 날|봄비가 그친 아침|새싹이 돋는 봄날|나비가 날아든 봄날 오후",
        "봄바람이 살랑살랑 불었다.|꽃잎이 하늘하늘 흩날렸다.|햇살이 포근하게 내리쬐었다.|종달새가 높이 노래했다.|"
        "아지랑이가 아른아른 피어올랐다.",
    ),
    "여름": (
        "매미가 우는 여름날|어느 무더운 여름날|햇볕이 쨍쨍한 여름 한낮|장마가 끝난 아침|소나기가 지나간 오후|수박이 익어 가는 여름날",
        "매미가 맴맴 울었다.|시원한 바람이 땀을 식혀 주었다.|뭉게구름이 두둥실 떠 있었다.|풀벌레가 찌르르 울었다.|"
        "하늘에 저녁놀이 붉게 물들었다.",
    ),
    "가을": (
        "단풍이 곱게 물든 가을날|어느 맑은 가을 아침|낙엽이 지는 오후|하늘이 높은 가을날|밤송이가 벌어지는 가을날|추석을 앞둔 어느 날",
        "단풍잎이 팔랑팔랑 떨어졌다.|고추잠자리가 맴을 돌았다.|귀뚜라미가 귀뚤귀뚤 울었다.|억새가 은빛으로 흔들렸다.|"
        "파란 하늘이 더없이 높았다.",
    ),
    "겨울": (
        "함박눈이 내린 아침|어느 추운 겨울날|고드름이 달린 겨울 아침|첫눈이 온 다음 날|바람이 매서운 겨울날|눈이 소복이 쌓인 날",
        "눈송이가 소복소복 쌓였다.|흰 눈이 온 세상을 덮었다.|찬 바람이 쌩쌩 불었다.|하얀 입김이 폴폴 났다.|"
        "고드름이 햇빛에 반짝였다.",
    ),
}  # fmt: skip
STYLES = ("어요", "다")  # how the narrator ends a sentence; -습니다 works too, but a tiny model learns two faster

# A particle right after a slot, in either of its forms -> the pair that `attach` takes.
_PAIRS = (
    "은/는", "이/가", "을/를", "과/와", "으로/로", "아/야", "이라고/라고", "이라는/라는", "이다/다", "이면/면",
    "이었/였", "이니까/니까", "이야말로/야말로", "이라도/라도",
)  # fmt: skip
_FORMS = {form: pair for pair in _PAIRS for form in pair.split("/")} | {"이야": "이야/야"}
_LONG = "이야말로|야말로|이었|였|이니까|니까"  # more may follow these: 이었다, 였던
_SHORT = "|".join(sorted(_FORMS, key=len, reverse=True))
_SLOT = re.compile(rf"\{{(\w+)\}}({_LONG}|(?:{_SHORT})(?![가-힣]))?")
_AFTER = re.compile(r"(은|는|이|가|을|를|과|와|으로|로)(?![가-힣])")


@dataclass(frozen=True)
class Plot:
    """One plot: its table (one row is drawn) and its beats, each with a chance in percent and alternative sentences."""

    name: str
    rows: list[dict[str, str]] = field(default_factory=list)
    beats: list[tuple[int, list[str]]] = field(default_factory=list)


@cache
def plots() -> tuple[Plot, ...]:
    """The plots of `data/story_plots.txt`, in file order. The format is described at the top of that file."""
    found, columns = [], []
    path = DATA / "story_plots.txt"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            found.append(Plot(line[3:].strip()))
        elif line.startswith(":: "):
            columns = line[3:].split("; ")
        elif line.startswith("= "):
            values = line[2:].split("; ")
            if not len(columns) - 2 <= len(values) <= len(columns):  # season and not may be left out
                raise WorkshopError(f"{path} {number}번째 줄: 표의 칸은 {len(columns)}개인데 값은 {len(values)}개다.")
            found[-1].rows.append(dict(zip(columns, values)))
        elif line.startswith("--"):
            found[-1].beats.append((int(line[2:] or 100), []))
        else:
            found[-1].beats[-1][1].append(line)
    return tuple(found)


def restyle(text: str, style: str) -> str:
    """Narration in -았다 form retold in -았어요 or -았습니다; what stands in quotation marks is left as it is."""
    if style == "다":
        return text
    parts = text.split('"')
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([가-힣])다(?=\.)", lambda m: _retell(m, style), parts[i])
    return '"'.join(parts)


def _retell(match: re.Match, style: str) -> str:
    if (ord(match[1]) - 0xAC00) % 28 != 20:  # 20: ㅆ
        raise WorkshopError(f"과거형으로 끝나지 않은 지문이다: …{match[0]}. '-았다/-었다'로 고친다.")
    return match[1] + style


def _compile(line: str, row: dict[str, str], style: str) -> tuple[str, ...]:
    """All readings of one line as format strings: [a|b] spread out, the row filled in, `{h}는` turned to `{h|은/는}`."""
    options = [part.split("|") for part in re.findall(r"\[([^\[\]]*)\]", line)]
    frame = re.split(r"\[[^\[\]]*\]", line)
    readings = []
    for chosen in product(*options):
        text = frame[0]
        for option, after in zip(chosen, frame[1:]):
            particle = _AFTER.match(after)
            text += attach(option, _FORMS[particle[1]]) + after[particle.end() :] if particle else option + after
        for _ in range(2):  # a value of the row may itself hold a slot of the row
            text = _SLOT.sub(lambda m: _fill(m, row), text)
        readings.append(_SLOT.sub(_mark, restyle(text, style)))
    return tuple(readings)


def _fill(match: re.Match, row: dict[str, str]) -> str:
    name, form = match[1], match[2]
    if name not in row:
        return match[0]
    return attach(row[name], _FORMS[form]) if form else row[name]


def _mark(match: re.Match) -> str:
    name, form = match[1], match[2]
    return f"{{{name}|{_FORMS[form]}}}" if form else match[0]


@cache
def _readings(plot: int, row: int, beat: int, style: str) -> tuple[tuple[str, ...], ...]:
    source = plots()[plot]
    values = source.rows[row] if source.rows else {}
    return tuple(_compile(line, values, style) for line in source.beats[beat][1])


class _Words(dict):
    """Slot values; a missing key "h|은/는" is the value of "h" with that particle."""

    def __missing__(self, key: str) -> str:
        name, _, pair = key.partition("|")
        value = self[key] = attach(self[name], pair)
        return value


def _calling(name: str) -> str:
    """How a friend is called: 솔이 → 솔아, 토리 → 토리야."""
    return name[:-1] + "아" if name.endswith("이") and has_final(name[:-1]) else name + "야"


@cache
def _taken(plot: int, row: int) -> frozenset[str]:
    """Animals that the row of the table names: no frog learns to swim, no duckling is found by a duckling."""
    named = " ".join(plots()[plot].rows[row].values()) if plots()[plot].rows else ""
    return frozenset(kind for kind in KINDS if re.search(rf"(?<![가-힣]){kind}(?![가-힣])", named))


def _split_of(combination: str) -> str:
    return "validation" if zlib.crc32(combination.encode()) % 10 == 0 else "train"


def _story(rng: random.Random, split: str) -> tuple[str, str]:
    """One story and its combination, drawn until the combination belongs to the split."""
    pick = rng.choice
    while True:  # cheap draws first: nine of ten combinations are for training
        index = rng.randrange(len(plots()))
        plot = plots()[index]
        row = rng.randrange(len(plot.rows)) if plot.rows else 0
        values = plot.rows[row] if plot.rows else {}
        kind, place, thing, food, toy = pick(KINDS), pick(PLACES), pick(THINGS), pick(list(FOODS)), pick(TOYS)
        core = {"lost": thing, "share": food, "newcomer": food, "quarrel": toy}.get(plot.name) or next(iter(values.values()))
        combination = f"{kind}|{place}|{core}|{plot.name}"
        if _split_of(combination) == split and kind not in _taken(index, row):
            break
    style = pick(STYLES)
    hero, friend = rng.sample(NAMES, 2)
    friend_kind = pick([other for other in KINDS if other != kind and other not in _taken(index, row)])
    when, air = SEASONS[pick(values.get("season", "봄 여름 가을 겨울").split())]
    manner, friend_manner = rng.sample(MANNERS, 2)
    elder, color, half = pick(ELDERS), pick(COLORS), rng.randint(1, 5)
    words = _Words(
        h=hero, hv=_calling(hero), hk=kind, hK=f"{manner} {kind}",
        f=friend, fv=_calling(friend), fk=friend_kind, fK=f"{friend_manner} {friend_kind}",
        e=elder, ev=elder.split()[-1], p=place, c=color, o=thing, co=f"{color} {thing}", toy=toy, pot=pick(POTS),
        d=food, n=count(2 * half, FOODS[food]), half=count(half, FOODS[food]),
        when=pick(when.split("|")), air=restyle(pick(air.split("|")), style),
    )  # fmt: skip
    sentences = []
    for beat, (chance, _) in enumerate(plot.beats):
        if chance == 100 or rng.random() * 100 < chance:
            sentences.append(pick(pick(_readings(index, row, beat, style))))
    text = " ".join(sentences)
    for big, small in (("{H", "h"), ("{F", "f")):  # the first mention says who it is, later ones only the name
        text = text.replace(big, f"{{{small}K}} {{{small}", 1).replace(big, f"{{{small}")
    return text.format_map(words), combination


def stories(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` different stories: {"id", "text", "source": "story", "combo": "hero|place|object|plot"}.

    The same (n, seed, split) gives the same stories on every machine; a larger n starts with the smaller one's stories.
    No combination of one split occurs in the other. Raises WorkshopError for an unknown split.
    """
    if split not in ("train", "validation"):
        raise WorkshopError(f"모르는 나눔이다: {split!r}. 'train'이나 'validation' 가운데 하나를 쓴다.")
    rng = random.Random(f"stories/{split}/{seed}")
    seen: set[int] = set()  # 64-bit digests: a few bytes a story, and no two alike
    while len(seen) < n:
        text, combination = _story(rng, split)
        digest = zlib.crc32(text.encode()) << 32 | zlib.adler32(text.encode())
        if digest in seen:
            continue
        seen.add(digest)
        yield {"id": f"story-{split}-{seed}-{len(seen) - 1:06d}", "text": text, "source": "story", "combo": combination}
