"""Exercises of week 10: the order of stages, what is stale, a folder's hash, votes to pairs, how many answers, counters, buckets, drift,
extrapolation."""

from __future__ import annotations

import atexit
import functools
import hashlib
import math
import shutil
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.belief import answers_needed
from workshop_lib.drift import cusum
from workshop_lib.exercises import Exercise, Mistake, checker
from workshop_lib.feedback import pairs_from_votes
from workshop_lib.monitoring import histogram_quantile, increase
from workshop_lib.scaling import power_law
from workshop_lib.workspace import build_order, content_hash, stale_after

# ---------------------------------------------------------------------------------------------- build_order, stale_after

KITCHEN = {"밥상": ("밥", "국"), "국": ("물", "된장"), "밥": ("물", "쌀"), "물": (), "쌀": (), "된장": ()}
SMALL_COURSE = {"말뭉치": (), "토크나이저": ("말뭉치",), "바탕": ("말뭉치", "토크나이저"), "분류기": ("바탕",), "정렬": ("말뭉치", "바탕"),
                "환경": ()}  # fmt: skip


def _order_cases():
    return [
        (dict(SMALL_COURSE),),
        (dict(KITCHEN),),
        ({"d": ("b",), "a": (), "b": ("a",), "c": ()},),
        ({"z": ("y", "x"), "x": (), "y": ()},),
        ({"닭": ("달걀",), "달걀": ("닭",), "둥지": ()},),  # no end
        ({"바탕": ("토크나이저",)},),  # of what nobody makes
    ]


def _once(inputs):
    """One walk through the mapping, never again."""
    order = []
    for name, needs in inputs.items():
        if set(needs) <= set(order):
            order.append(name)
    return order


def _layers(inputs):
    """All that is free at once, then all that is free after that."""
    order = []
    while len(order) < len(inputs):
        free = [name for name, needs in inputs.items() if name not in order and set(needs) <= set(order)]
        if not free:
            raise WorkshopError("")
        order += free
    return order


def _depth_first(inputs):
    """Each stage right after its inputs, in the order in which it names them."""
    order, waiting = [], set()

    def put(name):
        if name in waiting or name not in inputs:
            raise WorkshopError("")
        waiting.add(name)
        for source in inputs[name]:
            if source not in order:
                put(source)
        order.append(name)
        waiting.discard(name)

    for name in inputs:
        if name not in order:
            put(name)
    return order


def _any_input(inputs):
    """Free as soon as one input is there."""
    order = []
    while len(order) < len(inputs):
        free = next((n for n, needs in inputs.items() if n not in order and (not needs or set(needs) & set(order))), None)
        if free is None:
            raise WorkshopError("")
        order.append(free)
    return order


def _silent(inputs):
    """Whatever cannot be built is left out."""
    order = []
    while free := next((n for n, needs in inputs.items() if n not in order and set(needs) <= set(order)), None):
        order.append(free)
    return order


def _stale_cases():
    return [
        (dict(SMALL_COURSE), "토크나이저"),
        (dict(SMALL_COURSE), "정렬"),
        (dict(KITCHEN), "물"),
        ({"끝": ("둘", "하나"), "둘": ("하나",), "하나": (), "딴것": ()}, "하나"),
    ]


def _direct(inputs, changed):
    return [name for name in build_order(inputs) if name == changed or changed in inputs[name]]


def _upwards(inputs, changed):
    wanted = {changed}
    for name in reversed(build_order(inputs)):
        if name in wanted:
            wanted |= set(inputs[name])
    return [name for name in build_order(inputs) if name in wanted]


def _later(inputs, changed):
    order = build_order(inputs)
    return order[order.index(changed) :]


def _as_written(inputs, changed):
    found = stale_after(inputs, changed)
    return [name for name in inputs if name in found]


# ---------------------------------------------------------------------------------------------- content_hash


