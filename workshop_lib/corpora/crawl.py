"""A messy raw web crawl whose every defect is known, so that cleaning has a measured precision and recall.

Real crawls come without answers. Here the road is walked backwards: start from clean documents (mostly stories,
some prose and film reviews), dirty them the way the Korean web does, and write down what was done. Notable choices:

* A page is bytes, as fetched: the reader must find out the charset, declared or not, rightly or wrongly.
* Truth is per page: ``clean`` is what a perfect cleaner keeps, ``None`` if it drops the page.
* Every trap has its innocent look-alike that must survive: article ids beside 주민등록번호, 1806-1873 beside
  1588-0012, ISBN beside cards, ㅇㅇ beside ㅁㄴㅇㄹ, ``<달빛 우체국>`` beside ``<b>``.
* Personal data is well formed (checksum, Luhn) yet nobody's: exchange codes never assigned, region codes never given out,
  issuers' test ranges, ``.example`` hosts.
"""

import random
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import ModuleType

from workshop_lib import WorkshopError
from workshop_lib.corpora import crawl_numbers, crawl_pages, crawl_phrases, crawl_phrases_held_out

DEFECTS: dict[str, str] = {
    "html": "HTML 태그, 스크립트, 스타일, 주석, 엔티티가 섞여 있다",
    "boilerplate": "메뉴, 저작권 문구, 공유 버튼, 관련 기사처럼 본문이 아닌 글이 붙어 있다",
    "pii": "전화번호, 이메일, 주민등록번호, 카드번호가 들어 있다",
    "mojibake": "다른 인코딩으로 잘못 읽혀 글자가 깨져 있다",
    "wrong_charset": "CP949 바이트인데 UTF-8이라고 적혀 있거나 아무 말이 없다(또는 그 반대이다)",
    "nfd": "한글 음절이 자모로 풀려 있다(NFD)",
    "zero_width": "폭 없는 공백, BOM, 소프트 하이픈, 한글 채움 문자가 끼어 있다",
    "width": "영문과 숫자와 문장 부호가 전각이거나 한글이 반각이다",
    "laughter": "ㅋㅋㅋㅋ, ㅠㅠㅠ, 느낌표가 길게 이어진다",
    "jamo": "뜻 없이 두드린 자모(ㅁㄴㅇㄹ)가 끼어 있다",
    "exact_duplicate": "앞에 나온 글과 본문이 똑같다",
    "near_duplicate": "앞에 나온 글에서 몇 군데만 고쳤다",
    "foreign": "한국어가 아닌 글이다",
    "spam": "도박, 대출, 성인 광고이다",
    "too_short": "본문이라고 할 것이 없다",
    "repetition": "같은 말이 되풀이된다",
}
# Pages with one of these are dropped by a perfect cleaner; all other defects are repaired.
REMOVED = frozenset({"exact_duplicate", "near_duplicate", "foreign", "spam", "too_short", "repetition"})

# Chance that a page is of a removed kind; the rest are articles, 75 % of them stories.
REMOVED_RATES = {"exact_duplicate": 0.06, "near_duplicate": 0.05, "foreign": 0.04, "spam": 0.04, "too_short": 0.04,
                 "repetition": 0.03}
# Chance of each repairable defect on an article (copies inherit the words, and are rendered anew).
RATES = {"html": 0.70, "boilerplate": 0.45, "pii": 0.08, "mojibake": 0.04, "wrong_charset": 0.06, "nfd": 0.03,
         "zero_width": 0.05, "width": 0.04, "laughter": 0.08, "jamo": 0.03}
LOOKALIKE_RATE = 0.10
SOURCE_SHARES = (("story", 0.75), ("prose", 0.15), ("review", 0.10))

MASKS = {"phone": "[전화번호]", "email": "[이메일]", "resident": "[주민등록번호]", "card": "[카드번호]"}
RUN_KEPT = 2  # ㅋㅋㅋㅋㅋ -> ㅋㅋ: the feeling stays, the noise goes
MIN_CLEAN_CHARS = 60  # shorter clean documents are not used, so that "too_short" has one truth
_MEMORY = 2_000  # copies are made of one of this many latest articles: bounded memory, however long the crawl

# Rules are written looking at "train"; "validation" says the same things in words and frames that occur nowhere there.
_WORDS: dict[str, ModuleType] = {"train": crawl_phrases, "validation": crawl_phrases_held_out}

