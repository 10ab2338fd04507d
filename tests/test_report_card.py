"""The report card: nothing that was not measured, nothing that a broken artefact or a strange text could spoil."""

import json
import math
import random
import re
import tomllib
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest

from workshop_lib import course, report_card, report_figures, report_tables, workspace
from workshop_lib.profile import get_profile
from workshop_lib.report_card import filled, verdict
from workshop_lib.report_tables import GRIDS, HEADLINES, Grid, interval, shown
from workshop_lib.workspace import STAGES, Stage, Workspace, write_rows

EVIL = '<script>alert("1|2")</script>\n</td>| `코드` & [글](http://a)'
LUCK = random.Random(0)


def build(job):
    """Any stage of the course: a random number for every metric of its tables, and files as the pictures read them."""
    name = job.out.name.rpartition("-")[0]
    keys = [key for grid in GRIDS[name] for row in grid.rows for key in row[1:] if key] + [f"{name}_rest_{i}" for i in range(4)]
    metrics = {}
    for key in keys:
        if report_tables.SIZES.search(key) or "params" in key:
            metrics[key] = LUCK.randrange(10**7)
            continue
        value = LUCK.random() * (1 if report_tables.SHARES.search(key) else 10 ** LUCK.randrange(-3, 6))
        metrics[key] = value if LUCK.random() < 0.8 else -value
        if LUCK.random() < 0.5:
            metrics |= {f"{key}_low": metrics[key] - abs(value) / 9, f"{key}_high": metrics[key] + abs(value) / 9}
    (job.out / "text.txt").write_text(name, encoding="utf-8")
    curve = [{"name": "rnn", "run": "dpo", "step": i, "tokens": i * 1000, "val_bpc": 5 / (1 + i), "margin": i, "chosen": i, "rejected": -i}
             for i in range(4)]  # fmt: skip
    for file in ("history.jsonl", "curves.jsonl"):
        write_rows(job.out / file, curve)
    write_rows(job.out / "samples.jsonl", [{"step": 1, "text": "처음"}, {"step": 2, "text": EVIL}])
    write_rows(job.out / "answers.jsonl", [{"question": EVIL, "before": "앞|앞", "after": "뒤\n뒤"}] * 10)
    write_rows(job.out / "variants.jsonl", [{"name": "fp32", "title": "float32", "bytes": 4000, "bpc": 1.5}])
    if name == "environment":
        machine = {"processor": "CPU <b>", "cores": 2, "memory_gb": 8.0, "system": "Linux", "accelerator": ""}
        (job.out / "environment.json").write_text(json.dumps({"machine": machine}), encoding="utf-8")
    return metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stages = {name: replace(stage, build=f"{__name__}:build") for name, stage in STAGES.items()}
        for module in (workspace, course):
            patch.setattr(module, "STAGES", stages)
        space = Workspace(tmp_path_factory.mktemp("home"), get_profile("tiny"))
        course.run(space, say=lambda _: None)
        yield space


@dataclass(frozen=True)
class OneStage:
    name: str = "tiny"
    seed: int = 7


@pytest.fixture
def single(tmp_path, monkeypatch):
    """A workspace of one stage, for what must be done to its files."""
    for module in (workspace, course):
        monkeypatch.setattr(module, "STAGES", {"base_model": Stage("base_model", 5, "사전학습", f"{__name__}:build")})
    space = Workspace(tmp_path / "home", OneStage())
    space.require("base_model", None)
    return space


def rewrite(space, stage, name, text):
    """Replace a file and the length that meta.json remembers, as if the stage had written it so."""
    folder = space.path(stage)
    (folder / name).write_text(text, encoding="utf-8")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["files"][name] = (folder / name).stat().st_size
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


