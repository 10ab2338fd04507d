"""From bytes to one spelling per text: decoding, undoing mojibake, normalisation.

Notable choices:
- strict decoders are tried before any `errors="replace"`: a wrong guess then fails loudly instead of
  turning text into other text;
- normalisation is NFC plus an explicit list of rewrites. NFKC would also rewrite the compatibility jamo
  ㅋ and ㅠ to conjoining jamo, and with them every seventh Korean film review.
"""

import codecs
import re
import unicodedata
from dataclasses import dataclass

_META_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_\-]+)""", re.IGNORECASE)
# Web pages say euc-kr and mean its superset CP949 (WHATWG Encoding Standard, section 4.2).
_KOREAN_LABELS = {"euc-kr", "euckr", "ks_c_5601-1987", "ksc5601", "ks_c_5601", "korean", "windows-949", "cp949"}


@dataclass(frozen=True)
class Decoded:
    """Text, the encoding it came from, and the number of characters lost (U+FFFD put in their place)."""

    text: str
    encoding: str
    lost: int


def declared_charset(raw: bytes) -> str | None:
    """Charset named in the first 2,048 bytes (`<meta charset=…>`), as a Python codec name, else None."""
    found = _META_CHARSET.search(raw[:2048])
    if not found:
        return None
    label = found.group(1).decode("ascii").lower()
    if label in _KOREAN_LABELS:
        return "cp949"
    try:
        return codecs.lookup(label).name
    except LookupError:
        return None


def decode(raw: bytes, declared: str | None = None) -> Decoded:
    """Decode a page: byte-order mark, strict UTF-8, the declared charset, CP949; at last the one losing least.

    UTF-8 stands before the declaration because bytes that are valid UTF-8 almost never are anything else,
    while declarations are often wrong.
    """
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
                           (codecs.BOM_UTF16_BE, "utf-16-be")):
        if raw.startswith(mark):
            text = raw[len(mark):].decode(encoding, errors="replace")
            return Decoded(text, encoding, text.count("\ufffd"))
    candidates = ["utf-8", declared or declared_charset(raw), "cp949"]
    for encoding in candidates:
        # Single-byte charsets accept any byte, so as declarations they prove nothing: CP949 goes first.
        if encoding and encoding not in ("iso8859-1", "cp1252", "ascii", "latin-1"):
            try:
                text = raw.decode(encoding)
            except (UnicodeDecodeError, LookupError):
                continue
            return Decoded(text, encoding, 0)
    broken = [(raw.decode(encoding, errors="replace"), encoding) for encoding in ("utf-8", "cp949")]
    text, encoding = min(broken, key=lambda pair: pair[0].count("\ufffd"))
    return Decoded(text, encoding, text.count("\ufffd"))


# --- mojibake -----------------------------------------------------------------------------------------------

# CP1252 leaves five bytes undefined; browsers map them to the control characters of the same number.
_CP1252 = {}
for _byte in range(0x80, 0x100):
    try:
        _CP1252[bytes([_byte]).decode("cp1252")] = _byte
    except UnicodeDecodeError:
        _CP1252[chr(_byte)] = _byte
_SINGLE_BYTE = {**{chr(byte): byte for byte in range(0x80, 0x100)}, **_CP1252}
# A run of characters that all stand for bytes ≥ 0x80, with ASCII between them.
_SUSPECT = "[" + re.escape("".join(_SINGLE_BYTE)) + "]"
_SUSPECT_RUN = re.compile(f"{_SUSPECT}(?:[\x00-\x7f\u3000]*{_SUSPECT})*")
_SUSPECT_CHAR = re.compile(_SUSPECT)


# UTF-8 Korean read as CP949 gives rare syllables (뀞, 븞, 쒋), Hanja and U+FFFD. The 2,350 syllables of
# KS X 1001 make up nearly all of written Korean, so syllables outside of them give the damage away.
def _in_ksx1001(char: str) -> bool:
    try:
        first, second = char.encode("cp949")
    except (UnicodeEncodeError, ValueError):
        return False
    return first >= 0xB0 and second >= 0xA1


_RARE = frozenset(chr(code) for code in range(0xAC00, 0xD7A4) if not _in_ksx1001(chr(code)))
_DAMAGE = _RARE | {"\ufffd"}


def _undo_run(match: re.Match) -> str:
    run = match.group()
    found = _SUSPECT_CHAR.findall(run)
    suspects = set(found)
    if len(found) < 4:
        return run
    raw = bytes(_SINGLE_BYTE.get(char, ord(char) if char < "\x80" else 0x20) for char in run)
    for encoding in ("utf-8", "cp949"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        # Four bytes that happen to be valid UTF-8 are no accident. Almost any Latin text is valid CP949, so there
        # the result must look Korean: `café`, `Ångström`, `¿Qué?` stay as they are.
        # A row of one sign (`····`) proves nothing: in CP949 it is the same syllable over and over.
        others = [char for char in text if char >= "\x80"]
        korean = sum("가" <= char <= "힣" and char not in _RARE for char in others)
        if encoding == "utf-8" or (len(suspects) >= 4 and korean >= 0.7 * len(others)):
            return text
    return run


def undo_mojibake(text: str) -> str:
    """Turn UTF-8 or CP949 bytes that were read as Latin-1/CP1252 (`ì•ˆë…•`, `¾È³ç`) back into Korean.

    Works run by run, since often only the title or a quotation is broken. Broken text is undone up to twice
    (double encoding). Text without such runs comes back unchanged; lost bytes cannot be brought back.
    """
    for _ in range(2):
        fixed = _SUSPECT_RUN.sub(_undo_run, text)
        if fixed == text:
            break
        text = fixed
    return text


def damaged_share(text: str) -> float:
    """Share of characters that show irreparable damage: U+FFFD and syllables outside KS X 1001. 0..1.

    Fewer than six of them are no damage but style: 뙇, 헿헿, 재밌는뎈.
    """
    damaged = sum(map(_DAMAGE.__contains__, text))
    return damaged / len("".join(text.split())) if damaged >= 6 else 0.0


# --- normalisation ------------------------------------------------------------------------------------------

_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"


def compose(lead: str, vowel: str, final: str = "") -> str:
    """One syllable from compatibility jamo: compose("ㄱ", "ㅏ", "ㄴ") == "간" (Unicode 16, section 3.12)."""
    index = (_LEADS.index(lead) * 21 + _VOWELS.index(vowel)) * 28 + (_FINALS.index(final) if final else 0)
    return chr(0xAC00 + index)


# Half-width jamo (U+FFA1…FFDC) have the order of the compatibility jamo, with gaps.
_HALF_WIDTH = {0xFFA1 + i: 0x3131 + i for i in range(30)}
for _start, _count, _target in ((0xFFC2, 6, 0x314F), (0xFFCA, 6, 0x3155), (0xFFD2, 6, 0x315B), (0xFFDA, 3, 0x3161)):
    _HALF_WIDTH.update({_start + i: _target + i for i in range(_count)})
_HALF_RUN = re.compile("[\uffa1-\uffbe\uffc2-\uffc7\uffca-\uffcf\uffd2-\uffd7\uffda-\uffdc]+")
_SYLLABLE = re.compile(f"([{_LEADS}])([{_VOWELS}])([{_FINALS.strip()}](?![{_VOWELS}]))?")
# KS X 1001 writes a syllable without a code of its own as filler + lead + vowel + final (or filler).
_FILLED = re.compile(f"\u3164([{_LEADS}])([{_VOWELS}])([{_FINALS.strip()}\u3164])")


def _half_width_run(match: re.Match) -> str:
    jamo = match.group().translate(_HALF_WIDTH)
    return _SYLLABLE.sub(lambda m: compose(m[1], m[2], m[3] or ""), jamo)


def _filled(match: re.Match) -> str:
    return compose(match[1], match[2], match[3].replace("\u3164", ""))


_FULL_WIDTH = {0x3000: " ", **{0xFF01 + i: 0x21 + i for i in range(94)}}
_CHARACTERS = {
    0xFFE0: "¢", 0xFFE1: "£", 0xFFE5: "¥", 0xFFE6: "₩",
    **dict.fromkeys([0xA0, 0x1680, 0x202F, 0x205F, 0x3164, 0xFFA0, 0x115F, 0x1160, 0x9, 0xB, 0xC,
                     *range(0x2000, 0x200B)], " "),
    **dict.fromkeys([0x2028, 0x2029, 0x85], "\n"),
    # Invisible: zero-width, soft hyphen, direction marks, byte-order mark, other controls.
    **dict.fromkeys([0x200B, 0x200C, 0x200E, 0x200F, 0xAD, 0x180E, *range(0x202A, 0x202F), *range(0x2060, 0x2065),
                     *range(0x2066, 0x206A), 0xFEFF, *range(0x00, 0x09), *range(0x0E, 0x20),
                     *range(0x7F, 0x85), *range(0x86, 0xA0)], None),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),                    # lone surrogates cannot be written as UTF-8
}
_JOINER = re.compile("(?<![\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d|\u200d(?![\u2190-\u2bff\U0001f000-\U0001faff])")
_SPACES = re.compile(r"[ ]{2,}")
_LINE_ENDS = re.compile(r" *\n *")
_BLANK_LINES = re.compile(r"\n{3,}")


def fold_width(text: str) -> str:
    """Full-width ASCII (U+FF01…FF5E) and the ideographic space to ordinary ones, nothing else: `Ａ！` → `A!`."""
    return text.translate(_FULL_WIDTH)


def normalise(text: str) -> str:
    """One spelling per text: NFC, ordinary spaces, no invisible characters, width and filler resolved.

    Compatibility jamo (ㅋ, ㅠ), circled numbers, emoji and punctuation stay as written. Idempotent.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _FILLED.sub(_filled, text)
    text = _HALF_RUN.sub(_half_width_run, text)
    text = fold_width(text).translate(_CHARACTERS)
    text = _JOINER.sub("", text)                     # kept only inside an emoji sequence (👩‍🚀)
    text = unicodedata.normalize("NFC", text)
    text = _LINE_ENDS.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip()


