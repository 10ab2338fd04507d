"""An answer is the same alone and in company; text comes whole; a row is free when nobody waits for it any more."""

import random
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.corpora.stories import stories
from workshop_lib.decoding import next_probabilities
from workshop_lib.engine import Engine, QueueFull, TooLong
from workshop_lib.row_decoding import Sampling, decode_step, draw, even_rows
from workshop_lib.text_stream import TextStream, token_bytes
from workshop_lib.tokenization import SPECIAL_TOKENS, train_whole_char_bpe, wrap

TEXTS = [story["text"] for story in stories(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return wrap(train_whole_char_bpe(TEXTS, 600, SPECIAL_TOKENS), 256)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Random weights, but sure of what it says: its answers do not hang on the last digit."""
    config = TransformerConfig(len(tokenizer), 48, 96, 2, 4, 2, max_position_embeddings=256, tie_word_embeddings=False)
    model = Transformer(config, seed=0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25, generator=torch.Generator().manual_seed(parameter.numel()))
    model.lm_head.weight.data[2] *= 4  # </s> comes now and then
    return model.eval()


@pytest.fixture
def start(model, tokenizer):
    engines = []

    def run(max_batch=4, queue=64, model=model):
        engines.append(Engine(model, tokenizer, max_batch, queue))
        return engines[-1]

    yield run
    for engine in engines:
        engine.close()


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def some_requests(count, tokenizer, seed=0):
    chance = random.Random(seed)
    kinds = (Sampling(0), Sampling(1.0), Sampling(0.7, 0.9), Sampling(1.3, 1.0, 20))
    for number in range(count):
        ids = [1, *tokenizer(chance.choice(TEXTS))["input_ids"][: chance.randint(1, 60)]]
        yield dict(ids=ids, max_tokens=chance.randint(1, 60), sampling=kinds[number % 4], seed=number, ignore_end=number % 3 > 0)


# --- the step of all rows


def fresh_cache(model, rows):
    shape = (rows, model.config.num_key_value_heads, model.config.max_position_embeddings, model.config.head_dim)
    return [(torch.zeros(shape), torch.zeros(shape)) for _ in model.model.layers]


@torch.no_grad()
def test_rows_at_different_positions_get_the_logits_of_their_own_text(model):
    texts = [torch.randint(9, 500, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 17, 40)]
    cache = fresh_cache(model, 3)
    cache = [(keys.normal_(), values.normal_()) for keys, values in cache]  # what earlier requests have left behind
    for row, text in enumerate(texts):
        for (keys, values), (k, v) in zip(cache, model.prefill(text[None, :-1])[1]):
            keys[row, :, : len(text) - 1], values[row, :, : len(text) - 1] = k[0], v[0]
    logits = decode_step(model, torch.stack([text[-1] for text in texts]), torch.tensor([len(text) - 1 for text in texts]), cache)
    for row, text in enumerate(texts):
        assert torch.allclose(logits[row], model(text[None])[0, -1], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 8, 16])
@pytest.mark.parametrize("width", [48, 320])
def test_a_row_gets_the_same_bits_in_any_row_and_any_company(rows, width):
    """What the whole promise of equal answers stands on."""
    model = Transformer(TransformerConfig(700, width, 2 * width, 2, 4, 2, max_position_embeddings=64), seed=1).eval()
    rows = even_rows(model, rows)
    if rows is None:
        pytest.skip("this processor's matrix products treat no table's rows alike")
    generator = torch.Generator().manual_seed(2)
    mine = [torch.randn(2, 2, 64, width // 4, generator=generator) for _ in range(2)]  # keys and values of my text, a layer each
    seen = set()
    for company in range(3):
        for row in range(rows):
            cache = [tuple(part.normal_(generator=generator) for part in layer) for layer in fresh_cache(model, rows)]
            for (keys, values), (k, v) in zip(cache, mine):
                keys[row], values[row] = k, v
            tokens, positions = torch.randint(0, 700, (rows,), generator=generator), torch.randint(0, 64, (rows,), generator=generator)
            if company == 0:
                tokens, positions = torch.zeros_like(tokens), torch.zeros_like(positions)  # nobody else is there
            tokens[row], positions[row] = 77, 20
            seen.add(decode_step(model, tokens, positions, cache)[row].numpy().tobytes())
    assert len(seen) == 1


# --- drawing


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.6), Sampling(1.0, 0.7), Sampling(1.5, 0.9, 8), Sampling(1.0, 1.0, 3)])
def test_tokens_are_drawn_as_often_as_decoding_says(sampling):
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 2
    expected = next_probabilities(logits, torch.zeros(1, 1, dtype=torch.long), sampling.temperature, sampling.top_k, sampling.top_p)[0]
    count = 4_000
    places = [(number + 0.5) / count for number in range(count)]  # evenly spread luck: no chance in this test
    drawn = torch.tensor(draw(logits.expand(count, -1), [sampling] * count, places)).bincount(minlength=40)
    assert torch.allclose(drawn / count, expected, atol=1.5 / count)


def test_greedy_rows_and_broken_rows():
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, float("nan"), 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert draw(logits, [Sampling(0), Sampling(1), Sampling(1e-9), None], [0.99] * 4) == [1, -1, 0, 2]
    assert draw(logits[:1], [Sampling(1)], [1 - 2**-53]) == [2] and draw(logits[:1], [Sampling(1)], [0.0]) == [0]


# --- alone and in company


def test_greedy_answers_are_what_the_whole_model_finds_likeliest(start, model, tokenizer):
    engine = start()
    tickets = [engine.submit([1, *tokenizer(text)["input_ids"][:20]], 40, Sampling(0), ignore_end=True) for text in TEXTS[:6]]
    for ticket in tickets:
        ticket.result()
        whole = torch.tensor([[*ticket.ids, *ticket.tokens]])
        logits = model(whole)[0, len(ticket.ids) - 1 : -1]
        assert len(ticket.tokens) == 40
        assert (logits.gather(1, whole[0, len(ticket.ids) :, None])[:, 0] >= logits.amax(1) - 1e-3).all()


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_answers_in_company_are_the_answers_alone_token_for_token(start, tokenizer, max_batch):
    engine, requests = start(max_batch), list(some_requests(32, tokenizer))
    if not engine.exact:
        pytest.skip("this processor's matrix products treat no table's rows alike")
    alone = []
    for request in requests:
        ticket = engine.submit(**request)
        alone.append((ticket.result(), ticket.tokens, ticket.finish))
    assert len({text for text, _, _ in alone}) > 25 and {finish for _, _, finish in alone} == {"stop", "length"}
    order = list(range(32))
    random.Random(5).shuffle(order)
    tickets, passing = {}, []
    for place in order:
        tickets[place] = engine.submit(**requests[place])
        passing.append(engine.submit([1, 50 + place], 100, Sampling(1.0)))  # company that comes and goes
        if place % 2:
            passing.pop(0).cancel()
    for place, (text, tokens, finish) in enumerate(alone):
        assert (tickets[place].result(), tickets[place].tokens, tickets[place].finish) == (text, tokens, finish)


def test_an_engine_that_cannot_be_exact_says_so_and_works(start, monkeypatch):
    monkeypatch.setattr("workshop_lib.engine.even_rows", lambda model, wanted: None)
    engine = start(max_batch=2)
    assert not engine.exact and engine.submit([1, 60], 10, Sampling(0)).result()


def test_a_seed_decides_and_no_seed_does_not(start, tokenizer):
    engine = start()

    def ask(seed):
        return engine.submit([1, 60, 61], 30, Sampling(1.0), seed=seed, ignore_end=True)

    tickets = [ask(seed) for seed in (7, 7, 8, -7, None, None, None)]
    texts = [ticket.result() for ticket in tickets]
    assert texts[0] == texts[1] and len(set(texts)) == 6


def test_a_quantised_model_is_served_as_well(start, model):
    from workshop_lib.quantized import quantize_model

    small = quantize_model(model, "round", 4, 48)
    engine = start(model=small)
    ticket = engine.submit([1, 60, 61], 20, Sampling(0), ignore_end=True)
    ticket.result()
    whole = torch.tensor([[*ticket.ids, *ticket.tokens]])
    logits = small(whole)[0, 2:-1]
    assert (logits.gather(1, whole[0, 3:, None])[:, 0] >= logits.amax(1) - 1e-3).all()


# --- text


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=40) | st.text("가나", max_size=40),  # of two letters, a stop string begins again within itself
    junk=st.lists(st.integers(0, 255), max_size=6),
    stops=st.lists(st.text(min_size=1, max_size=4) | st.text("가나", min_size=1, max_size=5), max_size=3),
)
def test_pieces_of_text_make_the_decoded_text_up_to_the_stop(text, junk, stops):
    table = [bytes([byte]) for byte in range(256)]
    content = text.encode("utf-8", "replace") + bytes(junk) + text.encode("utf-8", "replace")
    stream, said, stopped = TextStream(table, stops), "", False
    for byte in content:
        piece, stopped = stream.push(byte)
        said += piece
        assert not any(stop in said for stop in stops)
        if stopped:
            break
    said += "" if stopped else stream.rest()
    whole = content.decode("utf-8", "replace")
    places = [whole.find(stop) for stop in stops if stop in whole]
    if stopped:
        assert said == whole[: len(said)] and any(whole.startswith(stop, len(said)) for stop in stops)
        assert len(said) >= min(places)
    else:
        assert whole.startswith(said) and len(whole) - len(said) <= 3 and set(whole[len(said) :]) <= {"\ufffd"}


def test_the_earliest_stop_counts_and_a_held_beginning_is_released():
    table = [character.encode() for character in "가나다라마"]
    stream = TextStream(table, ["나다라", "다마"])
    assert [stream.push(token) for token in (0, 1, 2, 4)] == [("가", False), ("", False), ("", False), ("나", True)]
    stream = TextStream(table, ["나다라"])
    assert [stream.push(token) for token in (1, 2, 1, 2, 0)] == [("", False), ("", False), ("나다", False), ("", False), ("나다가", False)]
    assert [stream.push(token)[0] for token in (1,)] == [""] and stream.rest() == "나" and stream.rest() == ""


def test_a_character_of_several_tokens_comes_at_once(tokenizer):
    table = token_bytes(tokenizer)
    stream = TextStream(table)
    ids = tokenizer("놟 𝄞")["input_ids"]
    assert len(ids) > 5
    pieces = [piece for token in ids if (piece := stream.push(token)[0])]
    assert "".join(pieces) == "놟 𝄞" and "\ufffd" not in "".join(pieces)
    ids = tokenizer("봄이다 <think>음</think><|end|>")["input_ids"]
    assert "".join(stream.push(token)[0] for token in ids) == "봄이다 <think>음</think>" == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_of_another_kind_is_refused(model):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(WorkshopError, match="바이트"):
        token_bytes(words)


def test_a_stop_string_ends_the_answer_before_it(start, tokenizer):
    engine = start()
    ticket = engine.submit([1, 60], 60, Sampling(1.0), seed=1, ignore_end=True)
    whole = ticket.result()
    stop = whole[7:10]
    cut = engine.submit([1, 60], 60, Sampling(1.0), seed=1, ignore_end=True, stop=["없는 말", stop])
    assert cut.result() == whole[: whole.find(stop)] and cut.finish == "stop" and len(cut.tokens) < 60


# --- limits, leaving, failing


def test_the_queue_has_an_end_and_takes_all_or_none(start):
    engine = start(max_batch=2, queue=3)
    entered, gate = threading.Event(), threading.Event()

    def hold(piece):  # in the engine's thread: nothing moves until the gate opens
        entered.set()
        assert gate.wait(60)

    engine.submit([1, 60], 20, Sampling(1.0), ignore_end=True, listener=hold)
    assert entered.wait(60) and (engine.running, engine.waiting) == (1, 0)
    with pytest.raises(QueueFull, match="잠시 뒤"):
        engine.submit_all([[1, 60]] * 5, 10, Sampling(0), [1] * 5)  # who is being answered counts
    tickets = engine.submit_all([[1, 60]] * 4, 20, Sampling(1.0), [None] * 4, ignore_end=True)
    with pytest.raises(QueueFull, match="이미 4개"):
        engine.submit([1, 60], 10)
    gate.set()
    for ticket in tickets:
        ticket.result()
    engine.submit([1, 60], 10).result()
    until(lambda: engine.running == engine.waiting == 0)


@pytest.mark.parametrize("ids, tokens, words", [([], 5, "비어"), ([1], 0, "max_tokens"), ([1, 600], 5, "600"), ([1, -1], 5, "-1")])
def test_requests_that_make_no_sense(start, ids, tokens, words):
    with pytest.raises(WorkshopError, match=words):
        start().submit(ids, tokens)


def test_the_context_can_be_filled_but_not_exceeded(start):
    engine = start()
    ticket = engine.submit([60] * 200, 56, Sampling(1.0), seed=0, ignore_end=True)
    ticket.result()
    assert len(ticket.tokens) == 56 and ticket.finish == "length"
    with pytest.raises(TooLong, match="257"):
        engine.submit([60] * 200, 57)
    with pytest.raises(TooLong):
        engine.encode("가" * 100_000)


def test_cancelled_and_late_requests_leave_their_place(start):
    engine = start(max_batch=1)
    first = engine.submit([1, 60], 250, Sampling(1.0), ignore_end=True)
    second, third = engine.submit([1, 61], 5), engine.submit([1, 62], 5, timeout=0.0)
    second.cancel()
    assert list(third.pieces())[-1].finish == "timeout" and list(second.pieces())[-1].finish == "cancelled" and not second.tokens
    until(lambda: engine.waiting == 0)
    assert first.finish is None  # they left the queue themselves, not when a row was free for them
    first.cancel()
    with pytest.raises(WorkshopError, match="cancelled"):
        first.result()
    assert len(first.tokens) < 250
    until(lambda: engine.running == engine.waiting == 0)
    assert engine.submit([1, 60], 5).result() is not None


def test_an_answer_that_takes_too_long_is_cut_off(start):
    engine = start()
    ticket = engine.submit([1, 60], 250, Sampling(1.0), ignore_end=True, timeout=0.02)
    with pytest.raises(WorkshopError, match="timeout"):
        ticket.result()
    assert 0 < len(ticket.tokens) < 250


def test_closing_ends_everything(start):
    engine = start(max_batch=1)
    tickets = [engine.submit([1, 60], 250, Sampling(1.0), ignore_end=True) for _ in range(3)]
    threading.Timer(0.05, engine.close).start()
    finishes = [list(ticket.pieces())[-1].finish for ticket in tickets]
    assert finishes[-1] == "closed" and not engine.alive
    with pytest.raises(WorkshopError, match="멈추는"):
        engine.submit([1, 60], 5)


def test_a_failure_of_the_model_ends_its_answers_and_not_the_engine(start, model, monkeypatch, capfd):
    engine = start()
    expected = engine.submit([1, 60], 10, Sampling(0)).result()

    def fail(_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "prefill", fail)
    with pytest.raises(WorkshopError, match="error"):
        engine.submit([1, 60], 10, Sampling(0)).result()
    monkeypatch.undo()
    assert engine.alive and engine.submit([1, 60], 10, Sampling(0)).result() == expected
    assert "no memory" in capfd.readouterr().err


def test_a_listener_that_is_gone_does_not_hurt_the_others(start):
    engine = start()

    def gone(piece):
        raise RuntimeError("Event loop is closed")

    engine.submit([1, 60], 250, Sampling(1.0), ignore_end=True, listener=gone)
    engine.submit([1, 61], 20, Sampling(1.0), ignore_end=True).result()
    until(lambda: engine.running == 0)


@pytest.mark.parametrize("max_batch, queue", [(0, 1), (1, -1)])
def test_an_engine_needs_a_row(model, tokenizer, max_batch, queue):
    with pytest.raises(WorkshopError, match="max_batch"):
        Engine(model, tokenizer, max_batch, queue)