class Reader(HTMLParser):
    """The page's texts with the tags that they stand in; refuses anything that would run or be fetched."""

    def __init__(self):
        super().__init__()
        self.stack, self.texts, self.rows = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "link", "iframe", "object", "base", "form"), tag
        assert not any(name.startswith("on") for name in given)
        assert given.get("src", "data:").startswith("data:image/svg+xml;base64,") or tag != "img"
        assert given.get("href", "#").startswith("#")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.stack), data))
        if self.rows and {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.stack
    return reader


SCALES = {"%p": 0.01, "%": 0.01, "MB": 1e6, "kB": 1e3}


def untraced(text, values):
    """Numbers of a text that are no rounding of any of the values."""
    found, scale = [], 1.0
    for match in re.finditer(r"([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?)\s*(%p|%|MB|kB)?", text):
        digits = match[1].replace(",", "")
        scale = SCALES.get(match[2], 1.0 if "[" not in text[: match.start()] else scale)  # in brackets: as the value before them
        mantissa, _, power = digits.partition("e")
        half = 0.5 * 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
        # `number` keeps four significant digits and then drops zeros at the end: 2.630 is 2.63, 268.0 is 268.
        half = min(half, max(abs(float(digits)), 1e-9) * 5.1e-4) if scale == 1.0 and not power else half
        if not any(abs(value / scale - float(digits)) <= half * 1.0001 + 1e-12 for value in values):
            found.append(match[0])
    return found


def measured(space):
    values = []
    for name in STAGES:
        meta = space.meta(name)
        values += [*space.metrics(name).values(), meta["bytes"], meta["seconds"], meta["peak_rss_mb"]]
    return [value for value in values if math.isfinite(value)]


def test_every_number_of_the_page_is_a_rounding_of_a_measured_one(whole):
    totals = report_card.report(whole)["weeks"]["week10"]
    assert totals["total_bytes"] == sum(whole.meta(name)["bytes"] for name in STAGES) and totals["stages"] == len(STAGES)
    values = [*measured(whole), *totals.values()]
    reader = read(report_card.page(whole))
    tops = [text for tags, text in reader.texts if "strong" in tags]
    notes = [text for tags, text in reader.texts if tags[-1:] == ("p",) and "걸렸고" in text]
    cells = [cell for row in reader.rows for cell in row[1:] if not re.search("[가-힣]{3}|INT|-gram|script|앞|뒤", cell)]
    assert len(tops) == 2 * 10 and len(notes) == len(STAGES) and len(cells) > 300
    for text in [*tops, *notes, *cells]:
        assert not untraced(text, values), text


def test_every_number_of_the_markdown_tables_is_a_rounding_of_a_measured_one(whole):
    values = [*measured(whole), *report_card.report(whole)["weeks"]["week10"].values()]
    body = report_card.markdown(whole).partition("| 산출물 |")[0].replace("\\[", "[").replace("\\]", "]")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines() if line.startswith("|")]
    cells = [cell for row in rows for cell in row[1:] if not re.search("[가-힣]{3}|INT|-gram|script|앞|뒤", cell)]
    assert len(cells) > 300
    for cell in cells:
        assert not untraced(cell, values), cell


def test_the_tracing_itself_would_see_an_invented_number():
    assert untraced("63.8 % [60.4, 67.0]", [0.6375, 0.604, 0.67]) == []
    assert untraced("63.9 %", [0.6375]) == ["63.9 %"] and untraced("1.51 MB", [1_520_000]) == ["1.51 MB"]
    assert untraced("63.8 % [60.5, 67.0]", [0.6375, 0.604, 0.67]) == ["60.5"]


def test_the_page_is_one_file_that_fetches_nothing_and_runs_nothing(whole):
    page = report_card.page(whole)
    reader = read(page)  # refuses scripts, links and addresses
    assert "url(" not in page and "@import" not in page
    assert page.count("data:image/svg+xml;base64,") == 1 + len(report_figures.FIGURES)
    titles = [text for tags, text in reader.texts if tags[-1:] == ("h2",)]
    assert len(titles) == 1 + len(STAGES) + 1 and "10주차 통합" in titles


