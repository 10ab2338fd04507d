"""Exercises check themselves: the reference passes, the stub is pending, every known mistake gets its own hint."""

import random
from dataclasses import replace

import numpy as np
import pytest

from workshop_lib import WorkshopError
from workshop_lib import exercises as ex

ALL = [(week, exercise) for week in range(1, 11) for exercise in ex.find(week)]
NAMES = [f"week{week:02d}-{exercise.name}" for week, exercise in ALL]
LEAST = {1: 7, 2: 7, 3: 7, 4: 9, 5: 5, 6: 8, 7: 9, 8: 9, 9: 9, 10: 9}


def copy_of(function):
    """The same behaviour under another identity, as a student's own correct answer is."""
    return lambda *args, **kwargs: function(*args, **kwargs)


@pytest.mark.parametrize("week, exercise", ALL, ids=NAMES)
def test_reference_passes(week, exercise):
    assert ex.judge(exercise, copy_of(exercise.reference)).state == "passed"


@pytest.mark.parametrize("week, exercise", ALL, ids=NAMES)
def test_stub_is_pending(week, exercise):
    def stub(*args, **kwargs):
        raise NotImplementedError

    assert ex.judge(exercise, stub).state == "pending"


@pytest.mark.parametrize("week, exercise", ALL, ids=NAMES)
def test_each_known_mistake_is_refused_with_its_own_hint(week, exercise):
    assert len(exercise.mistakes) >= 3
    assert len({mistake.hint for mistake in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in exercise.mistakes:
        verdict = ex.judge(exercise, copy_of(mistake.wrong))
        assert verdict.state == "wrong"
        assert verdict.message.startswith(mistake.hint)


@pytest.mark.parametrize("week, exercise", ALL, ids=NAMES)
def test_declaration_is_complete(week, exercise):
    assert 1 <= exercise.difficulty <= 5
    assert exercise.minutes > 0
    assert len(exercise.hints) >= 2
    assert all(hint.strip() for hint in exercise.hints)


@pytest.mark.parametrize("week", [w for w in LEAST])
def test_each_week_has_its_exercises(week):
    assert len(ex.find(week)) >= LEAST[week]
    assert len({e.name for e in ex.find(week)}) == len(ex.find(week))


def double(values):
    return [2 * v for v in values]


DOUBLE = ex.Exercise(
    name="double", title="두 배", difficulty=1, minutes=1, reference=double, cases=lambda: [([1, 2],), ([],), ([0.5],)],
    hints=("각 값을 본다.", "2를 곱한다."),
    mistakes=(ex.Mistake(lambda values: [v + v + 1 for v in values], "1을 더했다."),
              ex.Mistake(lambda values: values * 2, "목록을 두 번 이어 붙였다.")),
)
check = ex.checker(week=1, exercises=[DOUBLE])


def test_a_right_answer_goes_on_with_the_students_own_function(capsys):
    student = copy_of(double)
    student.__name__ = "double"
    assert check(student) is student
    assert capsys.readouterr().out.startswith("✅")


def test_a_wrong_answer_goes_on_with_the_reference(capsys):
    def double(values):
        return values

    assert check(double) is DOUBLE.reference
    out = capsys.readouterr().out
    assert out.startswith("❌") and "[2, 4]" in out and "[1, 2]" in out and out.count("\n") == 1


def test_checking_again_after_a_fallback_does_not_praise_the_reference(capsys):
    assert check(double) is DOUBLE.reference
    assert capsys.readouterr().out.startswith("⬜")


def test_an_endless_loop_is_stopped(monkeypatch):
    monkeypatch.setattr(ex, "TIME_LIMIT", 0.3)

    def student(values):
        while True:
            try:
                values = list(values)
            except Exception:
                pass

    verdict = ex.judge(DOUBLE, student)
    assert verdict.state == "wrong" and "끝나지 않았다" in verdict.message


@pytest.mark.parametrize("student, words", [
    (lambda values: None, "return"),
    (lambda values: tuple(2 * v for v in values), "자료형"),
    (lambda values: values[7], "IndexError"),
    (lambda: 3, "TypeError"),
    (lambda values: exit(), "SystemExit"),
    (lambda values: (_ for _ in ()).throw(MemoryError("많다")), "MemoryError"),
    (lambda values: [2 * v for v in values] + [values.clear()][:0], "입력이 달라졌다"),
    (lambda values: values * 2, "두 번 이어"),
])  # fmt: skip
def test_a_mistake_is_named_and_never_raised(student, words):
    verdict = ex.judge(DOUBLE, student)
    assert verdict.state == "wrong" and words in verdict.message


@pytest.mark.parametrize("change, words", [
    (lambda codes, scale, names: (codes, 2 * scale, names), ("2번째 결과의 [0, 1] 자리에 0.5", "1이(가) 나왔다", "19개")),
    (lambda codes, scale, names: (codes.astype(float), scale, names), ("1번째 결과", "자료형", "int64", "float64")),
    (lambda codes, scale, names: (codes[:2], scale, names), ("1번째 결과", "모양이 (3,)", "(2,)")),
    (lambda codes, scale, names: (codes, scale, names | {"나": 3}), ("3번째 결과의 '나'에 2", "3이(가) 나왔다")),
    (lambda codes, scale, names: [codes, scale, names], ("자료형: tuple 대신 list",)),
])  # fmt: skip
def test_of_several_results_the_first_wrong_one_is_named(change, words):
    def parts(n):
        return np.arange(3), np.arange(n).reshape(4, -1) / 2, {"가": 1, "나": 2}

    exercise = replace(DOUBLE, reference=parts, cases=lambda: [(20,)], mistakes=())
    verdict = ex.judge(exercise, lambda n: change(*parts(n)))
    assert all(word in verdict.message for word in words), verdict.message


def test_what_the_student_prints_is_not_shown(capsys):
    def double(values):
        print("나온다")
        return [2 * v for v in values]

    check(double)
    assert "나온다" not in capsys.readouterr().out


def test_checks_leave_the_random_state_alone():
    random.seed(1)
    np.random.seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    ex.judge(DOUBLE, lambda values: [random.random(), np.random.rand()])
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def test_something_else_than_an_exercise_gets_a_clear_line(capsys):
    assert check(3) == 3
    assert "함수를 넘긴다" in capsys.readouterr().out

    def triple():
        return 1

    check(triple)
    assert "'triple' 문제는 없다" in capsys.readouterr().out


@pytest.mark.parametrize("a, b, equal", [
    (1, 1.0, True), (1, True, False), (0.1 + 0.2, 0.3, True), (float("nan"), float("nan"), True), ([1], (1,), False),
    ({"가": 1.0}, {"가": 1.0 + 1e-9}, True), (np.array([1.0]), np.array([1.0]), True), (np.array([1.0]), [1.0], False),
    (np.array([1]), np.array([1.0]), False), (np.zeros((2, 1)), np.zeros((1, 2)), False), ("가", "가", True),
])  # fmt: skip
def test_comparison(a, b, equal):
    assert ex.same(a, b, 1e-6) is equal


def test_an_unknown_week_is_refused():
    with pytest.raises(WorkshopError, match="11주차"):
        ex.find(11)
