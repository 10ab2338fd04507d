"""The steps in order, over any number of documents, on all cores.

Notable choices:
- one plain function a document (`clean_document`), one a chunk (`clean_chunk`); only these travel to the worker
  processes, so the same functions run in a notebook, under HF `datasets.map` or as NeMo Curator modifiers;
- results come back in order, so one process and many write the same bytes;
- what needs the whole corpus (duplicates, validation, mixture) happens once, in the parent, on 64-bit keys and
  MinHash signatures; the texts wait in a file.
"""

import contextlib
import json
import multiprocessing
import os
import pickle
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError, display
from workshop_lib.cleaning import decoding, extraction, lines, near_duplicates, privacy, quality

SAMPLE_CHARS = 160


@dataclass
class Cleaned:
    """A document after the per-document steps. `reason` is None for a keeper; `changes` names what was repaired."""

    text: str
    reason: str | None
    changes: set[str]
    detail: str = ""


def page_text(document: Mapping, changes: set[str]) -> str:
    """The document as text, decoded and undone of mojibake; adds to `changes` what was found."""
    page = document.get("text")
    if page is None:
        declared = decoding.declared_charset(document["raw"])
        decoded = decoding.decode(document["raw"], declared)
        if decoded.encoding != (declared or "utf-8") and "cp949" in (decoded.encoding, declared):
            changes.add("wrong_charset")
        page = decoded.text
    text = decoding.undo_mojibake(page)
    if text != page:
        changes.add("mojibake")
    return text


def clean_document(document: Mapping, line_model: lines.LineModel | None = None) -> Cleaned:
    """Decode, repair, extract, normalise, mask and judge one document.

    A document with `raw` (bytes) is a crawled page and judged by the WEB rules; one with `text` by the PLAIN rules.
    """
    web = "raw" in document
    changes: set[str] = set()
    page = page_text(document, changes)
    changes |= decoding.spelling_defects(extraction.unescape(page))
    extracted = extraction.extract(page, web, line_model)
    text = extracted.text
    changes |= {"html"} if extracted.was_html else set()
    changes |= {"boilerplate"} if extracted.dropped else set()
    unmashed = decoding.drop_mash(text)
    if unmashed != text or any(decoding.drop_mash(line) != line for line in extracted.dropped):
        changes.add("jamo")
    text = unmashed
    shortened = decoding.shorten_runs(text)
    if shortened != text:
        changes.add("laughter")
    text, findings = privacy.mask_pii(shortened)
    if findings or any(privacy.find_pii(line) for line in extracted.dropped):
        changes.add("pii")
    rules = quality.WEB if web else quality.PLAIN
    return Cleaned(text, quality.rejection_reason(text, rules, decoding.damaged_share(text)), changes)


@dataclass(frozen=True)
class Tools:
    """What the workers need beside the documents: classifiers, benchmark n-grams, hash functions."""

    line_model: lines.LineModel | None
    model: quality.QualityModel | None
    benchmark: frozenset[str]
    benchmark_size: int
    hashing: tuple[np.ndarray, np.ndarray]


@dataclass
class Chunk:
    """Results for a chunk of documents, in order; `signatures` has a row for each keeper, `keys` likewise."""

    rows: list[tuple[str, str, Cleaned]] = field(default_factory=list)      # (id, source, result)
    keys: list[int] = field(default_factory=list)
    signatures: np.ndarray | None = None


def clean_chunk(documents: list[Mapping], tools: Tools) -> Chunk:
    """All per-document steps, then the vectorised ones (classifier, MinHash) on the whole chunk at once."""
    results = clean_documents(documents, tools.line_model)
    judge_pages([result for result, document in zip(results, documents) if "raw" in document], tools.model)
    keep_benchmarks_out(results, tools.benchmark, tools.benchmark_size)
    chunk = Chunk([(document["id"], document["source"], result) for document, result in zip(documents, results)])
    chunk.keys, chunk.signatures = fingerprints(results, tools.hashing)
    shorten_rejected(results)
    return chunk


def clean_documents(documents: Iterable[Mapping], line_model: lines.LineModel | None = None) -> list[Cleaned]:
    """`clean_document` for each. Raises WorkshopError naming the document that it failed on."""
    results = []
    for document in documents:
        try:
            results.append(clean_document(document, line_model))
        except Exception as error:
            raise WorkshopError(f"문서 {document.get('id')}을(를) 정제하다 실패했다: {type(error).__name__}: {error}") from error
    return results


