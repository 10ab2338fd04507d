"""The public Korean data sets in their original formats, and pretraining text from any folder (``--data DIR``).

    DIR/nsmc/ratings_{train,test}.txt       film reviews, CC0                        nsmc(DIR, "train")
    DIR/klue/klue-nli-v1.1_{train,dev}*.json, klue-sts-v1.1_*.json, ynat*.{csv,json}  klue_nli, klue_sts, ynat
    DIR/kobest/BoolQ_*.tsv                  yes/no questions                         boolq
    DIR/chatbot/ChatbotData.csv             question and answer pairs                chatbot
    DIR/kornli/*.tsv, DIR/korsts/*.tsv      translated NLI and STS                   kornli, korsts
    DIR/preference/square_*.json            accepted and refused answers             square
    DIR/prose/*.jsonl ({"text", "source"}), and any other .txt, .jsonl, .parquet     documents

A loader returns ``Loaded``: the rows, how many were read, and a ``Skip`` with file, line and reason for each row that
was not kept. Text is handed on as written, spacing and odd characters included: cleaning is week 2's work. (``ᆢ``,
U+11A2, stands for dots and is no sign of NFD; U+3164 before jamo spells a syllable that old keyboards could not type.)
The one repair is NSMC's quotes, which an export wrote doubled twice over.

Document ids are made from the text, so the same text has the same id in every file and every run, and the 5 % that
``validation_documents`` holds back can never also stand in ``documents`` under another number.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.corpora.hub import download
from workshop_lib.corpora.reading import (
    INVISIBLE,
    Loaded,
    Skip,
    check_file,
    read_json_array,
    read_json_lines,
    read_lines,
    read_parquet,
    read_table,
)

__all__ = ["benchmark_texts", "boolq", "chatbot", "check", "documents", "download", "held_back", "klue_nli", "klue_sts", "kornli",
           "korsts", "nsmc", "square", "square_pairs", "validation_documents", "ynat"]

HELD_BACK_PERCENT = 5
TOPICS = ("IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치")  # YNAT's order of topic_idx
NLI_LABELS = ("entailment", "neutral", "contradiction")
# Folders with a data set of their own; what lies elsewhere is pretraining text.
_SETS = ("nsmc", "klue", "kobest", "chatbot", "kornli", "korsts", "preference", "dialogue")
_CHUNK = 20_000  # characters: a longer .txt file becomes several documents, cut at blank lines
_SECOND_CHUNK = 40_000  # or, where no blank line comes, at the next line end after this many


# --- the sets --------------------------------------------------------------------------------------------------


def nsmc(data_dir: Path | str, split: str) -> Loaded:
    """Naver film reviews, ``split`` "train" or "test": rows {"id", "document", "label"} with label 0 or 1.

    Empty reviews are reported; exact duplicates stay, and are counted in ``notes`` with the texts whose labels disagree.
    """
    path = _one(data_dir, f"nsmc/ratings_{split}.txt")
    skipped: list[Skip] = []
    rows, requoted, labels = [], 0, {}
    for number, row in read_table(path, ("id", "document", "label"), skipped):
        if reason := _nsmc_defect(row):
            skipped.append(Skip(path, number, reason))
            continue
        document = undouble_quotes(row["document"])
        requoted += document != row["document"]
        labels.setdefault(document, set()).add(row["label"])
        rows.append({"id": row["id"], "document": document, "label": int(row["label"])})
    notes = {"되풀이된 글": len(rows) - len(labels), "라벨이 엇갈린 글": sum(len(seen) > 1 for seen in labels.values()),
             "따옴표를 고친 글": requoted}
    return _loaded(rows, skipped, notes)


def _nsmc_defect(row: dict[str, str]) -> str | None:
    if not row["document"].strip(INVISIBLE):
        return "빈 리뷰이다"
    return None if row["label"] in ("0", "1") else f"라벨이 0이나 1이 아니라 '{row['label']}'이다"


def undouble_quotes(text: str) -> str:
    """Undo CSV quoting, as often as it was applied: NSMC has 623 reviews quoted twice (``\"""좋다 \"\"""진짜\"\"""\"""``).

    A review that merely begins and ends with a quote is left alone: its inner quotes are not doubled.
    """
    while len(text) >= 4 and text[0] == text[-1] == '"' and '"' in (inner := text[1:-1]) and _all_doubled(inner):
        text = inner.replace('""', '"')
    return text


def _all_doubled(text: str) -> bool:
    return all(len(run) % 2 == 0 for run in re.findall('"+', text))


def klue_nli(data_dir: Path | str, split: str) -> Loaded:
    """KLUE-NLI, ``split`` "train" or "dev": rows {"guid", "source", "premise", "hypothesis", "gold_label"}.

    The origin of a premise is called ``genre`` in the train file and ``source`` in the dev file; here always ``source``.
    """
    path = _one(data_dir, f"klue/klue-nli-v1.1_{split}*.json")

    def convert(item: dict) -> dict:
        if item["gold_label"] not in NLI_LABELS:
            raise ValueError(f"gold_label이 '{item['gold_label']}'이다")
        source = item["genre"] if "genre" in item else item["source"]
        return {"guid": item["guid"], "source": source} | {key: item[key] for key in ("premise", "hypothesis", "gold_label")}

    return _from_array(path, convert)


def klue_sts(data_dir: Path | str, split: str) -> Loaded:
    """KLUE-STS: rows {"guid", "source", "sentence1", "sentence2", "labels", "scores"}.

    ``labels`` holds ``label`` (0-5), ``real-label``, ``binary-label``; ``scores`` each annotator's, empty where not given.
    """
    path = _one(data_dir, f"klue/klue-sts-v1.1_{split}*.json")

    def convert(item: dict) -> dict:
        if not 0 <= item["labels"]["label"] <= 5:
            raise ValueError(f"label이 0에서 5 사이가 아니라 {item['labels']['label']}이다")
        row = {key: item[key] for key in ("guid", "source", "sentence1", "sentence2", "labels")}
        return row | {"scores": item.get("annotations", {}).get("annotations", [])}

    return _from_array(path, convert)


def ynat(data_dir: Path | str, split: str = "train") -> Loaded:
    """News topics: rows {"guid", "title", "label"} with the topic's name, from KLUE's JSON or DACON's CSV packaging."""
    path = _one(data_dir, f"klue/ynat*{split}*.json", f"klue/ynat*{split}*.csv")
    if path.suffix == ".json":
        return _from_array(path, lambda item: {"guid": item["guid"], "title": item["title"], "label": _topic(item["label"])})
    skipped: list[Skip] = []
    rows = []
    for number, row in read_table(path, ("index", "title", "topic_idx"), skipped, separator=","):
        try:
            rows.append({"guid": f"ynat-{row['index']}", "title": row["title"], "label": _topic(row["topic_idx"])})
        except ValueError as error:
            skipped.append(Skip(path, number, str(error)))
    return _loaded(rows, skipped)


def _topic(label: str) -> str:
    if label in TOPICS:
        return label
    if label.isdecimal() and int(label) < len(TOPICS):
        return TOPICS[int(label)]
    raise ValueError(f"주제가 '{label}'이다(0에서 6 사이이거나 주제 이름이어야 한다)")


def boolq(data_dir: Path | str, split: str) -> Loaded:
    """KoBEST BoolQ: rows {"id", "paragraph", "question", "label"} with label 0 (no) or 1 (yes)."""
    path = _one(data_dir, f"kobest/BoolQ_{split}.tsv")

    def convert(row: dict) -> dict:
        answer = row["Answer"].strip().lower()
        if answer not in ("true", "false", "1", "0"):
            raise ValueError(f"답이 True나 False가 아니라 '{row['Answer']}'이다")
        return {"id": row["ID"], "paragraph": row["Text"], "question": row["Question"], "label": int(answer in ("true", "1"))}

    return _from_table(path, ("ID", "Text", "Question", "Answer"), convert)


def chatbot(data_dir: Path | str) -> Loaded:
    """Question and answer pairs: rows {"question", "answer", "label"}; 0 daily life, 1 parting, 2 love."""
    path = _one(data_dir, "chatbot/ChatbotData.csv")

    def convert(row: dict) -> dict:
        label = row["label"].strip()  # one of them is "2   "
        if not label.isdecimal():
            raise ValueError(f"라벨이 수가 아니라 '{label}'이다")
        return {"question": row["Q"], "answer": row["A"], "label": int(label)}

    loaded = _from_table(path, ("Q", "A", "label"), convert, separator=",")
    pairs = {(row["question"], row["answer"]) for row in loaded.rows}
    loaded.notes["되풀이된 짝"] = len(loaded.rows) - len(pairs)
    return loaded


def kornli(path: Path | str) -> Loaded:
    """A KorNLI file: rows {"premise", "hypothesis", "gold_label"}. Default csv quoting would swallow rows here."""

    def convert(row: dict) -> dict:
        if row["gold_label"] not in NLI_LABELS:
            raise ValueError(f"gold_label이 '{row['gold_label']}'이다")
        return {"premise": row["sentence1"], "hypothesis": row["sentence2"], "gold_label": row["gold_label"]}

    return _from_table(check_file(path), ("sentence1", "sentence2", "gold_label"), convert)


def korsts(path: Path | str) -> Loaded:
    """A KorSTS file: rows {"sentence1", "sentence2", "score"} with score 0-5."""
    return _from_table(check_file(path), ("score", "sentence1", "sentence2"), lambda row: {
        "sentence1": row["sentence1"], "sentence2": row["sentence2"], "score": float(row["score"])})


def square(data_dir: Path | str) -> Loaded:
    """SQuARe answers: rows {"question", "response", "acceptable", "category"}; ``square_pairs`` pairs them up."""
    return _from_array(_one(data_dir, "preference/square_*.json"), lambda item: {
        "question": item["question"], "response": item["response"], "acceptable": bool(item["acceptable?"]),
        "category": item["question_category"]})


def square_pairs(rows: list[dict]) -> list[dict]:
    """Return {"prompt", "chosen", "rejected"} for every acceptable and unacceptable answer to the same question."""
    answers: dict[str, tuple[list, list]] = {}
    for row in rows:
        answers.setdefault(row["question"], ([], []))[row["acceptable"]].append(row["response"])
    return [{"prompt": question, "chosen": good, "rejected": bad}
            for question, (refused, accepted) in answers.items() for good in accepted for bad in refused]


# --- pretraining text ----------------------------------------------------------------------------------------------


def documents(data_dir: Path | str, skipped: list[Skip] | None = None) -> Iterator[dict]:
    """Yield the pretraining documents {"id", "text", "source"} of a folder, a file at a time, in order of file name.

    Prose, NSMC's train reviews, and every .txt, .jsonl and .parquet file outside the folders of the known sets; without
    the part that ``validation_documents`` holds back. Rows that cannot be used go to ``skipped``; without a list they
    are counted in one warning.

    Raises:
        WorkshopError: no such folder, or nothing in it to read.
    """
    yield from _told(skipped, lambda sink: chain(
        (row for row in _prose(data_dir, sink) if not held_back(row["id"])), _nsmc_documents(data_dir, "train", sink)))


def validation_documents(data_dir: Path | str, skipped: list[Skip] | None = None) -> Iterator[dict]:
    """Yield the documents kept for validation: the held-back part of the prose and NSMC's test reviews."""
    yield from _told(skipped, lambda sink: chain(
        (row for row in _prose(data_dir, sink) if held_back(row["id"])), _nsmc_documents(data_dir, "test", sink)))


def held_back(document_id: str) -> bool:
    """Tell whether a document belongs to validation: a stable 5 % by the hash of its id (which is a hash of its text)."""
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=4, person=b"held-back").digest()) % 100 < HELD_BACK_PERCENT


