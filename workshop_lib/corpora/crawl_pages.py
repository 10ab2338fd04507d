"""From the words of a crawled page to its bytes: invisible characters, widths, boilerplate, HTML, charsets.

Nothing here changes what a page says; all of it can be undone. ``crawl`` decides which page gets what and keeps the
truth.
"""

import html as html_lib
import random
import re
from collections.abc import Sequence
from types import ModuleType

from workshop_lib.corpora.crawl_numbers import email, name

_HIDDEN = "\u200b\u200b\u200b\ufeff\u00ad\u3164"


def zero_width(body: list[str], rng: random.Random) -> list[str]:
    """Put invisible characters between the characters of the body; U+3164 only beside a space or at an end."""
    body = list(body)
    for _ in range(rng.randint(2, 12)):
        at = rng.randrange(len(body))
        line, hidden = body[at], rng.choice(_HIDDEN)
        spots = [i for i, char in enumerate(line) if char == " "] + [len(line)] if hidden == "\u3164" else None
        cut = rng.choice(spots) if spots else rng.randint(0, len(line))
        body[at] = line[:cut] + hidden + line[cut:]
    return body


_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
# Half-width letters in the code chart's order; the three vowel rows and ㅡㅢㅣ each start a new block of it.
_HALF_WIDTH = dict(zip("ㄱㄲㄳㄴㄵㄶㄷㄸㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅃㅄㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ",
                       map(chr, [*range(0xFFA1, 0xFFBF), *range(0xFFC2, 0xFFC8), *range(0xFFCA, 0xFFD0),
                                 *range(0xFFD2, 0xFFD8), *range(0xFFDA, 0xFFDD)]), strict=True))
_INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")


def half_width(text: str) -> str:
    """Write Hangul syllables as half-width letters, as old terminals did: 한 -> ﾾￂﾤ. Unique to undo."""
    out = []
    for char in text:
        index = ord(char) - 0xAC00
        if 0 <= index < 11_172:
            letters = _INITIALS[index // 588] + _VOWELS[index % 588 // 28] + _FINALS[index % 28]
            char = "".join(_HALF_WIDTH[letter] for letter in letters)
        out.append(char)
    return "".join(out)


def change_width(body: list[str], rng: random.Random) -> list[str]:
    """Widen Latin, digits and punctuation of every line, or narrow the Hangul of some words."""
    if rng.random() < 0.6:
        wide = [line.translate(_FULL_WIDTH) for line in body]
        if wide != body:
            return [line.replace(" ", "\u3000") for line in wide] if rng.random() < 0.3 else wide
    at = max(range(len(body)), key=lambda i: len(body[i]))
    pieces = body[at].split(" ")
    start = rng.randrange(len(pieces))
    pieces[start:start + 4] = [half_width(piece) for piece in pieces[start:start + 4]]
    return [" ".join(pieces) if i == at else line for i, line in enumerate(body)]


_SLOT = re.compile(r"\{(\w+)\}")


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2015, 2025)}.{rng.randint(1, 12):02d}.{rng.randint(1, 28):02d}"


