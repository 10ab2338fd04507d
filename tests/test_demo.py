"""The chat page: what it asks a server for, what it does when the server says no, and how it looks in a real browser."""

import html
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workshop_lib import WorkshopError, demo

ANSWER = ["안녕", "하세", "요. ", "<b>반갑</b>", "습니다"]


class Fake(BaseHTTPRequestHandler):
    """Just enough of OpenAI's protocol; says ANSWER to everything, and refuses more than `longest` messages."""

    longest, slow = 100, 0.0

    def log_message(self, *_):
        pass

    def send(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.send(200, {"object": "list", "data": [{"id": "echo", "object": "model", "created": 0, "owned_by": "test"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if len(body.get("messages", [])) > self.server.longest:
            self.send(400, {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}})
            return
        if body.get("temperature") == 2:
            self.send(400, {"error": {"message": "온도가 너무 높다", "type": "invalid_request_error", "code": None}})
            return
        chat = "messages" in body
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in ANSWER:
            choice = {"index": 0, "finish_reason": None} | ({"delta": {"content": piece}} if chat else {"text": piece})
            self.event({"id": "1", "object": "chunk", "created": 0, "model": "echo", "choices": [choice]})
            time.sleep(self.slow)
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        self.event({"id": "1", "object": "chunk", "created": 0, "model": "echo", "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, body):
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    made.asked, made.longest, made.url = [], 100, f"http://127.0.0.1:{made.server_port}/v1"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def client(server):
    connected, _ = demo.connect(server.url)
    with connected:
        yield connected


def user(text):
    return {"role": "user", "content": text}


def test_an_answer_grows_piece_by_piece_and_is_counted(client, server):
    parts = list(demo.reply(client, "echo", [user("안녕")], demo.Sampling(0.3, 0.9, 40, 7)))
    assert [part.text for part in parts[:5]] == ["".join(ANSWER[: n + 1]) for n in range(5)]
    assert parts[-1].pieces == tuple(ANSWER) and (parts[-1].read, parts[-1].written) == (7, 5)
    assert 0 < parts[-1].first <= parts[-1].seconds
    wanted = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 40, "seed": 7, "stream": True}
    assert wanted.items() <= server.asked[0].items()


def test_what_is_not_chosen_is_not_asked_for(client, server):
    list(demo.reply(client, "echo", [user("안녕")], demo.Sampling()))
    assert not {"max_tokens", "seed"} & set(server.asked[0])


def test_writing_on_is_a_completion(client, server):
    parts = list(demo.reply(client, "echo", [user("옛날에")], demo.Sampling(), complete=True))
    assert parts[-1].text == "".join(ANSWER)
    assert server.asked[0]["prompt"] == "옛날에" and server.asked[0]["max_tokens"] == 100


def test_a_full_context_forgets_the_oldest_exchange_but_not_the_system_prompt(client, server):
    server.longest = 4
    messages = [{"role": "system", "content": "친절하게"}]
    for turn in range(3):
        messages += [user(f"질문 {turn}"), {"role": "assistant", "content": f"답 {turn}"}]
    before = json.dumps(messages)
    *_, last = demo.reply(client, "echo", [*messages, user("마지막")], demo.Sampling())
    assert last.forgotten == 4 and "4개를 잊었다" in demo.token_view(last)
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["친절하게", "질문 2", "답 2", "마지막"]
    assert json.dumps(messages) == before
    server.longest = 0
    with pytest.raises(WorkshopError, match="too long"):
        list(demo.reply(client, "echo", [user("하나뿐")], demo.Sampling()))


def test_a_reader_who_leaves_closes_the_connection(client):
    answer = demo.reply(client, "echo", [user("안녕")], demo.Sampling())
    next(answer)
    answer.close()
    assert list(demo.reply(client, "echo", [user("또")], demo.Sampling()))[-1].text == "".join(ANSWER)


def test_history_of_both_forms_becomes_messages():
    history = [user("가") | {"metadata": None}, {"role": "assistant", "content": [{"type": "text", "text": "나&lt;"}, "다"]}]
    assert demo.conversation(" ", history, "라") == [user("가"), {"role": "assistant", "content": "나<다"}, user("라")]
    assert demo.conversation("친절하게", [], "라")[0] == {"role": "system", "content": "친절하게"}


def test_the_token_view_shows_pieces_and_escapes_them():
    view = demo.token_view(demo.Reply("가<b>", ("가", "<b>"), seconds=1.5, first=0.5, read=3, written=11))
    assert "서버가 보낸 조각" in view and "&lt;b&gt;" in view and "<b>가" not in view
    assert "읽은 토큰 3개, 쓴 토큰 11개" in view and "초당 10개" in view


def test_no_server_no_such_model_and_no_address_are_said_in_korean(server):
    assert demo.connect(server.url)[1] == demo.connect(server.url, "echo")[1] == "echo"
    for url, model, said in (
        (server.url, "없는 모델", "있는 모델: echo"),
        ("http://127.0.0.1:9/v1", None, "연결할 수 없다"),
        ("127.0.0.1:8000", None, "http://"),
    ):
        with pytest.raises(WorkshopError, match=said):
            demo.connect(url, model)


@pytest.mark.filterwarnings("ignore")
def test_the_page_answers_over_its_api_and_goes_when_the_block_ends(server):
    import urllib.request

    from gradio_client import Client
    from gradio_client.exceptions import AppError

    with demo.running(server.url) as address:
        page = Client(address, verbose=False)
        job = page.submit("안녕", demo.CHAT, "짧게", 0.5, 0.9, 20, 3, api_name="/chat")
        text, view = job.result(30)
        assert html.unescape(text) == "".join(ANSWER) and "쓴 토큰 5개" in view
        assert [output[0] for output in job.outputs()][0] == ANSWER[0]
        assert server.asked[-1]["messages"] == [{"role": "system", "content": "짧게"}, user("안녕")]
        assert server.asked[-1]["seed"] == 3
        written_on, _ = page.predict("옛날", demo.COMPLETE, "", 0.5, 0.9, 0, None, api_name="/chat")
        assert html.unescape(written_on) == "옛날" + "".join(ANSWER)
        with pytest.raises(AppError, match="온도가 너무 높다"):
            page.predict("안녕", demo.CHAT, "", 2, 0.9, 20, 3, api_name="/chat")
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(WorkshopError, match="열 수 없다"), demo.running(server.url, port=port):
            pass
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=2)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_conversation_in_a_real_browser(server, browser, until, monkeypatch):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    monkeypatch.setattr(Fake, "slow", 0.3)
    seen = set()

    def says(text):
        return text in browser.find_element(By.TAG_NAME, "body").text

    with demo.running(server.url) as address:
        browser.get(address)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "textarea"))
        box = browser.find_element(By.CSS_SELECTOR, "#message textarea")
        box.send_keys("반가워", Keys.ENTER)

        def finished():
            for length in range(1, len(ANSWER)):
                if says("".join(ANSWER[:length])) and not says(ANSWER[length]):
                    seen.add(length)
            return says("쓴 토큰 5개")

        until(finished)
        assert seen, "the answer did not grow: it came at once"
        conversation = browser.find_element(By.ID, "conversation").text
        assert "반가워" in conversation and "".join(ANSWER) in conversation
        assert server.asked[-1]["messages"] == [user("반가워")] and not {"seed", "max_tokens"} & set(server.asked[-1])
        places = [says(label) for label in ("온도", "top-p", "시드")]
        assert places == [False] * 3, "the controls stand open, outside their fold"
        browser.find_element(By.CSS_SELECTOR, "#message textarea").send_keys("또 보자", Keys.ENTER)
        until(lambda: len(server.asked) == 2)
        assert [message["role"] for message in server.asked[-1]["messages"]] == ["user", "assistant", "user"]
        assert server.asked[-1]["messages"][1]["content"] == "".join(ANSWER)
        fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert fetched and not [name for name in fetched if not name.startswith((address, "data:", "blob:"))]
        if folder := os.environ.get("WORKSHOP_SCREENSHOTS"):
            until(lambda: says("쓴 토큰 5개"))
            browser.find_element(By.XPATH, "//*[text()='표본 추출']").click()
            time.sleep(1)
            browser.save_screenshot(str(Path(folder) / "demo.png"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="신호로 멈추는 시험이다")
def test_the_command_opens_the_page_and_stops(server):
    command = [sys.executable, "-m", "workshop_lib.cli", "demo", "--url", server.url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            assert process.stdout.readline().startswith("준비됨: http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and "데모를 멈추었다" in rest and "Traceback" not in errors


def test_the_command_names_a_server_that_is_not_there(capsys):
    from workshop_lib.cli import main

    assert main(["demo", "--url", "http://127.0.0.1:9/v1"]) == 1
    assert "연결할 수 없다" in capsys.readouterr().err
