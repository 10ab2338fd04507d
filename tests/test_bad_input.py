"""What a careless user, a full disk or an impatient finger does: one clear Korean message, nothing half-written, and on it goes."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workshop_lib import WorkshopError, cleaning, cli, course, notebooks, packing, report_card, tokenization, workspace
from workshop_lib.corpora import hub, public, stories
from workshop_lib.profile import PROFILES, with_settings
from workshop_lib.workspace import Stage, Workspace

# Stages of seconds: the same code, small numbers.
SMALL = with_settings(PROFILES["tiny"], "corpus", crawl_pages=20, stories=20, validation_docs=5)
SMALL = with_settings(SMALL, "tokenizer", vocab_size=400, train_chars=30_000, max_length=32)
SMALL = with_settings(
    SMALL, "base_model", hidden_size=32, layers=1, heads=2, kv_heads=2, intermediate_size=64, context=32, batch_size=2, steps=6,
    warmup_steps=1, evaluate_every=3, checkpoint_every=2, sample_every=6, validation_chars=500,
)  # fmt: skip
TEXTS = [row["text"] for row in stories.stories(40, seed=3)]


def silent(_):
    pass


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def build_corpus(job):
    """The corpus stage without its cleaning, which other tests see to."""
    for name, texts in (("train", TEXTS[:30]), ("validation", TEXTS[30:])):
        rows = [json.dumps({"id": str(i), "source": "story", "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
        write(job.out / f"{name}.jsonl", "\n".join(rows) + "\n")
    return {"docs_in": 40.0}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A workspace with a finished corpus and tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(workspace.STAGES, "corpus", Stage("corpus", 2, "말뭉치 정제", f"{__name__}:build_corpus"))
        found = Workspace(tmp_path_factory.mktemp("한글 폴더") / "내 집", SMALL)
        found.require("tokenizer", silent)
        yield found


def base_model(space: Workspace, **settings) -> Workspace:
    return replace(space, profile=with_settings(space.profile, "base_model", **settings))


# --- data folders ------------------------------------------------------------------------------------------------------


def clean(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning.corpus, "LABELLED_PAGES", 40)
    (tmp_path / "out").mkdir()
    return cleaning.build(workspace.Job(tmp_path / "out", {}, SMALL.corpus, 0, data))


@pytest.mark.parametrize("files, words", [
    ({}, "사전학습에 쓸 글이 없다"),
    ({"README.md": "읽어 보기"}, "사전학습에 쓸 글이 없다"),
    ({"nsmc/ratings_train.txt": ""}, "ratings_train.txt: 빈 파일이다"),
    ({"nsmc/ratings_train.txt": "번호\t글\t점수\n1\t좋다\t1\n"}, "1번째 줄: 머리글에 id, document, label 열이 없다"),
    ({"그림.txt": b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(50_000)}, "그림.txt: UTF-8로도 EUC-KR"),
    ({"글.txt": "안녕하세요.\n", "klue/klue-nli-v1.1_dev.json": '[{"guid": "1",\n "prem'}, "klue-nli-v1.1_dev.json: JSON 형식이 아니다"),
    ({"글.txt": "안녕하세요.\n"}, "(검증용|학습에 쓸) 문서가 하나도 없다"),
    ({"글.txt": "This is English and nothing else.\n" * 50}, "정제하고 나니 문서가 하나도 남지 않았다|학습에 쓸 문서가 하나도 없다"),
    ({"글.jsonl": '{"text": "반쪽\n[1]\n'}, "학습에 쓸 문서가 하나도 없다.*첫째는 .*글.jsonl 1번째 줄: JSON 형식이 아니다"),
])  # fmt: skip
def test_a_data_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch, files, words):
    data = tmp_path / "data"
    data.mkdir()
    for name, content in files.items():
        write(data / name, content)
    with pytest.raises(WorkshopError, match=words):
        clean(data, tmp_path, monkeypatch)


def test_rows_that_cannot_be_read_are_told_and_the_rest_is_cleaned(tmp_path, monkeypatch, capsys):
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    rows[5] = rows[5][:30]
    write(tmp_path / "data" / "글.jsonl", "\n".join(rows))
    assert clean(tmp_path / "data", tmp_path, monkeypatch)["rows_skipped"] == 1
    assert "건너뛴 행이 1개 있다" in (out := capsys.readouterr().out) and "6번째 줄" in out


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_that_is_no_text_spoils_nothing(tmp_path):
    write(tmp_path / os.fsdecode(b"\xff\xfe.txt"), "이름이 이상한 파일이다.\n")
    rows = [*public.documents(tmp_path), *public.validation_documents(tmp_path)]
    assert [row["text"] for row in rows] == ["이름이 이상한 파일이다."]
    rows[0]["source"].encode()


def test_data_check_fails_where_a_run_would(tmp_path, capsys):
    write(tmp_path / "글.txt", "좋은 글이다.\n")
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    write(tmp_path / "영.txt", b"\0" * 100)
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "❌ 영.txt" in capsys.readouterr().out


def test_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    def refuse(path, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", f"{path}/sub"))
        return []

    monkeypatch.setattr(public.os, "walk", refuse)
    with pytest.raises(WorkshopError, match="sub: 폴더를 열 수 없다"):
        public.pretraining_files(tmp_path)


def test_data_get_without_a_network_fails_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "online", lambda: False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert cli.main(["data", "get", str(tmp_path / "new")]) == 1
    assert "네트워크 연결을 확인" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert cli.main(["data", "get", str(write(tmp_path / "file", "글"))]) == 1
    assert "폴더가 아니라 파일이다" in capsys.readouterr().err


# --- stages --------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_near_its_alphabet_still_trains_the_comparison():
    processor = tokenization.train_sentencepiece(TEXTS, 300)
    assert processor.get_piece_size() <= 300 and processor.decode(processor.encode(TEXTS[0])) == TEXTS[0]


def test_a_vocabulary_smaller_than_the_bytes_is_refused(space):
    small = replace(space, profile=with_settings(space.profile, "tokenizer", vocab_size=264))
    with pytest.raises(WorkshopError, match="적어도 265"):
        small.require("tokenizer", silent)
    assert space.status("tokenizer") == "ready"


@pytest.mark.parametrize("settings, words", [
    ({"learning_rate": 1e30, "optimizer": "adamw"}, "손실이 .*학습률을 절반으로"),
    ({"context": 20_000, "batch_size": 1}, "문맥 20000토큰"),
])  # fmt: skip
def test_a_training_that_cannot_go_on_leaves_the_old_artefacts(space, settings, words):
    with pytest.raises(WorkshopError, match=words):
        base_model(space, **settings).require("base_model", silent)
    assert space.status("tokenizer") == "ready" and not list(space.home.glob("*/checkpoint.pt"))


def test_an_interrupted_training_ends_in_the_same_hash(space, monkeypatch):
    whole = base_model(space, steps=8)
    whole.require("base_model", silent)
    wanted = whole.meta("base_model")["hash"]
    other = replace(whole, home=space.home.with_name("둘째 집"))
    other.home.mkdir()
    for stage in ("corpus", "tokenizer"):
        (other.home / stage).symlink_to(space.path(stage), target_is_directory=True)
    from workshop_lib import pretraining

    save, saved = pretraining.save_checkpoint, []

    def interrupted(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) in (1, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "save_checkpoint", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            other.require("base_model", silent)
        assert not other.path("base_model").exists()
    other.require("base_model", silent)
    assert other.meta("base_model")["hash"] == wanted


def test_a_full_disk_is_one_message_whatever_the_library_said(space, monkeypatch):
    def full(job):
        try:
            raise RuntimeError("unexpected pos 64 vs 0") from OSError(errno.ENOSPC, "No space left on device")
        except RuntimeError as error:
            raise WorkshopError("체크포인트를 쓸 수 없다") from error

    monkeypatch.setattr("workshop_lib.pretraining.build", full)
    with pytest.raises(WorkshopError, match="디스크가 가득 차서 '사전학습'"):
        base_model(space, steps=3).require("base_model", silent)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_token_file_on_a_full_disk_is_not_cut_in_silence(space, tmp_path):
    (tmp_path / "train.bin.partial").symlink_to("/dev/full")
    documents = packing.read_documents(space.path("corpus") / "train.jsonl")
    with pytest.raises(OSError, match="No space"):
        packing.pack(documents, tokenization.load(space.path("tokenizer")), tmp_path / "train.bin")


# --- artefacts -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A workspace of one cheap stage that stands for any."""
    monkeypatch.setattr(workspace, "STAGES", {"corpus": Stage("corpus", 2, "말뭉치 정제", f"{__name__}:build_corpus")})
    monkeypatch.setattr(course, "STAGES", workspace.STAGES)
    found = Workspace(tmp_path / "home", SMALL)
    found.require("corpus", silent)
    return found


