"""Week 2 on a cluster: the library's cleaning as a NeMo Curator pipeline on Ray.

    python -m workshop_lib.nvidia.curator OUT [--profile tiny] [--data DIR] [--against runs/default/corpus]

Notable choices
- A stage of Curator is a function from a batch of documents to a batch; ours call the very functions that `clean_corpus`
  calls, so one machine and a cluster write the same bytes. That is the promise, and `--against` checks it.
- Documents travel as Parquet, for a crawled page is bytes and JSON has none. Every row carries its `number`, because Ray
  returns batches in any order.
- What must see the whole corpus (duplicates, validation, mixture) reads keys and MinHash signatures, not texts, in one process.
  Curator's own `ExactDeduplicationWorkflow` and `FuzzyDeduplicationWorkflow` do that part across machines, but on GPUs
  only (RAPIDS cuDF); its removal workflow runs on CPUs and is used here (`remove`).
- The Ray Data executor is used: the default one (Xenna, streaming) keeps a process for each stage and wants more cores than a
  laptop has. On a cluster set RAY_ADDRESS; without it a Ray is started here for as long as it takes.

Linux only, as NeMo Curator is. Needs its own environment (`make test-nvidia`).
"""

import argparse
import contextlib
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")     # read when Ray starts
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

try:
    import ray
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    raise SystemExit("오류: 이 파이썬에는 NeMo Curator가 없다. `make test-nvidia`가 만드는 .venv-nvidia/bin/python으로 실행한다.") from None
from loguru import logger
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.text.deduplication.removal_workflow import TextDuplicatesRemovalWorkflow
from nemo_curator.stages.text.io.reader import ParquetReader
from nemo_curator.stages.text.io.writer import ParquetWriter
from nemo_curator.tasks import DocumentBatch

from workshop_lib import WorkshopError
from workshop_lib.cleaning import corpus, lines, pipeline, quality

SHARD = 256     # documents a file; as many as a chunk of the library, so that the classifier sees the same batches
RAW = pa.schema([("number", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("raw", pa.binary()), ("text", pa.string())])
CLEANED = pa.schema([
    ("number", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("web", pa.bool_()), ("text", pa.string()),
    ("reason", pa.string()), ("detail", pa.string()), ("changes", pa.list_(pa.string())),
])  # fmt: skip
SIGNED = CLEANED.append(pa.field("key", pa.uint64())).append(pa.field("signature", pa.binary()))


# --- the stages ---------------------------------------------------------------------------------------------


class CleanedRows(ProcessingStage[DocumentBatch, DocumentBatch]):
    """A stage that takes rows of `CLEANED` and gives rows of `CLEANED`, where it does not say otherwise."""

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], CLEANED.names

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], CLEANED.names


@dataclass
class CleanDocuments(CleanedRows):
    """Decode, repair, extract, normalise, mask and judge by rules: `cleaning.clean_document` for each row."""

    line_model: lines.LineModel | None = field(default=None, repr=False)
    name: str = "clean_documents"

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], RAW.names

    def process(self, task: DocumentBatch) -> DocumentBatch:
        documents = [{key: value for key, value in row.items() if value is not None} for row in task.to_pyarrow().to_pylist()]
        rows = [{"number": document["number"], "id": document["id"], "source": document["source"], "web": "raw" in document}
                for document in documents]
        return _batch(task, rows, pipeline.clean_documents(documents, self.line_model))


@dataclass
class JudgePages(CleanedRows):
    """The quality classifier, on web pages only."""

    model: quality.QualityModel | None = field(default=None, repr=False)
    name: str = "judge_pages"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        rows, results = _unpacked(task)
        pipeline.judge_pages([result for row, result in zip(rows, results) if row["web"]], self.model)
        return _batch(task, rows, results)


@dataclass
class KeepBenchmarksOut(CleanedRows):
    """Decontamination: nothing that shares `size` words in a row with an evaluation item stays."""

    benchmark: frozenset[str] = field(default=frozenset(), repr=False)
    size: int = 8
    name: str = "keep_benchmarks_out"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        rows, results = _unpacked(task)
        pipeline.keep_benchmarks_out(results, self.benchmark, self.size)
        return _batch(task, rows, results)


@dataclass
class Fingerprint(CleanedRows):
    """Content key and MinHash signature of each keeper; of the rejected a sample of the text is left."""

    hashing: tuple[np.ndarray, np.ndarray] = field(default=None, repr=False)
    name: str = "fingerprint"

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], SIGNED.names

    def process(self, task: DocumentBatch) -> DocumentBatch:
        rows, results = _unpacked(task)
        signed = iter(zip(*pipeline.fingerprints(results, self.hashing)))
        pipeline.shorten_rejected(results)
        for row, result in zip(rows, results):
            if result.reason is None:
                row["key"], signature = next(signed)
                row["signature"] = signature.tobytes()
        return _batch(task, rows, results, SIGNED)


