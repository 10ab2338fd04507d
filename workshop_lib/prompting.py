"""Asking in words, and reading the answer: prompts, answers cut out of free text, a sheet for readers.

Notable choices
- An answer that cannot be found is None and counts as wrong or invalid; nothing is guessed, least of all "A".
- Readers see shuffled texts without names; which text came from whom stands in a second file.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from workshop_lib import WorkshopError

# --- prompts ------------------------------------------------------------------------------------------------------------

STYLES = {  # the three wordings of the first edition of this course: a bare frame, the same after a sentence
    "plain": "",
    "steps": "단계별로 차근차근 생각한 뒤에 답한다.",
    "helper": "당신은 질문에 정확하게 답하는 유능한 도우미이다.",
}
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Example:
    """A question answered in the prompt (few-shot); `thought`: how one gets there, shown by the style "steps"."""

    question: str
    answer: str
    thought: str = ""


def frame(question: str, style: str = "plain", examples: Sequence[Example] = (), form: str = "", opening: str = "") -> str:
    """The whole prompt: the style's sentence, what the answer must look like (`form`), answered examples, the question.

    `opening`: the beginning of the answer, written for the model (format forcing); the model only goes on from there.
    """
    if style not in STYLES:
        raise WorkshopError(f"'{style}'이라는 말투는 없다. {', '.join(STYLES)} 가운데 하나를 쓴다.")

    def answered(example: Example) -> str:
        thought = f"풀이: {example.thought}\n" if style == "steps" and example.thought else ""
        return f"질문: {example.question}\n{thought}답: {example.answer}"

    instruction = "\n".join(line for line in (STYLES[style], form) if line)
    asked = f"질문: {question}\n{'풀이' if style == 'steps' and not opening else '답'}:"
    return "\n\n".join([*([instruction] if instruction else []), *map(answered, examples), asked]) + (f" {opening}" if opening else "")


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question with its choices, a line each: (A) …, (B) …"""
    if not 2 <= len(choices) <= len(LETTERS):
        raise WorkshopError(f"보기는 2개에서 {len(LETTERS)}개 사이여야 한다. 받은 보기: {len(choices)}개")
    return "\n".join([question, *(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices))])


# --- answers out of free text ---------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\d.,A-Za-z])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\dA-Za-z]|\.\d)")
_SAID = re.compile(r"(?<![오])(?:정답|최종\s*답|답변|답|결론|선택|answer)(?!\s*(?:이|은|는|을|를)?\s*아닌)", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?。](?=\s|$)|\n")
_DENIED = re.compile(
    r"\s*(?:이|가|은|는|도|을|를|의)?\s*(?:절대\s*|결코\s*)?"
    r"(?:(?:정답|답|맞|옳)\S{0,3}\s*)?(?:아니|아닌|아님|않|틀[린렸리]|오답|제외|배제|될\s*수\s*없|잘못)"
)
_OR = re.compile(r"\s*(?:번)?\s*(?:또는|혹은|이나|나|아니면|와|과|이랑|랑|및|or|and|,|/|~|·)\s*", re.IGNORECASE)


def extract_number(text: str) -> float | None:
    """The number that a worked answer ends in: the first one after the last "답", else the last of the text; None without any.

    Thousands may be separated by commas. Digits inside a word (A4, GPT2) are no numbers.
    """
    text = unicodedata.normalize("NFKC", text)
    said = list(_SAID.finditer(text))
    for statement in reversed(said):
        if found := _NUMBER.search(text, statement.end()):
            return float(found[0].replace(",", ""))
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


@dataclass(frozen=True)
class _Mention:
    choice: int
    start: int
    end: int
    sure: bool  # recognisable anywhere: (B), 2번, ②; a bare b or 2 is one only where an answer is expected


