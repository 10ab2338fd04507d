"""`workshop serve`: a model behind the protocol of OpenAI.

/v1/models, /v1/completions and /v1/chat/completions (whole or streamed), /health, and /metrics for Prometheus. `protocol` reads the
requests, `engine` writes the answers; here they meet.

Notable choices
- As in vLLM, a prompt and max_tokens that together exceed the context are refused (400, `context_length_exceeded`).
- The status is sent when the first token is there: a request that is refused or times out in the queue gets 429 or 504, also with
  stream=true. The engine lets go of a request as soon as its client has left.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workshop_lib import WorkshopError
from workshop_lib.protocol import CLIENT_GONE, Form, Order, Refused, count_usage, failure, parse

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from workshop_lib.engine import Engine, Piece, Ticket

MOST_BODY = 1 << 20  # bytes of a request
MOST_DRAINED = 64 << 20  # bytes of a refused body that are read, so that its sender comes to read the refusal
READY = "준비됨: "  # before the address, when the server answers; `local_server` waits for it


class Metrics:
    """What Prometheus reads from /metrics."""

    def __init__(self, engine: "Engine"):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        buckets = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
        new = {"registry": self.registry}
        self.requests = Counter("workshop_requests", "Requests by route and status", ("route", "status"), **new)
        self.seconds = Histogram("workshop_request_seconds", "From request to the end of the answer", ("route",), buckets=buckets, **new)
        self.first = Histogram("workshop_time_to_first_token_seconds", "From request to first token", buckets=buckets, **new)
        self.tokens = Counter("workshop_tokens", "Tokens read (prompt) and written (completion)", ("kind",), **new)
        Gauge("workshop_queue_length", "Requests that wait for a row", **new).set_function(lambda: engine.waiting)
        Gauge("workshop_running", "Requests in the batch", **new).set_function(lambda: engine.running)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)

    def answered(self, route: str, status: int, seconds: float, tickets: list["Ticket"], prompt_tokens: int) -> None:
        """Count a request in, however it ended; `seconds`: from its arrival to the end of its answer."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("completion").inc(sum(len(ticket.tokens) for ticket in tickets))
        for ticket in tickets:
            if ticket.first is not None:
                self.first.observe(ticket.first - ticket.submitted)