def _unpacked(task: DocumentBatch) -> tuple[list[dict], list[pipeline.Cleaned]]:
    rows = task.to_pyarrow().to_pylist()
    return rows, [_cleaned(row) for row in rows]


def _cleaned(row: Mapping) -> pipeline.Cleaned:
    return pipeline.Cleaned(row["text"], row["reason"], set(row["changes"]), row["detail"])


def _batch(task: DocumentBatch, rows: list[dict], results: list[pipeline.Cleaned], schema: pa.Schema = CLEANED) -> DocumentBatch:
    filled = [row | {"text": result.text, "reason": result.reason, "detail": result.detail, "changes": sorted(result.changes)}
              for row, result in zip(rows, results)]
    return DocumentBatch(dataset_name=task.dataset_name, data=pa.Table.from_pylist(filled, schema=schema),
                         _metadata=task._metadata, _stage_perf=task._stage_perf)


def cleaning_pipeline(raw: Path, cleaned: Path, tools: pipeline.Tools) -> Pipeline:
    """The pipeline from the Parquet files in `raw` to those in `cleaned`, a file for a file. Rejected rows stay, with their reason."""
    return Pipeline(name="korean_cleaning", description="글을 되살리고 고르고 지문을 뜬다", stages=[
        ParquetReader(file_paths=str(raw), files_per_partition=1),
        CleanDocuments(tools.line_model),
        JudgePages(tools.model),
        KeepBenchmarksOut(tools.benchmark, tools.benchmark_size),
        Fingerprint(tools.hashing),
        ParquetWriter(path=str(cleaned), mode="overwrite"),
    ])  # fmt: skip


# --- as an engine of the library ----------------------------------------------------------------------------


def engine(folder: Path, cores: int | None = None) -> pipeline.Engine:
    """What `clean_corpus(engine=...)` and `cleaning.build(job, engine=...)` take: the per-document steps under Curator.

    Each call (validation, then training documents) leaves its Parquet files in folder/0, folder/1, ...: raw and cleaned.
    """
    calls = itertools.count()

    def chunks(documents: Iterable[Mapping], tools: pipeline.Tools, processes: int | None = None) -> Iterator[pipeline.Chunk]:
        place = folder / str(next(calls))
        if write_shards(documents, place / "raw"):
            with local_ray(cores or processes):
                cleaning_pipeline(place / "raw", place / "cleaned", tools).run(RayDataExecutor())
            yield from read_chunks(place / "cleaned")

    return chunks


def write_shards(documents: Iterable[Mapping], folder: Path, size: int = SHARD) -> int:
    """Documents (id, source, raw or text) as numbered Parquet files of `size` rows. Returns how many documents."""
    folder.mkdir(parents=True)
    numbered = ({"number": number} | dict(document) for number, document in enumerate(documents))
    count = 0
    while rows := list(itertools.islice(numbered, size)):
        parquet.write_table(pa.Table.from_pylist(rows, schema=RAW), folder / f"{count // size:06d}.parquet")
        count += len(rows)
    return count


def read_chunks(folder: Path) -> Iterator[pipeline.Chunk]:
    """The cleaned files as the library's chunks, in the order of the documents that went in; one file in memory at a time."""
    for path in in_order(folder):
        chunk, signatures = pipeline.Chunk(), []
        for row in parquet.read_table(path).to_pylist():
            chunk.rows.append((row["id"], row["source"], _cleaned(row)))
            if row["reason"] is None:
                chunk.keys.append(row["key"])
                signatures.append(np.frombuffer(row["signature"], dtype=np.uint32))
        chunk.signatures = np.stack(signatures) if signatures else None
        yield chunk


def in_order(folder: Path) -> list[Path]:
    """Curator names its files by hashes; their rows know where they belong."""
    return sorted(folder.glob("*.parquet"), key=lambda path: parquet.read_table(path, columns=["number"])["number"][0].as_py())


