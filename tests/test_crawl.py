"""The raw web crawl: every defect is there at its rate, and what is written down about it is true."""

import hashlib
import html
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from workshop_lib import WorkshopError
from workshop_lib.corpora import crawl, crawl_numbers, crawl_pages, crawl_phrases, crawl_phrases_held_out

ROOT = Path(__file__).parent.parent
N = 4_000
INVISIBLE = "\u200b\ufeff\u00ad\u3164"


@pytest.fixture(scope="module")
def pages():
    return list(crawl.crawl(N, seed=7))


def having(pages, *names, without=()):
    found = [page for page in pages if set(names) <= set(page["defects"]) and not set(without) & set(page["defects"])]
    assert found, f"no page with {names}"
    return found


def decode(page) -> str:
    """What a reader who knows the truth sees: the right charset, mojibake undone."""
    raw = page["raw"]
    if "mojibake" in page["defects"]:
        # As in a browser: cp1252 where it has the character, else the byte itself.
        single = b"".join(char.encode("cp1252") if char in _CP1252 else char.encode("latin-1") for char in raw.decode("utf-8"))
        return _either(single)
    return _either(raw)


_CP1252 = {bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}


def _either(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp949")


def visible(page) -> str:
    """The page without tags, entities, invisible characters, and with widths and NFD put right: a plain oracle."""
    text = decode(page)
    if "html" in page["defects"]:
        text = re.sub(r"<(script|style|title|noscript)\b.*?</\1>|<!--.*?-->", "", text, flags=re.S | re.I)
        text = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<(br|/p|/li|/div|/?td)\b[^>]*>", "\n", text, flags=re.I)))
    text = unicodedata.normalize("NFC", text.translate(dict.fromkeys(map(ord, INVISIBLE))))
    text = text.translate({code + 0xFEE0: code for code in range(0x21, 0x7F)} | {0x3000: " ", 0xA0: " "})
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


# --- shape and rates ---------------------------------------------------------------------------------------------


def test_pages_have_the_promised_fields(pages):
    assert len(pages) == len({page["id"] for page in pages}) == N
    for page in pages:
        assert set(page) == {"id", "url", "source", "raw", "defects", "clean", "duplicate_of", "pii", "lookalikes", "origin"}
        assert isinstance(page["raw"], bytes) and page["source"] == "crawl"
        assert page["defects"] == sorted(set(page["defects"])) and set(page["defects"]) <= set(crawl.DEFECTS)
        assert (page["clean"] is None) == bool(crawl.REMOVED & set(page["defects"]))
        assert ".example/" in page["url"]


def test_every_defect_comes_at_its_rate(pages):
    counts = Counter(name for page in pages for name in page["defects"])
    assert set(counts) == set(crawl.DEFECTS)
    for name, rate in crawl.REMOVED_RATES.items():
        assert counts[name] / N == pytest.approx(rate, abs=0.012), name
    for name in ("html", "boilerplate", "mojibake", "wrong_charset"):
        assert counts[name] / N == pytest.approx(crawl.RATES[name], abs=0.03), name
    articles = [page for page in pages if page["clean"] is not None]
    counts = Counter(name for page in articles for name in page["defects"])
    for name in ("nfd", "zero_width", "width", "jamo"):
        assert counts[name] / len(articles) == pytest.approx(crawl.RATES[name], abs=0.012), name
    for name in ("pii", "laughter"):  # reporters' addresses and comments bring more of them
        assert crawl.RATES[name] - 0.015 < counts[name] / len(articles) < 3 * crawl.RATES[name], name
    assert sum(not page["defects"] for page in articles) > 0.03 * N


def test_most_articles_are_stories(pages):
    shares = Counter(page["origin"] for page in pages if page["clean"] is not None)
    assert 0.65 < shares["story"] / shares.total() < 0.95 and shares["review"] and shares["prose"]


def test_it_is_fast_and_streams():
    stream = crawl.crawl(10**9)
    assert next(stream)["id"] == "crawl-train-0-0000000"
    start = time.process_time()
    for _ in range(1_000):
        next(stream)
    assert time.process_time() - start < 1.0


# --- the truth -----------------------------------------------------------------------------------------------------


def test_clean_text_is_found_on_the_page_once_the_defects_are_undone(pages):
    """Every line of the truth stands on the page, masks and shortened runs aside."""
    checked = 0
    for page in pages:
        # Half-width Hangul needs an automaton of its own, and is tested by itself.
        if page["clean"] is None or re.search(r"[\uffa1-\uffdc]", html.unescape(decode(page))):
            continue
        seen = crawl.shorten_runs(visible(page))
        for item in page["pii"]:
            seen = seen.replace(item["value"], crawl.MASKS[item["kind"]])
        for line in page["clean"].split("\n"):
            assert line in seen, (page["id"], page["defects"], line)
        checked += 1
    assert checked > 0.7 * N


def test_clean_text_is_clean(pages):
    for page in pages:
        if (clean := page["clean"]) is None:
            continue
        assert len(clean) >= crawl.MIN_CLEAN_CHARS and unicodedata.is_normalized("NFC", clean)
        assert not re.search(r"[\u200b\ufeff\u00ad\u3164\uff01-\uff5e\uffa1-\uffdc\ufffd\u3000]|<(?:p|b|br|div)\b|&[a-z]+;", clean)
        assert not any(item["value"] in clean for item in page["pii"])
        assert all(item["value"] in clean for item in page["lookalikes"])
        assert crawl.shorten_runs(clean) == clean
        assert not re.search(r"[ㅁㄴㅇㄹㅂㅈㄷㄱㅌㅊㅍ]{4,}", clean)


def test_mojibake_is_unreadable_until_undone(pages):
    for page in having(pages, "mojibake", without=crawl.REMOVED):
        broken = page["raw"].decode("utf-8")
        assert not re.search("[가-힣]", html.unescape(broken)) and re.search("[가-힣ᄀ-ᇿ]", decode(page))


def test_wrong_charset_lies_or_is_silent(pages):
    seen = Counter()
    for page in having(pages, "wrong_charset"):
        declared = re.search(rb"charset=\"?([\w-]+)", page["raw"][:600])
        is_utf8 = True
        try:
            page["raw"].decode("utf-8")
        except UnicodeDecodeError:
            is_utf8 = False
        seen[is_utf8, declared and declared[1].lower()] += 1
    assert set(seen) == {(False, b"utf-8"), (False, None), (True, b"euc-kr")}


def test_declared_euc_kr_is_no_defect(pages):
    honest = [page for page in pages if b"euc-kr" in page["raw"][:600] and "wrong_charset" not in page["defects"]]
    assert honest and all(re.search("[가-힣]", page["raw"].decode("cp949")) for page in honest[:20] if page["clean"])


def test_nfd_zero_width_and_width_are_there(pages):
    for page in having(pages, "nfd"):
        assert not unicodedata.is_normalized("NFC", decode(page))
    for page in having(pages, "zero_width"):
        assert set(INVISIBLE) & set(html.unescape(decode(page)))
    for page in having(pages, "width"):
        assert re.search(r"[\uff01-\uff5e\uffa1-\uffdc]", html.unescape(decode(page)))


@pytest.mark.parametrize("text", ["한글", "값없이 깎아 놓은 밖", "각가 까치 앉았다 뷁", "가나다 ABC 123"])
def test_half_width_hangul_can_be_undone(text):
    narrow = crawl_pages.half_width(text)
    assert narrow != text and not re.search("[가-힣]", narrow)
    initials, vowels = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ", "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
    finals = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
    # One step of decomposition gives compatibility jamo; NFKC goes on to initials and vowels, and loses the finals.
    plain = re.sub("[\uffa1-\uffdc]", lambda match: chr(int(unicodedata.decomposition(match[0]).split()[1], 16)), narrow)

    def compose(match):
        final = finals.index(match[3]) + 1 if match[3] else 0
        return chr(0xAC00 + (initials.index(match[1]) * 21 + vowels.index(match[2])) * 28 + final)

    syllable = rf"([{initials}])([{vowels}])([{finals}](?![{vowels}]))?"
    assert re.sub(syllable, compose, plain) == text


def test_duplicates_point_to_an_earlier_page_that_is_kept(pages):
    place = {page["id"]: i for i, page in enumerate(pages)}
    same_bytes = 0
    for i, page in enumerate(pages):
        copies = {"exact_duplicate", "near_duplicate"} & set(page["defects"])
        assert bool(copies) == (page["duplicate_of"] is not None) and len(copies) <= 1
        if copies:
            original = pages[place[page["duplicate_of"]]]
            assert place[page["duplicate_of"]] < i and original["clean"] is not None and original["url"] != page["url"]
            same_bytes += page["raw"] == original["raw"]
    share = same_bytes / len(having(pages, "exact_duplicate"))
    assert 0.35 < share < 0.65


def test_exact_duplicates_say_the_same_and_near_ones_almost(pages):
    by_id = {page["id"]: page for page in pages}
    plain = {"width", "boilerplate", "pii", "laughter", "jamo"}
    for page in having(pages, "exact_duplicate", without=plain)[:50]:
        assert by_id[page["duplicate_of"]]["clean"].replace("\n", "") in visible(page).replace("\n", "")
    grams = lambda text: {text[i:i + 5] for i in range(len(text) - 4)}  # noqa: E731
    likeness = []
    for page in having(pages, "near_duplicate", without=plain)[:100]:
        a, b = grams("".join(by_id[page["duplicate_of"]]["clean"].split())), grams("".join(visible(page).split()))
        likeness.append(len(a & b) / len(a | b))
    assert max(likeness) < 1 and sorted(likeness)[len(likeness) // 10] > 0.6


def test_near_duplicates_differ_from_their_original():
    lines = [("첫째 문장은 조금 깁니다. 둘째 문장도 그렇습니다. 셋째는 2024년입니다. 넷째로 끝납니다.",) * 2]
    import random

    for seed in range(200):
        assert crawl._edit(lines, random.Random(seed)) != lines


def test_removed_pages_are_what_they_are_called(pages):
    for page in having(pages, "foreign"):
        assert page["origin"] == "foreign"
    assert all(len(visible(page)) < 60 for page in having(pages, "too_short", without={"boilerplate", "html"}))
    for page in having(pages, "repetition", without={"boilerplate", "html"}):
        words = visible(page).split()
        assert len(set(words)) / len(words) < 0.25


# --- personal data -------------------------------------------------------------------------------------------------


def luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def resident(digits: str, foreign: int = 0) -> bool:
    weights = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]
    return (11 + foreign - sum(w * int(d) for w, d in zip(weights, digits)) % 11) % 10 == int(digits[12])


def test_known_check_digits():
    assert crawl_numbers.luhn_check_digit("7992739871") == "3"  # the textbook example
    assert luhn("4111111111111111") and crawl_numbers.luhn_check_digit("411111111111111") == "1"


def test_personal_data_is_well_formed_and_nobodys(pages):
    values = {kind: {item["value"] for page in pages for item in page["pii"] if item["kind"] == kind} for kind in crawl.MASKS}
    assert all(len(found) >= 20 for found in values.values())
    for value in values["resident"]:
        digits = value.replace("-", "")
        assert len(digits) == 13 and resident(digits) and digits[7:9] in ("97", "98", "99")
    for value in values["card"]:
        digits = re.sub(r"\D", "", value)
        assert len(digits) == 16 and luhn(digits) and digits[:6] in ("400000", "555555", "411111")
    for value in values["email"]:
        assert re.fullmatch(r"[\w.-]+@[\w.-]+\.example", value)
    for value in values["phone"]:
        digits = re.sub(r"\D", "", value)
        assert re.fullmatch(r"(?:0|82)10[01]\d{7}|0(?:2|[3-6]\d)[01]\d{6}|070[01]\d{7}|1\d{3}00\d\d", digits), value


def test_lookalikes_fail_the_checks_that_personal_data_passes(pages):
    values = {}
    for page in pages:
        for item in page["lookalikes"]:
            values.setdefault(item["kind"], set()).add(item["value"])
    assert set(values) == set(crawl_phrases.LOOKALIKES)
    for kind in ("article_id", "barcode"):
        for value in values[kind]:
            assert len(value) == 13 and (int(value[2:4]) > 12 or not (resident(value) or resident(value, foreign=2)))
    assert all(not luhn(value.replace("-", "")) for value in values["order_number"])
    assert all(int(value[:4]) < int(value[5:]) for value in values["years"])


# --- determinism, and the held-out wording ---------------------------------------------------------------------------


def digest(rows) -> str:
    rows = [row | {"raw": row["raw"].hex()} for row in rows]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


@pytest.fixture
def fixed_sources(monkeypatch):
    """Texts that never change, so that the pin below is the crawl's own."""
    from workshop_lib.corpora import prose, reviews, stories

    text = "{}번째 글입니다. 곰이 숲에서 사과를 {}개 땄습니다. 다람쥐가 도왔습니다. 둘은 오래 웃었습니다. 해가 졌습니다."

    def texts(key):
        return lambda n, seed=0, split="train": ({key: text.format(i, i % 7 + 1)} for i in range(n))

    monkeypatch.setattr(stories, "stories", texts("text"))
    monkeypatch.setattr(prose, "prose", texts("text"))
    monkeypatch.setattr(reviews, "reviews", texts("document"))


def test_pages_never_change(fixed_sources):
    assert digest(crawl.crawl(500)) == "6c190df3814de816"


def test_same_arguments_same_pages_whatever_the_hash_seed():
    code = "from tests.test_crawl import *; print(digest(crawl.crawl(200, 3)))"
    seen = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}).stdout for seed in ("1", "2")}
    assert seen == {digest(crawl.crawl(200, 3)) + "\n"}
    assert digest(crawl.crawl(200, 4)) + "\n" not in seen


def test_validation_speaks_in_words_that_train_never_shows():
    tables = [name for name in vars(crawl_phrases) if name.isupper() and name[0] != "_" and name not in (
        "TITLES", "LAUGH_CHARS", "MASH", "MASH_RUNS", "SURNAMES", "GIVEN", "MAIL_USERS", "MAIL_HOSTS", "STYLES")]
    for name in tables:
        assert not _strings(getattr(crawl_phrases, name)) & _strings(getattr(crawl_phrases_held_out, name)), name
    pages = list(crawl.crawl(1_500, split="validation"))
    assert {name for page in pages for name in page["defects"]} == set(crawl.DEFECTS)
    assert pages[0]["id"].startswith("crawl-validation-")


def _strings(table) -> set[str]:
    if isinstance(table, str):
        return {table} if len(table) > 2 else set()
    return {text for item in (table.values() if isinstance(table, dict) else table) for text in _strings(item)}


def test_unknown_split_is_refused():
    with pytest.raises(WorkshopError, match="split은 train 또는 validation"):
        next(crawl.crawl(1, split="dev"))
