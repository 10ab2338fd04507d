"""Week 3: Hangul arithmetic, BPE against Hugging Face's, the trainers, the measures, and the stage."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, hangul, segmentation, subwords, tokenization
from workshop_lib.profile import PROFILES, TokenizerSettings
from workshop_lib.workspace import Job

SENTENCES = [
    "고양이가 학교에서 물고기를 먹었다.", "학생은 학교에 갔고 강아지는 집에 있었다.", "오늘은 3월 14일, 값은 1,200원이다.",
    "친구와 함께 도서관에서 책을 읽었어요.", "정말 재미있었다 ㅋㅋㅋㅋ ㅠㅠ", "AI가 쓴 글을 읽어 보았다.",
    "할머니께서 사과 세 개를 주셨다.",
]  # fmt: skip


def sentences(n, seed=0):
    rng = random.Random(seed)
    who, where, what = ["고양이", "학생", "할머니", "로봇"], ["학교", "마당", "도서관", "숲"], ["책", "사과", "편지", "별"]
    made = [f"{rng.choice(who)}는 {rng.choice(where)}에서 {rng.choice(what)}을 {rng.randint(1, 99)}개 보았다." for _ in range(n)]
    return SENTENCES * 10 + made


@pytest.fixture(scope="module")
def pieces():
    return subwords.count_pieces(sentences(200))


@pytest.fixture(scope="module")
def merges(pieces):
    return subwords.train_bpe(pieces, 300)


@pytest.fixture(scope="module")
def korean():
    return tokenization.wrap(tokenization.train_byte_bpe(sentences(200), 600, tokenization.SPECIAL_TOKENS), 128)


# Characters that this Python's Unicode tables know: the libraries carry other versions of them.
any_text = st.text(st.characters(exclude_categories=("Cs", "Cn")))
korean_text = st.text("가나다힣ㅋㅠ한국학교에서는 1२²Ⅷ\n\t.,!'s\u1112\u1161\u11ab\u0301\u200d👩🏽\u3000ꥠ")


# ---------------------------------------------------------------------------------------------- Hangul


def test_every_syllable_decomposes_as_unicode_says():
    for code in range(0xAC00, 0xD7A4):
        initial, vowel, final = hangul.decompose(chr(code))
        parts = unicodedata.normalize("NFD", chr(code))
        assert hangul.INITIALS.index(initial) == ord(parts[0]) - hangul.FIRST_INITIAL
        assert hangul.VOWELS.index(vowel) == ord(parts[1]) - hangul.FIRST_VOWEL
        assert hangul.FINALS.index(final) == (ord(parts[2]) - hangul.FIRST_FINAL if len(parts) == 3 else 0)
        assert hangul.compose(initial, vowel, final) == chr(code)


def test_jamo_names_agree_with_the_unicode_names():
    for jamo in hangul.INITIALS + hangul.VOWELS + "".join(hangul.FINALS):
        assert unicodedata.name(jamo).startswith("HANGUL LETTER ")


@pytest.mark.parametrize("text", ["", "ㅋ", "a", "가나", "\u1112\u1161"])
def test_decompose_refuses_what_is_no_syllable(text):
    with pytest.raises(WorkshopError, match="한글 음절"):
        hangul.decompose(text)


@pytest.mark.parametrize("parts", [("ㅏ", "ㅏ"), ("ㄸ", "ㅏ", "ㄸ"), ("", "ㅏ"), ("ㄱ", ""), ("ㄱㄴ", "ㅏ")])
def test_compose_refuses_jamo_in_the_wrong_place(parts):
    with pytest.raises(WorkshopError):
        hangul.compose(*parts)


def test_to_jamo_leaves_the_rest():
    assert hangul.to_jamo("한글 ABC ㅋ!") == "ㅎㅏㄴㄱㅡㄹ ABC ㅋ!"


def test_normal_forms_and_bytes():
    assert len(hangul.nfd("한글")) == 6
    assert hangul.nfc(hangul.nfd("한글")) == "한글"
    assert hangul.utf8_bytes("가") == [0xEA, 0xB0, 0x80]


# ---------------------------------------------------------------------------------------------- BPE


def test_naive_and_incremental_training_agree(pieces):
    assert subwords.train_bpe(pieces, 200) == subwords.train_bpe_naive(pieces, 200)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("ab가ㅋ ", min_size=1, max_size=8), st.integers(1, 5), max_size=8))
def test_naive_and_incremental_training_agree_on_any_corpus(words):
    assert subwords.train_bpe(words, 40) == subwords.train_bpe_naive(words, 40)


def test_training_does_not_depend_on_the_order_of_the_corpus(pieces):
    shuffled = list(pieces.items())
    random.Random(1).shuffle(shuffled)
    assert subwords.train_bpe(dict(shuffled), 200) == subwords.train_bpe(pieces, 200)


def test_no_two_merges_make_the_same_token(merges):
    tokens = subwords.vocabulary(merges)
    assert len(set(tokens)) == len(tokens) == 256 + len(merges)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abcde", min_size=1, max_size=9), st.integers(1, 6), min_size=1, max_size=12))
def test_merges_are_those_of_hugging_faces_trainer(words):
    # Small letters only: there both number the bytes in the same order, and so break ties alike.
    ours = subwords.vocabulary(subwords.train_bpe(words, 20))[256:]
    theirs = tokenization.train_byte_bpe([word for word, n in words.items() for _ in range(n)], 256 + 20)
    by_id = sorted(theirs.get_vocab().items(), key=lambda item: item[1])
    assert ours == [segmentation.token_bytes(name) for name, _ in by_id[256:]]


@settings(max_examples=200, deadline=None)
@given(any_text | korean_text)
def test_encoding_equals_hugging_face(merges, text):
    twin = subwords.to_huggingface(merges)
    assert subwords.encode(text, merges) == twin.encode(text).ids


@settings(max_examples=200, deadline=None)
@given(any_text | korean_text)
def test_pieces_and_tokens_spell_the_text(merges, text):
    assert "".join(subwords.pretokenize(text)) == text
    assert subwords.decode(subwords.encode(text, merges), subwords.vocabulary(merges)) == text


def test_pieces_are_words_numerals_and_signs():
    assert subwords.pretokenize("사과 3개를 샀다. 2026년") == ["사과", " ", "3", "개를", " 샀다", ".", " ", "2", "0", "2", "6", "년"]


def test_decode_shows_a_cut_character_and_refuses_unknown_ids(merges):
    tokens = subwords.vocabulary(merges)
    assert subwords.decode([0xEA, 0xB0], tokens) == "\ufffd"
    with pytest.raises(WorkshopError, match="어휘"):
        subwords.decode([len(tokens)], tokens)


def test_merge_steps_go_from_bytes_to_the_encoding(merges):
    steps = list(subwords.merge_steps(" 학교에서", merges))
    assert steps[0] == [bytes([byte]) for byte in " 학교에서".encode()]
    tokens = subwords.vocabulary(merges)
    assert steps[-1] == [tokens[token] for token in subwords.encode(" 학교에서", merges)]


def test_byte_alphabet_is_hugging_faces():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(subwords.byte_alphabet()) == sorted(ByteLevel.alphabet())
    assert ByteLevel(add_prefix_space=False).pre_tokenize_str("가")[0][0] == "".join(subwords.byte_alphabet()[b] for b in "가".encode())


@pytest.mark.parametrize("token, clean", [
    ("가나".encode(), True), (b" a", True), (b"\xed\x95", True), (b"\x95\x9c", True), (b"\xed", True), (b"\xf0\x9f\x91", True),
    (b" \xed", False), (b"\x9c\xea", False), ("가".encode() + b"\xed", False), (b"\x9c" + "가".encode(), False), (b"\x9c ", False),
])  # fmt: skip
def test_clean_tokens_are_whole_characters_or_lie_inside_one(token, clean):
    assert subwords.is_clean(token) is clean


def test_merges_of_whole_characters(pieces):
    merges = subwords.train_bpe(pieces, 300, whole_characters=True)
    assert all(map(subwords.is_clean, subwords.vocabulary(merges)))
    assert not all(map(subwords.is_clean, subwords.vocabulary(subwords.train_bpe(pieces, 300))))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("ab가각ㅋ ", min_size=1, max_size=8), st.integers(1, 5), max_size=8))
def test_merges_of_whole_characters_are_the_naive_ones_with_the_rest_left_out(words):
    tokens = [bytes([value]) for value in range(256)]
    ids = {tuple(word.encode()): n for word, n in words.items()}
    expected = []
    while len(expected) < 30:
        counts = {p: n for p, n in subwords.count_pairs(ids).items() if n > 1 and subwords.is_clean(tokens[p[0]] + tokens[p[1]])}
        if not counts:
            break
        pair = subwords.best_pair(counts)
        ids = {tuple(subwords.merge_pair(word, pair, len(tokens))): n for word, n in ids.items()}
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        expected.append(pair)
    assert subwords.train_bpe(words, 30, whole_characters=True) == expected


# ---------------------------------------------------------------------------------------------- WordPiece, Unigram


@settings(max_examples=100, deadline=None)
@given(st.text("고양이가학교에서는책을z", min_size=1, max_size=8))
def test_wordpiece_equals_hugging_face(word):
    trained = _wordpiece()
    assert subwords.wordpiece(word, trained.get_vocab()) == trained.encode(word).tokens


def _wordpiece(cached=[]):  # noqa: B006
    if not cached:
        cached.append(tokenization.train_wordpiece(sentences(100), 200))
    return cached[0]


@settings(max_examples=100, deadline=None)
@given(st.text("고양이가학교에서는책을", min_size=1, max_size=10))
def test_viterbi_is_as_good_as_hugging_faces(text):
    trained = _unigram()
    scores = dict(json.loads(trained.to_str())["model"]["vocab"])
    del scores["[UNK]"]
    pieces, score = subwords.viterbi(text, scores)
    assert "".join(pieces) == text
    assert score == pytest.approx(sum(scores[piece] for piece in trained.encode(text).tokens), abs=1e-6)


def _unigram(cached=[]):  # noqa: B006
    if not cached:
        cached.append(tokenization.train_unigram(sentences(100), 250))
    return cached[0]


def test_viterbi_refuses_a_text_that_no_pieces_spell():
    with pytest.raises(WorkshopError, match="나눌 수 없다"):
        subwords.viterbi("가z", {"가": -1.0})


# ---------------------------------------------------------------------------------------------- trainers


def test_byte_bpe_numbers_special_tokens_first(korean):
    assert korean.convert_tokens_to_ids(list(tokenization.SPECIAL_TOKENS)) == list(range(9))


@settings(max_examples=100, deadline=None)
@given(any_text | korean_text)
def test_whole_character_tokenizer_loses_nothing_either(text):
    tokenizer = _whole()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def _whole(cached=[]):  # noqa: B006
    if not cached:
        trained = tokenization.train_whole_char_bpe(sentences(100), 500, tokenization.SPECIAL_TOKENS)
        cached.append(tokenization.wrap(trained, 64))
    return cached[0]


def test_whole_character_tokenizer_has_the_same_special_tokens(korean):
    whole = _whole()
    assert whole.convert_tokens_to_ids(list(tokenization.SPECIAL_TOKENS)) == list(range(9))
    assert whole.all_special_tokens == korean.all_special_tokens
    assert len(whole) <= 500


@pytest.mark.parametrize("train", ["train_byte_bpe", "train_whole_char_bpe"])
@pytest.mark.parametrize("size, special", [(255, ()), (264, tokenization.SPECIAL_TOKENS), (0, ())])
def test_vocabulary_smaller_than_the_alphabet(train, size, special):
    with pytest.raises(WorkshopError, match="알파벳보다 작다"):
        getattr(tokenization, train)(SENTENCES, size, special)


@pytest.mark.parametrize("train", ["train_char_bpe", "train_wordpiece", "train_unigram"])
def test_vocabulary_without_room_for_any_character(train):
    with pytest.raises(WorkshopError, match="알파벳보다 작다"):
        getattr(tokenization, train)(SENTENCES, 3)


@pytest.mark.parametrize("train", ["train_char_bpe", "train_wordpiece", "train_unigram"])
def test_rare_characters_become_unknown_where_there_are_no_bytes(train):
    view = segmentation.from_tokenizers(train, getattr(tokenization, train)(sentences(100), 120))
    assert view.vocab_size <= 120
    assert view.unknown_id in view.encode("뷁")


def test_sentencepiece_vocabulary_smaller_than_its_bytes():
    with pytest.raises(WorkshopError, match="알파벳보다 작다"):
        tokenization.train_sentencepiece(SENTENCES, 200)


@pytest.mark.parametrize("train", ["train_byte_bpe", "train_char_bpe", "train_wordpiece", "train_unigram", "train_sentencepiece"])
@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_empty_corpus(train, texts):
    with pytest.raises(WorkshopError, match="비어"):
        getattr(tokenization, train)(texts, 400)


@pytest.mark.parametrize("train", ["train_byte_bpe", "train_char_bpe", "train_wordpiece"])
def test_training_is_deterministic(train):
    texts = sentences(100)
    first, second = (getattr(tokenization, train)(texts, 320).to_str() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@settings(max_examples=60, deadline=None)
@given(text=any_text | korean_text)
def test_sentencepiece_with_byte_fallback_loses_only_its_own_space_mark(model_type, text):
    processor = _sentencepiece(model_type)
    # U+2581 is SentencePiece's stand-in for a space, and NUL ends a C string.
    if "\u2581" not in text and "\0" not in text:
        assert processor.decode(processor.encode(text)) == text


def _sentencepiece(model_type, cached={}):  # noqa: B006
    if model_type not in cached:
        cached[model_type] = tokenization.train_sentencepiece(sentences(200), 400, model_type)
    return cached[model_type]


@pytest.mark.parametrize("train", ["train_char_bpe", "train_unigram"])
def test_a_space_is_never_unknown(train):
    texts = ["".join(chr(0xAC00 + i) for i in range(start, start + 50)) + " 가" for start in range(0, 600, 50)] * 2
    view = segmentation.from_tokenizers(train, getattr(tokenization, train)(texts, 300))
    assert view.unknown_id not in view.encode("가 가")


def test_english_text_is_there_and_has_no_hangul():
    text = "".join(tokenization.english_text())
    assert len(text) > 300_000
    assert not any(map(hangul.is_syllable, text))


def test_a_tokenizer_that_cannot_be_had_is_left_out_with_one_line(capsys):
    assert tokenization.from_hub("nobody/no-such-tokenizer", "nobody/none") == []
    assert capsys.readouterr().out.count("\n") == 1


# ---------------------------------------------------------------------------------------------- the wrapped tokenizer


@settings(max_examples=300, deadline=None)
@given(any_text | korean_text)
def test_round_trip_of_any_unicode_text(korean, text):
    for add_special_tokens in (True, False):
        assert korean.decode(korean.encode(text, add_special_tokens=add_special_tokens)) == text


@pytest.mark.parametrize("text", [
    "", " ", "\u0301", "e\u0301", hangul.nfd("한글"), "👩\u200d👩\u200d👧", "🇰🇷", "ㅋㅋㅋ\u3164", "  두 칸 ", "끝\n\n", "\ufeff머리",
    "<s>가</s>", "<|user|>", "\x00", "a\u2581b", "don 't , ok .",
])  # fmt: skip
def test_round_trip_of_awkward_text(korean, text):
    assert korean.decode(korean.encode(text)) == text


def test_nothing_is_added_by_default(korean):
    assert korean("학교")["input_ids"] == korean("학교", add_special_tokens=False)["input_ids"]
    assert not set(korean("학교")["input_ids"]) & set(range(9))


def test_thoughts_survive_skip_special_tokens(korean):
    ids = korean.encode("<s><think>책</think>별</s>")
    assert korean.decode(ids, skip_special_tokens=True) == "<think>책</think>별"


CHAT = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": " 안녕? "},
    {"role": "assistant", "content": "반갑습니다.\n책을 읽을까요?"},
]


@pytest.mark.parametrize("messages", [CHAT, CHAT[:2], CHAT[1:], [*CHAT, *CHAT[1:]]])
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_template_is_render_chat(korean, messages, prompt):
    text = korean.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert text == tokenization.render_chat(messages, prompt)


def test_assistant_mask_covers_the_answer_and_its_end(korean):
    out = korean.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    masked = [token for token, mask in zip(out["input_ids"], out["assistant_masks"]) if mask]
    assert korean.decode(masked) == CHAT[2]["content"] + "<|end|>"


def test_unknown_role_is_refused(korean):
    with pytest.raises(Exception, match="role"):
        korean.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_saved_beside_a_llama_config_it_loads_as_itself(korean, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig

    korean.save_pretrained(tmp_path)
    LlamaConfig().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in sentences(20):
        assert loaded.encode(text) == korean.encode(text)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 0)
    assert (loaded.model_max_length, loaded.chat_template) == (128, korean.chat_template)
    assert tokenization.load(tmp_path).encode("학교") == korean.encode("학교")


def test_load_without_a_tokenizer(tmp_path):
    with pytest.raises(WorkshopError, match=r"tokenizer\.json"):
        tokenization.load(tmp_path)


# ---------------------------------------------------------------------------------------------- measures


def test_measures_of_a_character_tokenizer():
    single = segmentation.Segmenter("글자", 9, list, "".join, lambda t: [(i, i + 1) for i in range(len(t))], list)
    row = segmentation.measure(single, ["나는 간다", "가"])
    assert row == {
        "vocab_size": 9, "chars_per_token": 1.0, "bytes_per_token": 16 / 6, "tokens_per_eojeol": 2.0, "unk_rate": 0.0,
        "roundtrip_failures": 0,
    }  # fmt: skip


def test_unknown_tokens_are_counted():
    row = segmentation.measure(segmentation.from_tokenizers("w", tokenization.train_wordpiece(SENTENCES, 60)), ["뷁 뷁"])
    assert row["unk_rate"] == 1.0
    assert row["roundtrip_failures"] == 1


def test_measure_needs_text():
    with pytest.raises(WorkshopError, match="검증용"):
        segmentation.measure(segmentation.from_tokenizers("w", _wordpiece()), [])


def test_particle_boundaries():
    text = "고양이가 학교에서 책을 읽었다."
    assert segmentation.particle_boundaries(text) == {text.index(mark) for mark in ("가", "에서", "을 ", "었", "다")}


def test_a_contracted_ending_has_no_boundary_of_its_own():
    assert segmentation.particle_boundaries("나는 공부했다") == {1, 6}  # 나|는, 공부했|다


def test_token_boundaries_ignore_spaces_and_cut_characters():
    text = "나는 책"
    assert segmentation.token_boundaries(text, [(0, 1), (1, 2), (2, 4)]) == {1}
    assert segmentation.token_boundaries(text, [(0, 1), (0, 1), (1, 2), (2, 4)]) == {1}
    assert segmentation.token_boundaries(text, [(0, 2), (1, 2), (2, 4)]) == set()


def test_boundary_agreement_of_a_perfect_and_of_a_character_tokenizer():
    texts = ["고양이가 책을 보았다"]
    gold = [segmentation.particle_boundaries(text) for text in texts]
    single = segmentation.Segmenter("글자", 9, list, "".join, lambda t: [(i, i + 1) for i in range(len(t))], list)
    score = segmentation.boundary_agreement(single, texts, gold)
    assert score["morpheme_boundary_recall"] == 1.0
    assert score["morpheme_boundary_precision"] == len(gold[0]) / 6


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
def test_spans_cover_the_text(korean, kind):
    view = segmentation.from_pretrained("b", korean) if kind == "byte" else segmentation.from_sentencepiece("s", _sentencepiece("unigram"))
    for text in [*SENTENCES, "뷁 👩\u200d👧 é"]:
        spans = view.spans(text)
        assert len(spans) == len(view.encode(text)) == len(view.pieces(text))
        assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))


def test_pieces_show_cut_characters_as_bytes(korean):
    assert "".join(segmentation.from_pretrained("b", korean).pieces("뷁")).startswith("<EB")


def test_sweep_measures_what_it_says():
    rows = tokenization.sweep(sentences(200), sentences(20, seed=1), [300, 400], hidden_size=8, body_parameters=1000)
    small, large = rows
    assert (small["vocab_size"], large["vocab_size"]) == (300, 400)
    assert large["chars_per_token"] > small["chars_per_token"] > 0
    assert small["embedding_parameters"] == 2400
    assert small["embedding_share"] == 2400 / 3400
    assert all(0 < row["bits_per_char"] < 8 for row in rows)


# ---------------------------------------------------------------------------------------------- the stage


def _job(tmp_path, train, validation=("고양이가 책을 보았다.",), **settings_):
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    out.mkdir()
    for name, texts in (("train", train), ("validation", validation)):
        lines = [json.dumps({"id": f"{name}{i}", "text": text, "source": "x"}, ensure_ascii=False) for i, text in enumerate(texts)]
        (corpus / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {"vocab_size": 400, "train_chars": 100_000, "max_length": 64} | settings_
    return Job(out=out, inputs={"corpus": corpus}, settings=TokenizerSettings(**values), seed=0, data=None)


@pytest.mark.parametrize("whole", [False, True])
def test_build_saves_a_tokenizer_and_measures_it(tmp_path, whole):
    job = _job(tmp_path, sentences(100), whole_characters=whole)
    metrics = tokenization.build(job)
    tokenizer = tokenization.load(job.out)
    assert len(tokenizer) == metrics["vocab_size"] == 400
    assert metrics["roundtrip_failures"] == metrics["unk_rate"] == 0
    assert metrics["chars_per_token"] > 4 * metrics["english_chars_per_token"]
    assert all(isinstance(value, int | float) for value in metrics.values())
    for name in ("", "char_bpe_", "wordpiece_", "unigram_", "english_"):
        assert f"{name}morpheme_boundary_recall" in metrics


@pytest.mark.parametrize("train, size, words", [([], 400, "비어"), (["  "], 400, "비어"), (SENTENCES, 200, "알파벳")])
def test_build_refuses_an_impossible_order(tmp_path, train, size, words):
    with pytest.raises(WorkshopError, match=words):
        tokenization.build(_job(tmp_path, train, vocab_size=size))


def test_broken_corpus_line_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "a", "text": "가"}\n{"id": "b", "te\n', encoding="utf-8")
    with pytest.raises(WorkshopError, match=r"train\.jsonl 2번째 줄"):
        list(tokenization.read_texts(path))


@pytest.mark.parametrize("content", ['{"id": "a"}\n', "[1]\n", '{"id": "a", "text": 3}\n'])
def test_corpus_line_of_the_wrong_shape_is_named(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WorkshopError, match=r"train\.jsonl 1번째 줄"):
        list(tokenization.read_texts(path))


def test_missing_corpus(tmp_path):
    with pytest.raises(WorkshopError, match=r"none\.jsonl.*없다"):
        list(tokenization.read_texts(tmp_path / "none.jsonl"))


def test_sample_is_even_and_the_same_each_time(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": "가" * 10}) + "\n" for i in range(1000)), encoding="utf-8")
    sample = list(tokenization.read_texts(path, 3000))
    assert sample == list(tokenization.read_texts(path, 3000))
    assert 200 < len(sample) < 400


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_tokenizer_knows_the_context_of_the_base_model(name):
    assert PROFILES[name].tokenizer.max_length == PROFILES[name].base_model.context


def test_no_module_of_the_week_is_slow_to_import():
    import subprocess
    import sys

    code = "import sys, workshop_lib.tokenization, workshop_lib.exercises.week03; print([m for m in ('torch', 'transformers', 'tokenizers', 'kiwipiepy', 'sentencepiece') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "[]"
