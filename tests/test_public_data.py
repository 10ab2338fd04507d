"""The loaders of the public sets, held to each known trap on small files in the original formats.

With WORKSHOP_REAL_DATA=DIR the same loaders are held to the counts of the real files.
"""

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from workshop_lib import WorkshopError
from workshop_lib.corpora import hub, public, reading
from workshop_lib.corpora.reading import Loaded, Skip, read_json_lines, read_lines, read_parquet, read_table

REAL = os.environ.get("WORKSHOP_REAL_DATA")
real_data = pytest.mark.skipif(not REAL, reason="WORKSHOP_REAL_DATA가 실제 자료 폴더를 가리킬 때만 돈다")


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def balanced(loaded: Loaded) -> bool:
    return loaded.read == len(loaded.rows) + len(loaded.skipped)


# --- read_lines ------------------------------------------------------------------------------------------------


def test_lines_end_only_at_newlines(tmp_path):
    path = put(tmp_path / "a.txt", "\ufeff첫 줄\r\n둘째\u2028줄\x85끝\r\n\r\n마지막")
    assert list(read_lines(path)) == [(1, "첫 줄"), (2, "둘째\u2028줄\x85끝"), (3, ""), (4, "마지막")]


@pytest.mark.parametrize("encoding", ["euc-kr", "cp949", "utf-8"])
def test_encoding_is_found(tmp_path, encoding):
    text = "동백꽃이 피었다\r\n뻐꾸기가 울었다\r\n" + ("똠방각하 펲시\r\n" if encoding != "euc-kr" else "")
    path = put(tmp_path / "a.txt", text.encode(encoding))
    assert "\n".join(line for _, line in read_lines(path)) + "\n" == text.replace("\r\n", "\n")


def test_encoding_is_found_behind_a_megabyte_of_ascii(tmp_path):
    head = b"plain ascii line\n" * 150_000
    assert reading.detect_encoding(put(tmp_path / "a.txt", head + "가나다\n".encode("cp949"))) == "cp949"
    assert reading.detect_encoding(put(tmp_path / "b.txt", head + "가나다\n".encode())) == "utf-8"
    assert reading.detect_encoding(put(tmp_path / "c.txt", head)) == "utf-8"


def test_encoding_sample_may_end_inside_a_character(tmp_path):
    for encoding in ("utf-8", "cp949"):
        for shift in range(3):
            path = put(tmp_path / "a.txt", b"x" * shift + "가".encode(encoding) * 700_000)
            assert reading.detect_encoding(path) == encoding


def test_bad_bytes_are_reported_with_their_line(tmp_path):
    path = put(tmp_path / "a.txt", "좋은 줄\n".encode() + b"\xff\xfe\xfd \xed\x95\n" + "nul\0줄\n끝\n".encode())
    skipped: list[Skip] = []
    assert [number for number, _ in read_lines(path, skipped)] == [1, 4]
    assert [skip.line for skip in skipped] == [2, 3]
    assert "읽히지 않는" in skipped[0].reason and "NUL" in skipped[1].reason
    with pytest.raises(WorkshopError, match=r"a\.txt 2번째 줄"):
        list(read_lines(path))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.txt", None, "파일이 없다"), ("empty.txt", b"", "빈 파일"), ("folder", "folder", "폴더"),
    ("image.txt", b"\x89PNG\xff\xff\n\xfe\xfe\x80\xff\n" * 50, "읽히지 않는다"), ("wide.txt", "가나".encode("utf-16"), "UTF-16"),
])
def test_what_is_no_text_file_is_refused_in_korean(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkshopError, match=message) as caught:
        list(read_lines(path, []))
    assert str(path) in str(caught.value)