@contextlib.contextmanager
def local_ray(cores: int | None = None) -> Iterator[None]:
    """Ray on this machine for as long as the block lasts, unless RAY_ADDRESS names a cluster."""
    logger.disable("nemo_curator")
    for name in ("ray", "ray.data", "ray._private.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if not os.environ.get("RAY_ADDRESS"):
            ray.init(address="local", num_cpus=max(2, cores or pipeline.available_cores()), include_dashboard=False,
                     log_to_driver=False, logging_level="ERROR")
            ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()
        logger.enable("nemo_curator")


def unwanted(cleaned: Path, kept: set[str]) -> list[int]:
    """Numbers of the cleaned rows that are not in the corpus. An id is made of the text, so the same text twice is the same id
    twice: the first that the rules let pass stays, as in the library."""
    numbers, left = [], set(kept)
    for path in in_order(cleaned):
        for row in parquet.read_table(path, columns=["number", "id", "reason"]).to_pylist():
            if row["reason"] is None and row["id"] in left:
                left.remove(row["id"])
            else:
                numbers.append(row["number"])
    return numbers


def remove(cleaned: Path, kept: set[str], out: Path, cores: int | None = None) -> int:
    """Write the cleaned rows that are in `kept` (ids) as JSONL files (id, source, text) under `out`, by Curator's removal workflow:
    each worker drops from its own file the numbers on the list. Returns how many rows were removed."""
    doomed = out.with_name(out.name + ".removed.parquet")
    numbers = unwanted(cleaned, kept)
    parquet.write_table(pa.table({"id": pa.array(numbers, pa.int64())}), doomed)
    with local_ray(cores):
        workflow = TextDuplicatesRemovalWorkflow(
            input_path=str(cleaned), ids_to_remove_path=str(doomed), output_path=str(out), input_files_per_partition=1,
            input_fields=["number", "id", "source", "text"], id_field="number", duplicate_id_field="id",
            output_filetype="jsonl", output_fields=["id", "source", "text"], output_mode="overwrite",
        )  # fmt: skip
        workflow.run(RayDataExecutor())
    doomed.unlink()
    return len(numbers)


# --- the command --------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Build the corpus with Curator; with --against, say file by file whether it equals the library's."""
    from workshop_lib.profile import changed, get_profile
    from workshop_lib.workspace import Job

    parser = argparse.ArgumentParser(description="2주차의 말뭉치를 NeMo Curator로 만든다.")
    parser.add_argument("out", type=Path, help="말뭉치를 둘 새 폴더")
    parser.add_argument("--profile", help="규모: tiny, small, gpu (기본: WORKSHOP_PROFILE 또는 tiny)")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="프로필에서 바꿀 설정(JSON)")
    parser.add_argument("--data", type=Path, help="실제 데이터 폴더 (기본: 함께 실린 말뭉치)")
    parser.add_argument("--cores", type=int, help="이 기계에서 쓸 코어 (기본: 전부)")
    parser.add_argument("--against", type=Path, help="견줄 말뭉치 폴더. 예: runs/default/corpus")
    chosen = parser.parse_args(arguments)
    if chosen.out.exists():
        raise WorkshopError(f"{chosen.out}이(가) 이미 있다. 새 폴더를 준다.")
    if chosen.against and not (chosen.against / "train.jsonl").is_file():
        raise WorkshopError(f"{chosen.against}에 견줄 말뭉치(train.jsonl)가 없다. `workshop run --weeks 2`가 runs/default/corpus에 만든다.")
    profile = get_profile(chosen.profile) if chosen.profile else get_profile()
    settings = changed(profile.corpus, chosen.settings)
    chosen.out.mkdir(parents=True)
    out, start = chosen.out.absolute(), time.perf_counter()
    job = Job(out, {}, settings, profile.seed, chosen.data)
    metrics = corpus.build(job, engine(out / "curator", chosen.cores))
    removed = remove(out / "curator" / "1" / "cleaned", set(corpus.read_texts(out / "train.jsonl")), out / "curated", chosen.cores)
    shutil.rmtree(out / "curator")
    if metrics["docs_in"] != metrics["docs_out"] + removed:
        raise AssertionError(f"{metrics['docs_in']} documents in, {metrics['docs_out']} out, {removed} removed by Curator")
    print(f"문서 {metrics['docs_in']:,.0f}개를 {time.perf_counter() - start:.0f}초에 정제해 {metrics['docs_out']:,.0f}개를 남기고 "
          f"{removed:,}개를 뺐다.")
    if chosen.against is None:
        return 0
    different = [name for name in ("train.jsonl", "validation.jsonl", "rejected.jsonl")
                 if (out / name).read_bytes() != (chosen.against / name).read_bytes()]
    print(f"라이브러리의 말뭉치와 다른 파일: {', '.join(different)}" if different else "세 파일이 라이브러리의 것과 바이트까지 같다.")
    return 1 if different else 0


if __name__ == "__main__":
    from workshop_lib.cli import reported

    raise SystemExit(reported(main, "만들던 폴더를 지우고 다시 실행한다."))