def benchmark_texts(data_dir: Path | str, skipped: list[Skip] | None = None) -> Iterator[dict]:
    """Yield {"id", "text", "source"} of every benchmark in the folder, to keep it out of the training text.

    NSMC's test reviews, KLUE's dev sentences (NLI, STS, YNAT's JSON) and KoBEST's paragraphs and questions.
    """
    data_dir = check_folder(data_dir)
    sink = [] if skipped is None else skipped

    def parts() -> Iterator[tuple[str, Loaded, tuple[str, ...]]]:
        if _find(data_dir, "nsmc/ratings_test.txt"):
            yield "nsmc", nsmc(data_dir, "test"), ("document",)
        if _find(data_dir, "klue/klue-nli-v1.1_dev*.json"):
            yield "klue-nli", klue_nli(data_dir, "dev"), ("premise", "hypothesis")
        if _find(data_dir, "klue/klue-sts-v1.1_dev*.json"):
            yield "klue-sts", klue_sts(data_dir, "dev"), ("sentence1", "sentence2")
        if _find(data_dir, "klue/ynat*dev*.json", "klue/ynat*dev*.csv"):
            yield "ynat", ynat(data_dir, "dev"), ("title",)
        for path in _find(data_dir, "kobest/BoolQ_*.tsv"):
            split = path.stem.removeprefix("BoolQ_")
            if split != "train":
                yield "kobest-boolq", boolq(data_dir, split), ("paragraph", "question")

    for source, loaded, fields in parts():
        sink.extend(loaded.skipped)
        texts = dict.fromkeys(row[name] for row in loaded.rows for name in fields)  # each text once, in order
        yield from (_document(text, source) for text in texts)


