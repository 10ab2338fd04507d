"""The story generator: reproducible, no two alike, grammatical, consistent within a story, and split by combination."""

import hashlib
import re
import unicodedata
from itertools import islice

import pytest

from workshop_lib import WorkshopError
from workshop_lib.corpora import stories as village
from workshop_lib.corpora.stories import stories

ROW_NOUNS = [value for plot in village.plots() for row in plot.rows for value in row.values() if not value.endswith((".", "고"))]
NOUNS = sorted(
    {*village.NAMES, *village.KINDS, *village.ELDERS, *village.PLACES, *village.THINGS, *village.TOYS, *village.FOODS, *village.POTS}
    | {noun for noun in ROW_NOUNS if " " not in noun},
    key=len,
    reverse=True,
)
AFTER_CONSONANT = {"은", "이", "을", "과", "으로", "아"}


@pytest.fixture(scope="module")
def many() -> list[dict]:
    return list(stories(20_000))


@pytest.fixture(scope="module")
def held_out() -> list[dict]:
    return list(stories(2_000, split="validation"))


def test_reproducible_and_streaming(many):
    first = "\n".join(document["text"] for document in many[:1000])
    assert hashlib.sha256(first.encode()).hexdigest() == "c4c44f414889b04b08a1801749651dfd887311634d943e91a1c3e9e23d0edc07"
    assert list(stories(50)) == many[:50] == list(islice(stories(10**9), 50))
    assert list(stories(50, seed=1)) != many[:50]
    assert set(many[0]) == {"id", "text", "source", "combo"} and many[0]["source"] == "story"
    assert len({document["id"] for document in many}) == len(many)


def test_no_two_alike(many):
    assert len({document["text"] for document in many}) == 20_000


def test_splits_share_no_combination(many, held_out):
    assert not {d["combo"] for d in many} & {d["combo"] for d in held_out}
    assert {d["combo"].split("|")[-1] for d in held_out} == {plot.name for plot in village.plots()}
    with pytest.raises(WorkshopError, match="test"):
        next(stories(1, split="test"))


def test_shape(many):
    for document in many:
        text = document["text"]
        assert text.endswith("."), text
        assert not re.search(r"[{}\[\]|;]|  |\.\.|\. \.", text), text
        assert text.count('"') % 2 == 0 and text == text.strip() == unicodedata.normalize("NFC", text)
        assert 120 <= len(text) <= 700, text


def test_particles_agree_with_unicode_decomposition(many, held_out):
    pattern = re.compile(rf"(?<![가-힣])({'|'.join(NOUNS)})(은|는|이|가|을|를|과|와|으로|로|아|야)(?=[ .,!?\"])")
    checked = 0
    for document in many[:5000] + held_out:
        for noun, particle in pattern.findall(document["text"]):
            final = unicodedata.normalize("NFD", noun)[-1]
            closed = "ᆨ" <= final <= "ᇂ" and not (particle in ("으로", "로") and final == "ᆯ")
            assert (particle in AFTER_CONSONANT) == closed, (noun + particle, document["text"])
            checked += 1
        assert not re.search(r"을를|를을|은는|는은|와과|과와|으로로|에서에서|에게에게", document["text"])
    assert checked > 50_000


def test_one_narrator_and_two_friends(many):
    """The narrator keeps one speech level, and nobody but hero and friend is ever named."""
    name = re.compile(rf"(?<![가-힣])({'|'.join(sorted(village.NAMES, key=len, reverse=True))})(?=[가는를와의도에, ])")
    for document in many[:5000]:
        narration = "".join(document["text"].split('"')[::2])
        endings = set(re.findall(r"(어요|다)\.", narration))
        assert len(endings) == 1, document["text"]
        assert len(set(name.findall(document["text"]))) <= 2, document["text"]


def test_every_line_can_be_compiled():
    for index, plot in enumerate(village.plots()):
        for row in range(max(len(plot.rows), 1)):
            for beat in range(len(plot.beats)):
                for style in (*village.STYLES, "습니다"):
                    assert all(village._readings(index, row, beat, style))
    assert len(village.plots()) >= 12 and all(len(lines) >= 3 for plot in village.plots() for _, lines in plot.beats)


def test_restyle_leaves_speech_alone_and_names_what_it_cannot_retell():
    assert village.restyle('갔다. "나도 갔다." 왔다.', "어요") == '갔어요. "나도 갔다." 왔어요.'
    with pytest.raises(WorkshopError, match="간다"):
        village.restyle("간다.", "어요")