def extract_choice(text: str, choices: Sequence[str]) -> int | None:
    """Which choice a free-text answer to `multiple_choice` names: its index, or None when it names none or several.

    Read in this order: what follows the last "정답은" (or stands before "가 정답"); the beginning of the answer; mentions anywhere,
    if all agree; the text of a choice. Known by letter (B, (b), Ⓑ), number (2번, ②) or the choice's own words; "B가 아니라" is no
    mention. Text between <think> and </think> is thinking, not the answer.
    """
    text = _readable(text)
    mentions = [mention for mention in _mentions(text, len(choices)) if not _DENIED.match(text, mention.end)]
    if not text:
        return None
    for statement in reversed(list(_SAID.finditer(text))):
        stop = _SENTENCE.search(text, statement.end())
        end = stop.start() if stop else len(text)
        after = [m for m in mentions if statement.end() <= m.start < end]
        before = [m for m in mentions if re.fullmatch(r"[\s)\].]*(?:번)?(?:이|가)\s*", text[m.end : statement.start()])]
        if before and not re.match(r"\S{0,2}\s*(?:아니|아닌|없)", text[statement.end() :]):
            return before[-1].choice
        if after:
            return _single(text, after)
        if (named := _named(text[statement.end() : end], choices)) is not None:
            return named
    if mentions and not re.search(r"\w", text[: mentions[0].start]) and _alone(text, mentions[0]):
        return mentions[0].choice
    sure = {m.choice for m in mentions if m.sure}
    if len(sure) > 1:
        return None
    return sure.pop() if sure else _named(text, choices)


def _alone(text: str, mention: _Mention) -> bool:
    """Whether a mention at the beginning is the answer by itself: "B", "B. …", "2번입니다"; but not the 1 of a numbered list."""
    rest = text[mention.end :]
    if text[mention.start : mention.end].isdigit() and "\n" in rest:
        return False
    return bool(re.match(r"\s*$|[.):\n]|\s*(?:이다|입니다|이요|이에요|예요|요|임)(?!\w)", rest)) or text[mention.end - 1] in ".):"


def _readable(text: str) -> str:
    """Without thinking and mark-up; full-width letters as plain ones, ② as 2번, Ⓑ as (B)."""
    text = re.sub(r"<think>.*?(?:</think>|$)", " ", text, flags=re.DOTALL)
    text = re.sub("[①-⑩]", lambda found: f"{ord(found[0]) - ord('①') + 1}번 ", text)
    text = re.sub("[Ⓐ-Ⓩ]", lambda found: f"({chr(ord(found[0]) - ord('Ⓐ') + ord('A'))})", text)
    text = re.sub(r"\\boxed\{(?:\\text\{)?([^{}]*)\}?\}", r" (\1) ", text)
    return re.sub(r"[*_`#$]", "", unicodedata.normalize("NFKC", text)).strip()


def _mentions(text: str, choices: int) -> list[_Mention]:
    letters = LETTERS[:choices] + LETTERS[:choices].lower()
    pattern = re.compile(
        rf"(?<![A-Za-z0-9])(?P<bracket>[(\[<])\s*(?P<in>[{letters}1-9])\s*[)\]>]"
        rf"|(?<![A-Za-z0-9])(?P<letter>[{letters}])(?![A-Za-z0-9'’\-+])(?P<dot>[).:])?"
        r"|(?<![\d.,A-Za-z])(?P<ordinal>\d+)\s*번(?!째|\s*문제|\s*문항)"
        r"|(?<![\d.,A-Za-z+\-*/=])(?P<digit>[1-9])(?=$|[\s.)\]:,](?!\d)|이[다고며므]|입니다|이에요|예요|임|을|를|로|가|은|는)"
    )
    found = []
    for match in pattern.finditer(text):
        sign = match["in"] or match["letter"] or match["ordinal"] or match["digit"]
        choice = int(sign) - 1 if sign.isdigit() else LETTERS.index(sign.upper())
        sure = bool(match["bracket"] and not sign.isdigit() or match["ordinal"] or match["letter"] and sign.isupper() or match["dot"])
        if 0 <= choice < choices:
            found.append(_Mention(choice, match.start(), match.end(), sure))
    return found


def _single(text: str, mentions: list[_Mention]) -> int | None:
    """The first mention, unless the next is joined to it by "or", "and", a comma."""
    for first, second in zip(mentions, mentions[1:]):
        if first.choice == second.choice:
            continue
        return None if _OR.fullmatch(text[first.end : second.start]) else mentions[0].choice
    return mentions[0].choice


