"""Film reviews from a known grammar: aspect × opinion × intensity × construction × register.

The label is the reviewer's verdict, and the construction decides how it is said. Most constructions can turn an opinion
word round (negation, concession, hearsay, mock questions) and have a twin that does not ("지루하지 않다고 하면 거짓말이다"),
so neither the opinion word nor the turning word gives the label away: a bag of words is well above chance and well below
perfect, and the reader has to know what belongs to what.

Where two opinions meet ("음악은 좋지만 결말이 허무하다"), the main clause, the last one, is the verdict.
The split is by (construction, aspects, opinions): a validation review combines known words in a way never seen.
The film titles are made up; the hand-written companions of these reviews are in `data/reviews.jsonl`.
"""

from collections.abc import Iterator
from random import Random

from workshop_lib.corpora.combinations import stream
from workshop_lib.corpora.grammar import attach, conjugate

# aspect group: (nouns, praising adjectives, blaming adjectives)
ASPECTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "연기": (
        ["연기", "주연 연기", "조연 연기", "아역 연기", "배우들 호흡", "목소리 연기"],
        ["훌륭하다", "자연스럽다", "뛰어나다", "섬세하다", "인상적이다"],
        ["어색하다", "어설프다", "답답하다", "밋밋하다", "부자연스럽다"],
    ),
    "이야기": (
        ["이야기", "줄거리", "전개", "각본", "전반부", "후반부"],
        ["탄탄하다", "흥미진진하다", "신선하다", "재미있다", "알차다"],
        ["지루하다", "뻔하다", "엉성하다", "산만하다", "허술하다"],
    ),
    "연출": (
        ["연출", "편집", "장면 전환", "화면 구성"],
        ["세련되다", "깔끔하다", "섬세하다", "훌륭하다"],
        ["촌스럽다", "산만하다", "어설프다", "밋밋하다"],
    ),
    "소리": (
        ["음악", "배경 음악", "주제가", "효과음"],
        ["아름답다", "인상적이다", "감미롭다", "훌륭하다"],
        ["시끄럽다", "밋밋하다", "촌스럽다", "어색하다"],
    ),
    "화면": (
        ["영상", "색감", "풍경", "의상", "무대"],
        ["아름답다", "근사하다", "인상적이다", "세련되다"],
        ["촌스럽다", "조잡하다", "밋밋하다", "엉성하다"],
    ),
    "말": (
        ["대사", "유머", "개그", "농담"],
        ["재치 있다", "자연스럽다", "재미있다", "신선하다"],
        ["유치하다", "썰렁하다", "어색하다", "뻔하다"],
    ),
    "끝": (
        ["결말", "반전", "마지막 장면"],
        ["인상적이다", "감동적이다", "신선하다", "근사하다"],
        ["허무하다", "뻔하다", "실망스럽다", "황당하다"],
    ),
    "볼거리": (
        ["액션", "추격 장면", "특수효과", "격투 장면"],
        ["화끈하다", "시원하다", "근사하다", "통쾌하다"],
        ["어설프다", "조잡하다", "밋밋하다", "지루하다"],
    ),
    "인물": (
        ["주인공", "악역", "등장인물", "주인공 친구"],
        ["매력적이다", "사랑스럽다", "인상적이다"],
        ["답답하다", "밋밋하다", "뻔하다"],
    ),
}
REGISTERS = ("plain", "note", "polite")
TITLES = tuple(
    f"{front} {back}"
    for front in ("월요일의", "서랍 속", "옥상 위의", "아홉 번째", "느린", "겨울밤의", "두 갈래", "모퉁이")
    for back in ("주전자", "우체통", "자전거", "피아노", "다람쥐", "세탁소", "정거장", "우산 가게")
)
_INTENSITY = ("", "", "정말 ", "진짜 ", "너무 ", "아주 ", "꽤 ", "참 ", "상당히 ", "엄청 ")
_TAILS = ("", "", "", "", ".", ".", "..", "...", "!", "~", "ㅋㅋ", "ㅋㅋㅋ", "ㅎㅎ", "ㅠㅠ", "ㅠ")
_ENDINGS = {
    "plain": ("았다", "았다", "다", "네", "더라"),
    "note": ("음", "았음", "았음", "았어"),
    "polite": ("았어요", "네요", "았습니다", "았네요", "더라고요"),
}
# Fixed phrases in the three registers, in the order of REGISTERS. Under each heading: (opinion upheld, opinion refuted).
_HEARSAY = (
    (
        ("정말 그렇더라", "정말 그랬음", "정말 그렇더라고요"),
        ("나도 그렇게 봤다", "나도 그렇게 봄", "저도 그렇게 봤어요"),
        ("직접 보니 그 말이 맞았다", "직접 보니 맞는 말임", "직접 보니 그 말이 맞았어요"),
    ),
    (
        ("나는 동의 못 하겠다", "동의 못 하겠음", "저는 동의 못 하겠어요"),
        ("직접 보니 전혀 아니었다", "직접 보니 전혀 아님", "직접 보니 전혀 아니었어요"),
        ("내가 보기엔 정반대였다", "내가 보기엔 정반대임", "제가 보기엔 정반대였어요"),
    ),
)
_MOCK = (
    (
        ("나도 같은 생각이다", "나도 같은 생각임", "저도 같은 생각이에요"),
        ("맞는 말이다", "맞는 말임", "맞는 말이에요"),
        ("당연한 말을 하고 있네", "당연한 말을 하네", "당연한 말씀이죠"),
    ),
    (
        ("말도 안 된다", "말도 안 됨", "말도 안 돼요"),
        ("다른 영화를 본 게 틀림없다", "다른 영화 본 듯", "다른 영화 보신 것 같아요"),
        ("그런 말을 누가 믿나", "누가 믿음", "그런 말을 누가 믿나요"),
    ),
)
_VERDICTS = {
    1: (("추천한다", "추천함", "추천해요"), ("또 보고 싶다", "또 보고 싶음", "또 보고 싶어요")),
    0: (("추천은 못 하겠다", "추천은 못 하겠음", "추천은 못 하겠어요"), ("또 볼 일은 없다", "또 볼 일은 없음", "또 볼 일은 없어요")),
}
_HOPES = {  # what was expected: 1 good, 0 bad
    1: ("기대하고 봤는데", "다들 좋다고 해서 봤는데", "설레는 마음으로 봤는데", "예고편이 좋아서 봤는데"),
    0: ("기대 없이 봤는데", "별생각 없이 틀었는데", "반신반의하면서 봤는데", "예고편은 별로였는데"),
}
# Construction: share of the reviews. The first two say the verdict straight out.
CONSTRUCTIONS = {
    "direct": 2, "expected": 2, "negated": 2, "undeniable": 2, "contrast": 3, "even_more": 2,
    "because": 2, "worth": 1, "hearsay": 3, "mock": 3, "compared": 2,
}  # fmt: skip


