"""A folder of student notebooks: honest work passes, nothing else does, and no notebook stops the others from being graded."""

import contextlib
import csv
import json
import os
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, cli, grading, grading_worker, notebooks, submission
from workshop_lib.exercises import decide, find, outcomes
from workshop_lib.grading_worker import decode, encode

WEEK3 = next(notebooks.NOTEBOOKS.glob("week03_*.ipynb"))
SOLUTION3 = notebooks.SOLUTIONS / WEEK3.name
GOOD = {
    "count_pairs": "def count_pairs(words):\n    out = {}\n    for w, n in words.items():\n        for k in range(len(w) - 1):\n"
                   "            out[w[k], w[k + 1]] = out.get((w[k], w[k + 1]), 0) + n\n    return out",
    "merge_pair": "def merge_pair(ids, pair, new_id):\n    out = []\n    i = 0\n    while i < len(ids):\n"
                  "        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == tuple(pair):\n"
                  "            out.append(new_id)\n            i += 2\n"
                  "        else:\n            out.append(ids[i])\n            i += 1\n    return out",
    "chars_per_token": "def chars_per_token(texts, encode):\n    return sum(map(len, texts)) / sum(len(encode(t)) for t in texts)",
}  # fmt: skip
OTHERS = {name: text for name, text in GOOD.items() if name != "merge_pair"}


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch):
    monkeypatch.setattr(grading_worker, "CASES_LIMIT", 1.0)
    monkeypatch.setattr(grading_worker, "PREPARE_LIMIT", 10.0)


def handed_in(path, answers, before=(), after=(), keep=lambda source: True):
    """The student edition of week 3 with some answers filled in, cells before and after, and only the cells that are kept."""
    notebook = notebooks.read(WEEK3)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for name, text in answers.items():
            if cell["cell_type"] == "code" and f"def {name}(" in source:
                cell["source"] = text
    code = [dict(cell_type="code", id=f"x{n}", metadata={}, source=text, outputs=[], execution_count=None)
            for n, text in enumerate([*before, *after])]  # fmt: skip
    notebook["cells"] = [*code[: len(before)], *(c for c in notebook["cells"] if keep("".join(c["source"]))), *code[len(before) :]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebooks.dumps(notebook), encoding="utf-8")
    return path


def states(sheet):
    return {mark.exercise: mark.state for mark in sheet.marks}


def graded(tmp_path, answers, **more):
    sheet = grading.grade_notebook(handed_in(tmp_path / "a" / WEEK3.name, answers, **more))
    return {mark.exercise: mark for mark in sheet.marks}


# --- honest work ---------------------------------------------------------------------------------------------------------


QUICK = [pytest.param(path, marks=[] if path.name[4:6] in ("03", "05") else pytest.mark.slow) for path in notebooks.sources()]


@pytest.mark.parametrize("path", QUICK, ids=lambda path: path.stem)
def test_the_solution_edition_passes_and_the_untouched_student_edition_is_pending(path):
    solved = grading.grade_notebook(path)
    assert set(states(solved).values()) == {"passed"} and not solved.answers
    assert set(states(grading.grade_notebook(notebooks.NOTEBOOKS / path.name)).values()) == {"pending"}


def test_an_own_answer_passes_and_what_is_left_is_pending(tmp_path):
    marks = graded(tmp_path, GOOD)
    assert {name for name, mark in marks.items() if mark.state == "passed"} == GOOD.keys()
    assert {mark.state for name, mark in marks.items() if name not in GOOD} == {"pending"}
    assert marks["merge_pair"].points == marks["merge_pair"].out_of == 2 and not marks["merge_pair"].note


def test_a_wrong_answer_gets_the_hint_of_its_mistake(tmp_path):
    wrong = "def count_pairs(words):\n    return {}"
    mark = graded(tmp_path, {"count_pairs": wrong})["count_pairs"]
    own = next(e for e in find(3) if e.name == "count_pairs")
    assert mark.state == "failed" and mark.points == 0
    assert mark.why == decide(own, list(outcomes(lambda words: {}, own.cases())), True).message


