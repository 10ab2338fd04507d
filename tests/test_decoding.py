"""Filters, sampling and beam search equal those of transformers; diversity equals sacrebleu."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError, decoding
from workshop_lib.architectures.mamba import Mamba, MambaConfig
from workshop_lib.architectures.mamba2 import Mamba2, Mamba2Config
from workshop_lib.architectures.rnn import RNN, RNNConfig
from workshop_lib.architectures.rwkv import Rwkv, RwkvConfig
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate

SMALL = TransformerConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=48, initializer_range=0.5,
)  # fmt: skip


def logits_of(seed: int, rows: int = 3, vocabulary: int = 40, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def twins(seed: int):
    """The same weights as our Transformer and as transformers' Llama."""
    from transformers import LlamaForCausalLM

    ours = Transformer(SMALL, seed).eval()
    theirs = LlamaForCausalLM(SMALL.to_hf(bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


# --- filters ---


@given(st.integers(0, 10**6), st.floats(0.01, 0.999))
@settings(max_examples=60, deadline=None)
def test_top_p_and_min_p_equal_transformers(seed, p):
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    logits = logits_of(seed)
    assert torch.equal(decoding.keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits))
    assert torch.equal(decoding.keep_min_p(logits, p), MinPLogitsWarper(p)(None, logits))


@given(st.integers(0, 10**6), st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_repetition_penalty_equals_transformers(seed, penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, ids = logits_of(seed), torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(seed))
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(decoding.penalise_repetition(logits, ids, penalty), wanted)


@pytest.mark.parametrize("seed", range(8))
def test_the_chain_equals_the_chain_of_transformers(seed):
    from transformers import LlamaForCausalLM
    from transformers.generation import GenerationConfig

    logits, ids = logits_of(seed, vocabulary=61), torch.randint(0, 61, (3, 9))
    options = {"temperature": 0.3 + seed / 5, "top_k": 3 + 4 * seed, "top_p": 0.6 + seed / 25, "min_p": 0.01 * seed,
               "repetition_penalty": 1.0 + seed / 10}  # fmt: skip
    model = LlamaForCausalLM(SMALL.to_hf())
    chain = model._get_logits_processor(GenerationConfig(do_sample=True, **options), input_ids_seq_length=9)
    assert len(chain) >= 4
    wanted = chain(ids, logits.clone()).softmax(-1)
    assert torch.allclose(decoding.next_probabilities(logits, ids, **options), wanted, atol=1e-6)


def test_filters_at_their_ends():
    logits = logits_of(0)
    assert torch.equal(decoding.keep_top_p(logits, 1.0), logits) and torch.equal(decoding.keep_min_p(logits, 0.0), logits)
    likeliest = logits.argmax(-1, keepdim=True)
    for kept in (decoding.keep_top_p(logits, 1e-9), decoding.keep_min_p(logits, 1.0)):
        assert torch.equal(kept.isfinite().nonzero()[:, 1:], likeliest)
    for bad in (lambda: decoding.keep_top_p(logits, 0.0), lambda: decoding.keep_top_p(logits, 1.1),
                lambda: decoding.keep_min_p(logits, -0.1), lambda: decoding.penalise_repetition(logits, likeliest, 0.0),
                lambda: decoding.next_probabilities(logits, likeliest, top_k=0),
                lambda: decoding.next_probabilities(logits, likeliest, temperature=-1.0)):  # fmt: skip
        with pytest.raises(WorkshopError):
            bad()


# --- reading ---


def language_models():
    return [
        Transformer(SMALL, 0),
        Mamba(MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2), 0),
        Mamba2(Mamba2Config(vocab_size=61, hidden_size=32, num_heads=2, head_dim=32, num_hidden_layers=2), 0),
        RNN(RNNConfig(vocab_size=61, hidden_size=32), 0),
        Rwkv(RwkvConfig(vocab_size=61, hidden_size=64, intermediate_size=96, num_hidden_layers=2), 0),
        twins(0)[1],
    ]


@pytest.mark.parametrize("model", language_models(), ids=lambda model: type(model).__name__)
def test_growing_and_shuffled_rows_read_as_the_whole_text_does(model):
    model = model.eval()
    reader = decoding.Reader(model, [1, 5, 9])
    r = torch.Generator().manual_seed(0)
    reader.logits()
    for parents in ([0, 0, 0, 0], [0, 1, 2, 3], [3, 1, 1, 0], [2, 2], [1, 0, 0]):
        reader.append(torch.randint(0, 61, (len(parents),), generator=r), torch.tensor(parents))
        got = reader.logits()
        assert reader.logits() is got
        whole = model(reader.text)
        assert torch.allclose(got, getattr(whole, "logits", whole)[:, -1], atol=1e-4)


# --- sampling ---


@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_transformers(seed):
    ours, theirs = twins(seed)
    prompt = [1, 7, 3 + seed]
    wanted = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=30, do_sample=False)
    for model in (ours, theirs):
        (got,) = decoding.sample(model, prompt, 30, temperature=0, stop=2)
        assert list(got.tokens) == [t for t in wanted[0, 3:].tolist() if t != 2]
        assert got.ended == (2 in wanted[0, 3:])