def boilerplate(body: list[str], origin: str, earlier: Sequence[dict], pii: list[dict], words: ModuleType, rng: random.Random
                ) -> tuple[list[str], list[str], list[str], list[dict]]:
    """Return the lines above the article, the article, the lines below, and the personal data.

    A reporter's address among the new lines is personal data too. Some of it touches the article itself: a news
    agency's lead before the first sentence, or who wrote what and when between the comments of a thread of reviews.
    """
    mail = email(rng)
    fixed = {"site": rng.choice(words.SITES), "name": name(rng), "mail": mail, "city": rng.choice(("서울", "부산", "전주", "강릉")),
             "date": _date(rng), "year": str(rng.randint(2015, 2025))}
    anew = {"nick": lambda: rng.choice(("하늘", "모래", "솔", "구름", "별님", "초록", "밤톨")) + "**",
            "small": lambda: str(rng.randint(0, 99)), "day": lambda: _date(rng),
            "time": lambda: f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
            "count": lambda: f"{rng.randint(100, 90_000):,}",
            "business": lambda: f"{rng.randint(100, 999)}-{rng.randint(10, 99)}-{rng.randint(10_000, 99_999)}"}

    def fill(line: str) -> str:
        return _SLOT.sub(lambda slot: fixed[slot[1]] if slot[1] in fixed else anew[slot[1]](), line)

    top = rng.sample(words.MENUS, rng.randint(1, 4)) + rng.sample(words.BYLINES, rng.randint(0, 1))
    bottom = rng.sample(words.SHARES, rng.randint(0, 2))
    if rng.random() < 0.2:
        bottom.insert(0, rng.choice(words.REPORTERS))
        pii = [*pii, {"kind": "email", "value": mail}] if "{mail}" in bottom[0] else pii
    if rng.random() < 0.5:
        bottom += [rng.choice(words.RELATED), *rng.sample(words.RELATED_TITLES, rng.randint(2, 4))]
        if earlier:
            bottom.append(rng.choice(earlier)["lines"][0][0][:24] + "…")
    bottom += rng.sample(words.COPYRIGHTS, rng.randint(0, 1)) + rng.sample(words.FOOTERS, rng.randint(1, 3))

    body = list(body)
    if origin == "review" and rng.random() < 0.5:
        between = rng.choice(words.THREAD)
        body = [line for text in body for line in (fill(between), text)]
    elif origin in ("story", "prose") and rng.random() < 0.15:
        body[0] = fill(rng.choice(words.LEADS)) + body[0]
    return [fill(line) for line in top], body, [fill(line) for line in bottom], pii


def _escape(line: str, rng: random.Random) -> str:
    """Escape a line for HTML the way different editors do; what it says stays the same."""
    line = html_lib.escape(line, quote=rng.random() < 0.5)
    for char, entity in (("…", "&hellip;"), ("·", "&middot;"), ("“", "&ldquo;"), ("”", "&rdquo;"), ("ⓒ", "&#9426;")):
        if char in line and rng.random() < 0.5:
            line = line.replace(char, entity)
    return line.replace(" ", "&nbsp;", 1) if rng.random() < 0.15 else line


def write_html(body: list[str], top: list[str], bottom: list[str], words: ModuleType, rng: random.Random) -> str:
    """Return an HTML page in one of six styles. ``%CHARSET%`` stands where the charset is declared."""
    style = rng.choice(words.STYLES)
    title = _escape(body[0][:30], rng) + " - " + rng.choice(words.SITES)
    out = [_escape(line, rng) for line in body]
    for at in range(len(out)):  # inline tags must not split a word
        pieces = out[at].split(" ")
        if rng.random() < 0.15 and len(pieces) > 4:
            pick = rng.randrange(len(pieces))
            tag = rng.choice(("b", "strong", "em", 'span style="color:#333"', 'a href="/tag/12?a=1&amp;b=2"', "u"))
            pieces[pick] = f"<{tag}>{pieces[pick]}</{tag.split()[0]}>"
            out[at] = " ".join(pieces)
    if rng.random() < 0.4:
        out.insert(rng.randint(1, len(out)), rng.choice((
            "<script>window.ads = window.ads || []; if (1 < 2) { ads.push({slot: 'body-1'}); }</script>",
            '<script async src="https://ads.example/show.js"></script><noscript><img src="/p.gif"></noscript>',
            "<style>.post p { margin: 0 0 1em; } .post > b { color: red }</style>", "<!-- 광고 시작 --><!-- 광고 끝 -->",
            '<img src="/upload/photo1.jpg" alt="">', '<iframe src="https://ads.example/frame" width="300"></iframe>')))
    linked = rng.random() < 0.6

    def frame(line: str) -> str:
        if linked and ("|" in line or line[-1] in "…>" or line in words.RELATED_TITLES):
            return " | ".join(f'<a href="/go?id={rng.randint(1, 999)}">{_escape(part, rng)}</a>' for part in line.split(" | "))
        return _escape(line, rng)

    head, foot = [frame(line) for line in top], [frame(line) for line in bottom]
    if style == "modern":
        main = "\n".join(line if line.startswith(("<s", "<!", "<i")) else f"<p>{line}</p>" for line in out)
        return ('<!DOCTYPE html>\n<html lang="ko">\n<head>%CHARSET%<title>' + title + "</title>"
                "<style>body{font-family:sans-serif}</style></head>\n<body>\n"
                + "".join(f"<nav><ul><li>{line}</li></ul></nav>\n" for line in head)
                + f"<main><article>\n{main}\n</article></main>\n"
                + "".join(f"<footer><div>{line}</div></footer>\n" for line in foot) + "</body>\n</html>\n")
    if style == "table":  # the nineties: capitals, unclosed tags, layout by table
        return ("<HTML><HEAD>%CHARSET%<TITLE>" + title + "</TITLE></HEAD>\n<BODY BGCOLOR=#FFFFFF><TABLE BORDER=0><TR><TD>\n"
                + "".join(f"<FONT SIZE=2>{line}</FONT><BR>\n" for line in head) + "</TD></TR><TR><TD>\n"
                + "<BR>\n".join(out) + "\n</TD></TR>\n<TR><TD>" + "<BR>\n".join(foot) + "</TD></TR></TABLE></BODY></HTML>\n")
    if style == "press":  # a newspaper's frame: ids say little, paragraphs end in two line breaks
        return ('<!doctype html>\n<html><head>\n<title>' + title + "</title>\n%CHARSET%\n</head><body><div id=wrap>\n<div id=hd>\n"
                + "".join(f"<p>{line}</p>\n" for line in head) + '</div>\n<section class="view_con"><div class="txt">\n'
                + "<br/><br/>\n".join(out) + "\n</div></section>\n<div id=ft>\n"
                + "".join(f"<span>{line}</span><br/>\n" for line in foot) + "</div></div></body></html>\n")
    if style == "note":  # everything is a section of its own
        return ('<html lang="ko"><head>%CHARSET%<title>' + title + "</title></head><body>\n"
                + "".join(f"<section><small>{line}</small></section>\n" for line in head)
                + "".join(f'<section class="note-block"><p>{line}</p></section>\n' for line in out)
                + "".join(f"<section><small>{line}</small></section>\n" for line in foot) + "</body></html>\n")
    box, item = ("div", "div") if style == "blog" else ("ul", "li")
    return ("<html>\n<head>\n%CHARSET%\n<title>" + title + "</title>\n<script>var page = {\"type\": \"post\"};</script>\n</head>\n"
            "<body>\n" + "".join(f'<div class="top-menu">{line}</div>\n' for line in head)
            + f'<{box} class="content">\n' + "\n".join(f"<{item}>{line}</{item}>" for line in out) + f"\n</{box}>\n"
            + "".join(f'<div class="etc">{line}</div>\n' for line in foot) + "</body>\n</html>\n")