def test_helpers_constants_and_imports_of_other_cells_are_found(tmp_path):
    answer = "def count_pairs(words):\n    return tally(words, START)"
    before = ["import collections as c\nSTART = 1", "%matplotlib inline\nSTART -= 1\nimport nowhere_to_be_found",
              "raise RuntimeError('앞 셀')", "text = open('/no/such/file').read()"]
    after = ["def tally(words, start):\n    found = c.Counter()\n    for text, n in words.items():\n        for p in zip(text, text[1:]):\n"
             "            found[p] += n + start\n    return dict(found)"]
    assert graded(tmp_path, {"count_pairs": answer}, before=before, after=after)["count_pairs"].state == "passed"


def test_what_builds_on_a_wrong_answer_is_judged_on_its_own(tmp_path):
    sources = ["".join(cell["source"]) for cell in notebooks.read(SOLUTION3)["cells"]]
    solved = next(source for source in sources if "def train_bpe_naive" in source)
    marks = graded(tmp_path, {"train_bpe_naive": solved, "merge_pair": "def merge_pair(ids, pair, new_id):\n    return ids"})
    assert (marks["merge_pair"].state, marks["train_bpe_naive"].state) == ("failed", "passed")


def test_check_cells_may_be_deleted_or_renamed(tmp_path):
    without = graded(tmp_path, GOOD, keep=lambda source: "check(" not in source and "import check" not in source)
    assert {name for name, mark in without.items() if mark.state == "passed"} == GOOD.keys()
    renamed = graded(tmp_path, GOOD, after=["my_merge = check(merge_pair)"], keep=lambda source: "check(" not in source)
    assert renamed["merge_pair"].state == "passed"


def test_the_last_definition_that_is_no_stub_counts(tmp_path):
    stub = "def merge_pair(ids, pair, new_id):\n    raise NotImplementedError"
    assert graded(tmp_path, {}, before=[GOOD["merge_pair"]])["merge_pair"].state == "passed"
    assert graded(tmp_path, GOOD, before=["def merge_pair(a, b, c):\n    return 0"], after=[stub])["merge_pair"].state == "passed"


def test_a_deleted_or_renamed_function_is_missing_and_a_broken_one_is_wrong(tmp_path):
    answers = {"merge_pair": "def merge_two(ids, pair, new_id):\n    return ids", "decode": "def decode(ids, tokens)\n    return ''"}
    marks = graded(tmp_path, answers)
    assert marks["merge_pair"].state == "missing" and marks["decode"].state == "failed" and "문법 오류" in marks["decode"].why


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["cells", "cell_type", "source", "id", "code"]), inner | st.just("code")), max_leaves=20)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(JSON, st.text(alphabet="def f(x):\n return[]{}'\"%!?\\#=.,0ab@", max_size=60))
def test_reading_ends_in_a_submission_or_a_message(tmp_path_factory, anything, source):
    path = tmp_path_factory.getbasetemp() / "any.ipynb"
    for content in (anything, {"cells": anything}, {"cells": [{"cell_type": "code", "id": "a", "source": source}]}):
        path.write_text(json.dumps(content), encoding="utf-8")
        with contextlib.suppress(WorkshopError):
            assert submission.read(path).week is None


def test_results_come_through_the_pipe_as_they_were():
    for week in range(1, 10):
        for exercise in find(week):
            for function in (exercise.reference, exercise.mistakes[0].wrong):
                got = list(outcomes(function, exercise.cases()))
                sent = [decode(json.loads(json.dumps(encode(outcome)))) for outcome in got]
                assert decide(exercise, sent, True).state == decide(exercise, got, True).state, (week, exercise.name)


