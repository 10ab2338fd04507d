"""The grader's end of the process in which a student's functions run (`grading_worker`): it starts it, asks, waits, and ends it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.exercises import TIME_LIMIT, Raised
from workshop_lib.grading_worker import decode

START_LIMIT = 180.0  # seconds for a process to load PyTorch on a slow disk: the student's code has not begun
PREPARE_LIMIT = 30.0  # for the imports and constants that a function needs
CASES_LIMIT = 2 * TIME_LIMIT  # for the cases: `check` gave TIME_LIMIT on the student's machine, which may be the faster one
MEMORY = 6_000_000_000  # bytes that a process may take


@dataclass
class Run:
    """What came back of one exercise. lost: why nothing more came, in Korean."""

    outcomes: list = field(default_factory=list)
    said: Sequence[str] = ()
    prepared: bool = False
    callable: bool = False
    reference: bool = False
    lost: str = ""


class Worker:
    """A process for one notebook's functions, started when it is needed and again after it was lost."""

    def __init__(self, week: int, place: Path):
        self.week, self.place, self.process = week, place, None
        self.loading = 0.0  # seconds that went into starting, not into the student's code

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, job: dict, left: float) -> Run:
        """Answers to one job within `left` seconds of the student's code."""
        if self.process is None:
            self._start()
        run, began = Run(), time.monotonic()
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except OSError:  # it died after its last answer, in a thread of the student's
            pass
        limit = min(PREPARE_LIMIT, left)
        while True:
            message = self._next(max(0.0, began + limit - time.monotonic()))
            if message is None:
                run.lost = self._why(f"{limit:.0f}초 안에 끝나지 않았다. 반복문이 끝나는 조건을 확인한다.")
                self._end()
                return run
            if message.get("done"):
                return run
            if "prepared" in message:
                run.prepared, run.said = True, [str(text) for text in message["prepared"] or ()]
                run.callable, run.reference = message.get("callable") is True, message.get("reference") is True
                limit = min(CASES_LIMIT, max(0.0, left - (time.monotonic() - began)))
                began = time.monotonic()
            elif "outcome" in message:
                run.outcomes.append(_decoded(message["outcome"]))

    def _start(self) -> None:
        began = time.perf_counter()
        paths = [str(Path(entry).resolve()) for entry in sys.path if entry]
        starter = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from workshop_lib.grading_worker import main; "
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", f"{starter}main({self.week}, {MEMORY})", json.dumps(paths)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace",
            cwd=self.place, env=_environment(self.place), start_new_session=True,
        )  # fmt: skip
        self.replies = queue.Queue()
        threading.Thread(target=_read, args=(self.process.stdout, self.replies), daemon=True).start()
        if self._next(START_LIMIT) is None:
            self._end()
            raise WorkshopError("채점할 프로세스가 뜨지 않는다. `workshop doctor`로 이 기계의 설치를 확인한다.")
        self.loading += time.perf_counter() - began

    def _next(self, seconds: float) -> dict | None:
        """The next message; None when the time is up, the process has ended or says what is no message."""
        self.fat = False
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            try:
                line = self.replies.get(timeout=min(0.25, end - now))
            except queue.Empty:
                if self._memory() > MEMORY:
                    self.fat = True
                    return None
                continue
            try:
                message = json.loads(line) if line else None
                return message if isinstance(message, dict) else None
            except ValueError:
                return None
        return None

    def _why(self, too_long: str) -> str:
        if self.fat:
            return f"메모리를 {MEMORY / 1e9:.0f} GB 넘게 썼다."
        try:
            code = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return too_long
        if code >= 0:
            return f"코드가 파이썬을 끝냈다(종료 코드 {code}). os._exit나 exit를 부르는 곳을 지운다."
        if code == -9:
            return "파이썬이 밖에서 멈추어졌다(신호 9). 메모리를 너무 많이 썼을 수 있다."
        return f"파이썬이 죽었다(신호 {-code}). 끝없는 재귀나 잘못된 메모리 접근을 확인한다."

    def _memory(self) -> int:
        try:
            import psutil

            return psutil.Process(self.process.pid).memory_info().rss
        except Exception:  # no psutil here, or the process is just gone
            return 0

    def _end(self) -> None:
        if self.process is None:
            return
        _kill(self.process)
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except OSError:
                pass
        self.process = None


def _kill(process: subprocess.Popen) -> None:
    """End a process and what it started."""
    if os.name == "posix":
        import signal

        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    process.kill()
    process.wait()


def _read(stream, replies: queue.Queue) -> None:
    try:
        for line in stream:
            replies.put(line)
    except (OSError, ValueError):  # closed while we read
        pass
    replies.put("")


def _decoded(coded: object) -> object:
    try:
        outcome = decode(coded)
        if isinstance(outcome, Raised) or (isinstance(outcome, tuple) and len(outcome) == 2):
            return outcome
    except Exception:
        pass
    return Raised(ValueError, "결과를 읽을 수 없다.")  # the process does not write such a thing by itself


def _environment(place: Path) -> dict[str, str]:
    """Nothing of the instructor's but what a Python process needs to start."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE", "LANG", "LC_ALL")
    own = {name: str(place) for name in ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "WORKSHOP_HOME")}
    quiet = {"PYTHONUTF8": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {name: os.environ[name] for name in kept if name in os.environ} | own | quiet