def _named(text: str, choices: Sequence[str]) -> int | None:
    """The one choice whose words stand in the text; words within longer matching words do not count, nor does what is denied."""
    found, taken = set(), []
    for place in sorted(range(len(choices)), key=lambda place: -len(choices[place])):
        words = _readable(choices[place])
        for match in re.finditer(re.escape(words), text) if words else ():
            if any(start <= match.start() and match.end() <= end for start, end in taken):
                continue
            taken.append(match.span())
            if not _DENIED.match(text, match.end()):
                found.add(place)
    return found.pop() if len(found) == 1 else None


def vote(answers: Sequence[Hashable | None]) -> Hashable | None:
    """Self-consistency (Wang 2023): the most frequent of several sampled answers, the earliest among equals; None is no vote."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__) if counts else None  # a Counter keeps the order of first occurrence


# --- a sheet for readers ----------------------------------------------------------------------------------------------------

RUBRIC = {
    "유창성": "1 = 한국어로 읽히지 않는다, 3 = 어색한 곳이 있다, 5 = 사람이 쓴 글 같다",
    "일관성": "1 = 문장마다 딴 이야기이다, 3 = 대체로 이어진다, 5 = 처음부터 끝까지 한 이야기이다",
    "지시 이행": "1 = 시킨 것과 상관없다, 3 = 일부만 했다, 5 = 시킨 대로 했다",
}


def write_sheet(path: Path, texts: Mapping[str, Sequence[str]], prompts: Sequence[str], seed: int = 0) -> Path:
    """A CSV (opens in Excel) with every text of every system in random order, a column for each criterion, and no names.

    texts: system → one text for each prompt. The key goes to a file beside it (`….key.json`), whose path is returned.
    """
    for name, row in texts.items():
        if len(row) != len(prompts):
            raise WorkshopError(f"'{name}'의 글은 {len(row)}개인데 프롬프트는 {len(prompts)}개이다. 수를 맞춘다.")
    items = [(name, place) for name in texts for place in range(len(prompts))]
    Random(seed).shuffle(items)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["번호", "프롬프트", "글", *RUBRIC])
        for number, (name, place) in enumerate(items, start=1):
            writer.writerow([number, prompts[place], texts[name][place], *[""] * len(RUBRIC)])
    key = Path(path).with_suffix(".key.json")
    key.write_text(json.dumps({str(n): name for n, (name, _) in enumerate(items, start=1)}, ensure_ascii=False), encoding="utf-8")
    return key


def read_sheet(path: Path, key: Path) -> dict[str, dict[str, list[int]]]:
    """A filled sheet as system → criterion → scores. Raises WorkshopError with the line for a score that is missing or not 1–5."""
    names = json.loads(Path(key).read_text(encoding="utf-8"))
    scores: dict[str, dict[str, list[int]]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"번호", *RUBRIC} - set(reader.fieldnames or ()):
            raise WorkshopError(f"{path}: {', '.join(sorted(missing))} 열이 없다. write_sheet가 만든 첫 줄을 그대로 둔다.")
        for row in reader:
            where = f"{path} {reader.line_num}번째 줄"
            if row["번호"] not in names:
                raise WorkshopError(f"{where}: 번호 {row['번호']!r}은(는) {key}에 없다. 같은 때 만든 두 파일을 쓴다.")
            for criterion in RUBRIC:
                value = (row[criterion] or "").strip()
                if value not in ("1", "2", "3", "4", "5"):
                    raise WorkshopError(f"{where}: '{criterion}' 점수 {value!r}은(는) 1에서 5 사이의 정수가 아니다.")
                scores.setdefault(names[row["번호"]], {}).setdefault(criterion, []).append(int(value))
    return scores


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement of two readers beyond chance (Cohen 1960): (observed − expected) / (1 − expected).

    Expected: how often they would agree if each gave the same labels as often, but independently. 1 where both gave one label only.
    """
    if len(first) != len(second) or not len(first):
        raise WorkshopError(f"두 사람이 같은 글을 하나 이상 채점해야 한다. 받은 수: {len(first)}개와 {len(second)}개")
    n = len(first)
    a, b = Counter(first), Counter(second)
    observed = sum(x == y for x, y in zip(first, second)) / n
    expected = sum(a[label] * b[label] for label in a) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
