"""What the doctor says of a machine: what is there, what is not and how to get it, and how to begin."""

import http.server
import os
import sys
import threading
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest

from workshop_lib import environment
from workshop_lib.environment import Tool

MACHINE = {"processor": "P", "cores": 2, "memory_gb": 4.0, "system": "Linux x86_64", "accelerator": ""}


@pytest.mark.parametrize("facts, ngc, words", [
    ({}, "", "tiny 프로필. make lab"),
    ({"cores": 16}, "", "tiny 프로필. make lab"),  # many cores do not help where memory is short
    ({"cores": 8, "memory_gb": 16.0}, "", "WORKSHOP_PROFILE=small make lab"),
    ({"accelerator": "H"}, "", "GPU가 있는 컴퓨터(H): gpu 프로필"),
    ({"accelerator": "H"}, "25.09", "NGC 컨테이너(H): gpu 프로필. 컨테이너의 lab"),  # not `make lab`, which brings another PyTorch
    ({}, "25.09", "tiny 프로필. make lab"),  # the container without its GPU
])  # fmt: skip
def test_the_suggestion_fits_the_machine(monkeypatch, facts, ngc, words):
    monkeypatch.setattr(environment, "machine", lambda: {**MACHINE, **facts})
    monkeypatch.setenv("NVIDIA_PYTORCH_VERSION", ngc)
    assert words in environment.suggestion()


def test_a_tool_that_is_missing_comes_with_the_way_to_get_it(monkeypatch):
    tools = (Tool("있는것", "가", "이런 일", lambda: "1.0", "얻는 법"), Tool("B", "나", "저런 일", lambda: None, "얻는 법"))
    monkeypatch.setattr(environment, "TOOLS", tools)
    here, missing = environment.doctor()
    assert (here.ready, here.detail) == (True, "1.0") and (missing.ready, missing.detail) == (False, "얻는 법")
    lines = environment.doctor_table([here, missing]).splitlines()
    assert lines[0] == "[가]" and "[나]" in lines
    columns = [line.index(used) + sum(unicodedata.east_asian_width(c) in "WF" for c in line[: line.index(used)])
               for line, used in ((lines[1], "이런 일"), (lines[-1], "저런 일"))]  # fmt: skip
    assert columns[0] == columns[1]  # a Korean name takes two columns a character


@pytest.mark.parametrize("total, ready", [(2e9, False), (4.1e9, True)])
def test_too_little_memory_is_seen(monkeypatch, total, ready):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total))
    assert next(row for row in environment.doctor() if row.name == "메모리").ready == ready


@pytest.mark.parametrize("free, ready", [(0.5e9, False), (2e9, True)])
def test_a_full_disk_is_seen(monkeypatch, free, ready):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert next(row for row in environment.doctor() if row.name == "디스크").ready == ready


def test_the_hub_is_not_tried_when_the_user_said_offline(monkeypatch):
    monkeypatch.setattr(environment.socket, "create_connection", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert environment.online() is False
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert environment.online() is True


@pytest.mark.parametrize("wait", [0, 5])
def test_a_hub_out_of_reach_is_not_waited_for(monkeypatch, wait):
    def connect(*_, **__):
        time.sleep(wait)  # as the look-up of a name without a network, which heeds no timeout
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(environment.socket, "create_connection", connect)
    start = time.monotonic()
    assert environment.online(seconds=0.2) is False and time.monotonic() - start < 4


def test_a_package_of_the_nvidia_environment_is_found(monkeypatch, tmp_path):
    find = environment._nvidia("no-such-package")
    monkeypatch.setattr(environment, "BESIDE", tmp_path / ".venv-nvidia")
    assert find() is None
    info = tmp_path / ".venv-nvidia/lib/python3.11/site-packages/no_such_package-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: no-such-package\nVersion: 1.2\n")
    assert find() == "1.2 (.venv-nvidia)"


def test_a_command_of_nvidia_is_started_where_its_package_is(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "BESIDE", tmp_path)
    assert environment.python_with("numpy") == Path(sys.executable)
    info = tmp_path / "lib/python3.11/site-packages/no_such_package-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: no-such-package\nVersion: 1.2\n")
    assert environment.python_with("no-such-package") is None  # the environment is still being made
    (tmp_path / "ready").touch()
    assert environment.python_with("no-such-package") == tmp_path / "bin" / "python"
    assert environment.python_with("another-package") is None


@pytest.mark.parametrize("service, compose, found", [
    ("echo 28.2", "echo 2.40", "28.2, Compose 2.40"),
    ("exit 1", "echo 2.40", None),  # the program is there, its service is not
    ("echo 28.2", "exit 1", None),
])  # fmt: skip
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for docker")
def test_docker_is_ready_when_its_service_and_compose_answer(monkeypatch, tmp_path, service, compose, found):
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\nif [ "$1" = version ]; then {service}; else {compose}; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment._docker() == found
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._docker() is None


def test_a_server_is_ready_when_it_answers(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("VLLM_PORT", str(server.server_port))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody asks a proxy for this machine
        assert environment._server("VLLM_PORT", 1, "/health")() == f"127.0.0.1:{server.server_port}에서 답한다"
        assert environment._server("VLLM_PORT", 1, "/v1/elsewhere")() is None  # another service has the port
        server.shutdown()
    assert environment._server("VLLM_PORT", 1, "/health")() is None
    monkeypatch.setenv("VLLM_PORT", "포트")
    assert environment._server("VLLM_PORT", 1, "/health")() is None


def test_nemo_rl_is_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKSHOP_NEMO_RL", str(tmp_path))
    assert environment._nemo_rl() is None
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "run_dpo.py").touch()
    assert environment._nemo_rl() == str(tmp_path)


def test_each_missing_tool_of_nvidia_comes_with_one_command():
    rows = [tool for tool in environment.TOOLS if tool.group == "NVIDIA" or tool.name in ("Triton", "vLLM", "TensorRT-LLM")]
    assert len(rows) == 9 and all(tool.get.count("`") == 2 for tool in rows)