def inflect(adjective: str, ending: str) -> str:
    """`conjugate` with what film talk needs besides: -적이었다 stays open, and 있다 takes 는 before a noun."""
    if adjective.endswith("이다") and ending[0] in "았아":
        return adjective[:-1] + ("었" if ending[0] == "았" else "어") + ending[1:]
    if adjective.endswith("있다") and ending in ("은", "은데"):
        ending = "는" + ending[1:]
    return conjugate(adjective, ending)


def quoted(adjective: str) -> str:
    """The adjective before 는, 고, 더니 in reported speech: 지루하다, 인상적이라."""
    return adjective[:-1] + "라" if adjective.endswith("이다") else adjective


def _compose(rng: Random, kind: str, label: int, register: str) -> tuple[tuple, str]:
    """One review body of the given construction and label; returns (combination, text).

    `agree` is an opinion word of the label's own polarity, `against` one of the other.
    """
    style = REGISTERS.index(register)
    nouns, praise, blame = ASPECTS[first := rng.choice(list(ASPECTS))]
    noun = rng.choice(nouns)
    agree, against = rng.choice(praise if label else blame), rng.choice(blame if label else praise)
    end, very = rng.choice(_ENDINGS[register]), rng.choice(_INTENSITY)
    subject = attach(noun, "이/가")
    upheld = rng.random() < 0.5  # constructions that come both ways: the opinion word holds, or is turned round
    said = agree if upheld else against
    one = (kind, noun, said, upheld)
    if kind == "direct":
        return (kind, noun, agree), f"{subject} {very}{inflect(agree, end)}"
    if kind == "expected":
        hope = rng.choice((0, 1))
        as_feared = rng.choice(("역시 ", "과연 ")) if hope == label else very
        return (kind, noun, agree), f"{rng.choice(_HOPES[hope])} {subject} {as_feared}{inflect(agree, end)}"
    if kind == "negated":
        how = rng.choice(("하나도 ", "전혀 ", "조금도 ", "") if label else ("그다지 ", "별로 ", "그렇게 ", "하나도 "))
        return (kind, noun, against), f"{subject} {how}{conjugate(against, '지')} {conjugate('않다', end)}"
    if kind == "undeniable":
        lie = rng.choice((("거짓말이다", "거짓말임", "거짓말이죠"), ("양심이 없는 거다", "양심 없는 거임", "양심이 없는 거죠")))
        how = rng.choice(("", "하나도 ", "전혀 "))
        return (kind, noun, agree), f"{subject} {how}{conjugate(agree, '지')} 않다고 하면 {lie[style]}"
    if kind == "compared":
        than = rng.choice(("전작", "원작"))
        if not upheld:
            return one, f"{than}만큼 {subject} {conjugate(against, '지')}는 {conjugate('않다', end)}"
        how = rng.choice((f"{than}보다 {subject} 훨씬", f"{than}만큼 {subject}"))
        return one, f"{how} {inflect(agree, end)}"
    if kind == "hearsay":
        link = rng.choice(("는 평이 많던데", "더니", "는 말을 듣고 봤는데"))
        return one, f"{subject} {quoted(said)}{link} {rng.choice(_HEARSAY[not upheld])[style]}"
    if kind == "mock":
        return one, f"{subject} {quoted(said)}고? {rng.choice(_MOCK[not upheld])[style]}"
    if kind == "worth":
        price = attach(rng.choice(("표값", "시간", "주말")), "이/가")
        return (kind, noun, agree), f"{subject} {very}{inflect(agree, '아서')} {price} {'안 ' * label}{conjugate('아깝다', end)}"

    other_nouns, other_praise, other_blame = ASPECTS[rng.choice([name for name in ASPECTS if name != first])]
    other = rng.choice(other_nouns)
    link = rng.choice(("지만", "은데", "았지만", "았는데", "긴 한데"))
    if kind == "even_more":
        also = rng.choice(other_praise if label else other_blame)
        turned = conjugate(also, link) if link.startswith("긴") else inflect(also, link)
        return (kind, other, also, noun, agree), f"{other}도 {turned} {subject} 더 {inflect(agree, end)}"
    turned = rng.choice(other_blame if label else other_praise)
    combination = (kind, other, turned, noun, agree)
    if kind == "contrast":
        conceded = conjugate(turned, link) if link.startswith("긴") else inflect(turned, link)
        return combination, f"{attach(other, '은/는')} {conceded} {subject} {very}{inflect(agree, end)}"
    reason, rest = inflect(agree, "아서"), inflect(turned, "은")  # kind == "because"
    if label:
        close = rng.choice((("용서가 된다", "용서가 됨", "용서가 돼요"), ("눈에 안 띈다", "눈에 안 띔", "눈에 안 띄네요")))
        return combination, f"{subject} {very}{reason} {rest} {attach(other, '은/는')} {close[style]}"
    close = rng.choice((("아깝다", "아까움", "아까워요"), ("눈에 안 띈다", "눈에 안 띔", "눈에 안 띄네요")))
    return combination, f"{subject} {very}{reason} {rest} {attach(other, '이/가')} {close[style]}"


