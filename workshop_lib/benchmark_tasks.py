"""Benchmark tasks in the formats of KLUE and KoBEST: questions, answer words, and rows to ask and to learn from.

    nli        KLUE-NLI      premise, hypothesis            함의 · 중립 · 모순
    topics     YNAT          title                          seven topics
    boolq      KoBEST BoolQ  question, paragraph            아니요 · 예
    sts        KLUE-STS      sentence1, sentence2           same meaning or not (score ≥ 3)
    sentiment  NSMC          document                       부정 · 긍정
    reading    KLUE-MRC      question, context              an answer in the text's own words

Notable choices
- A row is a flat dictionary: the text fields, `label` (a number; `answers` for reading), `id`, and `source`. The same rows go to
  this library, to a fine-tuned head and, as JSON lines, to lm-evaluation-harness.
- Bundled: the test rows are the course's hand-written items and generated ones whose combinations no training row has.
  With a data folder: the public development sets. A set that comes as one file only is divided by the hash of its text.
- Each task has three wordings of the same question, the first of them the one that is reported. Answer words are part of a wording.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from workshop_lib import WorkshopError
from workshop_lib.corpora import benchmarks, load, public
from workshop_lib.corpora.reading import INVISIBLE, read_json_lines
from workshop_lib.labelled import sentiment

SHOT_POOL = 16  # rows that few-shot examples are taken from


@dataclass(frozen=True)
class Wording:
    """A way to ask: a template with the row's fields in braces, and the answer words in the order of the labels."""

    template: str
    choices: tuple[str, ...] = ()

    def ask(self, row: dict) -> str:
        """The question about a row, without its answer."""
        return self.template.format_map(row)


@dataclass(frozen=True)
class Task:
    """A benchmark. `labels`: names of the labels in order; none for a task that is answered in free text. `part`: the field that ought
    not to be enough for an answer; where it is, the set has a flaw."""

    name: str
    title: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    wordings: tuple[Wording, ...]
    test: tuple[dict, ...] = ()
    train: tuple[dict, ...] = ()
    part: str = ""

    def shots(self, n: int) -> list[dict]:
        """The first `n` examples for a prompt: training rows, the labels in turn."""
        if not self.labels:
            return list(self.train[:n])
        heaps = [[row for row in self.train if row["label"] == label] for label in range(len(self.labels))]
        turns = (row for rows in itertools.zip_longest(*heaps) for row in rows if row is not None)
        return list(itertools.islice(turns, n))

    def texts(self, rows: Iterable[dict]) -> list[str]:
        """The rows' text fields, a line each: what a classifier without prompts reads. (A question comes before its paragraph,
        whose end may be cut off.)"""
        return ["\n".join(row[name] for name in self.fields) for row in rows]


TASKS = {
    task.name: task
    for task in (
        Task("nli", "자연어 추론", ("premise", "hypothesis"), ("함의", "중립", "모순"), (
            Wording("전제: {premise}\n가설: {hypothesis}\n관계:", ("함의", "중립", "모순")),
            Wording("{premise}\n질문: {hypothesis} 맞는 말인가?\n답:", ("예", "모른다", "아니요")),
            Wording("{premise}\n{hypothesis}\n앞 문장에 따르면 뒤 문장은", ("참이다", "알 수 없다", "거짓이다")),
        ), part="hypothesis"),
        Task("topics", "기사 주제", ("title",), public.TOPICS, (
            Wording("제목: {title}\n분야:", public.TOPICS),
            Wording("{title}\n질문: 어느 분야의 기사인가?\n답:", public.TOPICS),
            Wording("다음 기사 제목의 주제를 고른다.\n{title}\n주제:", public.TOPICS),
        )),
        Task("boolq", "예/아니요 독해", ("question", "paragraph"), ("아니요", "예"), (
            Wording("{paragraph}\n질문: {question}\n답:", ("아니요", "예")),
            Wording("글: {paragraph}\n물음: {question}\n그런가?", ("아니다", "그렇다")),
            Wording("{paragraph}\n{question} 이 물음에 대한 답은", ("거짓이다", "참이다")),
        ), part="question"),
        Task("sts", "문장 유사도", ("sentence1", "sentence2"), ("다르다", "같다"), (
            Wording("문장 1: {sentence1}\n문장 2: {sentence2}\n두 문장의 뜻은", ("다르다", "같다")),
            Wording("{sentence1}\n{sentence2}\n질문: 두 문장은 같은 뜻인가?\n답:", ("아니요", "예")),
            Wording("{sentence1} 다시 말해, {sentence2}\n이 말은", ("거짓이다", "참이다")),
        ), part="sentence2"),
        Task("sentiment", "영화평 감성", ("document",), ("부정", "긍정"), (
            Wording("리뷰: {document}\n평가:", ("부정", "긍정")),
            Wording("{document}\n질문: 이 영화를 추천하는가?\n답:", ("아니요", "예")),
            Wording("{document}\n한마디로 이 영화는", ("별로다", "좋다")),
        )),
        Task("reading", "독해", ("question", "context"), (), (
            Wording("{context}\n질문: {question}\n답:"),
            Wording("글: {context}\n물음: {question}\n대답:"),
            Wording("{context}\n{question} 답은"),
        )),
    )
}


