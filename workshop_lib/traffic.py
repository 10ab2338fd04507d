"""A day of requests in seconds, sent to a real server.

    with local_server.running(folder) as server:
        found = replay(server.url, server.model, trace())  # quiet, a rush, then inputs of another kind
    monitoring.figure(found)

Notable choices
- The load is open: a request leaves when the trace says so, whether or not the earlier ones are answered. (A closed one, which waits
  for its answers, slows down with the server and hides the very jam it should show.) For the same reason a wait counts from
  the moment at which the request should have left.
- Nothing is tried again and nothing is lost: each call has exactly one outcome, also a refused one.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from workshop_lib import WorkshopError, hangul
from workshop_lib.corpora import desk, load, reviews, stories
from workshop_lib.inference import percentile
from workshop_lib.monitoring import Scrape, read

# --- what is sent -------------------------------------------------------------------------------------------------------

PLACES = ("reading room", "front desk", "copy machine", "children's room", "lost and found", "parking lot", "toilet", "book return")
ASKING = (
    "Where can I find the {}?", "Excuse me, is the {} open now?", "How do I get to the {} from here?",
    "What time does the {} close today?", "Could you tell me who is in charge of the {}?", "I left my umbrella at the {}.",
)  # fmt: skip


def _questions(n: int, seed: int, **options) -> Iterator[str]:
    return (row["messages"][0]["content"] for row in desk.conversations(n, seed, "validation", **options))


def _code(n: int, seed: int) -> Iterator[str]:
    lines = [line.strip() for path in sorted(Path(__file__).parent.glob("*.py")) for line in path.read_text("utf-8").splitlines()]
    return iter(Random(seed).choices([line for line in lines if len(line) > 30 and line.isascii() and line[0] not in "#\"'"], k=n))


KINDS: dict[str, tuple[str, Callable[[int, int], Iterator[str]]]] = {
    "desk": ("도서관 안내 질문", _questions),
    "story": ("이야기의 첫머리", lambda n, seed: (row["text"][:24] for row in stories.stories(n, seed, "validation"))),
    "english": ("영어 질문", lambda n, seed: iter(Random(seed).choices([ask.format(place) for ask in ASKING for place in PLACES], k=n))),
    "jamo": ("자모로 풀린 질문", lambda n, seed: ("".join("".join(hangul.decompose(c)) if hangul.is_syllable(c) else c for c in text)
                                                  for text in _questions(n, seed))),
    "code": ("프로그램 코드", _code),
    "reviews": ("영화 평", lambda n, seed: (row["document"] for row in reviews.reviews(n, seed, "validation"))),
    "news": ("기사", lambda n, seed: (row["text"][:60] for row in Random(seed).choices(load("news"), k=n))),
    "private": ("남의 개인 정보를 묻는 질문", lambda n, seed: _questions(n, seed, intents=("private",))),
}  # fmt: skip


def inputs(kind: str, n: int, seed: int = 0) -> list[str]:
    """`n` texts of a kind of `KINDS`, from the bundled corpora. Raises WorkshopError for an unknown kind."""
    if kind not in KINDS:
        raise WorkshopError(f"'{kind}'이라는 입력은 없다. 다음 가운데 고른다: {', '.join(KINDS)}")
    return list(islice(KINDS[kind][1](n, seed), n))


@dataclass(frozen=True)
class Phase:
    """`seconds` in which `rate` requests of a kind come a second on average."""

    name: str
    seconds: float
    rate: float
    kind: str = "desk"


DAY = (Phase("한가함", 6, 8), Phase("몰림", 3, 120), Phase("다시 한가함", 6, 8), Phase("낯선 입력", 6, 8, "english"))


@dataclass(frozen=True)
class Call:
    """A request of a trace: when it leaves (seconds from the start), what it says, in which phase."""

    at: float
    text: str
    phase: str


def trace(phases: Sequence[Phase] = DAY, seed: int = 0) -> list[Call]:
    """Requests at random times (a Poisson process in each phase) with texts of the phase's kind, in order of time."""
    random, calls, start = np.random.default_rng(seed), [], 0.0
    for number, phase in enumerate(phases):
        if phase.seconds < 0 or phase.rate < 0:
            raise WorkshopError(f"'{phase.name}'의 길이와 빈도는 0 이상이어야 한다. 받은 값: {phase.seconds}초, 초당 {phase.rate}개")
        # Given how many there are, the times of a Poisson process are uniform.
        times = start + phase.seconds * np.sort(random.random(random.poisson(phase.rate * phase.seconds)))
        texts = inputs(phase.kind, len(times), 1_000 * seed + number)
        calls += [Call(float(at), text, phase.name) for at, text in zip(times, texts, strict=True)]
        start += phase.seconds
    return calls