def judge_pages(pages: Iterable[Cleaned], model: quality.QualityModel | None) -> None:
    """Give those of the web pages that the classifier finds bad their reason. What it knows of bad texts it knows from web
    pages, so it judges web pages only."""
    waiting = [page for page in pages if page.reason is None]
    if model and waiting:
        for page, p in zip(waiting, model.probability([page.text for page in waiting])):
            if p < model.threshold:
                page.reason, page.detail = "low_quality", f"품질 확률 {p:.2f}"


def keep_benchmarks_out(results: Iterable[Cleaned], benchmark: frozenset[str], size: int) -> None:
    """Give those that share `size` words in a row with an evaluation item their reason."""
    for result in results:
        if result.reason is None and (gram := near_duplicates.contaminated(result.text, benchmark, size)):
            result.reason, result.detail = "benchmark", gram


def fingerprints(results: Iterable[Cleaned], hashing: tuple[np.ndarray, np.ndarray]) -> tuple[list[int], np.ndarray]:
    """Content keys and MinHash signatures (kept, hashes) uint32 of the results that are still kept."""
    texts = [result.text for result in results if result.reason is None]
    return [near_duplicates.content_key(text) for text in texts], near_duplicates.minhash(texts, *hashing)


def shorten_rejected(results: Iterable[Cleaned]) -> None:
    """Rejected text travels back only as a sample."""
    for result in results:
        if result.reason is not None:
            result.text = result.text[:SAMPLE_CHARS]


# --- many processes -----------------------------------------------------------------------------------------

_tools: Tools | None = None


def _start_worker(path: str) -> None:
    global _tools
    _tools = pickle.loads(Path(path).read_bytes())        # written by the parent a moment ago
    signal.signal(signal.SIGINT, signal.SIG_IGN)          # Ctrl-C is the parent's; workers end with it
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()                                     # a killed parent cannot say goodbye
        Path(path).unlink(missing_ok=True)                # nor clear away its file
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _work(documents: list[Mapping]) -> Chunk:
    return clean_chunk(documents, _tools)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clean_chunks(documents: Iterable[Mapping], tools: Tools, processes: int | None = None, size: int = 256) -> Iterator[Chunk]:
    """Chunks of results in input order. At most 2·processes + 1 chunks are held, so any stream will do.

    An error in a worker, or Ctrl-C, ends all workers before it is raised here. One process runs in place.
    """
    processes = processes or available_cores()
    stream = iter(documents)
    chunks = iter(lambda: list(islice(stream, size)), [])
    first = list(islice(chunks, 3))
    if processes == 1 or len(first) < 3:                  # starting processes would take longer than the work
        for part in chain(first, chunks):
            yield clean_chunk(part, tools)
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A script without the guard is run anew by every worker; starting workers from there would never end.
        raise WorkshopError("작업 프로세스를 띄우는 스크립트에는 if __name__ == \"__main__\": 이 있어야 한다. 또는 processes=1을 준다.")
    # The tools go through a file: as arguments of the start they would fill the pipe to the child, and a child that
    # dies before reading them (a script without the guard, no memory) would leave the parent writing for ever.
    handle, path = tempfile.mkstemp(prefix="workshop-tools-")
    with open(handle, "wb") as file:
        pickle.dump(tools, file)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker, (path,))
    waiting: deque = deque()
    finished = False
    try:
        for part in chain(first, chunks):
            waiting.append(pool.submit(_work, part))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise WorkshopError("정제하던 작업 프로세스가 갑자기 끝났다. 메모리가 모자라지 않았는지, 스크립트라면 "
                            "if __name__ == \"__main__\": 안에서 불렀는지 확인한다.") from error
    finally:
        if not finished:
            for worker in list((pool._processes or {}).values()):
                worker.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        Path(path).unlink(missing_ok=True)


Engine = Callable[[Iterable[Mapping], Tools, int | None], Iterator[Chunk]]     # documents, tools, processes -> chunks in order


# --- the whole corpus ---------------------------------------------------------------------------------------


