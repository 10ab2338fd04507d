"""The report card as one HTML page: no script, no address outside itself, for a laptop, a phone, the dark and paper."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workshop_lib.course import STATES
from workshop_lib.report_tables import UNMEASURED, Cell

if TYPE_CHECKING:
    from workshop_lib.report_card import Section


def page(facts: Sequence[tuple[str, str]], sections: Sequence[Section], lineage: str, legend: str) -> str:
    """The page. facts: what stands at the top; lineage: the drawing as a data address; legend: how to read the marks."""
    return TEMPLATE.format(
        style=STYLE, lineage=lineage, legend=_html(legend), tops="".join(map(_top, sections)), body="".join(map(_section, sections)),
        facts="".join(f"<div><dt>{_html(key)}</dt><dd>{_html(value)}</dd></div>" for key, value in facts),
    )  # fmt: skip


def _html(text: str) -> str:
    return re.sub(r"`([^`<>&]+)`", r"<code>\1</code>", html.escape(text))


def _top(section: Section) -> str:
    """The week's one comparison as a small card with two bars; the bars' lengths are the two values' ratio."""
    week, _, title = section.title.partition(" ")
    head = f"<b>{_html(week)}</b> {_html(title)}"
    if section.state != "ready":  # then how it compares is not worth a word
        head += f'<i class="{section.state}">{STATES[section.state]}</i>'
    if section.top is None:
        return f'<a class="top none" href="#{section.name}"><span>{head}</span><em>{UNMEASURED}</em></a>'
    *pair, mark = section.top
    largest = max(abs(number) for _, _, number in pair) or 1
    bars = "".join(
        f'<span class="bar {kind}"><u style="width:{100 * abs(number) / largest:.0f}%"></u></span>'
        f"<small>{_html(label)}<strong>{_html(value)}</strong></small>"
        for kind, (label, value, number) in zip(("ours", "base"), pair)
    )
    return f'<a class="top" href="#{section.name}"><span>{head}{_mark(mark) if section.state == "ready" else ""}</span>{bars}</a>'


def _mark(mark: str) -> str:
    return f'<i class="{"good" if mark == "낫다" else "bad"}">{mark}</i>' if mark else ""


def _section(section: Section) -> str:
    parts = [f'<section id="{section.name}"><h2>{_html(section.title)}</h2><p class="note {section.state}">{_html(section.note)}</p>']
    parts.append('<div class="grids">')
    for title, columns, rows, reasons in section.grids:
        head = "".join(f"<th>{_html(column)}</th>" for column in ("", *columns))
        marked = [any(row[place].mark for _, row in rows) for place in range(len(columns))]  # keep room beside the other values, too
        lines = (f"<tr><th>{_html(label)}</th>{''.join(map(_cell, row, marked))}</tr>" for label, row in rows)
        caption = f"<caption>{_html(title)}</caption>" if title else ""
        inside = f"{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        table = f'<div class="wide"><table>{inside}</table></div>' if rows else ""
        parts.append(f'<div class="grid">{table}')
        parts += [f'<p class="why">{_html(reason)}</p>' for reason in reasons]
        parts.append("</div>")
    parts.append("</div>")
    for words, address in section.pictures:
        parts.append(f'<figure><img class="plot" alt="{_html(words)}" src="{address}"><figcaption>{_html(words)}</figcaption></figure>')
    if section.answers:
        lines = ("<tr>" + "".join(f"<td>{_html(text)}</td>" for text in row) + "</tr>" for row in section.answers)
        head = "<tr><th>물음</th><th>정렬 전(SFT)</th><th>정렬 후(DPO)</th></tr>"
        parts.append(f'<div class="wide"><table class="texts"><caption>같은 물음에 한 답</caption><thead>{head}</thead>'
                     f"<tbody>{''.join(lines)}</tbody></table></div>")  # fmt: skip
    if section.samples:
        shown_samples = "".join(f"<blockquote>{html.escape(sample)}</blockquote>" for sample in section.samples)
        parts.append(f"<h3>모델이 쓴 글</h3>{shown_samples}")
    if section.rest:
        lines = (f"<tr><th><code>{html.escape(key)}</code></th><td>{_html(value)}</td></tr>" for key, value in section.rest)
        parts.append(f'<details><summary>나머지 측정값</summary><div class="wide"><table>{"".join(lines)}</table></div></details>')
    return "".join(parts) + "</section>"


def _cell(cell: Cell, marked: bool) -> str:
    mark = _mark(cell.mark) or ("<i></i>" if marked else "")
    value, bracket, ends = cell.text.partition(" [")
    return f'<td class="{cell.kind}">{_html(value)}{f" <small>[{_html(ends)}</small>" if bracket else ""}{mark}</td>'


STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--paper:#fff;--ground:#f3f5f8;--line:#dde3ea;--blue:#1f77b4;--grey:#b4bec9;
--good:#1b7f3b;--bad:#b3261e;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#a3afbd;--paper:#1b212a;--ground:#12161c;--line:#323b47;--blue:#5aa9e6;
--grey:#5b6675;--good:#6fce8b;--bad:#ff8a80;--warn:#e8b04b}img.plot{filter:invert(.88) hue-rotate(180deg)}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.65;
font-family:Pretendard,"Noto Sans KR","Noto Sans CJK KR","Apple SD Gothic Neo","Malgun Gothic",NanumGothic,sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.6rem 1rem 3rem}h1{margin:0;font-size:1.9rem;letter-spacing:-.02em}
header p{margin:.2rem 0 1rem;color:var(--soft)}h2{margin:0;font-size:1.25rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
dl{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:0}
dt{color:var(--soft);font-size:.78rem}dd{margin:0;font-size:.92rem;overflow-wrap:anywhere}
header,section{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:1.3rem 1.4rem;margin:0 0 1rem}
.tops{display:grid;grid-template-columns:repeat(auto-fill,minmax(11.6rem,1fr));gap:.7rem;margin:0 0 1rem}
.top{display:block;background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:.7rem .8rem;color:inherit;
text-decoration:none;font-size:.9rem}.top:hover{border-color:var(--blue)}.top em{display:block;color:var(--soft);margin-top:.8rem}
.top>span:first-child{display:flex;gap:.35rem;align-items:baseline;margin-bottom:.35rem}.top b{white-space:nowrap}.top i{margin-left:auto}
.top small{display:flex;justify-content:space-between;gap:.5rem;color:var(--soft);font-size:.78rem;margin-bottom:.3rem}
.top strong{color:var(--ink);font-variant-numeric:tabular-nums;white-space:nowrap}.bar{display:block;background:var(--ground);
border-radius:4px;height:7px}.bar u{display:block;height:7px;border-radius:4px;background:var(--blue)}.bar.base u{background:var(--grey)}
i{font-style:normal;font-size:.72rem;white-space:nowrap}i.good{color:var(--good)}i.bad,i.broken,i.altered{color:var(--bad)}
i.stale{color:var(--warn)}i.missing{color:var(--soft)}td i{display:inline-block;width:3em;text-align:left;margin-left:.4em}
.note{color:var(--soft);margin:.1rem 0 .8rem;font-size:.9rem}.note.stale{color:var(--warn)}.note.broken,.note.altered{color:var(--bad)}
.why{color:var(--soft);font-size:.8rem;margin:.1rem 0 .8rem}.grids{display:flex;flex-wrap:wrap;align-items:start;gap:.2rem 2.6rem}
.grid{flex:1 1 17rem;max-width:100%}.wide{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.88rem;min-width:100%}caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{border-bottom:1px solid var(--line);padding:.3rem .9rem .3rem 0;text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th{font-weight:500;color:var(--soft)}tbody th{color:var(--ink)}th:first-child{text-align:left}td small{color:var(--soft)}
td.reference,td.none,td.unmeasured{color:var(--soft)}table.texts{width:100%}.texts th,.texts td{text-align:left;white-space:normal;
vertical-align:top;min-width:9rem}figure{margin:1rem 0 0}img{max-width:100%;height:auto;display:block;margin:0 auto}
#lineage{min-width:32rem}figcaption{text-align:center;color:var(--soft);font-size:.82rem}details{margin-top:.8rem;font-size:.88rem}summary{cursor:pointer;
color:var(--soft)}blockquote{margin:.5rem 0;padding:.5rem .9rem;border-left:3px solid var(--blue);background:var(--ground);
border-radius:0 8px 8px 0;white-space:pre-wrap;font-size:.9rem;overflow-wrap:anywhere}code{font-size:.9em}
footer{color:var(--soft);font-size:.8rem}@media(max-width:40rem){main{padding:.7rem .6rem}header,section{padding:1rem .9rem}
.tops{grid-template-columns:1fr 1fr}.top>span:first-child{flex-wrap:wrap}}
@media print{body{background:#fff}main{max-width:none;padding:0}header,section,.top{break-inside:avoid-page;border-color:#ccc}
section{break-inside:auto}figure,tr,blockquote{break-inside:avoid}.bar,.bar u{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

TEMPLATE = """<!doctype html>
<html lang="ko"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>성적표</title><style>{style}</style></head><body><main>
<header><h1>LLM 워크숍 성적표</h1><p>말뭉치에서 대화 모델까지, 이 기계에서 잰 값만 싣는다.</p><dl>{facts}</dl></header>
<nav class="tops">{tops}</nav>
<section><h2>계보</h2><p class="note">어느 산출물이 어느 산출물에서 나왔나. 점은 만들 때 적어 둔 입력의 해시가
지금 파일의 해시와 같다는 뜻이다.</p>
<figure class="wide"><img class="plot" id="lineage" alt="산출물의 계보" src="{lineage}"></figure></section>
{body}
<footer>{legend}</footer></main></body></html>
"""
