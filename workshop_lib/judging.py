"""A language model as judge of two answers, over OpenAI's protocol, and how much of its verdicts is prejudice.

Notable choices
- Any server that speaks the protocol: one on this machine (`serving`), or a large model at WORKSHOP_JUDGE_URL.
- Every pair is shown twice with the answers swapped, for judges prefer a place (Zheng 2023, §3.4). Only a verdict that survives the
  swap counts as a win; the share of verdicts for whatever stands first measures the prejudice.
- A judge that does not answer in the form asked for has given no verdict. It is counted as invalid, never guessed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from workshop_lib import WorkshopError, display
from workshop_lib.belief import wilson_interval

PROMPT = """다음 질문에 대한 두 답을 견주어 더 나은 쪽을 고른다. 정확하고 질문에 맞으며 자연스러운 한국어로 쓴 답이 낫다.
답의 길이나 놓인 순서는 따지지 않는다.

[질문]
{question}

[답 A]
{first}

[답 B]
{second}

이유를 한 문장으로 쓴 뒤, 마지막 줄에 '판정: A', '판정: B', '판정: 무승부' 가운데 하나만 쓴다."""

Place = Literal["A", "B", "tie"]
_VERDICTS = {"a": "A", "b": "B", "무승부": "tie", "비김": "tie", "tie": "tie"}
_SAID = re.compile(r"판정\s*[:：은는]?\s*['\"(\[]*\s*(?:답\s*)?(a|b|무승부|비김|tie)(?![a-z])", re.IGNORECASE)
_BARE = re.compile(r"\W*(?:답\s*)?(a|b|무승부|비김|tie)\W*", re.IGNORECASE)


def parse_verdict(text: str | None) -> Place | None:
    """The verdict in a judge's answer: its last "판정: …", or an answer that is nothing but a verdict. None where there is neither.

    A line that names several ("판정: A, B, 무승부 가운데 하나") only repeats the question: no verdict.
    """
    text = re.sub(r"<think>.*?(?:</think>|$)", " ", unicodedata.normalize("NFKC", text or ""), flags=re.DOTALL)
    text = re.sub(r"[*_`]", "", text)
    for said in reversed(list(_SAID.finditer(text))):
        line = text[said.end() :].split("\n", 1)[0]
        if re.search(r"(?<![A-Za-z])[ABab](?![A-Za-z])|무승부|판정|가운데|중 하나", line):
            return None
        return _VERDICTS[said[1].lower()]
    bare = _BARE.fullmatch(text)
    return _VERDICTS[bare[1].lower()] if bare else None


@dataclass(frozen=True)
class Judge:
    """A model at an address of the OpenAI kind, such as http://127.0.0.1:8000/v1."""

    base_url: str
    model: str
    key: str = "none"
    max_tokens: int = 200
    timeout: float = 60.0
    prompt: str = PROMPT

    @classmethod
    def from_environment(cls) -> Judge | None:
        """The judge of WORKSHOP_JUDGE_URL, WORKSHOP_JUDGE_MODEL and (where the server asks for one) WORKSHOP_JUDGE_KEY; None if not set."""
        url, model = os.environ.get("WORKSHOP_JUDGE_URL"), os.environ.get("WORKSHOP_JUDGE_MODEL")
        if not url:
            return None
        if not model:
            raise WorkshopError("WORKSHOP_JUDGE_URL은 있는데 WORKSHOP_JUDGE_MODEL이 없다. 서버가 쓰는 모델 이름을 넣는다.")
        return cls(url, model, os.environ.get("WORKSHOP_JUDGE_KEY", "none"))

    @cached_property
    def _client(self):
        import openai

        return openai.OpenAI(base_url=self.base_url, api_key=self.key, timeout=self.timeout, max_retries=1)

    def ask(self, prompt: str) -> str:
        """The model's answer to one message, greedy; of a message too long for it, the server's complaint.

        Raises WorkshopError where the server cannot be reached or refuses.
        """
        import openai

        try:
            answer = self._client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], max_tokens=self.max_tokens, temperature=0
            )
        except openai.APITimeoutError as error:
            raise WorkshopError(f"심판 서버 {self.base_url}가 {self.timeout:g}초 안에 답하지 않았다.") from error
        except openai.APIConnectionError as error:
            raise WorkshopError(f"심판 서버 {self.base_url}에 연결할 수 없다. 서버가 떠 있는지, 주소가 /v1로 끝나는지 확인한다.") from error
        except openai.APIStatusError as error:
            if error.code == "context_length_exceeded":
                return str(error.message)  # no verdict, and why
            raise WorkshopError(
                f"심판 서버 {self.base_url}가 {error.status_code}로 거절했다: {str(error.message)[:200]} "
                f"모델 이름 '{self.model}'과 WORKSHOP_JUDGE_KEY를 확인한다."
            ) from error
        except (openai.OpenAIError, ValueError) as error:  # ValueError: no JSON at all
            raise WorkshopError(f"심판 서버 {self.base_url}의 답을 읽을 수 없다: {error}") from error
        choices = getattr(answer, "choices", None)
        if not choices:
            raise WorkshopError(f"심판 서버 {self.base_url}의 답이 OpenAI 형식이 아니다(choices가 없다). 주소가 /v1로 끝나는지 확인한다.")
        return choices[0].message.content or ""

    def compare(self, question: str, first: str, second: str) -> Comparison:
        """Both orders of two answers."""
        once = self.ask(self.prompt.format(question=question, first=first, second=second))
        again = self.ask(self.prompt.format(question=question, first=second, second=first))
        return Comparison(parse_verdict(once), parse_verdict(again), (once, again))