def test_samples_agree_with_the_generator_of_week_5_and_know_their_probability():
    model, _ = twins(1)
    (one,) = decoding.sample(model, [1, 4], 60, seed=3, temperature=0.8, top_k=50)  # longer than the context of 48
    assert list(one.tokens) == generate(model, [1, 4], 60, temperature=0.8, top_k=50, seed=3)
    (short,) = decoding.sample(model, [1, 4], 20, seed=3, temperature=0.5, top_p=0.7)
    log_probabilities = model(torch.tensor([[1, 4, *short.tokens]]))[0].log_softmax(-1)
    wanted = sum(log_probabilities[1 + place, token].item() for place, token in enumerate(short.tokens))
    assert short.log_probability == pytest.approx(wanted, abs=1e-3)


def test_samples_follow_the_distribution():
    model = Memoryless(torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5]))
    drawn = [text.tokens[0] for text in decoding.sample(model, [0], 1, n=20_000, seed=5, temperature=0.7, top_p=0.9)]
    wanted = decoding.next_probabilities(model.row[None], torch.tensor([[0]]), temperature=0.7, top_p=0.9)[0]
    for token, share in enumerate(wanted.tolist()):
        assert drawn.count(token) / 20_000 == pytest.approx(share, abs=0.015)


class Memoryless(torch.nn.Module):
    """The same logits after every text."""

    def __init__(self, row: torch.Tensor):
        super().__init__()
        self.row, self.weight, self.config = row, torch.nn.Parameter(torch.zeros(1)), SimpleNamespace()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.row.expand(*ids.shape, -1)


def test_each_sample_ends_for_itself():
    model = Memoryless(torch.tensor([0.0, 0.0, 0.0]))
    texts = decoding.sample(model, [0], 12, n=30, seed=0, stop=2)
    assert len({text.steps for text in texts}) > 3 and any(text.ended for text in texts)
    for text in texts:
        assert 2 not in text.tokens and (text.ended or len(text.tokens) == 12)
        assert text.log_probability == pytest.approx(-text.steps * math.log(3), rel=1e-5)
    assert texts == decoding.sample(model, [0], 12, n=30, seed=0, stop=2) != decoding.sample(model, [0], 12, n=30, seed=1, stop=2)
    with pytest.raises(WorkshopError, match="프롬프트"):
        decoding.sample(model, [], 3)
    with pytest.raises(WorkshopError, match="표본"):
        decoding.sample(model, [0], 3, n=0)


# --- beam search ---


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_beam_search_equals_transformers(beams, length_penalty, seed):
    ours, theirs = twins(seed)
    with torch.no_grad():  # a stop token that is likely enough to be met
        for model in (ours, theirs):
            model.lm_head.weight[2] *= 1.5
    prompt = [1, 9 + seed]
    found = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 2, dtype=torch.long), max_new_tokens=15, do_sample=False,
                            num_beams=beams, num_return_sequences=beams, length_penalty=length_penalty, output_scores=True,
                            return_dict_in_generate=True)  # fmt: skip
    wanted = [[t for t in row if t not in (0, 2)] for row in found.sequences[:, 2:].tolist()]
    for model in (ours, theirs):
        got = decoding.beam_search(model, prompt, 15, beams, length_penalty, stop=2)
        assert [[t for t in text.tokens if t != 0] for text in got] == wanted
        if beams > 1:
            assert [text.score(length_penalty) for text in got] == pytest.approx(found.sequences_scores.tolist(), abs=1e-4)


def test_a_beam_as_wide_as_everything_finds_the_likeliest_text():
    model = Transformer(TransformerConfig(vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                          num_key_value_heads=1, initializer_range=2.0), 0)  # fmt: skip
    best = decoding.beam_search(model, [0], 3, beams=25, length_penalty=0)[0]
    every = torch.cartesian_prod(*[torch.arange(5)] * 3)
    rows = torch.cat((torch.zeros(125, 1, dtype=torch.long), every), dim=1)
    totals = model(rows)[:, :3].log_softmax(-1).gather(2, every[:, :, None]).sum((1, 2))
    assert best.tokens == tuple(every[totals.argmax()].tolist())
    assert best.log_probability == pytest.approx(totals.max().item(), abs=1e-4)
    with pytest.raises(WorkshopError, match="빔"):
        decoding.beam_search(model, [0], 3, beams=0)


# --- diversity ---


def test_self_bleu_equals_sacrebleu():
    from sacrebleu.metrics import BLEU

    texts = ["고양이가 숲에서 공을 찾았다.", "고양이가 숲에서 길을 잃었다.", "토끼는 오늘도 바다를 그리워했다.", "짧은 글"]
    metric = BLEU(tokenize="none", effective_order=False)
    spaced = [" ".join("".join(text.split())) for text in texts]
    each = [metric.corpus_score([text], [[other] for j, other in enumerate(spaced) if j != i]).score / 100 for i, text in enumerate(spaced)]
    assert decoding.self_bleu(texts) == pytest.approx(sum(each) / 4, abs=1e-6)


def test_diversity_at_its_ends():
    assert decoding.self_bleu(["같은 글이다"] * 3) == pytest.approx(1) and decoding.self_bleu(["가나다라마", "바사아자차"]) == 0
    assert decoding.distinct_n(["가나다라"], 2) == 1 and decoding.distinct_n(["가가가가가"], 2) == 0.25
    assert decoding.distinct_n(["가나다", "가나다"], 2) == 0.5 and decoding.distinct_n(["가"], 2) == 0 == decoding.distinct_n([], 1)
    assert decoding.distinct_n(["나는 나는 나는"], 1, by="word") == pytest.approx(1 / 3)
    with pytest.raises(WorkshopError, match="두 개 이상"):
        decoding.self_bleu(["하나"])
