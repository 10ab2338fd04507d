"""The process in which one student's functions run, and how their results travel to the grader.

The student's code and the verdict live in different processes: here functions are only called, and what they returned is written down.
Whatever the code does to this process (another `check`, a patched library, a fake "✅ 통과"), the grader compares the results with the
reference in its own. Results travel as tagged JSON and not as pickles, because a pickle from a student would run in the grader.

One line of JSON in: {"name", "code": [[cell, source], …], "given": [names]}; lines out: {"prepared": …}, {"outcome": …} for each case,
{"done": true}.
"""

from __future__ import annotations
import __future__

import base64
import builtins
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Mapping

from workshop_lib import WorkshopError
from workshop_lib.exercises import Exercise, Raised, find, outcomes

LONGEST_LINE = 32_000_000  # characters of one result on its way
LONGEST_TEXT = 400  # of an error's message
ANNOTATIONS = __future__.annotations.compiler_flag  # a wrong annotation is no wrong answer: it is never looked at


def main(week: int, memory: int) -> None:
    """Answer jobs from standard input until it ends. memory: bytes that this process may take, where the system can hold it to that."""
    jobs = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # input() finds nothing, print() says nothing, and neither gets into the conversation with the grader
        os.dup2(nowhere, stream)

    def reply(**message: object) -> None:
        line = json.dumps(message)
        if len(line) > LONGEST_LINE:
            line = json.dumps({"outcome": {"t": "other", "kind": "결과", "text": f"{len(line):,}자짜리 결과"}})
        replies.write(line + "\n")
        replies.flush()

    exercises = {exercise.name: exercise for exercise in find(week)}
    sys.path.append(os.getcwd())  # last: a student's own random.py hides no library
    _limit_memory(memory)
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
        except BaseException as error:  # sys.exit() too: the next cells may be what the function needs
            said.append(f"{cell}번째 코드 셀: {type(error).__name__}: {str(error)[:LONGEST_TEXT]}")
    function = namespace.get(exercise.name)
    reply(prepared=said, callable=callable(function), reference=function is exercise.reference)
    if callable(function) and function is not exercise.reference:
        try:
            for outcome in outcomes(function, exercise.cases()):
                reply(outcome=encode(outcome))
        except BaseException as error:  # of a kind that `outcomes` lets by
            reply(outcome=encode(Raised(type(error), str(error))))
    reply(done=True)


def _limit_memory(memory: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))  # Linux; elsewhere the grader watches
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass


def encode(value: object) -> dict:
    """One of `outcomes` as JSON can hold it. What no exercise returns becomes its kind and its `repr`, which equals nothing."""
    if isinstance(value, tuple):
        return {"t": "tuple", "v": [_whole(value[0]), _whole(value[1])]}
    return _whole(value)


def _whole(value: object) -> dict:
    try:
        return _encode(value)
    except Exception:  # a student's own class; a list that holds itself; a number with more digits than Python prints
        return _other(value)


def _encode(value: object) -> dict:
    if value is None or isinstance(value, bool | str) and type(value) in (bool, str):
        return {"t": "plain", "v": value}
    if isinstance(value, Raised):
        return {"t": "raised", "kinds": [kind.__name__ for kind in value.kind.__mro__], "text": value.text[:LONGEST_TEXT]}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _encode_array(value)
    if isinstance(value, int | float):
        return {"t": "plain", "v": int(value) if isinstance(value, int) else float(value)}
    if isinstance(value, bytes | bytearray) and type(value) in (bytes, bytearray):
        return {"t": type(value).__name__, "v": base64.b64encode(value).decode()}
    if type(value) in (list, tuple):
        return {"t": type(value).__name__, "v": [_encode(item) for item in value]}
    if type(value) in (set, frozenset):
        return {"t": type(value).__name__, "v": [_encode(item) for item in value]}
    if isinstance(value, Mapping):
        return {"t": "dict", "v": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("workshop_lib."):
        return {"t": "data", "kind": f"{type(value).__module__}:{type(value).__qualname__}", "v": _encode(vars(value))}
    return _other(value)


def _encode_array(value) -> dict:
    import numpy as np

    library = type(value).__module__.split(".")[0]
    if library == "torch":
        import torch

        value = value.detach().cpu().resolve_conj()
        tag = str(value.dtype).removeprefix("torch.")
        value = (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
    elif library == "numpy":
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        tag = value.dtype.str
    else:
        return _other(value)
    if value.dtype.kind not in "biufcUS":
        return _other(value)
    content = base64.b64encode(value.tobytes()).decode()
    return {"t": library, "dtype": value.dtype.str, "tag": tag, "shape": list(value.shape), "v": content}


def _other(value: object) -> dict:
    try:
        text = repr(value)[:LONGEST_TEXT]
    except Exception:  # its own __repr__ is broken
        text = f"<{type(value).__name__}>"
    return {"t": "other", "kind": type(value).__name__, "text": text}


def decode(coded: dict) -> object:
    """The value that `encode` wrote down. Raises ValueError, KeyError or TypeError for what it cannot have written."""
    kind, value = coded["t"], coded.get("v")
    if kind == "plain":
        return value
    if kind == "raised":
        return Raised(_exception(coded["kinds"]), str(coded["text"]))
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item) for item in value)
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind)(base64.b64decode(value))
    if kind == "dict":
        return {decode(key): decode(item) for key, item in value}
    if kind in ("numpy", "torch"):
        return _decode_array(coded)
    if kind == "data":
        return _decode_data(coded)
    return type(str(coded["kind"]) or "object", (), {"__repr__": lambda self: str(coded["text"])})()


def _decode_array(coded: dict):
    import numpy as np

    array = np.frombuffer(base64.b64decode(coded["v"]), np.dtype(coded["dtype"])).reshape(coded["shape"]).copy()
    if coded["t"] == "numpy":
        return array
    import torch

    return torch.from_numpy(array).to(getattr(torch, coded["tag"]))


def _decode_data(coded: dict):
    module, _, name = coded["kind"].partition(":")
    kind = getattr(importlib.import_module(module), name) if module.startswith("workshop_lib.") else None
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{coded['kind']}")
    value = object.__new__(kind)
    for field, item in decode(coded["v"]).items():
        object.__setattr__(value, field, item)
    return value


def _exception(kinds: list) -> type:
    # The first of the error's classes that both processes know; a student's own class counts as what it derives from.
    for name in kinds:
        known = WorkshopError if name == "WorkshopError" else getattr(builtins, str(name), None)
        if isinstance(known, type) and issubclass(known, BaseException):
            return known
    return Exception
