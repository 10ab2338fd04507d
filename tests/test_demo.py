"""The chat page: what it asks a server for, what it does when the server says no, and how it looks in a real browser."""

import contextlib
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workshop_lib import WorkshopError, chat_client, demo, talkers, votes

ANSWER = ["안녕", "하세", "요. ", "<b>반갑</b>", "습니다"]


class Fake(BaseHTTPRequestHandler):
    """Just enough of OpenAI's protocol; says ANSWER to everything, and refuses more than `longest` messages."""

    longest, slow, breaks = 100, 0.0, False

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
            if self.breaks:
                self.wfile.write(b"data: {\n\n")
                return
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
        refused, _ = page.predict("안녕", demo.CHAT, "", 2, 0.9, 20, 3, api_name="/chat")
        assert refused.startswith("(답을 받지 못했다") and "온도가 너무 높다" in refused
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(WorkshopError, match="열 수 없다"), demo.running(server.url, port=port):
            pass
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=2)


def test_two_answers_grow_side_by_side_and_both_come_to_their_end():
    def growing(text, closed):
        try:
            for end in range(1, len(text) + 1):
                yield demo.Reply(text[:end])
        finally:
            closed.append(text)

    closed = []
    seen = [(a.text, b.text) for a, b in chat_client.side_by_side(growing("가나다", closed), growing("abcde", closed))]
    assert seen == [("가", "a"), ("가나", "ab"), ("가나다", "abc"), ("가나다", "abcd"), ("가나다", "abcde")]
    left = chat_client.side_by_side(growing("가나다", closed), growing("abcde", closed))
    next(left)
    left.close()
    assert closed == ["가나다", "abcde", "abcde", "가나다"] or sorted(closed) == sorted(["가나다", "abcde"] * 2)
    assert list(chat_client.side_by_side(iter_none(), iter_none())) == []


def iter_none():
    yield from ()


@pytest.mark.filterwarnings("ignore")
def test_two_models_are_compared_and_the_choice_is_kept(server, tmp_path):
    from gradio_client import Client

    with demo.running(server.url, home=tmp_path, others={"다른": server.url}) as address:
        page = Client(address, verbose=False)
        first, second, *_ = page.predict("안녕?", "echo", "다른", False, demo.CHAT, "짧게", 0.5, 0.9, 20, 3, api_name="/compare")
        assert html.unescape(first).count("".join(ANSWER)) == html.unescape(second).count("".join(ANSWER)) == 1 and "다른" in second
        assert server.asked[-1]["messages"] == server.asked[-2]["messages"] == [{"role": "system", "content": "짧게"}, user("안녕?")]
        assert votes.comparisons(tmp_path) == []
        *_, said = page.predict(api_name="/choose_second")
        assert "다른 쪽이 낫다고 저장했다" in said and "쌍이 되지는 않는다" in said
        (kept,) = votes.comparisons(tmp_path)
        assert kept["choice"] == "second" and kept["answers"] == ("".join(ANSWER),) * 2 and kept["messages"][-1] == user("안녕?")
        page.predict(api_name="/choose_tie")
        assert [row["choice"] for row in votes.comparisons(tmp_path)] == ["tie"]
        assert any("선호 쌍이 하나도 없다" in str(part) for part in page.predict(api_name="/train"))
        server.shutdown()
        server.server_close()
        _, _, said = page.predict("안녕?", "echo", "다른", True, demo.CHAT, "", 0.5, 0.9, 20, 3, api_name="/compare")[:3]
        assert "연결할 수 없다" in said


@pytest.mark.filterwarnings("ignore")
def test_an_answer_that_breaks_off_is_said_and_not_sent_again_as_if_it_were_one(server, monkeypatch):
    from gradio_client import Client

    with demo.running(server.url) as address:
        page = Client(address, verbose=False)
        monkeypatch.setattr(Fake, "breaks", True)
        text, _ = page.predict("하나", demo.CHAT, "", 0.5, 0.9, 20, 3, api_name="/chat")
        assert text.startswith(ANSWER[0]) and demo.FAILED in text
        monkeypatch.setattr(Fake, "breaks", False)
        text, _ = page.predict("둘", demo.CHAT, "", 0.5, 0.9, 20, 3, api_name="/chat")
        assert html.unescape(text) == "".join(ANSWER) and server.asked[-1]["messages"] == [user("둘")]


def test_models_start_when_they_are_asked_for_and_again_when_they_have_died(aligned, tmp_path):
    home = aligned.parent
    assert talkers.of_workspace(tmp_path) == {} and talkers.of_workspace(home) == {talkers.ALIGNED: aligned}
    talking = talkers.Talkers(talkers.of_workspace(home) | {"없는 폴더": tmp_path / "no"})
    try:
        assert not talking.started(talkers.ALIGNED)
        first = talking.get(talkers.ALIGNED)
        assert talking.get(talkers.ALIGNED) is first and first.model == "alignment"
        talking._servers[talkers.ALIGNED].process.kill()
        talking._servers[talkers.ALIGNED].process.wait()
        again = talking.get(talkers.ALIGNED)
        *_, last = demo.reply(again.client, again.model, [user("몇 시에 열어?")], demo.Sampling(max_tokens=8))
        assert last.written and again.segmenter.pieces(last.text)
        for label, words in (("없는 폴더", "없다"), ("누구", "있는 모델")):
            with pytest.raises(WorkshopError, match=words):
                talking.get(label)
        server = talking._servers[talkers.ALIGNED]
        talking.renew(talkers.FEEDBACK, aligned)
        assert talkers.FEEDBACK in talking.labels and talking.get(talkers.FEEDBACK).model == "feedback"
    finally:
        talking.close()
    assert server.process.poll() is not None