# --- what would stop a simple grader ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body, words", [
    ("while True: pass", "끝나지 않았다"),
    ("while True:\n        try:\n            pass\n        except BaseException:\n            pass", "끝나지 않았다"),
    ("import time; time.sleep(60)", "끝나지 않았다"),
    ("import os; os._exit(0)", "종료 코드 0"),
    ("import ctypes; ctypes.string_at(0)", "파이썬이 죽었다"),
    ("import sys; sys.exit(0)", "SystemExit"),
    ("return [0] * 10**13", "MemoryError"),
    ("return input()", "EOFError"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("import os; print('{\"done\": true}'); os.write(1, b'{\"done\": true}\\n'); return 0", "merge_pair("),
    ("a = []; a.append(a); return a", "merge_pair("),
])  # fmt: skip
def test_one_bad_function_costs_only_its_own_points(tmp_path, body, words):
    marks = graded(tmp_path, OTHERS | {"merge_pair": f"def merge_pair(ids, pair, new_id):\n    {body}"})
    assert marks["merge_pair"].state == "failed" and words in marks["merge_pair"].why
    assert all(marks[name].state == "passed" for name in OTHERS)


@pytest.mark.skipif(os.name != "posix", reason="the limit is the system's")
def test_memory_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(grading_worker, "MEMORY", 700_000_000)
    monkeypatch.setattr(grading_worker, "CASES_LIMIT", 10.0)
    hungry = "def merge_pair(ids, pair, new_id):\n    held = []\n    while True:\n        held.append(b'x' * 10_000_000)"
    marks = graded(tmp_path, OTHERS | {"merge_pair": hungry})
    assert marks["merge_pair"].state == "failed" and ("MemoryError" in marks["merge_pair"].why or "메모리" in marks["merge_pair"].why)
    assert all(marks[name].state == "passed" for name in OTHERS)


def test_a_cell_that_never_ends_is_run_only_where_it_is_needed(tmp_path):
    marks = graded(tmp_path, GOOD, before=["while True: pass"])
    assert marks["merge_pair"].state == "passed"


def test_a_notebook_has_its_time(tmp_path, monkeypatch):
    endless = {e.name: f"def {e.name}(*a, **k):\n    while True: pass" for e in find(3)}
    started = time.monotonic()
    sheet = grading.grade_notebook(handed_in(tmp_path / WEEK3.name, endless), timeout=3)
    assert time.monotonic() - started < 20
    assert {mark.state for mark in sheet.marks} == {"failed"} and "시간 한도" in sheet.marks[-1].why


# --- what would fool a simple grader ----------------------------------------------------------------------------------------

PATCH = "import workshop_lib.exercises as e\ne.same = e.decide = lambda *a: True\ne.judge = lambda *a: e.Verdict('passed', '통과')"


@pytest.mark.parametrize("answer, more", [
    ("def merge_pair(ids, pair, new_id):\n    print('✅ 통과: 쌍 합치기')", {}),
    ("def merge_pair(ids, pair, new_id):\n    return ids", {"before": ["def check(f):\n    print('✅ 통과')\n    return f"]}),
    ("def merge_pair(ids, pair, new_id):\n    return ids", {"before": [PATCH]}),
    ("def merge_pair(ids, pair, new_id):\n    " + PATCH.replace("\n", "\n    ") + "\n    return ids", {}),
    ("@check\ndef merge_pair(ids, pair, new_id):\n    return ids", {}),
    ("from workshop_lib.subwords import merge_pair", {}),
    ("merge_pair = check(lambda *a: None)", {}),
    ("from workshop_lib import subwords\ndef merge_pair(*a):\n    return subwords.merge_pair(*a)", {}),
    ("def merge_pair(*a):\n    from workshop_lib.subwords import merge_pair as m\n    return m(*a)", {}),
    ("from workshop_lib.subwords import merge_pair as m\nmerge_pair = m", {}),
    ("from workshop_lib.exercises import find\ndef merge_pair(*a):\n    return find(3)[2].reference(*a)", {}),
    ("class Same(list):\n    def __eq__(self, other):\n        return True\ndef merge_pair(*a):\n    return Same()", {}),
])  # fmt: skip
def test_a_trick_does_not_pass(tmp_path, answer, more):
    marks = graded(tmp_path, OTHERS | {"merge_pair": answer}, **more)
    assert marks["merge_pair"].state in ("failed", "missing") and marks["merge_pair"].points == 0
    assert all(marks[name].state == "passed" for name in OTHERS)