def test_the_page_and_the_markdown_name_machine_versions_seed_profile_and_data(whole):
    card, words = report_card.report(whole), "".join(text for _, text in read(report_card.page(whole)).texts)
    assert card["machine"]["processor"] == "CPU <b>"
    for text in (words, report_card.markdown(whole).replace("\\", "").replace("&lt;", "<").replace("&gt;", ">")):
        assert "CPU <b>, 2코어, 8.0 GB, Linux" in text and "tiny" in text and "함께 실린 말뭉치" in text and "시드" in text
        assert all(f"{package} {version}" in text for package, version in card["versions"].items())


def test_strange_texts_stay_texts(whole):
    page, text = report_card.page(whole), report_card.markdown(whole)
    reader = read(page)
    assert "".join(piece for tags, piece in reader.texts if "blockquote" in tags) == EVIL
    answers = [row for row in reader.rows if len(row) == 3 and row[1] == "앞|앞"]
    assert len(answers) == 10 and answers[0] == [EVIL.replace("`코드`", "코드"), "앞|앞", "뒤\n뒤"]
    assert "<script" not in text and "CPU <b>" not in text and "CPU &lt;b&gt;" in text
    blocks = re.split(r"\n(?!\|)", text)
    for block in blocks:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, block


def test_report_json_has_its_keys_and_strict_numbers(whole, tmp_path):
    path = report_card.write(whole)
    assert path == whole.home / "report.html" and path.is_file() and path.with_suffix(".md").is_file()
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(word))
    assert card.keys() == {"profile", "data", "machine", "weeks", "seconds", "peak_rss_mb", "versions", "seed", "lineage"}
    assert set(card["weeks"]) == {f"week{week:02d}" for week in range(1, 11)} and set(card["seconds"]) == set(STAGES)
    assert card["seed"] == whole.profile.seed and card["data"] == "bundled" and "python" in card["versions"]
    assert all(edge["matches"] and edge["recorded"] == edge["present"] for row in card["lineage"] for edge in row["inputs"])
    assert card["weeks"]["week10"]["edges_matching"] == card["weeks"]["week10"]["edges"] == sum(len(s.inputs) for s in STAGES.values())


def test_not_a_number_is_not_measured(single):
    rewrite(single, "base_model", "metrics.json", '{"val_bpc": NaN, "ngram_bpc": 1.5, "params": Infinity, "words": "많다", "flag": true}')
    card = report_card.report(single)
    assert card["weeks"]["week05"] == {"val_bpc": None, "ngram_bpc": 1.5, "params": None}
    json.dumps(card, allow_nan=False)
    assert "측정 안 함(값이 nan)" in report_card.markdown(single) and "낫다" not in report_card.markdown(single).partition("## ")[2]
    read(report_card.page(single))


