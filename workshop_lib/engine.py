"""Many answers at once: continuous batching on the course's Transformer.

A model step costs nearly the same for one text as for eight. So the engine keeps a table of `max_batch` rows; a request takes a free row
when it comes, leaves it when it is done, and every step advances all rows by a token, whoever is in them (Orca, Yu et al. 2022, §3).

Notable choices
- Every step has the same shape, whoever is in the rows: so an answer is the same, bit for bit, alone or in company (`row_decoding`).
- A prompt is read alone, in one pass, and its keys and values are copied into its row. At most one is read between two steps: the
  answers under way never wait for more than one.
- A request has random numbers of its own: its seed decides its answer, not the neighbours or the order of arrival.
- One thread owns model and cache. Others reach it only through `submit` and `Ticket.cancel`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.row_decoding import PLAIN, Sampling, decode_step, draw, even_rows
from workshop_lib.text_stream import TextStream, token_bytes


class QueueFull(WorkshopError):
    """No room for another request; try again later."""


class TooLong(WorkshopError):
    """Prompt and answer together do not fit the model's context."""


# --- requests -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A bit of an answer. `tokens`: how many were written so far, the end mark included.

    `finish`: None while it goes on; "stop" or "length" at a regular end; "timeout", "cancelled", "closed" or "error" otherwise.
    """

    text: str
    tokens: int
    finish: str | None = None


@dataclass(eq=False)
class Ticket:
    """A request under way. Times are those of `time.monotonic`, None until it has come to that."""

    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stream: TextStream
    chance: random.Random
    deadline: float
    ignore_end: bool
    listener: Callable[[Piece], None] | None = None
    submitted: float = field(default_factory=time.monotonic)
    first: float | None = None
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    _pieces: SimpleQueue = field(default_factory=SimpleQueue)
    _cancelled: bool = False

    def cancel(self) -> None:
        """Nobody waits for it any more: its row is free before the next step."""
        self._cancelled = True

    def pieces(self) -> Iterator[Piece]:
        """The answer as it grows, up to the piece with a `finish` (only where there is no listener)."""
        while True:
            yield (piece := self._pieces.get())
            if piece.finish:
                return

    def result(self) -> str:
        """Waits for the whole answer. Raises WorkshopError where it did not come to a regular end."""
        text = "".join(piece.text for piece in self.pieces())
        if self.finish not in ("stop", "length"):
            raise WorkshopError(f"답을 끝까지 쓰지 못했다({self.finish}). 서버가 멈추지 않았는지, 시간 한도가 너무 짧지 않은지 확인한다.")
        return text

    def _emit(self, text: str) -> None:
        if not text and not self.finish:
            return
        piece = Piece(text, len(self.tokens), self.finish)
        if self.listener is None:
            self._pieces.put(piece)
            return
        try:
            self.listener(piece)
        except Exception:  # whoever listened is gone: its event loop is closed
            self._cancelled = True


class Engine:
    """A model that answers up to `max_batch` requests at once and keeps up to `queue` more waiting.

    exact: an answer is the same alone and in company. Where the machine's kernels do not allow it (`even_rows`), the company changes the
    last digits of the logits, and so an answer in which two tokens were all but equally likely.
    """

    def __init__(self, model: Transformer, tokenizer, max_batch: int = 8, queue: int = 64):
        if max_batch < 1 or queue < 0:
            raise WorkshopError(f"max_batch는 1 이상, queue는 0 이상이어야 한다. 받은 값: {max_batch}, {queue}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_batch, self.queue = max_batch, queue
        self.context = model.config.max_position_embeddings
        self.ends = end_tokens(tokenizer)
        self.device = next((tensor.device for tensor in _tensors(model)), torch.device("cpu"))
        table = token_bytes(tokenizer)
        self._longest = max(len(token.encode()) for token in tokenizer.get_vocab())  # of a token, in bytes of text: never less than it has
        self._known = min(model.config.vocab_size, len(table))
        self._table = table + [b""] * (model.config.vocab_size - len(table))  # a model may have more rows than there are tokens
        table_rows = even_rows(model, max_batch)
        self.exact, self._height = table_rows is not None, table_rows or max_batch
        shape = (self._height, model.config.num_key_value_heads, self.context, model.config.head_dim)
        kind = model.model.norm.weight.dtype
        self._cache = [
            (torch.zeros(shape, dtype=kind, device=self.device), torch.zeros(shape, dtype=kind, device=self.device))
            for _ in model.model.layers
        ]
        self._rows: list[Ticket | None] = [None] * max_batch
        self._waiting: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # --- for everyone

    @property
    def waiting(self) -> int:
        """Requests without a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests with a row."""
        return sum(row is not None for row in self._rows)

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closed

    def submit(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling = PLAIN,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout: float = 3600.0,
        ignore_end: bool = False,
        listener: Callable[[Piece], None] | None = None,
    ) -> Ticket:
        """Ask for up to `max_tokens` tokens after `ids`. `seed` None: another answer each time.

        ignore_end: go on past the end marks (for measurements). listener: is given every piece, in the engine's thread.
        Raises TooLong, QueueFull, or WorkshopError for an empty prompt or a token outside the vocabulary.
        """
        return self.submit_all([ids], max_tokens, sampling, [seed], stop, timeout, ignore_end, listener and [listener])[0]

    def submit_all(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, sampling: Sampling, seeds: Sequence[int | None], stop: Sequence[str] = (),
        timeout: float = 3600.0, ignore_end: bool = False, listeners: Sequence[Callable[[Piece], None]] | None = None,
    ) -> list[Ticket]:  # fmt: skip
        """Several requests of one kind: all are taken on, or none."""
        for ids in prompts:
            self._check(ids, max_tokens)
        deadline = time.monotonic() + timeout
        tickets = [
            Ticket(tuple(ids), max_tokens, sampling, TextStream(self._table, stop), _chance(seed), deadline, ignore_end, listener)
            for ids, seed, listener in zip(prompts, seeds, listeners or [None] * len(prompts))
        ]
        with self._wake:
            if not self.alive:
                raise WorkshopError("서버가 멈추는 중이라 요청을 받지 않는다.")
            if self.waiting + self.running + len(tickets) > self.max_batch + self.queue:
                raise QueueFull(f"기다리는 요청이 이미 {self.waiting}개다. 잠시 뒤에 다시 보낸다.")
            self._waiting.extend(tickets)
            self._wake.notify()
        return tickets

    def close(self) -> None:
        """Ends all requests with "closed", and the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _check(self, ids: Sequence[int], max_tokens: int) -> None:
        if not len(ids):
            raise WorkshopError("프롬프트가 비어 있다. 토큰이 하나는 있어야 한다.")
        if max_tokens < 1:
            raise WorkshopError(f"max_tokens는 1 이상이어야 한다. 받은 값: {max_tokens}")
        if wrong := [token for token in ids if not 0 <= token < self._known]:
            raise WorkshopError(f"토큰 번호 {wrong[0]}은(는) 어휘 크기 {self._known} 밖에 있다.")
        if len(ids) + max_tokens > self.context:
            raise TooLong(
                f"이 모델의 문맥 길이는 {self.context}토큰인데, 프롬프트 {len(ids)}토큰과 답 {max_tokens}토큰을 더하면 "
                f"{len(ids) + max_tokens}토큰이다. 프롬프트를 줄이거나 max_tokens를 낮춘다."
            )

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, as it is. Raises TooLong for a text that cannot fit."""
        self.check_length(text)
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def check_length(self, text: str) -> None:
        """Raises TooLong for a text that cannot fit, before it is encoded: encoding a megabyte would hold up the others."""
        if len(text.encode("utf-8", "replace")) > self.context * self._longest:
            raise TooLong(f"이 모델의 문맥 길이는 {self.context}토큰인데, 프롬프트가 {len(text)}자이다. 프롬프트를 줄인다.")

    # --- the engine's own thread

    def _work(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (self._waiting or self.running or self._closed):
                        self._wake.wait()
                    if self._closed:
                        break
                try:
                    self._turn()
                except Exception:  # whatever it is, it must not end the server
                    self._fail()
        with self._wake:
            left = [*filter(None, self._rows), *self._waiting]
            self._rows = [None] * self.max_batch
            self._waiting.clear()
        for ticket in left:
            self._end(ticket, "closed")

    def _fail(self) -> None:
        import traceback

        traceback.print_exc()
        for ticket in filter(None, self._rows):
            self._end(ticket, "error")

    def _turn(self) -> None:
        """Let go of what is no longer wanted, read one waiting prompt, advance all rows by a token."""
        now = time.monotonic()
        with self._wake:
            waiting = list(self._waiting)
        for ticket in [*filter(None, self._rows), *waiting]:
            if ticket._cancelled or now > ticket.deadline:
                self._end(ticket, "cancelled" if ticket._cancelled else "timeout")
        self._admit()
        if self.running:
            self._advance()

    def _admit(self) -> None:
        with self._wake:
            if not self._waiting or None not in self._rows:
                return
            row, ticket = self._rows.index(None), self._waiting.popleft()
            self._rows[row] = ticket
        logits, state = self.model.prefill(torch.tensor([ticket.ids], device=self.device))
        for (keys, values), (k, v) in zip(self._cache, state):
            keys[row, :, : len(ticket.ids)], values[row, :, : len(ticket.ids)] = k[0], v[0]
        self._take(ticket, draw(logits.cpu(), [ticket.sampling], [ticket.chance.random()])[0])

    def _advance(self) -> None:
        rows = [*self._rows, *[None] * (self._height - self.max_batch)]  # a copy: a ticket that ends leaves its row
        tokens = [ticket.tokens[-1] if ticket else 0 for ticket in rows]
        positions = [len(ticket.ids) + len(ticket.tokens) - 1 if ticket else 0 for ticket in rows]
        given = torch.tensor([tokens, positions], device=self.device)
        logits = decode_step(self.model, given[0], given[1], self._cache).cpu()
        luck = [ticket.chance.random() if ticket else 0.0 for ticket in rows]
        for ticket, token in zip(rows, draw(logits, [ticket and ticket.sampling for ticket in rows], luck)):
            if ticket:
                self._take(ticket, token)

    def _take(self, ticket: Ticket, token: int) -> None:
        if token < 0:
            self._end(ticket, "error")
            return
        if ticket.first is None:
            ticket.first = time.monotonic()
        ticket.tokens.append(token)
        if token in self.ends and not ticket.ignore_end:
            self._end(ticket, "stop", ticket.stream.rest())
            return
        text, stopped = ticket.stream.push(token)
        if stopped:
            self._end(ticket, "stop", text)
        elif len(ticket.tokens) == ticket.max_tokens:
            self._end(ticket, "length", text + ticket.stream.rest())
        else:
            ticket._emit(text)

    def _end(self, ticket: Ticket, finish: str, text: str = "") -> None:
        with self._wake:
            if ticket in self._rows:
                self._rows[self._rows.index(ticket)] = None
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
        ticket.finish = finish
        ticket._emit(text)


def _chance(seed: int | None) -> random.Random:
    return random.Random(None if seed is None else f"{seed}")


def end_tokens(tokenizer) -> frozenset[int]:
    """End of a document, and end of a turn in a chat."""
    vocabulary = tokenizer.get_vocab()
    return frozenset({tokenizer.eos_token_id, vocabulary.get("<|end|>")} - {None})


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
