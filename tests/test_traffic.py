"""A trace is what was asked for, and a replay loses nothing: what the client counts is what the server counts."""

import http.server
import json
import sys
import threading

import numpy as np
import pytest
from test_serving import make_model

from workshop_lib import WorkshopError, hangul, local_server, traffic
from workshop_lib.traffic import Call, Phase


@pytest.mark.parametrize("kind", traffic.KINDS)
def test_inputs_are_as_many_as_asked_and_the_same_again(kind):
    texts = traffic.inputs(kind, 40, seed=3)
    assert len(texts) == 40 and all(texts) and texts == traffic.inputs(kind, 40, seed=3) != traffic.inputs(kind, 40, seed=4)


def test_kinds_are_what_their_names_say():
    assert all(text.isascii() for kind in ("english", "code") for text in traffic.inputs(kind, 50))
    assert not any(hangul.is_syllable(char) for text in traffic.inputs("jamo", 50) for char in text)
    assert all(any(map(hangul.is_syllable, text)) for kind in ("desk", "story", "news", "private") for text in traffic.inputs(kind, 50))
    with pytest.raises(WorkshopError, match="desk"):
        traffic.inputs("none", 1)


def test_a_trace_keeps_to_its_phases():
    phases = (Phase("하나", 50, 4), Phase("둘", 10, 60, "story"), Phase("셋", 20, 0), Phase("넷", 20, 10, "english"))
    calls = traffic.trace(phases, seed=1)
    assert calls == traffic.trace(phases, seed=1) != traffic.trace(phases, seed=2)
    assert [call.at for call in calls] == sorted(call.at for call in calls)
    for phase, (low, high) in zip(phases, ((0, 50), (50, 60), (60, 80), (80, 100))):
        times = [call.at for call in calls if call.phase == phase.name]
        mean = phase.rate * phase.seconds
        assert all(low <= at < high for at in times) and abs(len(times) - mean) <= 4 * mean**0.5
    gaps = np.diff([call.at for call in calls if call.phase == "둘"])
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.15)  # as of a Poisson process, not of a clock
    assert all(call.text.isascii() == (call.phase == "넷") for call in calls)
    with pytest.raises(WorkshopError, match="빈도"):
        traffic.trace([Phase("뒤로", 1, -1)])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server.running(make_model(tmp_path_factory.mktemp("traffic") / "model", 256), max_batch=2, queue=6) as running:
        yield running


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("chat", [True, False])
def test_a_rush_on_a_real_server_is_counted_alike_on_both_sides(server, chat):
    calls = traffic.trace((Phase("한가함", 1, 5, "story"), Phase("몰림", 0.5, 120, "story")))
    found = traffic.replay(server.url, server.model, calls, tokens=150, every=0.1, chat=chat)
    assert [one.call for one in found.outcomes] == calls and found.missed == 0
    counts, first, last = found.counts(), found.scrapes[0], found.scrapes[-1]
    assert sum(counts.values()) == len(calls) and counts["ok"] and counts["refused"] and not counts["failed"] + counts["timeout"]

    def rose(name, **labels):
        return last.total(name, **labels) - first.total(name, **labels)

    route = {"route": "/v1/chat/completions" if chat else "/v1/completions"}
    assert rose("workshop_requests_total", status="200", **route) == counts["ok"]
    assert rose("workshop_requests_total", status="429", **route) == counts["refused"]
    assert rose("workshop_tokens_total", kind="completion") == sum(one.tokens for one in found.outcomes)
    assert max(one.total("workshop_queue_length") for one in found.scrapes) > 0
    assert [row["요청"] for row in found.rows()] == [sum(call.phase == phase for call in calls) for phase in ("한가함", "몰림")]
    assert all(one.sent >= one.call.at and one.seconds >= one.sent - one.call.at for one in found.outcomes)


class Moody(http.server.BaseHTTPRequestHandler):
    """Answers by the prompt: a status code, "late", or "cut"."""

    scrapes = 0

    def do_GET(self):
        if self.path != "/metrics":
            return self.send(200, b'{"object": "list", "data": []}')
        Moody.scrapes += 1
        self.send(500 if Moody.scrapes % 4 == 0 else 200, b"<html>" if Moody.scrapes % 4 == 2 else b"up 1\n")

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        if prompt == "late":
            threading.Event().wait(4.0)
        elif prompt == "cut":
            return self.connection.close()
        status = int(prompt) if prompt.isdecimal() else 200
        self.send(status, b'{"usage": {"completion_tokens": 5}}' if prompt == "200" else b"{}")

    def send(self, status, body):
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


def test_every_way_to_fail_is_an_outcome_and_nothing_is_tried_again():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        prompts = ("200", "429", "504", "408", "500", "404", "late", "cut", "without usage")
        calls = [Call(0.01 * place, text, "") for place, text in enumerate(prompts)]
        found = traffic.replay(url, "m", calls, timeout=2.0, every=0.1, chat=False)
    finally:
        server.shutdown()
    wanted = ["ok", "refused", "timeout", "timeout", "failed", "failed", "timeout", "failed", "failed"]
    assert [one.status for one in found.outcomes] == wanted and [one.tokens for one in found.outcomes] == [5] + [0] * 8
    assert found.missed >= 2 and len(found.scrapes) >= 2
    assert found.missed + len(found.scrapes) == Moody.scrapes - 1  # the first only asked whether it is there
    assert found.rows()[0] | {"토큰": 5, "답": 1, "거절": 1, "시간 초과": 3, "실패": 4} == found.rows()[0]


def test_no_server_is_said_at_once():
    with pytest.raises(WorkshopError, match="서버가 떠 있는지"):
        traffic.replay("http://127.0.0.1:9/v1", "m", [Call(0, "가", "")])
    with pytest.raises(WorkshopError, match="speed"):
        traffic.replay("http://127.0.0.1:9/v1", "m", [], speed=0)
