"""The bundled prose: the files, the generator of notices behind them, and the datasheet that describes both."""

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from workshop_lib import WorkshopError, corpora
from workshop_lib.corpora import notices
from workshop_lib.corpora.prose import articles, prose

FILES = {"encyclopedia": (130, 250, 600), "news": (110, 200, 450)}  # at least so many, from so long, to so long
TOPICS = {"정치", "경제", "사회", "생활문화", "세계", "IT과학", "스포츠"}
NOTICES = 2_000


@pytest.fixture(scope="module")
def generated() -> dict[str, list[dict]]:
    written = {split: len(articles(split=split)) for split in ("train", "validation")}
    return {split: list(prose(count + NOTICES, split=split))[count:] for split, count in written.items()}


def everything(generated: dict[str, list[dict]]) -> list[dict]:
    return [row for name in FILES for row in corpora.load(name)] + generated["train"] + generated["validation"]


def grams(text: str, size: int = 8) -> set[str]:
    text = re.sub(r"\s+", "", text)
    return {text[i : i + size] for i in range(len(text) - size + 1)}


@pytest.mark.parametrize("name", FILES)
def test_written_files_have_their_schema_and_size(name):
    rows = corpora.load(name)
    least, shortest, longest = FILES[name]
    assert len(rows) >= least
    assert [row["id"] for row in rows] == [f"{name}-{i:03d}" for i in range(1, len(rows) + 1)]
    for row in rows:
        assert set(row) == {"id", "title", "text", "source"} | ({"topic"} if name == "news" else set()), row["id"]
        assert row["source"] == name and shortest <= len(row["text"]) <= longest, row["id"]
    assert len({row["title"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)


def test_news_topics_are_the_seven_of_the_classification_task_and_balanced():
    counts = Counter(row["topic"] for row in corpora.load("news"))
    assert set(counts) == TOPICS and max(counts.values()) <= 1.5 * min(counts.values())


def test_articles_do_not_all_begin_alike():
    rows = corpora.load("encyclopedia")
    named_first = [row for row in rows if re.match(rf"{re.escape(row['title'])}(은|는|이란|란) ", row["text"])]
    assert len(named_first) < 0.25 * len(rows)
    assert max(Counter(row["text"][:6] for row in rows).values()) <= 4


def test_text_is_clean_korean(generated):
    for row in everything(generated):
        for text in (row["title"], row["text"]):
            assert text == unicodedata.normalize("NFC", text) and text == text.strip(), row["id"]
            assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp")], row["id"]
            assert "  " not in text and not re.search(r"[{}|<>]|\.\.|,,| [.,]", text), row["id"]
        assert row["text"][-1] in ".?", row["id"]
        hangul = sum("가" <= c <= "힣" for c in row["text"])
        assert hangul > 0.6 * len(row["text"].replace(" ", "")), row["id"]


def test_quotes_and_sentences_are_balanced(generated):
    for row in everything(generated):
        text = row["text"]
        assert text.count('"') % 2 == 0 and text.count("‘") == text.count("’"), row["id"]
        for sentence in re.split(r"(?<=[.?]) ", re.sub(r'"[^"]*"', "", text)):  # every sentence ends as a sentence does
            assert re.search(r"(다|까|오|요|자)[.?]?$", sentence.strip()), (row["id"], sentence)


def test_no_two_documents_are_alike(generated):
    """Written articles share almost nothing; notices of a kind share sentences but never most of themselves."""
    written = [row for name in FILES for row in corpora.load(name)]
    holders = defaultdict(set)
    pieces = [grams(row["text"]) for row in written]
    for number, piece in enumerate(pieces):
        for gram in piece:
            holders[gram].add(number)
    shared = Counter(pair for numbers in holders.values() for pair in pairwise(sorted(numbers)))
    for (a, b), common in shared.items():
        assert common / len(pieces[a] | pieces[b]) < 0.05, (written[a]["id"], written[b]["id"])
    texts = [row["text"] for row in everything(generated)]
    assert len(set(texts)) == len(texts)


def test_notices_are_varied(generated):
    rows = generated["train"]
    kinds = list(notices.KINDS)
    assert len(kinds) >= 12 and set(kinds) == set(notices.templates())
    for number, kind in enumerate(kinds):
        pieces = [grams(row["text"], 5) for row in rows[number :: len(kinds)][:40]]
        close = [len(a & b) / len(a | b) for i, a in enumerate(pieces) for b in pieces[:i]]
        assert max(close) < 0.75 and sum(close) / len(close) < 0.3, kind


def test_every_sentence_of_the_notices_is_used(generated):
    """A typing error in a slot shows as a KeyError only when its sentence is drawn."""
    text = "\n".join(row["text"] + "\n" + row["title"] for row in generated["train"] + generated["validation"])
    for titles, slots in notices.templates().values():
        for template in titles + [sentence for _, options in slots for sentence in options]:
            assert not re.search(r"\}(은|는|이|가|을|를|과|와|로|으로|이다|이라|라)(?=[ ,.]|$)", template), template
            fixed = max(re.split(r"\{[^}]*\}", template), key=len)
            assert fixed in text, template


def final(syllable: str) -> int:
    return (ord(syllable) - 0xAC00) % 28


def test_particles_agree_with_the_word_before_them(generated):
    """Independent of `grammar`: nouns that occur bare elsewhere are followed by the right form everywhere."""
    documents = everything(generated)
    bare = Counter(word for row in documents for word in re.findall(r"(?<![가-힣])[가-힣]{2,}(?=의 |에서 |에게 |까지 |부터 )", row["text"]))
    checked = 0
    for row in documents:
        for word, particle in re.findall(r"(?<![가-힣])([가-힣]{2,})(은|는|이|가|을|를|과|와)(?= |,)", row["text"]):
            if bare[word] < 3:
                continue
            checked += 1
            assert (final(word[-1]) != 0) == (particle in "은이을과"), (row["id"], word + particle)
    assert checked > 3_000


def test_numbers_take_the_right_particle(generated):
    read = {
        "0": "closed",
        "1": "ㄹ",
        "2": "open",
        "3": "closed",
        "4": "open",
        "5": "open",
        "6": "closed",
        "7": "ㄹ",
        "8": "ㄹ",
        "9": "open",
    }
    checked = 0
    for row in everything(generated):
        for digit, particle in re.findall(r"(\d)(으로|로|을|를|은|는|이|가)(?= )", row["text"]):
            checked += 1
            right = {"closed": "으로 을 은 이", "ㄹ": "로 을 은 이", "open": "로 를 는 가"}[read[digit]].split()
            assert particle in right, (row["id"], digit + particle)
    assert checked > 50


def test_prices_scores_and_shares_add_up(generated):
    rows = generated["train"] + generated["validation"]
    shares = [re.findall(r"(\d+)퍼센트(?!포)", row["text"]) for row in rows if "설문" in row["title"] or "무응답" in row["text"]]
    whole = [list(map(int, found)) for found in shares if len(found) == 4]
    assert len(whole) > 20 and all(sum(found) == 100 for found in whole)
    for row in rows:
        if found := re.search(r"한 주 전의 ([\d,]+)원과 견주면 차이가 ([\d,]+)원", row["text"]):
            old, gap = (int(number.replace(",", "")) for number in found.groups())
            percent = int(re.search(r"(\d+)퍼센트", row["text"])[1])
            assert abs(gap / old * 100 - percent) <= 0.51, row["text"]
        if found := re.search(r"(\d+)대 (\d+)(?:으로|로) (?:꺾|눌|졌)", row["text"]):
            assert int(found[1]) > int(found[2]), row["text"]


def test_splits_share_nothing(generated):
    for key in ("id", "text"):
        written = [{row[key] for row in articles(split=split)} for split in ("train", "validation")]
        made = [{row[key] for row in generated[split]} for split in ("train", "validation")]
        assert not written[0] & written[1] and not made[0] & made[1]
    total = sum(len(corpora.load(name)) for name in FILES)
    assert sum(len(articles(split=split)) for split in ("train", "validation")) == total
    assert 0.04 < len(articles(split="validation")) / total < 0.16


def test_written_articles_come_first_and_the_stream_is_deterministic():
    count = len(articles())
    rows = list(prose(count + 40))
    assert {row["source"] for row in rows[:count]} == set(FILES) and {row["source"] for row in rows[count:]} == {"notice"}
    assert rows[:10] == list(prose(10)) and len({row["id"] for row in rows}) == len(rows)
    other = list(prose(count + 40, seed=1))
    assert {row["id"] for row in other[:count]} == {row["id"] for row in rows[:count]} and other[:count] != rows[:count]
    assert not {row["text"] for row in rows[count:]} & {row["text"] for row in other[count:]}
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode("utf-8")).hexdigest()
    assert digest[:16] == "f4c7d4bdd02c71b1"  # change only together with the corpus and its datasheet


@pytest.mark.parametrize(("arguments", "word"), [((-1,), "0 이상"), ((1, 0, "test"), "test")])
def test_bad_arguments(arguments, word):
    with pytest.raises(WorkshopError, match=word):
        list(prose(*arguments))


def test_load_names_the_files_and_the_broken_line(tmp_path, monkeypatch):
    assert set(FILES) <= set(corpora.names())
    with pytest.raises(WorkshopError, match="encyclopedia"):
        corpora.load("없는이름")
    monkeypatch.setattr(corpora, "DATA", tmp_path)
    for name, data, word in (("a", b'{"id": 1}\n\xff\n', "2번째 줄.*UTF-8"), ("b", b"{\n", "1번째 줄.*JSON"), ("c", b"[1]\n", "객체")):
        (tmp_path / f"{name}.jsonl").write_bytes(data)
        with pytest.raises(WorkshopError, match=word):
            corpora.load(name)
    (tmp_path / "d.jsonl").write_text('{"text": "줄\u2028바꿈"}\n\n', encoding="utf-8")
    assert corpora.load("d") == [{"text": "줄\u2028바꿈"}]


def test_datasheet_states_the_true_sizes():
    sheet = (corpora.DATA / "README.md").read_text(encoding="utf-8")
    for name in FILES:
        rows = corpora.load(name)
        section = sheet.split(f"## {name}\n")[1].split("\n## ")[0]
        assert f"문서 {len(rows)}편" in section and f"{sum(len(row['text']) for row in rows):,}자" in section
    section = sheet.split("## notices\n")[1].split("\n## ")[0]
    assert f"{len(notices.KINDS)}가지" in section
