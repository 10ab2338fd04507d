"""The process in which one student's functions run: its inside (`main`) and the grader's end of it (`Worker`).

The student's code and the verdict live in different processes: in here functions are only called, and what they return is written down.
Whatever the code does to its process (another `check`, a patched library, a fake "✅ 통과"), the grader compares the results with the
reference in its own. Results travel as tagged JSON and not as pickles, because a pickle from a student would run in the grader.

One line of JSON in: {"name", "code": [[cell, source], …], "given": [names]}. Lines out: {"said"} once the code has run, {"outcome"} for
each case, {"done", "reference": whether the library's own function was called}.
"""

from __future__ import annotations
import __future__

import base64
import builtins
import dataclasses
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.exercises import TIME_LIMIT, Exercise, Raised, find, outcomes

START_LIMIT = 180.0  # seconds for a process to load PyTorch on a slow disk: the student's code has not begun
PREPARE_LIMIT = 30.0  # for the imports and constants that a function needs
CASES_LIMIT = 2 * TIME_LIMIT  # for the cases: `check` gave TIME_LIMIT on the student's machine, which may be the faster one
MEMORY = 6_000_000_000  # bytes of data that a process may hold, where the system (Linux) can be told so
LONGEST_LINE = 32_000_000  # characters of one result on its way
ANNOTATIONS = __future__.annotations.compiler_flag  # a wrong annotation is no wrong answer: it is never looked at
# All that it gets of the instructor's environment
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE", "LANG", "LC_ALL")
HOMES = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "WORKSHOP_HOME")
QUIET = {"PYTHONUTF8": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


# --- inside ----------------------------------------------------------------------------------------------------------------


def main(week: int, memory: int) -> None:
    """Answer jobs from standard input until it ends, in at most `memory` bytes."""
    jobs, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    for stream in (0, 1, 2):  # input() finds nothing, print() says nothing, and neither gets into the conversation with the grader
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)

    def reply(**message: object) -> None:
        line = json.dumps(message)
        replies.write((line if len(line) < LONGEST_LINE else json.dumps({"outcome": _other("아주 긴 결과")})) + "\n")
        replies.flush()

    exercises = {exercise.name: exercise for exercise in find(week)}
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    except (ImportError, ValueError, OSError):
        pass
    reply(ready=True)
    for line in jobs:
        job = json.loads(line)
        _answer(exercises[job["name"]], job["code"], {name: exercises[name].reference for name in job["given"]}, reply)


def _answer(exercise: Exercise, code: list, given: dict, reply) -> None:
    namespace = {"__name__": "__main__", "check": lambda function: function, **given}
    said = []
    for cell, source in code:
        try:
            exec(compile(source, f"<셀 {cell}>", "exec", ANNOTATIONS, dont_inherit=True), namespace)
        except BaseException as error:  # sys.exit() too: the next statements may be what the function needs
            said.append(f"{cell}번째 코드 셀: {type(error).__name__}: {str(error)[:300]}")
    reply(said=said)
    called, reference = [], getattr(exercise.reference, "__code__", None)
    cases = exercise.cases()
    sys.setprofile(lambda frame, event, _: called.append(event) if frame.f_code is reference and event == "call" else None)
    try:
        for outcome in outcomes(namespace[exercise.name], cases):
            reply(outcome=encode(outcome))
    except BaseException as error:  # no function by that name, or an error of a kind that `outcomes` lets by
        reply(outcome=encode(Raised(type(error), str(error))))
    finally:
        sys.setprofile(None)
    reply(done=True, reference=bool(called))


def encode(outcome: object) -> dict:
    """One of `outcomes` as JSON can hold it. What no exercise returns becomes its `repr`, which equals nothing."""
    if isinstance(outcome, Raised):
        return {"t": "raised", "kinds": [kind.__name__ for kind in outcome.kind.__mro__], "text": outcome.text[:300]}
    parts = []
    for part in outcome:
        try:
            parts.append(_encode(part))
        except Exception:  # a list that holds itself; a student's own class that lies about what it is
            parts.append(_other(part))
    return {"t": "tuple", "v": parts}


