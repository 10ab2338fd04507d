"""Artefacts appear whole or not at all, know where they came from, and are rebuilt only when they must be."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from workshop_lib import WorkshopError, workspace
from workshop_lib.profile import PROFILES, get_profile, with_settings
from workshop_lib.workspace import Stage, Workspace

CALLS = []


@dataclass(frozen=True)
class Section:
    size: int


@dataclass(frozen=True)
class SmallProfile:
    name: str
    seed: int
    first: Section
    second: Section


def build_first(job):
    CALLS.append("first")
    (job.out / "text.txt").write_text("가" * job.settings.size, encoding="utf-8")
    return {"size": job.settings.size}


def build_second(job):
    CALLS.append("second")
    text = (job.inputs["first"] / "text.txt").read_text(encoding="utf-8")
    (job.out / "copy.txt").write_text(text, encoding="utf-8")
    return {"chars": len(text)}


def build_failing(job):
    (job.out / "half.txt").write_text("반쪽", encoding="utf-8")
    raise WorkshopError("일부러")


def build_private(job):
    (job.out / "deep").mkdir()
    for path in (job.out / "weights", job.out / "deep" / "weights"):
        path.touch(mode=0o600)  # as safetensors does
    return {}


@pytest.fixture
def space(tmp_path, monkeypatch):
    CALLS.clear()
    stages = [Stage("first", 2, "첫째", f"{__name__}:build_first"),
              Stage("second", 3, "둘째", f"{__name__}:build_second", ("first",))]
    monkeypatch.setattr(workspace, "STAGES", {s.name: s for s in stages})
    return Workspace(tmp_path / "home", SmallProfile("tiny", 0, Section(3), Section(1)))


def silent(_):
    pass


def test_require_builds_what_is_missing_and_what_it_needs(space):
    path = space.require("second", silent)
    assert CALLS == ["first", "second"]
    assert (path / "copy.txt").read_text(encoding="utf-8") == "가가가"
    assert space.metrics("second") == {"chars": 3}


def test_what_stands_is_not_built_again(space):
    space.require("second", silent)
    space.require("second", silent)
    assert CALLS == ["first", "second"]


def test_a_changed_setting_makes_the_stage_and_what_stands_on_it_stale(space):
    space.require("second", silent)
    changed = replace(space, profile=replace(space.profile, first=Section(5)))
    assert (changed.status("first"), changed.status("second")) == ("stale", "stale")
    changed.require("second", silent)
    assert CALLS == ["first", "second"] * 2
    assert changed.metrics("second") == {"chars": 5}


def test_a_setting_of_another_stage_changes_nothing(space):
    space.require("first", silent)
    assert replace(space, profile=replace(space.profile, second=Section(9))).status("first") == "ready"


def test_a_rebuilt_input_with_the_same_content_does_not_cascade(space):
    space.require("second", silent)
    (space.path("first") / "meta.json").unlink()
    space.require("second", silent)
    assert CALLS == ["first", "second", "first"]


def test_changed_data_files_make_a_stage_stale(space, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("가", encoding="utf-8")
    with_data = replace(space, data=data)
    with_data.require("first", silent)
    assert with_data.status("first") == "ready" and space.status("first") == "stale"
    (data / "a.txt").write_text("가나", encoding="utf-8")
    assert with_data.status("first") == "stale"


def test_a_failed_build_leaves_no_artefact(space, monkeypatch):
    monkeypatch.setitem(workspace.STAGES, "first", Stage("first", 2, "첫째", f"{__name__}:build_failing"))
    with pytest.raises(WorkshopError, match="일부러"):
        space.require("first", silent)
    assert space.status("first") == "missing" and not space.path("first").exists()


def test_a_failed_rebuild_leaves_the_old_artefact(space, monkeypatch):
    space.require("first", silent)
    monkeypatch.setitem(workspace.STAGES, "first", Stage("first", 2, "첫째", f"{__name__}:build_failing"))
    with pytest.raises(WorkshopError):
        replace(space, profile=replace(space.profile, first=Section(7))).require("first", silent)
    assert (space.path("first") / "text.txt").read_text(encoding="utf-8") == "가가가"


def test_meta_records_where_an_artefact_came_from(space):
    space.require("second", silent)
    meta = space.meta("second")
    assert meta["inputs"] == {"first": space.meta("first")["hash"]}
    assert {"stage", "profile", "seed", "settings", "versions", "seconds", "bytes", "hash"} <= meta.keys()
    assert [row["stage"] for row in space.lineage()] == ["first", "second"]


@pytest.mark.skipif(os.name != "posix", reason="파일의 권한이 다르다")
def test_whoever_may_read_an_artefact_may_read_all_of_it(space, monkeypatch):
    monkeypatch.setitem(workspace.STAGES, "first", Stage("first", 2, "첫째", f"{__name__}:build_private"))
    files = [path for path in space.require("first", silent).rglob("*") if path.is_file()]
    assert len(files) == 4 and len({path.stat().st_mode for path in files}) == 1


def test_a_broken_meta_file_is_named(space):
    space.require("first", silent)
    (space.path("first") / "meta.json").write_text("{", encoding="utf-8")
    with pytest.raises(WorkshopError, match="meta.json"):
        space.require("first", silent)


def test_unknown_stage_and_missing_data_folder_are_refused(space, tmp_path):
    with pytest.raises(WorkshopError, match="없는단계"):
        space.require("없는단계")
    with pytest.raises(WorkshopError, match="데이터 폴더"):
        replace(space, data=tmp_path / "nowhere").require("first")


def test_a_home_that_is_a_file_is_refused(space, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WorkshopError, match="작업 폴더"):
        replace(space, home=tmp_path / "file").require("first")


def test_the_environment_names_the_current_workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path))
    monkeypatch.setenv("WORKSHOP_PROFILE", "small")
    monkeypatch.setenv("WORKSHOP_DATA", str(tmp_path))
    found = workspace.current()
    assert (found.home, found.profile.name, found.data) == (tmp_path, "small", tmp_path)


def test_unknown_profile_and_setting_are_refused():
    with pytest.raises(WorkshopError, match="huge"):
        get_profile("huge")
    with pytest.raises(WorkshopError, match="nothing"):
        with_settings(PROFILES["tiny"], "corpus", nothing=1)
    assert with_settings(PROFILES["tiny"], "tokenizer", vocab_size=300).tokenizer.vocab_size == 300


@pytest.mark.parametrize("name", ["workshop_lib", "workshop_lib.cli", "workshop_lib.workspace", "workshop_lib.course",
                                  "workshop_lib.report_card"])  # fmt: skip
def test_importing_the_package_loads_nothing_heavy(name):
    code = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "matplotlib", "numpy", "datasets", "sklearn"} & set(done.stdout.split())


def test_every_stage_names_a_function_that_exists():
    import importlib

    for stage in workspace.STAGES.values():
        module, function = stage.build.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert set(stage.inputs) <= set(workspace.STAGES)


def test_two_processes_build_a_stage_once(tmp_path):
    code = "from workshop_lib.workspace import require; print(require('environment'))"
    environment = {**os.environ, "WORKSHOP_HOME": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("만든다" in out for out in outputs) == 1
    assert json.loads((Path(tmp_path) / "environment" / "meta.json").read_text(encoding="utf-8"))["stage"] == "environment"


@pytest.mark.parametrize("guarded", [False, True])
def test_a_script_without_a_main_guard_is_told_so_and_does_not_hang(tmp_path, guarded):
    script, home = tmp_path / "script.py", tmp_path / "home"
    lines = [
        "from dataclasses import replace",
        "from workshop_lib.cleaning import pipeline",
        "from workshop_lib.profile import get_profile, with_settings",
        "from workshop_lib.workspace import current",
        "pipeline.available_cores = lambda: 2  # one core would start no worker, and nothing would be amiss",
        "small = with_settings(get_profile('tiny'), 'corpus', crawl_pages=600, stories=600, validation_docs=40)",
        "if __name__ == '__main__':" if guarded else "if True:",
        "    replace(current(), profile=small).require('corpus')",
    ]
    script.write_text("\n".join(lines), encoding="utf-8")
    # The output ends when the last worker has: one that stayed behind would run into the time limit.
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "WORKSHOP_HOME": str(home), "TQDM_DISABLE": "1"})
    if guarded:
        assert done.returncode == 0 and (home / "corpus" / "meta.json").exists(), done.stderr
    else:
        assert done.returncode == 1 and not (home / "corpus").exists()
        said = [line for line in done.stderr.splitlines() if line.startswith("workshop_lib.WorkshopError")]
        assert said and "__main__" in said[-1]
        # The workers, which ran the script anew, were told so too instead of waiting for the build that waits for them.
        assert "require를 `if __name__ == \"__main__\":` 아래에서 부른다" in done.stderr


def test_a_folders_hash_is_of_names_and_contents_and_nothing_else(tmp_path):
    for name in ("a", "b"):
        for file in ("z.txt", "inner/y.txt", "x.txt") if name == "a" else ("x.txt", "inner/y.txt", "z.txt"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(file, encoding="utf-8")
    first, second = (workspace.content_hash(tmp_path / name) for name in ("a", "b"))
    assert first == second
    os.utime(tmp_path / "b" / "x.txt", (0, 0))
    assert workspace.content_hash(tmp_path / "b") == first
    (tmp_path / "b" / "x.txt").rename(tmp_path / "b" / "w.txt")
    assert workspace.content_hash(tmp_path / "b") != first


def test_an_artefacts_hash_can_be_computed_again_from_its_files(space):
    folder = space.require("first", say=None)
    meta = space.meta("first")
    kept = [folder / name for name in meta["files"] if name not in workspace.MEASURED]
    assert workspace.content_hash(folder, kept) == meta["hash"]


def test_the_course_is_built_in_its_own_order_and_no_stage_before_its_inputs():
    inputs = {name: stage.inputs for name, stage in workspace.STAGES.items()}
    assert workspace.build_order(inputs) == list(inputs)
    order = workspace.build_order(dict(reversed(inputs.items())))
    assert all(order.index(source) < order.index(name) for name, needs in inputs.items() for source in needs)


@pytest.mark.parametrize("inputs", [{"a": ("b",), "b": ("a",), "c": ()}, {"a": ("a",)}, {"a": ("nobody",)}])
def test_what_waits_for_ever_is_named(inputs):
    with pytest.raises(WorkshopError, match="기다리는 단계가 있다: a"):
        workspace.build_order(inputs)


def test_what_a_setting_makes_stale_is_what_the_workspace_finds_stale(space):
    space.require("second", say=None)
    inputs = {name: stage.inputs for name, stage in workspace.STAGES.items()}
    for name in inputs:
        turned = replace(space, profile=replace(space.profile, **{name: Section(7)}))
        assert [stage for stage in inputs if turned.status(stage) != "ready"] == workspace.stale_after(inputs, name)