def test_a_giant_line_is_reported_and_never_held(tmp_path):
    """A sparse file with one line of 400 MB between two short ones: peak memory stays far below it."""
    path = tmp_path / "giant.txt"
    with path.open("wb") as file:
        file.write("앞\n".encode())
        file.seek(400 * 2**20)
        file.write("\n뒤\n".encode())
    code = f"""
        import json, resource
        from workshop_lib.corpora.reading import read_lines
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        skipped = []
        lines = list(read_lines({str(path)!r}, skipped))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([lines, [[skip.line, skip.reason] for skip in skipped], (after - before) / 1024]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    lines, skipped, grown_mb = json.loads(done.stdout)
    assert lines == [[1, "앞"], [3, "뒤"]]
    assert skipped == [[2, "한 줄이 400 MB로 너무 길다(최대 64 MB)"]]
    assert grown_mb < 200


def test_broken_json_lines_are_reported_with_file_and_line(tmp_path):
    lines = ['{"text": "하나"}', "", '{"text": "둘"', "[1, 2]", '{"text": "\\ud800"}', "[" * 100_000, '{"text": "셋"}']
    path = put(tmp_path / "a.jsonl", "\n".join(lines))
    skipped: list[Skip] = []
    assert [(number, row["text"]) for number, row in read_json_lines(path, skipped)] == [(1, "하나"), (7, "셋")]
    assert [skip.line for skip in skipped] == [3, 4, 5, 6]
    with pytest.raises(WorkshopError, match=r"a\.jsonl 3번째 줄: JSON 형식이 아니다"):
        list(read_json_lines(path))


def test_tables_with_lone_quotes_lose_nothing(tmp_path):
    """The csv module's default quoting swallows the rows between two lone quotes."""
    path = put(tmp_path / "a.tsv", "sentence1\tsentence2\tgold_label\n"
               '"그는 갔다\t갔다\tentailment\n왔다\t"왔다\tneutral\n셋\t칸이 모자라다\n')
    loaded = public.kornli(path)
    assert [row["premise"] for row in loaded.rows] == ['"그는 갔다', "왔다"] and balanced(loaded)
    assert [(skip.line, skip.reason) for skip in loaded.skipped] == [(4, "열이 3개여야 하는데 2개이다")]


def test_korsts(tmp_path):
    path = put(tmp_path / "sts.tsv", "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
               'news\tf\t2012\t1\t4.2\t"개가 뛴다\t개가 달린다\nnews\tf\t2012\t2\t높음\t가\t나\n')
    loaded = public.korsts(path)
    assert loaded.rows == [{"sentence1": '"개가 뛴다', "sentence2": "개가 달린다", "score": 4.2}]
    assert balanced(loaded) and loaded.skipped[0].line == 3


def test_an_open_quote_spoils_one_csv_row(tmp_path):
    path = put(tmp_path / "a.csv", 'a,b\n1,"둘, 셋"\n"열린,따옴표\n3,"큰 ""따옴표"""\n')
    skipped: list[Skip] = []
    assert [row["b"] for _, row in read_table(path, ("a", "b"), skipped, ",")] == ["둘, 셋", '큰 "따옴표"']
    assert [skip.line for skip in skipped] == [3]


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(WorkshopError, match="label 열이 없다"):
        list(read_table(put(tmp_path / "a.tsv", "id\tdocument\n1\t글\n"), ("id", "document", "label"), []))


def test_an_account_that_does_not_add_up_is_an_error():
    with pytest.raises(AssertionError):
        Loaded(rows=[{}], read=3, skipped=[])


# --- the sets ----------------------------------------------------------------------------------------------------


def nsmc_file(folder: Path, split: str, *documents: str, labels: str | None = None) -> Path:
    labels = labels or "1" * len(documents)
    lines = [f"{i}\t{document}\t{label}" for i, (document, label) in enumerate(zip(documents, labels, strict=True))]
    return put(folder / f"nsmc/ratings_{split}.txt", "id\tdocument\tlabel\n" + "\n".join(lines) + "\n")


