"""NeMo Curator writes what the library writes: the same functions, in Curator's stages, on a local Ray."""

import importlib.util
import json
from dataclasses import replace

import pytest

from workshop_lib.cleaning import corpus, pipeline
from workshop_lib.profile import get_profile

if importlib.util.find_spec("nemo_curator") is None:  # there, but broken, is no reason to skip
    pytest.skip("`make test-nvidia`의 환경에서만 돈다", allow_module_level=True)

from workshop_lib.nvidia import curator

pytestmark = pytest.mark.nvidia
SETTINGS = replace(get_profile("tiny").corpus, crawl_pages=500, stories=300, validation_docs=60)


def clean(out, tools, engine=pipeline.clean_chunks):
    out.mkdir()
    return pipeline.clean_corpus(
        corpus.bundled_documents(SETTINGS, 0), corpus.bundled_validation(SETTINGS, 0), out, tools, bands=SETTINGS.minhash_bands,
        rows=SETTINGS.minhash_rows, threshold=SETTINGS.near_duplicate_threshold, max_share=0.5, processes=1, engine=engine,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(folder, report) of the library's own run and of Curator's; the cleaned shards lie in the second folder's parent."""
    home = tmp_path_factory.mktemp("curator")
    tools = corpus.make_tools(SETTINGS, corpus.bundled_benchmarks(0))
    tools = replace(tools, model=replace(tools.model, threshold=0.9))  # severe, so that it has something to say
    ours = home / "ours", clean(home / "ours", tools)
    return ours, (home / "theirs", clean(home / "theirs", tools, curator.engine(home / "shards", cores=2)))


@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl", "rejected.jsonl"])
def test_every_file_is_the_same_to_the_byte(both, name):
    (ours, _), (theirs, _) = both
    assert (ours / name).read_bytes() == (theirs / name).read_bytes() != b""


def test_the_report_is_the_same(both):
    (_, ours), (_, theirs) = both
    assert replace(theirs, seconds=0) == replace(ours, seconds=0)
    assert {"low_quality", "exact_duplicate", "near_duplicate", "mixture"} <= theirs.removed.keys()


def test_the_removal_workflow_leaves_the_training_texts(both):
    _, (folder, report) = both
    texts = corpus.read_texts(folder / "train.jsonl")
    removed = curator.remove(folder.parent / "shards" / "1" / "cleaned", set(texts), folder / "curated", cores=2)
    rows = [json.loads(line) for path in (folder / "curated").glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    assert {row["id"]: row["text"] for row in rows} == texts
    assert len(rows) + removed == report.docs_in


def test_the_same_text_twice_stays_once(tmp_path):
    (tmp_path / "cleaned").mkdir()
    rows = [("a", None), ("b", "too_short"), ("a", None), ("c", None), ("d", "foreign"), ("d", None), ("a", None)]
    for number, (identity, reason) in enumerate(rows):
        row = {"number": number, "id": identity, "source": "s", "text": identity, "reason": reason}
        table = curator.pa.Table.from_pylist([row], schema=curator.CLEANED)
        curator.parquet.write_table(table, tmp_path / "cleaned" / f"{7 - number}.parquet")  # the names say nothing
    assert curator.unwanted(tmp_path / "cleaned", {"a", "d"}) == [1, 2, 3, 4, 6]


def test_shards_keep_bytes_and_texts(tmp_path):
    documents = [{"id": f"{n}", "source": "s", **({"raw": bytes([n, 0, 255])} if n % 2 else {"text": f"글 {n}"})} for n in range(7)]
    assert curator.write_shards(iter(documents), tmp_path / "raw", size=3) == 7
    rows = [row for path in curator.in_order(tmp_path / "raw") for row in curator.parquet.read_table(path).to_pylist()]
    assert [{key: value for key, value in row.items() if value is not None and key != "number"} for row in rows] == documents


def test_the_pipeline_is_the_steps_in_order(tmp_path):
    tools = pipeline.Tools(None, None, frozenset(), 8, ())
    stages = curator.cleaning_pipeline(tmp_path, tmp_path / "out", tools).stages
    names = ["parquet_reader", "clean_documents", "judge_pages", "keep_benchmarks_out", "fingerprint", "parquet_writer"]
    assert [stage.name for stage in stages] == names
