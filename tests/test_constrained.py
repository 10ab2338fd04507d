"""Whatever the model wants, the output is complete and of the form asked for: also with random and with hostile models."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, constrained
from workshop_lib.constrained import Choice, Json, String, Vocabulary, json_object, write

LABELS = ["함의", "중립", "모순", "모순이다", "모름"]
WORDS = ["안녕", "{}", '{"', '":', "[[", "]]", '"}', ", ", "true", "null", "12", "-0.5", "e9", "\\\\", "\\u", "한글이", " 함", "의", "\n"]
HALVES = ["가".encode()[:2], "힣".encode()[1:] + b'"']
PIECES = [None, None, *(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS), *HALVES]
OPENERS = [*(bytes([byte]) for byte in b'{["\\1 -.e'), "가".encode()[:1], HALVES[0], b"[[", b'{"', "한글이".encode(), b"\\u"]


class Stubborn(torch.nn.Module):
    """Random logits, with a will of its own: some tokens are wanted very much, some not at all, some are NaN or infinite."""

    def __init__(self, seed: int, vocabulary: int, wanted: list[int]):
        super().__init__()
        self.weight, self.config = torch.nn.Parameter(torch.zeros(1)), SimpleNamespace()
        self.generator, self.vocabulary, self.wanted, self.seed = torch.Generator().manual_seed(seed), vocabulary, wanted, seed

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = 5 * torch.randn(1, 1, self.vocabulary, generator=self.generator)
        logits[..., self.wanted] += 100
        if self.seed % 3 == 1:
            logits[logits < 3] = -torch.inf
        if self.seed % 5 == 2:
            logits[..., :: 7] = torch.nan
        if self.seed % 7 == 3:
            logits[..., self.wanted] = torch.inf
        return logits


def hostile(seed: int) -> list[int]:
    """Tokens that a hostile model wants: brackets that never close, strings without end, digits without end, halves of characters."""
    r = random.Random(seed)
    wanted = r.sample(OPENERS, r.randrange(len(OPENERS)))
    return [place for place, piece in enumerate(PIECES) if piece in wanted]


VOCABULARY = Vocabulary(PIECES)


@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 40), temperature=st.sampled_from([0.0, 0.7, 5.0]))
@settings(max_examples=200, deadline=None)
def test_every_output_parses_as_json(seed, tokens, temperature):
    model = Stubborn(seed, len(PIECES), hostile(seed))
    text, found = write(model, VOCABULARY, [0], Json(), tokens, temperature, seed, stop=1 if seed % 2 else None)
    json.loads(text)
    assert len(found.tokens) <= tokens and b"".join(PIECES[t] for t in found.tokens).decode() == text


@given(seed=st.integers(0, 10**6), tokens=st.integers(0, 8), temperature=st.sampled_from([0.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_every_output_is_one_of_the_labels(seed, tokens, temperature):
    model = Stubborn(seed, len(PIECES), hostile(seed) + [1])
    text, _ = write(model, VOCABULARY, [0], Choice(LABELS), 6 + tokens, temperature, seed, stop=1)
    assert text in LABELS


@given(seed=st.integers(0, 10**6), tokens=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_every_object_has_the_fields_asked_for(seed, tokens):
    grammar = json_object({"판정": LABELS, '까"닭': None, "점수": ["1", "2"]}, longest=12)
    need = VOCABULARY.count(grammar.closing(grammar.start))
    model = Stubborn(seed, len(PIECES), hostile(seed))
    text, found = write(model, VOCABULARY, [0], grammar, int(need) + tokens, 1.0, seed, top_p=0.9, repetition_penalty=1.5)
    value = json.loads(text)
    assert list(value) == ["판정", '까"닭', "점수"] and value["판정"] in LABELS and value["점수"] in ("1", "2")
    assert len(value['까"닭']) <= 12


GRAMMARS = [Json(), String(5), Choice(LABELS), json_object({"가": None, "나": ["다", "라"]}, 3)]


@given(st.sampled_from(GRAMMARS), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_closing_closes_and_is_consistent(grammar, r):
    state, text = grammar.start, b""
    for _ in range(r.randrange(30)):
        steps = [(byte, there) for byte in range(256) if (there := grammar.step(state, byte)) is not None]
        if not steps:
            break
        byte, state = r.choice(steps)
        text += bytes([byte])
    rest = grammar.closing(state)
    while rest:
        state = grammar.step(state, rest[0])
        text, rest = text + rest[:1], rest[1:]
        assert grammar.closing(state) == rest
    whole = text.decode("utf-8")
    if isinstance(grammar, Choice):
        assert whole in LABELS
    else:
        json.loads(f'"{whole}"' if isinstance(grammar, String) else whole)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.floats(-1e6, 1e6).map(lambda x: round(x, 6)) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_the_grammar_takes_what_json_writes(value):
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if "\\u" in text or "\x7f" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return
    grammar, state = Json(), Json().start
    for byte in text.encode("utf-8"):
        state = grammar.step(state, byte)
        assert state is not None, (text, byte)
    assert grammar.closing(state) == b""


NO_JSON = ["01", "-", "1.", ".5", "1e", "+1", "tru", "[1,]", "{1:2}", '{"a":1,}', '{"a"}', '"\n"', '"\\x"', "nan", "'a'",
           "[1 2]", "1 2", "[}", '"', "", "--1", "1.2.3", "1e5.2", "0x1"]  # fmt: skip


@pytest.mark.parametrize("text", NO_JSON)
def test_the_grammar_refuses_what_is_not_json(text):
    grammar, state = Json(), Json().start
    for byte in text.encode("utf-8"):
        state = grammar.step(state, byte)
        if state is None:
            return
    assert grammar.closing(state) != b""


def test_the_model_decides_where_it_may():
    place = {piece: number for number, piece in enumerate(PIECES) if piece}
    for label in ("함의", "모순"):
        wanted = [place[label.encode()[k : k + 1]] for k in range(6)]
        assert write(Stubborn(0, len(PIECES), wanted), VOCABULARY, [0], Choice(["함의", "모순"]), 12)[0] == label
    going_on = Stubborn(0, len(PIECES), [place[bytes([byte])] for byte in "모순이다".encode()])
    assert write(going_on, VOCABULARY, [0], Choice(LABELS[2:4]), 20, stop=1)[0] == "모순이다"
    ending = Stubborn(0, len(PIECES), [1])
    text, found = write(ending, VOCABULARY, [0], Choice(LABELS[2:4]), 20, stop=1)
    assert text == "모순" and found.ended


def test_what_cannot_be_written_is_refused():
    model = Stubborn(0, len(PIECES), [])
    with pytest.raises(WorkshopError, match="6토큰"):
        write(model, VOCABULARY, [0], Choice(["중립"]), 3)
    with pytest.raises(WorkshopError, match="글자가 없다"):
        write(model, Vocabulary([b"a", b"{"]), [0], Json(), 30)
    with pytest.raises(WorkshopError, match="빈 글"):
        Choice(["가", ""])
    with pytest.raises(WorkshopError, match="항목"):
        json_object({})


def tokenizers():
    from workshop_lib import tokenization

    texts = ["고양이가 숲에서 공을 찾았다. 3월 12일, \"정말\"이라고 말했다.", "나무 위의 고양이는 {오래} 잤다."] * 5
    yield tokenization.wrap(tokenization.train_byte_bpe(texts, 330, tokenization.SPECIAL_TOKENS), 64)
    yield tokenization.wrap(tokenization.train_whole_char_bpe(texts, 330, tokenization.SPECIAL_TOKENS), 64)


@pytest.mark.parametrize("which", [0, 1])
def test_bytes_of_tokens_are_what_the_tokenizer_decodes(which):
    tokenizer = list(tokenizers())[which]
    pieces = constrained.token_bytes(tokenizer)
    for text in ("고양이는 {12} \"쀍\" \n\t 😀 hello", "나무 위의 숲에서"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(pieces[i] for i in ids).decode() == text == tokenizer.decode(ids)
    assert all(pieces[i] is None for i in tokenizer.all_special_ids) and sum(piece is None for piece in pieces) == 9
    text, _ = write(Stubborn(4, len(tokenizer), []), Vocabulary.of(tokenizer), [1], json_object({"답": None}), 40, 1.0)
    assert set(json.loads(text)) == {"답"}


def test_sentencepiece_marks_and_bytes_are_read_and_wordpiece_is_refused():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁가": 1, "<0xEA>": 2, "나": 3}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert constrained.token_bytes(fast) == [None, " 가".encode(), b"\xea", "나".encode()]
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "가": 1, "##나": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    with pytest.raises(WorkshopError, match="SentencePiece"):
        constrained.token_bytes(PreTrainedTokenizerFast(tokenizer_object=pieces))