_KOREAN = re.compile("[가-힣\u1100-\u1112\uffa1-\uffbe]")
_HAN_OR_KANA = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_DEFECTS = {
    "nfd": re.compile("[\u1100-\u1112][\u1161-\u1175]"),
    "zero_width": re.compile("[\u200b\u200c\u200e\u200f\u00ad\u2060\ufeff\u202a-\u202e\u3164]"),
    "width": re.compile("[\uff01-\uff5e\uffa1-\uffdc]"),
}


def spelling_defects(text: str) -> set[str]:
    """Names of what `normalise` is going to repair: "nfd", "zero_width", "width" (no defect in Chinese or Japanese)."""
    found = {name for name, pattern in _DEFECTS.items() if pattern.search(text)}
    return found if len(_KOREAN.findall(text)) > len(_HAN_OR_KANA.findall(text)) else found - {"width"}


_LONG_RUN = re.compile(r"([ㅋㅎㅠㅜ!?~])\1{2,}")
_JAMO_WORD = re.compile(r"(?<!\S)[ㄱ-ㅎㅏ-ㅣ]{4,}(?!\S)")


def shorten_runs(text: str) -> str:
    """ㅋㅋㅋㅋㅋ → ㅋㅋ, ㅠㅠㅠ → ㅠㅠ, !!!! → !!: the feeling stays, and the vocabulary is spared forty spellings of it."""
    return _LONG_RUN.sub(r"\1\1", text)


def is_keyboard_mash(word: str) -> bool:
    """Lone jamo of many kinds, those of laughing and crying not counted: ㅁㄴㅇㄹ, ㄴㅇㄹㄴㅇㄹ; but not ㅋㅋㅋㅋ, ㅇㄱㄹㅇ, ㅎㄷㄷ."""
    kinds = len(set(word) - set("ㅋㅎㅠㅜㅡ"))
    return bool(_JAMO_WORD.fullmatch(word)) and (kinds >= 4 or kinds == 3 and len(word) >= 6)


def drop_mash(text: str) -> str:
    """The text without mashed keys; a line of nothing else goes whole."""
    if not _JAMO_WORD.search(text):
        return text
    lines = []
    for line in text.split("\n"):
        rest = _JAMO_WORD.sub(lambda match: "" if is_keyboard_mash(match.group()) else match.group(), line)
        if rest == line or rest.strip():
            lines.append(line if rest == line else _SPACES.sub(" ", rest).strip())
    return "\n".join(lines)