def test_nsmc(tmp_path):
    filler, dots = "정말 \u3164\u3146\u315e\u3145!", "음\u11a2\u11a2\u11a2 글쎄"
    nsmc_file(tmp_path, "train", '"최고', "", "재밌다", '끝"', "재밌다", "\u3164 ", filler, dots, ">ㅁ<b>", "보통", "보통",
              labels="11110111x01"[:11])
    loaded = public.nsmc(tmp_path, "train")
    assert balanced(loaded) and loaded.read == 11
    assert [row["document"] for row in loaded.rows] == ['"최고', "재밌다", '끝"', "재밌다", filler, dots, "보통", "보통"]
    assert {skip.line: skip.reason for skip in loaded.skipped} == {
        3: "빈 리뷰이다", 7: "빈 리뷰이다", 10: "라벨이 0이나 1이 아니라 'x'이다"}
    assert loaded.notes == {"되풀이된 글": 2, "라벨이 엇갈린 글": 2, "따옴표를 고친 글": 0}


@pytest.mark.parametrize(("written", "meant"), [
    ('"""좋다 """"정말"""" 좋다"""', '좋다 "정말" 좋다'),
    ('"""""""처음부터 끝까지"""""""', '"처음부터 끝까지"'),
    ('"""통째로 따온 말"""', '"통째로 따온 말"'),
    ('"그 말" 하나로 "끝"', '"그 말" 하나로 "끝"'),
    ('"명대사"', '"명대사"'), ('""', '""'), ('"', '"'), ('짱통쾌!""', '짱통쾌!""'),
])
def test_quotes_are_undone_as_often_as_they_were_doubled(written, meant):
    assert public.undouble_quotes(written) == meant


def nli_item(number: int, origin: str, **changes) -> dict:
    return {"guid": f"g{number}", origin: "wiki", "premise": "비가 온다.", "hypothesis": "날씨가 맑다.",
            "gold_label": "contradiction"} | changes


def test_klue_nli_calls_the_origin_source_in_both_splits(tmp_path):
    put(tmp_path / "klue/klue-nli-v1.1_train_first2.json", json.dumps([nli_item(0, "genre"), nli_item(1, "genre", gold_label="?")]))
    put(tmp_path / "klue/klue-nli-v1.1_dev.json", json.dumps([nli_item(2, "source"), {"guid": "broken"}]))
    train, dev = public.klue_nli(tmp_path, "train"), public.klue_nli(tmp_path, "dev")
    assert [row["source"] for row in train.rows + dev.rows] == ["wiki", "wiki"]
    assert balanced(train) and balanced(dev) and len(train.skipped) == len(dev.skipped) == 1
    assert "열쇠가 없다" in dev.skipped[0].reason


def test_a_truncated_json_array_is_refused(tmp_path):
    put(tmp_path / "klue/klue-nli-v1.1_dev.json", json.dumps([nli_item(0, "source")] * 3, indent=1)[:-60])
    with pytest.raises(WorkshopError, match=r"dev\.json: JSON 형식이 아니다.*번째 줄"):
        public.klue_nli(tmp_path, "dev")


def test_klue_sts_crlf_and_annotators(tmp_path):
    item = {"guid": "s0", "source": "airbnb-rtt", "sentence1": "방이 넓다.", "sentence2": "넓은 방이다.",
            "labels": {"label": 4.5, "real-label": 4.43, "binary-label": 1}, "annotations": {"annotations": [5, 4, 5]}}
    put(tmp_path / "klue/klue-sts-v1.1_dev.json", json.dumps([item, item | {"labels": {"label": 9}}], indent=2).replace("\n", "\r\n"))
    loaded = public.klue_sts(tmp_path, "dev")
    assert loaded.rows[0]["scores"] == [5, 4, 5] and loaded.rows[0]["labels"]["real-label"] == 4.43
    assert balanced(loaded) and len(loaded.skipped) == 1


def test_ynat_from_both_packagings(tmp_path):
    put(tmp_path / "a/klue/ynat_train_data.csv", 'index,title,topic_idx\n0,"코스피, 반등",1\n1,美 대선…,4\n2,제목,9\n')
    put(tmp_path / "b/klue/ynat-v1.1_train.json", json.dumps([{"guid": "y0", "title": "코스피, 반등", "label": "경제"}]))
    csv, array = public.ynat(tmp_path / "a"), public.ynat(tmp_path / "b")
    assert [(row["title"], row["label"]) for row in csv.rows] == [("코스피, 반등", "경제"), ("美 대선…", "세계")]
    assert balanced(csv) and csv.skipped[0].line == 4
    assert array.rows[0]["label"] == "경제"


