"""Personal data that is well formed and yet nobody's, and the innocent numbers that only look like it.

A cleaner must find the first (phones, mail addresses, 주민등록번호 with their checksum, cards by Luhn) and leave the
second alone (article ids, ISBN, bar codes, prices, years). No value here can belong to anyone: exchange codes start
with 0 or 1, which are never assigned; region codes of 주민등록번호 are 97 to 99, which were never given out; cards
use issuers' test ranges; hosts end in ``.example``.
"""

import random

from workshop_lib.corpora import crawl_phrases as words


def name(rng: random.Random) -> str:
    """A made-up Korean name."""
    return rng.choice(words.SURNAMES) + rng.choice(words.GIVEN)


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789", k=count))


def email(rng: random.Random) -> str:
    """A made-up address at a host that does not exist."""
    return f"{rng.choice(words.MAIL_USERS)}@{rng.choice(words.MAIL_HOSTS)}"


def _phone(rng: random.Random) -> str:
    """A phone number of a known shape whose exchange code (starting with 0 or 1) is never assigned."""
    middle, last = rng.choice("01") + _digits(rng, 3), _digits(rng, 4)
    kind = rng.random()
    if kind < 0.15:
        return f"{rng.choice(('1588', '1577', '1544', '1566', '1600', '1661'))}-00{_digits(rng, 2)}"
    if kind < 0.40:
        area = rng.choice(("02", "031", "032", "042", "051", "053", "062", "064", "070"))
        middle = middle if area == "070" else middle[:3]
        return rng.choice((f"{area}-{middle}-{last}", f"{area}-{middle}-{last}", f"{area}){middle}-{last}",
                           f"({area}) {middle}-{last}"))
    return rng.choice((f"010-{middle}-{last}", f"010-{middle}-{last}", f"010-{middle}-{last}", f"010.{middle}.{last}",
                       f"010 {middle} {last}", f"010{middle}{last}", f"+82-10-{middle}-{last}"))


def resident_check_digit(first12: str) -> str:
    """Return the last digit of a 주민등록번호 from its first twelve: (11 - sum of weighted digits mod 11) mod 10."""
    total = sum(int(digit) * weight for digit, weight in zip(first12, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True))
    return str((11 - total % 11) % 10)


def luhn_check_digit(body: str) -> str:
    """Return the digit that makes ``body`` plus it pass Luhn's check (ISO/IEC 7812-1, annex B)."""
    total = sum(sum(divmod(int(digit) * (2 if i % 2 == 0 else 1), 10)) for i, digit in enumerate(reversed(body)))
    return str(-total % 10)


def _resident_number(rng: random.Random) -> str:
    """A plausible birthday and a valid checksum, but a region code (97 to 99) that was never given out."""
    year = rng.randint(1940, 2015)
    sex = rng.choice("12" if year < 2000 else "34")
    first12 = f"{year % 100:02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{sex}{rng.randint(97, 99)}{_digits(rng, 3)}"
    value = first12 + resident_check_digit(first12)
    return value if rng.random() < 0.25 else f"{value[:6]}-{value[6:]}"


def _card(rng: random.Random) -> str:
    body = rng.choice(("400000", "555555", "411111")) + _digits(rng, 9)
    value = body + luhn_check_digit(body)
    return rng.choice(("-", "-", " ", "")).join(value[i:i + 4] for i in range(0, 16, 4))


def _barcode(rng: random.Random) -> str:
    """A Korean EAN-13: starts like a birthday (8801..) but, as a 주민등록번호, has a wrong check digit."""
    first12 = "8801" + _digits(rng, 8)
    ean = str(-sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(first12)) % 10)
    own = int(resident_check_digit(first12))  # a foreigner's number (seventh digit 5 to 8) ends two higher
    return first12 + ean if int(ean) not in (own, (own + 2) % 10) else _barcode(rng)


def _order_number(rng: random.Random) -> str:
    body = f"20{rng.randint(15, 25)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}" + _digits(rng, 7)
    value = body + rng.choice([digit for digit in "0123456789" if digit != luhn_check_digit(body)])
    return "-".join(value[i:i + 4] for i in range(0, 16, 4))


def _years(rng: random.Random) -> str:
    start = rng.choice((1392, 1592, 1806, 1879, 1910, 1919, 1945)) + rng.randint(0, 4)
    return f"{start}-{start + rng.randint(5, 80)}"


PERSONAL = {"phone": _phone, "email": email, "resident": _resident_number, "card": _card}
LOOKALIKE = {
    "article_id": lambda rng: f"20{rng.randint(15, 25)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{_digits(rng, 5)}",
    "years": _years,
    "isbn": lambda rng: f"979-11-{_digits(rng, 4)}-{_digits(rng, 3)}-{_digits(rng, 1)}",
    "price": lambda rng: f"{rng.randint(1, 2_999) * 1_000 + rng.choice((0, 500, 900)):,}",
    "barcode": _barcode,
    "order_number": _order_number,
}