# --- rows in one form -------------------------------------------------------------------------------------------------


def _nli(row: dict) -> dict:
    return {"id": row["guid"], "premise": row["premise"], "hypothesis": row["hypothesis"],
            "label": benchmarks.NLI_LABELS.index(row["gold_label"]), "source": row["source"]}


def _topics(row: dict) -> dict:
    return {"id": row["guid"], "title": row["title"], "label": public.TOPICS.index(row["label"])}


def _boolq(row: dict) -> dict:
    if "ID" not in row:  # as `public` reads it
        return {key: row[key] for key in ("id", "paragraph", "question", "label")}
    return {"id": row["ID"], "paragraph": row["Text"], "question": row["Question"], "label": int(row["Answer"])}


def _sts(row: dict) -> dict:
    label = row["labels"]
    return {"id": row["guid"], "sentence1": row["sentence1"], "sentence2": row["sentence2"],
            "label": int(label["binary-label"]), "score": float(label["label"])}


def _sentiment(row: dict) -> dict:
    return {"id": row["id"], "document": row["document"], "label": row["label"]}


def _reading(row: dict) -> dict:
    return {"id": row["guid"], "context": row["context"], "question": row["question"], "answers": row["answers"]["text"]}


_MAKE = {"nli": _nli, "topics": _topics, "boolq": _boolq, "sts": _sts, "sentiment": _sentiment, "reading": _reading}
_GENERATE = {"nli": benchmarks.nli, "topics": benchmarks.topics, "boolq": benchmarks.boolq, "sts": benchmarks.sts,
             "reading": benchmarks.reading}


def _answerable(rows: Iterable[dict]) -> Iterator[dict]:
    return (row for row in rows if not row.get("is_impossible"))


# --- loading ----------------------------------------------------------------------------------------------------------


def load_task(name: str, data: Path | None = None, test: int = 300, train: int = 600, seed: int = 0) -> Task:
    """The task with at most `test` rows to ask and `train` rows to learn from; of a data folder, or bundled (None).

    Where the folder has no file of a set, the bundled one takes its place (`source` of its rows says so). Raises WorkshopError for an
    unknown name, and with file and line for the first row of a file that cannot be used.
    """
    if name not in TASKS:
        raise WorkshopError(f"'{name}'이라는 과제는 없다. {', '.join(TASKS)} 가운데 하나를 쓴다.")
    if test < 1 or train < 0:
        raise WorkshopError(f"시험 문항은 1개, 학습 문항은 0개 이상이어야 한다. 받은 값: {test}개와 {train}개")
    if name == "sentiment":
        learn, ask = sentiment(data, train, test, seed)  # week 6's rows: none of the test is in the task model's training
        ask, learn = ([{"source": "영화평"} | _sentiment(row) for row in part] for part in (ask, learn))
        return replace(TASKS[name], test=tuple(ask), train=tuple(learn))
    found = _public(name, Path(data)) if data is not None else None
    test_rows, train_rows = found or _bundled(name, test, train, seed)
    seen = {text for text in TASKS[name].texts(test_rows)}  # a test row is never a training row, whatever the files say
    train_rows = [row for row, text in zip(train_rows, TASKS[name].texts(train_rows)) if text not in seen]
    return replace(TASKS[name], test=tuple(test_rows[:test]), train=tuple(train_rows[:train]))