def test_boolq_and_chatbot_with_crlf(tmp_path):
    put(tmp_path / "kobest/BoolQ_dev.tsv", "ID\tText\tQuestion\tAnswer\r\n"
        '1\t"하나"의 글\t맞나?\tTrue\r\n2\t글\t맞나?\tFalse\r\n3\t글\t?\t몰라\r\n')
    put(tmp_path / "chatbot/ChatbotData.csv", 'Q,A,label\r\n안녕,반가워요.,0\r\n안녕,반가워요.,"2   "\r\n"음, 글쎄",네.,1\r\n')
    answers, chat = public.boolq(tmp_path, "dev"), public.chatbot(tmp_path)
    assert [row["label"] for row in answers.rows] == [1, 0] and answers.rows[0]["paragraph"] == '"하나"의 글'
    assert [row["label"] for row in chat.rows] == [0, 2, 1] and chat.notes == {"되풀이된 짝": 1}
    assert balanced(answers) and balanced(chat) and answers.skipped[0].line == 4


def test_square_pairs(tmp_path):
    item = {"question": "어떻게 생각하니?", "response": "여러 의견이 있다.", "acceptable?": 1, "question_category": "contentious"}
    put(tmp_path / "preference/square_x.json", json.dumps([item, item | {"response": "싫다.", "acceptable?": 0}]))
    pairs = public.square_pairs(public.square(tmp_path).rows)
    assert pairs == [{"prompt": "어떻게 생각하니?", "chosen": "여러 의견이 있다.", "rejected": "싫다."}]


# --- pretraining text ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    nsmc_file(tmp_path, "train", "재미있다", "별로다")
    nsmc_file(tmp_path, "test", "시험용 리뷰")
    rows = [json.dumps({"text": f"{i}번째 글이다. 오늘은 날이 맑았다.", "source": "wiki"}, ensure_ascii=False) for i in range(400)]
    put(tmp_path / "prose/a.jsonl", "\n".join([*rows, rows[0], '{"title": "글이 없다"}', '{"text": " \u3164"}', "{"]))
    put(tmp_path / "more/novel.txt", "동백꽃\r\n\r\n점순이가 왔다.\r\n".encode("euc-kr"))
    put(tmp_path / "klue/readme.txt", "말뭉치가 아니다")
    return tmp_path


def test_documents_and_validation_share_nothing(folder):
    skipped: list[Skip] = []
    train, validation = list(public.documents(folder, skipped)), list(public.validation_documents(folder, []))
    assert not {row["id"] for row in train} & {row["id"] for row in validation}
    assert not {row["text"] for row in train} & {row["text"] for row in validation}
    prose = [row for row in validation if row["source"] == "wiki"]
    assert len(train) + len(validation) == 401 + 3 + 1 and 8 <= len(prose) <= 34
    assert [skip.line for skip in skipped] == [402, 403, 404]
    assert {row["source"] for row in train} == {"wiki", "nsmc", "novel"}
    assert next(row["text"] for row in train if row["source"] == "novel") == "동백꽃\n\n점순이가 왔다."
    assert train == list(public.documents(folder, []))


def test_documents_do_not_change_sides_when_a_file_is_renamed(folder):
    before = {row["text"] for row in public.validation_documents(folder, [])}
    (folder / "prose/a.jsonl").rename(folder / "prose/z.jsonl")
    assert {row["text"] for row in public.validation_documents(folder, [])} == before