def _prose(data_dir: Path | str, skipped: list[Skip]) -> Iterator[dict]:
    """Yield the documents of all files outside the known sets, held back or not."""
    data_dir = check_folder(data_dir)
    paths = pretraining_files(data_dir)
    if not paths and not _find(data_dir, "nsmc/ratings_train.txt"):
        raise WorkshopError(f"{data_dir}: 사전학습에 쓸 글이 없다. "
                            "prose/*.jsonl, nsmc/ratings_train.txt, 또는 .txt, .jsonl, .parquet 파일을 둔다.")
    for path in paths:
        yield from _READERS[path.suffix](path, skipped)


def pretraining_files(data_dir: Path) -> list[Path]:
    """Return the .txt, .jsonl and .parquet files outside the known sets' folders and hidden ones, sorted by path."""
    def refuse(error: OSError) -> None:  # pathlib would pass over a folder that it may not enter
        raise WorkshopError(f"{error.filename}: 폴더를 열 수 없다({error.strerror}). 읽기 권한을 확인한다.")

    paths = (Path(root, name) for root, _, names in os.walk(data_dir, onerror=refuse) for name in names)
    return sorted(path for path in paths
                  if path.suffix in (".txt", ".jsonl", ".parquet") and path.is_file()
                  and path.relative_to(data_dir).parts[0] not in _SETS
                  and not any(part.startswith(".") for part in path.relative_to(data_dir).parts))


