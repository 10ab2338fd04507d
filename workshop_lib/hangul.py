"""Hangul in Unicode: syllables, jamo, normal forms and UTF-8 bytes.

The arithmetic is the one of the Unicode Standard, section 3.12 "Conjoining Jamo Behavior": the 11,172 syllables
U+AC00..U+D7A3 lie in a 19 x 21 x 28 box (initial, vowel, final or none), so a syllable is one integer division away
from its jamo. No table of syllables is needed.
"""

import unicodedata

from workshop_lib import WorkshopError

FIRST_SYLLABLE = 0xAC00
FIRST_INITIAL, FIRST_VOWEL, FIRST_FINAL = 0x1100, 0x1161, 0x11A7  # the final at offset 0 means "no final"
INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
SYLLABLES = len(INITIALS) * len(VOWELS) * len(FINALS)  # 11,172


def is_syllable(char: str) -> bool:
    """True for one precomposed Hangul syllable (U+AC00..U+D7A3); jamo such as ㅋ are not syllables."""
    return len(char) == 1 and 0 <= ord(char) - FIRST_SYLLABLE < SYLLABLES


def decompose(syllable: str) -> tuple[str, str, str]:
    """Take a syllable apart into initial, vowel and final: 한 -> (ㅎ, ㅏ, ㄴ), 가 -> (ㄱ, ㅏ, "").

    The jamo are the stand-alone (compatibility) ones that a keyboard types, not the conjoining ones of NFD.
    Raises WorkshopError for anything but one precomposed syllable.
    """
    if not is_syllable(syllable):
        raise WorkshopError(f"한글 음절 한 글자가 아니다: {syllable!r}. '가'부터 '힣' 사이의 글자를 넣는다.")
    index = ord(syllable) - FIRST_SYLLABLE
    initial, rest = divmod(index, len(VOWELS) * len(FINALS))
    vowel, final = divmod(rest, len(FINALS))
    return INITIALS[initial], VOWELS[vowel], FINALS[final]


def compose(initial: str, vowel: str, final: str = "") -> str:
    """Put jamo together: (ㅎ, ㅏ, ㄴ) -> 한. The inverse of `decompose`.

    Raises WorkshopError if a jamo cannot stand in its place (ㄸ as a final, ㅏ as an initial).
    """
    for jamo, allowed, place in ((initial, INITIALS, "초성"), (vowel, VOWELS, "중성"), (final, FINALS, "종성")):
        if jamo not in allowed or len(jamo) > 1 or (not jamo and place != "종성"):
            raise WorkshopError(f"{jamo!r}은(는) {place}이 될 수 없다.")
    index = (INITIALS.index(initial) * len(VOWELS) + VOWELS.index(vowel)) * len(FINALS) + FINALS.index(final)
    return chr(FIRST_SYLLABLE + index)


def to_jamo(text: str) -> str:
    """Write every syllable of `text` as its compatibility jamo (한글 -> ㅎㅏㄴㄱㅡㄹ); the rest is unchanged."""
    return "".join("".join(decompose(char)) if is_syllable(char) else char for char in text)


def nfc(text: str) -> str:
    """Composed normal form: one code point a syllable. What almost all Korean text on the web uses."""
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    """Decomposed normal form: two or three conjoining jamo a syllable. What macOS file names use."""
    return unicodedata.normalize("NFD", text)


def utf8_bytes(text: str) -> list[int]:
    """The UTF-8 bytes of `text`; a Hangul syllable takes three."""
    return list(text.encode("utf-8"))


def is_whole_utf8(data: bytes) -> bool:
    """True if `data` is valid UTF-8 by itself, i.e. does not begin or end inside a character."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