def test_a_student_sees_neither_the_instructors_environment_nor_writes_beside_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_instructor")
    spy = ("def merge_pair(*a):\n    import os, pathlib\n    pathlib.Path('left').write_text('x')\n"
           "    return [os.environ.get('HF_TOKEN'), os.path.expanduser('~')]")  # fmt: skip
    path = handed_in(tmp_path / "a" / WEEK3.name, {"merge_pair": spy})
    why = {mark.exercise: mark.why for mark in grading.grade_notebook(path).marks}["merge_pair"]
    assert "None" in why and os.path.expanduser("~") + "'" not in why
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- same answers ------------------------------------------------------------------------------------------------------------


def test_a_copied_answer_is_told_whatever_its_names_and_comments_are(tmp_path):
    disguised = (GOOD["merge_pair"].replace("out", "결과").replace("new_id", "n").replace("    i = 0", "    # 처음부터\n\n    i = 0")
                 .replace("):\n", "):\n    '''합친다'''\n", 1))  # fmt: skip
    handed_in(tmp_path / "가영" / WEEK3.name, GOOD)
    handed_in(tmp_path / "나래" / WEEK3.name, {"merge_pair": disguised, "chars_per_token": GOOD["chars_per_token"]})
    handed_in(tmp_path / "다온" / WEEK3.name, {"merge_pair": GOOD["merge_pair"].replace("i + 1 < len(ids) and ", "i < len(ids) - 1 and ")})
    (tmp_path / "라희").mkdir()
    (tmp_path / "라희" / WEEK3.name).write_bytes(SOLUTION3.read_bytes())
    (tmp_path / "마루").mkdir()
    (tmp_path / "마루" / WEEK3.name).write_bytes(SOLUTION3.read_bytes())
    book = grading.grade(tmp_path, tmp_path / "out", say=lambda line: None)
    assert [(pair.first, pair.second, pair.exercises) for pair in book.pairs] == [("가영", "나래", ("merge_pair",))]
    assert book.best("나래", 3).points > 0  # told, not punished
    assert "공개된 풀이와 같다" in {mark.note for mark in book.best("라희", 3).marks}


def test_stubs_and_one_line_answers_tell_nothing():
    import ast

    for source in ("def f(x):\n    '''말'''\n    raise NotImplementedError", "def f(x):\n    '''말'''\n    return x + 1", "def f(x): ..."):
        assert submission.fingerprint(ast.parse(source).body[0]) is None


# --- a folder as it comes ------------------------------------------------------------------------------------------------------


