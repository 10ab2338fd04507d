"""Exercises that check themselves.

`check(student)` compares the student's function with the reference on every case and prints one Korean line:
⬜ not written yet, ✅ right, or ❌ with the input it went wrong on and what to look at. It returns the student's function
when it is right and the reference otherwise, so that a stuck student can go on and *Run All* never breaks.

Notable choices
- The diagnosis is by comparison: an exercise declares known mistakes as wrong implementations, and the student whose
  results agree with one of them gets that mistake's hint. There is no list of patterns to keep in step with the code.
- The student's code runs in a thread of its own with a time limit, its prints swallowed and the random state put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import inspect
import io
import math
import random
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workshop_lib import WorkshopError

TIME_LIMIT = 5.0  # seconds for all cases of one exercise together
LONGEST_SHOWN = 90  # characters of a value in a message
MOST_SHOWN = 12  # numbers of an array that a message shows; of a larger one it shows the first that is wrong


class Kw(dict):
    """Keyword arguments of a case: the last element of its tuple."""


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that students really write, and the hint for it."""

    wrong: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One function for the student to write.

    `cases()` returns fresh argument tuples at each call. `hints` is a ladder from a nudge to nearly the code.
    `difficulty` is 1–5, `minutes` an estimate, `tolerance` absolute and relative for floating-point results.
    """

    name: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable
    cases: Callable[[], Sequence[tuple]]
    hints: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    tolerance: float = 1e-6


@dataclass(frozen=True)
class Verdict:
    """state: 'pending', 'passed' or 'wrong'; message: the Korean line without its mark."""

    state: str
    message: str

    def __str__(self) -> str:
        return f"{ {'pending': '⬜', 'passed': '✅', 'wrong': '❌'}[self.state] } {self.message}"


@dataclass(frozen=True)
class Raised:
    """The outcome of a call that raised."""

    kind: type
    text: str


class _Stopped(BaseException):
    """Raised inside the student's thread when its time is up (not an Exception, so `except Exception` lets it by)."""


