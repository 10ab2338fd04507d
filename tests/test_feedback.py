"""Votes that survive what happens to files, pairs that lose no vote, and a round of DPO that takes them in and forgets nothing."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, cli, feedback, votes
from workshop_lib.preferences import as_pair, read_pairs


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


ASKED = [user("몇 시에 열어요?")]

# ---------------------------------------------------------------------------------------------- the file


def test_the_last_vote_on_an_answer_counts_and_can_be_taken_back(tmp_path):
    assert votes.votes(tmp_path) == [] and not votes.file(tmp_path).exists()
    votes.vote(tmp_path, ASKED, "아홉 시.", 1, "하나")
    votes.vote(tmp_path, ASKED, "몰라.", -1, "하나")
    votes.vote(tmp_path, ASKED, "아홉 시.", -1, "둘")
    rows = votes.votes(tmp_path)
    assert [(row["answer"], row["vote"], row["model"]) for row in rows] == [("몰라.", -1, "하나"), ("아홉 시.", -1, "둘")]
    assert rows[0]["messages"] == ASKED and abs(rows[1]["time"] - time.time()) < 60
    votes.vote(tmp_path, ASKED, "몰라.", 0)
    assert votes.counts(tmp_path) == {"up": 0, "down": 1, "comparisons": 0}


def test_a_comparison_is_one_in_either_order_and_the_last_choice_counts(tmp_path):
    votes.compare(tmp_path, ASKED, ("나", "가"), "first", ("하나", "둘"))
    votes.compare(tmp_path, ASKED, ("가", "나"), "first", ("둘", "하나"))
    (row,) = votes.comparisons(tmp_path)
    assert row["answers"][("first", "second").index(row["choice"])] == "가" and row["models"] == ("둘", "하나")
    votes.compare(tmp_path, ASKED, ("가", "나"), "tie")
    assert [row["choice"] for row in votes.comparisons(tmp_path)] == ["tie"]


def test_votes_and_choices_that_there_are_not(tmp_path):
    with pytest.raises(WorkshopError, match="받은 값: 2"):
        votes.vote(tmp_path, ASKED, "가", 2)
    with pytest.raises(WorkshopError, match="받은 값: left"):
        votes.compare(tmp_path, ASKED, ("가", "나"), "left")
    with pytest.raises(WorkshopError, match="유니코드"):
        votes.vote(tmp_path, [user("\ud800")], "가", 1)


TURNS = st.lists(st.tuples(st.sampled_from(["가", "나", "다'\"\n\x00😀"]), st.sampled_from([-1, 0, 1])), max_size=12)


@settings(deadline=None, max_examples=20)
@given(TURNS)
def test_the_file_holds_what_a_dictionary_would(turns):
    with tempfile.TemporaryDirectory() as home:
        kept = {}
        for answer, vote in turns:
            votes.vote(Path(home), ASKED, answer, vote)
            kept[answer] = vote
        assert {row["answer"]: row["vote"] for row in votes.votes(Path(home))} == {text: vote for text, vote in kept.items() if vote}


def _votes_many(home, name):
    for number in range(25):
        votes.vote(home, ASKED, f"{name} {number}", 1, name)


def test_two_processes_may_vote_at_once(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_votes_many, [tmp_path] * 2, ["하나", "둘"]))
    assert len(votes.votes(tmp_path)) == 50


@pytest.mark.skipif(os.name != "posix", reason="신호로 죽이는 시험이다")
def test_a_vote_that_was_taken_survives_a_kill(tmp_path):
    code = f"""
        from pathlib import Path
        from workshop_lib import votes
        for number in range(100_000):
            votes.vote(Path({str(tmp_path)!r}), [], str(number), 1)
            print(number, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 20:
            pass
        process.send_signal(signal.SIGKILL)
        printed = 20 + len(process.stdout.read().splitlines())
    kept = [int(row["answer"]) for row in votes.votes(tmp_path)]
    assert kept == list(range(len(kept))) and printed + 1 <= len(kept) <= printed + 2
    votes.vote(tmp_path, ASKED, "또", 1)


def test_other_files_in_its_place_are_named_and_left_alone(tmp_path, monkeypatch):
    file = votes.file(tmp_path)
    file.parent.mkdir()
    file.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    content = file.read_bytes()
    for act in (lambda: votes.vote(tmp_path, ASKED, "가", 1), lambda: votes.votes(tmp_path)):
        with pytest.raises(WorkshopError, match="표를 모은 파일이 아니다"):
            act()
    assert file.read_bytes() == content
    file.unlink()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    with pytest.raises(WorkshopError, match="다른 프로그램"):
        votes.vote(tmp_path, ASKED, "가", 1)
    file.unlink()
    votes.vote(tmp_path, ASKED, "가" * 30_000, 1)
    with sqlite3.connect(file) as later:
        later.execute("PRAGMA user_version = 9")
    later.close()
    with pytest.raises(WorkshopError, match="판 9"):
        votes.votes(tmp_path)
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    content[60:64] = (1).to_bytes(4, "big")  # the version again
    file.write_bytes(content)
    with pytest.raises(WorkshopError, match="깨졌다"):
        votes.votes(tmp_path)


def test_a_full_disk_a_locked_file_and_a_folder_that_cannot_be_made_are_said_in_korean(tmp_path, monkeypatch):
    votes.vote(tmp_path, ASKED, "가", 1)
    whole = votes._prepare

    def full(database, path):
        whole(database, path)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")

    with monkeypatch.context() as patched:
        patched.setattr(votes, "_prepare", full)
        with pytest.raises(WorkshopError, match="디스크가 가득"):
            votes.vote(tmp_path, ASKED, "나" * 100_000, 1)
    assert len(votes.votes(tmp_path)) == 1
    holder = sqlite3.connect(votes.file(tmp_path))
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(votes, "PATIENCE", 0.1)
    with pytest.raises(WorkshopError, match="붙들고 있다"):
        votes.vote(tmp_path, ASKED, "나", 1)
    holder.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkshopError, match="만들 수 없다"):
        votes.vote(tmp_path / "file", ASKED, "나", 1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root에게는 쓰지 못할 폴더가 없다")
def test_a_folder_without_permission_is_said_in_korean(tmp_path):
    votes.vote(tmp_path, ASKED, "가", 1)
    votes.file(tmp_path).chmod(0o400)
    votes.file(tmp_path).parent.chmod(0o500)
    try:
        assert len(votes.votes(tmp_path)) == 1
        with pytest.raises(WorkshopError, match="권한"):
            votes.vote(tmp_path, ASKED, "나", 1)
    finally:
        votes.file(tmp_path).parent.chmod(0o700)


# ---------------------------------------------------------------------------------------------- pairs


def thumbs(*rows):
    return [{"messages": [user(asked)], "answer": answer, "vote": vote} for asked, answer, vote in rows]


def test_every_liked_answer_stands_against_every_disliked_one():
    rows = feedback.pairs_from_votes(thumbs(("A", "1", 1), ("B", "5", 1), ("A", "2", -1), ("A", "3", 1), ("A", "4", -1), ("A", "3", -1)))
    found = [(row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert found == [("A", "1", "2"), ("A", "1", "3"), ("A", "1", "4")]
    assert all(as_pair(row) for row in rows)


WORDS = st.sampled_from(["가", "나", "다", "", "라<|end|>"])
VOTES = st.tuples(st.sampled_from(["물음", "다른 물음"]), WORDS, st.sampled_from([-1, 1]), st.sampled_from(["chat", "completion"]))
CHOICES = st.tuples(st.sampled_from(["물음", "다른 물음"]), WORDS, WORDS, st.sampled_from(votes.CHOICES))


@settings(deadline=None, max_examples=25)
@given(st.lists(VOTES, max_size=8), st.lists(CHOICES, max_size=5))
def test_every_vote_is_in_a_pair_or_named_with_its_reason(given_votes, choices):
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for asked, answer, vote, kind in given_votes:
            votes.vote(home, [user(asked)], answer, vote, kind=kind)
        for asked, first, second, choice in choices:
            votes.compare(home, [user(asked)], (first, second), choice)
        found = feedback.pairs(home)
        assert found.used + len(found.left) == len(votes.votes(home)) + len(votes.comparisons(home))
        liked = {(row["messages"][0]["content"], row["answer"]): row["vote"] for row in votes.votes(home) if row["kind"] == "chat"}
        better = {(row["messages"][0]["content"], *feedback._in_order(row)) for row in votes.comparisons(home) if row["choice"] != "tie"}
        for pair in found.pairs:
            asked = pair.prompt[0]["content"]
            by_thumb = liked.get((asked, pair.chosen)) == 1 and liked.get((asked, pair.rejected)) == -1
            assert by_thumb or (asked, pair.chosen, pair.rejected) in better
        assert len({(pair.prompt[0]["content"], *sorted((pair.chosen, pair.rejected))) for pair in found.pairs}) == len(found.pairs)
        assert bool(found.used) == bool(found.pairs) and str(found.used) in found.summary()


def test_why_a_vote_gives_no_pair_is_said(tmp_path):
    votes.vote(tmp_path, [user("하나")], "홀로", 1)
    votes.vote(tmp_path, [user("둘")], "이어 씀", 1, kind=votes.COMPLETION)
    votes.compare(tmp_path, [user("셋")], ("같다", "같다"), "first")
    votes.compare(tmp_path, [user("넷")], ("가", "나"), "tie")
    votes.compare(tmp_path, [user("다섯")], ("가", "나"), "first")
    votes.vote(tmp_path, [user("다섯")], "가", -1)
    votes.vote(tmp_path, [user("다섯")], "나", 1)
    found = feedback.pairs(tmp_path)
    assert not found.pairs and found.used == 0
    reasons = {left.question: left.reason for left in found.left}
    assert [word in reasons[asked] for asked, word in (("하나", "반대 표"), ("둘", "이어 쓰기"), ("셋", "두 답이 같아"), ("넷", "비슷하다"),
                                                       ("다섯", "어긋난다"))] == [True] * 5  # fmt: skip
    assert len(found.left) == 7


def test_what_is_exported_is_read_by_trl_and_by_us(tmp_path):
    from datasets import load_dataset

    file = tmp_path / "pairs.jsonl"
    with pytest.raises(WorkshopError, match="아직 표가 없다"):
        feedback.export(tmp_path, file)
    asked = [{"role": "system", "content": "짧게"}, user("처음"), said("네."), user("몇 시?")]
    votes.vote(tmp_path, asked, "아홉 시.", 1)
    votes.vote(tmp_path, asked, "몰라.", -1)
    votes.compare(tmp_path, [user("어디?")], ("1층.", "글쎄."), "second")
    found = feedback.export(tmp_path, file)
    assert read_pairs(file) == found.pairs and found.used == 3
    table = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert read_pairs(table) == found.pairs
    from trl.data_utils import is_conversational

    assert all(is_conversational(row) for row in table)


# ---------------------------------------------------------------------------------------------- another round


def few(steps=6):
    from workshop_lib.profile import get_profile

    return replace(get_profile().alignment, dpo_steps=steps, conversations=60, held_out=40, held_out_pairs=60, dpo_rate=0.003)


def test_a_round_takes_the_votes_in_and_saves_what_it_measured(tmp_path, aligned):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for number in range(4):
        votes.vote(tmp_path, [user(f"{number + 1}층에 무엇이 있어?")], "잡지실이 있습니다.", 1)
        votes.vote(tmp_path, [user(f"{number + 1}층에 무엇이 있어?")], "몰라.", -1)
    votes.vote(tmp_path, [user("긴 물음 " * 200)], "짧은 답", 1)
    votes.vote(tmp_path, [user("긴 물음 " * 200)], "다른 답", -1)
    heard = []
    done = feedback.another_round(tmp_path, aligned, few(), say=heard.append)
    assert done.metrics["votes_margin"] > 0 and done.metrics["votes_margin_low"] <= done.metrics["votes_margin"]
    assert (done.metrics["pairs"], done.metrics["votes_used"], done.metrics["pairs_too_long"]) == (4, 10, 1)
    assert any("문맥" in line for line in heard) and any("6/6 단계" in line for line in heard)
    assert [row["question"] for row in done.answers] == [f"{number + 1}층에 무엇이 있어?" for number in range(4)]
    assert feedback.last_round(tmp_path) == done and len(read_pairs(done.folder / "pairs.jsonl")) == 4
    assert sorted(path.name for path in done.folder.parent.iterdir() if path.name[0] != ".") == ["metrics.json", "model", "votes.sqlite"]
    AutoTokenizer.from_pretrained(done.folder)
    first = AutoModelForCausalLM.from_pretrained(done.folder).state_dict()
    again = feedback.another_round(tmp_path, aligned, few(), say=None)
    drop = {"seconds"}
    assert {k: v for k, v in again.metrics.items() if k not in drop} == {k: v for k, v in done.metrics.items() if k not in drop}
    second = AutoModelForCausalLM.from_pretrained(done.folder).state_dict()
    assert all(first[name].equal(second[name]) for name in first)
    assert done.table()[0]["뒤"] == done.metrics["votes_pref_accuracy_after"]


def test_a_round_is_refused_without_pairs_without_a_model_and_beside_another(tmp_path, aligned):
    from filelock import FileLock

    with pytest.raises(WorkshopError, match="선호 쌍이 하나도 없다"):
        feedback.another_round(tmp_path, aligned, few())
    votes.compare(tmp_path, ASKED, ("아홉 시.", "몰라."), "first")
    with pytest.raises(WorkshopError, match="workshop run --weeks 9"):
        feedback.another_round(tmp_path)
    with FileLock(votes.file(tmp_path).with_name(".round.lock")), pytest.raises(WorkshopError, match="이미"):
        feedback.another_round(tmp_path, aligned, few())
    votes.compare(tmp_path, ASKED, ("아홉 시.", "몰라."), "tie")
    votes.compare(tmp_path, [user("긴 물음 " * 200)], ("아홉 시.", "몰라."), "first")
    with pytest.raises(WorkshopError, match="문맥 128토큰보다 길다"):
        feedback.another_round(tmp_path, aligned, few(), say=None)
    assert feedback.last_round(tmp_path) is None


def test_a_round_that_is_killed_while_it_saves_leaves_no_model_with_anothers_numbers(tmp_path, aligned, monkeypatch):
    votes.compare(tmp_path, ASKED, ("아홉 시.", "몰라."), "first")
    feedback.another_round(tmp_path, aligned, few(2), say=None)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(feedback.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            feedback.another_round(tmp_path, aligned, few(2), say=None)
    assert feedback.last_round(tmp_path) is None
    feedback.another_round(tmp_path, aligned, few(2), say=None)
    done = feedback.last_round(tmp_path)
    assert done.metrics["steps"] == 2
    (done.folder.parent / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(WorkshopError, match="깨졌다"):
        feedback.last_round(tmp_path)


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_counts_exports_and_says_what_is_missing(tmp_path, capsys):
    home = ["--home", str(tmp_path)]
    assert cli.main(["feedback", *home]) == 0 and "좋다 0개" in capsys.readouterr().out
    for arguments, words in ((["train"], "선호 쌍이 하나도 없다"), (["export"], "export FILE"), (["export", "x.jsonl"], "아직 표가 없다")):
        assert cli.main(["feedback", *arguments, *home]) == 1 and words in capsys.readouterr().err
    votes.compare(tmp_path, ASKED, ("아홉 시.", "몰라."), "first")
    assert cli.main(["feedback", "export", str(tmp_path / "x.jsonl"), *home]) == 0
    assert "선호 쌍 1개" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.jsonl").read_text(encoding="utf-8"))["chosen"] == [said("아홉 시.")]
    assert cli.main(["feedback", *home]) == 0 and "견줌 1개" in capsys.readouterr().out
    assert cli.main(["feedback", "train", *home]) == 1 and "workshop run --weeks 9" in capsys.readouterr().err
    assert cli.main(["feedback", "export", str(tmp_path / "no" / "x.jsonl"), *home]) == 1 and "오류" in capsys.readouterr().err
