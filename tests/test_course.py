"""The stages run in order and once; the lineage believes the files, not what was written about them."""

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, replace

import pytest

from workshop_lib import WorkshopError, course, workspace
from workshop_lib.workspace import Stage, Workspace

BUILT = []


@dataclass(frozen=True)
class Settings:
    size: int


@dataclass(frozen=True)
class SmallProfile:
    name: str
    seed: int
    corpus: Settings
    tokenizer: Settings
    model: Settings


def build(job):
    name = job.out.name.rpartition("-")[0]
    BUILT.append(name)
    (job.out / "part").mkdir(exist_ok=True)
    told = "".join((folder / "text.txt").read_text(encoding="utf-8") for folder in job.inputs.values())
    (job.out / "text.txt").write_text(f"{name} {job.settings.size} {told}", encoding="utf-8")
    (job.out / "part" / "more.txt").write_text("가나다", encoding="utf-8")
    (job.out / "history.jsonl").write_text('{"seconds": 1}\n', encoding="utf-8")
    return {"size": job.settings.size}


@pytest.fixture
def space(tmp_path, monkeypatch):
    BUILT.clear()
    make = f"{__name__}:build"
    stages = (Stage("corpus", 2, "말뭉치 정제", make), Stage("tokenizer", 3, "토크나이저 학습", make, ("corpus",)),
              Stage("model", 5, "사전학습", make, ("corpus", "tokenizer")))  # fmt: skip
    for module in (workspace, course):
        monkeypatch.setattr(module, "STAGES", {stage.name: stage for stage in stages})
    return Workspace(tmp_path / "home", SmallProfile("tiny", 0, Settings(1), Settings(2), Settings(3)))


def silent(_):
    pass


@pytest.fixture
def finished(space):
    course.run(space, say=silent)
    return space


def states(space):
    return {artefact.stage: artefact.state for artefact in course.lineage(space)}


def edges(space):
    return {(edge.source, artefact.stage): edge.matches for artefact in course.lineage(space) for edge in artefact.inputs}


def test_one_call_builds_all_in_order_and_a_second_builds_nothing(space):
    said = []
    rows = course.run(space, say=said.append)
    assert BUILT == [row["stage"] for row in rows] == ["corpus", "tokenizer", "model"] and all(row["built"] for row in rows)
    assert "3개를 만들었다" in said[-1] and str(space.home / "report.html") in said[-1]
    changed = [path.stat().st_mtime_ns for path in sorted(space.home.rglob("*.*")) if path.is_file()]
    again = course.run(space, say=said.append)
    assert len(BUILT) == 3 and not any(row["built"] for row in again) and "0개를 만들었다" in said[-1]
    assert changed == [path.stat().st_mtime_ns for path in sorted(space.home.rglob("*.*")) if path.is_file()]


def test_a_run_that_fails_goes_on_where_it_stopped(space, monkeypatch):
    broken = Stage("tokenizer", 3, "토크나이저 학습", f"{__name__}:fails", ("corpus",))
    with monkeypatch.context() as patch:
        for module in (workspace, course):
            patch.setitem(module.STAGES, "tokenizer", broken)
        with pytest.raises(WorkshopError, match="일부러"):
            course.run(space, say=silent)
    course.run(space, say=silent)
    assert BUILT == ["corpus", "tokenizer", "model"]


def fails(job):
    raise WorkshopError("일부러")


def test_weeks_choose_stages_and_a_range_without_any_is_refused(space):
    assert [row["stage"] for row in course.run(space, (2, 3), silent)] == ["corpus", "tokenizer"]
    with pytest.raises(WorkshopError, match="실행할 단계가 없다"):
        course.run(space, (8, 9), silent)


def test_lineage_tells_hashes_sizes_and_seconds(finished):
    for artefact in course.lineage(finished):
        meta = json.loads((finished.path(artefact.stage) / "meta.json").read_text(encoding="utf-8"))
        assert (artefact.hash, artefact.bytes, artefact.seconds) == (meta["hash"], meta["bytes"], meta["seconds"])
        assert artefact.state == "ready" and artefact.why == "" and all(edge.matches for edge in artefact.inputs)