def application(engine: "Engine", model: str, timeout: float = 60.0) -> "FastAPI":
    """The HTTP side of an engine. `model`: its name in requests; `timeout`: seconds from a request's arrival to the end of its answer."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, PlainTextResponse
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.exceptions import HTTPException

    app = FastAPI(title="workshop serve", docs_url=None, redoc_url=None, openapi_url=None)
    metrics = Metrics(engine)
    started = int(time.time())
    card = {"id": model, "object": "model", "created": started, "owned_by": "workshop", "max_model_len": engine.context}

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict:
        if name != model:
            raise Refused(404, f"'{name[:100]}' 모델은 없다. 이 서버의 모델은 '{model}'이다.", "model", "model_not_found")
        return card

    @app.get("/health")
    async def health():
        state = {"status": "ok" if engine.alive else "stopped", "model": model, "running": engine.running, "waiting": engine.waiting,
                 "exact": engine.exact}  # fmt: skip
        return JSONResponse(state, 200 if engine.alive else 503)

    @app.get("/metrics")
    async def measured():
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/completions")
    async def completions(request: Request):
        return await _answer(request, engine, metrics, model, timeout, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request):
        return await _answer(request, engine, metrics, model, timeout, chat=True)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused):
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException):
        metrics.requests.labels("other", str(error.status_code)).inc()
        known = {404: f"{request.url.path} 주소는 없다.", 405: f"{request.method}로는 부를 수 없는 주소다."}
        message = known.get(error.status_code, str(error.detail))
        return JSONResponse(Refused(error.status_code, message).body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception):
        metrics.requests.labels("other", "500").inc()
        return JSONResponse(Refused(500, "서버 안에서 오류가 났다. 서버의 기록을 본다.", code="internal_error").body, 500)

    return app


async def _answer(request: "Request", engine: "Engine", metrics: Metrics, model: str, timeout: float, chat: bool) -> "Response":
    """One request from its body to its answer; every way out is counted once."""
    from fastapi.responses import JSONResponse, StreamingResponse

    route, arrived = request.url.path, time.monotonic()
    tickets: list[Ticket] = []
    counted = False

    def count(status: int) -> None:
        nonlocal counted
        if not counted:
            counted = True
            asked = count_usage(tickets, len(order.prompts))["prompt_tokens"] if tickets else 0
            metrics.answered(route, status, time.monotonic() - arrived, tickets, asked)

    try:
        order = parse(await _json(request, timeout), chat, model, engine)
        pieces = _submit(order, engine, timeout - (time.monotonic() - arrived), tickets)
    except Refused as refusal:
        count(refusal.status)
        raise
    form = Form(chat, model, f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time()))
    watch = asyncio.create_task(_until_gone(request))
    watch.add_done_callback(lambda _: leave(CLIENT_GONE))

    def leave(status: int) -> None:
        watch.cancel()
        for ticket in tickets:
            ticket.cancel()  # of one that has ended, nothing becomes
        count(status)

    if order.stream:
        first = await anext(pieces)
        if refusal := failure(first[1].finish, timeout):
            leave(refusal.status)
            raise refusal

        async def events() -> AsyncIterator[str]:
            status = CLIENT_GONE  # unless it comes to an end of its own
            try:
                async for event, known in _stream(first, pieces, tickets, order, form, timeout):
                    status = known or status
                    yield f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n"
            finally:
                leave(status)

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    texts, status = [""] * len(tickets), 500
    try:
        async for index, piece in pieces:
            texts[index] += piece.text
            if refusal := failure(piece.finish, timeout):
                status = refusal.status
                raise refusal
        status = 200
    finally:
        leave(status)
    return JSONResponse(form.whole(texts, [ticket.finish for ticket in tickets], count_usage(tickets, len(order.prompts))))


def _submit(order: Order, engine: "Engine", timeout: float, tickets: list["Ticket"]) -> AsyncIterator[tuple[int, "Piece"]]:
    """Hand the order to the engine (its tickets are put into `tickets`); the pieces of all answers as they come, with their numbers."""
    from workshop_lib.engine import QueueFull, TooLong

    loop, arriving = asyncio.get_running_loop(), asyncio.Queue()
    prompts = [ids for ids in order.prompts for _ in range(order.n)]
    seeds = [None if order.seed is None else order.seed + number % order.n for number in range(len(prompts))]

    def listener(index: int):
        text: list[str] = []

        def listen(piece: "Piece") -> None:  # in the engine's thread
            text.append(piece.text)
            if order.stream or piece.finish:  # nobody reads the pieces of an answer that leaves as a whole
                whole = replace(piece, text="".join(text))
                text.clear()
                loop.call_soon_threadsafe(arriving.put_nowait, (index, whole))

        return listen

    listeners = [listener(index) for index in range(len(prompts))]
    room = order.max_tokens or max(1, engine.context - max(map(len, prompts)))
    try:
        tickets += engine.submit_all(prompts, room, order.sampling, seeds, order.stop, timeout, order.ignore_end, listeners)
    except TooLong as error:
        raise Refused(400, str(error), "messages" if order.max_tokens is None else "max_tokens", "context_length_exceeded") from error
    except QueueFull as error:
        raise Refused(429, str(error), code="queue_full") from error
    except WorkshopError as error:
        raise Refused(400 if engine.alive else 503, str(error)) from error

    async def pieces() -> AsyncIterator[tuple[int, "Piece"]]:
        going = len(tickets)
        while going:
            index, piece = await arriving.get()
            going -= piece.finish is not None
            yield index, piece

    return pieces()


async def _stream(first, pieces, tickets, order: Order, form: Form, timeout: float) -> AsyncIterator[tuple[dict | str, int | None]]:
    """The events of a stream, and the status for the metrics where it is known."""
    empty = {"usage": None} if order.usage_at_end else {}  # OpenAI's form: null in all but the last chunk
    if form.chat:
        for index in range(len(tickets)):
            yield form.part(index, "", None, opening=True) | empty, None

    async def all_pieces():
        yield first
        async for item in pieces:
            yield item

    async for index, piece in all_pieces():
        if refusal := failure(piece.finish, timeout):
            yield json.dumps(refusal.body, ensure_ascii=False), refusal.status
            return
        if piece.text and form.chat and piece.finish:  # the last words and the end are two chunks in a chat
            yield form.part(index, piece.text, None) | empty, None
            yield form.part(index, "", piece.finish) | empty, None
        else:
            yield form.part(index, piece.text, piece.finish) | empty, None
    if order.usage_at_end:
        yield form.last(count_usage(tickets, len(order.prompts))), None
    yield "[DONE]", 200


async def _until_gone(request: "Request") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(request: "Request", timeout: float) -> Any:
    """The body of a request. Raises Refused where it is too large, too slow, or no JSON."""
    from starlette.requests import ClientDisconnect

    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MOST_BODY:
                    body += chunk
                elif size > MOST_DRAINED:
                    break
    except ClientDisconnect as error:
        raise Refused(CLIENT_GONE, "요청한 쪽이 떠났다.") from error
    except TimeoutError as error:
        raise Refused(408, f"{timeout:g}초 안에 본문이 다 오지 않았다.", code="timeout") from error
    if size > MOST_BODY:
        raise Refused(413, f"본문이 {MOST_BODY >> 20} MB보다 크다.", code="body_too_large")
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"본문이 UTF-8로 쓴 JSON이 아니다: {str(error)[:100]}", code="invalid_json") from error


def load(folder: Path):
    """(model, tokenizer) of a model folder. Raises WorkshopError where there is none, or a broken one."""
    import torch

    from workshop_lib import checkpoints, quantized, tokenization

    if not folder.is_dir():
        raise WorkshopError(f"모델 폴더 {folder}이(가) 없다. --model의 경로를 확인하거나 `workshop run --weeks 1-5`로 모델을 만든다.")
    if not (folder / "config.json").is_file():
        raise WorkshopError(f"{folder}은(는) 모델 폴더가 아니다(config.json이 없다). --model의 경로를 확인한다.")
    read = quantized.load_quantized if quantized.is_quantized(folder) else checkpoints.load_model
    return read(folder).to("cuda" if torch.cuda.is_available() else "cpu"), tokenization.load(folder)


def serve(
    folder: Path, host: str = "127.0.0.1", port: int = 8000, *, max_batch: int = 8, queue: int = 64, timeout: float = 60.0,
    name: str | None = None, end_with_stdin: bool = False,
) -> None:  # fmt: skip
    """Serve a model folder until Ctrl-C or SIGTERM; prints the address once it answers. Port 0: any free one.

    Raises WorkshopError for a broken model folder or an address that cannot be had.
    """
    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with _listen(host, port) as listening:
        import uvicorn

        from workshop_lib.engine import Engine

        engine = Engine(*load(folder), max_batch=max_batch, queue=queue)
        if not engine.exact:
            print("이 기계에서는 함께 계산하는 글에 따라 확률의 끝자리가 달라져, 드물게 답이 달라질 수 있다.", flush=True)
        app = application(engine, name or folder.resolve().name, timeout)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/v1"

        class Server(uvicorn.Server):
            async def startup(self, sockets=None) -> None:
                await super().startup(sockets)
                print(f"{READY}{address}", flush=True)

            async def shutdown(self, sockets=None) -> None:
                engine.close()  # the answers under way end now, so that their connections can
                await super().shutdown(sockets)

        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises again what it was stopped by
        try:
            Server(config).run([listening])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            engine.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise WorkshopError(f"포트 {port}을(를) 다른 프로그램이 쓰고 있다. 그것을 멈추거나 --port로 다른 포트를 고른다.") from error
        raise WorkshopError(f"{host}:{port}에서 기다릴 수 없다({error}). --host와 --port를 확인한다.") from error
    return listening


def _end_with_stdin() -> None:
    """Nobody writes to the pipe; it ends when the parent closes it or is gone."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 1):  # not through sys.stdin, whose lock would be held when the interpreter ends
            pass
    os.kill(os.getpid(), signal.SIGTERM)