@dataclass(frozen=True)
class Comparison:
    """Verdicts on a pair: as given, and with the answers swapped (A is then the second). `raw`: what the judge wrote."""

    given: Place | None
    swapped: Place | None
    raw: tuple[str, str] = ("", "")

    @property
    def outcome(self) -> str:
        """"first", "second" or "tie" where both verdicts agree; "inconsistent" where not; "invalid" where one is missing."""
        if self.given is None or self.swapped is None:
            return "invalid"
        turned = {"A": "B", "B": "A", "tie": "tie"}[self.swapped]
        return {"A": "first", "B": "second", "tie": "tie"}[self.given] if self.given == turned else "inconsistent"


@dataclass(frozen=True)
class Report:
    """Outcomes of many pairs."""

    comparisons: tuple[Comparison, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs had each outcome; they add up to all pairs."""
        found = Counter(comparison.outcome for comparison in self.comparisons)
        return {outcome: found[outcome] for outcome in ("first", "second", "tie", "inconsistent", "invalid")}

    @property
    def win_rate(self) -> tuple[float, float, float] | None:
        """(share, low, high) of the first among pairs with a consistent winner, 95 % Wilson; None where there is none."""
        counts = self.counts
        return _share(counts["first"], counts["first"] + counts["second"])

    @property
    def first_place_share(self) -> tuple[float, float, float] | None:
        """(share, low, high) of verdicts for the answer that was shown first, ties and invalid ones aside; ½ = no prejudice.

        Over pairs with two verdicts, so that better answers stand first as often as second. The two verdicts on a pair are no two
        independent observations: the interval is that of as many observations as pairs.
        """
        both = [c for c in self.comparisons if c.given in ("A", "B") and c.swapped in ("A", "B")]
        return _share(sum((c.given == "A") + (c.swapped == "A") for c in both) / 2, len(both))


def _share(part: float, whole: int) -> tuple[float, float, float] | None:
    return (part / whole, *wilson_interval(part, whole)) if whole else None


def compare_all(judge: Judge, pairs: Iterable[tuple[str, str, str]]) -> Report:
    """All (question, first answer, second answer), two questions to the judge a pair."""
    return Report(tuple(judge.compare(*pair) for pair in display.progress(list(pairs), desc="심판")))


# --- a server on this machine -------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path | str) -> Iterator[Judge]:
    """A model folder behind the course's own server (`workshop serve`, week 8) on a free port, as a judge; it ends with the block.

    Raises WorkshopError, with the server's words, where the folder holds no model.
    """
    from workshop_lib.local_server import running

    with running(folder) as server:
        yield Judge(server.url, server.model)