@pytest.mark.parametrize("name", ["train.jsonl", "metrics.json"])
@pytest.mark.parametrize("harm", ["emptied", "deleted", "cut"])
def test_an_artefact_with_a_damaged_file_is_built_anew(finished, name, harm):
    path = finished.path("corpus") / name
    before = finished.meta("corpus")["hash"]
    content = path.read_bytes()
    path.unlink()
    if harm != "deleted":
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    assert finished.status("corpus") == "broken" and finished.metrics("corpus") == {}
    text = report_card.markdown(finished)
    assert f"깨졌다: {name} 파일이" in text.replace("\\", "")
    said = []
    finished.require("corpus", said.append)
    assert name in said[0] and finished.status("corpus") == "ready" and finished.meta("corpus")["hash"] == before


def test_files_that_a_learner_adds_to_an_artefact_do_not_break_it(finished):
    write(finished.path("corpus") / "메모.txt", "내 메모")
    assert finished.status("corpus") == "ready"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0"])
def test_a_meta_file_without_its_keys_is_named(finished, text):
    write(finished.path("corpus") / "meta.json", text)
    with pytest.raises(WorkshopError, match="meta.json이.* 깨졌다.*지우고 다시 실행"):
        finished.require("corpus", silent)


def test_seconds_are_no_part_of_an_artefacts_hash(finished, monkeypatch):
    def build(job):
        write(job.out / "history.jsonl", json.dumps({"seconds": time.perf_counter()}))
        return build_corpus(job)

    monkeypatch.setattr(sys.modules[__name__], "build_timed", build, raising=False)
    monkeypatch.setitem(workspace.STAGES, "corpus", Stage("corpus", 2, "말뭉치 정제", f"{__name__}:build_timed"))
    before = finished.meta("corpus")["hash"]
    (finished.path("corpus") / "meta.json").unlink()
    finished.require("corpus", silent)
    assert finished.meta("corpus")["hash"] == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_folder_is_named(space, tmp_path, name):
    from workshop_lib.architectures.transformer import Transformer
    from workshop_lib.checkpoints import load_model, save_model
    from workshop_lib.pretraining import model_config

    tokenizer = tokenization.load(space.path("tokenizer"))
    save_model(Transformer(model_config(SMALL.base_model, len(tokenizer)), 0), tokenizer, tmp_path)
    write(tmp_path / name, (tmp_path / name).read_bytes()[:40])
    load = tokenization.load if name == "tokenizer.json" else load_model
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        load(tmp_path)


