"""The command line: clear Korean words for every mistake, non-zero exit codes, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from workshop_lib import WorkshopError, cli, report_card
from workshop_lib.workspace import STAGES, current


def workshop(*arguments, **environment):
    command = [sys.executable, "-m", "workshop_lib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


@pytest.mark.parametrize("arguments, words", [
    (["run", "--weeks", "1", "--profile", "huge"], "'huge'"),
    (["run", "--weeks", "10"], "실행할 단계가 없다"),
    (["run", "--weeks", "2", "--data", "/nowhere/at/all"], "데이터 폴더"),
    (["report", "--home", "/nowhere/at/all"], "작업 폴더"),
    (["chat", "--home", "/nowhere/at/all"], "아직 모델이 없다"),
    (["notebooks", "execute", "week77"], "week77"),
])  # fmt: skip
def test_a_mistake_is_named_in_korean_and_fails(arguments, words):
    done = workshop(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("오류:") and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["0", "11", "5-2", "둘", "2-", ""])
def test_weeks_that_are_none_are_refused(text):
    done = workshop("run", "--weeks", text)
    assert done.returncode == 2 and "주차가 아니다" in done.stderr


def test_run_then_report(tmp_path):
    assert workshop("run", "--weeks", "1", "--home", tmp_path).returncode == 0
    again = workshop("run", "--weeks", "1", "--home", tmp_path)
    assert "이미 있다" in again.stdout and "0개를 만들었다" in again.stdout and str(tmp_path / "report.html") in again.stdout
    done = workshop("report", "--home", tmp_path)
    assert done.returncode == 0 and "측정 안 함" in done.stdout
    card = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert card.keys() == {"profile", "data", "machine", "weeks", "seconds", "peak_rss_mb", "versions", "seed", "lineage"}
    assert card["weeks"]["week01"]["cores"] >= 1
    assert "<title>성적표</title>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_stale_or_missing_stage_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path))
    space = current()
    text = report_card.markdown(space)
    assert text.count("측정 안 함") >= len(STAGES)


def test_a_full_disk_is_named(monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(cli, "_doctor", full)
    assert cli.main(["doctor"]) == 1
    assert "디스크가 가득 찼다" in capsys.readouterr().err


def test_an_interruption_says_that_the_same_command_goes_on(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_doctor", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "이어 간다" in capsys.readouterr().err


def test_any_library_error_becomes_one_line(monkeypatch, capsys):
    def wrong(_):
        raise WorkshopError("무엇이 잘못되었는지")

    monkeypatch.setattr(cli, "_doctor", wrong)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "오류: 무엇이 잘못되었는지\n"


def test_doctor_lists_every_tool_with_its_state(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "✅ 준비됨  PyTorch" in out and "NeMo Curator" in out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_that_is_stopped_leaves_nothing_half_written_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "workshop_lib.cli", "run", "--weeks", "2", "--home", str(tmp_path)]
    for how in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=os.environ | {"PYTHONUNBUFFERED": "1"})  # fmt: skip
        assert "말뭉치 정제: 만든다" in process.stdout.readline()
        time.sleep(1)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert process.returncode == 130 and "Traceback" not in errors
        assert not (tmp_path / "corpus").exists()
    assert workshop("run", "--weeks", "2", "--home", tmp_path).returncode == 0
    assert (tmp_path / "corpus" / "meta.json").exists() and not list(tmp_path.glob(".partial/*"))
