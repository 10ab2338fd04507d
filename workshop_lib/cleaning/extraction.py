"""From an HTML page to the text that its author wrote: tags, entities, boilerplate.

Notable choices:
- plain text is left alone: `>ㅁ<b>` and `<Etude op.10 no.3>` are not HTML. A page counts as HTML only with a
  known tag that is also closed, or a doctype;
- no list of sites: blocks are judged by their tag, class name, link density and wording, after
  Kohlschütter et al. 2010 (Boilerplate Detection using Shallow Text Features) and jusText.
"""

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from workshop_lib.cleaning.decoding import normalise

_INLINE = {"a", "b", "i", "u", "em", "strong", "span", "font", "small", "big", "sub", "sup", "code", "img", "mark",
           "abbr", "cite", "q", "s", "del", "ins", "time", "label", "input", "kbd", "wbr", "ruby", "rt", "rp"}
_BLOCK = {"html", "head", "body", "div", "p", "br", "hr", "ul", "ol", "li", "dl", "dt", "dd", "table", "tbody", "thead",
          "tr", "td", "th", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "main", "blockquote", "pre",
          "figure", "figcaption", "title", "meta", "link", "center", "address", "details", "summary"}
_SKIP = {"script", "style", "noscript", "template", "svg", "iframe", "nav", "footer", "aside", "form", "button",
         "select", "textarea", "head", "title", "object", "canvas", "menu"}