def _bundled(name: str, test: int, train: int, seed: int) -> tuple[list[dict], list[dict]]:
    make, generate = _MAKE[name], _GENERATE[name]
    by_hand = [make(row) | {"source": "손으로 쓴 문항"} for row in _answerable(load(name))]
    by_hand = by_hand[: test // 2]
    need = test - len(by_hand)
    made = [make(row) | {"source": "생성한 문항"} for row in _answerable(generate(2 * need, seed, "validation"))][:need]
    spare = 2 if name == "reading" else 1  # a third of its questions have no answer in the text
    learn = [make(row) | {"source": "생성한 문항"} for row in _answerable(generate(spare * train, seed, "train"))]
    return by_hand + made, learn


_READ = {  # name: reader, folder and the beginning of the files' names
    "nli": (public.klue_nli, "klue/klue-nli-v1.1_"), "topics": (public.ynat, "klue/ynat*"), "sts": (public.klue_sts, "klue/klue-sts-v1.1_"),
    "boolq": (public.boolq, "kobest/BoolQ_"),
}


def _public(name: str, data: Path) -> tuple[list[dict], list[dict]] | None:
    """(test rows, train rows) of the public set in random but fixed order, or None where the folder has no such set."""
    public.check_folder(data)
    if name not in _READ:
        return None
    there = {split: any(data.glob(f"{_READ[name][1]}{split}*")) for split in ("dev", "train")}
    if all(there.values()):
        return _rows(name, data, "dev"), _rows(name, data, "train")
    for split in there:
        if there[split]:
            return _divided(name, _rows(name, data, split))
    return None


def _rows(name: str, data: Path, split: str) -> list[dict]:
    """All rows of a public file, shuffled (the files are often sorted by kind). Raises WorkshopError at the first bad row."""
    read, start = _READ[name]
    loaded = read(data, split)
    if loaded.skipped:
        raise WorkshopError(f"{loaded.skipped[0]}. 채점 자료는 한 행도 버리지 않는다. 그 줄을 고치거나 파일을 다시 내려받는다.")
    path = next(iter(sorted(data.glob(f"{start}{split}*"))))
    if not loaded.rows:
        raise WorkshopError(f"{path}: 행이 하나도 없다. 파일을 다시 내려받는다.")
    rows = []
    for number, row in enumerate(loaded.rows, start=1):
        made = {"source": TASKS[name].title} | _MAKE[name](row)
        for field in TASKS[name].fields:
            if not isinstance(made[field], str) or not made[field].strip(INVISIBLE):
                raise WorkshopError(f"{path} {number}번째 문항: '{field}' 글이 비었다. 그 문항을 고치거나 지운다.")
        rows.append(made)
    Random(f"{name}/{split}").shuffle(rows)
    return rows


def _divided(name: str, rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """A set of one file: half of it, by the hash of the text, for the test."""
    parts: tuple[list, list] = ([], [])
    for row, text in zip(rows, TASKS[name].texts(rows)):
        parts[zlib.crc32(text.encode("utf-8", "surrogatepass")) % 2].append(row)
    return parts


def read_items(path: Path | str, task: str) -> list[dict]:
    """A student's own items for a task from a JSON-lines file: the task's fields as texts, and `label` (a name or a number).

    Raises WorkshopError naming file and line for a missing field, an empty text, an unknown field or a wrong label.
    """
    spec = TASKS.get(task)
    if spec is None or not spec.labels:
        known = ", ".join(name for name, each in TASKS.items() if each.labels)
        raise WorkshopError(f"'{task}'은(는) 라벨이 있는 과제가 아니다. {known} 가운데 하나를 쓴다.")
    found = []
    for number, row in read_json_lines(path):
        where = f"{path} {number}번째 줄"
        if unknown := row.keys() - {*spec.fields, "label", "id", "source", "score"}:
            raise WorkshopError(f"{where}: 모르는 열 {', '.join(sorted(unknown))}이(가) 있다. 열은 {', '.join(spec.fields)}, label이다.")
        for name in spec.fields:
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise WorkshopError(f"{where}: '{name}' 글이 없거나 비어 있다.")
        found.append({"id": f"{Path(path).stem}-{number}", "source": Path(path).stem} | row | {"label": _label(row, spec, where)})
    if not found:
        raise WorkshopError(f"{path}: 문항이 하나도 없다.")
    return found


def _label(row: dict, task: Task, where: str) -> int:
    label = row.get("label")
    if label in task.labels:
        return task.labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(task.labels):
        return label
    last = len(task.labels) - 1
    raise WorkshopError(f"{where}: 라벨 {label!r}을(를) 모른다. {', '.join(task.labels)} 또는 0에서 {last} 사이의 수를 쓴다.")


def majority(task: Task, rows: Sequence[dict] | None = None) -> int:
    """The label that is most frequent among the training rows (the test rows where there are none): the laziest answer."""
    rows = rows or task.train or task.test
    counts = [sum(row["label"] == label for row in rows) for label in range(len(task.labels))]
    return counts.index(max(counts))
