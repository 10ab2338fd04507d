"""Messy answers are read as a person would read them, and where a person would shrug, the answer is None."""

import csv
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, prompting
from workshop_lib.prompting import Example, extract_choice, extract_number, frame, multiple_choice, vote

CITIES = ["부산", "서울", "인천", "서울특별시 밖"]  # one choice contains another

MESSY = [
    ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B)", 1), ("B. 서울", 1), ("[B]", 1), (" B\n", 1), ("Ｂ", 1), ("Ⓑ", 1), ("②", 1),
    ("2", 1), ("2번", 1), ("2번입니다.", 1), ("2번이요", 1), ("답: B", 1), ("정답은 B", 1), ("정답: (B) 서울", 1), ("정답은 B입니다.", 1),
    ("정답은 **B** 입니다", 1), ("정답은 ②번이다.", 1), ("정답은 2이다.", 1), ("답은 2번.", 1), ("답 : b", 1), ("Answer: B", 1),
    ("The answer is (B).", 1), ("$\\boxed{B}$", 1), ("정답은 \\boxed{\\text{B}}", 1), ("정답은 서울이다.", 1), ("서울", 1),
    ("서울입니다", 1), ("수도는 서울이다.", 1), ("서울특별시 밖이다.", 3), ("B가 정답이다.", 1), ("따라서 B가 맞다.", 1),
    ("2번이 정답입니다.", 1), ("B가 답이라고 생각한다", 1), ("A는 항구 도시이다. C도 아니다. 따라서 정답은 B이다.", 1),
    ("처음에는 정답은 A라고 보았다. 다시 보니 정답은 B이다.", 1), ("정답은 A가 아니라 B이다.", 1), ("A가 아니라 B", 1),
    ("A는 틀렸다. B.", 1), ("A는 정답이 아니다. 남는 것은 B이다.", 1), ("오답은 A이고 정답은 B이다.", 1), ("정답은 B이고 A는 틀렸다.", 1),
    ("1988년 올림픽이 열린 곳이므로 정답은 B이다.", 1), ("3개 가운데 고르면 정답은 2번이다.", 1),
    ("단계별로 생각하자.\n1. 수도를 찾는다.\n2. 한강이 흐른다.\n정답: B", 1), ("<think>A일까? 정답은 A 같다.</think>정답은 B이다.", 1),
    ("<think>정답은 A", None), ("", None), ("   ", None), ("모르겠다.", None), ("정답이 없다.", None), ("A 또는 B", None),
    ("정답은 A 또는 B이다.", None), ("A, B", None), ("정답은 A와 B이다.", None), ("A와 B 모두 맞다.", None),
    ("A일 수도 있고 B일 수도 있다.", None), ("서울이나 부산이다.", None), ("정답은 E이다.", None), ("7번", None), ("1988년", None),
    ("Apple", None), ("Because", None), ("부산이 아니다.", None), ("A는 아니다.", None), ("대구", None),
    ("ㅋㅋㅋ 그걸 왜 나한테 물어", None), ("정답을 알 수 없다", None), ("(가)", None), ("A B C D", None), ("12345", None), ("2개", None),
    ("1. 수도를 찾는다.\n2. 한강이 흐른다.", None), ("B. A는 항구 도시이다.", 1), ("1. 부산", 0), ("The capital is a city.", None),
    ("A가 B보다 크다", None), ("D", 3), ("(d)", 3), ("정답은 4번 서울특별시 밖", 3), ("질문에 대한 답변: C", 2), ("C를 고른다.", 2),
    ("3번을 선택하겠습니다", 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "choice"), MESSY)
def test_choices_out_of_messy_answers(text, choice):
    assert extract_choice(text, CITIES) == choice


@given(st.integers(0, 3), st.sampled_from(["정답은 {}이다.", "답: {}", "{}", "그래서 {}가 정답이다.", "생각해 보면 이렇다.\n정답: ({})"]))
def test_every_choice_is_found_alike(which, said):
    """No letter is favoured: the test that a default of "A" fails."""
    assert extract_choice(said.format("ABCD"[which]), ["가", "나", "다", "라"]) == which


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_choice_or_none(text):
    found = extract_choice(text, CITIES)
    assert found is None or found in range(4)
    assert extract_number(text) is None or isinstance(extract_number(text), float)


def test_text_without_any_sign_gives_none():
    r = random.Random(0)
    for _ in range(300):
        assert extract_choice("".join(r.choice("거너더러머버 \n!?~") for _ in range(r.randrange(30))), CITIES) is None