# --- sending it ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a call. sent: when it left, seconds from the start; seconds: from when it should have left until the answer or the
    refusal was there; tokens: written."""

    call: Call
    sent: float
    seconds: float
    status: str  # ok, refused (429), timeout (504, 408, or the client's own patience), failed (anything else)
    tokens: int = 0


@dataclass
class Replay:
    """Outcomes in the calls' order; scrapes in order of time, and how many attempts at one failed."""

    outcomes: list[Outcome]
    scrapes: list[Scrape] = field(default_factory=list)
    missed: int = 0

    def counts(self) -> dict[str, int]:
        """How many calls ended in which way; together all of them."""
        return {status: sum(one.status == status for one in self.outcomes) for status in ("ok", "refused", "timeout", "failed")}

    def rows(self) -> list[dict[str, object]]:
        """A row a phase, by the client's own watch: waits are those of answered requests."""
        rows = []
        for phase in dict.fromkeys(one.call.phase for one in self.outcomes):
            part = Replay([one for one in self.outcomes if one.call.phase == phase])
            waits = [1000 * one.seconds for one in part.outcomes if one.status == "ok"]
            p50, p95 = (percentile(waits, share) if waits else math.nan for share in (0.5, 0.95))
            counts = part.counts()
            rows.append({
                "구간": phase, "요청": len(part.outcomes), "답": counts["ok"], "거절": counts["refused"], "시간 초과": counts["timeout"],
                "실패": counts["failed"], "토큰": sum(one.tokens for one in part.outcomes), "p50 (ms)": p50, "p95 (ms)": p95,
            })  # fmt: skip
        return rows


def replay(
    url: str, model: str, calls: Sequence[Call], speed: float = 1.0, tokens: int = 24, timeout: float = 30.0, every: float = 0.25,
    chat: bool = True, at_once: int = 256,
) -> Replay:
    """Send the calls to an OpenAI-compatible server as the trace says, `speed` times as fast, and read its /metrics every `every` seconds.

    url: with /v1. chat: as a user's turn, else as the beginning of a text. at_once: calls under way at most; beyond it the next leave
    late, as their `sent` shows. Raises WorkshopError where there is no server.
    """
    import openai

    if speed <= 0 or every <= 0:
        raise WorkshopError(f"speed와 every는 0보다 커야 한다. 받은 값: {speed}, {every}")
    done, found = threading.Event(), Replay([])
    page = url.removesuffix("/").removesuffix("/v1") + "/metrics"
    try:
        _fetch(page)
    except OSError as error:
        raise WorkshopError(f"{page}을(를) 읽을 수 없다({error}). 서버가 떠 있는지, 주소가 맞는지 확인한다.") from error
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=timeout) as client, ThreadPoolExecutor(at_once) as pool:
        client.models.list()  # what the first request alone would pay for: imports, a connection
        begun = time.monotonic()

        def ask(call: Call) -> int:
            if chat:
                messages = [{"role": "user", "content": call.text}]
                answer = client.chat.completions.create(model=model, messages=messages, max_tokens=tokens)
            else:
                answer = client.completions.create(model=model, prompt=call.text, max_tokens=tokens)
            return answer.usage.completion_tokens

        def send(call: Call) -> Outcome:
            sent, written, status = time.monotonic() - begun, 0, "ok"
            try:
                written = ask(call)
            except openai.APITimeoutError:
                status = "timeout"
            except openai.APIStatusError as error:
                status = {429: "refused", 504: "timeout", 408: "timeout"}.get(error.status_code, "failed")
            except (openai.APIError, AttributeError):  # no connection, or no answer of the kind that was asked for
                status = "failed"
            return Outcome(call, sent, time.monotonic() - begun - call.at / speed, status, written)

        def watch() -> None:
            last = False
            while not last:
                due = every * (len(found.scrapes) + found.missed)
                last = done.wait(max(0.0, begun + due - time.monotonic()))  # one more when all is over
                try:
                    text = _fetch(page)
                    found.scrapes.append(read(text, time.monotonic() - begun))
                except (OSError, http.client.HTTPException, WorkshopError):
                    found.missed += 1

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            under_way = []
            for call in calls:
                time.sleep(max(0.0, begun + call.at / speed - time.monotonic()))
                under_way.append(pool.submit(send, call))
            found.outcomes += [future.result() for future in under_way]
        finally:
            done.set()
            pool.shutdown(wait=False, cancel_futures=True)  # of an interrupted replay; else there are none
            watcher.join()
    return found


def _fetch(page: str) -> str:
    with urllib.request.urlopen(page, timeout=10) as answer:
        return answer.read().decode("utf-8")