def test_the_present_hash_is_computed_from_the_files(finished):
    """Recomputed here by the words of content_hash's docstring; what differs in every run (metrics, history) is no part of it."""
    for artefact in course.lineage(finished):
        digest, root = hashlib.sha256(), finished.path(artefact.stage)
        for name in ("part/more.txt", "text.txt"):
            digest.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
        assert finished.present_hash(artefact.stage) == digest.hexdigest() == artefact.hash


@pytest.mark.parametrize("seed", range(6))
def test_an_edge_matches_only_if_the_recorded_hash_is_the_present_one(finished, seed):
    """Whatever byte of whatever artefact is changed, it is seen, and exactly the edges out of that artefact no longer match."""
    luck = random.Random(seed)
    stage = luck.choice(["corpus", "tokenizer", "model"])
    path = finished.path(stage) / luck.choice(["text.txt", "part/more.txt"])
    content = bytearray(path.read_bytes())
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(7)
    path.write_bytes(content)
    assert finished.status(stage) == "ready"  # lengths alone do not show it
    assert states(finished)[stage] == "altered"
    assert {pair for pair, fits in edges(finished).items() if not fits} == {pair for pair in edges(finished) if pair[0] == stage}
    assert all(states(finished)[reader] == "stale" for source, reader in edges(finished) if source == stage)
    unverified = {a.stage: a.state for a in course.lineage(finished, verify=False)}
    assert set(unverified.values()) == {"ready"}


@pytest.mark.parametrize("harm, state", [("cut", "broken"), ("gone", "broken"), ("meta", "broken"), ("folder", "missing")])
def test_an_artefact_that_is_not_whole_is_told_and_raises_nothing(finished, harm, state):
    folder = finished.path("corpus")
    if harm == "cut":
        (folder / "text.txt").write_text("", encoding="utf-8")
    elif harm == "gone":
        (folder / "metrics.json").unlink()
    elif harm == "meta":
        (folder / "meta.json").write_text('{"stage": "corpus"', encoding="utf-8")
    else:
        shutil.rmtree(folder)
    assert states(finished) == {"corpus": state, "tokenizer": "stale", "model": "stale"}
    assert edges(finished) == {("corpus", "tokenizer"): False, ("corpus", "model"): False, ("tokenizer", "model"): True}
    assert course.lineage(finished)[0].why


def test_settings_make_stale_what_stands_on_them_but_edges_still_match(finished):
    changed = replace(finished, profile=replace(finished.profile, tokenizer=Settings(9)))
    assert states(changed) == {"corpus": "ready", "tokenizer": "stale", "model": "stale"} and all(edges(changed).values())
    first, second = (artefact.why for artefact in course.lineage(changed)[1:])
    assert "설정" in first and "토크나이저 학습" in second


def test_an_input_that_was_rebuilt_differently_is_named(finished):
    changed = replace(finished, profile=replace(finished.profile, corpus=Settings(9)))
    changed.require("corpus", silent)
    assert states(changed) == {"corpus": "ready", "tokenizer": "stale", "model": "stale"}
    assert "말뭉치 정제" in course.lineage(changed)[1].why and "다르다" in course.lineage(changed)[1].why


def test_an_empty_workspace_has_a_lineage_too(space):
    assert set(states(space).values()) == {"missing"}
    assert len(course.draw_lineage(course.lineage(space)).axes) == 1


def test_the_drawing_shows_every_state_and_a_cross_for_each_edge_that_does_not_match(finished):
    (finished.path("tokenizer") / "text.txt").write_bytes((finished.path("tokenizer") / "text.txt").read_bytes()[::-1])
    artefacts = course.lineage(finished)
    axes = course.draw_lineage(artefacts).axes[0]
    texts = "\n".join(text.get_text() for text in axes.texts)
    for artefact in artefacts:
        assert artefact.title in texts and artefact.hash[:8] in texts and course.STATES[artefact.state] in texts
    marks = [line.get_marker() for line in axes.lines if line.get_marker() in ("o", "X")]
    assert marks.count("X") == 1 + 1 and marks.count("o") == 2 + 2  # the last ones are the legend's
    assert {artefact.state for artefact in artefacts} == {"ready", "altered", "stale"}
