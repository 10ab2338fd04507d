"""Masking personal data: phone numbers, e-mail, resident registration numbers, card numbers.

A miss leaks a person, a false alarm destroys a fact (`1806-1873` is a lifespan, a 13-digit number an article).
So every pattern is anchored on both sides and, where the number carries one, its checksum is asked.
"""

import datetime
import re
from dataclasses import dataclass

MASKS = {"email": "[이메일]", "resident_number": "[주민등록번호]", "card": "[카드번호]", "phone": "[전화번호]"}

# Not inside a longer number, a decimal or a hyphenated code (ISBN, account): "12-010-1234-5678" is no phone.
_BEFORE, _AFTER = r"(?<![\d])(?<!\d[-.–])", r"(?![\d])(?![-–]\d)"
_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+([A-Za-z]{2,24})"
                    r"(?![A-Za-z0-9])")
_RESIDENT = re.compile(_BEFORE + r"(?<![A-Za-z/=_])(\d{6})(\s?[-–]\s?)?([1-8]\d{6})" + _AFTER)
_CARD = re.compile(_BEFORE + r"(?:\d{4}([- ]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([- ]?)\d{6}\2\d{5})" + _AFTER)
_MOBILE = re.compile(_BEFORE.replace(r"(?<!\d[-.–])", r"(?<!\d[-.–])(?<![A-Za-z/=_])")
                     + r"(?:\+?82[-. ]?\(?0?\)?1|\(?01)[016789]\)?[-. –]{0,2}\d{3,4}[-. –]?\d{4}" + _AFTER)
_LANDLINE = re.compile(_BEFORE + r"(?:\(0(?:2|[3-6]\d|70|50\d)\) ?|0(?:2|[3-6]\d|70|50\d)(?:[-.–]|\) ?| (?=\d{3,4}-)))"
                       r"\d{3,4}[-. –]\d{4}" + _AFTER)
_REPRESENTATIVE = re.compile(
    _BEFORE + r"(?:15(?:22|33|44|66|77|88|99)|16(?:00|44|60|61|66|68|70|88)|18(?:00|11|33|55|77|99))[-–](\d{4})" + _AFTER)
_PHONE_CONTEXT = re.compile(r"전화|문의|상담|연락|고객|콜센터|대표|예약|신고|☎|☏|📞|tel|call|phone", re.IGNORECASE)
_NOBODYS = ("@example.com", "@example.org", "@example.net")  # reserved for manuals (RFC 2606)
_FILE_ENDINGS = {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "ts", "css", "html", "json", "md", "py"}


@dataclass(frozen=True)
class Finding:
    """A masked stretch: kind (a key of MASKS), start and end in the text before masking."""

    kind: str
    start: int
    end: int


def luhn(digits: str) -> bool:
    """Luhn check of a digit string, as on payment cards (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return bool(digits) and total % 10 == 0


def resident_checksum(digits: str) -> bool:
    """Check digit of a 13-digit resident registration number issued before October 2020.

    Weights 2…9, 2…5; check = (11 − sum mod 11) mod 10, and 2 more for foreigners (seventh digit 5 to 8).
    """
    if len(digits) != 13 or not (digits.isascii() and digits.isdigit()):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)))
    foreign = 2 if digits[6] in "5678" else 0
    return (11 + foreign - total % 11) % 10 == int(digits[12])


def plausible_birth_date(digits: str) -> bool:
    """Do the first seven digits (YYMMDD, then 1–8 for century and sex) name a day of the calendar?

    Days to come count too: masking must not depend on today, and made-up test numbers lie in the future.
    """
    if digits[6] not in "12345678":
        return False
    year = int(digits[:2]) + (1900 if digits[6] in "1256" else 2000)
    try:
        datetime.date(year, int(digits[2:4]), int(digits[4:6]))
    except ValueError:
        return False
    return True


def is_resident_number(front: str, separator: str, back: str) -> bool:
    """Hyphenated and date-plausible is enough, since numbers issued from October 2020 on carry no check digit.

    Without the hyphen the check digit must be right too: otherwise 13-digit article ids would be masked.
    """
    digits = front + back
    return plausible_birth_date(digits) and bool(separator or resident_checksum(digits))


def is_card_number(digits: str) -> bool:
    """Luhn and an issuer prefix in use (Visa, Mastercard, Amex, JCB, UnionPay/Discover, Korean domestic 9)."""
    prefix = re.match(r"3[457]|4|5[1-5]|2[2-7]|6|9", digits)
    return bool(prefix) and luhn(digits) and len(set(digits)) > 1


def _is_representative(text: str, match: re.Match) -> bool:
    """`1811-1873` reads as a span of years unless words about telephones stand near."""
    first, second = int(match.group()[:4]), int(match.group(1))
    if not first <= second <= 2100:
        return True
    return bool(_PHONE_CONTEXT.search(text, max(0, match.start() - 15), match.end() + 5))


def find_pii(text: str) -> list[Finding]:
    """Personal data in normalised text (ASCII digits), in order, without overlaps."""
    found = []
    if "@" in text:
        for match in _EMAIL.finditer(text):
            remote_login = match.group().startswith("git@") and text[match.end():match.end() + 1] == ":"
            nobody = match.group().lower().endswith(_NOBODYS)
            if match.group(1).lower() not in _FILE_ENDINGS and not remote_login and not nobody:
                found.append(Finding("email", *match.span()))
    for match in _RESIDENT.finditer(text):
        if is_resident_number(match[1], match[2] or "", match[3]):
            found.append(Finding("resident_number", *match.span()))
    for match in _CARD.finditer(text):
        if is_card_number(re.sub(r"\D", "", match.group())):
            found.append(Finding("card", *match.span()))
    for pattern in (_MOBILE, _LANDLINE):
        found.extend(Finding("phone", *match.span()) for match in pattern.finditer(text))
    found.extend(Finding("phone", *match.span()) for match in _REPRESENTATIVE.finditer(text)
                 if _is_representative(text, match))
    found.sort(key=lambda finding: (finding.start, -finding.end))
    apart: list[Finding] = []
    for finding in found:
        if not apart or finding.start >= apart[-1].end:
            apart.append(finding)
    return apart


def mask_mobile(text: str) -> str:
    """Replace mobile numbers (010-1234-5678, with hyphens, dots, spaces or nothing between) by `[전화번호]`."""
    return _MOBILE.sub(MASKS["phone"], text)


def mask_pii(text: str) -> tuple[str, list[Finding]]:
    """Replace personal data by its kind in brackets; returns the text and what was found in the original."""
    findings = find_pii(text)
    pieces, position = [], 0
    for finding in findings:
        pieces += [text[position:finding.start], MASKS[finding.kind]]
        position = finding.end
    return "".join(pieces) + text[position:], findings
