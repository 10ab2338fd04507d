"""Two editions from one source: they agree, no solution leaks, and a wrong answer changes nothing but the line that is printed."""

import ast
import json

import pytest

from workshop_lib import WorkshopError, notebooks
from workshop_lib.exercises import Exercise, Mistake, find

SOURCES = notebooks.sources()
IDS = [path.stem for path in SOURCES]


def cell(source, kind="code", cell_id="a"):
    extra = {"outputs": [], "execution_count": 1} if kind == "code" else {}
    return {"cell_type": kind, "id": cell_id, "metadata": {}, "source": source.splitlines(keepends=True), **extra}


def add_one(x):
    return x + 1


EXERCISE = Exercise("add_one", "하나 더하기", 2, 5, add_one, lambda: [(1,)], ("더한다.", "`x + 1`"),
                    (Mistake(lambda x: x, "그대로다."),))
ANSWER = "def add_one(x):\n    ### BEGIN SOLUTION\n    return x + 1\n    ### END SOLUTION"
CHECKING = "add_one = check(add_one)"


def edition(*cells):
    return notebooks.student_edition({"cells": list(cells), "metadata": {}}, [EXERCISE], "test.ipynb")


def test_the_student_edition_holds_a_stub_and_folded_hints_instead_of_the_answer():
    built = edition(cell(ANSWER), cell(CHECKING, cell_id="b"))
    hint, stub, checking = ("".join(c["source"]) for c in built["cells"])
    assert "return x + 1" not in stub and "raise NotImplementedError" in stub
    assert hint.count("<details>") == 2 and "●●○○○" in hint and "5분" in hint
    assert checking == CHECKING
    assert [c["id"] for c in built["cells"]] == ["a-hints", "a", "b"]


def test_the_stub_is_pending_for_the_check():
    namespace = {}
    exec(notebooks.strip_solution(ANSWER), namespace)
    with pytest.raises(NotImplementedError):
        namespace["add_one"](1)


def test_a_top_level_region_becomes_an_ellipsis():
    source = "### BEGIN SOLUTION\nrate = 0.1\n### END SOLUTION\nprint(rate)"
    assert notebooks.strip_solution(source) == "rate = ...\nprint(rate)"


@pytest.mark.parametrize("cells, words", [
    ([cell(ANSWER)], "check 셀이 없다"),
    ([cell(ANSWER.replace("    ### END SOLUTION", "")), cell(CHECKING)], "짝이 맞지 않는다"),
    ([cell(ANSWER.replace("add_one", "other")), cell(CHECKING)], "선언된 문제"),
])  # fmt: skip
def test_a_broken_source_is_refused(cells, words):
    with pytest.raises(WorkshopError, match=words):
        edition(*cells)


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "week01_x.ipynb"
    for content in ("", "[]", "{}"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(WorkshopError, match="노트북 파일이 아니다"):
            notebooks.read(path)


def test_both_editions_agree():
    assert notebooks.build(check_only=True) == []


def test_the_check_sees_an_edited_student_edition(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    assert len(notebooks.build(check_only=True)) == len(SOURCES)
    notebooks.build()
    assert notebooks.build(check_only=True) == []
    (tmp_path / SOURCES[-1].name).write_text("{}", encoding="utf-8")
    (tmp_path / "week99_extra.ipynb").write_text("{}", encoding="utf-8")
    assert len(notebooks.build(check_only=True)) == 2


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_the_source_is_executed_in_order_and_its_solutions_pass(path):
    assert notebooks.problems_in(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_no_solution_leaks_into_the_student_edition(path):
    student = (notebooks.NOTEBOOKS / path.name).read_text(encoding="utf-8")
    assert "SOLUTION" not in student
    code = "\n".join("".join(c["source"]) for c in json.loads(student)["cells"] if c["cell_type"] == "code")
    for source in notebooks.read(path)["cells"]:
        text = "".join(source["source"])
        if notebooks.BEGIN in text:
            answer = text.split(notebooks.BEGIN)[1].split(notebooks.END)[0]
            lines = [line for line in answer.strip().splitlines() if len(line.strip()) > 20]
            assert not any(line in code for line in lines)
    assert all(not c["outputs"] for c in json.loads(student)["cells"] if c["cell_type"] == "code")


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_unsolved_or_wrong_the_notebook_goes_on_with_the_same_function(path, capsys):
    """Unsolved, nbval executes the whole student edition; a wrong answer gets its hint and then changes nothing."""
    declared, namespace = {exercise.name: exercise for exercise in find(int(path.name[4:6]))}, {}
    for c in notebooks.read(notebooks.NOTEBOOKS / path.name)["cells"]:
        source = "".join(c["source"]) if c["cell_type"] == "code" else ""
        imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), path.name, "exec"), namespace)
        if "raise NotImplementedError" in source:
            exec(source, namespace)
        for name in notebooks.CHECK.findall(source):
            exercise = declared.pop(name)
            mistake = exercise.mistakes[0]
            for student, verdict in ((namespace[name], "⬜"), (_renamed(mistake.wrong, name), f"❌ {mistake.hint}")):
                namespace[name] = student
                exec(source, namespace)
                assert capsys.readouterr().out.startswith(verdict) and namespace[name] is exercise.reference
    assert not declared


def _renamed(function, name):
    def renamed(*args, **kwargs):
        return function(*args, **kwargs)

    renamed.__name__ = name
    return renamed