_VOID = {"br", "hr", "img", "input", "meta", "link", "wbr", "area", "base", "col", "embed", "source", "track"}
# Elements whose end tag may be left out: a new one of the same kind closes them (HTML standard, 13.1.2.4).
_OPTIONAL_END = {"p", "li", "dt", "dd", "tr", "td", "th", "option"}
_KNOWN = _INLINE | _BLOCK | _SKIP | {"header", "option", "optgroup"}
_OPEN_TAG = re.compile(r"<([a-zA-Z][a-zA-Z0-9]*)(?:\s[^<>]*)?/?>")
_CLOSE_TAG = re.compile(r"</([a-zA-Z][a-zA-Z0-9]*)\s*>")
_DOCTYPE = re.compile(r"<!doctype\s+html|<html[\s>]|<body[\s>]", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>|<(?:div|p)\s*>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_CLASSES = re.compile(r"(?:^|[\s_-])(nav|gnb|lnb|snb|menu|footer|header|sidebar|side|breadcrumb|share|sns|social|related|banner|"
                      r"ads?|advert\w*|comments?|reply|copyright|byline|pager|pagination|login|popup|cookie|toolbar|skip|"
                      r"recommend|ranking|tags?|meta|util)(?:$|[\s_-])", re.IGNORECASE)


def looks_like_html(text: str) -> bool:
    """Is there a doctype, a known tag that is opened and closed, or a line break written as a tag?"""
    if "<" not in text:
        return False
    if _DOCTYPE.search(text) or _BREAK.search(text):
        return True
    closed = {name.lower() for name in _CLOSE_TAG.findall(text)} & _KNOWN
    return bool(closed) and any(name.lower() in closed for name in _OPEN_TAG.findall(text))


_HTML_FILE = re.compile(r"\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body|div|p|table)[\s>]", re.IGNORECASE | re.DOTALL)


def is_html_file(text: str) -> bool:
    """Does the text *begin* as HTML? A manual in Markdown is full of closed tags, all of them in code samples."""
    return bool(_HTML_FILE.match(text[:1_000])) and looks_like_html(text)


def unescape(text: str) -> str:
    """Resolve complete entities (`&#39;`, `&hearts;`). `html.unescape` alone would also rewrite `R&DI&copyleft`."""
    return _ENTITY.sub(lambda match: html.unescape(match.group()), text) if "&" in text else text


@dataclass
class Block:
    """A paragraph of the page: its text, how many characters are link text, whether its place marks it as frame."""

    text: str
    link_chars: int = 0
    framed: bool = False
    heading: bool = False


@dataclass
class _Element:
    name: str
    framed: bool
    hidden: bool


class _Blocks(HTMLParser):
    """Cut a page into blocks. Never raises on broken markup; unknown "tags" are text (`<Etude op.10 no.3>`)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._open: list[_Element] = []
        self._pieces: list[str] = []
        self._link_chars = 0
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _KNOWN:
            self.handle_data(self.get_starttag_text() or "")
            return
        if tag not in _INLINE:
            self._end_block()
        if tag in _VOID:
            return
        if tag in _OPTIONAL_END and self._open and self._open[-1].name == tag:
            self._open.pop()
        named = " ".join(value or "" for name, value in attrs if name in ("class", "id", "role"))
        parent = self._open[-1] if self._open else _Element("", False, False)
        # The page's own header holds the menu; an article's header holds its title.
        frame = tag in _SKIP or (tag == "header" and not self._inside("article", "main")) \
            or (tag not in ("html", "body", "article", "main") and bool(_CLASSES.search(named)))
        style = "".join((value or "").replace(" ", "") for name, value in attrs if name == "style")
        hidden = tag in ("script", "style", "head", "title", "template", "noscript") or "display:none" in style
        self._open.append(_Element(tag, parent.framed or frame, parent.hidden or hidden))
        self._heading = tag in ("h1", "h2", "h3")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _KNOWN:
            return
        if tag not in _INLINE:
            self._end_block()
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth].name == tag:
                del self._open[depth:]
                break

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _KNOWN:
            self.handle_data(self.get_starttag_text() or "")
        elif tag not in _INLINE:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1].hidden:
            return
        self._pieces.append(data)
        if self._inside("a"):
            self._link_chars += len(data.strip())

    def finish(self) -> list[Block]:
        self.close()
        self._end_block()
        return self.blocks

    def _inside(self, *names: str) -> bool:
        return any(element.name in names for element in self._open)

    def _end_block(self) -> None:
        text = " ".join("".join(self._pieces).split(" ")).strip()
        if not self._inside("pre"):
            text = " ".join(text.split())
        if text:
            framed = bool(self._open) and self._open[-1].framed
            self.blocks.append(Block(text, self._link_chars, framed, self._heading))
        self._pieces, self._link_chars, self._heading = [], 0, False


def html_blocks(page: str) -> list[Block]:
    """Visible blocks of a page in order, boilerplate included (and marked)."""
    parser = _Blocks()
    parser.feed(page)
    return parser.finish()


# --- wording ------------------------------------------------------------------------------------------------

SENTENCE_END = re.compile(r"(?:[.?!…。~]|[다요죠네까음임함]|[ㅋㅎㅠㅜ]{2})[\"'”’」』)\]]*$")
_FRAME_WORDS = re.compile(
    r"로그인|로그아웃|회원가입|고객센터|사이트맵|이용약관|개인정보\s?처리방침|청소년\s?보호정책|본문 바로가기|메뉴 바로가기|주메뉴|"
    r"전체\s?메뉴|메인\s?메뉴|카테고리|검색어를 입력|이전\s?글|다음\s?글|목록|글쓰기|최신순|추천순|구독하기|이웃추가|알림설정|"
    r"장바구니|주문조회|마이페이지|MY\s?페이지|글자 크기|프린트|스크랩|공유하기|URL\s?복사|카카오스토리|페이스북|트위터|좋아요|"
    r"비공감|공감 \d|댓글 \d|조회\s?수?\s?:?\s?\d|추천 \d|기사\s?입력|입력 \d{4}|등록일|작성자|글쓴이|사업자\s?등록번호|"
    r"통신판매업|광고문의|제휴제안|회사소개|PC\s?버전|맨 위로|더 ?보기|쿠키를 사용|배너를|인쇄|무단\s?(?:전재|복제|복사|배포)|재배포|"
    r"저작권|All rights reserved|Copyright|ⓒ|©|관련\s?기사|많이 본|다른 글|함께 보면 좋은|인기글|추천 기사|제보 및 문의|"
    r"이 기사를 추천|뉴스레터|앱 다운로드", re.IGNORECASE)
_BYLINE = re.compile(r"(?:^|[\s·=\[])[가-힣]{2,4} (?:기자|특파원|논설위원)(?:\]|$|[\s(]*\S+@)|^\[?\S{2,10}\s?=\s?[가-힣]{2,4} 기자\]?$")
_STRONG_FRAME = re.compile(r"무단\s?(?:전재|복제|복사)|재배포|All rights reserved|Copyright|사업자\s?등록번호|통신판매업|쿠키를 사용|"
                           r"로그인(?:이 필요| 후)|구독 버튼|^ⓒ|배너를 \d+일|제보 및 문의", re.IGNORECASE)
_SEPARATORS = re.compile(r"[|>·/]")
_BREADCRUMB = re.compile(r"(?:홈|HOME|Home)(?:\s?[>›»]\s?[^>›»]{1,20})+")


def is_boilerplate_line(line: str) -> bool:
    """Menu, byline, share bar, copyright notice or footer, judged by the wording of one line alone.

    Strong phrases decide by themselves; weak ones only in a short line that is no sentence, so that
    "로그인이 안 돼서 고객센터에 전화했다." stays.
    """
    line = line.strip()
    if not line:
        return False
    if len(line) <= 120 and _STRONG_FRAME.search(line):
        return True
    if _BREADCRUMB.fullmatch(line) or len(line) <= 60 and _BYLINE.search(line):
        return True
    words = len(_FRAME_WORDS.findall(line))
    if len(line) > 80 or not words:
        return False
    if len(_SEPARATORS.findall(line)) >= 2:
        return True
    if line.endswith((".", "?", "!")) and line.count(" ") >= 3:      # a sentence may speak of menus
        return False
    return words >= 2 or not SENTENCE_END.search(line) or len(line) <= 12


_RELATED = re.compile(r"(?:관련|추천|인기)\s?(?:기사|글|뉴스)(?: TOP ?\d+)?|많이 본 (?:뉴스|기사|글)|이 카테고리의 다른 글|"
                      r"함께 보면 좋은 글|다른 글 더 ?보기")


@dataclass
class Extracted:
    """Text of a page (normalised), whether it was HTML, and the lines that were taken out."""

    text: str
    was_html: bool = False
    dropped: list[str] = field(default_factory=list)


def drop_boilerplate(blocks: list[Block]) -> tuple[list[Block], list[Block]]:
    """(kept, dropped) blocks, by place, link density and wording."""
    kept, dropped = [], []
    related = False
    for block in blocks:
        link_density = block.link_chars / max(len(block.text), 1)
        linked = link_density > 0.5 and not SENTENCE_END.search(block.text)
        # Headlines after "관련 기사" look like any other line; only their place tells. A full stop ends the list.
        related = bool(_RELATED.fullmatch(block.text)) or (
            related and len(block.text) <= 40 and not block.text.endswith((".", "?", "!", '"', "”")))
        unwanted = block.framed or linked or related or is_boilerplate_line(block.text)
        (dropped if unwanted else kept).append(block)
    return kept, dropped


# (서울=새벽일보) 김하늘 기자 = …, [달빛 게시판 김하늘] …, 김하늘 특파원= …: before the first sentence of an article.
_LEAD = re.compile(r"(?:[(\[【][^)\]】\n]{2,30}[)\]】]\s*)?[가-힣]{2,4} ?[가-힣]{0,4}\s*=\s+|[\[【][^\]】\n]{2,30}[\]】]\s+")


def strip_lead(line: str) -> str:
    """A sentence without the byline before it; a short line, or one without a byline, comes back as it is."""
    rest = _LEAD.sub("", line, count=1) if _LEAD.match(line) else line
    return rest if len(rest) >= 20 and SENTENCE_END.search(rest) else line


def page_blocks(page: str) -> tuple[list[Block], bool]:
    """(blocks with normalised text, was it HTML?) of a web page. Plain text has a block a line."""
    was_html = looks_like_html(page)
    blocks = html_blocks(page) if was_html else [Block(line) for line in unescape(page).splitlines()]
    for block in blocks:
        block.text = normalise(block.text)   # before the wording is judged: menus can be NFD too
    return [block for block in blocks if block.text], was_html


def extract(page: str, web: bool = True, line_model=None) -> Extracted:
    """The normalised text of a page: HTML resolved, boilerplate dropped, one line a paragraph.

    `line_model` (`lines.LineModel`) drops lines by their shape, after the rules have dropped by place and wording.
    `web=False` (a review, a book chapter) resolves entities, and tags if the text begins with one; it drops no line
    and keeps empty ones.
    """
    if not web:
        was_html = is_html_file(page)
        text = "\n".join(block.text for block in html_blocks(page)) if was_html else unescape(page)
        return Extracted(normalise(text), was_html)
    blocks, was_html = page_blocks(page)
    kept, dropped = drop_boilerplate(blocks)
    for block in kept:
        if (rest := strip_lead(block.text)) != block.text:
            dropped.append(Block(block.text.removesuffix(rest)))
            block.text = rest
    if line_model:
        frame = line_model.is_frame(kept)
        dropped += [block for block, out in zip(kept, frame) if out]
        kept = [block for block, out in zip(kept, frame) if not out]
    return Extracted("\n".join(block.text for block in kept), was_html, [block.text for block in dropped])
