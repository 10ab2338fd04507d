"""The map of the course says what the stages say, whatever the stages are."""

import pytest

from workshop_lib import environment, life_cycle
from workshop_lib.profile import get_profile
from workshop_lib.workspace import STAGES, Stage, Workspace


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def reached(name, through):
    return {found for one in through(name) for found in {one} | reached(one, through)}


def test_every_stage_and_its_product_stand_in_the_map():
    written = " ".join(texts(life_cycle.figure()))
    for stage in STAGES.values():
        assert stage.product and f"{stage.week}주차 {stage.title}" in written and stage.product in written
    assert "10주차" in written


@pytest.mark.parametrize("name", STAGES)
def test_the_arrows_left_out_are_those_that_the_others_imply(name):
    inputs, drawn = set(STAGES[name].inputs), set(life_cycle.direct_inputs(name))
    assert drawn <= inputs
    assert reached(name, life_cycle.direct_inputs) == reached(name, lambda n: STAGES[n].inputs)
    for one in drawn:
        assert not any(one in reached(other, lambda n: STAGES[n].inputs) for other in drawn - {one})


def test_no_two_boxes_overlap():
    boxes = [patch.get_bbox() for patch in life_cycle.figure().axes[0].patches if hasattr(patch, "get_boxstyle") and patch.get_width()]
    assert len(boxes) == len(STAGES) + 1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_note_is_written_into_each_stages_box():
    noted = [text for text in texts(life_cycle.figure(lambda name: f"<{name}>")) if text.startswith("<")]
    assert sorted(noted) == sorted(f"<{name}>" for name in STAGES)


def test_a_stage_of_week_10_takes_the_place_of_the_last_box(monkeypatch):
    more = {**STAGES, "product": Stage("product", 10, "마무리", "m:f", ("alignment",), "채팅 서비스")}
    monkeypatch.setattr(life_cycle, "STAGES", more)
    written = texts(life_cycle.figure())
    assert "10주차 마무리" in written and f"10주차 {life_cycle.LAST[0]}" not in written


def test_the_rows_say_what_stands_in_the_workspace(tmp_path):
    rows = life_cycle.rows(Workspace(tmp_path, get_profile("tiny")))
    assert [row["폴더"] for row in rows] == list(STAGES)
    assert {row["내 작업 공간"] for row in rows} == {"아직 없음"}
    assert all(STAGES[name].product in row["들어가는 것"] for row in rows for name in STAGES[row["폴더"]].inputs)


def test_the_folder_map_names_tools_that_the_doctor_knows_and_frames_those_that_are_here():
    named = {tool for _, _, _, tools in life_cycle.READERS.values() for tool in tools}
    assert named <= {tool.name for tool in environment.TOOLS}
    lines = [patch.get_linestyle() for patch in life_cycle.folder_map({"transformers"}).axes[0].patches if hasattr(patch, "get_boxstyle")]
    assert lines.count("-") == 2 and lines.count("--") == len(life_cycle.READERS) - 1  # the folder itself and transformers
