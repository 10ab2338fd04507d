"""The corpus stage: gather the documents, clean them, measure the cleaning on pages with known defects, document it."""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.cleaning import decoding, extraction, lines, near_duplicates, pipeline, privacy, quality
from workshop_lib.corpora.reading import read_documents

HASH_SEED = 20          # of MinHash; fixed, so that signatures of different runs can be compared
LABELLED_PAGES = 2_000  # pages the classifiers learn from, of another seed than the corpus
# Reasons of ours that mean a defect of the crawl's; the rest have the same name.
_AS_DEFECT = {"adult": "spam", "jamo_only": "jamo", "no_sentence": "too_short",
              "empty": "too_short", "no_letters": "too_short"}

REASONS = {
    "empty": "남은 글자가 없다", "no_letters": "글자 없이 숫자나 기호뿐이다", "broken": "되살릴 수 없게 깨졌다",
    "too_short": "너무 짧다", "foreign": "한국어가 아니다",
    "jamo_only": "낱자모뿐이다", "symbols": "기호가 너무 많다", "repetition": "같은 말이 되풀이된다", "adult": "성인 광고이다",
    "spam": "도박·대출 광고이다", "no_sentence": "문장으로 끝나는 줄이 없다", "low_quality": "품질 분류기가 버렸다",
    "benchmark": "평가 문제와 겹친다", "exact_duplicate": "앞 문서와 같다", "near_duplicate": "앞 문서와 비슷하다",
    "in_validation": "검증용 문서와 같거나 비슷하다", "mixture": "한 출처의 몫이 너무 크다",
}


def labelled_pages(n: int, seed: int, split: str = "train") -> Iterator[dict]:
    """Pages of the bundled crawl with their truth (`defects`, `clean`). The pages of split "validation" come from other
    sites: their menus, advertisements and bylines are worded unlike those of "train"."""
    from workshop_lib.corpora import crawl

    return crawl.crawl(n, seed, split)


def train_line_judge(pages: Iterable[Mapping]) -> lines.LineModel:
    """The line classifier, from labelled pages: a line that is not in the page's clean text is boilerplate."""
    blocks_of, frame_of = [], []
    for page in pages:
        if page["clean"] is not None:
            blocks, _ = extraction.drop_boilerplate(extraction.page_blocks(pipeline.page_text(page, set()))[0])
            clean = set(page["clean"].split("\n"))
            blocks_of.append(blocks)
            frame_of.append([_as_kept(block.text) not in clean for block in blocks])
    return lines.train_line_model(blocks_of, frame_of)


def _as_kept(line: str) -> str:
    line = decoding.drop_mash(extraction.strip_lead(line))
    return privacy.mask_pii(decoding.shorten_runs(line))[0] or "\0"


def good_texts(n: int, seed: int) -> list[str]:
    """About 3·n texts that are known to be good and come from no web page: prose, review threads, answers."""
    from workshop_lib.corpora import dialogue, prose, reviews

    texts = [row["text"] for row in islice(prose.prose(n, seed), n)]
    rows = [row["document"] for row in islice(reviews.reviews(6 * n, seed), 6 * n)]
    texts += ["\n".join(rows[start:start + 6]) for start in range(0, len(rows), 6)]
    answers = (message["content"] for row in dialogue.instructions(n, seed) for message in row["messages"])
    return texts + [text for text in islice(answers, 2 * n) if len(text) >= 40]


def train_page_judge(pages: Iterable[Mapping], line_model: lines.LineModel | None = None,
                     false_alarms: float = 0.005) -> quality.QualityModel:
    """The quality classifier, from labelled pages: is this text an article, or spam, foreign, repetition?

    Duplicates are left out: being a copy does not make a text bad. Half of the `good_texts` are learned from too; the other
    half sets the threshold, so that `false_alarms` of them would go. Pages alone would set it too high: on sites that
    it knows, the classifier is surer than it has any right to be.
    """
    texts, good = _judged(pages, line_model)
    others = good_texts(300, seed=1_000)
    model = quality.train_quality_model(texts + others[::2], good + [True] * len(others[::2]))
    return replace(model, threshold=float(np.quantile(model.probability(others[1::2]), false_alarms)))


def _judged(pages: Iterable[Mapping], line_model: lines.LineModel | None) -> tuple[list[str], list[bool]]:
    texts, good = [], []
    for page in pages:
        if {"exact_duplicate", "near_duplicate"}.isdisjoint(page["defects"]):
            text = pipeline.clean_document(page, line_model).text
            if text:
                texts.append(text)
                good.append(page["clean"] is not None)
    return texts, good