_RUN = re.compile(r"([ㅋㅎㅠㅜ!?~])\1{" + str(RUN_KEPT) + ",}")
_WORD = re.compile(r"[가-힣]{2,4}")
_SENTENCE_END = re.compile(r"(?<=[.!?\"])\s+")


def shorten_runs(text: str) -> str:
    """Shorten runs of laughter, tears and ``!?~`` to ``RUN_KEPT`` characters."""
    return _RUN.sub(lambda match: match[1] * RUN_KEPT, text)


def crawl(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield ``n`` raw pages with their truth, always the same for the same arguments.

    Each page: ``id``, ``url``, ``source`` ("crawl"), ``raw`` (bytes: HTML or bare text as fetched), ``defects`` (sorted
    names from ``DEFECTS``), ``clean`` (the text a perfect cleaner keeps: one line a paragraph, personal data masked
    by ``MASKS``; None if the page must go), ``duplicate_of`` (id of an earlier kept page, or None), ``pii`` and
    ``lookalikes`` (lists of {"kind", "value"}: must be masked or cut; must survive), ``origin`` (what it was made from).
    """
    if split not in _WORDS:
        raise WorkshopError(f"split은 {' 또는 '.join(_WORDS)}이어야 한다. 받은 값: {split!r}")
    rng, words = random.Random(f"crawl/{split}/{seed}"), _WORDS[split]
    articles = _articles(n, seed, split, words, rng)
    earlier: deque[dict] = deque(maxlen=_MEMORY)
    for index in range(n):
        kind = _draw(rng, REMOVED_RATES)
        page = {"id": f"crawl-{split}-{seed}-{index:07d}", "origin": kind}
        if kind in ("exact_duplicate", "near_duplicate"):
            copied = _copy(kind, earlier, words, rng)
            kind = kind if copied else None  # nothing to copy yet: an ordinary article
        if kind is None:
            page |= next(articles) | {"duplicate_of": None, "url": _url(words, rng), "kind": None}
        elif kind in ("exact_duplicate", "near_duplicate"):
            page |= copied | {"kind": kind}
        else:
            page |= {"lines": _junk(kind, words, rng), "mashed": False, "body_pii": [], "lookalikes": [],
                     "duplicate_of": None, "url": _url(words, rng), "kind": kind}
        page = _finish(page, earlier, words, rng)
        if kind is None:
            earlier.append(page)
        yield {key: page[key] for key in ("id", "url", "source", "raw", "defects", "clean", "duplicate_of", "pii",
                                          "lookalikes", "origin")}


# --- the words of a page: a list of lines, each (dirty, clean or None when a cleaner must cut it) -------------------


def _articles(n: int, seed: int, split: str, words: ModuleType, rng: random.Random) -> Iterator[dict]:
    """Yield articles without end: clean documents with personal data, look-alikes, laughter and mash worked in."""
    from workshop_lib.corpora import prose, reviews, stories

    supply = {"story": (row["text"] for row in stories.stories(4 * n + 100, seed, split)),
              "prose": (row["text"] for row in prose.prose(n, seed, split)),
              "review": _threads(reviews.reviews(6 * n, seed, split), rng)}
    while True:
        origin = rng.choices([name for name, _ in SOURCE_SHARES], [share for _, share in SOURCE_SHARES])[0]
        text = next(supply[origin], None)
        if text is None:  # a finite source is used up: stories go on
            origin, text = "story", next(supply["story"])
        text = unicodedata.normalize("NFC", text)
        lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
        if origin == "story" and rng.random() < 0.6:
            lines = [paragraph for line in lines for paragraph in _paragraphs(line, rng)]
        if sum(map(len, lines)) < MIN_CLEAN_CHARS:
            continue
        yield _season({"origin": origin, "lines": [(line, shorten_runs(line)) for line in lines]}, words, rng)


def _paragraphs(text: str, rng: random.Random) -> Iterator[str]:
    """Break a text into paragraphs of two to five sentences, as bloggers do; never inside a quotation."""
    paragraph: list[str] = []
    size = rng.randint(2, 5)
    for sentence in _SENTENCE_END.split(text):
        paragraph.append(sentence)
        if len(paragraph) >= size and " ".join(paragraph).count('"') % 2 == 0:
            yield " ".join(paragraph)
            paragraph, size = [], rng.randint(2, 5)
    if paragraph:
        yield " ".join(paragraph)


def _threads(rows: Iterator[dict], rng: random.Random) -> Iterator[str]:
    """Gather short reviews into comment threads of four to seven, so that a page has something to say."""
    while len(batch := [row["document"] for row in islice(rows, rng.randint(4, 7))]) >= 4:
        yield "\n".join(batch)


def _season(page: dict, words: ModuleType, rng: random.Random) -> dict:
    """Work the defects that are words, not bytes, into an article's lines."""
    lines, pii, lookalikes = page["lines"], [], []

    def insert(dirty: str, clean: str | None) -> None:
        lines.insert(rng.randint(1, len(lines)), (dirty, clean))

    if rng.random() < RATES["pii"]:
        for kind in rng.sample(sorted(MASKS), k=rng.choice((1, 1, 2))):
            value = crawl_numbers.PERSONAL[kind](rng)
            frame = rng.choice(words.PII_SENTENCES[kind])
            pii.append({"kind": kind, "value": value})
            insert(frame.format(v=value), frame.format(v=MASKS[kind]))
    if rng.random() < LOOKALIKE_RATE:
        kind = rng.choice(sorted(words.LOOKALIKES))
        value = crawl_numbers.LOOKALIKE[kind](rng) if kind in crawl_numbers.LOOKALIKE else ""
        sentence = rng.choice(words.LOOKALIKES[kind]).format(v=value, title=rng.choice(words.TITLES))
        lookalikes.append({"kind": kind, "value": value or sentence})
        insert(sentence, sentence)
    if rng.random() < RATES["laughter"]:
        run = "".join(rng.choice(words.LAUGH_CHARS) * rng.randint(4, 18) for _ in range(rng.choice((1, 1, 2))))
        dirty = rng.choice(words.LAUGHS).format(run=run)
        insert(dirty, shorten_runs(dirty))
    mashed = rng.random() < RATES["jamo"]
    for _ in range(rng.randint(1, 3) if mashed else 0):
        at = rng.randrange(len(lines))
        dirty, clean = lines[at]
        if clean is None or rng.random() < 0.6:
            insert(_mash(words, rng), None)
        else:  # at the end of what somebody meant to write
            lines[at] = (f"{dirty} {_mash(words, rng)}", clean)
    return page | {"lines": lines, "body_pii": pii, "lookalikes": lookalikes, "mashed": mashed}


def _mash(words: ModuleType, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(words.MASH_RUNS) * rng.randint(1, 3)
    return "".join(rng.choices(words.MASH, k=rng.randint(5, 20)))


def _copy(kind: str, earlier: deque, words: ModuleType, rng: random.Random) -> dict | None:
    """Return a copy of an earlier article, edited a little for ``near_duplicate``; None if there is none to copy."""
    long_enough = [page for page in rng.sample(range(len(earlier)), min(8, len(earlier)))
                   if kind == "exact_duplicate" or len(earlier[page]["clean"]) >= 150]
    if not long_enough:
        return None
    original = earlier[long_enough[0]]
    copied = {key: original[key] for key in ("lines", "body_pii", "lookalikes", "mashed", "origin", "url")}
    copied["duplicate_of"] = original["id"]
    if kind == "near_duplicate":
        copied |= {"lines": _edit(original["lines"], rng), "url": _url(words, rng)}
    elif rng.random() < 0.5:  # the same bytes under a second address
        copied |= {"raw": original["raw"], "defects": original["defects"], "pii": original["pii"],
                   "url": original["url"] + "?utm_source=share"}
    else:
        copied["url"] = _url(words, rng)
    return copied


def _edit(lines: list[tuple], rng: random.Random) -> list[tuple]:
    """Change one or two small things: a sentence dropped, a word added, a number changed, a line appended."""
    edited = list(lines)
    # Only lines that are the same dirty and clean may change, so that what is injected stays known.
    plain = [i for i, (dirty, clean) in enumerate(edited) if dirty == clean and len(dirty) > 15]
    for _ in range(rng.choice((1, 1, 2))):
        way = rng.choice(("drop", "word", "number", "append"))
        at = rng.choice(plain) if plain else None
        line = edited[at][0] if plain else ""
        sentences = _SENTENCE_END.split(line)
        if way == "drop" and len(sentences) >= 4:
            del sentences[rng.randrange(1, len(sentences))]
            line = " ".join(sentences)
        elif way == "number" and re.search(r"\d", line):
            line = re.sub(r"\d", lambda match: str((int(match[0]) + 1) % 10), line, count=1)
        elif way in ("word", "drop", "number") and line.count(" ") >= 3:
            pieces = line.split(" ")
            pieces.insert(rng.randrange(1, len(pieces)), rng.choice(("정말", "아주", "그만", "다시", "조금")))
            line = " ".join(pieces)
        else:
            tail = rng.choice(("다른 곳에서 옮겨 온 글입니다.", "(수정) 오타를 고쳤습니다.", "예전에 올렸던 글을 다시 올립니다."))
            edited.append((tail, tail))
            continue
        edited[at] = (line, line)
    return edited


def _junk(kind: str, words: ModuleType, rng: random.Random) -> list[tuple]:
    """Return the lines of a page that must be removed."""
    if kind == "foreign":
        parts, joint, end = words.FOREIGN[rng.choice(("en", "en", "ja", "zh"))]
        sentence = lambda: joint.join(map(rng.choice, parts)) + end  # noqa: E731
        text = ["".join(sentence() for _ in range(rng.randint(2, 5))).strip() for _ in range(rng.randint(2, 5))]
        if end == "":  # Chinese and Japanese parts that carry their own end mark
            text = [line if line[-1] in "。" else line + "。" for line in text]
    elif kind == "spam":
        topic = words.SPAM[rng.choice(sorted(words.SPAM))]
        text = [rng.choice(("★", "▶", "", "♥ ", "[광고] ")) + rng.choice(topic).format(
            name=rng.choice(words.SPAM_NAMES), pct=rng.choice((100, 150, 200)), won=rng.randint(1, 300) * 10,
            code=f"{rng.choice('abcdefgh')}{rng.randint(100, 9999)}", num=rng.randint(3, 60), count=rng.randint(50, 900))
            for _ in range(rng.randint(4, 9))]
        if rng.random() < 0.3:  # ads dodge word lists: 카.지.노
            mark = rng.choice(".,·*_ ")
            text = [_WORD.sub(lambda match: mark.join(match[0]) if rng.random() < 0.3 else match[0], line) for line in text]
    elif kind == "too_short":
        text = [rng.choice(words.TOO_SHORT)]
    else:
        phrase = rng.choice(words.REPEATS)
        many = [phrase] * rng.randint(10, 40)
        text = many if rng.random() < 0.5 else [" ".join(many)]
    return [(line, line) for line in text]


# --- from words to bytes -------------------------------------------------------------------------------------


def _finish(page: dict, earlier: deque, words: ModuleType, rng: random.Random) -> dict:
    """Render the page's lines to raw bytes, and write down its defects and its clean text."""
    kind, lines = page["kind"], page["lines"]
    clean = "\n".join(line for _, line in lines if line is not None)
    page |= {"source": "crawl", "clean": None if kind else clean}
    if "raw" in page:  # a byte-for-byte copy
        page["defects"] = sorted({*page["defects"], kind})
        return page
    defects = {kind} if kind else set()
    defects |= {"jamo"} if page["mashed"] else set()
    defects |= {"laughter"} if any(_RUN.search(dirty) for dirty, _ in lines) else set()
    body = [dirty for dirty, _ in lines]
    chosen = {name for name in RATES if rng.random() < RATES[name]}
    if kind in (None, "near_duplicate"):
        if "zero_width" in chosen:
            body, defects = crawl_pages.zero_width(body, rng), defects | {"zero_width"}
        if "width" in chosen:
            body, defects = crawl_pages.change_width(body, rng), defects | {"width"}
    top, bottom, pii = [], [], page["body_pii"]
    if "boilerplate" in chosen:
        top, body, bottom, pii = crawl_pages.boilerplate(body, page["origin"], earlier, pii, words, rng)
        defects.add("boilerplate")
    defects |= {"pii"} if pii else set()
    if "html" in chosen:
        defects.add("html")
        text = crawl_pages.write_html(body, top, bottom, words, rng)
    else:
        text = rng.choice(("\n", "\n", "\r\n", "\n\n")).join([*top, *body, *bottom]) + "\n"
    if "nfd" in chosen and kind is None:
        text, defects = unicodedata.normalize("NFD", text), defects | {"nfd"}
    raw = crawl_pages.encode(text, chosen - {"wrong_charset"} if "nfd" in defects else chosen, defects, rng)
    return page | {"raw": raw, "defects": sorted(defects), "pii": pii}


def _draw(rng: random.Random, rates: dict[str, float]) -> str | None:
    """Draw one name with its rate; None with the chance that is left."""
    point = rng.random()
    for name, rate in rates.items():
        point -= rate
        if point < 0:
            return name
    return None


def _url(words: ModuleType, rng: random.Random) -> str:
    return f"https://{rng.choice(words.DOMAINS)}/{rng.choice(('post', 'read', 'board', 'entry', 'article'))}/{rng.randint(1, 9_999_999)}"
