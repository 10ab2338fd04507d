"""Korean grammar, as much of it as text generators need: particles, verb and adjective endings, numbers with counters.

Three choices worth knowing:

* Everything follows the *sound* of the last letter, so digits and Latin letters are read in Korean first
  (3 is 삼, so "3을"; GPT is 지피티, so "GPT는"). What cannot be read gets the written double form "은(는)".
* A predicate is given by its dictionary form ("돕다"). Irregular ones are looked up in `IRREGULAR`; the few spellings
  with two readings (묻다: to ask or to bury) take the class as an argument.
* An ending is given in its fullest form ("아서", "으면", "을", "습니다", "았다") and loses what the stem does not need.

Rules: Hangul orthography (한글 맞춤법, chapter 4, sections 1-3) and the Standard Korean Dictionary's conjugations.
"""

import re
import unicodedata
from functools import lru_cache

from workshop_lib import WorkshopError

FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"  # index 0: no final consonant
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"

# After a final consonant / otherwise.
PARTICLES = (
    "은/는", "이/가", "을/를", "과/와", "으로/로", "아/야", "이나/나", "이랑/랑", "이라/라", "이라고/라고", "이라는/라는",
    "이라도/라도", "이라서/라서", "이란/란", "이며/며", "이고/고", "이든/든", "이니/니", "이지만/지만", "이면/면", "이야/야",
    "이다/다", "이에요/예요", "이었다/였다", "이었어요/였어요", "이었습니다/였습니다", "이여/여", "이시여/시여",
    "으로서/로서", "으로써/로써", "으로부터/로부터", "으로는/로는", "으로도/로도",
)  # fmt: skip
_PAIRS = {pair: tuple(pair.split("/")) for pair in PARTICLES} | {
    "/".join(reversed(pair.split("/"))): tuple(pair.split("/")) for pair in PARTICLES
}
_SUPPLETIVE = {"나": "내가", "저": "제가", "너": "네가", "누구": "누가"}  # 나 + 이/가 is never "나가"

_DIGIT_FINALS = dict(zip("0123456789", "ㅇㄹ ㅁ  ㄱㄹㄹ "))  # 영 일 이 삼 사 오 육 칠 팔 구
_ZERO_FINALS = (
    "ㅂ",
    "ㄱ",
    "ㄴ",
    "ㄴ",
    "ㄴ",
    "ㄴ",
    "ㄴ",
    "ㄱ",
    "ㄱ",
    "ㄱ",
    "ㄱ",
    " ",
)  # 십 백 천 만 십만 … 억 … 조
_LETTER_FINALS = {
    "L": "ㄹ",
    "M": "ㅁ",
    "N": "ㄴ",
    "R": "ㄹ",
}  # 엘 엠 엔 알; every other letter name ends in a vowel
_SYMBOL_FINALS = {"%": " ", "℃": " ", "°": " ", "㎏": "ㅁ", "㎝": " ", "㎞": " "}
_UNIT_FINALS = {
    "kg": "ㅁ",
    "g": "ㅁ",
    "mg": "ㅁ",
    "km": " ",
    "m": " ",
    "cm": " ",
    "mm": " ",
    "l": " ",
    "ml": " ",
}


def compose(initial: str, vowel: str, final: str = " ") -> str:
    """One Hangul syllable from compatibility jamo: `compose("ㄱ", "ㅏ", "ㅆ") == "갔"`."""
    return chr(0xAC00 + (INITIALS.index(initial) * 21 + VOWELS.index(vowel)) * 28 + FINALS.index(final))


