"""The memory of many requests at once: why an engine hands out its cache in blocks (PagedAttention, Kwon et al. 2023, arXiv 2309.06180).

A cache must be somewhere before anyone knows how long an answer becomes. Reserving room for the longest possible text wastes most of
it; small blocks, handed out as the text grows and found again through a table, waste at most the rest of each text's last block.

Notable choices
- Nothing is computed here: a simulation of who holds which slot (room for the keys and values of one token) at which step.
- Reserving the whole context for each request is the same simulation with blocks as long as the context.
- The requests are real prompts and answers; only when they arrive is drawn (a Poisson process).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workshop_lib import WorkshopError


class BlockTable:
    """`blocks` blocks of `size` slots, and which of them each request holds, in the order of its text."""

    def __init__(self, blocks: int, size: int):
        if blocks < 1 or size < 1:
            raise WorkshopError(f"블록 수와 블록 크기는 1 이상이어야 한다. 받은 값: {blocks}개, {size}칸")
        self.size = size
        self.free = list(range(blocks - 1, -1, -1))  # the next one to hand out stands last
        self.held: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def grow(self, request: int, tokens: int) -> bool:
        """Room for `tokens` more of this request; False, and nothing changes, when there are not enough free blocks."""
        length = self.lengths.get(request, 0) + tokens
        missing = -(-length // self.size) - len(self.held.get(request, ()))
        if missing > len(self.free):
            return False
        self.held.setdefault(request, []).extend(self.free.pop() for _ in range(missing))
        self.lengths[request] = length
        return True

    def release(self, request: int) -> None:
        """Give back all blocks of a request."""
        self.free += self.held.pop(request)
        del self.lengths[request]

    def slot(self, request: int, position: int) -> int:
        """Where in memory the key and value of a position are: neighbours in the text need not be neighbours there."""
        if not 0 <= position < self.lengths[request]:
            raise WorkshopError(f"요청 {request}의 글은 {self.lengths[request]}토큰이라 {position}번째 자리가 없다.")
        return self.held[request][position // self.size] * self.size + position % self.size

    @property
    def slots_held(self) -> int:
        """Slots of all blocks that were handed out."""
        return self.size * sum(len(blocks) for blocks in self.held.values())

    @property
    def slots_used(self) -> int:
        """Slots in which a token stands."""
        return sum(self.lengths.values())


@dataclass(frozen=True)
class Request:
    """When it arrives (in decoding steps), how many tokens its prompt has and how many its answer will have."""

    arrival: float
    prompt: int
    answer: int


def trace(conversations: Iterable[Sequence[dict]], length: Callable[[str], int], rate: float, seed: int = 0) -> list[Request]:
    """Each assistant turn as a request, its prompt all that was said before, arriving at random, `rate` a step on average.

    conversations: lists of {"role", "content"}; length: tokens of a text. Raises WorkshopError when there is no answer among them.
    """
    if rate <= 0:
        raise WorkshopError(f"한 단계에 오는 요청 수는 0보다 커야 한다. 받은 값: {rate}")
    pairs = []
    for messages in conversations:
        said = 0
        for message in messages:
            size = length(message["content"])
            if message["role"] == "assistant" and said and size:
                pairs.append((said, size))
            said += size
    if not pairs:
        raise WorkshopError("대화에 assistant의 답이 하나도 없다. 메시지의 role을 확인한다.")
    arrivals = np.random.default_rng(seed).exponential(1 / rate, len(pairs)).cumsum()
    return [Request(float(arrival), *pair) for arrival, pair in zip(arrivals, pairs)]


@dataclass
class Usage:
    """What a simulation saw. Lists with an item a step: running requests, slots held and slots used; `waits` has one a request."""

    block_size: int
    running: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # of each request: steps from its arrival to its last token
    preempted: int = 0

    @property
    def waste(self) -> float:
        """Share of the held slots in which nothing stood, over the whole time."""
        return 1 - sum(self.used) / max(1, sum(self.held))

    @property
    def steps(self) -> int:
        """How many steps it took to serve everyone."""
        return len(self.running)

    def row(self) -> dict[str, float]:
        """The numbers of a curve over block sizes; `at_once`: requests side by side, on average and at most."""
        return {
            "block_size": self.block_size, "waste": self.waste, "at_once": float(np.mean(self.running)),
            "most_at_once": max(self.running), "steps": self.steps, "mean_wait": float(np.mean(self.waits)), "preempted": self.preempted,
        }


def simulate(requests: Sequence[Request], slots: int, block_size: int) -> Usage:
    """Serve requests, first come first served, in a memory of `slots` slots. A step writes one token of every running request.

    When a text needs a block and none is free, the youngest request gives its blocks back and waits again, in front; what it has written
    is then read like a prompt (vLLM: recomputation). Raises WorkshopError for a request that would not fit even alone.
    """
    table, usage = BlockTable(slots // block_size, block_size), Usage(block_size)
    room = len(table.free) * block_size
    for request in requests:
        if request.prompt + request.answer > room:
            raise WorkshopError(f"{request.prompt + request.answer}토큰 요청이 전체 {room}칸보다 길다. slots를 늘린다.")
    coming = deque(sorted(enumerate(requests), key=lambda pair: pair[1].arrival))
    queue: deque[tuple[int, Request]] = deque()
    running: dict[int, Request] = {}  # oldest first; `answer` is what is still to be written
    step = 0
    while coming or queue or running:
        while coming and coming[0][1].arrival <= step:
            queue.append(coming.popleft())
        while queue and table.grow(queue[0][0], queue[0][1].prompt):
            number, request = queue.popleft()
            running[number] = request
        for number in list(running):
            while number in running and not table.grow(number, 1):
                youngest = next(reversed(running))
                queue.appendleft((youngest, replace(running.pop(youngest), prompt=table.lengths[youngest])))
                table.release(youngest)
                usage.preempted += 1
            if number in running:
                running[number] = replace(running[number], answer=running[number].answer - 1)
        usage.running.append(len(running))
        usage.held.append(table.slots_held)
        usage.used.append(table.slots_used)
        step += 1
        for number in [number for number, request in running.items() if not request.answer]:
            table.release(number)
            usage.waits.append(step - running.pop(number).arrival)
    return usage


def block_curve(requests: Sequence[Request], slots: int, sizes: Sequence[int]) -> list[dict]:
    """`simulate` for each block size: a row each. A size of the whole context is a reservation for the longest text."""
    return [simulate(requests, slots, size).row() for size in sizes]