@pytest.mark.parametrize("name", ["metrics.json", "history.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "null\n", '{"val_bpc": []}\n'])
def test_a_file_of_rubbish_spoils_neither_page_nor_markdown(single, name, text):
    rewrite(single, "base_model", name, text)
    read(report_card.page(single))
    assert "5주차 사전학습" in report_card.markdown(single)


@pytest.mark.parametrize("harm", ["cut", "gone", "meta", "altered", "settings"])
def test_an_artefact_that_is_not_what_it_was_says_so(single, harm):
    text = single.path("base_model") / "text.txt"
    if harm == "cut":
        text.write_text("", encoding="utf-8")
    elif harm == "gone":
        text.unlink()
    elif harm == "meta":
        (single.path("base_model") / "meta.json").write_text("{", encoding="utf-8")
    elif harm == "altered":
        text.write_text("base_modeL", encoding="utf-8")
    else:
        single = replace(single, profile=OneStage(seed=8))
    word = {"altered": "내용이 바뀜", "settings": "낡음"}.get(harm, "깨졌다")
    page, text = report_card.page(single), report_card.markdown(single)
    assert f"{word}:" in page and f"{word}:" in text
    values = report_card.report(single)["weeks"]["week05"]
    assert bool(values) == (harm in ("altered", "settings"))  # what is broken is not shown as if it were measured


def test_an_empty_workspace_measures_nothing(tmp_path):
    space = Workspace(tmp_path, get_profile("tiny"))
    page, text = report_card.page(space), report_card.markdown(space)
    assert text.count("측정 안 함: 이 단계를 아직 실행하지 않았다") == len(STAGES) == page.count("측정 안 함: 이 단계를")
    card = report_card.report(space)
    assert set(card["weeks"]) == {"week10"} and card["weeks"]["week10"]["stages_ready"] == 0
    assert card["peak_rss_mb"] is None and card["seconds"] == {}


def test_week_ten_shows_the_whole_and_a_round_of_feedback_if_there_was_one(single):
    assert "## 10주차 통합" in report_card.markdown(single) and "`workshop feedback`을 아직 실행하지" in report_card.markdown(single)
    folder = single.home / "feedback"
    folder.mkdir()
    metrics = {"pairs": 12, "votes_pref_accuracy_before": 0.5, "votes_pref_accuracy_after": 0.75, "votes_pref_accuracy_change": 0.25,
               "votes_pref_accuracy_change_low": 0.1, "votes_pref_accuracy_change_high": 0.4, "desk_pref_accuracy_before": 0.5,
               "desk_pref_accuracy_after": 0.5, "desk_pref_accuracy_change": 0.0}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    text = report_card.markdown(single)
    assert "| 75.0 % | 50.0 % | +25.0 %p \\[+10.0, +40.0\\] (낫다) |" in text and "아직 실행하지" not in text.partition("## 10주차")[2]
    assert report_card.report(single)["weeks"]["week10"]["feedback_pairs"] == 12


def test_a_mark_needs_intervals_that_do_not_overlap():
    """Against brute force: better than all, or worse than one, of every pair of points in the two intervals."""
    luck = random.Random(1)
    for _ in range(500):
        metrics, way = {}, luck.choice("↑↓")
        for name in ("a", "b", "c"):
            value = luck.randrange(10)
            metrics[name] = value
            if luck.random() < 0.7:
                metrics |= {f"{name}_low": value - luck.randrange(3), f"{name}_high": value + luck.randrange(3)}
        better = []
        for other in ("b", "c"):
            both = "a_low" in metrics and f"{other}_low" in metrics
            ours, theirs = ([metrics[name + end] for end in ("_low", "_high")] if both else [metrics[name]] for name in ("a", other))
            signs = {(x > y) - (x < y) if way == "↑" else (x < y) - (x > y) for x in ours for y in theirs}
            better.append(signs.pop() if len(signs) == 1 else 0)
        want = "못하다" if -1 in better else "낫다" if better == [1, 1] else ""
        assert verdict(metrics, "a", ["b", "c"], way) == want


def test_nothing_is_marked_without_a_direction_a_baseline_or_a_number():
    for metrics, way in (({"a": 1, "b": 2}, ""), ({"a": 1}, "↑"), ({"a": math.nan, "b": 1}, "↑"), ({"a": 1, "b": math.nan}, "↓")):
        assert verdict(metrics, "a", ["b"], way) == ""
    difference = Grid(("차이",), (("몫 ↓", "x_change"),))
    for ends, mark in (((-3, -1), "낫다"), ((-1, 1), ""), ((1, 3), "못하다"), ((0, 3), "")):
        metrics = {"x_change": sum(ends) / 2, "x_change_low": ends[0], "x_change_high": ends[1]}
        assert filled(difference, metrics)[0][0][1][0].mark == mark


def test_what_a_table_misses_is_said_with_its_reason():
    grid = Grid(("가", "나"), (("줄", "a", "few_b"),), absent={"few": "자리가 없다"})
    rows, reasons = filled(grid, {"a": 1})
    assert [cell.text for cell in rows[0][1]] == ["1", "측정 안 함"] and reasons == ["측정 안 함: 나(줄). 자리가 없다."]
    twice = replace(grid, rows=(*grid.rows, ("둘째", "c", "few_d")))
    assert filled(twice, {"a": 1, "few_b": 2})[1][1] == "측정 안 함: 둘째. 자리가 없다."
    assert filled(replace(grid, title="표", absent={"": "자료가 없다"}), {}) == ([], ["측정 안 함: 표. 자료가 없다."])


@pytest.mark.parametrize("key, value, text", [
    ("lora_accuracy", 0.6375, "63.7 %"), ("pref_change", -0.25, "-0.25"), ("preferred_change", 0.3406, "+34.1 %p"),
    ("fp32_bytes", 4465112, "4.47 MB"), ("bytes", 999, "999 B"), ("bytes_per_token", 4.719, "4.719"), ("removed_exact_duplicate", 1.0, "1"),
    ("params", 1115264, "1,115,264"),
    ("tokens_per_s", 9782.2, "9,782"), ("val_bpc", 1e-5, "1.00e-05"), ("val_bpc", math.inf, "측정 안 함(값이 inf)"),
])  # fmt: skip
def test_values_are_shown_with_their_units(key, value, text):
    assert shown(key, value) == text


def test_intervals_are_found_under_each_of_the_courses_names():
    metrics = {"a_low": 1, "a_high": 2, "b_accuracy_ci_low": 3, "b_accuracy_ci_high": 4, "c_ci_low": 5, "c_ci_high": 6, "d_low": 1}
    assert [interval(metrics, key) for key in ("a", "b_accuracy", "c_accuracy", "d", "c")] == [(1, 2), (3, 4), (5, 6), None, (5, 6)]


def test_tables_are_well_formed():
    for stage, grids in GRIDS.items():
        for grid in grids:
            assert all(len(row) == 1 + len(grid.columns) for row in grid.rows), (stage, grid.title)
            assert set(grid.reference) <= {*grid.columns, *(row[0] for row in grid.rows)}, (stage, grid.reference)
    for stage, (_, key, _, base) in HEADLINES.items():
        assert {key, base} <= {name for grid in GRIDS[stage] for row in grid.rows for name in row[1:]}
    assert set(STAGES) | {"course", "feedback"} == set(GRIDS) and set(HEADLINES) == set(STAGES) | {"course"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_table_asks_for_metrics_that_its_stage_writes(stage):
    """`make test` runs this once more after the notebooks, in the workspace where they have built every stage."""
    path = workspace.current().path(stage) / "metrics.json"
    if not path.is_file():
        pytest.skip("아직 실행하지 않은 단계")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    optional = re.compile("^chatbot_|bpc_(nsmc|prose)|"  # of other data
                          "few_shot|bnb_|torchao_|(gguf|onnx_int8|student)_accuracy|(awq|int3_gptq|int2_gptq|gguf)_tokens_per_s")
    told = {key for grid in GRIDS[stage] for row in grid.rows for key in row[1:] if key and not optional.search(key)}
    assert told <= metrics.keys()


def test_a_notebook_gets_the_same_tables(whole):
    found = report_card.tables(whole.metrics("alignment"), "alignment")
    assert len(found) == len(GRIDS["alignment"]) and found[0].header[1:] == GRIDS["alignment"][0].columns
    assert all(len(row) == len(table.header) for table in found for row in table.rows)


def test_the_package_ships_the_templates():
    shipped = tomllib.loads((workspace.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert all((workspace.REPOSITORY / "workshop_lib" / f"report_card{suffix}").is_file() for suffix in (".html", ".md"))
    assert {"*.html", "*.md"} <= set(shipped["workshop_lib"])