def test_a_folder_as_it_comes_is_graded_to_its_end(tmp_path, capsys):
    root = tmp_path / "제출"
    handed_in(root / unicodedata.normalize("NFD", "홍길동") / "깊은 폴더" / WEEK3.name, GOOD)
    handed_in(root / f"김영희_{WEEK3.name}", GOOD | {"merge_pair": "def merge_pair(ids, pair, new_id):\n    return None"})
    handed_in(root / "홍길동" / ".ipynb_checkpoints" / WEEK3.name, {})
    (root / "빈 폴더").mkdir()
    (root / "깨짐").mkdir()
    (root / "깨짐" / "3주차.ipynb").write_text('{"cells": [', encoding="utf-8")
    (root / "깨짐" / "week03_empty.ipynb").write_bytes(b"")
    (root / "깨짐" / "cp949.ipynb").write_bytes('{"cells": "한글"}'.encode("cp949"))
    other = {"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": "def decode(x):\n    return x"}], "metadata": {}}
    (root / "=HYPERLINK(1)").mkdir()
    (root / "=HYPERLINK(1)" / "<b>다른 강의.ipynb").write_text(json.dumps(other), encoding="utf-8")
    out = root / "grades"

    for _ in range(2):  # what was written is not graded the second time
        assert cli.main(["grade", str(root), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "홍길동 · " in said and "이 강의의 노트북이 아니다" in said

    assert (out / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader((out / "grades.csv").open(encoding="utf-8-sig")))
    assert {row["학생"] for row in rows} == {"홍길동", "김영희", "빈 폴더", "깨짐", "'=HYPERLINK(1)"}
    results = {(row["학생"], row["문제"], row["파일"].rpartition("/")[2]): row for row in rows}
    assert results["홍길동", "merge_pair", WEEK3.name]["결과"] == "통과"
    wrong = results["김영희", "merge_pair", f"김영희_{WEEK3.name}"]
    assert wrong["결과"] == "오답" and "None" in wrong["까닭"]
    assert results["빈 폴더", "merge_pair", ""]["까닭"] == "내지 않았다."
    assert "깨졌다" in results["깨짐", "merge_pair", "3주차.ipynb"]["까닭"]
    assert "빈 파일" in results["깨짐", "merge_pair", "week03_empty.ipynb"]["까닭"]
    assert results["깨짐", "", "cp949.ipynb"]["결과"] == "채점 안 함"

    totals = list(csv.reader((out / "totals.csv").open(encoding="utf-8-sig")))
    assert totals[0] == ["학생", "3주차", "합계"] and ["홍길동", "4", "4"] in totals and ["빈 폴더", "0", "0"] in totals
    page = (out / "grades.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;다른 강의" in page and "<b>다른" not in page and "홍길동" in page


@pytest.mark.parametrize("name, student", [
    ("홍길동_week03_tokenizer.ipynb", "홍길동"), ("week03_tokenizer_홍길동.ipynb", "홍길동"), ("홍길동 3주차.ipynb", "홍길동"),
    ("홍길동_12345_assignsubmission_file_week03_tokenizer.ipynb", "홍길동"), ("20251234-홍길동-week3.ipynb", "홍길동"),
    ("week03_tokenizer.ipynb", grading.NOBODY), ("week03_tokenizer (1).IPYNB", grading.NOBODY),
])  # fmt: skip
def test_the_student_is_what_a_file_name_says_besides_the_notebook(name, student):
    assert grading.student_in(name) == student


def test_a_folder_without_notebooks_is_refused(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "없음"):
        with pytest.raises(WorkshopError):
            grading.grade(folder, tmp_path / "out")
    (tmp_path / "제출.zip").write_bytes(b"")
    assert cli.main(["grade", str(tmp_path)]) == 1 and "먼저 푼다" in capsys.readouterr().err


def test_only_the_weeks_asked_for_are_graded_and_absent_ones_are_missing(tmp_path):
    handed_in(tmp_path / "가" / WEEK3.name, GOOD)
    book = grading.grade(tmp_path, tmp_path / "out", weeks=(2, 2), say=lambda line: None)
    assert book.best("가", 3) is None and {mark.state for mark in book.best("가", 2).marks} == {"missing"}


def test_two_at_once_give_the_same_marks(tmp_path):
    for student in "가나다":
        handed_in(tmp_path / student / WEEK3.name, GOOD | {"merge_pair": "def merge_pair(*a):\n    return 1"})
    one, two = (grading.grade(tmp_path, tmp_path / "out", jobs=jobs, say=lambda line: None) for jobs in (1, 3))
    assert [s.marks for s in one.sheets] == [s.marks for s in two.sheets] and one.pairs == two.pairs


def test_the_week_is_known_by_what_the_notebook_holds_and_not_by_its_name(tmp_path):
    assert submission.read(handed_in(tmp_path / "week09.ipynb", GOOD)).week == 3
    cells = [{"cell_type": "code", "metadata": {}, "source": "from workshop_lib.exercises.week03 import check"}]  # Colab drops the ids
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert submission.read(tmp_path / "x.ipynb").week == 3