NUMBERS = [
    ("42", 42), ("답은 42이다.", 42), ("3 + 4 = 7. 따라서 답은 7개이다.", 7), ("1,234원", 1234), ("답: 1,234,567", 1234567), ("-3", -3),
    ("3.5kg이 아니라 답은 2.5", 2.5), ("답은 7이다. 3과 4를 더했다.", 7), ("먼저 3을 더하고 4를 더하면 7", 7), ("10-3=7", 7),
    ("답: ７", 7), ("정답은 12 (3 곱하기 4)", 12), ("0.5", 0.5), ("답이 처음엔 5, 최종 답은 6", 6), ("", None), ("모르겠다", None),
    ("A4 용지", None), ("GPT2", None), ("오답", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_numbers_out_of_worked_answers(text, number):
    assert extract_number(text) == number


def test_votes():
    assert vote([3, None, 5, 5, None, 3, 3]) == 3 and vote(["b", "a", "a", "b"]) == "b"
    assert vote([None, None]) is None and vote([]) is None and vote([0, None]) == 0


def test_frames():
    example = Example("1 더하기 1은?", "2", "하나에 하나를 더한다.")
    assert frame("물은 어디서 어는가?") == "질문: 물은 어디서 어는가?\n답:"
    assert frame("가?", examples=[example]) == "질문: 1 더하기 1은?\n답: 2\n\n질문: 가?\n답:"
    steps = frame("가?", "steps", [example], form="답은 수로 쓴다.")
    assert steps.startswith("단계별로") and "풀이: 하나에 하나를 더한다.\n답: 2" in steps and steps.endswith("질문: 가?\n풀이:")
    assert frame("가?", "helper", opening='{"답": ').endswith('질문: 가?\n답: {"답": ') and frame("가?", "helper").startswith("당신은")
    assert multiple_choice("수도는?", CITIES).splitlines()[2] == "(B) 서울"
    with pytest.raises(WorkshopError, match="말투"):
        frame("가?", "loud")
    with pytest.raises(WorkshopError, match="보기"):
        multiple_choice("가?", ["하나"])


# --- the readers' sheet ---


def fill(path, score):
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[3:] = score(row)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_sheet_goes_out_blind_and_comes_back_by_system(tmp_path):
    texts = {"base": ["글 하나, 쉼표", "둘"], "big": ['셋 "따옴표"', "넷\n두 줄"]}
    key = prompting.write_sheet(tmp_path / "sheet.csv", texts, ["첫째", "둘째"], seed=1)
    sheet = (tmp_path / "sheet.csv").read_text(encoding="utf-8-sig")
    assert "base" not in sheet and "big" not in sheet and '"글 하나, 쉼표"' in sheet
    fill(tmp_path / "sheet.csv", lambda row: ["5", "4", "3"] if row[2] in texts["big"] else ["1", " 2", "2"])
    scores = prompting.read_sheet(tmp_path / "sheet.csv", key)
    assert scores["big"] == {"유창성": [5, 5], "일관성": [4, 4], "지시 이행": [3, 3]} and scores["base"]["일관성"] == [2, 2]


@pytest.mark.parametrize(("bad", "words"), [("", "유창성"), ("6", "'6'"), ("좋음", "좋음"), ("3.5", "3.5")])
def test_a_bad_score_is_named_with_its_line(tmp_path, bad, words):
    key = prompting.write_sheet(tmp_path / "s.csv", {"가": ["글", "글2"]}, ["p", "q"])
    fill(tmp_path / "s.csv", lambda row: [bad if row[0] == "2" else "3", "3", "3"])
    with pytest.raises(WorkshopError, match="3번째 줄.*" + words):
        prompting.read_sheet(tmp_path / "s.csv", key)


def test_foreign_sheets_are_refused(tmp_path):
    key = prompting.write_sheet(tmp_path / "s.csv", {"가": ["글"]}, ["p"])
    (tmp_path / "t.csv").write_text("번호,점수\n1,2\n", encoding="utf-8")
    with pytest.raises(WorkshopError, match="유창성"):
        prompting.read_sheet(tmp_path / "t.csv", key)
    key.write_text("{}", encoding="utf-8")
    fill(tmp_path / "s.csv", lambda row: ["3"] * 3)
    with pytest.raises(WorkshopError, match="2번째 줄"):
        prompting.read_sheet(tmp_path / "s.csv", key)
    with pytest.raises(WorkshopError, match="프롬프트는 2개"):
        prompting.write_sheet(tmp_path / "u.csv", {"가": ["글"]}, ["p", "q"])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_kappa_equals_scikit_learn(pairs):
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*pairs)
    if len({*first, *second}) == 1:
        assert prompting.cohen_kappa(first, second) == 1
    else:
        assert prompting.cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-9)