def normal(*shape: int, seed: int = 0):
    """A tensor of standard normal numbers, the same at every call: for cases."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def checker(week: int, exercises: Iterable[Exercise]) -> Callable[[Callable], Callable]:
    """The `check` function of a week: prints the verdict and returns a function to go on with."""
    by_name = {exercise.name: exercise for exercise in exercises}

    def check(student: Callable) -> Callable:
        given = next((e.name for e in by_name.values() if e.reference is student), None)
        name = given or getattr(student, "__name__", None)
        if name not in by_name:
            if callable(student):
                print(f"❌ {week}주차에 '{name}' 문제는 없다. 함수 이름을 바꾸었다면 되돌린다: {', '.join(by_name)}")
            else:
                print(f"❌ check에는 함수를 넘긴다. 받은 것은 {_show(student)}이다. 괄호 없이 이름만 쓴다.")
            return student
        verdict = judge(by_name[name], student)
        print(verdict)
        return student if verdict.state == "passed" else by_name[name].reference

    return check


def judge(exercise: Exercise, student: Callable) -> Verdict:
    """The verdict on a student's function; never raises for anything that the student's code does."""
    if student is exercise.reference:
        return Verdict("pending", f"{exercise.title}: 지금은 기준 구현이다. 함수를 쓴 셀을 다시 실행한 뒤 확인한다.")
    with _private_random_state():
        got, finished = _within_limit(lambda: outcomes(student, exercise.cases()), TIME_LIMIT)
    return decide(exercise, got, finished)


def decide(exercise: Exercise, got: list, finished: bool) -> Verdict:
    """The verdict on what a function did: `got` holds `outcomes` of the first cases, of all of them if it `finished`."""
    wanted = list(outcomes(exercise.reference, exercise.cases()))
    if any(isinstance(o, Raised) and o.kind is NotImplementedError for o in got):
        return Verdict("pending", f"{exercise.title}: 아직 구현 전")
    for index, (case, want, have) in enumerate(zip(exercise.cases(), wanted, got)):
        if not same(want, have, exercise.tolerance):
            return Verdict("wrong", _explain(exercise, index, case, want, have, got))
    if not finished:
        case = exercise.cases()[len(got)]
        return Verdict("wrong", f"{TIME_LIMIT:g}초 안에 끝나지 않았다: {_arguments(exercise, case)}. "
                                "반복문이 끝나는 조건을 확인한다.")
    return Verdict("passed", f"통과: {exercise.title}")


def same(a: object, b: object, tolerance: float) -> bool:
    """Whether two outcomes are equal, floating-point values within `tolerance` (absolute and relative)."""
    if isinstance(a, Raised) or isinstance(b, Raised):
        return isinstance(a, Raised) and isinstance(b, Raised) and issubclass(b.kind, a.kind)
    if _is_array(a) or _is_array(b):
        return _same_array(a, b, tolerance)
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, int | float) and isinstance(b, int | float):
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) or (math.isnan(a) and math.isnan(b))
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return same(vars(a), vars(b), tolerance)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b))
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # a student's own class may have a broken __eq__
        return False


def _explain(exercise: Exercise, index: int, case: tuple, want: object, have: object, got: list) -> str:
    where = _arguments(exercise, case)
    if hint := _known_mistake(exercise, index, got):
        return f"{hint} (입력: {where})"
    if isinstance(have, Raised):
        if isinstance(want, Raised):
            return f"{where}에는 {want.kind.__name__}를 내야 하는데 {have.kind.__name__}가 났다: {have.text}"
        return f"{where}에서 {have.kind.__name__}가 났다: {have.text}"
    if isinstance(want, Raised):
        return f"{where}에는 {want.kind.__name__}를 내야 하는데 {_show(have[0])}을(를) 돌려주었다."
    if not same(want[0], have[0], exercise.tolerance):
        if have[0] is None:
            return f"{where}에 None을 돌려주었다. return이 빠지지 않았는지 본다."
        return _difference(where, want[0], have[0], exercise.tolerance)
    return f"{where}: 결과는 맞지만 호출한 뒤 입력이 달라졌다. 입력을 바꾸어야 하는지, 복사해야 하는지 확인한다."


def _difference(where: str, want: object, have: object, tolerance: float) -> str:
    """Names the first part of a tuple, a dictionary or an array that is not what it should be."""
    if isinstance(want, tuple) and isinstance(have, tuple) and len(want) == len(have):
        parts = [(f"{number}번째 결과", w, h) for number, (w, h) in enumerate(zip(want, have), start=1)]
    elif isinstance(want, Mapping) and isinstance(have, Mapping) and want.keys() == have.keys():
        parts = [(repr(key), want[key], have[key]) for key in want]
    else:
        parts = []
    for name, w, h in parts:
        if not same(w, h, tolerance):
            return _difference(f"{where}의 {name}", w, h, tolerance)
    if type(want) is not type(have) and not (isinstance(want, int | float) and isinstance(have, int | float)):
        got = f"{_show(have)}이(가) 나왔다(자료형: {type(want).__name__} 대신 {type(have).__name__})."
    elif _is_array(want) and _is_array(have):
        return _array_difference(where, want, have, tolerance)
    else:
        got = f"{_show(have)}이(가) 나왔다."
    return f"{where}에 {_show(want)}이(가) 나와야 하는데 {got}"


def _array_difference(where: str, want: object, have: object, tolerance: float) -> str:
    import numpy as np

    x, y = _to_numpy(want), _to_numpy(have)
    if x.shape != y.shape:
        return f"{where}의 모양이 {x.shape}이어야 하는데 {y.shape}이다."
    if x.dtype.kind != y.dtype.kind:
        return f"{where}의 자료형이 {want.dtype}이어야 하는데 {have.dtype}이다."
    if x.size <= MOST_SHOWN or x.dtype.kind not in "biufc":
        return f"{where}에 {_show(want)}이(가) 나와야 하는데 {_show(have)}이(가) 나왔다."
    wrong = x != y if x.dtype.kind in "biu" else ~np.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
    place = tuple(np.argwhere(wrong)[0].tolist())
    w, h = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in (x[place].item(), y[place].item()))
    return f"{where}의 {list(place)} 자리에 {w}이(가) 나와야 하는데 {h}이(가) 나왔다. 값 {x.size}개 가운데 {wrong.sum()}개가 다르다."


def _known_mistake(exercise: Exercise, index: int, got: list) -> str | None:
    # The mistake whose results agree with the student's on every case; else one that agrees on the failing case.
    candidates = []
    for mistake in exercise.mistakes:
        with _private_random_state():
            theirs, _ = _within_limit(lambda m=mistake: outcomes(m.wrong, exercise.cases()), TIME_LIMIT)
        if index < len(theirs) and same(theirs[index], got[index], exercise.tolerance):
            agreement = sum(same(a, b, exercise.tolerance) for a, b in zip(theirs, got))
            candidates.append((agreement, mistake.hint))
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def outcomes(function: Callable, cases: Sequence[tuple]) -> Iterable[object]:
    """What the function does with each case: (result, arguments after the call), or `Raised`."""
    for case in cases:
        yield _call(function, case)


def _call(function: Callable, case: tuple) -> object:
    """(result, arguments after the call), or Raised."""
    args, kwargs = (case[:-1], case[-1]) if case and isinstance(case[-1], Kw) else (case, {})
    try:
        result = function(*args, **kwargs)
        if isinstance(result, types.GeneratorType):
            result = list(result)
        return result, [a for a in (*args, *kwargs.values()) if isinstance(a, list | dict) or _is_array(a)]
    except Exception as error:
        return Raised(type(error), str(error))
    except SystemExit as error:
        return Raised(type(error), "exit()가 불렸다")


def _within_limit(produce: Callable[[], Iterable[object]], seconds: float) -> tuple[list, bool]:
    """Items that `produce()` yields within the limit, and whether it came to its end.

    A thread works the same on every system, but only Python code can be stopped: a single endless call into C cannot.
    """
    items: list = []
    finished = threading.Event()

    def work() -> None:
        try:
            for item in produce():
                items.append(item)
            finished.set()
        except _Stopped:
            pass

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            thread.join(seconds)
        finally:
            for _ in range(50):
                if not thread.is_alive():
                    break
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
                thread.join(0.02)
    return list(items), finished.is_set()


@contextlib.contextmanager
def _private_random_state():
    """Put the global random states of Python, NumPy and PyTorch back afterwards."""
    python_state = random.getstate()
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if torch:
            torch.set_rng_state(torch_state)


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _same_array(a: object, b: object, tolerance: float) -> bool:
    import numpy as np

    if not (_is_array(a) and _is_array(b)) or type(a).__module__.split(".")[0] != type(b).__module__.split(".")[0]:
        return False
    x, y = _to_numpy(a), _to_numpy(b)
    if x.shape != y.shape or x.dtype.kind != y.dtype.kind:
        return False
    if x.dtype.kind in "fc":
        return bool(np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(x, y))


def _to_numpy(value: object):
    import numpy as np

    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _arguments(exercise: Exercise, case: tuple) -> str:
    args, kwargs = (case[:-1], case[-1]) if case and isinstance(case[-1], Kw) else (case, {})
    names = list(inspect.signature(exercise.reference).parameters)
    shown = [f"{name}={_show(value)}" for name, value in zip(names, args)]
    shown += [f"{name}={_show(value)}" for name, value in kwargs.items()]
    return f"{exercise.name}({', '.join(shown)})"


def _show(value: object) -> str:
    try:
        text = f"모양 {tuple(value.shape)}인 배열" if _is_array(value) and math.prod(value.shape) > MOST_SHOWN else repr(value)
    except Exception:  # a student's own class may have a broken __repr__
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def find(week: int) -> list[Exercise]:
    """The exercises of a week, in the order of its module; empty when the week has none.

    Raises WorkshopError if the week is not between 1 and 10.
    """
    import importlib
    import importlib.util

    if not 1 <= week <= 10:
        raise WorkshopError(f"{week}주차는 없다. 1에서 10까지 가운데 하나를 쓴다.")
    name = f"workshop_lib.exercises.week{week:02d}"
    return list(importlib.import_module(name).EXERCISES) if importlib.util.find_spec(name) else []