def decompose(syllable: str) -> tuple[str, str, str]:
    """(initial, vowel, final) of one Hangul syllable; the final is " " where there is none."""
    code = ord(syllable) - 0xAC00
    if not 0 <= code < 11172:
        raise WorkshopError(f"한글 음절이 아니다: {syllable!r}. '가'부터 '힣' 사이의 한 글자를 넣는다.")
    return INITIALS[code // 588], VOWELS[code % 588 // 28], FINALS[code % 28]


def _latin_final(word: str) -> str:
    """Final sound of a Latin-letter word in its usual Korean reading; acronyms by the name of their last letter."""
    if word[-2:].isupper():  # one letter, GPT, vLLM
        return _LETTER_FINALS.get(word[-1].upper(), " ")
    low = word.lower()
    if low.endswith("ng"):
        return "ㅇ"
    for tails, final in ((("le", "l"), "ㄹ"), (("me", "m"), "ㅁ"), (("ne", "n"), "ㄴ"), (("ck",), "ㄱ")):
        if low.endswith(tails):
            return final
    # A stop closes the syllable only after one short vowel: cat 캣, chip 칩, but boat 보트, test 테스트.
    if re.search(r"(?:^|[^aeiou])[aeiou][ptkc]$|oo[kp]$", low):
        return {"p": "ㅂ", "t": "ㅅ", "k": "ㄱ", "c": "ㄱ"}[low[-1]]
    return " "


@lru_cache(maxsize=65536)
def final_sound(word: str) -> str | None:
    """The final consonant of a word as read aloud in Korean: a jamo, " " for none, or None if nobody can tell.

    Closing quotes, punctuation and a gloss in brackets are skipped: 토크나이저(tokenizer) is read 토크나이저.
    """
    text = unicodedata.normalize("NFC", word)
    text = re.sub(r"(?<=.)[(\[（][^()\[\]（）]*[)\]）]$", "", text.strip())
    text = re.sub(r"[^\w%℃°㎏㎝㎞]+$", "", text).rstrip("_")
    if not text:
        return None
    last = text[-1]
    if "가" <= last <= "힣":
        return decompose(last)[2]
    if last in _SYMBOL_FINALS:
        return _SYMBOL_FINALS[last]
    if "ㄱ" <= last <= "ㅎ":
        return last if last in FINALS else "ㄱ"  # letter names end in the letter itself: 기역, 니은, 리을 …; 쌍디귿
    if "ㅏ" <= last <= "ㅣ":
        return " "
    if last in "0123456789":
        number = re.search(r"[\d,.]*$", text)[0]
        digits = number.replace(",", "")
        zeros = len(digits) - len(digits.rstrip("0"))
        if "." in digits or zeros == 0 or zeros == len(digits):  # decimals are read digit by digit
            return _DIGIT_FINALS[last]
        return _ZERO_FINALS[min(zeros, len(_ZERO_FINALS)) - 1]
    if last.isascii() and last.isalpha():
        latin = re.search(r"[A-Za-z]+$", text)[0]
        if len(text) > len(latin) and text[-len(latin) - 1].isdigit() and latin in _UNIT_FINALS:
            return _UNIT_FINALS[latin]  # 3kg is 삼 킬로그램
        return _latin_final(latin)
    return None


def has_final(word: str) -> bool:
    """True if the word, read aloud, ends in a consonant. Raises WorkshopError where it cannot be read."""
    final = final_sound(word)
    if final is None:
        raise WorkshopError(f"끝소리를 알 수 없는 말이다: {word!r}. 한글, 숫자, 로마자로 끝나는 말을 넣는다.")
    return final != " "


@lru_cache(maxsize=65536)
def attach(word: str, particle: str) -> str:
    """The word with the right form of a particle pair: `attach("고양이", "은/는") == "고양이는"`.

    `particle` is "after a consonant/after a vowel" as in `PARTICLES` (the other order of a listed pair works too).
    One without a slash ("에게", "도") is simply appended. (으)로 and its kin treat a final ㄹ as a vowel: 교실로.
    A word that cannot be read aloud gets the written double form: "漢은(는)".
    """
    if particle == "이/가" and word in _SUPPLETIVE:
        return _SUPPLETIVE[word]
    if "/" not in particle:
        return word + particle
    closed, open_ = _PAIRS.get(particle) or particle.split("/", 1)
    final = final_sound(word)
    if final is None:
        return f"{word}({closed[: -len(open_)]}){open_}" if closed.endswith(open_) else f"{word}{closed}({open_})"
    if final == " " or (final == "ㄹ" and closed.startswith("으로")):
        return word + open_
    return word + closed


def familiar(name: str) -> str:
    """A given name as it is used among friends: 민준 → 민준이, 토리 → 토리."""
    return attach(name, "이/") if has_final(name) else name


# --- Predicates -------------------------------------------------------------------------------------------------

# What spelling alone does not tell. 하다, ㄹ stems and ㅡ stems follow from the stem and need no entry; a compound
# (알아듣다) follows the entry that it ends in, and 롭다, 럽다, 겁다 … stand for all words that end so.
IRREGULAR = {
    "ㅂ": "돕다 곱다 줍다 눕다 굽다 깁다 춥다 덥다 맵다 쉽다 밉다 어렵다 가볍다 어둡다 두껍다 귀엽다 가엽다 가깝다 아깝다 "
    "아쉽다 그립다 우습다 놀랍다 두렵다 마렵다 가렵다 역겹다 정겹다 눈물겹다 여쭙다 롭다 럽다 겁다 갑다 답다 맙다",
    "ㄷ": "걷다 듣다 묻다 싣다 긷다 깨닫다 붇다 일컫다",
    "ㅅ": "짓다 낫다 잇다 젓다 붓다 긋다",
    "르": "모르다 부르다 고르다 누르다 흐르다 자르다 기르다 오르다 바르다 나르다 빠르다 다르다 서두르다 머무르다 서투르다 "
    "가르다 마르다 조르다 찌르다 이르다 게으르다 구르다 두르다 지르다 주무르다 벼르다",
    "ㅎ": "빨갛다 파랗다 노랗다 하얗다 까맣다 뻘겋다 퍼렇다 누렇다 허옇다 꺼멓다 뽀얗다 뿌옇다 커다랗다 동그랗다 둥그렇다 "
    "조그맣다 기다랗다 높다랗다 그렇다 이렇다 저렇다 어떻다 말갛다 발갛다",
    "러": "푸르다",
    "우": "푸다",
}
_CLASS = {word: name for name, words in IRREGULAR.items() for word in words.split()}
_CLASS |= {"수줍다": "", "다다르다": ""}  # they only look like compounds of 줍다 and 다르다
_FULL = {"피다", "비다", "기다", "띠다", "아니다"}  # 꽃이 피었다, not 폈다 (which is 펴다)


def irregular_class(word: str) -> str:
    """ "ㅂ", "ㄷ", "ㅅ", "르", "ㅎ", "러", "우", or "" for a regular predicate, by the longest listed tail of the word."""
    for start in range(len(word) - 1):
        if word[start:] in _CLASS:
            return _CLASS[word[start:]]
    return ""


def _add_vowel(stem: str, kind: str, final: str, contract: bool) -> str:
    """Stem + 아/어 (with `final` below it: "ㅆ" for 았/었)."""
    head, (initial, vowel, stop) = stem[:-1], decompose(stem[-1])
    harmony = "ㅏ" if vowel in "ㅏㅑㅗ" else "ㅓ"
    if stem[-1] == "하":
        return head + (compose("ㅎ", "ㅐ", final) if contract else "하" + compose("ㅇ", "ㅕ", final))
    if kind == "ㅂ":  # 돕다, 곱다 keep vowel harmony; every other one has 워
        return head + compose(initial, vowel) + compose("ㅇ", "ㅘ" if stem in ("돕", "곱") else "ㅝ", final)
    if kind == "ㄷ":
        return head + compose(initial, vowel, "ㄹ") + compose("ㅇ", harmony, final)
    if kind == "ㅅ":
        return head + compose(initial, vowel) + compose("ㅇ", harmony, final)
    if kind == "ㅎ":
        front = {"ㅏ": "ㅐ", "ㅑ": "ㅒ", "ㅕ": "ㅖ"}.get(vowel) or ("ㅐ" if stem in ("그렇", "이렇", "저렇", "어떻") else "ㅔ")
        return head + compose(initial, front, final)
    if kind == "러":
        return stem + compose("ㄹ", "ㅓ", final)
    if kind == "우":
        return head + compose(initial, "ㅓ", final)
    if stop != " ":
        return stem + compose("ㅇ", harmony, final)
    if vowel == "ㅡ":  # ㅡ drops, and the syllable before it rules the harmony; 르 doubles its ㄹ
        before = decompose(head[-1]) if head else ("", "ㅓ", " ")
        harmony = "ㅏ" if before[1] in "ㅏㅑㅗ" else "ㅓ"
        if kind == "르":
            head = head[:-1] + compose(before[0], before[1], "ㄹ")
        return head + compose(initial, harmony, final)
    if vowel in "ㅏㅓㅐㅔㅕ":
        return head + compose(initial, vowel, final)
    merged = {"ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅚ": "ㅙ", "ㅣ": "ㅕ"}.get(vowel)
    optional = vowel in "ㅗㅜㅚ" and initial != "ㅇ"  # 보았다 and 봤다 live side by side; 오았다 and 마시었다 do not
    if merged is None or stem + "다" in _FULL or (optional and not contract):
        return stem + compose("ㅇ", harmony, final)
    return head + compose(initial, merged, final)


@lru_cache(maxsize=65536)
def conjugate(word: str, ending: str, irregular: str | None = None, contract: bool = True) -> str:
    """A predicate in dictionary form with an ending in its fullest form: `conjugate("돕다", "아서") == "도와서"`.

    Endings: 아/어 kind "아서", "았다", "아요", "았던"; 으 kind "으면", "은", "을", "으니", "음", "읍시다", honorific
    "으시고", "으셨다", "으세요"; "습니다" (ㅂ니다), "는다" (ㄴ다); and all that begin with another consonant: "고", "지만",
    "는", "네", "다". The caller knows verbs ("는", "는다") from adjectives ("은", "다").
    `irregular` overrules `IRREGULAR`: 묻다 is "ㄷ" (ask) unless told "" (bury). `contract=False` keeps the literary
    보았다, 주었다, 되었다, 하였다. Raises WorkshopError unless the word ends in 다.
    """
    if len(word) < 2 or not word.endswith("다"):
        raise WorkshopError(f"용언의 기본형이 아니다: {word!r}. '가다', '예쁘다'처럼 '-다'로 끝나는 꼴로 넣는다.")
    stem = word[:-1]
    kind = irregular_class(word) if irregular is None else irregular
    if word in ("이다", "아니다") and ending[0] + ending[1:2] in ("아요", "어요"):
        return stem + "에요"
    if ending[:1] in ("아", "어", "았", "었"):
        return _add_vowel(stem, kind, decompose(ending[0])[2], contract) + ending[1:]

    initial, vowel, stop = decompose(stem[-1])
    open_stem = stem[:-1] + compose(initial, vowel)
    if ending[:1] and decompose(ending[0])[:2] == ("ㅇ", "ㅡ"):  # (으)면, (으)ㄴ, (으)ㄹ, (으)시 …
        below, rest = decompose(ending[0])[2], ending[1:]
        if kind == "ㅂ":
            return open_stem + compose("ㅇ", "ㅜ", below) + rest
        if kind == "ㄷ":
            return stem[:-1] + compose(initial, vowel, "ㄹ") + ending
        if kind == "ㅅ":
            return open_stem + ending
        if stop == "ㄹ":  # ㄹ stays before ㅁ, ㄹ, ㅈ … and falls before ㄴ, ㅂ, ㅅ
            if below == " ":
                return (open_stem if rest[:1] and decompose(rest[0])[0] in "ㄴㅅ" else stem) + rest
            return stem[:-1] + compose(initial, vowel, "ㄻ" if below == "ㅁ" else below) + rest
        if stop == " " or kind == "ㅎ":
            return stem[:-1] + compose(initial, vowel, below) + rest
        return stem + ending
    if ending.startswith(("습니", "는다")):
        if stop in " ㄹ":
            return stem[:-1] + compose(initial, vowel, "ㅂ" if ending[0] == "습" else "ㄴ") + ending[1:]
        return stem + ending
    if stop == "ㄹ" and ending[:1] and decompose(ending[0])[0] in "ㄴㅅ":
        return open_stem + ending
    return stem + ending


# --- Numbers and counters ---------------------------------------------------------------------------------------

_ONES = ("", "하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉")
_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_BEFORE_NOUN = {"하나": "한", "둘": "두", "셋": "세", "넷": "네", "스물": "스무"}
# Counters that take 일, 이, 삼 …; every other one takes 한, 두, 세.
SINO_COUNTERS = frozenset((
    "층", "분", "초", "년", "월", "일", "원", "호", "학년", "반", "번지", "세", "인분", "주", "주일", "개월", "교시",
    "등", "위", "회", "차", "점", "도", "쪽", "페이지", "퍼센트", "세기", "배속", "연승", "미터", "센티미터",
    "밀리미터", "킬로미터", "그램", "킬로그램", "톤", "리터", "밀리리터", "와트", "볼트", "바이트", "비트",
))  # fmt: skip


def sino(number: int) -> str:
    """일, 이, 삼 …: `sino(25) == "이십오"`; groups of 만 are spaced (십이만 삼천사백). 0 is 영."""
    if not 0 <= number < 10**16:
        raise WorkshopError(f"읽을 수 없는 수다: {number}. 0 이상 1경 미만의 정수를 넣는다.")
    if number == 0:
        return "영"
    groups = []
    for unit in ("", "만", "억", "조"):
        number, group = divmod(number, 10000)
        text = ""
        for place, digit in zip(("천", "백", "십", ""), map(int, f"{group:04d}")):
            if digit:
                text += ("" if digit == 1 and place else "일이삼사오육칠팔구"[digit - 1]) + place
        if group:
            groups.append("만" if (unit, group, number) == ("만", 1, 0) else text + unit)
    return " ".join(reversed(groups))


def native(number: int, before_noun: bool = False) -> str:
    """하나, 둘, 셋 … 아흔아홉; `before_noun` gives 한, 두, 세, 네, 스무. From 100 on the hundreds are Sino: 백한."""
    if number < 1:
        raise WorkshopError(f"고유어로 셀 수 없는 수다: {number}. 1 이상의 정수를 넣는다.")
    hundreds, rest = divmod(number, 100)
    tens, ones = _TENS[rest // 10], _ONES[rest % 10]
    if before_noun:
        ones = _BEFORE_NOUN.get(ones, ones)
        tens = tens if ones else _BEFORE_NOUN.get(tens, tens)
    return (sino(hundreds * 100) if hundreds else "") + tens + ones


def count(number: int, counter: str) -> str:
    """A number with its counter, in words: `count(3, "마리") == "세 마리"`, `count(3, "층") == "삼 층"`, 유월, 시월."""
    if counter == "월" and number in (6, 10):
        return "유월" if number == 6 else "시월"
    if counter == "월":
        return sino(number) + counter  # months are one word
    return f"{sino(number) if counter in SINO_COUNTERS else native(number, before_noun=True)} {counter}"


def ordinal(number: int) -> str:
    """첫 번째, 두 번째, 세 번째 …"""
    return ("첫" if number == 1 else native(number, before_noun=True)) + " 번째"