@dataclass
class Report:
    """What happened: counts by reason, characters and documents by source, and what was seen on each labelled page."""

    docs_in: int = 0
    removed: Counter = field(default_factory=Counter)
    changes: Counter = field(default_factory=Counter)
    sources: dict[str, list[int]] = field(default_factory=dict)     # source -> [documents in, documents, characters]
    seen: dict[str, set[str]] = field(default_factory=dict)         # id -> defects found (labelled documents only)
    skipped: list[str] = field(default_factory=list)                # rows that could not be read (real data)
    validation_docs: int = 0
    validation_chars: int = 0
    validation_removed: int = 0
    seconds: float = 0.0

    @property
    def docs_out(self) -> int:
        """Documents kept, of all sources."""
        return sum(documents for _, documents, _ in self.sources.values())

    @property
    def chars_out(self) -> int:
        """Characters kept, of all sources."""
        return sum(chars for _, _, chars in self.sources.values())


class _Rejected:
    """Writes rejected.jsonl, at most `limit` samples a reason."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file, self._limit, self._written = path.open("w", encoding="utf-8"), limit, Counter()

    def add(self, identity: str, source: str, reason: str, detail: str, sample: str) -> None:
        self._written[reason] += 1
        if self._written[reason] <= self._limit:
            row = {"id": identity, "source": source, "reason": reason, "detail": detail, "sample": sample[:SAMPLE_CHARS]}
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


def clean_corpus(documents: Iterable[Mapping], validation: Iterable[Mapping], out: Path, tools: Tools, *, bands: int,
                 rows: int, threshold: float, max_share: float = 1.0, samples: int = 200, seed: int = 0,
                 processes: int | None = None, engine: Engine = clean_chunks) -> Report:
    """Clean `documents` into out/train.jsonl and `validation` into out/validation.jsonl; out/rejected.jsonl has samples.

    Nothing of validation stays in train, neither exactly nor nearly. Train is shuffled, validation keeps its order.
    Documents carrying `defects` are labelled; what was found on them comes back in `Report.seen`.
    `engine` runs the per-document steps: `clean_chunks` here, another one on a cluster (`nvidia.curator`).
    """
    start = time.perf_counter()
    report = Report()
    with contextlib.ExitStack() as stack:
        rejected = _Rejected(out / "rejected.jsonl", samples)
        stack.callback(rejected.close)
        kept_path = out / "kept.tmp.jsonl"
        kept = stack.enter_context(kept_path.open("w+b"))
        signatures: list[np.ndarray] = []
        table: list[tuple[str, str, int, int]] = []        # (id, source, characters, offset) of a keeper
        seen_keys: dict[int, tuple[int, str]] = {}         # content key -> (number in table or -1, id)
        # Validation may well be a benchmark (NSMC's test reviews): it is kept out of train, not out of itself.
        for_validation = replace(tools, benchmark=frozenset())
        validation_file = stack.enter_context((out / "validation.jsonl").open("w", encoding="utf-8"))

        for identity, source, result, key, signature in _results(validation, for_validation, processes, engine):
            if result.reason is None and key not in seen_keys:
                seen_keys[key] = (-1, identity)
                signatures.append(signature)
                validation_file.write(_line(identity, source, result.text))
                report.validation_docs += 1
                report.validation_chars += len(result.text)
            else:
                report.validation_removed += 1
        first_train = len(signatures)

        labelled: set[str] = set()
        stream = _note_labelled(documents, labelled)
        for identity, source, result, key, signature in _results(stream, tools, processes, engine):
            report.docs_in += 1
            report.changes.update(result.changes)
            source = group(source)
            report.sources.setdefault(source, [0, 0, 0])[0] += 1
            if identity in labelled:
                report.seen[identity] = set(result.changes)
            reason, detail = result.reason, result.detail
            if reason is None and key in seen_keys:
                number, twin = seen_keys[key]
                reason, detail = ("exact_duplicate" if number >= 0 else "in_validation"), f"{twin}와(과) 같다"
            if reason is not None:
                _reject(report, rejected, identity, source, reason, detail, result.text)
                continue
            seen_keys[key] = (len(table), identity)
            signatures.append(signature)
            table.append((identity, source, len(result.text), kept.tell()))
            kept.write(_line(identity, source, result.text).encode("utf-8"))
        del seen_keys

        def read(number: int) -> dict:
            kept.seek(table[number][3])
            return json.loads(kept.readline())

        removed: dict[int, tuple[str, str]] = {}
        if signatures:
            twins = near_duplicates.drop_near_duplicates(np.stack(signatures), bands, rows, threshold)
            for j, i in twins.items():
                if j >= first_train and i >= first_train:
                    removed[j - first_train] = ("near_duplicate", f"{table[i - first_train][0]}와(과) 비슷하다")
                elif j >= first_train:
                    removed[j - first_train] = ("in_validation", "검증용 문서와 비슷하다")
        del signatures
        for number in _over_share(table, removed, max_share, seed):
            removed[number] = ("mixture", f"{table[number][1]}의 몫이 {max_share:.0%}를 넘는다")
        for number, (reason, detail) in sorted(removed.items()):
            identity, source = table[number][:2]
            _reject(report, rejected, identity, source, reason, detail, read(number)["text"])

        order = [number for number in range(len(table)) if number not in removed]
        random.Random(f"corpus/{seed}").shuffle(order)
        with (out / "train.jsonl").open("wb") as train:
            for number in order:
                kept.seek(table[number][3])
                train.write(kept.readline())
                report.sources[table[number][1]][1] += 1
                report.sources[table[number][1]][2] += table[number][2]
    kept_path.unlink()
    report.seconds = time.perf_counter() - start
    if report.docs_in != report.docs_out + sum(report.removed.values()):
        raise AssertionError(f"{report.docs_in} documents in, {report.docs_out} out, {report.removed} removed")
    return report


def group(source: str) -> str:
    """The source's name up to the first slash or colon: `petitions_2018/12` and its like are one line of the report."""
    return re.split(r"[/:]", source, maxsplit=1)[0]