def _draw(rng: Random, i: int) -> tuple[tuple, str, dict]:
    label, register = i % 2, rng.choice(REGISTERS)
    kind = rng.choices(list(CONSTRUCTIONS), list(CONSTRUCTIONS.values()))[0]
    combination, text = _compose(rng, kind, label, register)
    tail = rng.choice(_TAILS)
    if rng.random() < 0.25:
        text = f"'{rng.choice(TITLES)}' {text}"
    if rng.random() < 0.1:
        text = f"{text}. {rng.choice(_VERDICTS[label])[REGISTERS.index(register)]}"
    text = text.replace("재미있", "재밌") if rng.random() < 0.5 else text
    if rng.random() < 0.12:  # hurried typing: one space is lost
        gaps = [at for at, letter in enumerate(text) if letter == " "]
        at = rng.choice(gaps)
        text = text[:at] + text[at + 1 :]
    text += tail
    return combination, text, {"document": text, "label": label, "combination": "|".join(map(str, combination))}


def reviews(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` reviews {"id", "document", "label", "combination"}; label 1 praises, 0 blames, in turn.

    Deterministic in (n, seed, split); a longer stream starts with the shorter one. Validation combinations never occur
    in training, whatever the seed. Raises WorkshopError for an unknown split or more reviews than the grammar holds.
    """
    yield from stream("reviews", n, seed, split, _draw)