def _text_documents(path: Path, skipped: list[Skip]) -> Iterator[dict]:
    lines: list[str] = []
    size = 0
    for _, line in read_lines(path, skipped):
        if lines and ((size > _CHUNK and not line.strip()) or size > _SECOND_CHUNK):
            yield _document("\n".join(lines).strip(), path.stem)
            lines, size = [], 0
        if lines or line.strip():
            lines.append(line)
            size += len(line) + 1
    if lines:
        yield _document("\n".join(lines).strip(), path.stem)


def _jsonl_documents(path: Path, skipped: list[Skip]) -> Iterator[dict]:
    for number, row in read_json_lines(path, skipped):
        text = row.get("text")
        if not isinstance(text, str):
            skipped.append(Skip(path, number, "'text' 글이 없다"))
        elif not text.strip(INVISIBLE):
            skipped.append(Skip(path, number, "빈 글이다"))
        else:
            yield _document(text, str(row.get("source") or path.stem))


def _parquet_documents(path: Path, skipped: list[Skip]) -> Iterator[dict]:
    for number, text in read_parquet(path):
        if isinstance(text, str) and text.strip(INVISIBLE):
            yield _document(text, path.stem)
        else:
            skipped.append(Skip(path, number, "빈 글이다"))


_READERS = {".txt": _text_documents, ".jsonl": _jsonl_documents, ".parquet": _parquet_documents}


def _nsmc_documents(data_dir: Path | str, split: str, skipped: list[Skip]) -> Iterator[dict]:
    if _find(Path(data_dir), f"nsmc/ratings_{split}.txt"):
        loaded = nsmc(data_dir, split)
        skipped.extend(loaded.skipped)
        yield from (_document(row["document"], "nsmc") for row in loaded.rows)


def _document(text: str, source: str) -> dict:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return {"id": digest, "text": text, "source": source.encode("utf-8", "replace").decode()}  # a file's name may be no text


def _told(skipped: list[Skip] | None, make: Callable[[list[Skip]], Iterator[dict]]) -> Iterator[dict]:
    """Run ``make`` with the caller's list of skips, or with one of our own that ends in a warning."""
    sink: list[Skip] = [] if skipped is None else skipped
    yield from make(sink)
    if skipped is None and sink:
        warnings.warn(f"쓸 수 없는 행 {len(sink):,}개를 건너뛰었다. 첫째는 {sink[0]}", stacklevel=3)