def test_skipped_rows_without_a_list_are_warned_of(folder):
    with pytest.warns(UserWarning, match="행 3개를 건너뛰었다"):
        list(public.documents(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(public.documents(folder, []))


def test_long_text_files_are_cut_at_blank_lines_and_lose_nothing(tmp_path):
    paragraphs = [f"{i}번째 문단이다. " * 30 for i in range(400)]
    put(tmp_path / "book.txt", "\n\n".join(paragraphs))
    rows = [*public.documents(tmp_path, []), *public.validation_documents(tmp_path, [])]
    rows.sort(key=lambda row: int(row["text"].split("번")[0]))
    assert len(rows) > 3 and max(len(row["text"]) for row in rows) < 45_000
    assert "".join("".join(row["text"].split()) for row in rows) == "".join("".join(paragraphs).split())


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["하나", None, "둘"]}), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"body": ["하나"]}), tmp_path / "b.parquet")
    put(tmp_path / "c.parquet", b"PAR1 broken")
    assert list(read_parquet(tmp_path / "a.parquet")) == [(1, "하나"), (2, None), (3, "둘")]
    with pytest.raises(WorkshopError, match="'text' 열이 없다.*body"):
        list(read_parquet(tmp_path / "b.parquet"))
    with pytest.raises(WorkshopError, match="Parquet"):
        list(read_parquet(tmp_path / "c.parquet"))
    for name in ("b", "c"):
        (tmp_path / f"{name}.parquet").unlink()
    skipped: list[Skip] = []
    texts = [row["text"] for rows in (public.documents(tmp_path, skipped), public.validation_documents(tmp_path, [])) for row in rows]
    assert sorted(texts) == ["둘", "하나"] and skipped[0].line == 2


def test_benchmark_texts(folder):
    put(folder / "klue/klue-nli-v1.1_dev.json", json.dumps([nli_item(0, "source")]))
    put(folder / "kobest/BoolQ_dev.tsv", "ID\tText\tQuestion\tAnswer\r\n1\t글이다.\t맞나?\tTrue\r\n")
    put(folder / "kobest/BoolQ_train.tsv", "ID\tText\tQuestion\tAnswer\r\n1\t학습용.\t맞나?\tTrue\r\n")
    assert [row["text"] for row in public.benchmark_texts(folder)] == ["시험용 리뷰", "비가 온다.", "날씨가 맑다.", "글이다.", "맞나?"]


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="사전학습에 쓸 글이 없다"):
        list(public.documents(tmp_path))
    with pytest.raises(WorkshopError, match="폴더가 없다"):
        list(public.documents(tmp_path / "none"))
    with pytest.raises(WorkshopError, match="ratings_train.txt 파일이 없다"):
        public.nsmc(tmp_path, "train")


def test_check_tells_the_account(folder, capsys):
    put(folder / "chatbot/ChatbotData.csv", "질문,답\n")
    assert not public.check(folder)  # one set cannot be read
    out = capsys.readouterr().out
    assert "✅ nsmc/ratings_train.txt: 읽음 2 · 남김 2 · 건너뜀 0" in out
    assert "❌ chatbot/ChatbotData.csv" in out and "✅ prose/a.jsonl: 읽음 404 · 남김 401 · 건너뜀 3" in out


# --- the Hub -------------------------------------------------------------------------------------------------------


def fake_hub(*arguments, **options):
    name, split = arguments[-1], options["split"]
    if name == "e9t/nsmc":
        return [{"id": "1", "document": f'"{split}"\t리뷰', "label": 1}, {"id": "2", "document": None, "label": 0}]
    if name == "boolq":
        return [{"paragraph": "글\n이다.", "question": "맞나?", "label": 1}]
    if name == "nli":
        return [{"guid": "n0", "source": "wiki", "premise": "가", "hypothesis": "나", "label": 2}]
    if name == "sts":
        return [{"guid": "s0", "source": "wiki", "sentence1": "가", "sentence2": "나",
                 "labels": {"label": 3.0, "real-label": 3.0, "binary-label": 1}}]
    if name == "ynat":
        return [{"guid": "y0", "title": "제목", "label": 5}]
    assert options["streaming"]
    return ({"text": f"{i}번째 문서", "title": "제목"} for i in range(hub.WIKIPEDIA_DOCUMENTS + 5))


