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
        return (
            last if last in FINALS else "ㄱ"
        )  # letter names end in the letter itself: 기역, 니은, 리을 …; 쌍디귿
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
        return (
            f"{word}({closed[: -len(open_)]}){open_}"
            if closed.endswith(open_)
            else f"{word}{closed}({open_})"
        )
    if final == " " or (final == "ㄹ" and closed.startswith("으로")):
        return word + open_
    return word + closed