@contextlib.contextmanager
def command(home, *arguments):
    """`workshop demo` on a free port; stopped with Ctrl-C at the end."""
    words = [sys.executable, "-m", "workshop_lib.cli", "demo", "--port", "0", "--home", str(home), *arguments]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("준비됨: "), process.stderr.read()
            yield ready.removeprefix("준비됨: ").strip()
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
            assert process.returncode == 0 and "데모를 멈추었다" in rest and "Traceback" not in errors
        finally:
            process.kill()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="신호로 멈추는 시험이다")
def test_votes_outlive_the_demo_and_make_another_round(aligned, browser, until, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for place in ("alignment", "alignment/sft"):
        shutil.copytree(aligned, tmp_path / place)

    def find(css):
        return browser.find_element(By.CSS_SELECTOR, css)

    def says(css, text):
        return text in browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def tab(name):
        browser.find_element(By.XPATH, f"//button[@role='tab' and normalize-space()='{name}']").click()

    def thumb(name, said):
        until(lambda: browser.find_elements(By.CSS_SELECTOR, f"#conversation button[title='{name}']"))
        time.sleep(0.5)  # the buttons are drawn anew when the answer ends
        find(f"#conversation button[title='{name}']").click()
        until(lambda: says("#voted", said))

    with command(tmp_path) as address:
        browser.get(address)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "#message textarea"))
        find("#message textarea").send_keys("잡지실은 몇 층이야?", Keys.ENTER)
        until(lambda: says("body", "쓴 토큰"))
        thumb("좋아요", "좋다 1개, 나쁘다 0개")
        thumb("싫어요", "좋다 0개, 나쁘다 1개")
        (vote,) = votes.votes(tmp_path)
        assert (vote["vote"], vote["model"], vote["messages"]) == (-1, "alignment", [user("잡지실은 몇 층이야?")])
        tab("견주기")
        until(lambda: find("#question textarea").is_displayed())
        for number in range(1, 4):
            find("#question textarea").send_keys(Keys.CONTROL, "a")
            find("#question textarea").send_keys(f"{number}층에는 무엇이 있어?")
            find("#ask-both").click()
            until(lambda: not says("#compared", "견준 것") and find("#choose-first").is_enabled())
            assert says("#left-answer", "답 가") and not says("#compared", "모델 쪽")
            find("#choose-first").click()
            until(lambda number=number: says("#compared", f"견준 것 {number}개"))
        assert says("#left-answer", "모델")

    # What so small a model says is often longer than its context, and no pair then: one pair that is none of luck's.
    votes.compare(tmp_path, [user("몇 시에 열어?")], ("아홉 시에 열어요.", "몰라."), "first", ("alignment", "sft"))
    with command(tmp_path) as address:
        browser.get(address)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "button[role='tab']"))
        tab("피드백")
        until(lambda: says("#votes", "나쁘다 1개, 견준 것 4개") and says("#votes", "잡지실은 몇 층이야?"))
        assert says("#votes", vote["answer"][:5])
        find("#train").click()
        until(lambda: says("#log", "끝났다"), 400)
        until(lambda: says("#outcome", "마지막으로 맞춘 결과"))
        assert (tmp_path / "feedback" / "model" / "model.safetensors").is_file()
        tab("대화")
        until(lambda: find("#model input").is_displayed())
        find("#model input").click()
        until(lambda: browser.find_elements(By.XPATH, f"//li[contains(., '{talkers.FEEDBACK}')]"))
        browser.find_element(By.XPATH, f"//li[contains(., '{talkers.FEEDBACK}')]").click()
        find("#message textarea").send_keys("몇 시에 열어?", Keys.ENTER)
        until(lambda: says("body", "쓴 토큰"))
        thumb("좋아요", "좋다 1개, 나쁘다 1개")
        assert votes.votes(tmp_path)[-1]["model"] == "feedback"
        if folder := os.environ.get("WORKSHOP_SCREENSHOTS"):
            tab("피드백")
            time.sleep(1)
            browser.save_screenshot(str(Path(folder) / "demo_feedback.png"))


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
def test_the_command_opens_the_page_and_stops(server, tmp_path):
    with command(tmp_path, "--url", server.url) as address:
        assert address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--model", "no/such/folder"], "no/such/folder이(가) 없다"),
    (["--model", "."], "모델 폴더가 아니다"),
    (["--url", "http://127.0.0.1:9/v1", "--compare", "no/such"], "--compare의 no/such"),
    ([], "workshop run --weeks 1-5"),
])  # fmt: skip
def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch, capsys, arguments, words):
    from workshop_lib.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--port", "0", "--home", str(tmp_path), *arguments]) == 1
    assert words in capsys.readouterr().err


def test_the_command_names_a_server_that_is_not_there(capsys):
    from workshop_lib.cli import main

    assert main(["demo", "--url", "http://127.0.0.1:9/v1"]) == 1
    assert "연결할 수 없다" in capsys.readouterr().err