def _encode(value: object) -> dict:
    kind = type(value).__name__
    if value is None or type(value) in (bool, str):
        return {"t": "plain", "v": value}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _encode_array(value)
    if isinstance(value, int | float):
        return {"t": "plain", "v": int(value) if isinstance(value, int) else float(value)}
    if type(value) is bytes:
        return {"t": "bytes", "v": base64.b64encode(value).decode()}
    if type(value) in (list, tuple, set, frozenset):
        return {"t": kind, "v": [_encode(item) for item in value]}
    if isinstance(value, Mapping):
        return {"t": "dict", "v": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("workshop_lib."):
        return {"t": "data", "module": type(value).__module__, "kind": kind, "v": _encode(vars(value))}
    return _other(value)


def _encode_array(value) -> dict:
    import numpy as np

    library = type(value).__module__.split(".")[0]
    dtype = str(value.dtype).removeprefix("torch.")
    array = np.asarray((value.float() if dtype == "bfloat16" else value).detach().cpu() if library == "torch" else value)
    if array.dtype.kind not in "biufcUS" or library not in ("torch", "numpy"):
        return _other(value)
    content = base64.b64encode(array.tobytes()).decode()
    return {"t": library, "dtype": dtype, "stored": array.dtype.str, "shape": list(array.shape), "v": content}


def _other(value: object) -> dict:
    try:
        return {"t": "other", "kind": type(value).__name__, "text": repr(value)[:300]}
    except Exception:  # its own __repr__ is broken
        return {"t": "other", "kind": type(value).__name__, "text": "…"}


# --- the grader's end ------------------------------------------------------------------------------------------------------


def decode(coded: dict) -> object:
    """What `encode` wrote down. Raises some error for what it cannot have written."""
    kind, value = coded["t"], coded.get("v")
    if kind == "plain":
        return value
    if kind == "raised":  # a student's own class counts as the first that we know of those that it derives from
        known = [WorkshopError if name == "WorkshopError" else getattr(builtins, str(name), None) for name in coded["kinds"]]
        return Raised(next(k for k in known if isinstance(k, type) and issubclass(k, BaseException)), str(coded["text"]))
    if kind == "bytes":
        return base64.b64decode(value)
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item) for item in value)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in value}
    if kind in ("numpy", "torch"):
        import numpy as np
        import torch

        array = np.frombuffer(base64.b64decode(value), np.dtype(coded["stored"])).reshape(coded["shape"]).copy()
        return array if kind == "numpy" else torch.from_numpy(array).to(getattr(torch, coded["dtype"]))
    if kind == "data" and coded["module"].startswith("workshop_lib."):
        data = object.__new__(getattr(importlib.import_module(coded["module"]), coded["kind"]))
        for name, item in decode(value).items():
            object.__setattr__(data, name, item)
        return data
    return type(str(coded["kind"]), (), {"__repr__": lambda self: str(coded["text"])})()


@dataclass
class Run:
    """What came back of one exercise. lost: why nothing more came, in Korean; reference: the library's own function was called."""

    outcomes: list = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    reference: bool = False
    lost: str = ""


class Worker:
    """A process for one notebook's functions, started when it is needed and again after it was lost. place: its home and working folder."""

    def __init__(self, week: int, place: Path):
        self.week, self.place, self.process = week, place, None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, job: dict, left: float) -> Run:
        """Answers to one job within `left` seconds; the process must have been started."""
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except OSError:  # it died after its last answer, in a thread of the student's
            pass
        run, limit, began = Run(), min(PREPARE_LIMIT, left), time.monotonic()
        while True:
            message = self._next(began + limit - time.monotonic())
            if message is None:
                run.lost = self._why(limit)
                self._end()
                return run
            if "said" in message:
                run.said, left = [str(text) for text in message["said"]], left - (time.monotonic() - began)
                limit, began = min(CASES_LIMIT, max(0.0, left)), time.monotonic()
            elif "outcome" in message:
                run.outcomes.append(_decoded(message["outcome"]))
            elif "done" in message:
                run.reference = message.get("reference") is True
                return run

    def start(self) -> None:
        """Have a process ready. Raises WorkshopError if none comes up."""
        if self.process:
            return
        paths = ascii([str(Path(entry).resolve()) for entry in sys.path if entry])
        code = f"import sys; sys.path[:] = {paths}; from workshop_lib.grading_worker import main; main({self.week}, {MEMORY})"
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | dict.fromkeys(HOMES, str(self.place)) | QUIET
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            encoding="utf-8", errors="replace", cwd=self.place, env=environment, start_new_session=True,
        )  # fmt: skip
        self.replies = queue.Queue()
        threading.Thread(target=_read, args=(self.process.stdout, self.replies), daemon=True).start()
        if self._next(START_LIMIT) is None:
            self._end()
            raise WorkshopError("채점할 프로세스가 뜨지 않는다. `workshop doctor`로 이 기계의 설치를 확인한다.")

    def _next(self, seconds: float) -> dict | None:
        """The next message; None when the time is up, or the process has ended or says what is no message."""
        try:
            message = json.loads(self.replies.get(timeout=max(0.0, seconds)))
        except (queue.Empty, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def _why(self, limit: float) -> str:
        try:
            code = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return f"{limit:.0f}초 안에 끝나지 않았다. 반복문이 끝나는 조건을 확인한다."
        if code >= 0:
            return f"코드가 파이썬을 끝냈다(종료 코드 {code}). os._exit나 exit를 부르는 곳을 지운다."
        return f"파이썬이 죽었다(신호 {-code}). 끝없는 재귀, 지나친 메모리, 잘못된 메모리 접근을 확인한다."

    def _end(self) -> None:
        if self.process is None:
            return
        if os.name == "posix":  # what it started, too
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        self.process.kill()
        self.process.wait()
        self.process = None


def _read(stream, replies: queue.Queue) -> None:
    with stream:
        for line in stream:
            replies.put(line)
    replies.put("")


def _decoded(coded: object) -> object:
    try:
        outcome = decode(coded)
        if isinstance(outcome, Raised) or (isinstance(outcome, tuple) and len(outcome) == 2):
            return outcome
    except Exception:
        pass
    return Raised(ValueError, "결과를 읽을 수 없다.")  # the process does not write such a thing by itself
