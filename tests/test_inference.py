"""Faster ways to write give what the slow way gives; the draft changes the time and nothing else."""

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workshop_lib import WorkshopError, inference
from workshop_lib.architectures.attention import causal_mask, scaled_dot_product_attention
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate
from workshop_lib.distillation import cut_layers
from workshop_lib.inference import (
    CachedText,
    PrefixCache,
    TableDraft,
    accept,
    batch_curve,
    cached_attention,
    decode_costs,
    expected_speedup,
    percentile,
    prefix_costs,
    relative_costs,
    speculative,
    speculative_curve,
)

SHAPE = TransformerConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
                          num_key_value_heads=2, max_position_embeddings=48)


def loud(config: TransformerConfig, seed: int = 0) -> Transformer:
    """Random weights, large enough that the next token depends on the text."""
    model = Transformer(config, seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return loud(SHAPE)


IDS = np.random.default_rng(0).integers(40, size=48).tolist()


@torch.no_grad()
def test_a_cached_text_reads_any_pieces_and_can_be_cut(model):
    whole = model(torch.tensor([IDS]))[0]
    text = CachedText(model)
    parts = [text.read(IDS[a:b]) for a, b in itertools.pairwise((0, 20, 21, 29, 48))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)
    assert len(text) == 48
    with pytest.raises(WorkshopError, match="문맥 48토큰보다 길다"):
        text.read([1])
    text.cut(30)
    torch.testing.assert_close(text.read(IDS[30:35]), whole[30:35], rtol=1e-4, atol=1e-4)
    text.cut(0)
    assert len(text) == 0
    torch.testing.assert_close(text.read(IDS[:3]), whole[:3], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_known_prefix_is_not_read_again_and_nothing_else_changes(model):
    cache = PrefixCache(model, limit=2)
    prompts = [IDS[:20], IDS[:20] + [3, 4], IDS[:10] + [5], IDS[:20] + [3, 4], [7, 8]]
    reused = []
    for prompt in prompts:
        before = cache.reused
        logits, text = cache.read(prompt)
        reused.append(cache.reused - before)
        torch.testing.assert_close(logits, model(torch.tensor([prompt]))[0, -1], rtol=1e-4, atol=1e-4)
        following = text.read([1, 2])  # going on from it leaves what the cache holds as it was
        torch.testing.assert_close(following, model(torch.tensor([[*prompt, 1, 2]]))[0, -2:], rtol=1e-4, atol=1e-4)
    assert reused == [0, 20, 10, 20, 0]  # the second is gone when the fourth comes
    assert len(cache._texts) == 2 and cache.read(IDS[:20])[1] and cache.reused == 50 + 19  # the last token is always read
    with pytest.raises(WorkshopError, match="비어"):
        cache.read([])


# --- speculative decoding -------------------------------------------------------------------------------------------------


class Path:
    """One way through all random choices: the first ones as told, then always the first possible one. `others`: what it left out."""

    def __init__(self, told=()):
        self.told, self.taken, self.chance, self.others = told, (), 1.0, []

    def choose(self, chances) -> int:
        if len(self.taken) < len(self.told):
            chosen = self.told[len(self.taken)]
        else:
            chosen, *rest = [option for option, chance in enumerate(chances) if chance > 0]
            self.others += [(*self.taken, option) for option in rest]
        self.taken += (chosen,)
        self.chance *= chances[chosen]
        return chosen

    def draw(self, row, generator) -> int:
        return self.choose(row.double().tolist())

    def accept(self, target, draft, token, u):
        ratio = min(1.0, float(target[token]) / float(draft[token]))
        wanted = bool(self.choose([1 - ratio, ratio]))
        kept, rest = accept(target, draft, token, ratio * (0.999 if wanted else 1.001))
        assert kept is wanted or ratio > 0.999
        return wanted, rest


def every_outcome(monkeypatch, run) -> dict[tuple[int, ...], float]:
    """Probability of each result of `run`, by following every random choice that `speculative` can make."""
    outcomes, todo = defaultdict(float), [()]
    while todo:
        path = Path(todo.pop())
        monkeypatch.setattr(inference, "_draw", path.draw)
        monkeypatch.setattr(inference, "accept", path.accept)
        outcomes[tuple(run())] += path.chance
        todo += path.others
    return outcomes


@pytest.mark.parametrize("temperature,top_k,lookahead", [(1.0, None, 2), (0.7, None, 3), (1.3, 2, 1)])
def test_the_distribution_of_texts_is_exactly_that_of_the_model_alone(monkeypatch, temperature, top_k, lookahead):
    shape = replace(SHAPE, vocab_size=3, max_position_embeddings=8)
    model, draft = loud(shape, 1), loud(replace(shape, num_hidden_layers=1, hidden_size=16), 2)
    found = every_outcome(monkeypatch, lambda: speculative(model, draft, [0, 2], 3, lookahead, temperature, top_k).tokens)
    wanted = {}
    for text in itertools.product(range(3), repeat=3):
        chance = 1.0
        for place, token in enumerate(text):
            with torch.no_grad():
                logits = model(torch.tensor([[0, 2, *text[:place]]]))[0, -1:]
            chance *= float(inference.next_token_probabilities(logits, temperature, top_k)[0, token])
        wanted[text] = chance
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    for text, chance in wanted.items():
        assert found.get(text, 0.0) == pytest.approx(chance, abs=1e-5)


def test_greedy_texts_are_the_same_whatever_is_proposed(model):
    plain = generate(model, IDS[:5], 30, temperature=0)
    same, other = cut_layers(model, [0, 1, 2]), loud(SHAPE, 9)
    table = TableDraft(np.array(IDS[:5] + plain), 40)
    for draft, lookahead in ((same, 4), (other, 3), (table, 5), (cut_layers(model, [0]), 1)):
        found = speculative(model, draft, IDS[:5], 30, lookahead, temperature=0)
        assert found.tokens == plain
        assert found.kept + found.replaced <= lookahead * found.rounds and found.replaced <= found.rounds
        if draft is same:
            assert found.acceptance == 1 and found.rounds == 6  # 30 tokens, 5 a round
    stop = plain[10]
    assert speculative(model, other, IDS[:5], 30, 4, temperature=0, stop=stop).tokens == plain[: plain.index(stop)]


def test_sampled_texts_follow_the_model_by_a_chi_square_test():
    model, draft = loud(replace(SHAPE, vocab_size=6)), loud(replace(SHAPE, vocab_size=6, num_hidden_layers=1), 4)
    runs = [speculative(model, draft, [1, 5], 3, 2, seed=seed) for seed in range(400)]
    assert 0.1 < sum(run.kept for run in runs) / sum(run.kept + run.replaced for run in runs) < 0.9
    counts = Counter(tuple(run.tokens) for run in runs)
    expected = {}
    texts = list(itertools.product(range(6), repeat=3))
    with torch.no_grad():
        scores = model(torch.tensor([[1, 5, *text] for text in texts])).log_softmax(-1)
    for text, row in zip(texts, scores):
        expected[text] = len(runs) * math.exp(sum(float(row[1 + place, token]) for place, token in enumerate(text)))
    common = [text for text in texts if expected[text] >= 5]
    rest = len(runs) - sum(expected[text] for text in common), len(runs) - sum(counts[text] for text in common)
    pairs = [(expected[text], counts[text]) for text in common] + ([rest] if rest[0] > 1 else [])
    statistic, freedom = sum((seen - hoped) ** 2 / hoped for hoped, seen in pairs), len(pairs) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_the_same_seed_gives_the_same_text_and_the_wrong_sizes_are_refused(model):
    draft = cut_layers(model, [0])
    first, second = (speculative(model, draft, IDS[:4], 20, 4, seed=3) for _ in range(2))
    assert first == second and len(first.tokens) == 20
    assert speculative(model, draft, IDS[:4], 0).tokens == []
    for wrong in ({"lookahead": 0}, {"ids": []}):
        with pytest.raises(WorkshopError, match="미리 볼"):
            speculative(**{"model": model, "draft": draft, "ids": IDS[:4], "max_new_tokens": 4} | wrong)
    with pytest.raises(WorkshopError, match="보다 길다"):
        speculative(model, draft, IDS, 10)
    with pytest.raises(WorkshopError, match="어휘"):
        speculative(model, loud(replace(SHAPE, vocab_size=41)), IDS[:4], 4)


def test_a_table_proposes_what_followed_most_often():
    table = TableDraft(np.array([1, 2, 3, 1, 2, 3, 1, 2, 4, 9, 2, 4, 9, 2, 4]), 10, order=2)
    tokens, rows = table.propose([0, 1, 2], 3, None, None)
    assert tokens == [3, 1, 2]
    assert [int(row.argmax()) for row in rows] == tokens and all(float(row.sum()) == 1 for row in rows)
    assert table.propose([0, 7, 2], 1, None, None)[0] == [4]  # after 2 alone
    assert table.propose([7], 4, None, None) == ([], [])


def test_expected_speedup_of_a_free_a_perfect_and_a_useless_draft():
    assert expected_speedup(0.5, 1, 0.0) == pytest.approx(1.5)
    assert expected_speedup(1.0, 4, 0.25) == pytest.approx(5 / 2)
    assert expected_speedup(0.0, 4, 0.25) == pytest.approx(1 / 2)


# --- measuring ------------------------------------------------------------------------------------------------------------


def test_costs_are_rows_of_positive_numbers(model):
    rows = decode_costs(model, (8, 96), repeats=1)  # longer than the context: only the cost is asked for
    assert [row["length"] for row in rows] == [8, 96]
    assert rows[1]["cache_bytes"] == 12 * rows[0]["cache_bytes"] == 96 * 3 * 2 * 2 * 8 * 4
    assert all(row[key] > 0 for row in rows for key in ("cached_ms", "recomputed_ms"))
    rows = batch_curve(model, (1, 4), prompt=4, tokens=3)
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(row["tokens_per_s"] == pytest.approx(1000 * row["batch"] / row["step_ms"]) for row in rows)
    found = prefix_costs(model, IDS[:30], [[1, 2], [3], [4, 5, 6]])
    assert found["reused"] == pytest.approx(90 / 96) and found["cold_ms"] > 0 and found["warm_ms"] > 0
    found = relative_costs(model, cut_layers(model, [0]), 3, past=8, repeats=1)
    assert found["draft_cost"] > 0 and found["check_cost"] > 0
    rows = speculative_curve(model, cut_layers(model, [0, 1, 2]), [IDS[:4], IDS[4:9]], 10, (1, 4))
    assert [row["lookahead"] for row in rows] == [1, 4]
    assert all(row["acceptance"] == 1 and row["speedup"] > 0 for row in rows)
    assert [row["tokens_per_round"] for row in rows] == [2, 5]


def test_cached_attention_in_any_pieces_is_attention_over_the_whole():
    q, k, v = torch.randn(3, 2, 4, 11, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    whole = scaled_dot_product_attention(q, k, v, causal_mask(11))
    for pieces in ([11], [1] * 11, [4, 1, 6], [1, 9, 1]):
        cache, parts = None, []
        for a, b, c in zip(*(x.split(pieces, dim=2) for x in (q, k, v))):
            y, cache = cached_attention(a, b, c, cache)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, dim=2), whole)
        assert torch.equal(cache[0], k) and torch.equal(cache[1], v)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0.01, 1))