def check(data_dir: Path | str) -> bool:
    """Read every set in the folder, print its account in Korean, and return whether there was something and all was read.

    A set that cannot be read at all is told and passed over; a run on this folder would stop there.
    """
    data_dir = check_folder(data_dir)
    known: list[tuple[str, Callable[[], Loaded]]] = [
        *((f"nsmc/ratings_{split}.txt", lambda split=split: nsmc(data_dir, split)) for split in ("train", "test")),
        *((f"klue/klue-nli-v1.1_{split}*.json", lambda split=split: klue_nli(data_dir, split)) for split in ("train", "dev")),
        *((f"klue/klue-sts-v1.1_{split}*.json", lambda split=split: klue_sts(data_dir, split)) for split in ("train", "dev")),
        *((f"klue/ynat*{split}*.{kind}", lambda split=split: ynat(data_dir, split))
          for split in ("train", "dev") for kind in ("json", "csv")),
        *((f"kobest/BoolQ_{split}.tsv", lambda split=split: boolq(data_dir, split)) for split in ("train", "dev", "test")),
        ("chatbot/ChatbotData.csv", lambda: chatbot(data_dir)),
        *((str(path.relative_to(data_dir)), lambda path=path: kornli(path)) for path in _find(data_dir, "kornli/*.tsv")),
        *((str(path.relative_to(data_dir)), lambda path=path: korsts(path)) for path in _find(data_dir, "korsts/*.tsv")),
        ("preference/square_*.json", lambda: square(data_dir)),
    ]
    told = [_tell(found[0].relative_to(data_dir), load) for pattern, load in known if (found := _find(data_dir, pattern))]
    told += [_tell(path.relative_to(data_dir), lambda path=path: _count(path)) for path in pretraining_files(data_dir)]
    if not told:
        print(f"⬜ {data_dir}: 읽을 자료가 없다")
    return bool(told) and all(told)


def _tell(name: Path, load: Callable[[], Loaded]) -> bool:
    try:
        loaded = load()
    except WorkshopError as error:
        print(f"❌ {name}: {error}")
        return False
    print(f"{'✅' if loaded.rows else '❌'} {name}: {loaded.summary()}")
    for skip in loaded.skipped[:3]:
        print(f"   {skip}")
    return bool(loaded.rows)


def _count(path: Path) -> Loaded:
    """The account of a file of pretraining text, however large: its rows are counted, not kept."""
    skipped: list[Skip] = []
    rows = [{}] * sum(1 for _ in _READERS[path.suffix](path, skipped))
    return _loaded(rows, skipped)


# --- finding files, keeping accounts ------------------------------------------------------------------------------------


def check_folder(data_dir: Path | str) -> Path:
    """Return the folder as a path; raises WorkshopError where there is none."""
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise WorkshopError(f"{data_dir}: 폴더가 없다. --data에 자료 폴더를 지정하거나 workshop data get으로 내려받는다.")
    return data_dir


def _find(data_dir: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(data_dir.glob(pattern))]


def _one(data_dir: Path | str, *patterns: str) -> Path:
    data_dir = check_folder(data_dir)
    if not (found := _find(data_dir, *patterns)):
        raise WorkshopError(f"{data_dir}: {' 또는 '.join(patterns)} 파일이 없다. workshop data get으로 내려받거나 경로를 확인한다.")
    return check_file(found[0])


def _loaded(rows: list[dict], skipped: list[Skip], notes: dict[str, int] | None = None) -> Loaded:
    return Loaded(rows, len(rows) + len(skipped), skipped, notes or {})


def _from_table(path: Path, columns: tuple[str, ...], convert: Callable[[dict], dict], separator: str = "\t") -> Loaded:
    skipped: list[Skip] = []
    rows = []
    for number, row in read_table(path, columns, skipped, separator):
        try:
            rows.append(convert(row))
        except ValueError as error:
            skipped.append(Skip(path, number, str(error)))
    return _loaded(rows, skipped)


def _from_array(path: Path, convert: Callable[[dict], dict]) -> Loaded:
    """Convert the items of a JSON array; an item is counted from 1 in the place of a line."""
    skipped: list[Skip] = []
    rows = []
    for number, item in enumerate(read_json_array(path), start=1):
        try:
            rows.append(convert(item))
        except KeyError as error:
            skipped.append(Skip(path, number, f"{number}번째 항목에 {error} 열쇠가 없다"))
        except (ValueError, TypeError, AttributeError) as error:
            skipped.append(Skip(path, number, f"{number}번째 항목을 읽을 수 없다({error})"))
    return _loaded(rows, skipped)