def test_what_comes_from_the_hub_is_what_the_loaders_read(tmp_path, capsys):
    written = public.download(tmp_path, ("nsmc", "klue", "kobest", "wikipedia"), load=fake_hub)
    assert len(written) == 12 and all(path.exists() for path in written)
    assert not list(tmp_path.rglob("*.part"))
    loaded = public.nsmc(tmp_path, "test")
    assert loaded.rows[0]["document"] == '"test" 리뷰' and loaded.skipped[0].reason == "빈 리뷰이다"
    assert public.klue_nli(tmp_path, "train").rows[0]["gold_label"] == "contradiction"
    assert public.klue_nli(tmp_path, "dev").rows[0]["source"] == "wiki"
    assert public.klue_sts(tmp_path, "dev").rows[0]["labels"]["label"] == 3.0
    assert public.ynat(tmp_path, "train").rows[0]["label"] == "스포츠"
    assert public.boolq(tmp_path, "test").rows[0] == {"id": "1", "paragraph": "글 이다.", "question": "맞나?", "label": 1}
    assert sum(row["source"] == "wikipedia" for row in public.documents(tmp_path, [])) > 18_000
    assert public.download(tmp_path, load=lambda *a, **k: pytest.fail("a complete file is fetched again")) == []


def test_no_network_is_said_in_korean_and_leaves_nothing(tmp_path):
    def unreachable(*arguments, **options):
        raise ConnectionError("no route to host")

    with pytest.raises(WorkshopError, match="네트워크 연결을 확인"):
        public.download(tmp_path, load=unreachable)
    with pytest.raises(WorkshopError, match="'klu'이라는 자료는 모른다"):
        public.download(tmp_path, ("klu",), load=unreachable)

    def dropped(*arguments, **options):
        yield {"id": "1", "document": "리뷰", "label": 1}
        raise KeyError("label")

    with pytest.raises(WorkshopError, match="형식이 바뀌었으니"):
        public.download(tmp_path, ("nsmc",), load=dropped)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- the real files ------------------------------------------------------------------------------------------------


@real_data
def test_real_counts():
    train, test = public.nsmc(REAL, "train"), public.nsmc(REAL, "test")
    assert (train.read, len(train.skipped), test.read, len(test.skipped)) == (150_000, 5, 50_000, 3)
    # The 5 empty rows are 4 of the 3,817 repeated texts, and one of the 158 with conflicting labels.
    assert train.notes == {"되풀이된 글": 3_813, "라벨이 엇갈린 글": 157, "따옴표를 고친 글": 623}
    seen = {row["document"] for row in train.rows}
    assert sum(row["document"] in seen for row in test.rows) in (1_568, 1_571)  # 1,571 with the three empty ones
    assert len(public.klue_nli(REAL, "dev").rows) == 3_000 and len(public.klue_nli(REAL, "train").rows) == 5_000
    assert len(public.klue_sts(REAL, "dev").rows) == 519 and len(public.boolq(REAL, "dev").rows) == 700
    assert len(public.ynat(REAL).rows) == 12_000
    chat = public.chatbot(REAL)
    assert len(chat.rows) == 11_823 and chat.notes == {"되풀이된 짝": 73}
    assert len(public.square_pairs(public.square(REAL).rows)) == 107


@real_data
def test_real_documents():
    train, validation = list(public.documents(REAL, [])), list(public.validation_documents(REAL, []))
    prose = {row["id"] for row in train if row["source"] != "nsmc"}, {row["id"] for row in validation if row["source"] != "nsmc"}
    assert not prose[0] & prose[1]
    total = sum(row["source"] != "nsmc" for row in train + validation)
    assert total == 1_983 + 2 and 0.03 < len(prose[1]) / total < 0.07
    texts = [row["text"] for row in train if row["source"].startswith("kimyujeong")]
    assert len(texts) == 2 and texts[0] == texts[1]  # EUC-KR and UTF-8 bytes of the same story