def make_tools(settings, benchmark_texts: Iterable[str]) -> pipeline.Tools:
    """Tools for the workers by the profile's corpus settings; trains the two classifiers on crawl pages of a seed that no
    corpus uses."""
    pages = list(labelled_pages(LABELLED_PAGES, seed=1_000))
    line_model = train_line_judge(pages)
    return pipeline.Tools(
        line_model=line_model,
        model=train_page_judge(pages, line_model, settings.false_alarms),
        benchmark=near_duplicates.benchmark_ngrams(list(benchmark_texts), settings.benchmark_words),
        benchmark_size=settings.benchmark_words,
        hashing=near_duplicates.hash_functions(settings.minhash_bands * settings.minhash_rows, HASH_SEED),
    )


def bundled_documents(settings, seed: int) -> Iterator[dict]:
    """The raw crawl, then stories of a seed that the crawl's pages are not made of."""
    from workshop_lib.corpora import stories

    yield from labelled_pages(settings.crawl_pages, seed)
    yield from stories.stories(settings.stories, seed + 1)


def bundled_validation(settings, seed: int) -> Iterator[dict]:
    """Stories of held-out combinations and held-out prose, in about the shares that the training text has them."""
    from workshop_lib.corpora import prose, stories

    yield from stories.stories(settings.validation_docs, seed, split="validation")
    yield from prose.prose(max(1, settings.validation_docs // 16), seed, split="validation")


def bundled_benchmarks(seed: int) -> list[str]:
    """Texts of the course's own evaluation items (validation split)."""
    from workshop_lib.corpora import benchmarks

    texts = []
    for make in (benchmarks.nli, benchmarks.topics, benchmarks.reading, benchmarks.boolq, benchmarks.sts):
        for row in make(300, seed, split="validation"):
            texts += list(_strings(row))
    return texts


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def precision_recall(has: set, said: set) -> tuple[float, float]:
    """(precision, recall) of what was said against what is so: hits / said, hits / has; NaN for an empty denominator,
    since nothing was measured there."""
    hits = len(has & said)
    return hits / len(said) if said else math.nan, hits / len(has) if has else math.nan


def defect_scores(truth: Mapping[str, Iterable[str]], seen: Mapping[str, Iterable[str]],
                  names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """{defect: (precision, recall)} over labelled pages: `truth` and `seen` map a page's id to its defects."""
    return {name: precision_recall({page for page, defects in truth.items() if name in defects},
                                   {page for page, defects in seen.items() if name in defects}) for name in names}


def as_defects(seen: Iterable[str], truth: Iterable[str] = ()) -> set[str]:
    """What the pipeline saw on a page, in the crawl's names.

    The classifier's "low_quality" names no defect. It counts as having found whatever really condemns the page, and as a
    false report of spam where nothing does.
    """
    found = {_AS_DEFECT.get(name, name) for name in seen}
    if "low_quality" in found:
        found |= {"spam", "foreign", "too_short", "repetition"}.intersection(truth) or {"spam"}
    return found


def measure(pages: list[dict], texts: Mapping[str, str], seen: Mapping[str, set[str]]) -> dict[str, float]:
    """Flat metrics of the cleaning of labelled pages: `texts` maps the ids of the pages kept to what became of them.

    precision_/recall_<defect>; precision_/recall_removal: drop or keep; clean_exact: share of rightly kept pages whose
    text equals the truth; pii_leaked, lookalikes_lost: numbers of values.
    """
    from workshop_lib.corpora import crawl

    truth = {page["id"]: set(page["defects"]) for page in pages}
    found = {page["id"]: as_defects(seen.get(page["id"], ()), page["defects"]) for page in pages}
    metrics = {}
    for name, row in defect_scores(truth, found, crawl.DEFECTS).items():
        metrics |= {f"{key}_{name}": value for key, value in zip(("precision", "recall"), row) if not math.isnan(value)}
    kept = [page for page in pages if page["id"] in texts]
    wanted = [page for page in pages if page["clean"] is not None]
    both = [page for page in kept if page["clean"] is not None]
    metrics["precision_removal"] = 1 - (len(wanted) - len(both)) / max(len(pages) - len(kept), 1)
    metrics["recall_removal"] = 1 - (len(kept) - len(both)) / max(len(pages) - len(wanted), 1)
    metrics["clean_exact"] = sum(texts[page["id"]] == page["clean"] for page in both) / max(len(both), 1)
    metrics["pii_leaked"] = float(sum(item["value"] in texts[page["id"]] for page in kept for item in page["pii"]))
    metrics["lookalikes_lost"] = float(sum(item["value"] not in texts[page["id"]] for page in both
                                           for item in page["lookalikes"] if item["value"] in page["clean"]))
    return metrics


def build(job, engine: pipeline.Engine = pipeline.clean_chunks) -> dict[str, float]:
    """Build function of the stage "corpus": writes train.jsonl, validation.jsonl, rejected.jsonl and DATASHEET.md.

    `engine`: what runs the per-document steps. Raises WorkshopError when nothing is left, or when the disk is full.
    """
    try:
        return _build(job, engine)
    except WorkshopError:
        raise
    except OSError as error:
        where = error.filename or job.out
        raise WorkshopError(f"말뭉치를 만들다 {where}에서 멈추었다: {error.strerror or error}. "
                            "디스크 공간과 권한을 확인하고 다시 실행한다.") from error


def _build(job, engine: pipeline.Engine) -> dict[str, float]:
    settings = job.settings
    skipped: list = []                                    # rows that could not even be read, each with file and line
    if job.data is None:
        benchmark, documents = bundled_benchmarks(job.seed), bundled_documents(settings, job.seed)
        validation = bundled_validation(settings, job.seed)
    else:
        from workshop_lib.corpora import public

        benchmark = (row["text"] for row in public.benchmark_texts(job.data, skipped))
        documents, validation = public.documents(job.data, skipped), public.validation_documents(job.data, skipped)
    tools = make_tools(settings, benchmark)
    report = pipeline.clean_corpus(documents, validation, job.out, tools, max_share=settings.max_share,
                                   samples=settings.rejected_samples, seed=job.seed, engine=engine, **_options(settings))
    report.skipped = sorted({str(skip) for skip in skipped})
    if report.skipped:
        print(f"읽지 못해 건너뛴 행이 {len(report.skipped):,}개 있다. 첫째는 {report.skipped[0]}")
    if not report.docs_in:
        first = f" 읽지 못한 행 {len(report.skipped)}개의 첫째는 {report.skipped[0]}" if report.skipped else ""
        raise WorkshopError(f"{job.data or '내장 말뭉치'}에 학습에 쓸 문서가 하나도 없다. 글을 더 넣는다.{first}")
    if not report.docs_out:
        raise WorkshopError(f"정제하고 나니 문서가 하나도 남지 않았다(들어온 문서 {report.docs_in}개). {job.data or '내장 말뭉치'}의 글이 "
                            f"한국어인지, {job.out / 'rejected.jsonl'}의 까닭이 맞는지 확인한다.")
    if not report.validation_docs:
        raise WorkshopError(f"검증용 문서가 하나도 없다. {job.data or '내장 말뭉치'}에 나누어 둘 글이 더 있어야 한다.")
    # Real data has no truth, and the rules were written with the crawl's own wording in view. So the cleaning is measured
    # on labelled pages of sites that neither the rules nor the classifiers have seen.
    pages = list(labelled_pages(min(settings.crawl_pages, LABELLED_PAGES), job.seed, "validation"))
    scores = measure(pages, *clean_sample(pages, tools, settings))
    metrics = {
        "docs_in": float(report.docs_in), "docs_out": float(report.docs_out), "chars_out": float(report.chars_out),
        "validation_docs": float(report.validation_docs), "validation_chars": float(report.validation_chars),
        "docs_per_s": report.docs_in / report.seconds,
        "rows_skipped": float(len(report.skipped)),
        **{f"removed_{reason}": float(count) for reason, count in sorted(report.removed.items())},
        **{f"repaired_{change}": float(count) for change, count in sorted(report.changes.items())},
        **scores,
    }
    (job.out / "DATASHEET.md").write_text(datasheet(report, scores, job.data), encoding="utf-8", errors="replace")
    return metrics


def clean_sample(pages: list[dict], tools: pipeline.Tools, settings, processes: int | None = None) -> tuple[dict, dict]:
    """Clean labelled pages by themselves in a scratch folder: (id -> text of the kept, id -> names of what was seen)."""
    with tempfile.TemporaryDirectory() as folder:
        report = pipeline.clean_corpus(pages, [], Path(folder), tools, processes=processes, **_options(settings))
        return read_texts(Path(folder) / "train.jsonl"), report.seen


def _options(settings) -> dict:
    return {"bands": settings.minhash_bands, "rows": settings.minhash_rows, "threshold": settings.near_duplicate_threshold}


def read_texts(path: Path, only: set[str] | None = None) -> dict[str, str]:
    """id -> text of a finished file; with `only`, of these ids."""
    return {row["id"]: row["text"] for row in read_documents(path) if only is None or row["id"] in only}


def sample_rejected(path: Path, reason: str, n: int = 3, seed: int = 0) -> list[dict]:
    """Up to `n` samples of what was removed for a reason, from rejected.jsonl."""
    import random

    rows = [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row["reason"] == reason]
    return random.Random(seed).sample(rows, min(n, len(rows)))


def datasheet(report: pipeline.Report, scores: Mapping[str, float], data: Path | None) -> str:
    """The corpus' data sheet in Korean (after Gebru et al. 2018, arXiv 1803.09010): what, whence, how, limits."""
    total = max(report.chars_out, 1)
    origin = ("워크숍 내장 말뭉치(코드로 만든 웹 수집본과 이야기, CC BY 4.0)" if data is None
              else f"`{data}` 폴더의 공개 데이터(라이선스는 그 폴더의 설명을 따른다)")
    lines = ["# 말뭉치 데이터시트", "",
             f"- 출처: {origin}",
             f"- 문서: {report.docs_in:,}개가 들어와 {report.docs_out:,}개({report.chars_out:,}자)가 남았다.",
             f"- 검증용: {report.validation_docs:,}개({report.validation_chars:,}자). 학습용에는 이와 같거나 비슷한 글이 없다.",
             "", "## 구성", "", "| 출처 | 들어온 문서 | 남은 문서 | 글자 | 글자의 몫 |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {source} | {given:,} | {documents:,} | {chars:,} | {chars / total:.1%} |"
              for source, (given, documents, chars) in sorted(report.sources.items())]
    lines += ["", "## 버린 까닭", "", "| 까닭 | 뜻 | 문서 |", "| --- | --- | ---: |"]
    lines += [f"| {reason} | {REASONS.get(reason, '')} | {count:,} |" for reason, count in report.removed.most_common()]
    if report.skipped:
        lines += ["", f"읽을 수 없어 문서로 세지 않은 행이 {len(report.skipped):,}개 있다. 처음 것들은 다음과 같다.", ""]
        lines += [f"- {skip}" for skip in report.skipped[:10]]
    lines += ["", "## 고친 것", "", "| 결함 | 문서 |", "| --- | ---: |"]
    lines += [f"| {change} | {count:,} |" for change, count in report.changes.most_common()]
    lines += ["", "## 정제의 정확도", "",
              "결함을 알고 있는 내장 웹 수집본에서 쟀다. 정밀도는 있다고 한 것 가운데 맞은 몫, 재현율은 있는 것 가운데 찾은 몫이다.", "",
              "| 결함 | 정밀도 | 재현율 |", "| --- | ---: | ---: |"]
    names = sorted({key.split("_", 1)[1] for key in scores if key.startswith(("precision_", "recall_"))})
    cell = lambda key: f"{scores[key]:.3f}" if key in scores else "측정 안 함"  # noqa: E731
    lines += [f"| {name} | {cell(f'precision_{name}')} | {cell(f'recall_{name}')} |" for name in names]
    lines += ["", "## 한계", "",
              "- 개인정보는 번호의 꼴로만 찾는다. 이름과 주소는 남아 있을 수 있다.",
              "- 정확도는 만들어 넣은 결함에서 쟀다. 실제 웹의 결함은 더 다양하다.",
              "- 품질 분류기는 내장 웹 수집본의 라벨로 배웠고 웹 문서에만 쓰인다.", ""]
    return "\n".join(lines)


def mixture(chars: Mapping[str, int], temperature: float = 1.0) -> dict[str, float]:
    """Shares of the sources when drawn in proportion to chars^(1/temperature); 1 is as it is, large is even.

    As for the languages of mBERT and XLM-R (arXiv 1911.02116, section 3.1). Raises WorkshopError for temperature ≤ 0.
    """
    if temperature <= 0:
        raise WorkshopError(f"온도는 0보다 커야 한다. 받은 값: {temperature}")
    weights = {source: count ** (1 / temperature) if count else 0.0 for source, count in chars.items()}
    total = sum(weights.values())
    return {source: weight / total if total else 0.0 for source, weight in weights.items()}