def test_percentile_is_a_value_that_occurred_and_agrees_with_numpy(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values)
    if abs(share * len(values) - round(share * len(values))) > 1e-6:
        assert found == np.quantile(values, share, method="inverted_cdf")


def test_percentile_of_whole_ranks_and_of_nonsense():
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile(range(1, 101), 0.07) == 7
    assert percentile([3.0], 0.01) == 3.0
    for values, share in (([], 0.5), ([1.0], 0), ([1.0], 95)):
        with pytest.raises(WorkshopError):
            percentile(values, share)


def test_accepted_and_replaced_tokens_together_are_drawn_from_the_target():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        target, draft = (torch.rand(2, 6, generator=generator, dtype=torch.float64) ** 4 + 1e-12).unbind(0)
        target[0], draft[1] = 0, 0
        target, draft = target / target.sum(), draft / draft.sum()
        drawn = torch.zeros(6, dtype=torch.float64)
        for token in range(6):
            chance = min(1.0, float(target[token] / draft[token])) if draft[token] > 0 else 1.0  # of being kept: u is uniform
            if draft[token] > 0 and chance > 0:
                assert accept(target, draft, token, chance * 0.999)[0]
                assert not accept(target, draft, token, chance * 1.001)[0] or chance == 1
            rest = accept(target, draft, token, 0.5)[1]
            torch.testing.assert_close(rest.sum(), torch.ones((), dtype=torch.float64))
            drawn[token] += draft[token] * chance
            drawn += draft[token] * (1 - chance) * rest
        torch.testing.assert_close(drawn, target)


def test_models_that_agree_never_replace():
    same = torch.tensor([0.5, 0.25, 0.25])
    kept, rest = accept(same, same, 1, 0.999)
    assert kept is True and torch.equal(rest, same)