# What a program sees that reads one byte as one character; cp1252 leaves five bytes open, browsers pass them on.
_CP1252 = {code: bytes([code]).decode("cp1252", errors="ignore") or chr(code) for code in range(0x80, 0xA0)}


def encode(text: str, chosen: set[str], defects: set[str], rng: random.Random) -> bytes:
    """Turn the page into bytes; the charset defects happen here, where the real ones do."""
    is_html = "html" in defects
    declare = lambda name: text.replace("%CHARSET%", rng.choice(  # noqa: E731
        (f'<meta charset="{name}">', f'<meta http-equiv="Content-Type" content="text/html; charset={name}">')) if name else "")
    # An old site that must write a character outside its charset writes a numeric reference; bare text cannot.
    outside = "xmlcharrefreplace" if is_html else "strict"
    if text.isascii():  # an English page reads the same in all of these charsets: no defect
        return declare("utf-8").encode("ascii")
    if "mojibake" in chosen:
        page = declare("utf-8")
        try:
            broken = page.encode("cp949" if rng.random() < 0.3 else "utf-8").decode("latin-1")
        except UnicodeEncodeError:
            broken = page.encode("utf-8").decode("latin-1")
        # Read as cp1252 (what browsers take latin-1 for) or as latin-1 proper.
        broken = broken.translate(_CP1252) if rng.random() < 0.5 else broken
        defects.add("mojibake")
        return broken.encode("utf-8")
    if "wrong_charset" in chosen:
        try:
            if is_html and rng.random() < 0.15:
                raw = declare("euc-kr").encode("utf-8")
            else:
                raw = declare(rng.choice(("utf-8", "UTF-8", ""))).encode("cp949", outside)
            defects.add("wrong_charset")
            return raw
        except UnicodeEncodeError:
            pass
    if is_html and "nfd" not in defects and rng.random() < 0.1:  # rightly declared: no defect
        return declare("euc-kr").encode("cp949", outside)
    return declare(rng.choice(("utf-8", "utf-8", "UTF-8", ""))).encode("utf-8")