def _results(documents: Iterable[Mapping], tools: Tools, processes: int | None, engine: Engine) -> Iterator[tuple]:
    """(id, source, Cleaned, key, signature) of every document in order; key and signature None for the rejected."""
    with display.progress(desc="정제", unit="문서") as bar, contextlib.closing(engine(documents, tools, processes)) as chunks:
        for chunk in chunks:
            number = 0
            for identity, source, result in chunk.rows:
                if result.reason is None:
                    yield identity, source, result, chunk.keys[number], chunk.signatures[number]
                    number += 1
                else:
                    yield identity, source, result, None, None
            bar.update(len(chunk.rows))


def _note_labelled(documents: Iterable[Mapping], labelled: set[str]) -> Iterator[dict]:
    # Workers get only what they read: truth stays here, as a check on them that they cannot see.
    for document in documents:
        if "defects" in document:
            labelled.add(document["id"])
        yield {key: document[key] for key in ("id", "source", "raw", "text") if key in document}


def _reject(report: Report, rejected: _Rejected, identity: str, source: str, reason: str, detail: str, text: str) -> None:
    report.removed[reason] += 1
    if identity in report.seen:
        report.seen[identity].add(reason)
    rejected.add(identity, source, reason, detail, text)


def _over_share(table: list[tuple], removed: Mapping[int, object], max_share: float, seed: int) -> list[int]:
    """Keepers to drop, drawn at random, so that no source holds more than `max_share` of the characters.

    A corpus of one source cannot be mixed and stays as it is.
    """
    numbers: dict[str, list[int]] = {}
    for number, (_, source, _, _) in enumerate(table):
        if number not in removed:
            numbers.setdefault(source, []).append(number)
    chars = {source: sum(table[number][2] for number in members) for source, members in numbers.items()}
    if len(chars) < 2 or max_share >= 1:
        return []
    largest = max(chars, key=lambda source: chars[source])
    allowed = max_share / (1 - max_share) * (sum(chars.values()) - chars[largest])
    excess, dropped = chars[largest] - allowed, []
    members = numbers[largest]
    random.Random(f"mixture/{seed}").shuffle(members)
    while excess > 0 and members:
        dropped.append(members.pop())
        excess -= table[dropped[-1]][2]
    return dropped


def _line(identity: str, source: str, text: str) -> str:
    return json.dumps({"id": identity, "source": source, "text": text}, ensure_ascii=False) + "\n"