@functools.cache
def _folders() -> list[Path]:
    """Two folders to hash, gone when the process ends."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    contents = (
        {"config.json": "{}", "model/weights.bin": "01", "model/notes.txt": ""},
        {"b.txt": "같다", "a.txt": "같다", "z/a.txt": "다르다"},
    )
    for number, files in enumerate(contents):
        for name, text in files.items():
            path = root / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return [root / str(number) for number in range(len(contents))]


def _hash_cases():
    return [(folder,) for folder in _folders()]


def _hashed(name=lambda path, root: path.relative_to(root).as_posix(), between="\0", content=lambda data: hashlib.sha256(data).digest(),
            files=lambda root: sorted(p for p in root.rglob("*") if p.is_file())):  # fmt: skip
    """The hash with its choices made otherwise."""

    def measure(root):
        digest = hashlib.sha256()
        for path in files(root):
            digest.update(f"{name(path, root)}{between}".encode())
            digest.update(content(path.read_bytes()))
        return digest.hexdigest()

    return measure


# ---------------------------------------------------------------------------------------------- answers_needed


def _needed_cases():
    return [(0.5, 0.6), (0.6, 0.5), (0.29, 0.63, 0.95, 0.9), (0.9, 0.92, 0.99, 0.8)]


def _needed(z=lambda confidence, power: NormalDist().inv_cdf(0.5 + confidence / 2) + NormalDist().inv_cdf(power),
            noise=lambda p, q: p * (1 - p) + q * (1 - q), gap=lambda p, q: (p - q) ** 2, rounded=math.ceil):  # fmt: skip
    def measure(before, after, confidence=0.95, power=0.8):
        return rounded(z(confidence, power) ** 2 * noise(before, after) / gap(before, after))

    return measure


# ---------------------------------------------------------------------------------------------- increase


def _counter_cases():
    return [([0, 3, 3, 8],), ([40, 45, 50],), ([10, 14, 2, 5, 1],), ([7],), ([9, 0, 0, 4],)]


def _steps(values, on_fall):
    return sum(now - before if now >= before else on_fall(now, before) for before, now in zip(values, values[1:]))


# ---------------------------------------------------------------------------------------------- histogram_quantile


def _bucket_cases():
    first = {0.1: 2, 0.5: 8, 1.0: 10, math.inf: 10}
    return [
        (0.5, dict(first)),
        (0.1, dict(first)),
        (0.95, {0.1: 50, 0.5: 80, 1.0: 90, math.inf: 100}),
        (0.9, {0.2: 0, 0.4: 0, 0.8: 20, math.inf: 20}),
        (0.5, {0.1: 0, math.inf: 0}),
    ]


def _quantile(inside=lambda low, high, share: low + (high - low) * share, beyond=lambda below: below, empty=math.nan, start=None,
              cumulate=False, rank=lambda share, total: share * total):  # fmt: skip
    """The quantile with its choices made otherwise."""

    def measure(share, buckets):
        counts = list(buckets.values())
        if cumulate:
            counts = np.cumsum(counts).tolist()
        if not counts[-1]:
            return empty
        wanted, low, below = rank(share, counts[-1]), 0.0, 0
        for bound, count in zip(buckets, counts):
            if count >= wanted:
                if bound == math.inf:
                    return beyond(low)
                return inside(low if start is None else start, bound, (wanted - below) / (count - below))
            low, below = bound, count

    return measure


# ---------------------------------------------------------------------------------------------- cusum


def _drift_cases():
    return [
        ([2.0, 2.1, 1.9, 2.6, 2.7, 2.8], 2.0, 0.2),
        ([1.0, 5.0, 1.0, 1.0, 4.0], 2.0, 1.0, 0.25),
        ([3.0, 1.0, 3.0, 3.5], 3.0, 0.5, 1.0),
        ([], 1.0, 1.0),
    ]


def _sums(score=lambda value, mean, std: (value - mean) / std, floor=lambda total: max(0.0, total), slack_used=True, keep=1.0):
    def measure(values, mean, std, slack=0.5):
        found, total = [], 0.0
        for value in values:
            total = floor(keep * total + score(value, mean, std) - (slack if slack_used else 0.0))
            found.append(total)
        return found

    return measure


# ---------------------------------------------------------------------------------------------- power_law


def _law_cases():
    return [
        ([1e3, 1e4, 1e5], [4.0, 2.0, 1.0]),
        ([2e4, 5e4, 1e5, 3e5, 1e6], [3.5, 3.1, 2.8, 2.5, 2.1]),
        ([10.0, 20.0, 90.0], [0.5, 0.6, 0.2]),
    ]


def _law(x=np.log, y=np.log, back=lambda slope, level: (float(np.exp(level)), float(-slope))):
    def fit(sizes, losses):
        slope, level = np.polyfit(x(np.asarray(sizes)), y(np.asarray(losses)), 1)
        return back(slope, level)

    return fit


def _law_ends(sizes, losses):
    exponent = -math.log(losses[-1] / losses[0]) / math.log(sizes[-1] / sizes[0])
    return losses[0] * sizes[0] ** exponent, exponent


# ---------------------------------------------------------------------------------------------- pairs_from_votes


def _ask(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def _vote(messages: list[dict], answer: str, vote: int) -> dict:
    return {"messages": messages, "answer": answer, "vote": vote}


def _vote_cases():
    floor, again = _ask("몇 층?"), _ask("안녕?", "네.", "몇 층?")
    return [
        ([_vote(floor, "2층.", 1), _vote(floor, "몰라.", -1), _vote(floor, "3층.", -1)],),
        ([_vote(floor, "2층.", 1), _vote(again, "몰라.", -1), _vote(_ask("이름?"), "싫어.", -1)],),
        ([_vote(floor, "2층.", -1), _vote(floor, "몰라.", -1), _vote(floor, "2층.", 1)],),  # a change of mind
        ([_vote(again, "2층.", -1), _vote(floor, "왜?", -1), _vote(again, "3층.", 1), _vote(floor, "2층.", 1), _vote(floor, "네.", 1)],),
        ([_vote(floor, "2층.", 1), _vote(floor, "2층.", -1)],),
    ]


def _said(answer: str) -> list[dict]:
    return [{"role": "assistant", "content": answer}]


def _pairs(key=lambda vote: str(vote["messages"]), settle=lambda old, new: new, take=lambda pairs: pairs, swapped=False):
    """Pairs with one choice made otherwise."""

    def collect(votes):
        asked, settled = {}, {}
        for vote in votes:
            asked.setdefault(key(vote), vote["messages"])
            about = settled.setdefault(key(vote), {})
            about[vote["answer"]] = settle(about[vote["answer"]], vote["vote"]) if vote["answer"] in about else vote["vote"]
        rows = []
        for place, about in settled.items():
            liked, disliked = ([answer for answer, value in about.items() if value == wanted] for wanted in (1, -1))
            for better, worse in take([(better, worse) for better in liked for worse in disliked]):
                chosen, rejected = (worse, better) if swapped else (better, worse)
                rows.append({"prompt": asked[place], "chosen": _said(chosen), "rejected": _said(rejected)})
        return rows

    return collect


def _pairs_both(votes):
    """Every vote for its own, as if nobody ever changed their mind."""
    return [
        {"prompt": good["messages"], "chosen": _said(good["answer"]), "rejected": _said(bad["answer"])}
        for good in votes for bad in votes
        if good["vote"] == 1 and bad["vote"] == -1 and good["messages"] == bad["messages"]
    ]  # fmt: skip


def _pairs_as_text(votes):
    return [row | {"chosen": row["chosen"][0]["content"], "rejected": row["rejected"][0]["content"]} for row in pairs_from_votes(votes)]


# ---------------------------------------------------------------------------------------------- declarations

EXERCISES = [
    Exercise(
        name="build_order", title="무엇부터 만들까", difficulty=3, minutes=20, reference=build_order, cases=_order_cases,
        hints=(
            "지금 만들 수 있는 것은 입력이 모두 이미 순서에 들어 있는 단계다.",
            "그런 단계 가운데 먼저 적힌 것 하나를 순서에 넣고, **처음부터** 다시 찾는다. 모두 들어갈 때까지 되풀이한다.",
            "`next((name for name, needs in inputs.items() if name not in order and set(needs) <= set(order)), None)`이 다음 것이다. "
            "None인데 아직 남았으면 서로를 기다리거나 없는 것을 기다리는 것이니 `WorkshopError`를 낸다.",
        ),
        mistakes=(
            Mistake(lambda inputs: list(inputs), "적힌 순서 그대로다. 입력보다 먼저 만들려는 단계가 있다."),
            Mistake(_once, "한 번만 훑었다. 뒤에 적힌 입력을 기다리던 앞의 단계가 빠졌다. 하나를 넣을 때마다 다시 훑는다."),
            Mistake(lambda inputs: build_order(inputs)[::-1], "거꾸로다. 쓰는 것보다 쓰이는 것이 먼저다."),
            Mistake(_layers, "만들 수 있는 것을 한꺼번에 넣었다. 하나를 넣을 때마다 처음부터 다시 보면 먼저 적힌 것이 앞에 온다."),
            Mistake(_depth_first,
                    "만들 수 있는 순서이지만 고르는 규칙이 다르다. 입력을 적은 순서가 아니라 inputs에 먼저 적힌 것부터 고른다."),
            Mistake(_any_input, "입력이 하나라도 있으면 만들었다. 입력이 **모두** 있어야 한다."),
            Mistake(_silent, "만들 수 없는 단계를 말없이 뺐다. 순서가 없으면 WorkshopError로 알린다."),
        ),
    ),
    Exercise(
        name="stale_after", title="무엇이 낡는가", difficulty=2, minutes=15, reference=stale_after, cases=_stale_cases,
        hints=(
            "바뀐 단계 자신과, 그것을 입력으로 쓰는 단계, 다시 그것을 쓰는 단계가 모두 낡는다.",
            "만드는 순서대로 훑으면 한 번으로 된다. 낡은 것을 하나라도 입력으로 쓰는 단계는 낡는다.",
            "`build_order(inputs)`를 돌며 `name == changed`이거나 `set(inputs[name]) & set(stale)`이 비지 않았으면 stale에 더한다.",
        ),
        mistakes=(
            Mistake(_direct, "바로 다음 단계만 보았다. 낡은 것을 쓰는 것을 쓰는 단계도 낡는다."),
            Mistake(lambda inputs, changed: stale_after(inputs, changed)[1:], "바꾼 단계 자신이 빠졌다. 그것부터 다시 만든다."),
            Mistake(lambda inputs, changed: [changed], "바꾼 단계 하나뿐이다. 그것을 입력으로 쓰는 단계들도 낡는다."),
            Mistake(_upwards, "거꾸로 올라갔다. 입력이 아니라 그것을 **쓰는** 쪽이 낡는다."),
            Mistake(_later, "뒤에 만드는 것을 모두 골랐다. 바꾼 것과 상관없는 단계는 그대로 둔다."),
            Mistake(_as_written, "고른 것은 맞지만 적힌 순서다. 만드는 순서로 돌려준다."),
        ),
    ),
    Exercise(
        name="content_hash", title="폴더의 지문", difficulty=3, minutes=20, reference=content_hash, cases=_hash_cases,
        hints=(
            "`root.rglob(\"*\")`는 폴더도 준다. 파일만 골라 정렬하면 어느 컴퓨터에서나 같은 순서다.",
            "파일마다 두 가지를 넣는다. `root` 아래의 경로와 0인 바이트, 그리고 내용의 SHA-256(32바이트)이다.",
            "`digest.update(f\"{path.relative_to(root).as_posix()}\\0\".encode())` 다음에 "
            "`digest.update(hashlib.sha256(path.read_bytes()).digest())`를 부르고, 끝에 `digest.hexdigest()`를 돌려준다.",
        ),
        mistakes=(
            Mistake(_hashed(name=lambda path, root: "", between=""), "이름이 없다. 두 파일의 이름을 맞바꾸어도 같은 지문이 나온다."),
            Mistake(_hashed(content=lambda data: b""), "내용이 없다. 이름만 같으면 같은 지문이 나온다."),
            Mistake(_hashed(name=lambda path, root: path.name),
                    "파일의 이름만 썼다. 다른 폴더로 옮겨도 알아채지 못한다. root 아래의 경로를 쓴다."),
            Mistake(_hashed(name=lambda path, root: path.as_posix()), "전체 경로를 썼다. 폴더를 다른 곳에 베끼면 지문이 달라진다."),
            Mistake(_hashed(between=""), "이름과 내용 사이에 0인 바이트가 없다. 어디까지가 이름인지 알 수 없다."),
            Mistake(_hashed(files=lambda root: sorted((p for p in root.rglob("*") if p.is_file()), reverse=True)),
                    "파일의 순서가 다르다. 경로로 정렬한다."),
            Mistake(_hashed(files=lambda root: sorted(p for p in root.iterdir() if p.is_file())),
                    "맨 위의 파일만 보았다. 안쪽 폴더의 파일이 바뀌어도 알아채지 못한다. rglob을 쓴다."),
            Mistake(_hashed(content=lambda data: hashlib.sha256(data).hexdigest().encode()),
                    "내용의 지문을 글자로 넣었다. digest()가 주는 32바이트를 넣는다."),
            Mistake(_hashed(content=lambda data: data),
                    "내용을 그대로 넣었다. 파일이 어디서 끝나는지 알 수 없다. 내용의 SHA-256을 넣는다."),
        ),
    ),
    Exercise(
        name="pairs_from_votes", title="표를 선호 쌍으로", difficulty=4, minutes=25, reference=pairs_from_votes, cases=_vote_cases,
        hints=(
            "같은 대화에서 나온 답끼리만 견줄 수 있다. 먼저 대화마다 답과 표를 모은다.",
            "사전 두 겹이면 된다: 대화 → (답 → 마지막 표). 나중 표가 앞의 표를 덮는다. 대화는 리스트라 열쇠가 못 되니 "
            "`json.dumps`나 `str`로 바꾸어 쓴다.",
            "대화마다 좋아요(1)를 받은 답과 싫어요(-1)를 받은 답의 **모든** 짝을 만든다. chosen과 rejected는 "
            "`[{\"role\": \"assistant\", \"content\": 답}]`의 꼴이다.",
        ),
        mistakes=(
            Mistake(_pairs(swapped=True), "chosen과 rejected가 뒤바뀌었다. 이대로 배우면 싫어하는 답을 하게 된다."),
            Mistake(_pairs(key=lambda vote: vote["messages"][-1]["content"]),
                    "마지막 말만 보고 묶었다. 앞의 대화가 다르면 같은 물음이 아니다. messages 전체로 묶는다."),
            Mistake(_pairs(key=lambda vote: ""), "다른 물음의 답끼리 짝지었다. 무엇이 나은지 말한 사람이 없다."),
            Mistake(_pairs(settle=lambda old, new: old), "처음 표를 썼다. 마음을 바꾼 사람의 마지막 표가 옳다."),
            Mistake(_pairs_both, "지워진 표까지 썼다. 같은 대화의 같은 답에는 마지막 표 하나만 남긴다."),
            Mistake(_pairs(take=lambda pairs: pairs[:1]), "대화마다 한 쌍만 만들었다. 좋아한 답과 싫어한 답의 모든 짝을 만든다."),
            Mistake(_pairs_as_text, "답을 글로만 적었다. chosen과 rejected는 메시지의 목록이다."),
        ),
    ),
    Exercise(
        name="answers_needed", title="답이 몇 개나 있어야 하나", difficulty=3, minutes=15, reference=answers_needed, cases=_needed_cases,
        hints=(
            "비율 하나의 분산은 p(1 − p) ÷ n이다. 두 비율의 차이의 분산은 둘을 더한 것이다.",
            "차이가 표준오차의 (z₁ + z₂)배가 되는 n을 푼다. z₁은 양쪽 신뢰 수준, z₂는 찾아낼 확률(power)의 것이다.",
            "`NormalDist().inv_cdf(0.5 + confidence / 2)`와 `NormalDist().inv_cdf(power)`를 더해 제곱하고, 두 분산의 합을 곱해 "
            "차이의 제곱으로 나눈다. `math.ceil`로 올린다.",
        ),
        mistakes=(
            Mistake(_needed(z=lambda confidence, power: NormalDist().inv_cdf(0.5 + confidence / 2)),
                    "찾아낼 확률(power)이 빠졌다. 이만큼이면 있는 차이도 절반은 놓친다."),
            Mistake(_needed(z=lambda confidence, power: NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(power)),
                    "한쪽만 본 z다. 차이는 어느 쪽으로도 날 수 있으므로 0.5 + confidence / 2를 쓴다."),
            Mistake(_needed(z=lambda confidence, power: NormalDist().inv_cdf(0.5 + confidence / 2) + NormalDist().inv_cdf(0.5 + power / 2)),
                    "power에도 양쪽의 z를 썼다. 찾아낼 확률은 `inv_cdf(power)`다."),
            Mistake(_needed(gap=lambda p, q: abs(p - q)), "차이를 제곱하지 않았다. 차이가 절반이면 답은 네 배 든다."),
            Mistake(_needed(noise=lambda p, q: p * (1 - p)), "한 비율의 분산만 넣었다. 흔들림은 양쪽에 있다."),
            Mistake(_needed(noise=lambda p, q: math.sqrt(p * (1 - p)) + math.sqrt(q * (1 - q))),
                    "표준편차를 더했다. 더할 수 있는 것은 분산이다."),
            Mistake(_needed(rounded=math.floor), "내렸다. 모자라면 약속한 확률에 닿지 못하므로 올린다."),
        ),
    ),
    Exercise(
        name="increase", title="다시 켜진 서버의 계수기", difficulty=2, minutes=10, reference=increase, cases=_counter_cases,
        hints=(
            "계수기는 오르기만 한다. 값이 줄었다면 서버가 다시 켜져 0부터 센 것이다.",
            "이웃한 두 값을 견준다. 올랐으면 차이를, 줄었으면 지금 값을 더한다.",
            "`zip(values, values[1:])`을 돌며 `now - before if now >= before else now`를 더한다. "
            "첫 값은 보기 전에 센 것이라 더하지 않는다.",
        ),
        mistakes=(
            Mistake(lambda values: values[-1] - values[0], "끝에서 처음을 뺐다. 다시 켜진 서버에서는 음수도 나온다."),
            Mistake(lambda values: max(values) - values[0], "가장 큰 값에서 처음을 뺐다. 다시 켜진 뒤에 센 것이 사라진다."),
            Mistake(lambda values: _steps(values, lambda now, before: 0),
                    "줄어든 자리를 0으로 쳤다. 다시 켜진 뒤 지금까지 센 것(지금 값)이 빠진다."),
            Mistake(lambda values: _steps(values, lambda now, before: before - now),
                    "줄어든 만큼을 더했다. 다시 켜진 뒤의 값은 0부터 센 것이다."),
            Mistake(lambda values: values[0] + increase(values), "첫 값까지 더했다. 보기 시작하기 전에 센 것이다."),
        ),
    ),
    Exercise(
        name="histogram_quantile", title="막대에서 읽는 p95", difficulty=4, minutes=25, reference=histogram_quantile, cases=_bucket_cases,
        hints=(
            "칸의 수는 그 위쪽 끝**까지**의 수를 모두 더한 것이다. 찾는 자리는 share × 전체(마지막 칸의 수)다.",
            "그 자리를 처음으로 담은 칸을 찾는다. 칸의 아래 끝은 앞 칸의 위 끝이고 첫 칸은 0이다. 칸 안에는 고르게 있다고 친다.",
            "`low + (bound - low) * (wanted - below) / (count - below)`다. 여기서 below는 앞 칸까지의 수다. 끝이 없는 칸이면 "
            "그 앞의 끝(low)을, 하나도 없으면 `math.nan`을 돌려준다.",
        ),
        mistakes=(
            Mistake(_quantile(inside=lambda low, high, share: high), "칸의 위 끝을 돌려주었다. 칸 안에서 어디쯤인지 나누어 넣는다."),
            Mistake(_quantile(cumulate=True), "이미 더해진 수를 또 더했다. 칸의 수는 그 끝까지의 누적이다."),
            Mistake(_quantile(start=0.0), "모든 칸이 0에서 시작한다고 보았다. 아래 끝은 앞 칸의 위 끝이다."),
            Mistake(_quantile(beyond=lambda below: math.inf),
                    "무한대를 돌려주었다. 마지막 칸에 들면 알 수 있는 가장 큰 끝을 돌려준다."),
            Mistake(_quantile(empty=0.0), "관측이 없는데 0이라고 했다. 0초와 모르는 것은 다르다. nan을 돌려준다."),
            Mistake(_quantile(rank=lambda share, total: (1 - share) * total), "위에서부터 셌다. p95는 아래에서 95%인 자리다."),
        ),
        tolerance=1e-9,
    ),
    Exercise(
        name="cusum", title="조금씩 쌓이는 이상", difficulty=2, minutes=15, reference=cusum, cases=_drift_cases,
        hints=(
            "값마다 표준 점수 (x − mean) ÷ std를 구하고, 여유(slack)를 뺀 것을 쌓아 간다.",
            "쌓인 값이 0 아래로 내려가면 0이다. 오래 조용했다고 빚이 생기면 안 된다.",
            "`total = max(0.0, total + (value - mean) / std - slack)`을 값마다 셈해 목록에 더한다.",
        ),
        mistakes=(
            Mistake(_sums(floor=lambda total: total), "0에서 멈추지 않았다. 조용했던 동안의 음수가 나중의 이상을 가린다."),
            Mistake(_sums(slack_used=False), "여유를 빼지 않았다. 아무 일이 없어도 언젠가 울린다."),
            Mistake(_sums(keep=0.0), "쌓지 않았다. 하나씩만 보면 조금씩 오래 밀린 것을 놓친다."),
            Mistake(_sums(score=lambda value, mean, std: value - mean), "표준편차로 나누지 않았다. 한계가 값의 단위에 따라 달라진다."),
            Mistake(_sums(score=lambda value, mean, std: abs(value - mean) / std),
                    "절댓값을 쌓았다. 위와 아래의 흔들림이 서로 지워지지 않는다."),
            Mistake(_sums(score=lambda value, mean, std: (mean - value) / std), "부호가 거꾸로다. 값이 커질 때 쌓인다."),
        ),
        tolerance=1e-9,
    ),
    Exercise(
        name="power_law", title="작은 것에서 큰 것을 내다보기", difficulty=2, minutes=15, reference=power_law, cases=_law_cases,
        hints=(
            "loss = scale · size^(−exponent)의 양쪽에 로그를 씌우면 곧은 선이다.",
            "ln loss = ln scale − exponent · ln size. 기울기의 부호를 뒤집은 것이 지수다.",
            "`slope, level = np.polyfit(np.log(sizes), np.log(losses), 1)`에서 (exp(level), −slope)를 float로 돌려준다.",
        ),
        mistakes=(
            Mistake(_law(x=lambda x: x, y=lambda y: y, back=lambda slope, level: (float(level), float(-slope))),
                    "로그를 씌우지 않았다. 거듭제곱은 로그를 씌워야 곧은 선이 된다."),
            Mistake(_law(y=lambda y: y, back=lambda slope, level: (float(level), float(-slope))),
                    "손실에 로그를 씌우지 않았다. 양쪽에 씌운다."),
            Mistake(_law(back=lambda slope, level: (float(np.exp(level)), float(slope))),
                    "지수의 부호가 뒤집혔다. 식에 이미 −가 있으므로 기울기가 음수면 지수는 양수다."),
            Mistake(_law(back=lambda slope, level: (float(level), float(-slope))), "scale이 아직 로그다. exp로 되돌린다."),
            Mistake(_law(x=np.log10, y=np.log10), "밑이 10인 로그로 맞추고 exp로 되돌렸다. 밑을 맞춘다."),
            Mistake(_law_ends, "처음과 끝만 이었다. 가운데 점들도 쓴다(최소제곱)."),
        ),
        tolerance=1e-6,
    ),
]  # fmt: skip
check = checker(week=10, exercises=EXERCISES)