@contextmanager
def ordinary_user():
    """Not root, who may read every file."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="파일의 권한이 다르다")
@pytest.mark.parametrize("name", ["model.safetensors", "quantized.safetensors", "lstm.safetensors"])
def test_weights_of_somebody_else_are_not_called_broken(name):
    """safetensors says "No such file", and a learner who is told to build the model anew deletes a good one."""
    from safetensors.torch import save_file

    from workshop_lib import checkpoints, classification, comparison, likelihood, quantized

    readers = {
        "model.safetensors": [checkpoints.load_model, likelihood.load_model, lambda path: classification.predict(path, ["좋다"])],
        "quantized.safetensors": [quantized.load_quantized],
        "lstm.safetensors": [lambda path: comparison.load_model(path, "lstm")],
    }[name]
    with tempfile.TemporaryDirectory() as folder:  # others may enter it, unlike tmp_path
        folder = Path(folder)
        folder.chmod(0o755)
        (folder / "config.json").write_text("{}")
        save_file({"weight": torch.ones(1)}, folder / name)
        (folder / name).chmod(0)
        for read in readers:
            with suppress(Exception):
                read(folder)  # imports what it needs, which an ordinary user may not read either
            with ordinary_user(), pytest.raises(WorkshopError, match=rf"{name}은\(는\) 있지만 읽을 권한이 없다.*chmod"):
                read(folder)


@pytest.mark.skipif(os.name != "posix", reason="파일의 권한이 다르다")
@pytest.mark.parametrize("place", ["checkpoint.pt", "checkpoint", "checkpoint/00000003", "checkpoint/00000003/__0_0.distcp"])
def test_a_checkpoint_of_somebody_else_is_not_begun_anew(place):
    from workshop_lib import checkpoints, pretraining

    model = torch.nn.Linear(2, 2)
    steppers = [torch.optim.SGD(model.parameters(), 0.1)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, place.split("/")[0])
        checkpoints.save_checkpoint(path, model, steppers, pretraining.Run(step=3), {})
        assert checkpoints.load_checkpoint(path, model, steppers, {})["step"] == 3
        (hidden := Path(folder, place)).chmod(0)
        try:
            with ordinary_user(), pytest.raises(WorkshopError, match="있지만 읽을 권한이 없다.*chmod"):
                checkpoints.load_checkpoint(path, model, steppers, {})
        finally:
            hidden.chmod(0o755)


def test_a_second_run_says_that_it_waits(finished):
    from filelock import FileLock

    (finished.path("corpus") / "meta.json").unlink()
    said = []
    with FileLock(finished.home / ".corpus.lock") as lock:

        def say(text):
            said.append(text)
            lock.release(force=True)

        finished.require("corpus", say)
    assert "기다린다" in said[0] and finished.status("corpus") == "ready"


# --- the command line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--temperature", "nan"], ["--temperature", "-1"], ["--max-tokens", "0"], ["--max-tokens", "둘"]])
def test_impossible_chat_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["chat", *arguments])
    assert stopped.value.code == 2 and arguments[1] in capsys.readouterr().err


def test_a_prompt_far_longer_than_the_context_is_read_from_its_end(space, capfd):
    from workshop_lib.pretraining import complete, new_model

    tokenizer = tokenization.load(space.path("tokenizer"))
    model = new_model(SMALL.base_model, len(tokenizer))
    assert complete(model, tokenizer, ["😀 옛날 " * 500], tokens=2)[0].startswith("😀 옛날")
    assert "Token indices" not in capfd.readouterr().err


def test_a_terminal_without_the_signs_of_the_report_gets_question_marks():
    done = subprocess.run([sys.executable, "-m", "workshop_lib.cli", "doctor"], capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "cp949"}, timeout=60)  # fmt: skip
    assert done.returncode == 0 and "준비됨" in done.stdout.decode("cp949")


def test_a_notebook_that_fails_shows_the_cell_and_not_nbconvert(tmp_path):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": "하나 = 1 / 0"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path = write(tmp_path / "week01_fail.ipynb", json.dumps(notebook))
    with pytest.raises(WorkshopError, match="week01_fail.ipynb 실행이 실패했다") as error:
        notebooks.execute(path)
    assert "ZeroDivisionError" in str(error.value) and "nbconvertapp" not in str(error.value)
    assert json.loads(path.read_text(encoding="utf-8")) == notebook
    with pytest.raises(WorkshopError, match="노트북 파일이 아니다"):
        notebooks.execute(write(tmp_path / "week02_broken.ipynb", "{"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_the_command_with_130_and_no_traceback(tmp_path):
    code = ("import time; from workshop_lib import cli; cli._doctor = lambda _: (print('시작', flush=True), time.sleep(30)); "
            "raise SystemExit(cli.main(['doctor']))")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors and "이어 간다" in errors
